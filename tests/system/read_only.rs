//! A PostgreSQL that answers and takes no writes, as a standby that is yet to be promoted.

use milecastle_testkit::postgres::Cluster as Postgres;
use milecastle_testkit::{Echo, eventually};
use milecastle_tests::{Cluster, Replica};
use serde_json::json;

const REFUSED: &str =
    "it refuses writes: cannot execute INSERT in a read-only transaction; does database.dsn lead to a standby";

/// Makes every session from now on read only, or lets all that begin from now on write again. Those that are open stay as they are.
fn read_only(postgres: &Postgres, is: bool) {
    let change = if is { "SET default_transaction_read_only = on" } else { "RESET default_transaction_read_only" };
    postgres.query(&format!("BEGIN READ WRITE; ALTER DATABASE postgres {change}; COMMIT")).unwrap();
}

async fn says_so(replica: &Replica) {
    eventually("it says that it is not ready", async || {
        let ready = replica.get("/readyz").await;
        ready.status == 503 && ready.text().contains(REFUSED)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_database_refuses_writes_is_not_ready_and_says_why() {
    let (postgres, echo) = (Postgres::start().unwrap(), Echo::start());
    let cluster = Cluster::on(&postgres);
    let mut replicas = vec![cluster.control("one"), cluster.control("two")];
    for replica in &mut replicas {
        // Whatever it says of the database is what this is about.
        for expected in ["database", "nodes run"] {
            replica.process.announce(expected);
        }
        replica.ready().await;
    }
    cluster.token(&replicas[0]);
    let gateway = cluster.gateway("g1", &[replicas[0].dp_manager]);
    gateway.ready().await;
    let route = json!({ "uri": "/*", "upstream": { "nodes": { echo.address().to_string(): 1 } } });
    replicas[0].put("/routes/1?wait=20s", &route).await;

    read_only(&postgres, true);
    postgres
        .query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'milecastle'")
        .unwrap();
    for replica in &replicas {
        says_so(replica).await;
    }
    // One that starts meanwhile has no need to write either.
    let mut third = cluster.control("three");
    third.process.announce("database");
    third.process.announce("nodes run");
    replicas.push(third);
    for replica in &mut replicas {
        says_so(replica).await;
        // Each would know of its own nodes alone, and of no member that lives.
        for list in ["/api/members", "/api/nodes", "/api/gateway_groups/default/nodes"] {
            let answer = replica.get(list).await;
            assert!(
                answer.status == 503 && answer.text().contains(REFUSED),
                "{list}: {} {}",
                answer.status,
                answer.text()
            );
        }
        eventually("it reads", async || replica.get("/apisix/admin/routes/1").await.status == 200).await;
        let refused = replica.call("PUT", "/apisix/admin/routes/2", Some(&route)).await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(replica.process.is_running());
    }
    gateway.answers("/hello", 200).await;

    read_only(&postgres, false);
    for replica in &replicas {
        replica.ready().await;
        replica.put("/routes/2?wait=20s", &route).await;
        eventually("all members live", async || {
            let members = replica.get("/api/members").await.json().unwrap();
            members["list"]
                .as_array()
                .is_some_and(|list| list.len() == 3 && list.iter().all(|member| member["state"] == "alive"))
        })
        .await;
    }
    let all = move || (gateway.stop(), replicas.into_iter().for_each(Replica::stop));
    tokio::task::spawn_blocking(all).await.unwrap();
}
