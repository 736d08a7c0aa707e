//! Up to where nodes may go, and what leads back from there.

use std::time::Duration;

use milecastle_store::{
    Advance, ChangeSet, DEFAULT_GROUP, Gate, HeldRollout, NewGroup, Op, Past, PublishError, Put, Reference, Retention,
    Rollout, Step, Store, Term,
};
use milecastle_testkit::eventually;
use serde_json::{Value, json};

use crate::home::{Home, ann, body, delete, office, on_both, put, revision, route, set, upstream};

on_both!(
    a_publish_closes_the_gate,
    later_revisions_wait_for_their_turn,
    history_from_the_base_on_is_kept,
    a_candidate_is_taken_back_with_its_step,
    what_is_held_nobody_else_writes_to,
    a_step_of_a_term_that_is_over_is_none,
    what_cannot_be_read_hides_no_other,
    without_canaries_the_gate_opens,
);

async fn rollout(store: &Store) -> Rollout {
    store.rollout_get(DEFAULT_GROUP).await.unwrap()
}

async fn gate(store: &Store) -> Option<(u64, u64)> {
    let gate = rollout(store).await.head.gate;
    eventually("it is watched", async || {
        store.watch().heads()[DEFAULT_GROUP].epoch == store.head(DEFAULT_GROUP).await.unwrap().epoch
    })
    .await;
    gate.map(|Gate { base, candidate }| (base, candidate))
}

async fn stage(store: &Store, staged: bool) {
    let policy = json!({ "strategy": staged });
    let held = hold(store).await;
    let version = held.rollout().version;
    held.set(&policy, staged, &json!({ "ended": true })).await.unwrap();
    let now = rollout(store).await;
    assert_eq!((now.policy, now.staged, now.version), (Some(policy), staged, version + 1));
}

fn step(stage: Option<Value>, advance: Advance) -> Step<'static> {
    Step { name: "test", term: None, stage, record: json!({ "n": 1 }), advance }
}

async fn hold(store: &Store) -> HeldRollout<'_> {
    store.by(ann()).rollout_hold(DEFAULT_GROUP).await.unwrap()
}

async fn take(store: &Store, stage: Option<Value>, advance: Advance) {
    assert!(hold(store).await.step(&step(stage, advance)).await.unwrap());
}

async fn a_publish_closes_the_gate(home: Home) {
    let store = home.open().await;
    revision(&store, vec![put(route("1"), "a")]).await;
    assert_eq!((gate(&store).await, rollout(&store).await.version), (None, 0));
    stage(&store, true).await;
    assert_eq!(gate(&store).await, None);
    let listed = store.rollout_list().await.unwrap();
    assert_eq!((listed.known, listed.unreadable), (vec![rollout(&store).await], vec![]));
    revision(&store, vec![put(route("1"), "b")]).await;
    assert_eq!(gate(&store).await, Some((1, 2)));
    // Nobody has looked at it: what follows at once goes along.
    revision(&store, vec![put(route("2"), "c")]).await;
    assert_eq!(gate(&store).await, Some((1, 3)));
    // What changes nothing begins nothing.
    take(&store, None, Advance::Candidate).await;
    assert_eq!(gate(&store).await, None);
    store.by(ann()).publish(DEFAULT_GROUP, set(vec![put(route("2"), "c")])).await.unwrap();
    assert_eq!(gate(&store).await, None);
}

async fn later_revisions_wait_for_their_turn(home: Home) {
    let store = home.open().await;
    stage(&store, true).await;
    revision(&store, vec![put(route("1"), "a")]).await;
    take(&store, Some(json!(["n1"])), Advance::Stay).await;
    assert_eq!(rollout(&store).await.stage, Some(json!(["n1"])));
    revision(&store, vec![put(route("2"), "b")]).await;
    revision(&store, vec![put(route("3"), "c")]).await;
    assert_eq!(gate(&store).await, Some((0, 1)));
    take(&store, Some(json!("dropped")), Advance::Candidate).await;
    assert_eq!((gate(&store).await, rollout(&store).await.stage), (Some((1, 3)), None));
    take(&store, None, Advance::Candidate).await;
    assert_eq!(gate(&store).await, None);
}

async fn history_from_the_base_on_is_kept(home: Home) {
    let store = home.open().await;
    revision(&store, vec![put(route("1"), "a")]).await;
    revision(&store, vec![put(route("1"), "b")]).await;
    stage(&store, true).await;
    revision(&store, vec![put(route("1"), "c")]).await;
    take(&store, Some(json!(1)), Advance::Stay).await;
    revision(&store, vec![put(route("2"), "d")]).await;
    let nothing = Retention { most: 0, max_age: Duration::MAX, least: 0 };
    let term = office(&store).await;
    assert_eq!(store.history_retain(term, &nothing, 0).await.unwrap(), 1);
    let Past::Known(known) = store.past(DEFAULT_GROUP, 2..4).await.unwrap() else { panic!("it is forgotten") };
    let was: Vec<_> = known.iter().map(|(key, was)| (key.clone(), was.as_ref().map(|was| was.modified))).collect();
    assert_eq!(was, [(route("1"), Some(2)), (route("2"), None)]);
    take(&store, None, Advance::Head).await;
    assert_eq!(store.history_retain(term, &nothing, 0).await.unwrap(), 3);
}

async fn a_candidate_is_taken_back_with_its_step(home: Home) {
    let store = home.open().await;
    revision(&store, vec![put(route("1"), "a")]).await;
    stage(&store, true).await;
    revision(&store, vec![put(route("1"), "bad")]).await;
    take(&store, Some(json!(1)), Advance::Stay).await;
    revision(&store, vec![put(route("2"), "good")]).await;
    let back = || set(vec![put(route("1"), "a")]);
    // Nothing is left of what was published before it was refused, and the rollout is held as before.
    let mut held = hold(&store).await;
    let refused = held.publish(ChangeSet { expected_revision: Some(2), ..back() }).await;
    assert!(matches!(refused, Err(PublishError::StaleRevision { expected: 2, current: 3 })));
    let to = upstream("none");
    let references = vec![Reference { to, plugin: None, must_exist: true, hinders: true }];
    let dangling = Op::Put(Put { references, ..Put::new(route("3"), body("d")) });
    let refused = held.publish(set(vec![put(route("1"), "a"), dangling])).await;
    assert!(matches!(refused, Err(PublishError::MissingReference { .. })), "{refused:?}");
    let published = held.publish(back()).await.unwrap();
    assert!(held.step(&step(Some(json!(2)), Advance::Next)).await.unwrap());
    assert_eq!((published.revision, gate(&store).await), (4, Some((1, 4))));
    assert_eq!(rollout(&store).await.stage, Some(json!(2)));
    // Without a step nothing was published.
    let mut held = hold(&store).await;
    assert_eq!(held.publish(set(vec![delete(route("2"))])).await.unwrap().revision, 5);
    drop(held);
    assert_eq!((store.head(DEFAULT_GROUP).await.unwrap().revision, gate(&store).await), (4, Some((1, 4))));
    let mut held = hold(&store).await;
    let published = held.publish(set(vec![delete(route("2"))])).await.unwrap();
    assert!(held.step(&step(None, Advance::Head)).await.unwrap());
    assert_eq!((published.revision, gate(&store).await), (5, None));
}

/// Whoever takes a candidate back is not overtaken by those who write meanwhile.
async fn what_is_held_nobody_else_writes_to(home: Home) {
    let store = home.open().await;
    stage(&store, true).await;
    revision(&store, vec![put(route("1"), "a")]).await;
    take(&store, Some(json!(1)), Advance::Stay).await;
    let mut held = hold(&store).await;
    let writers: Vec<_> = (0..3)
        .map(|n: u8| {
            let store = store.clone();
            tokio::spawn(async move {
                store.by(ann()).publish(DEFAULT_GROUP, set(vec![put(route(&n.to_string()), "b")])).await.unwrap()
            })
        })
        .collect();
    // However often others come to their turn meanwhile, they wait.
    for _ in 0..100 {
        assert_eq!(store.head(DEFAULT_GROUP).await.unwrap().revision, 1);
    }
    let back = ChangeSet { expected_revision: Some(1), ..set(vec![delete(route("1"))]) };
    assert_eq!(held.publish(back).await.unwrap().revision, 2);
    assert!(held.step(&step(None, Advance::Head)).await.unwrap());
    for writer in writers {
        assert!(writer.await.unwrap().revision > 2);
    }
}

async fn a_step_of_a_term_that_is_over_is_none(home: Home) {
    let store = home.open().await;
    stage(&store, true).await;
    revision(&store, vec![put(route("1"), "a")]).await;
    let term = office(&store).await;
    let late = Step { term: Some(Term { epoch: term.epoch + 1, ..term }), ..step(None, Advance::Head) };
    let mut held = hold(&store).await;
    held.publish(set(vec![delete(route("1"))])).await.unwrap();
    assert!(!held.step(&late).await.unwrap());
    assert_eq!((store.head(DEFAULT_GROUP).await.unwrap().revision, gate(&store).await), (1, Some((0, 1))));
    let good = Step { term: Some(term), ..late };
    assert!(hold(&store).await.step(&good).await.unwrap());
    assert_eq!((gate(&store).await, rollout(&store).await.record), (None, json!({ "n": 1 })));
}

async fn what_cannot_be_read_hides_no_other(home: Home) {
    let store = home.open().await;
    stage(&store, true).await;
    store.by(ann()).group_create(&NewGroup::named("other")).await.unwrap();
    store.by(ann()).rollout_hold("other").await.unwrap().set(&json!({}), true, &json!({})).await.unwrap();
    home.sql("UPDATE rollout SET stage = '{' WHERE group_id = 'other'").await;
    let listed = store.rollout_list().await.unwrap();
    assert_eq!((listed.known, listed.unreadable), (vec![rollout(&store).await], vec!["other".to_owned()]));
}

async fn without_canaries_the_gate_opens(home: Home) {
    let store = home.open().await;
    stage(&store, true).await;
    revision(&store, vec![put(route("1"), "a")]).await;
    take(&store, Some(json!(1)), Advance::Stay).await;
    revision(&store, vec![put(route("1"), "b")]).await;
    stage(&store, false).await;
    let ended = rollout(&store).await;
    assert_eq!((gate(&store).await, ended.stage, ended.record), (None, None, json!({ "ended": true })));
    revision(&store, vec![put(route("1"), "c")]).await;
    assert_eq!(gate(&store).await, None);
    let listed = store.rollout_list().await.unwrap();
    assert_eq!(listed.known.iter().map(|one| one.staged).collect::<Vec<_>>(), [false]);
}
