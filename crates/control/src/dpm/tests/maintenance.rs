//! Nodes hear of their maintenance, and a replica in maintenance has none.

use milecastle_store::{DEFAULT_GROUP, Maintenance};
use milecastle_testkit::eventually;
use milecastle_testkit::node::Held;
use milecastle_wire::pb;
use pb::node_message::Message;
use tonic::Code;

use super::{Got, Replica, on_both, put};

on_both!(nodes_hear_of_their_maintenance, a_replica_in_maintenance_sends_its_nodes_away);

fn because(reason: &str) -> Maintenance {
    Maintenance { reason: reason.to_owned(), by: "ann".to_owned(), since: 1 }
}

fn told(reason: &str) -> Got {
    Got::Maintenance(Some(reason.to_owned()))
}

async fn nodes_hear_of_their_maintenance(replica: Replica) {
    let member = replica.member("n1").await;
    let mut stream = replica.settled(&member).await;
    let mut other = replica.settled(&replica.member("n2").await).await;
    assert!(replica.by().node_maintain(DEFAULT_GROUP, "n1", Some(&because("a new disk"))).await.unwrap());
    assert_eq!(stream.step().await, told("a new disk"));
    let confirmed = async |on: bool| {
        eventually("the node's word is known", async || {
            replica.manager.nodes().get(DEFAULT_GROUP, "n1").await.unwrap().unwrap().troubles.maintained == on
        })
        .await;
    };
    assert!(!replica.manager.nodes().get(DEFAULT_GROUP, "n1").await.unwrap().unwrap().troubles.maintained);
    for on in [true, false] {
        stream.say(Message::Maintenance(pb::Maintenance { on, reason: String::new() })).await;
        confirmed(on).await;
    }
    // That of the group comes on top, and is heard of where it changes something.
    replica.by().group_maintain(DEFAULT_GROUP, Some(&because("a new rack"))).await.unwrap();
    assert_eq!(other.step().await, told("a new rack"));
    replica.by().node_maintain(DEFAULT_GROUP, "n1", None).await.unwrap();
    assert_eq!(stream.step().await, told("a new rack"));
    // A new stream begins with it, and so does one of a node that joins.
    for id in ["n1", "n3"] {
        let mut stream = replica.member(id).await.open(replica.address(), Held::default()).await.unwrap();
        assert_eq!(stream.next().await.unwrap(), Some(Got::Beat));
        assert_eq!(stream.next().await.unwrap(), Some(told("a new rack")));
    }
    replica.by().group_maintain(DEFAULT_GROUP, None).await.unwrap();
    assert_eq!(other.step().await, Got::Maintenance(None));
    // No revision knows of it.
    let revision = replica.publish(vec![put("a", "1")]).await;
    assert_eq!((revision, other.reach(revision).await), (1, vec![Got::Delta { from: 0, to: 1, changes: 1 }]));
}

async fn a_replica_in_maintenance_sends_its_nodes_away(replica: Replica) {
    let other = replica.another().await;
    let member = replica.member("n1").await;
    let mut stream = replica.settled(&member).await;
    replica.by().member_maintain("replica-1", Some(&because("a new kernel"))).await.unwrap();
    while stream.next().await.unwrap().expect("a goodbye comes first") != Got::Goaway {}
    assert_eq!(stream.next().await.unwrap(), None);
    let refused = member.open(replica.address(), Held::default()).await.err().unwrap();
    assert!(refused.code() == Code::Unavailable && refused.message().contains("maintenance"), "{refused}");
    let token = replica.token().await;
    let refused = replica.join(&token, "n2").await.err().unwrap();
    assert!(refused.code() == Code::Unavailable && refused.message().contains("maintenance"), "{refused}");
    // The other one takes them.
    other.settled(&member).await;
    replica.by().member_maintain("replica-1", None).await.unwrap();
    eventually("it takes nodes again", async || member.open(replica.address(), Held::default()).await.is_ok()).await;
}

#[tokio::test]
async fn a_replica_that_is_too_old_for_the_schema_sends_its_nodes_away() {
    let replica = Replica::postgres().await;
    let member = replica.member("n1").await;
    let token = replica.token().await;
    let mut stream = replica.settled(&member).await;
    let database = replica.home.database.as_ref().unwrap();
    database.query("UPDATE schema_rule SET oldest = 999, release = '7.0.0'").unwrap();
    while stream.next().await.unwrap().expect("a goodbye comes first") != Got::Goaway {}
    assert_eq!(stream.next().await.unwrap(), None);
    for refused in [
        member.open(replica.address(), Held::default()).await.err().unwrap(),
        replica.join(&token, "n2").await.err().unwrap(),
    ] {
        assert!(refused.code() == Code::Unavailable && refused.message().contains("too old"), "{refused}");
    }
}
