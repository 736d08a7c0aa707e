//! Connections between a replica and PostgreSQL that break off in the middle of whatever is said: a statement that comes half, an
//! answer that nobody reads, a commit of which the replica never hears.

use super::record::commits;
use super::writer::{Desk, ROUTES, Writer};
use super::{ALONE, either};
use milecastle_testkit::history::{History, Outcome};
use milecastle_testkit::postgres::Cluster as Postgres;
use milecastle_testkit::{Call, Cutter, Echo, wait_for};
use milecastle_tests::{Cluster, full};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// Between two writes of a writer.
const PACE: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_cut_in_the_middle_is_done_or_not_done() {
    let _alone = ALONE.lock().await;
    let (postgres, echo, start) = (Postgres::start().unwrap(), Echo::start(), Instant::now());
    let cutter = Cutter::start(postgres.address()).await;
    let dsn = format!("postgres://postgres@{}/postgres", cutter.address());
    let (straight, through) = (Cluster::on(&postgres), Cluster::at(&dsn));
    let (good, mut cut) = (straight.control("straight"), through.control("cut"));
    // Whatever it says of the database is what this is about.
    for expected in ["database", "not be answered", "nodes run"] {
        cut.process.announce(expected);
    }
    good.ready().await;
    cut.ready().await;
    straight.token(&good);
    let mut gateway = straight.gateway("g1", &[good.dp_manager, cut.dp_manager]);
    gateway.process.announce("configuration stream");
    gateway.ready().await;
    let desk = Desk::new(start, echo.address());
    let writer = |at| Writer::new(&desk, "default", &[at], fastrand::u64(..));
    let mut marker = writer(good.http);
    marker.fill().await;

    // From the first words of a connection to some transactions.
    cutter.cut_after(100..60_000);
    // Those that are open have no end yet.
    cutter.cut_all();
    let bystander = writer(good.http).run(PACE * 5);
    let writing: Vec<_> = (0..2).map(|_| writer(cut.http).deleting().waiting_for(1).run(PACE)).collect();
    let (goal, least) = (either(Duration::from_secs(8), Duration::from_secs(120)), 20);
    let begun = Instant::now();
    wait_for("connections are cut", goal + LONG, async || {
        (begun.elapsed() >= goal && cutter.cuts() >= least).then_some(())
    })
    .await;
    let cuts = cutter.cuts();
    desk.close();
    let mut writes = bystander.await.unwrap();
    assert!(writes.iter().all(|write| write.outcome == Outcome::Done), "the other replica is not concerned");
    for writing in writing {
        writes.append(&mut writing.await.unwrap());
    }
    let count = |outcome| writes.iter().filter(|write| write.outcome == outcome).count();
    let (done, unknown) = (count(Outcome::Done), count(Outcome::Unknown));
    eprintln!("{cuts} connections cut; {done} writes done, {unknown} without a certain end");
    assert!(unknown > 0, "no write noticed");

    // It is well again by itself, and the node has all of it.
    cutter.mend();
    cutter.cut_all();
    cut.ready().await;
    let mut last = writer(cut.http);
    let version = wait_for("a write is taken again", LONG, async || {
        let (outcome, version) = last.put(ROUTES).await;
        (outcome == Outcome::Done).then_some(version)
    })
    .await;
    wait_for("the node has it", LONG, async || {
        let answer = Call::get(&super::writer::path(ROUTES)).to(gateway.http).await.ok()?;
        (answer.header("x-version").parse() == Ok(version)).then_some(())
    })
    .await;
    writes.extend_from_slice(marker.log());
    writes.extend_from_slice(last.log());
    let history = History { writes, commits: commits(&postgres, "default"), ..History::default() };
    assert_eq!(history.check(), BTreeSet::new());
    tokio::task::spawn_blocking(move || (gateway.stop(), good.stop(), cut.stop())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_whose_connections_are_cut_again_and_again_goes_on() {
    let (postgres, starts) = (Postgres::start().unwrap(), if full() { 40 } else { 6 });
    for start in 0..starts {
        postgres.query("DROP SCHEMA public CASCADE; CREATE SCHEMA public").unwrap();
        let cutter = Cutter::start(postgres.address()).await;
        let mut cluster = Cluster::at(&format!("postgres://postgres@{}/postgres", cutter.address()));
        // None is given, so that one is made.
        cluster.for_control.push(("MILECASTLE_ADMIN_KEY", ""));
        // The longer connections live, the later the step of the start at which they end.
        cutter.cut_after(500..10_000 * (1 + start));
        let mut control = cluster.control("cut");
        for expected in ["database", "not be answered", "nodes run"] {
            control.process.announce(expected);
        }
        let ready = async || Call::get("/readyz").to(control.http).await.is_ok_and(|answer| answer.status == 200);
        wait_for("connections are cut", LONG, async || (cutter.cuts() >= 10 || ready().await).then_some(())).await;
        cutter.mend();
        cutter.cut_all();
        wait_for("it is ready", LONG, async || ready().await.then_some(())).await;
        // What was recorded was shown, and is what opens.
        let log = control.process.log();
        let shown: Vec<_> = (0..log.len()).filter(|line| log[*line].contains("(shown this once")).collect();
        assert_eq!(shown.len(), 2, "{log:#?}");
        let [key, password] = [shown[0], shown[1]].map(|line| log[line + 2].trim().to_owned());
        let routes = Call::get("/apisix/admin/routes").header("X-API-KEY", &key).to(control.http).await.unwrap();
        assert_eq!(routes.status, 200, "{}", routes.text());
        let body = json!({ "name": "admin", "password": password }).to_string();
        let login = Call::post("/api/session", body).header("content-type", "application/json");
        let login = login.to(control.http).await.unwrap();
        assert!(login.header("set-cookie").contains("session"), "{} {}", login.status, login.text());
        tokio::task::spawn_blocking(move || control.stop()).await.unwrap();
    }
}
