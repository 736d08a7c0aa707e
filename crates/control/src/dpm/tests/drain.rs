//! A replica that goes away, in order or not.

use std::time::Duration;

use milecastle_testkit::node::Held;

use super::{Got, Replica, on_both, put};

on_both!(a_replica_that_drains_says_goodbye);

async fn a_replica_that_drains_says_goodbye(replica: Replica) {
    let token = replica.token().await;
    let mut streams = Vec::new();
    for n in 0..5 {
        streams.push(replica.settled(&replica.join(&token, &format!("n{n}")).await.unwrap()).await);
    }
    let address = replica.manager.local_addr();
    let drained = tokio::spawn(replica.manager.shutdown(Duration::from_secs(20)));
    for stream in &mut streams {
        while stream.next().await.unwrap().expect("a goodbye comes first") != Got::Goaway {}
        // And then the stream ends in order.
        assert_eq!(stream.next().await.unwrap(), None);
    }
    drop(streams);
    drained.await.unwrap();
    let gone = tokio::net::TcpStream::connect(address).await;
    assert!(gone.is_err(), "nobody listens any more");
    // What the nodes run was written down.
    let nodes = replica.store.node_list(milecastle_store::DEFAULT_GROUP).await.unwrap();
    assert!(nodes.len() == 5 && nodes.iter().all(|node| node.report.is_some()));
}

#[tokio::test]
async fn who_does_not_leave_is_cut() {
    let replica = Replica::sqlite().await;
    let member = replica.member("n1").await;
    // More than fits the windows of a connection, so that the goodbye cannot get through.
    replica.publish_bulk(300, 64 << 10).await;
    let stream = member.open(replica.address(), Held::default()).await.unwrap();
    replica.manager.shutdown(Duration::from_millis(50)).await;
    // The connection ends, however full.
    tokio::time::timeout(Replica::LONG, stream.outbox.closed()).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_is_dropped_is_gone() {
    let replica = Replica::sqlite().await;
    let mut stream = replica.settled(&replica.member("n1").await).await;
    drop(replica.manager);
    // An end, or an error: in any case no silence.
    while matches!(stream.next().await, Ok(Some(_))) {}
}

#[tokio::test]
async fn a_new_replica_serves_what_the_old_one_left() {
    let replica = Replica::sqlite().await;
    replica.publish(vec![put("a", "1")]).await;
    let member = replica.member("n1").await;
    let held = replica.settled(&member).await.held;
    let next = replica.another().await;
    drop(replica.manager);
    let mut stream = member.open(next.address(), held).await.unwrap();
    stream.only_beats(2).await;
    let revision = next.publish(vec![put("a", "2")]).await;
    assert_eq!(stream.reach(revision).await, [Got::Delta { from: 1, to: revision, changes: 1 }]);
}
