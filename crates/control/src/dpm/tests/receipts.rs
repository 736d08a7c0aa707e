//! What is known of the nodes.

use std::time::Duration;

use milecastle_store::{DEFAULT_GROUP, WarningFilter};
use milecastle_testkit::eventually;
use milecastle_testkit::node::Held;
use milecastle_wire::pb;
use pb::node_message::Message;

use super::{Replica, on_both, put};
use crate::dpm::{Condition, HeldCertificate, Nodes, Receipt};

on_both!(
    a_write_waits_for_its_nodes,
    rejections_are_known,
    nodes_of_other_replicas_count,
    nodes_of_a_replica_that_died_are_lost,
);

/// A replica without streams.
fn stranger(replica: &Replica) -> Nodes {
    Nodes::new(replica.store.clone(), "stranger", &milecastle_settings::Members::default())
}

async fn a_write_waits_for_its_nodes(replica: Replica) {
    let nodes = replica.manager.nodes().clone();
    let nobody = Receipt { settled: true, ..Receipt::default() };
    assert_eq!(nodes.wait_applied(DEFAULT_GROUP, 0, Replica::LONG).await, nobody);
    let token = replica.token().await;
    let mut streams = Vec::new();
    for n in 0..3 {
        streams.push(replica.settled(&replica.join(&token, &format!("n{n}")).await.unwrap()).await);
    }
    let revision = replica.publish(vec![put("a", "1")]).await;
    let waiting = tokio::spawn({
        let nodes = nodes.clone();
        async move { nodes.wait_applied(DEFAULT_GROUP, revision, Replica::LONG).await }
    });
    for stream in &mut streams {
        stream.reach(revision).await;
    }
    assert_eq!(waiting.await.unwrap().to_string(), "applied 3/3");
    // One that does not say so is waited for, and no longer than was asked.
    streams[2].answers = false;
    let revision = replica.publish(vec![put("a", "2")]).await;
    for stream in &mut streams {
        stream.reach(revision).await;
    }
    let receipt = nodes.wait_applied(DEFAULT_GROUP, revision, Duration::from_millis(300)).await;
    assert_eq!(receipt, Receipt { applied: 2, total: 3, ..Receipt::default() });
    // One that refuses is not waited for, and one that left does not count.
    let refused = streams[2].refused_message(pb::refused::Fault::Malformed);
    streams[2].say(Message::Refused(refused)).await;
    let receipt = nodes.wait_applied(DEFAULT_GROUP, revision, Replica::LONG).await;
    assert_eq!(receipt.to_string(), "applied 2/3, rejected 1");
    drop(streams.pop());
    eventually("the node has left", async || {
        nodes.applied(DEFAULT_GROUP, revision).await
            == Receipt { applied: 2, total: 2, rejected: 0, held: 0, settled: true }
    })
    .await;
    // When the process stops, whoever waits hears how far they are.
    streams[1].answers = false;
    let revision = replica.publish(vec![put("a", "3")]).await;
    for stream in &mut streams {
        stream.reach(revision).await;
    }
    eventually("one has it", async || nodes.applied(DEFAULT_GROUP, revision).await.applied == 1).await;
    let waiting = nodes.wait_applied(DEFAULT_GROUP, revision, Replica::LONG);
    let (receipt, ()) = tokio::join!(waiting, async { nodes.end_waits() });
    assert_eq!(receipt, Receipt { applied: 1, total: 2, ..Receipt::default() });
}

async fn rejections_are_known(replica: Replica) {
    let member = replica.member("n1").await;
    let mut stream = replica.settled(&member).await;
    stream.answers = false;
    let revision = replica.publish(vec![put("a", "1")]).await;
    stream.reach(revision).await;
    let mut applied = stream.applied_message();
    let rejection = |n: usize| pb::Rejection {
        key: Some(pb::ObjectKey { kind: "route".to_owned(), id: format!("r{n}") }),
        reason: "y".repeat(2000),
        serving_last_good: n == 0,
    };
    applied.set_rejected((0..300).map(rejection).collect(), 1 << 20);
    stream.say(Message::Applied(applied)).await;
    let receipt = replica.manager.nodes().wait_applied(DEFAULT_GROUP, revision, Replica::LONG).await;
    assert_eq!(receipt, Receipt { applied: 1, total: 1, rejected: 1, held: 0, settled: true });
    let ends = |n: i64| pb::CertificateEnd {
        key: (n != 1).then(|| pb::ObjectKey { kind: "ssl".to_owned(), id: format!("{n}\0") }),
        not_after: n,
    };
    stream
        .say(Message::Report(pb::Report {
            certificates: (0..300).map(ends).collect(),
            requests: 7,
            alarms: vec!["disk".to_owned()],
            upstream_targets: 5,
            unhealthy_targets: 2,
            responses: vec![0, 5, 0, 1, 1],
            request_times: vec![7; 16],
            warnings: vec![pb::Warning {
                is_error: true,
                text: "a\0disk".to_owned(),
                times: 3,
                ..pb::Warning::default()
            }],
            ..pb::Report::default()
        }))
        .await;
    eventually("the report is known", async || {
        replica.manager.nodes().list(DEFAULT_GROUP).await.unwrap()[0].figures.is_some()
    })
    .await;
    let node = replica.manager.nodes().list(DEFAULT_GROUP).await.unwrap().remove(0);
    assert_eq!((node.troubles.rejected.len(), node.troubles.rejected_total), (100, 300));
    assert!(node.troubles.rejected[0].serving_last_good && node.troubles.rejected[0].reason.len() < 1000);
    let held = node.troubles.certificates.as_deref().unwrap();
    let second = HeldCertificate { kind: "ssl".to_owned(), id: "2 ".to_owned(), not_after: 2 };
    assert_eq!((held.len(), &held[1]), (32, &second), "one of no object is left out");
    let figures = node.figures.unwrap();
    assert_eq!((node.troubles.alarms.as_slice(), figures.requests), (&["disk".to_owned()][..], 7));
    assert_eq!((figures.upstream_targets, figures.unhealthy_targets), (5, 2));
    let traffic = figures.traffic.unwrap();
    assert_eq!((traffic.responses, traffic.times), ([0, 5, 0, 1, 1], [7; 16]));
    // Other replicas hear of it too.
    eventually("what it counted is written", async || {
        let node = replica.store.node_get(DEFAULT_GROUP, "n1").await.unwrap().unwrap();
        let told = node.report.and_then(|report| report.traffic);
        told.is_some_and(|told| serde_json::from_value::<crate::Traffic>(told).unwrap() == traffic)
    })
    .await;
    eventually("what it logged is written", async || {
        let lines = replica.store.node_warning_list(&WarningFilter::default(), 9).await.unwrap();
        let seen: Vec<_> = lines.iter().map(|line| (&*line.node, line.is_error, &*line.text, line.times)).collect();
        seen == [("n1", true, "a disk", 3)]
    })
    .await;
    assert_eq!((node.host.as_str(), node.boot.as_str(), node.revision), ("host-1", "boot-1", revision));
    assert!(node.connected && node.welcome && node.address.is_some());
    // And so it stands in the database, for others.
    let stranger = stranger(&replica);
    eventually("the report is written", async || {
        let known = stranger.list(DEFAULT_GROUP).await.unwrap().remove(0);
        known.troubles == node.troubles && known.digest == stream.held.digest().to_string()
    })
    .await;
    // Said once more of the same revision: secrets have let them out of quarantine.
    stream.say(Message::Applied(stream.applied_message())).await;
    eventually("none is rejected any more", async || {
        let node = replica.manager.nodes().list(DEFAULT_GROUP).await.unwrap().remove(0);
        (node.revision, node.troubles.rejected_total) == (revision, 0)
    })
    .await;
}

async fn nodes_of_other_replicas_count(one: Replica) {
    let two = one.another().await;
    let token = one.token().await;
    let mut here = one.settled(&one.join(&token, "n1").await.unwrap()).await;
    let mut there = two.settled(&one.join(&token, "n2").await.unwrap()).await;
    let nodes = one.manager.nodes().clone();
    eventually("the other's node is known here", async || nodes.applied(DEFAULT_GROUP, 0).await.total == 2).await;
    let revision = one.publish(vec![put("a", "1")]).await;
    here.reach(revision).await;
    there.reach(revision).await;
    assert_eq!(nodes.wait_applied(DEFAULT_GROUP, revision, Replica::LONG).await.to_string(), "applied 2/2");
    // A dashboard without streams knows the same.
    let dashboard = stranger(&one);
    assert_eq!(dashboard.wait_applied(DEFAULT_GROUP, revision, Replica::LONG).await.to_string(), "applied 2/2");
    eventually("it knows the nodes too", async || {
        let nodes = dashboard.list(DEFAULT_GROUP).await.unwrap();
        nodes.iter().map(|node| node.condition).eq([Condition::Healthy; 2])
            && nodes[0].member == **one.membership.id()
            && nodes[1].member == **two.membership.id()
    })
    .await;
    // A node that comes back with what it has counts at once.
    let held: Held = here.held.clone();
    drop(here);
    eventually("that it left is known there", async || {
        dashboard.get(DEFAULT_GROUP, "n1").await.unwrap().unwrap().condition == Condition::Lost
            && dashboard.applied(DEFAULT_GROUP, revision).await.total == 1
    })
    .await;
    let member = one.join(&token, "n1").await.unwrap();
    let _back = member.open(one.address(), held).await.unwrap();
    assert_eq!(nodes.wait_applied(DEFAULT_GROUP, revision, Replica::LONG).await.to_string(), "applied 2/2");
}

async fn nodes_of_a_replica_that_died_are_lost(replica: Replica) {
    let impatient = milecastle_settings::Members {
        lost_after: milecastle_settings::Time::secs(1),
        ..milecastle_settings::Members::default()
    };
    let elsewhere = Nodes::new(replica.store.clone(), "stranger", &impatient);
    let _stream = replica.settled(&replica.member("n1").await).await;
    let store = replica.store.clone();
    let condition = async || {
        let node = elsewhere.get(DEFAULT_GROUP, "n1").await.unwrap().unwrap();
        assert!(node.heard_at.is_none_or(|at| at <= store.now()));
        node.condition
    };
    eventually("the other replica knows of the node", async || condition().await == Condition::Healthy).await;
    // As after `kill -9`: it says nothing any more, not even that it leaves.
    let Replica { manager, membership, .. } = replica;
    drop((manager, membership));
    eventually("the node is lost with its replica", async || condition().await == Condition::Lost).await;
}
