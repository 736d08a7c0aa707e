//! Up to where nodes go while a rollout is on.

use milecastle_store::{Advance, DEFAULT_GROUP, Step};
use milecastle_testkit::eventually;
use milecastle_testkit::node::Held;
use serde_json::json;
use std::collections::BTreeSet;

use super::{Replica, delete, on_both, put};
use crate::dpm::Condition;
use crate::rollout::{Stage, written};

on_both!(canaries_go_ahead, a_replica_that_starts_meanwhile_knows_both_lines);

/// Has the group's revisions go to canaries first.
async fn stage(replica: &Replica) {
    // By a policy that names nobody, so that the leader leaves it to the test.
    let policy = json!({ "strategy": "canary", "canaries": { "nodes": ["nobody"] } });
    assert!(replica.by().rollout_set(DEFAULT_GROUP, 0, &policy, true, &json!({})).await.unwrap());
}

async fn step(replica: &Replica, canaries: &[&str], advance: Advance) {
    eventually("the step is taken", async || {
        let rollout = replica.store.rollout_get(DEFAULT_GROUP).await.unwrap();
        let canaries: BTreeSet<String> = canaries.iter().map(|&id| id.to_owned()).collect();
        let stage = (!canaries.is_empty()).then(|| written(Stage { canaries, ..Stage::default() }));
        let step = Step { name: "test", version: rollout.version, term: None, stage, record: rollout.record, advance };
        replica.by().rollout_step(DEFAULT_GROUP, &step).await.unwrap()
    })
    .await;
}

async fn condition(replica: &Replica, id: &str) -> Condition {
    replica.manager.nodes().get(DEFAULT_GROUP, id).await.unwrap().unwrap().condition
}

async fn canaries_go_ahead(replica: Replica) {
    let token = replica.token().await;
    replica.publish(vec![put("a", "1"), put("b", "1")]).await;
    let mut canary = replica.settled(&replica.join(&token, "canary").await.unwrap()).await;
    let mut other = replica.settled(&replica.join(&token, "other").await.unwrap()).await;
    stage(&replica).await;
    let candidate = replica.publish(vec![put("a", "2"), delete("b"), put("c", "2")]).await;
    let nodes = replica.manager.nodes().clone();
    // Before there are canaries nobody gets it, and nobody is waited for.
    assert_eq!(nodes.wait_applied(DEFAULT_GROUP, candidate, Replica::LONG).await.to_string(), "applied 0/2, held 2");
    step(&replica, &["canary"], Advance::Stay).await;
    canary.reach(candidate).await;
    assert_eq!(nodes.wait_applied(DEFAULT_GROUP, candidate, Replica::LONG).await.to_string(), "applied 1/2, held 1");
    // What is written now nobody gets.
    let queued = replica.publish(vec![put("d", "3")]).await;
    assert_eq!(nodes.wait_applied(DEFAULT_GROUP, queued, Replica::LONG).await.to_string(), "applied 0/2, held 2");
    assert_eq!((canary.held.revision, other.held.revision), (candidate, candidate - 1));
    for id in ["canary", "other"] {
        eventually("each has what it may have", async || condition(&replica, id).await == Condition::Healthy).await;
    }
    // A node that comes now begins with what the others have, and one that comes back goes on there.
    let late = replica.join(&token, "late").await.unwrap();
    let mut late = late.open(replica.address(), Held::default()).await.unwrap();
    late.reach(candidate - 1).await;
    assert_eq!(late.beat.as_ref().unwrap().head, candidate - 1);
    step(&replica, &[], Advance::Candidate).await;
    other.reach(candidate).await;
    late.reach(candidate).await;
    step(&replica, &["canary"], Advance::Stay).await;
    canary.reach(queued).await;
    step(&replica, &[], Advance::Head).await;
    other.reach(queued).await;
    late.reach(queued).await;
    assert_eq!(nodes.wait_applied(DEFAULT_GROUP, queued, Replica::LONG).await.to_string(), "applied 3/3");
}

async fn a_replica_that_starts_meanwhile_knows_both_lines(replica: Replica) {
    let token = replica.token().await;
    // What was before the base can be forgotten.
    replica.publish(vec![put("a", "0")]).await;
    replica.publish(vec![put("a", "1"), put("b", "1")]).await;
    let (mut members, mut here) = (Vec::new(), Vec::new());
    for id in ["canary", "other"] {
        let member = replica.join(&token, id).await.unwrap();
        here.push(replica.settled(&member).await);
        members.push(member);
    }
    eventually("it is known that they were here", async || {
        let nodes = replica.store.node_list(DEFAULT_GROUP).await.unwrap();
        nodes.iter().all(|node| node.report.as_ref().is_some_and(|report| report.revision > 0))
    })
    .await;
    drop(here);
    stage(&replica).await;
    let candidate = replica.publish(vec![put("a", "2"), delete("b"), put("c", "2")]).await;
    step(&replica, &["canary"], Advance::Stay).await;
    let queued = replica.publish(vec![put("a", "3"), put("b", "3")]).await;
    // It has never seen these revisions, and no history leads there.
    replica.forget_history().await;
    let another = replica.another().await;
    let mut streams = Vec::new();
    for (member, revision) in members.iter().zip([candidate, candidate - 1]) {
        let mut stream = member.open(another.address(), Held::default()).await.unwrap();
        stream.reach(revision).await;
        streams.push(stream);
    }
    step(&replica, &[], Advance::Candidate).await;
    streams[1].reach(candidate).await;
    step(&replica, &["other"], Advance::Stay).await;
    streams[1].reach(queued).await;
    assert_eq!(streams[0].held.revision, candidate);
    step(&replica, &[], Advance::Head).await;
    streams[0].reach(queued).await;
}
