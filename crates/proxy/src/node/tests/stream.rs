//! The node's side of the stream's rules.

use super::super::Alarm;
use super::manager::{Cluster, Opened};
use super::{LINEAGE, certificate, delta, digest, manager_of, object, pair, put, route};
use milecastle_settings::Time;
use milecastle_testkit::Vault;
use milecastle_testkit::tls::Authority;
use milecastle_wire::{Digest, DigestKey, pack_snapshot, pb};
use pb::control_message::Message as Control;
use pb::node_message::Message;
use pb::refused::Fault;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

fn beat(lineage: &str, head: u64) -> pb::Beat {
    pb::Beat { lineage: lineage.to_owned(), head, ..pb::Beat::default() }
}

fn digest_of(lineage: &str, objects: &[pb::Object]) -> Digest {
    let key = DigestKey::of_lineage(lineage);
    objects.iter().map(|object| key.wire_object(object)).sum()
}

/// The beat of a head that has these objects.
fn beat_of(lineage: &str, head: u64, objects: &[pb::Object]) -> Control {
    Control::Beat(pb::Beat { digest: digest_of(lineage, objects).into(), ..beat(lineage, head) })
}

fn snapshots(lineage: &str, revision: u64, objects: &[pb::Object]) -> Vec<Control> {
    let digest = digest_of(lineage, objects);
    let frames = pack_snapshot(objects.to_vec()).unwrap();
    frames.snapshot(lineage, revision, digest, 0).map(Control::Snapshot).collect()
}

impl Opened {
    /// Says hello, and brings the node a whole configuration.
    pub(super) async fn bring(&mut self, lineage: &str, revision: u64, objects: &[pb::Object]) {
        self.send(beat_of(lineage, revision, objects)).await;
        for message in snapshots(lineage, revision, objects) {
            self.send(message).await;
        }
        assert_eq!(self.applied().await, revision);
    }
}

/// A configuration of four chunks.
fn large() -> Vec<pb::Object> {
    let body = |n| serde_json::json!({ "uri": format!("/{n}"), "desc": "x".repeat(600 << 10) }).to_string();
    (0..4).map(|n| object("route", &n.to_string(), &body(n))).collect()
}

#[tokio::test]
async fn what_is_applied_is_on_the_disk_and_comes_back_without_the_control_plane() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let node = cluster.node(&[&manager.address], |_| ());
    let mut stream = manager.stream().await;
    assert_eq!((stream.hello.have.clone(), stream.hello.resume.clone()), (None, None));
    let (one, two) = (route("1", "/a"), route("2", "/b"));
    stream.bring(LINEAGE, 5, std::slice::from_ref(&one)).await;
    assert_eq!(node.node.status().last_good.revision, Some(5));
    let both = [one, two.clone()];
    stream.send(Control::Delta(delta(5, 6, vec![put(&two)], &both))).await;
    assert_eq!(stream.applied().await, 6);
    assert_eq!(node.node.status().last_good.revision, Some(6));
    drop(manager);
    let home = node.kill();

    // Nobody listens there any more.
    let again = cluster.node_in(home, &["127.0.0.1:1"], |_| ()).await;
    again.until("the last good configuration", |status| status.revision == 6).await;
    assert_eq!(again.revisions(), [6]);
    assert_eq!(again.node.status().digest, digest(&both).to_string());
    let home = again.kill();
    let mut manager = cluster.manager().await;
    let _node = cluster.node_in(home, &[&manager.address], |_| ()).await;
    let have = manager.stream().await.hello.have.unwrap();
    assert_eq!((have.lineage.as_str(), have.revision, &have.digest[..]), (LINEAGE, 6, &digest(&both).to_bytes()[..]));
    // The certificate was kept as well.
    assert_eq!(manager.signed(), (0, 0));
}

#[tokio::test]
async fn nothing_older_than_the_head_of_the_beginning_is_the_first_in_force() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let node = cluster.node(&[&manager.address], |_| ());
    let mut stream = manager.stream().await;
    let (one, two, three) = (route("1", "/a"), route("2", "/b"), route("3", "/c"));
    stream.send(Control::Beat(beat(LINEAGE, 7))).await;
    for message in snapshots(LINEAGE, 5, std::slice::from_ref(&one)) {
        stream.send(message).await;
    }
    let both = [one.clone(), two.clone()];
    stream.send(Control::Delta(delta(5, 6, vec![put(&two)], &both))).await;
    // It goes on while the node gets there.
    stream.send(Control::Beat(beat(LINEAGE, 9))).await;
    let all = [one, two, three.clone()];
    stream.send(Control::Delta(delta(6, 7, vec![put(&three)], &all))).await;
    assert_eq!(stream.applied().await, 7);
    assert_eq!(node.revisions(), [7]);
    assert_eq!(node.node.status().last_good.revision, Some(7));
    let home = node.kill();
    let again = cluster.node_in(home, &["127.0.0.1:1"], |_| ()).await;
    again.until("the last good configuration", |status| status.digest == digest(&all).to_string()).await;
}

#[tokio::test]
async fn a_head_that_was_lost_is_not_waited_for() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let node = cluster.node(&[&manager.address], |_| ());
    let mut stream = manager.stream().await;
    stream.send(Control::Beat(beat(LINEAGE, 7))).await;
    for message in snapshots(LINEAGE, 5, &[route("1", "/a")]) {
        stream.send(message).await;
    }
    // The database lost its last commits.
    stream.send(Control::Beat(beat(LINEAGE, 5))).await;
    assert_eq!(stream.applied().await, 5);
    assert_eq!((node.revisions(), node.node.status().last_good.revision), (vec![5], Some(5)));
}

#[tokio::test]
async fn what_secrets_change_of_the_quarantine_is_told_for_the_same_revision() {
    let (vault, authority) = (Vault::start("t0ken"), Authority::new("a"));
    let [first, second] = [(); 2].map(|()| authority.issue(&["a.test"]));
    vault.set("kv/tls", pair(&first));
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let node = cluster.node(&[&manager.address], |_| ());
    let mut stream = manager.stream().await;
    stream.bring(LINEAGE, 5, &[manager_of(&vault), certificate("tls")]).await;
    let mismatched = serde_json::json!({ "cert": second.cert, "key": first.key });
    for (kept, rejected) in [(mismatched, 1), (pair(&second), 0)] {
        vault.set("kv/tls", kept);
        match stream.answer().await {
            Message::Applied(applied) => assert_eq!((applied.revision, applied.rejected.len()), (5, rejected)),
            other => panic!("not applied: {other:?}"),
        }
        assert_eq!(node.node.status().quarantined, rejected);
    }
}

#[tokio::test]
async fn what_secrets_change_without_a_stream_is_told_once_the_node_is_at_the_head() {
    let (vault, authority) = (Vault::start("t0ken"), Authority::new("a"));
    let [first, second] = [(); 2].map(|()| authority.issue(&["a.test"]));
    vault.set("kv/tls", pair(&first));
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let node = cluster.node(&[&manager.address], |settings| settings.report_interval = Time::millis(100));
    let mut stream = manager.stream().await;
    let before = [manager_of(&vault), certificate("tls")];
    stream.bring(LINEAGE, 5, &before).await;
    drop(stream);
    vault.set("kv/tls", serde_json::json!({ "cert": second.cert, "key": first.key }));
    node.until("it is in quarantine", |status| status.quarantined == 1).await;

    // Neither before a beat nor by one that names a later head.
    let mut stream = loop {
        let mut stream = manager.stream().await;
        // The one before may have been open already when the value changed.
        if stream.report().await.quarantined == 1 {
            break stream;
        }
    };
    let other = route("1", "/a");
    let after = [before[0].clone(), before[1].clone(), other.clone()];
    for named in [None, Some(beat_of(LINEAGE, 6, &after))] {
        if let Some(named) = named {
            stream.send(named).await;
        }
        for _ in 0..2 {
            let message = stream.next().await;
            assert!(matches!(message, Message::Report(_)), "{message:?}");
        }
    }
    stream.send(Control::Delta(delta(5, 6, vec![put(&other)], &after))).await;
    assert_eq!(stream.applied().await, 6);
}

#[tokio::test]
async fn a_snapshot_that_broke_off_goes_on_where_it_stopped() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let node = cluster.node(&[&manager.address], |_| ());
    let (objects, chunks) = (large(), snapshots(LINEAGE, 3, &large()));
    assert_eq!(chunks.len(), 4);
    let resume = |next_chunk| Some(pb::Resume { lineage: LINEAGE.to_owned(), revision: 3, next_chunk });
    // It goes on, breaks off again, is begun anew, and comes to its end over a third stream.
    for (sent, expected) in [(0..2, None), (2..3, resume(2)), (0..1, resume(3)), (1..4, resume(1))] {
        let mut stream = manager.stream().await;
        assert_eq!(stream.hello.resume, expected);
        stream.send(Control::Beat(beat(LINEAGE, 3))).await;
        let last = sent.end == 4;
        for chunk in chunks.get(sent).unwrap() {
            stream.send(chunk.clone()).await;
        }
        if last {
            assert_eq!(stream.applied().await, 3);
            assert_eq!(node.node.status().digest, digest(&objects).to_string());
        }
        stream.fail(Status::unavailable("the test says so")).await;
    }
    // It is whole: there is nothing to go on with.
    assert_eq!(manager.stream().await.hello.resume, None);
}

#[tokio::test]
async fn another_snapshot_drops_what_was_left_of_one() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let _node = cluster.node(&[&manager.address], |_| ());
    let stream = manager.stream().await;
    stream.send(snapshots(LINEAGE, 3, &large()).swap_remove(0)).await;
    stream.fail(Status::unavailable("the test says so")).await;
    let mut stream = manager.stream().await;
    assert_eq!(stream.hello.resume.as_ref().map(|resume| resume.next_chunk), Some(1));
    stream.bring(LINEAGE, 4, &[route("1", "/a")]).await;
    stream.fail(Status::unavailable("the test says so")).await;
    assert_eq!(manager.stream().await.hello.resume, None);
}

#[tokio::test]
async fn who_is_told_when_to_come_again_comes_then() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let mut busy = Status::new(Code::ResourceExhausted, "too many streams at once");
    busy.metadata_mut().insert("retry-after-ms", MetadataValue::from(400));
    manager.refuse(busy);
    let began = std::time::Instant::now();
    let _node = cluster.node(&[&manager.address], |_| ());
    // Nothing but the trailer makes it wait: its own pauses are of 50 ms at most.
    assert!(manager.stream().await.at.duration_since(began) >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_replica_that_drains_is_left_for_another() {
    let cluster = Cluster::new();
    let (mut one, mut two) = (cluster.manager().await, cluster.manager().await);
    let _node = cluster.node(&[&one.address, &two.address], |_| ());
    let (mut first, other) = tokio::select! {
        stream = one.stream() => (stream, &mut two),
        stream = two.stream() => (stream, &mut one),
    };
    first.bring(LINEAGE, 1, &[]).await;
    let told = std::time::Instant::now();
    first.send(Control::Goaway(pb::Goaway { retry_after_ms: 200, reason: "this replica drains".to_owned() })).await;
    let second = other.stream().await;
    assert_eq!(second.hello.have.as_ref().map(|have| have.revision), Some(1));
    assert!(second.at.duration_since(told) >= Duration::from_millis(200));
}

#[tokio::test]
async fn when_one_dies_the_next_is_asked_at_once() {
    let cluster = Cluster::new();
    let (mut one, mut two) = (cluster.manager().await, cluster.manager().await);
    // A pause would be longer than any test.
    let _node = cluster.node(&[&one.address, &two.address], |settings| {
        (settings.reconnect_min, settings.reconnect_max) = (Time::secs(3600), Time::secs(3600));
        settings.quick_limit = Time::secs(3600);
    });
    let (stream, dead, mut other) = tokio::select! {
        stream = one.stream() => (stream, one, two),
        stream = two.stream() => (stream, two, one),
    };
    drop((stream, dead));
    other.stream().await;
}

#[tokio::test]
async fn one_that_does_not_answer_is_passed_over() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    // The system accepts for it; nobody ever says anything.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute_address = mute.local_addr().unwrap().to_string();
    let _node = cluster.node(&[&mute_address, &mute_address, &manager.address], |settings| {
        (settings.reconnect_min, settings.reconnect_max) = (Time::secs(3600), Time::secs(3600));
        settings.join_timeout = Time::millis(300);
        settings.connect_timeout = Time::secs(5);
        settings.quick_limit = Time::millis(300);
    });
    let stream = manager.stream().await;
    // With a certificate and a stream behind it, it waits for `quick_limit` only.
    stream.fail(Status::unavailable("the test says so")).await;
    manager.stream().await;
    drop(mute);
}

#[tokio::test]
async fn silence_ends_a_stream() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let _node = cluster.node(&[&manager.address], |settings| settings.silence = Time::millis(100));
    let mut stream = manager.stream().await;
    stream.send(Control::Beat(beat(LINEAGE, 0))).await;
    stream.ended().await;
    manager.stream().await;
}

#[tokio::test]
async fn reports_come_as_often_as_they_are_asked_for() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let _node = cluster.node(&[&manager.address], |settings| settings.report_interval = Time::secs(3600));
    let mut stream = manager.stream().await;
    stream.report().await;
    stream.send(Control::Beat(pb::Beat { report_every_ms: 1, ..beat(LINEAGE, 0) })).await;
    for _ in 0..3 {
        stream.report().await;
    }
}

/// The node's refusal of what the control plane says that it has.
async fn refusal(stream: &mut Opened) -> Fault {
    match stream.answer().await {
        Message::Refused(refused) => refused.fault(),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn another_lineage_is_followed_only_when_an_operator_has_declared_the_old_one_over() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let node = cluster.node(&[&manager.address], |settings| settings.report_interval = Time::millis(100));
    let mut stream = manager.stream().await;
    stream.bring(LINEAGE, 9, &[route("1", "/a")]).await;
    // The database was replaced: a smaller one, of another lineage.
    stream.send(Control::Beat(beat("other", 2))).await;
    assert_eq!(refusal(&mut stream).await, Fault::Lineage);
    node.until("the alarm", |status| status.alarms.contains_key(&Alarm::Lineage)).await;
    while stream.report().await.alarms.is_empty() {}
    for message in snapshots("other", 2, &[route("2", "/b")]) {
        stream.send(message).await;
    }
    assert_eq!(refusal(&mut stream).await, Fault::Lineage);
    assert_eq!(node.revisions(), [9]);
    // A restart keeps to what it holds, too.
    let home = node.kill();
    drop(stream);
    let node = cluster.node_in(home, &[&manager.address], |_| ()).await;
    let mut stream = manager.stream().await;
    assert_eq!(stream.hello.have.as_ref().map(|have| have.lineage.as_str()), Some(LINEAGE));
    stream.send(Control::Beat(beat("other", 2))).await;
    assert_eq!(refusal(&mut stream).await, Fault::Lineage);
    // The operator has spoken.
    stream.send(Control::Beat(pb::Beat { supersedes: vec![LINEAGE.to_owned()], ..beat("other", 2) })).await;
    node.until("no alarm", |status| status.alarms.is_empty()).await;
    for message in snapshots("other", 2, &[route("2", "/b")]) {
        stream.send(message).await;
    }
    assert_eq!(stream.applied().await, 2);
    assert_eq!((node.revisions(), node.node.status().lineage.as_deref()), (vec![9, 2], Some("other")));
    assert_eq!(node.node.status().last_good.revision, Some(2));
}

#[tokio::test]
async fn a_head_that_went_backwards_sets_no_node_back() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let node = cluster.node(&[&manager.address], |_| ());
    let mut stream = manager.stream().await;
    stream.bring(LINEAGE, 9, &[route("1", "/a")]).await;
    stream.send(Control::Beat(beat(LINEAGE, 7))).await;
    assert_eq!(refusal(&mut stream).await, Fault::Backwards);
    node.until("the alarm", |status| status.alarms.contains_key(&Alarm::Lineage)).await;
    for message in snapshots(LINEAGE, 7, &[]) {
        stream.send(message).await;
    }
    assert_eq!(refusal(&mut stream).await, Fault::Backwards);
    assert_eq!(node.revisions(), [9]);
    // What was lost is there again.
    let (one, two) = (route("1", "/a"), route("2", "/b"));
    let nine = pb::Beat { digest: digest(std::slice::from_ref(&one)).into(), ..beat(LINEAGE, 9) };
    stream.send(Control::Beat(nine)).await;
    node.until("no alarm", |status| status.alarms.is_empty()).await;
    let both = [one, two.clone()];
    stream.send(Control::Delta(delta(9, 10, vec![put(&two)], &both))).await;
    assert_eq!(stream.applied().await, 10);
}

#[tokio::test]
async fn a_history_that_was_set_back_and_went_on_is_another_one() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let node = cluster.node(&[&manager.address], |_| ());
    let mut stream = manager.stream().await;
    let (one, two, three) = (route("1", "/a"), route("2", "/b"), route("3", "/c"));
    stream.bring(LINEAGE, 9, std::slice::from_ref(&one)).await;
    stream.send(Control::Beat(beat(LINEAGE, 7))).await;
    assert_eq!(refusal(&mut stream).await, Fault::Backwards);
    // It has a revision 9 again, and a 12, and a way there from that 9.
    let other = pb::Beat { digest: digest(std::slice::from_ref(&two)).into(), ..beat(LINEAGE, 9) };
    stream.send(Control::Beat(other)).await;
    for message in snapshots(LINEAGE, 12, std::slice::from_ref(&two)) {
        stream.send(message).await;
    }
    assert_eq!(refusal(&mut stream).await, Fault::Backwards);
    stream.send(Control::Delta(delta(9, 10, vec![put(&three)], &[two.clone(), three.clone()]))).await;
    assert_eq!(refusal(&mut stream).await, Fault::Backwards);
    assert!(node.node.status().alarms.contains_key(&Alarm::Lineage));
    // Nor is it forgotten when the node starts anew.
    let home = node.kill();
    drop(stream);
    let node = cluster.node_in(home, &[&manager.address], |_| ()).await;
    let mut stream = manager.stream().await;
    assert_eq!(stream.hello.have.as_ref().map(|have| have.revision), Some(9));
    for message in snapshots(LINEAGE, 12, &[two]) {
        stream.send(message).await;
    }
    assert_eq!(refusal(&mut stream).await, Fault::Backwards);
    assert_eq!(node.revisions(), [9]);
    // The right history is back, and further on than the node.
    stream.send(Control::Beat(beat(LINEAGE, 10))).await;
    assert_eq!(refusal(&mut stream).await, Fault::Backwards);
    let both = [one, three.clone()];
    stream.send(Control::Delta(delta(9, 10, vec![put(&three)], &both))).await;
    assert_eq!(stream.applied().await, 10);
    stream.send(Control::Beat(beat(LINEAGE, 10))).await;
    node.until("no alarm", |status| status.alarms.is_empty()).await;
}

#[tokio::test]
async fn a_history_that_went_past_the_node_unseen_is_another_one() {
    let cluster = Cluster::new();
    let mut manager = cluster.manager().await;
    let node = cluster.node(&[&manager.address], |_| ());
    let mut stream = manager.stream().await;
    let (one, two) = (route("1", "/a"), route("2", "/b"));
    let marked = |message| match message {
        Control::Snapshot(snapshot) => Control::Snapshot(pb::Snapshot { mark: "m8".to_owned(), ..snapshot }),
        other => other,
    };
    stream.send(Control::Beat(beat(LINEAGE, 8))).await;
    for message in snapshots(LINEAGE, 8, std::slice::from_ref(&one)) {
        stream.send(marked(message)).await;
    }
    assert_eq!(stream.applied().await, 8);
    let both = [one.clone(), two.clone()];
    let step = pb::Delta { mark: "m9".to_owned(), ..delta(8, 9, vec![put(&two)], &both) };
    stream.send(Control::Delta(step)).await;
    assert_eq!(stream.applied().await, 9);
    node.until("it is on the disk", |status| status.last_good.revision == Some(9)).await;
    // It says so after a restart, too, and hears that the database has another revision 9.
    let home = node.kill();
    drop(stream);
    let node = cluster.node_in(home, &[&manager.address], |_| ()).await;
    let mut stream = manager.stream().await;
    assert_eq!(stream.hello.have.as_ref().map(|have| have.mark.as_str()), Some("m9"));
    stream.send(Control::Beat(pb::Beat { apart: 9, ..beat(LINEAGE, 12) })).await;
    assert_eq!(refusal(&mut stream).await, Fault::Backwards);
    node.until("the alarm", |status| status.alarms.contains_key(&Alarm::Lineage)).await;
    for message in snapshots(LINEAGE, 12, &[one]) {
        stream.send(message).await;
    }
    assert_eq!(refusal(&mut stream).await, Fault::Backwards);
    assert_eq!(node.revisions(), [9]);
    // The operator has spoken.
    stream.send(Control::Beat(pb::Beat { supersedes: vec![LINEAGE.to_owned()], ..beat("other", 12) })).await;
    for message in snapshots("other", 12, &[two]) {
        stream.send(message).await;
    }
    assert_eq!(stream.applied().await, 12);
    node.until("no alarm", |status| status.alarms.is_empty()).await;
}
