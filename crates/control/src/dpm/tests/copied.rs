//! Two processes with the identity of one node, on real streams. The nodes of `testkit` are the earlier one; all orders of two are
//! tested beside the code.

use milecastle_store::DEFAULT_GROUP;
use milecastle_testkit::eventually;
use milecastle_testkit::node::{Follower, Held, Member, Stream, facts};
use milecastle_wire::pb;
use pb::node_message::Message;
use tonic::{Code, Status};

use super::{Replica, put};

/// A stream of another process that has the same certificate, and started later.
async fn copy(member: &Member, replica: &Replica) -> Result<Stream, Status> {
    let facts = pb::NodeFacts { boot_id: "boot-2".to_owned(), hostname: "host-2".to_owned(), ..facts() };
    member.open_with(replica.address(), pb::Hello { facts: Some(facts), ..member.hello() }, Held::default()).await
}

async fn is_turned_away(member: &Member, replica: &Replica) {
    eventually("the copy is turned away", async || {
        let status = copy(member, replica).await.err();
        status.is_some_and(|status| status.code() == Code::AlreadyExists && status.message().contains("node.pem"))
    })
    .await;
}

/// The replica tells of the earlier one as it should, and that there is another one.
async fn is_known(replica: &Replica) {
    eventually("lists tell of both", async || {
        let node = replica.manager.nodes().get(DEFAULT_GROUP, "n1").await.unwrap().unwrap();
        let alarms = &node.troubles.alarms;
        node.connected && node.boot == "boot-1" && alarms.iter().any(|alarm| alarm.contains("host-2"))
    })
    .await;
}

async fn goes_on(first: &Follower, replica: &Replica) {
    let revision = replica.publish(vec![put("a", "1")]).await;
    eventually("the earlier one goes on", async || first.seen().is_fresh(revision)).await;
}

async fn may_come(member: &Member, replica: &Replica) {
    eventually("the other one may come", async || copy(member, replica).await.is_ok()).await;
}

#[tokio::test]
async fn of_two_at_one_replica_the_earlier_stays() {
    let replica = Replica::sqlite().await;
    let member = replica.member("n1").await;
    let mut later = copy(&member, &replica).await.unwrap();
    let first = Follower::start(member.clone(), vec![replica.address()], 0);
    assert_eq!(later.end().await.unwrap_err().code(), Code::Aborted);
    is_turned_away(&member, &replica).await;
    is_known(&replica).await;
    assert!(replica.metric("dp_streams_turned_away_total{reason=\"copied\"}") >= 1.0);
    goes_on(&first, &replica).await;
    drop(first);
    may_come(&member, &replica).await;
}

#[tokio::test]
async fn of_two_at_two_replicas_the_earlier_stays() {
    let one = Replica::postgres().await;
    let two = one.another().await;
    let member = one.member("n1").await;
    let mut later = copy(&member, &two).await.unwrap();
    let first = Follower::start(member.clone(), vec![one.address()], 0);
    assert_eq!(later.end().await.unwrap_err().code(), Code::Aborted);
    for replica in [&two, &one, &two] {
        is_turned_away(&member, replica).await;
    }
    is_known(&one).await;
    is_known(&two).await;
    goes_on(&first, &one).await;
    drop(first);
    may_come(&member, &two).await;
}

/// As after the host of a node lost its power: its connection stays, and nothing comes.
#[tokio::test]
async fn a_process_that_says_nothing_keeps_nobody_out_for_long() {
    let replica = Replica::sqlite().await;
    let member = replica.member("n1").await;
    let mut silent = replica.settled(&member).await;
    let mut restarted = copy(&member, &replica).await.unwrap();
    assert_eq!(silent.end().await.unwrap_err().code(), Code::Aborted);
    restarted.reach(0).await;
}

#[tokio::test]
async fn a_node_that_was_restarted_comes_to_another_replica_at_once() {
    let one = Replica::postgres().await;
    let two = one.another().await;
    let member = one.member("n1").await;
    let lost = one.settled(&member).await;
    let boot =
        async || one.store.node_get(DEFAULT_GROUP, "n1").await.unwrap().unwrap().report.map(|report| report.boot);
    eventually("the store knows the process that was", async || boot().await.as_deref() == Some("boot-1")).await;
    let mut restarted = copy(&member, &two).await.unwrap();
    // The replica that had the stream finds out that it ended.
    drop(lost);
    eventually("the store knows the one that is", async || {
        restarted.say(Message::Report(pb::Report::default())).await;
        boot().await.as_deref() == Some("boot-2")
    })
    .await;
    let revision = two.publish(vec![put("a", "1")]).await;
    restarted.reach(revision).await;
    let alarms = async || two.manager.nodes().get(DEFAULT_GROUP, "n1").await.unwrap().unwrap().troubles.alarms;
    assert_eq!(alarms().await, Vec::<String>::new());
}
