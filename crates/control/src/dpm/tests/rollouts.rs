//! Up to where nodes go while a rollout is on.

use milecastle_store::{Advance, ChangeSet, DEFAULT_GROUP, HeldRollout, NewGroup, Source, Step};
use milecastle_testkit::eventually;
use milecastle_testkit::node::Held;
use milecastle_wire::{TIME_BOUNDS_MS, pb};
use pb::node_message::Message;
use serde_json::json;
use std::collections::BTreeSet;
use tonic::Code;

use super::replica::Home;
use super::{Replica, delete, on_both, put};
use crate::dpm::{Condition, mint_group_token};
use crate::rollout::{Stage, written};

on_both!(
    canaries_go_ahead,
    a_replica_that_starts_meanwhile_knows_both_lines,
    a_canary_that_moves_is_known_where_it_comes_to,
    what_a_node_counts_is_told_with_what_it_had_in_force,
);

/// Has the group's revisions go to canaries first.
async fn stage(replica: &Replica) {
    // By a policy that names nobody, so that the leader leaves it to the test.
    let policy = json!({ "strategy": "canary", "canaries": { "nodes": ["nobody"] } });
    hold(replica).await.set(&policy, true, &json!({})).await.unwrap();
}

async fn hold(replica: &Replica) -> HeldRollout<'_> {
    replica.by().rollout_hold(DEFAULT_GROUP).await.unwrap()
}

async fn step(replica: &Replica, canaries: &[&str], advance: Advance) {
    let held = hold(replica).await;
    let canaries: BTreeSet<String> = canaries.iter().map(|&id| id.to_owned()).collect();
    let stage = (!canaries.is_empty()).then(|| written(Stage { canaries, ..Stage::default() }));
    let record = held.rollout().record.clone();
    assert!(held.step(&Step { name: "test", term: None, stage, record, advance }).await.unwrap());
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

async fn a_canary_that_moves_is_known_where_it_comes_to(one: Replica) {
    let two = one.another().await;
    let token = one.token().await;
    let base = one.publish(vec![put("a", "1")]).await;
    let member = one.join(&token, "canary").await.unwrap();
    let mut here = one.settled(&member).await;
    let mut other = one.join(&token, "other").await.unwrap().open(two.address(), Held::default()).await.unwrap();
    other.reach(base).await;
    stage(&one).await;
    let candidate = one.publish(vec![put("a", "2")]).await;
    eventually("the other replica knows the candidate", async || {
        let known = two.store.heard().heads[DEFAULT_GROUP].clone();
        known.gate.is_some() && known == two.store.head(DEFAULT_GROUP).await.unwrap()
    })
    .await;
    // Who is a canary it may not have heard when the canary comes, which has the candidate.
    step(&one, &["canary"], Advance::Stay).await;
    here.reach(candidate).await;
    let mut there = member.open(two.address(), here.held).await.unwrap();
    there.only_beats(1).await;
    assert_eq!(there.beat.as_ref().map(|beat| beat.head), Some(candidate));
    let node = two.manager.nodes().get(DEFAULT_GROUP, "canary").await.unwrap().unwrap();
    assert_eq!((node.troubles.refused, node.revision), (None, candidate));
}

async fn what_a_node_counts_is_told_with_what_it_had_in_force(replica: Replica) {
    let member = replica.member("n1").await;
    let base = replica.publish(vec![put("a", "1")]).await;
    let mut stream = replica.settled(&member).await;
    stage(&replica).await;
    let candidate = replica.publish(vec![put("a", "2")]).await;
    let told_with = async |revision: u64| {
        let node = replica.store.node_get(DEFAULT_GROUP, "n1").await.unwrap().unwrap();
        node.report.and_then(|report| report.traffic).is_some_and(|told| told["revision"] == revision)
    };
    stream.say(Message::Report(pb::Report { have: stream.held.have(), ..counted(3) })).await;
    eventually("it is told with the base", async || told_with(base).await).await;
    step(&replica, &["n1"], Advance::Stay).await;
    stream.reach(candidate).await;
    // What was counted is the same.
    assert!(told_with(base).await);
    stream.say(Message::Report(pb::Report { have: stream.held.have(), ..counted(3) })).await;
    eventually("it is told with the candidate", async || told_with(candidate).await).await;
}

/// What one group has is no reason to let nodes of another one go on that were revoked.
#[tokio::test]
async fn a_group_that_cannot_be_read_holds_up_no_other() {
    let replica = Replica::postgres().await;
    replica.by().group_create(&NewGroup::named("broken")).await.unwrap();
    let publish = async |n: &str| {
        let set = ChangeSet::new(Source::Api, vec![put("a", n)]);
        replica.by().publish("broken", set).await.unwrap();
    };
    publish("1").await;
    let token = mint_group_token(replica.by(), "broken", "test", None).await.unwrap();
    let member = replica.join(&token, "b1").await.unwrap();
    let mut of_broken = member.open(replica.address(), Held::default()).await.unwrap();
    of_broken.reach(1).await;
    let mut of_other = replica.settled(&replica.member("n1").await).await;
    let policy = json!({ "strategy": "canary", "canaries": { "nodes": ["nobody"] } });
    replica.by().rollout_hold("broken").await.unwrap().set(&policy, true, &json!({})).await.unwrap();
    publish("2").await;
    let database = replica.home.database.as_ref().unwrap();
    database.query("UPDATE rollout SET stage = '{' WHERE group_id = 'broken'").unwrap();
    // Nor those of its own.
    assert!(replica.by().node_revoke("broken", "b1").await.unwrap());
    assert_eq!(of_broken.end().await.unwrap_err().code(), Code::PermissionDenied);
    assert!(replica.by().node_revoke(DEFAULT_GROUP, "n1").await.unwrap());
    assert_eq!(of_other.end().await.unwrap_err().code(), Code::PermissionDenied);
}

/// Statements of so many nodes that tell, this often and each time something else, what they have counted while a rollout is on.
async fn statements(nodes: usize, reports: u64) -> u64 {
    let replica = Replica::with(Home::postgres(), |settings| {
        settings.stream.report_interval = milecastle_settings::Time::millis(250);
    })
    .await;
    let token = replica.token().await;
    replica.publish(vec![put("a", "1")]).await;
    let mut streams = Vec::new();
    for n in 0..nodes {
        let member = replica.join(&token, &format!("n{n:03}")).await.unwrap();
        streams.push(replica.settled(&member).await);
    }
    stage(&replica).await;
    replica.publish(vec![put("a", "2")]).await;
    let done = || replica.store.usage().expect("PostgreSQL counts").done;
    let before = done();
    for requests in 1..=reports {
        for stream in &mut streams {
            stream.say(Message::Report(counted(requests))).await;
            stream.only_beats(1).await;
        }
    }
    done() - before
}

/// What a node tells that has answered so many requests.
fn counted(requests: u64) -> pb::Report {
    let times = vec![requests; TIME_BOUNDS_MS.len() + 1];
    pb::Report { requests, responses: vec![0, requests, 0, 0, 0], request_times: times, ..pb::Report::default() }
}

#[tokio::test]
async fn the_cost_of_what_nodes_count_does_not_grow_with_them() {
    let (few, many, reports) = (2, 32, 30);
    let (few_cost, many_cost) = (statements(few, reports).await, statements(many, reports).await);
    eprintln!("{reports} reports each: {few_cost} statements with {few} nodes, {many_cost} with {many}");
    // One for each node and report would be this many more; a third of that leaves room for the polls of a slow machine.
    let would_be = (many - few) as u64 * reports;
    assert!(many_cost < few_cost + would_be / 3, "{few_cost} with {few} nodes, {many_cost} with {many}");
}
