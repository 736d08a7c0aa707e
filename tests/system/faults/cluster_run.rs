//! A whole cluster under load, while each of its parts goes and comes back: no client notices anything.
//!
//! The clients never send anything twice. HAProxy runs with the sample of `deploy/haproxy`, less what would hide a failure
//! (`balancer`). What ends gracefully needs no second try: the grace of a gateway is longer than HAProxy takes to notice.

use super::fleet::{Fleet, GROUPS};
use super::load::Load;
use super::record::{Watch, history, sightings};
use super::writer::{Desk, Writer};
use super::{ALONE, either};
use milecastle_testkit::{eventually, wait_for};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Requests each second, all clients together.
const RATE: u32 = 500;
/// Answers that are waited for between two disturbances.
const BETWEEN: usize = 500;

/// Waits until so many more requests are answered; fails as soon as one is not.
async fn more(load: &Load, count: usize) {
    let goal = load.answered() + count;
    wait_for("answers", Duration::from_secs(120), async || {
        (load.answered() >= goal || load.failed() > 0).then_some(())
    })
    .await;
}

/// Waits until the load balancer sends to all of these.
async fn receive(load: &Load, ports: &[u16]) {
    let before: Vec<usize> = ports.iter().map(|port| load.answered_by(*port)).collect();
    eventually("the nodes that came back get requests", async || {
        ports.iter().zip(&before).all(|(port, before)| load.answered_by(*port) > *before)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_client_notices_what_happens_to_a_cluster() {
    let _alone = ALONE.lock().await;
    let start = Instant::now();
    let mut fleet = Fleet::start().await;
    let desk = Desk::new(start, fleet.echo.address());
    let mut writers = Vec::new();
    for (n, (group, count)) in GROUPS.into_iter().enumerate() {
        let entrance = [fleet.entrance("dashboard")];
        let mut writer = Writer::new(&desk, group, &entrance, n as u64);
        writer.fill().await;
        writers.push(writer.waiting_for(count));
    }
    for (group, _) in GROUPS {
        fleet.settled(group).await;
    }
    let entrances = fleet.balancers.iter().map(|balancer| balancer.frontend("http")).collect();
    let (loaded, load) = (Instant::now(), Load::start(start, entrances, RATE, 1));
    let watches: Vec<Watch> = GROUPS.iter().map(|(group, _)| Watch::start(start, &fleet, group)).collect();
    let writing: Vec<_> = writers.into_iter().map(|writer| writer.run(Duration::from_millis(200))).collect();
    more(&load, BETWEEN).await;

    let told = |what: &str| {
        eprintln!(
            "{:6.1} s, {:6} answered, {} failed: {what}",
            start.elapsed().as_secs_f64(),
            load.answered(),
            load.failed()
        )
    };
    for n in 0..fleet.dashboards.len() {
        told("a dashboard is killed");
        fleet.dashboards[n].kill();
        more(&load, BETWEEN).await;
        fleet.dashboards[n].start();
        fleet.dashboards[n].ready().await;
    }
    for n in 0..fleet.dp_managers.len() {
        told("a DP manager is killed");
        fleet.dp_managers[n].kill();
        more(&load, BETWEEN).await;
        fleet.dp_managers[n].start();
        fleet.dp_managers[n].ready().await;
    }
    told("PostgreSQL is restarted, as by pg_ctl restart -m immediate");
    fleet.postgres.stop().unwrap();
    fleet.postgres.resume().unwrap();
    fleet.all_ready().await;
    more(&load, BETWEEN).await;

    told("the control plane is killed as a whole");
    let gone = Instant::now();
    for part in fleet.dashboards.iter_mut().chain(&mut fleet.dp_managers) {
        part.kill();
    }
    told("without it, a gateway is restarted, and starts from its last good configuration");
    fleet.nodes[0].part.stop().await;
    fleet.nodes[0].part.start();
    fleet.nodes[0].part.ready().await;
    receive(&load, &[fleet.nodes[0].part.address.port()]).await;
    let away = either(Duration::from_secs(10), Duration::from_secs(60));
    wait_for("the control plane has been away", away * 2, async || (gone.elapsed() >= away).then_some(())).await;
    told("the control plane comes back");
    for part in fleet.dashboards.iter_mut().chain(&mut fleet.dp_managers) {
        part.start();
    }
    fleet.all_ready().await;

    // In each group one after the other.
    let most = GROUPS.iter().map(|(_, count)| *count).max().unwrap();
    for round in 0..most {
        told("one gateway of each group is told to end, and started again");
        let mut round: Vec<_> = GROUPS
            .iter()
            .filter_map(|(group, _)| fleet.nodes.iter().enumerate().filter(|(_, node)| node.group == *group).nth(round))
            .map(|(n, _)| n)
            .collect();
        round.sort_unstable();
        let mut restarted: Vec<_> = fleet
            .nodes
            .iter_mut()
            .enumerate()
            .filter(|(n, _)| round.contains(n))
            .map(|(_, node)| &mut node.part)
            .collect();
        for part in &mut restarted {
            part.tell_to_end();
        }
        let mut ports = Vec::new();
        for part in restarted {
            part.ended().await;
            part.start();
            part.ready().await;
            ports.push(part.address.port());
        }
        receive(&load, &ports).await;
    }
    told("the end");
    more(&load, BETWEEN).await;
    desk.close();
    let mut writes = Vec::new();
    for writer in writing {
        writes.push(writer.await.unwrap());
    }
    let mut ends = Vec::new();
    for (group, _) in GROUPS {
        let (revision, digest) = fleet.settled(group).await;
        eprintln!("every node of {group} ends on revision {revision}, digest {digest}");
        ends.push((revision, digest));
    }
    let (took, answered) = (loaded.elapsed(), load.answered());
    let rate = answered as f64 / took.as_secs_f64();
    let (mut failed, mut seen) = (Vec::new(), Vec::new());
    for mut of_group in load.end() {
        failed.append(&mut of_group.failed);
        seen.push(of_group.served);
    }
    let served: usize = seen.iter().map(Vec::len).sum();
    let slowest = seen.iter().flatten().map(|served| served.span.ended - served.span.begun).max().unwrap();
    eprintln!(
        "{served} requests answered in {took:.1?}, {rate:.0}/s, the slowest in {slowest:.1?}; {} failed",
        failed.len()
    );
    assert_eq!(failed, Vec::<String>::new());
    for ((((group, count), watch), writes), served) in GROUPS.into_iter().zip(watches).zip(writes).zip(seen) {
        let (done, receipts) = (writes.len(), writes.iter().filter(|write| write.applied_by_all).count());
        assert!(receipts > 0, "some writes were acknowledged by all nodes before they were answered");
        let mut all = watch.end().await;
        let served = sightings(&fleet, served);
        let nodes: BTreeSet<_> = served.iter().map(|sighting| sighting.node.clone()).collect();
        assert_eq!(nodes.len(), count, "all nodes of the group were sent requests");
        all.extend(served);
        let (sightings, history) = (all.len(), history(&fleet, group, writes, all));
        let (revision, digest) = ends.remove(0);
        let last = history.commits.last().unwrap();
        assert_eq!((last.revision, &last.digest), (revision, &digest));
        assert_eq!(history.check(), BTreeSet::new());
        eprintln!(
            "{group}: {done} writes, {receipts} with a receipt of all nodes, {revision} revisions, {sightings} sightings of its nodes: nothing went back"
        );
    }
}
