//! Revisions, outcomes and preconditions.

use bytes::Bytes;
use milecastle_model::{Key, Kind};
use milecastle_store::{
    Body, ChangeSet, Changes, DEFAULT_GROUP, Declaration, Delete, Expect, NewDeclaration, NewGroup, Op, PublishError,
    Put, Reference, Slot, Store, StoreError, Target, UniqueKey,
};
use milecastle_testkit::{SOON, wait_for};

use crate::home::{
    Home, ann, body, delete, office, on_both, publish, put, revision, route, set, short, state, upstream,
};

on_both!(
    revisions_count_change_sets,
    an_equal_body_makes_no_revision,
    a_stale_expected_revision_is_refused_with_the_current_one,
    preconditions_tell_what_is_there,
    a_refused_set_leaves_nothing,
    generated_ids_are_the_revision,
    bodies_are_made_from_what_is_stored,
    large_sets_are_one_revision,
    time_to_live,
    groups_are_apart,
    declarations_follow_each_other,
);

async fn revisions_count_change_sets(home: Home) {
    let store = home.open().await;
    assert_eq!(store.head(DEFAULT_GROUP).await.unwrap().revision, 0);
    let check = async |ops, revision, outcomes: &[&str]| {
        let published = publish(&store, ops).await.unwrap();
        assert_eq!(published.outcomes.iter().map(short).collect::<Vec<_>>(), outcomes);
        assert_eq!((published.revision, published.changed), (revision, true));
        assert_eq!(store.head(DEFAULT_GROUP).await.unwrap().revision, revision);
    };
    check(vec![put(route("1"), "a"), put(upstream("1"), "b")], 1, &["C1/1", "C1/1"]).await;
    check(vec![put(route("2"), "c")], 2, &["C2/2"]).await;
    check(vec![put(route("1"), "d"), delete(upstream("1")), delete(upstream("9"))], 3, &["R1/3", "D", "A"]).await;
    check(vec![put(upstream("1"), "e")], 4, &["C4/4"]).await;
    assert_eq!(
        state(&store).await,
        ["/routes/1={\"desc\":\"d\"}", "/routes/2={\"desc\":\"c\"}", "/upstreams/1={\"desc\":\"e\"}"]
    );
}

async fn an_equal_body_makes_no_revision(home: Home) {
    let store = home.open().await;
    let at = |time: u64, desc: &str| {
        let body = format!(r#"{{"desc":"{desc}","create_time":{time},"update_time":{time}}}"#);
        Op::Put(Put::new(route("1"), body))
    };
    revision(&store, vec![at(100, "a")]).await;
    let again = publish(&store, vec![at(200, "a"), delete(route("9"))]).await.unwrap();
    assert_eq!((again.revision, again.changed), (1, false));
    assert_eq!(again.outcomes.iter().map(short).collect::<Vec<_>>(), ["U1/1", "A"]);
    assert_eq!(state(&store).await, [r#"/routes/1={"desc":"a","create_time":100,"update_time":100}"#]);
    assert!(store.history_get(DEFAULT_GROUP, 2).await.unwrap().is_none());
    // Beside a change, what does not change keeps its indices.
    let mixed = publish(&store, vec![at(300, "a"), put(route("2"), "b")]).await.unwrap();
    assert_eq!(mixed.outcomes.iter().map(short).collect::<Vec<_>>(), ["U1/1", "C2/2"]);
    assert_eq!(store.history_get(DEFAULT_GROUP, 2).await.unwrap().unwrap().changes.len(), 1);
}

async fn a_stale_expected_revision_is_refused_with_the_current_one(home: Home) {
    let store = home.open().await;
    for word in ["a", "b", "c"] {
        revision(&store, vec![put(route("1"), word)]).await;
    }
    for expected in [0, 2, 4, u64::MAX] {
        let set = ChangeSet { expected_revision: Some(expected), ..set(vec![put(route("1"), "x")]) };
        let refused = store.by(ann()).publish(DEFAULT_GROUP, set).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("the group is at revision 3, not {expected}"));
        assert!(matches!(refused, PublishError::StaleRevision { current: 3, .. }));
    }
    let set = ChangeSet { expected_revision: Some(3), ..set(vec![put(route("1"), "x")]) };
    assert_eq!(store.by(ann()).publish(DEFAULT_GROUP, set).await.unwrap().revision, 4);
}

async fn preconditions_tell_what_is_there(home: Home) {
    let store = home.open().await;
    revision(&store, vec![put(route("1"), "a")]).await;
    let refused = async |set| match store.by(ann()).publish(DEFAULT_GROUP, set).await.unwrap_err() {
        PublishError::PreconditionFailed { key, current } => (key.path(), current.map(|object| object.modified)),
        other => panic!("{other}"),
    };
    let write = |id, expect| Op::Put(Put { expect, ..Put::new(route(id), body("x")) });
    let remove = |id, expect| Op::Delete(Delete { key: route(id), expect, force: false });
    let (there, nothing) = (("/routes/1".to_owned(), Some(1)), ("/routes/2".to_owned(), None));
    assert_eq!(refused(set(vec![write("1", Expect::Absent)])).await, there);
    assert_eq!(refused(set(vec![write("1", Expect::ModifiedAt(7))])).await, there);
    assert_eq!(refused(set(vec![write("2", Expect::Present)])).await, nothing);
    assert_eq!(refused(set(vec![remove("2", Expect::Present)])).await, nothing);
    let required = |id, expect| ChangeSet { require: vec![(route(id), expect)], ..set(vec![put(route("3"), "x")]) };
    assert_eq!(refused(required("1", Expect::Absent)).await, there);
    assert_eq!(refused(required("2", Expect::ModifiedAt(1))).await, nothing);
    store.by(ann()).publish(DEFAULT_GROUP, required("1", Expect::ModifiedAt(1))).await.unwrap();
}

async fn a_refused_set_leaves_nothing(home: Home) {
    let store = home.open().await;
    revision(&store, vec![put(route("1"), "a")]).await;
    let before = (store.head(DEFAULT_GROUP).await.unwrap(), state(&store).await);
    let last = Op::Put(Put { expect: Expect::Absent, ..Put::new(route("1"), body("x")) });
    publish(&store, vec![put(route("2"), "b"), delete(route("3")), last]).await.unwrap_err();
    let repeated = publish(&store, vec![put(route("4"), "a"), put(route("4"), "b")]).await.unwrap_err();
    assert!(matches!(repeated, PublishError::RepeatedKey(key) if key == route("4")));
    assert_eq!((store.head(DEFAULT_GROUP).await.unwrap(), state(&store).await), before);
    let nowhere = store.by(ann()).publish("nowhere", set(vec![put(route("1"), "a")])).await.unwrap_err();
    assert!(matches!(nowhere, PublishError::Store(StoreError::UnknownGroup(group)) if group == "nowhere"));
}

async fn generated_ids_are_the_revision(home: Home) {
    let store = home.open().await;
    revision(&store, vec![put(route("1"), "a")]).await;
    let new = |kind| {
        let make = |slot: &Slot<'_>| Bytes::from(format!(r#"{{"id":"{}"}}"#, slot.key.id));
        let target = Target::NextRevision { kind, parent: Some("ignored".into()) };
        Op::Put(Put { target, body: Body::make(make), expect: Expect::Absent, ..Put::new(route(""), "") })
    };
    revision(&store, vec![new(Kind::Route), new(Kind::Upstream)]).await;
    assert_eq!(
        state(&store).await[1..],
        [
            r#"/routes/1={"desc":"a"}"#.to_owned(),
            r#"/upstreams/00000000000000000002={"id":"00000000000000000002"}"#.to_owned(),
        ]
    );
    assert_eq!(state(&store).await[0], r#"/routes/00000000000000000002={"id":"00000000000000000002"}"#);
}

async fn bodies_are_made_from_what_is_stored(home: Home) {
    let store = home.open().await;
    let append = |word: &'static str| {
        let make = move |slot: &Slot<'_>| {
            let stored = slot.stored.map(|object| String::from_utf8_lossy(&object.body).into_owned());
            Bytes::from(format!("{}{word}{}", stored.unwrap_or_default(), slot.revision))
        };
        Op::Put(Put { body: Body::make(make), ..Put::new(route("1"), "") })
    };
    for word in ["a", "b", "c"] {
        revision(&store, vec![append(word)]).await;
    }
    assert_eq!(state(&store).await, ["/routes/1=a1b2c3"]);
}

async fn large_sets_are_one_revision(home: Home) {
    let store = home.open().await;
    let keys: Vec<Key> = (0..1001).map(|n| route(&format!("{n:04}"))).collect();
    revision(&store, keys.iter().map(|key| put(key.clone(), "a")).collect()).await;
    let published = publish(&store, keys.iter().map(|key| put(key.clone(), "b")).collect()).await.unwrap();
    assert_eq!(published.revision, 2);
    assert!(published.outcomes.iter().all(|outcome| short(outcome) == "R1/2"));
    let stored = store.load(DEFAULT_GROUP).await.unwrap().objects;
    assert_eq!(stored.iter().map(|object| object.key.clone()).collect::<Vec<_>>(), keys);
    assert_eq!(store.history_get(DEFAULT_GROUP, 2).await.unwrap().unwrap().info.puts, 1001);
    revision(&store, keys.iter().map(|key| delete(key.clone())).collect()).await;
    assert_eq!(state(&store).await, [""; 0]);
}

async fn time_to_live(home: Home) {
    let store = home.open().await;
    let until = |id, expires_at, word| Op::Put(Put { expires_at, ..Put::new(route(id), body(word)) });
    let ops = [until("never", None, "a"), until("soon", Some(100), "a"), until("later", Some(200), "a")];
    revision(
        &store,
        ops.into_iter().chain([until("kept", Some(100), "a"), until("changed", Some(100), "a")]).collect(),
    )
    .await;
    // Sent again without a time, it stays for good; with the same body that makes no revision.
    let kept = publish(&store, vec![until("kept", None, "a")]).await.unwrap();
    assert!(!kept.changed);
    revision(&store, vec![until("changed", None, "b")]).await;

    let term = office(&store).await;
    assert_eq!(store.expire_due(term, 99).await.unwrap(), []);
    assert_eq!(store.expire_due(term, 100).await.unwrap(), [(DEFAULT_GROUP.to_owned(), 3)]);
    assert_eq!(store.expire_due(term, 100).await.unwrap(), []);
    let ids = async || store.load(DEFAULT_GROUP).await.unwrap().objects.into_iter().map(|o| o.key.id.to_string());
    assert_eq!(ids().await.collect::<Vec<_>>(), ["changed", "kept", "later", "never"]);
    let made = store.history_get(DEFAULT_GROUP, 3).await.unwrap().unwrap();
    assert_eq!((made.info.source.name(), made.info.puts, made.info.deletes), ("expiry", 0, 1));
    store.expire_due(term, u64::MAX).await.unwrap();
    assert_eq!(ids().await.collect::<Vec<_>>(), ["changed", "kept", "never"]);
}

async fn groups_are_apart(home: Home) {
    let store = home.open().await;
    store.by(ann()).group_create(&milecastle_store::NewGroup::named("test")).await.unwrap();
    revision(&store, vec![put(route("1"), "a")]).await;
    revision(&store, vec![put(route("1"), "b")]).await;
    let elsewhere = store.by(ann()).publish("test", set(vec![put(route("1"), "c")])).await.unwrap();
    assert_eq!((elsewhere.revision, short(&elsewhere.outcomes[0])), (1, "C1/1".to_owned()));
    assert_eq!(state(&store).await, [r#"/routes/1={"desc":"b"}"#]);
    assert_ne!(store.head("test").await.unwrap().lineage, store.head(DEFAULT_GROUP).await.unwrap().lineage);
}

/// Rows of our tables that PostgreSQL has read, once its statistics know of `revision`.
async fn rows_read(home: &Home, revision: u64) -> u64 {
    let sql = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), \
               coalesce(sum(n_tup_ins) FILTER (WHERE relname = 'change_set'), 0) FROM pg_stat_user_tables";
    let told = async || {
        let answer = home.database().unwrap().query(sql).unwrap();
        let (read, logged) = answer.trim().split_once('|').unwrap();
        (logged == revision.to_string()).then(|| read.parse().unwrap())
    };
    wait_for("the statistics", SOON, told).await
}

/// Rows that PostgreSQL reads for a change set.
async fn cost(home: &Home, store: &Store, ops: Vec<Op>) -> u64 {
    let head = store.head(DEFAULT_GROUP).await.unwrap().revision;
    let before = rows_read(home, head).await;
    let made = revision(store, ops).await;
    rows_read(home, made).await - before
}

#[tokio::test]
async fn work_does_not_grow_with_the_group() {
    let home = Home::postgres("conformance::publishing");
    let store = home.open().await;
    let few = |word: &str| vec![put(upstream("u"), word), put(route("0"), word), put(route(word), word)];
    cost(&home, &store, few("first")).await;
    let small = cost(&home, &store, few("second")).await;
    revision(&store, (0..20_000).map(|n| put(route(&format!("other-{n}")), "a")).collect()).await;
    let large = cost(&home, &store, few("third")).await;
    assert!(large <= small + 50, "{small} rows were read to publish into a small group, {large} into a large one");

    // Nor does that of reading the last change. A process that is gone has told what it read.
    let head = store.head(DEFAULT_GROUP).await.unwrap().revision;
    let before = rows_read(&home, head).await;
    let separator = if home.dsn.contains('?') { '&' } else { '?' };
    let reader = milecastle_store::open(&format!("{}{separator}application_name=reader", home.dsn), &home.key).await;
    let reader = reader.unwrap();
    let Changes::Delta { changes, .. } = reader.changes_since(DEFAULT_GROUP, head - 1, None).await.unwrap() else {
        panic!("the history reaches back to the revision before");
    };
    assert_eq!(changes.len(), 3);
    reader.close().await;
    let gone = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'reader'";
        (home.database().unwrap().query(sql).unwrap().trim() == "0").then_some(())
    };
    wait_for("the end of the connections", SOON, gone).await;
    let read = rows_read(&home, head).await - before;
    assert!(read < 1_000, "{read} rows were read for three changes after 20,000");
}

/// PostgreSQL has no statistics here, as of a configuration that has just been put.
#[tokio::test]
async fn work_grows_with_the_set_and_no_faster() {
    const EACH: u64 = 4_000;
    let home = Home::postgres("conformance::publishing");
    let store = home.open().await;
    let consumer = |n: u64| Key::new(Kind::Consumer, format!("c{n}"));
    let write = |word: &str| {
        let keyed = |holder: Key, n: u64| {
            let keys = vec![UniqueKey { plugin: "key-auth".to_owned(), value: format!("{n}").into_bytes() }];
            Op::Put(Put { keys, ..Put::new(holder, body(word)) })
        };
        let objects = (0..EACH).flat_map(|n| {
            let to = Reference { to: upstream("u"), plugin: None, must_exist: true, hinders: true };
            let route = Put { references: vec![to], ..Put::new(route(&format!("r{n}")), body(word)) };
            let credential = Key::credential(&format!("c{n}"), "1");
            [Op::Put(route), keyed(consumer(n), n), keyed(credential, n)]
        });
        objects.chain([put(upstream("u"), word)]).collect::<Vec<Op>>()
    };
    let most = 3 * EACH * 20;
    let check = async |what: &str, ops| {
        let read = cost(&home, &store, ops).await;
        assert!(read < most, "{read} rows were read to have {EACH} routes, consumers and credentials {what}");
    };
    check("created", write("a")).await;
    check("replaced", write("b")).await;
    let ops = (0..EACH).flat_map(|n| [delete(route(&format!("r{n}"))), delete(consumer(n))]);
    check("deleted", ops.chain([delete(upstream("u"))]).collect()).await;
    assert_eq!(state(&store).await, [""; 0]);
}

async fn declarations_follow_each_other(home: Home) {
    let store = home.open().await;
    store.by(ann()).group_create(&NewGroup::named("other")).await.unwrap();
    let declare = async |after: u64, digest: &str, ops| {
        let declaration = NewDeclaration { after, digest: digest.into(), body: format!("body of {digest}").into() };
        store.by(ann()).publish(DEFAULT_GROUP, ChangeSet { declaration: Some(declaration), ..set(ops) }).await
    };
    let told = async || {
        let Declaration { number, revision, digest, body, at } = store.declaration(DEFAULT_GROUP).await.unwrap()?;
        assert!(at > 0);
        Some((number, revision, digest, String::from_utf8(body.to_vec()).unwrap()))
    };
    let stands =
        |number, revision, digest: &str| Some((number, revision, digest.to_owned(), format!("body of {digest}")));
    assert_eq!(told().await, None);
    declare(0, "a", vec![put(route("1"), "x")]).await.unwrap();
    assert_eq!(told().await, stands(1, 1, "a"));
    // One that changes no object makes no revision, and is one all the same.
    assert!(!declare(1, "b", vec![put(route("1"), "x")]).await.unwrap().changed);
    assert_eq!(told().await, stands(2, 1, "b"));
    for after in [0, 1, 3] {
        let refused = declare(after, "c", vec![put(route("1"), "y")]).await.unwrap_err();
        assert!(matches!(refused, PublishError::StaleDeclaration), "{refused}");
    }
    assert_eq!((told().await, store.head(DEFAULT_GROUP).await.unwrap().revision), (stands(2, 1, "b"), 1));
    publish(&store, vec![put(route("2"), "z")]).await.unwrap();
    declare(2, "d", vec![delete(route("2"))]).await.unwrap();
    assert_eq!(told().await, stands(3, 3, "d"));
    assert_eq!(store.declaration("other").await.unwrap(), None);
}
