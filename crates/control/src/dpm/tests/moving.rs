//! Several replicas on one database, and what they cost it.

use std::net::SocketAddr;
use std::sync::Arc;

use milecastle_settings::Members;
use milecastle_store::{DEFAULT_GROUP, NodeReport};
use milecastle_testkit::eventually;
use milecastle_wire::{Digest, pb};
use serde_json::json;

use super::super::head::Position;
use super::replica::Home;
use super::{Got, Replica, on_both, put};
use crate::dpm::{Condition, Nodes};

on_both!(a_node_moves_from_replica_to_replica, what_is_told_of_a_node_never_goes_back);

async fn a_node_moves_from_replica_to_replica(one: Replica) {
    let two = one.another().await;
    one.publish(vec![put("a", "1")]).await;
    let member = one.member("n1").await;
    let mut held = one.settled(&member).await.held;
    for round in 0..6 {
        let (here, there) = if round % 2 == 0 { (&two, &one) } else { (&one, &two) };
        // Published by the other: this one may not have heard of it yet when the node comes.
        let revision = there.publish(vec![put("a", &round.to_string()), put(&format!("r{round}"), "")]).await;
        let from = held.revision;
        let mut stream = member.open(here.address(), held).await.unwrap();
        assert_eq!(stream.reach(revision).await, [Got::Delta { from, to: revision, changes: 2 }]);
        // While it is here, too.
        let last = there.publish(vec![put("b", &round.to_string())]).await;
        assert_eq!(stream.reach(last).await, [Got::Delta { from: revision, to: last, changes: 1 }]);
        held = stream.held;
    }
    assert_eq!(held.objects.len(), 8);
    // A node that knows more than the replica that it comes to is not told that it is ahead.
    let revision = one.publish(vec![put("c", "")]).await;
    let mut stream = member.open(one.address(), held).await.unwrap();
    stream.reach(revision).await;
    let mut stream = member.open(two.address(), stream.held).await.unwrap();
    stream.only_beats(1).await;
    assert_eq!(stream.beat.map(|beat| beat.head), Some(revision));
    eventually("each knows what its nodes run", async || {
        two.manager.nodes().list(DEFAULT_GROUP).await.unwrap()[0].revision == revision
    })
    .await;
}

/// Nobody writes here what this replica knows, as while the database is slow.
async fn what_is_told_of_a_node_never_goes_back(replica: Replica) {
    let (store, group): (_, Arc<str>) = (&replica.store, DEFAULT_GROUP.into());
    replica.member("n1").await;
    let nodes = Nodes::new(store.clone(), "m9", &Members::default());
    let (lineage, boot): (Arc<str>, _) = (store.head(DEFAULT_GROUP).await.unwrap().lineage.into(), "run-1");
    let at = |revision: u64| Position { lineage: lineage.clone(), revision, digest: Digest::default() };
    let report = |revision: u64, reported_at: u64, member: &str| NodeReport {
        host: "h".to_owned(),
        version: "1".to_owned(),
        boot: boot.to_owned(),
        reported_at,
        lineage: lineage.to_string(),
        revision,
        digest: vec![0; 32],
        rejected: json!({}),
        traffic: None,
        connected: true,
        member: member.to_owned(),
    };
    let tell = async |report| store.node_report(&[(DEFAULT_GROUP.to_owned(), "n1".to_owned(), report)]).await.unwrap();
    let shown = async || {
        let node = nodes.get(DEFAULT_GROUP, "n1").await.unwrap().unwrap();
        (node.revision, node.connected, node.condition)
    };
    let now = store.now();
    tell(report(3, now, "m9")).await;
    let facts = pb::NodeFacts { boot_id: boot.to_owned(), ..pb::NodeFacts::default() };
    let (alive, _end) = nodes.enter(&group, "n1", SocketAddr::from(([192, 0, 2, 1], 1)), facts, Some(at(7)));
    assert_eq!(shown().await, (7, true, Condition::Healthy));
    drop(alive);
    assert_eq!(shown().await, (7, false, Condition::Lost), "the store knows less as yet");
    // At another replica meanwhile, which this one hears of by the store alone.
    tell(report(9, now + 60, "elsewhere")).await;
    assert_eq!(shown().await.0, 9);
    // What another one says late of the same run takes nothing back; another run may begin with less.
    tell(report(8, now + 60, "m9")).await;
    assert_eq!(shown().await.0, 9);
    tell(NodeReport { boot: "run-2".to_owned(), ..report(8, now + 60, "m9") }).await;
    assert_eq!(shown().await.0, 8);
}

/// Transactions of a whole life of a replica that publishes to so many streams.
async fn transactions(streams: usize, publishes: usize) -> u64 {
    let home = Home::postgres();
    let replica = Replica::with(home.clone(), |settings| {
        settings.stream.receipt_interval = milecastle_settings::Time::millis(250);
    })
    .await;
    let token = replica.token().await;
    let mut open = Vec::new();
    for n in 0..streams {
        let member = replica.join(&token, &format!("n{n:03}")).await.unwrap();
        open.push(replica.settled(&member).await);
    }
    for n in 0..publishes {
        let revision = replica.publish(vec![put("a", &n.to_string())]).await;
        for stream in &mut open {
            stream.reach(revision).await;
        }
    }
    let Replica { store, manager, .. } = replica;
    drop(manager);
    // What was counted reaches the statistics when a connection ends.
    store.close().await;
    let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    home.database.as_ref().unwrap().query(sql).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn the_cost_of_a_commit_does_not_grow_with_the_streams() {
    let (few, many, publishes) = (2, 32, 30);
    let few_cost = transactions(few, publishes).await;
    let many_cost = transactions(many, publishes).await;
    // A node that joins and opens a stream costs a handful.
    let arrivals = 8 * (many - few) as u64;
    // One transaction for each stream and commit would be this many more; a third of that leaves room for the polls of a
    // slow machine.
    let would_be = ((many - few) * publishes) as u64;
    assert!(many_cost < few_cost + arrivals + would_be / 3, "{few_cost} with {few} streams, {many_cost} with {many}");
}
