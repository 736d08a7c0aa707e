//! What a group was at any revision that is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use milecastle_model::Key;
use milecastle_store::{
    Body, ChangeSet, DEFAULT_GROUP, Delete, Op, Outcome, Past, Put, Retention, Source, Store, StoreError,
};

use crate::home::{Home, ann, body, delete, office, on_both, publish, put, revision, route, set, state, upstream};

on_both!(
    every_kept_revision_is_known_however_much_was_forgotten,
    what_another_release_did_not_keep_is_not_made_up,
    lifetimes_that_are_kept,
    a_rehearsal_says_what_a_publish_would_and_writes_nothing,
);

/// The default group as paths and bodies, with the revisions that made and changed each.
type Whole = BTreeMap<String, (Vec<u8>, u64, u64)>;

async fn whole(store: &Store) -> Whole {
    let objects = store.load(DEFAULT_GROUP).await.unwrap().objects.into_iter();
    objects.map(|o| (o.key.path(), (o.body.to_vec(), o.created, o.modified))).collect()
}

/// The group as it was at `start`, made of what it is at `end`; `None` if that is not known.
async fn back(store: &Store, end: &Whole, between: std::ops::Range<u64>) -> Option<Whole> {
    let Past::Known(known) = store.past(DEFAULT_GROUP, between).await.unwrap() else { return None };
    let mut state = end.clone();
    for (key, was) in known {
        match was {
            Some(o) => drop(state.insert(o.key.path(), (o.body.to_vec(), o.created, o.modified))),
            None => drop(state.remove(&key.path())),
        }
    }
    Some(state)
}

async fn every_kept_revision_is_known_however_much_was_forgotten(home: Home) {
    let store = home.open().await;
    let term = office(&store).await;
    let mut states = vec![Whole::new()];
    let mut floor = 0;
    // A walk over a few objects, some sealed, which come, change, go and come again; the history is cut off behind it now and then.
    let mut seed = 7_u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for step in 0..120_u64 {
        let mut ops: BTreeMap<Key, Op> = BTreeMap::new();
        for _ in 0..=next(3) {
            let key = if next(2) == 0 { route(&next(5).to_string()) } else { upstream(&next(4).to_string()) };
            let sealed = next(3) == 0;
            let op = match next(4) {
                0 => delete(key.clone()),
                _ => Op::Put(Put { sealed, ..Put::new(key.clone(), body(&format!("{step} {key}"))) }),
            };
            ops.insert(key, op);
        }
        if publish(&store, ops.into_values().collect()).await.unwrap().changed {
            states.push(whole(&store).await);
        }
        if step % 17 == 16 {
            let keep = Retention { most: 10 + next(10), max_age: Duration::MAX, least: 1 };
            store.history_retain(term, &keep, 0).await.unwrap();
            floor = store.group_get(DEFAULT_GROUP).await.unwrap().floor;
        }
    }
    let head = states.len() as u64 - 1;
    assert!(floor > 50 && head > floor + 10, "{floor} of {head}");
    for (start, was) in states.iter().enumerate() {
        let start = start as u64;
        for end in [head, start.midpoint(head)] {
            let found = back(&store, &states[usize::try_from(end).unwrap()], start..end).await;
            assert_eq!(found.as_ref(), (start >= floor).then_some(was), "{start}..{end}");
        }
    }
    assert!(matches!(store.past("none", 0..1).await, Err(StoreError::UnknownGroup(_))));
    assert!(
        matches!(store.past(DEFAULT_GROUP, 0..head).await.unwrap(), Past::Forgotten { floor: told } if told == floor)
    );
}

async fn what_another_release_did_not_keep_is_not_made_up(home: Home) {
    let store = home.open().await;
    revision(&store, vec![put(route("1"), "a"), put(route("2"), "z")]).await;
    let keep = Retention { most: 0, max_age: Duration::MAX, least: 0 };
    store.history_retain(office(&store).await, &keep, 0).await.unwrap();
    revision(&store, vec![put(route("3"), "b")]).await;
    // As one would leave it that forgets history without bringing to the new floor what was at the one before.
    let stale = "SELECT group_id, kind, '1', body, sealed, created, modified FROM resource WHERE id = '2'";
    home.sql(&format!("INSERT INTO base (group_id, kind, id, body, sealed, created, modified) {stale}")).await;
    revision(&store, vec![put(route("1"), "c"), delete(route("2"))]).await;
    let Past::Known(known) = store.past(DEFAULT_GROUP, 1..3).await.unwrap() else { panic!("it is known") };
    let bodies: Vec<_> = known.iter().map(|(key, was)| (&*key.id, was.as_ref().map(|was| was.body.to_vec()))).collect();
    assert_eq!(bodies[..2], [("1", Some(body("a").into_bytes())), ("2", Some(body("z").into_bytes()))]);
    // As a release would leave it that publishes without keeping anything.
    home.sql("DELETE FROM base WHERE id = '2'").await;
    assert!(matches!(store.past(DEFAULT_GROUP, 1..3).await.unwrap(), Past::Forgotten { floor: 1 }));
    let Past::Known(known) = store.past(DEFAULT_GROUP, 1..2).await.unwrap() else { panic!("it is known") };
    assert_eq!(known, [(route("3"), None)]);
}

async fn lifetimes_that_are_kept(home: Home) {
    let store = home.open().await;
    let until = |id, word, expires_at, keeps_lifetime| {
        Op::Put(Put { expires_at, keeps_lifetime, ..Put::new(route(id), body(word)) })
    };
    revision(&store, vec![until("old", "a", Some(100), false)]).await;
    revision(&store, vec![until("old", "b", None, true), until("new", "b", Some(50), true)]).await;
    let term = office(&store).await;
    store.expire_due(term, 99).await.unwrap();
    assert_eq!(state(&store).await, [format!("/routes/old={}", body("b"))]);
    store.expire_due(term, 100).await.unwrap();
    assert_eq!(state(&store).await, [""; 0]);
}

async fn a_rehearsal_says_what_a_publish_would_and_writes_nothing(home: Home) {
    let store = home.open().await;
    revision(&store, vec![put(route("1"), "a")]).await;
    let rehearse = async |ops| store.by(ann()).rehearse(DEFAULT_GROUP, set(ops)).await;
    let before = whole(&store).await;
    let rehearsed = rehearse(vec![put(route("1"), "b"), put(route("2"), "b")]).await.unwrap();
    assert!(rehearsed.changed && rehearsed.revision == 2);
    assert!(matches!(&*rehearsed.outcomes, [Outcome::Replaced(_), Outcome::Created(_)]));
    let refused =
        rehearse(vec![Op::Put(Put { body: Body::Ready("{}".into()), ..Put::new(Key::credential("x", "c"), "") })]);
    assert!(refused.await.unwrap_err().to_string().contains("does not exist"));
    let stale = ChangeSet {
        expected_revision: Some(7),
        ..ChangeSet::new(Source::Api, vec![Op::Delete(Delete::new(route("1")))])
    };
    assert!(store.by(ann()).rehearse(DEFAULT_GROUP, stale).await.is_err());
    assert_eq!((whole(&store).await, store.head(DEFAULT_GROUP).await.unwrap().revision), (before, 1));
    assert_eq!(revision(&store, vec![put(route("1"), "b")]).await, 2);
}
