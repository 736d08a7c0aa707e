//! The roles of a cluster, a process each, on a real PostgreSQL.

use milecastle_testkit::postgres::Cluster as Postgres;
use milecastle_testkit::{Call, Echo, SOON, Target, eventually, wait_for};
use milecastle_tests::{ADMIN_KEY, Cluster, Gateway, Replica, free, full};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

fn upstream(echo: &Echo) -> Value {
    json!({ "nodes": { echo.address().to_string(): 1 } })
}

/// The member of a list whose `name` is this.
fn named(list: &Value, member: &str, name: &str) -> Value {
    let found = list["list"].as_array().unwrap().iter().find(|item| item[member] == name);
    found.cloned().unwrap_or_default()
}

async fn states(replica: &Replica) -> Vec<String> {
    let nodes = replica.get("/api/nodes").await.json().unwrap();
    nodes["list"].as_array().unwrap().iter().map(|node| node["state"].as_str().unwrap().to_owned()).collect()
}

async fn streams(replica: &Replica) -> String {
    let page = replica.get("/metrics").await.text();
    page.lines().find_map(|line| line.strip_prefix("dp_streams{group=\"default\"} ")).unwrap_or("0").to_owned()
}

#[tokio::test]
async fn roles_start_in_any_order_and_wait_for_what_they_need() {
    let mut postgres = Postgres::start().unwrap();
    postgres.stop().unwrap();
    let (cluster, echo, address) = (Cluster::on(&postgres), Echo::start(), free());
    // The node first: no DP manager, no token. Then those that need the database, which is away.
    let mut gateway = cluster.gateway("g1", &[address]);
    assert_eq!(gateway.status().await, 503);
    gateway.process.announce("no configuration stream");
    gateway.process.announce("this node gets no updates");
    let mut dp_manager = cluster.dp_manager("m1", address);
    let mut dashboard = cluster.dashboard("d1");
    for replica in [&mut dp_manager, &mut dashboard] {
        replica.process.announce("waiting for the database");
        assert_eq!(replica.get("/healthz").await.status, 200);
        eventually("it says what it waits for", async || {
            let ready = replica.get("/readyz").await;
            ready.status == 503 && ready.text().contains("waiting for the database: no PostgreSQL answers at")
        })
        .await;
        assert!(replica.process.log().iter().any(|line| line.contains("is it running, and is the address right?")));
    }
    assert_eq!(dashboard.get("/apisix/admin/routes").await.status, 503);
    postgres.resume().unwrap();
    dashboard.ready().await;
    dp_manager.ready().await;
    // Still without a token, the node says what to do.
    let hint = |line: &str| line.contains("group_token_file").then_some(());
    gateway.process.wait_for_line("what the node lacks", SOON, hint);
    assert_eq!(gateway.status().await, 503);
    cluster.token(&dashboard);
    gateway.ready().await;
    let answer = dashboard.put("/routes/1?wait=20s", &json!({ "uri": "/*", "upstream": upstream(&echo) })).await;
    assert_eq!((answer.status, answer.header("milecastle-receipt")), (201, "applied 1/1".to_owned()));
    gateway.answers("/hello", 200).await;
    // A replica that is told to stop ends what is in flight, and sends its nodes elsewhere.
    let mut slow = Target::plain(gateway.http).connect().await.unwrap();
    let slow = tokio::spawn(async move { Call::get("/delay/1000").send(&mut slow).await });
    eventually("the slow request is under way", async || echo.received().len() == 2).await;
    tokio::task::spawn_blocking(move || (dashboard.stop(), dp_manager.stop())).await.unwrap();
    assert_eq!(slow.await.unwrap().unwrap().status, 200);
    gateway.answers("/hello", 200).await;
    assert!(gateway.process.log().iter().any(|line| line.contains("the DP manager sends this node away")));
    tokio::task::spawn_blocking(move || gateway.stop()).await.unwrap();
}

#[tokio::test]
async fn a_node_whose_token_is_of_another_cluster_says_what_to_do() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let (control, foreign) = (cluster.control("one"), other.control("other"));
    control.ready().await;
    foreign.ready().await;
    cluster.hand_out(&other.mint(&foreign, "default"));
    let mut gateway = cluster.gateway("g1", &[control.dp_manager]);
    gateway.process.announce("no configuration stream");
    gateway.process.announce("this node gets no updates");
    let alarm =
        |line: &str| (line.contains("ERROR") && line.contains("this node gets no updates")).then(|| line.to_owned());
    let said = gateway.process.wait_for_line("that it is locked out", SOON, alarm);
    for part in ["group token is for", "check the address, and that the token is whole", "milecastle token create"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!said.contains("OtherCa"), "{said}");
    // The right one is read without a restart.
    cluster.token(&control);
    gateway.ready().await;
    tokio::task::spawn_blocking(move || (gateway.stop(), control.stop(), foreign.stop())).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_is_killed_again_and_again_is_listed_once() {
    let cluster = Cluster::new();
    let (mut one, two) = (cluster.control("one"), cluster.control("two"));
    one.ready().await;
    two.ready().await;
    let listed = async |at: &Replica| {
        let members = at.get("/api/members").await.json().unwrap();
        let member =
            |member: &Value| format!("{} {}", member["name"].as_str().unwrap(), member["state"].as_str().unwrap());
        members["list"].as_array().unwrap().iter().map(member).collect::<Vec<_>>()
    };
    one.process.kill();
    eventually("it is missed", async || listed(&two).await == ["one lost", "two alive"]).await;
    let mut one = cluster.control("one");
    one.ready().await;
    eventually("it has its place again", async || listed(&two).await == ["one alive", "two alive"]).await;
    one.process.kill();
    eventually("it is missed, and not twice", async || listed(&two).await == ["one lost", "two alive"]).await;
    tokio::task::spawn_blocking(move || two.stop()).await.unwrap();
}

#[tokio::test]
async fn first_starts_at_once_make_everything_once() {
    for _ in 0..if full() { 10 } else { 1 } {
        let cluster = Cluster::new();
        let replicas: Vec<Replica> = std::thread::scope(|scope| {
            let (cluster, address) = (&cluster, free());
            let starting = [
                scope.spawn(|| cluster.control("one")),
                scope.spawn(|| cluster.control("two")),
                scope.spawn(|| cluster.dashboard("three")),
                scope.spawn(move || cluster.dp_manager("four", address)),
            ];
            starting.into_iter().map(|replica| replica.join().unwrap()).collect()
        });
        for replica in &replicas {
            replica.ready().await;
        }
        let count = |sql: &str| cluster.database.as_ref().unwrap().query(sql).unwrap().trim().to_owned();
        for table in ["data_key", "admin_key", "gateway_group", "secret WHERE name = 'cluster-ca'"] {
            assert_eq!(count(&format!("SELECT count(*) FROM {table}")), "1", "{table}");
        }
        // Each of the migrations once; their numbers may have gaps.
        let migrations =
            std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/postgres")).unwrap().count();
        assert_eq!(count("SELECT count(*) FROM schema_migration"), migrations.to_string());
        let [one, two, three, four] = &replicas[..] else { unreachable!("four were started") };
        for dashboard in [one, two, three] {
            assert_eq!(dashboard.get("/apisix/admin/routes").await.status, 200);
        }
        // A token of the one is good at the others: they have the same authority, and trust the nodes of each other.
        cluster.token(three);
        let gateways = [two, four].map(|manager| {
            let name = format!("at-{}", manager.dp_manager.port());
            cluster.gateway(&name, &[manager.dp_manager])
        });
        for gateway in &gateways {
            gateway.ready().await;
        }
        let members = one.get("/api/members").await.json().unwrap();
        assert_eq!(members["total"], 4);
        assert_eq!(members["list"].as_array().unwrap().iter().filter(|member| member["leads"] == true).count(), 1);
        let all = move || (gateways.map(Gateway::stop), replicas.into_iter().for_each(Replica::stop));
        tokio::task::spawn_blocking(all).await.unwrap();
    }
}

#[tokio::test]
async fn a_revoked_node_or_token_loses_its_stream_on_every_replica() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.control("one"), cluster.control("two"));
    one.ready().await;
    two.ready().await;
    let token = cluster.token(&one);
    let start = |name: &str, at: &Replica| -> Gateway {
        let mut gateway = cluster.gateway(name, &[at.dp_manager]);
        for expected in ["configuration stream lost", "no configuration stream", "this node gets no updates"] {
            gateway.process.announce(expected);
        }
        gateway
    };
    let (here, there) = (start("g1", &one), start("g2", &two));
    here.ready().await;
    there.ready().await;
    eventually("each replica knows both nodes", async || {
        states(&one).await == ["healthy", "healthy"] && states(&two).await == ["healthy", "healthy"]
    })
    .await;
    // Each is connected to its own replica; one revokes, and the other one cuts.
    let nodes = two.get("/api/nodes").await.json().unwrap();
    let member = named(&two.get("/api/members").await.json().unwrap(), "name", "two")["id"].clone();
    let other = nodes["list"].as_array().unwrap().iter().find(|node| node["member"] == member).unwrap().clone();
    let id = other["id"].as_str().unwrap();
    let said = cluster.operator(&one, &["nodes", "revoke", id]);
    assert_eq!((said.code, said.text), (0, format!("node {id} revoked")));
    eventually("the other replica cut its stream", async || streams(&two).await == "0").await;
    assert_eq!(streams(&one).await, "1");
    eventually("it is called revoked", async || {
        named(&one.get("/api/nodes").await.json().unwrap(), "id", id)["state"] == "revoked"
    })
    .await;
    assert_eq!(cluster.operator(&one, &["nodes", "revoke", id]).code, 3);
    // The token's other node, from the other replica.
    let said = cluster.operator(&two, &["token", "revoke", &token]);
    assert_eq!(said.code, 0, "{}", said.text);
    eventually("the stream is cut", async || streams(&one).await == "0").await;
    // Traffic goes on as before.
    here.answers("/", 404).await;
    there.answers("/", 404).await;
    let listed = cluster.operator(&one, &["token", "list", "-o", "json"]).json();
    assert!(named(&listed, "id", &token)["revoked_at"].is_u64(), "{listed}");
    tokio::task::spawn_blocking(move || (here.stop(), there.stop(), one.stop(), two.stop())).await.unwrap();
}

#[tokio::test]
async fn a_lost_replica_is_noticed_and_another_one_leads() {
    let cluster = Cluster::new();
    let mut one = cluster.control("one");
    one.ready().await;
    // The epoch under which a replica leads, once it does; each is greater than the one before.
    let epoch = async |replica: &Replica, name: &str| {
        let leads = async || {
            let members = replica.get("/api/members").await.json().unwrap();
            let id = members["leader"]["member"].as_str().unwrap_or_default().to_owned();
            (named(&members, "id", &id)["name"] == name).then(|| members["leader"]["epoch"].as_u64())?
        };
        wait_for(&format!("{name} leads"), SOON, leads).await
    };
    let first = epoch(&one, "one").await;
    let two = cluster.dashboard("two");
    two.ready().await;
    one.process.kill();
    let second = epoch(&two, "two").await;
    assert!(second > first, "{second} after {first}");
    let members = two.get("/api/members").await.json().unwrap();
    assert_eq!((&named(&members, "name", "one")["state"], &members["total"]), (&json!("lost"), &json!(2)));
    // One that stops in an orderly way is off the list, and its office free, at once.
    let three = cluster.dashboard("three");
    three.ready().await;
    tokio::task::spawn_blocking(move || two.stop()).await.unwrap();
    let members = three.get("/api/members").await.json().unwrap();
    assert_eq!(named(&members, "name", "two"), Value::Null);
    let third = epoch(&three, "three").await;
    assert!(third > second, "{third} after {second}");
    tokio::task::spawn_blocking(move || three.stop()).await.unwrap();
}

#[tokio::test]
async fn a_sealing_key_that_all_can_read_is_told() {
    let cluster = Cluster::new();
    let key = cluster.dir.path().join("sealing-key");
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut control = cluster.control("one");
    let words = "every user of this machine can read the sealing key";
    control.process.announce(words);
    control.process.wait_for_line("who can read it", SOON, |line| line.contains(words).then_some(()));
    control.ready().await;
    tokio::task::spawn_blocking(move || control.stop()).await.unwrap();
}

#[tokio::test]
async fn an_unknown_key_reads_nothing() {
    let cluster = Cluster::new();
    let control = cluster.control("one");
    control.ready().await;
    let none = Call::get("/api/nodes").to(control.http).await.unwrap();
    assert_eq!((none.status, &none.json().unwrap()["code"]), (401, &json!("no_key")));
    let wrong = Call::get("/api/nodes").header("X-API-KEY", "wrong").to(control.http).await.unwrap();
    assert_eq!((wrong.status, &wrong.json().unwrap()["code"]), (401, &json!("wrong_key")));
    assert!(!control.process.log().iter().any(|line| line.contains(ADMIN_KEY)));
    tokio::task::spawn_blocking(move || control.stop()).await.unwrap();
}

/// Two replicas on one database, of which only one sees the rule that a newer release has made: the other one is of that release.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_a_newer_release_has_left_behind_stops_and_its_nodes_move_on() {
    let (cluster, echo, managers) = (Cluster::new(), Echo::start(), [free(), free()]);
    let database = cluster.database.as_ref().unwrap();
    // What is in the schema `seen_by_one` comes first for this one.
    let behind = Cluster::at(&format!("{}?options[search_path]=seen_by_one,public", cluster.dsn()));
    let mut one = behind.control_at("one", managers[0]);
    one.ready().await;
    cluster.token(&one);
    let mut gateway = cluster.gateway("node", &managers);
    gateway.process.announce("no configuration stream");
    gateway.ready().await;
    // Later, so that the node is at the first one.
    let two = cluster.control_at("two", managers[1]);
    two.ready().await;
    one.put("/routes/1?wait=20s", &json!({ "uri": "/a", "upstream": upstream(&echo) })).await;
    assert_eq!(streams(&one).await, "1");
    assert_eq!(Call::get("/a").to(gateway.http).await.unwrap().status, 200);

    one.process.announce("a newer release has changed the schema of the database");
    one.process.announce("what nodes run cannot be written to the database now");
    for statement in [
        "CREATE SCHEMA seen_by_one",
        "CREATE TABLE seen_by_one.schema_rule AS SELECT CAST(999 AS BIGINT) AS oldest, '7.0.0' AS release",
    ] {
        database.query(statement).unwrap();
    }
    eventually("it says so", async || {
        let ready = one.get("/readyz").await;
        ready.status == 503 && ready.text().contains("start Milecastle 7.0.0 or newer in its place")
    })
    .await;
    let said = |line: &str| line.contains("start Milecastle 7.0.0 or newer in its place").then_some(());
    one.process.wait_for_line("that it stops", SOON, said);
    for (method, path) in [("PUT", "/apisix/admin/routes/2"), ("GET", "/apisix/admin/routes/1"), ("GET", "/api/nodes")]
    {
        let answer = one.call(method, path, Some(&json!({ "uri": "/b", "upstream": upstream(&echo) }))).await;
        assert_eq!(
            (answer.status, answer.json().unwrap()["code"].clone()),
            (503, json!("outdated")),
            "{method} {path}"
        );
    }
    assert_eq!(one.get("/healthz").await.status, 200);
    eventually("the node is at the other one", async || streams(&two).await == "1").await;
    two.put("/routes/2?wait=20s", &json!({ "uri": "/b", "upstream": upstream(&echo) })).await;
    for path in ["/a", "/b"] {
        assert_eq!(Call::get(path).to(gateway.http).await.unwrap().status, 200);
    }
    // Of what it knows it has spoken at each beat, and it beats no more: the list of the newer one shows it.
    for statement in
        ["UPDATE schema_rule SET oldest = 9, release = '7.0.0'", "UPDATE member SET knows = 8 WHERE host = 'one'"]
    {
        database.query(statement).unwrap();
    }
    let members = two.get("/api/members").await.json().unwrap();
    let (left, there) = (named(&members, "name", "one"), named(&members, "name", "two"));
    assert_eq!((&left["state"], &left["needs"], &left["leads"]), (&json!("outdated"), &json!("7.0.0"), &json!(false)));
    assert_eq!((&there["state"], &there["needs"]), (&json!("alive"), &json!(null)));
    eventually("the other one leads", async || {
        let members = two.get("/api/members").await.json().unwrap();
        named(&members, "name", "two")["leads"] == true
    })
    .await;
    assert!(cluster.operator(&two, &["members"]).text.contains("outdated"));
    tokio::task::spawn_blocking(move || (gateway.stop(), one.stop(), two.stop())).await.unwrap();
}
