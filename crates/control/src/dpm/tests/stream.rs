//! What comes over a stream, and when.

use milecastle_store::DEFAULT_GROUP;
use milecastle_testkit::eventually;
use milecastle_testkit::node::Held;
use milecastle_wire::pb;
use pb::node_message::Message;
use pb::refused::Fault;

use super::{Got, Replica, delete, on_both, put};
use crate::dpm::session::UNANSWERED;

on_both!(
    an_empty_node_gets_a_snapshot_and_then_deltas,
    many_publishes_become_one_delta,
    a_node_comes_back_and_gets_what_it_lacks,
    other_digests_are_healed,
    refusals_are_healed_with_a_pause,
    another_lineage_is_an_alarm,
    settings_that_a_node_does_not_know_wait_for_an_operator,
    a_broken_snapshot_goes_on,
    a_large_delta_travels_in_chunks,
);

async fn an_empty_node_gets_a_snapshot_and_then_deltas(replica: Replica) {
    let member = replica.member("n1").await;
    // An empty configuration is one.
    let mut stream = member.open(replica.address(), Held::default()).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), Some(Got::Beat));
    assert_eq!(stream.step().await, Got::Snapshot(0));
    assert_eq!(stream.held.have().map(|have| have.revision), Some(0));

    let revision = replica.publish(vec![put("a", "1"), put("b", "1")]).await;
    assert_eq!(stream.step().await, Got::Delta { from: 0, to: revision, changes: 2 });
    let revision = replica.publish(vec![put("a", "2"), delete("b")]).await;
    assert_eq!(stream.step().await, Got::Delta { from: 1, to: revision, changes: 2 });
    assert_eq!(stream.held.objects.len(), 1);
    // The body as it was written, to the byte.
    let stored = replica.store.load(DEFAULT_GROUP).await.unwrap().objects;
    assert_eq!(stream.held.objects.values().next().unwrap().as_slice(), &*stored[0].body);
    stream.only_beats(2).await;
    let beat = stream.beat.clone().unwrap();
    assert_eq!((beat.head, &*beat.digest), (revision, &stream.held.digest().to_bytes()[..]));
    assert_eq!(Some(&beat.lineage), stream.held.lineage.as_ref());

    // A second one, of another node, has everything in its snapshot.
    let other = replica.settled(&replica.member("n2").await).await;
    assert_eq!(other.held, stream.held);
}

async fn many_publishes_become_one_delta(replica: Replica) {
    let member = replica.member("n1").await;
    let mut stream = replica.settled(&member).await;
    stream.answers = false;
    // Without an answer only so many steps come …
    for n in 0..UNANSWERED {
        let revision = replica.publish(vec![put("a", &n.to_string())]).await;
        assert!(matches!(stream.step().await, Got::Delta { to, changes: 1, .. } if to == revision));
    }
    let mut last = 0;
    for n in 0..20 {
        last = replica.publish(vec![put("a", &format!("later {n}")), put(&format!("b{n}"), "")]).await;
    }
    while stream.beat.as_ref().is_none_or(|beat| beat.head < last) {
        stream.only_beats(1).await;
    }
    // … and after one, all the rest comes at once.
    let from = stream.held.revision;
    stream.answers = true;
    stream.say(Message::Applied(stream.applied_message())).await;
    assert_eq!(stream.step().await, Got::Delta { from, to: last, changes: 21 });
    assert_eq!(stream.held.objects.len(), 21);
    stream.only_beats(2).await;
}

async fn a_node_comes_back_and_gets_what_it_lacks(replica: Replica) {
    replica.publish(vec![put("a", "1"), put("b", "1")]).await;
    let member = replica.member("n1").await;
    let held = replica.settled(&member).await.held;
    // Nothing happened meanwhile.
    let mut stream = member.open(replica.address(), held.clone()).await.unwrap();
    stream.only_beats(3).await;
    drop(stream);
    let mut other = replica.settled(&replica.member("n2").await).await;
    replica.publish(vec![put("a", "2")]).await;
    let last = replica.publish(vec![delete("b"), put("c", "3")]).await;
    // The replica has heard of it.
    other.reach(last).await;
    let mut stream = member.open(replica.address(), held.clone()).await.unwrap();
    let expected = Got::Delta { from: held.revision, to: last, changes: 3 };
    assert_eq!(stream.reach(last).await, [expected]);

    // A replica that just started asks the database.
    let fresh = replica.another().await;
    let mut stream = member.open(fresh.address(), held.clone()).await.unwrap();
    assert_eq!(stream.reach(last).await, [Got::Delta { from: held.revision, to: last, changes: 3 }]);

    // What the database has forgotten comes as a snapshot.
    replica.forget_history().await;
    let fresh = replica.another().await;
    let mut stream = member.open(fresh.address(), held).await.unwrap();
    assert_eq!(stream.reach(last).await, [Got::Snapshot(last)]);
    assert!((fresh.metric("dp_snapshots_sent_total{group=\"default\",why=\"too_old\"}") - 1.0).abs() < f64::EPSILON);
}

async fn other_digests_are_healed(replica: Replica) {
    let revision = replica.publish(vec![put("a", "1"), put("b", "1")]).await;
    let member = replica.member("n1").await;
    let held = replica.settled(&member).await.held;
    // In Hello.
    let mut damaged = held.clone();
    damaged.objects.pop_last();
    let mut stream = member.open(replica.address(), damaged.clone()).await.unwrap();
    assert_eq!(stream.step().await, Got::Snapshot(revision));
    assert_eq!(stream.held, held);
    // In Applied, after a step.
    stream.answers = false;
    let next = replica.publish(vec![put("a", "2")]).await;
    stream.reach(next).await;
    let good = stream.held.clone();
    stream.say(Message::Applied(pb::Applied { digest: damaged.digest().into(), ..stream.applied_message() })).await;
    stream.answers = true;
    assert_eq!(stream.step().await, Got::Snapshot(next));
    assert_eq!(stream.held, good);
    // In a report, some time later.
    let have = Some(pb::Have { digest: damaged.digest().into(), ..good.have().unwrap() });
    stream.say(Message::Report(pb::Report { have, ..pb::Report::default() })).await;
    assert_eq!(stream.step().await, Got::Snapshot(next));
    assert!((replica.metric("dp_refusals_total{group=\"default\",fault=\"digest\"}") - 2.0).abs() < f64::EPSILON);
    // A right one changes nothing.
    stream.say(Message::Report(pb::Report { have: good.have(), ..pb::Report::default() })).await;
    stream.only_beats(3).await;
}

async fn refusals_are_healed_with_a_pause(replica: Replica) {
    let revision = replica.publish(vec![put("a", "1")]).await;
    let mut stream = replica.settled(&replica.member("n1").await).await;
    stream.answers = false;
    for fault in [Fault::Gap, Fault::Digest] {
        stream.say(Message::Refused(stream.refused_message(fault))).await;
        assert_eq!(stream.step().await, Got::Snapshot(revision));
    }
    // While it waits to be healed again, it hears that it is not forgotten.
    stream.say(Message::Refused(stream.refused_message(Fault::Malformed))).await;
    stream.only_beats(3).await;
    let nodes = replica.manager.nodes().list(DEFAULT_GROUP).await.unwrap();
    assert_eq!(nodes[0].troubles.refused.as_ref().unwrap().fault, "malformed");
    stream.answers = true;
    assert_eq!(stream.step().await, Got::Snapshot(revision));
    eventually("its word is taken", async || {
        replica.manager.nodes().list(DEFAULT_GROUP).await.unwrap()[0].troubles.refused.is_none()
    })
    .await;
}

async fn another_lineage_is_an_alarm(replica: Replica) {
    let revision = replica.publish(vec![put("a", "1")]).await;
    let member = replica.member("n1").await;
    let lineage = replica.store.head(DEFAULT_GROUP).await.unwrap().lineage;
    let old = Held { lineage: Some("before-the-restore".to_owned()), revision: 77, ..Held::default() };
    let ahead = Held { lineage: Some(lineage.clone()), revision: 99, ..Held::default() };
    for (held, fault) in [(ahead, Fault::Backwards), (old.clone(), Fault::Lineage)] {
        let mut stream = member.open(replica.address(), held.clone()).await.unwrap();
        stream.only_beats(3).await;
        assert_eq!(stream.beat.as_ref().map(|beat| (beat.lineage.as_str(), beat.head)), Some((&*lineage, revision)));
        let refused = pb::Refused { lineage: lineage.clone(), revision, ..stream.refused_message(fault) };
        stream.say(Message::Refused(refused)).await;
        let expected = if fault == Fault::Lineage { "lineage" } else { "backwards" };
        eventually("the alarm is known", async || {
            let nodes = replica.manager.nodes().list(DEFAULT_GROUP).await.unwrap();
            nodes[0].troubles.refused.as_ref().is_some_and(|refused| refused.fault == expected)
        })
        .await;
        stream.only_beats(3).await;
        assert_eq!(stream.held, held);
    }
    // An operator says that the old one is over.
    let mut stream = member.open(replica.address(), old).await.unwrap();
    stream.only_beats(2).await;
    replica.by().group_supersede(DEFAULT_GROUP, &["before-the-restore".to_owned()], false).await.unwrap();
    assert_eq!(stream.step().await, Got::Snapshot(revision));
    assert_eq!(stream.beat.as_ref().unwrap().supersedes, ["before-the-restore"]);
    // The present lineage gets a successor: whoever is ahead in it hears that it is over before it gets the snapshot.
    let ahead = Held { lineage: Some(lineage.clone()), revision: 99, ..Held::default() };
    let mut stream = member.open(replica.address(), ahead).await.unwrap();
    stream.only_beats(2).await;
    let successor = replica.by().group_supersede(DEFAULT_GROUP, &[], true).await.unwrap();
    assert_eq!(stream.step().await, Got::Snapshot(revision));
    let beat = stream.beat.as_ref().unwrap();
    assert_eq!((&beat.lineage, beat.supersedes.contains(&lineage)), (&successor.lineage, true));
}

async fn settings_that_a_node_does_not_know_wait_for_an_operator(replica: Replica) {
    let first = replica.publish(vec![put("a", "1")]).await;
    let mut stream = replica.settled(&replica.member("n1").await).await;
    let held = stream.held.clone();
    stream.answers = false;
    let settings = replica.publish(vec![put("a", "2")]).await;
    assert_eq!(stream.step().await, Got::Delta { from: first, to: settings, changes: 1 });
    // What came is not taken: the node stays where it was.
    stream.go_back(held);
    let refused = pb::Refused { revision: settings, ..stream.refused_message(Fault::Settings) };
    stream.say(Message::Refused(refused)).await;
    eventually("the refusal is known", async || {
        let nodes = replica.manager.nodes().list(DEFAULT_GROUP).await.unwrap();
        nodes[0].troubles.refused.as_ref().is_some_and(|refused| refused.fault == "settings")
    })
    .await;
    stream.only_beats(3).await;
    // Another revision may have taken them back, so it is not kept from the node.
    stream.answers = true;
    let next = replica.publish(vec![put("a", "3")]).await;
    assert_eq!(stream.step().await, Got::Delta { from: first, to: next, changes: 1 });
    eventually("its word is taken", async || {
        replica.manager.nodes().list(DEFAULT_GROUP).await.unwrap()[0].troubles.refused.is_none()
    })
    .await;
}

async fn a_broken_snapshot_goes_on(replica: Replica) {
    let revision = replica.publish_bulk(40, 64 << 10).await;
    let member = replica.member("n1").await;
    let mut stream = member.open(replica.address(), Held::default()).await.unwrap();
    assert_eq!(stream.step().await, Got::Chunk(0));
    assert_eq!(stream.step().await, Got::Chunk(1));
    let (reader, part) = stream.reader.take().unwrap();
    drop(stream);
    // Something happens in between, so that the snapshot is no longer the newest.
    let last = replica.publish(vec![put("late", "")]).await;
    let resume = pb::Resume { lineage: part.lineage.clone().unwrap(), revision, next_chunk: reader.next_chunk() };
    let hello = pb::Hello { resume: Some(resume.clone()), ..member.hello() };
    let mut stream = member.open_with(replica.address(), hello.clone(), Held::default()).await.unwrap();
    stream.reader = Some((reader, part));
    assert_eq!(stream.step().await, Got::Chunk(2));
    let rest = stream.reach(last).await;
    assert_eq!(rest, [Got::Snapshot(revision), Got::Delta { from: revision, to: last, changes: 1 }]);
    assert_eq!(stream.held.objects.len(), 41);

    // What cannot go on begins anew.
    for wrong in [pb::Resume { revision: 999, ..resume.clone() }, pb::Resume { next_chunk: 99, ..resume }] {
        let hello = pb::Hello { resume: Some(wrong), ..hello.clone() };
        let mut stream = member.open_with(replica.address(), hello, Held::default()).await.unwrap();
        assert_eq!(stream.step().await, Got::Chunk(0));
    }
}

async fn a_large_delta_travels_in_chunks(replica: Replica) {
    let mut stream = replica.settled(&replica.member("n1").await).await;
    let revision = replica.publish_bulk(40, 64 << 10).await;
    assert_eq!(stream.reach(revision).await, [Got::Delta { from: 0, to: revision, changes: 40 }]);
    assert!(replica.metric("dp_messages_sent_total{group=\"default\",kind=\"delta\"}") > 1.5);
    assert!(replica.metric("dp_bytes_sent_total{group=\"default\"}") > 1e6);
    assert!((replica.metric("dp_deltas_sent_total{group=\"default\"}") - 1.0).abs() < f64::EPSILON);
}
