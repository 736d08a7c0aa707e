//! Replicas that run on while their database loses its last commits, as by failover to a standby that did not have them yet;
//! and groups that are another one all of a sudden.

use milecastle_store::{DEFAULT_GROUP, NewGroup};
use milecastle_testkit::eventually;
use milecastle_testkit::node::Held;
use milecastle_wire::pb;
use pb::node_message::Message;

use super::{Replica, put};
use crate::dpm::{Condition, mint_group_token};

/// Does something behind the store's back, in one transaction.
fn sql(replica: &Replica, statements: &str) {
    replica.home.database.as_ref().unwrap().query(statements).unwrap();
}

#[tokio::test]
async fn lost_commits_begin_another_lineage() {
    let replica = Replica::postgres().await;
    let other = replica.another().await;
    replica.publish(vec![put("kept", "")]).await;
    let lineage = replica.store.head(DEFAULT_GROUP).await.unwrap().lineage;
    for id in ["lost-1", "lost-2"] {
        replica.publish(vec![put(id, "")]).await;
    }
    let mut stream = replica.settled(&replica.member("n1").await).await;
    let held = stream.held.clone();
    eventually("both know the last revision", async || other.shown() == ["kept", "lost-1", "lost-2"]).await;

    // The database is as it was at revision 1, and has gone past what was lost before any replica looked.
    sql(
        &replica,
        "DELETE FROM change_set WHERE revision > 1; DELETE FROM resource WHERE created > 1; UPDATE gateway_group SET head = 1",
    );
    let mut last = 1;
    for id in ["new-1", "new-2", "new-3"] {
        // Whoever writes reads it at once.
        last = other.publish(vec![put(id, "")]).await;
        assert!(other.shown().contains(&id.to_owned()), "{id}");
    }
    assert_eq!(last, 4);
    for replica in [&replica, &other] {
        eventually("each shows what the database holds", async || {
            replica.shown() == ["kept", "new-1", "new-2", "new-3"]
        })
        .await;
    }
    let head = replica.store.head(DEFAULT_GROUP).await.unwrap();
    assert!(head.lineage != lineage, "the numbers of the lost revisions count in another history");
    // The node keeps what it has; nobody takes that for revision 3 of the new history.
    eventually("the node is told", async || {
        stream.only_beats(1).await;
        stream.beat.as_ref().is_some_and(|beat| beat.lineage == head.lineage)
    })
    .await;
    assert_eq!(stream.held, held);
    assert_eq!(replica.manager.nodes().applied(DEFAULT_GROUP, last).await.applied, 0);
    // It is one lineage for both replicas, and stays it.
    assert_eq!(other.publish(vec![put("new-4", "")]).await, 5);
    assert_eq!(other.store.head(DEFAULT_GROUP).await.unwrap().lineage, head.lineage);
    replica.by().group_supersede(DEFAULT_GROUP, &[lineage], false).await.unwrap();
    stream.reach(5).await;
    assert_eq!(stream.held.objects.len(), 5);
}

#[tokio::test]
async fn a_group_made_anew_has_none_of_the_old_nodes() {
    let replica = Replica::postgres().await;
    replica.by().group_create(&NewGroup::named("other")).await.unwrap();
    let token = mint_group_token(replica.by(), "other", "test", None).await.unwrap();
    let member = replica.join(&token, "n1").await.unwrap();
    let mut stream = None;
    eventually("the replica knows the new group", async || {
        stream = member.open(replica.address(), Held::default()).await.ok();
        stream.is_some()
    })
    .await;
    let mut stream = stream.unwrap();
    stream.reach(0).await;
    // Between two looks of the replica.
    let epoch = replica.store.head("other").await.unwrap().epoch;
    let anew = format!(
        "DELETE FROM gateway_group WHERE id = 'other'; INSERT INTO gateway_group \
         (id, name, labels, lineage, head, floor, epoch, created_at) \
         VALUES ('other', 'other', '{{}}', 'another', 0, 0, {epoch}, 0)"
    );
    sql(&replica, &anew);
    assert_eq!(stream.end().await.unwrap_err().code(), tonic::Code::PermissionDenied);
}

/// Nothing runs that remembers what was lost, and the node finds numbers that it knows.
#[tokio::test]
async fn a_database_that_was_restored_and_went_past_a_node_is_found_out_by_its_marks() {
    let replica = Replica::postgres().await;
    replica.publish(vec![put("kept", "")]).await;
    for id in ["lost-1", "lost-2"] {
        replica.publish(vec![put(id, "")]).await;
    }
    let lineage = replica.store.head(DEFAULT_GROUP).await.unwrap().lineage;
    let member = replica.member("n1").await;
    let held = replica.settled(&member).await.held;
    assert!(held.revision == 3 && !held.mark.is_empty());
    sql(
        &replica,
        "DELETE FROM change_set WHERE revision > 1; DELETE FROM resource WHERE created > 1; UPDATE gateway_group SET head = 1",
    );
    let home = replica.home.clone();
    drop(replica);
    let replica = Replica::with(home.clone(), |_| {}).await;
    for id in ["new-1", "new-2", "new-3"] {
        replica.publish(vec![put(id, "")]).await;
    }
    // One that remembers the revision of that number, and one that has to ask the database for it.
    let fresh = Replica::with(home, |_| {}).await;
    for replica in [&replica, &fresh] {
        let mut stream = member.open(replica.address(), held.clone()).await.unwrap();
        stream.only_beats(2).await;
        assert_eq!(stream.beat.as_ref().map(|beat| (beat.apart, beat.head)), Some((3, 4)));
        assert_eq!(replica.manager.nodes().applied(DEFAULT_GROUP, 3).await.applied, 0);
        let node = replica.manager.nodes().get(DEFAULT_GROUP, "n1").await.unwrap().unwrap();
        assert_eq!(node.condition, Condition::Rejected);
    }
    // A node from before there were marks is served as it was then.
    let unmarked = Held { mark: String::new(), ..held.clone() };
    member.open(fresh.address(), unmarked).await.unwrap().only_beats(1).await;

    let mut stream = member.open(fresh.address(), held).await.unwrap();
    stream.say(Message::Refused(stream.refused_message(pb::refused::Fault::Backwards))).await;
    stream.only_beats(2).await;
    // An operator confirms.
    fresh.by().group_supersede(DEFAULT_GROUP, &[lineage], true).await.unwrap();
    stream.reach(4).await;
    assert_eq!(stream.held.objects.len(), 4);
    let next = fresh.publish(vec![put("next", "")]).await;
    stream.reach(next).await;
}
