//! Up to where nodes may go, and what leads back from there.

use std::time::Duration;

use milecastle_store::{Advance, DEFAULT_GROUP, Gate, Past, Retention, Rollout, Step, Store, Term};
use milecastle_testkit::eventually;
use serde_json::{Value, json};

use crate::home::{Home, ann, delete, office, on_both, put, revision, route, set};

on_both!(
    a_publish_closes_the_gate,
    later_revisions_wait_for_their_turn,
    history_from_the_base_on_is_kept,
    a_candidate_is_taken_back_with_its_step,
    a_step_names_what_it_rests_on,
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
    let version = rollout(store).await.version;
    assert!(
        store.by(ann()).rollout_set(DEFAULT_GROUP, version, &policy, staged, &json!({ "ended": true })).await.unwrap()
    );
    let now = rollout(store).await;
    assert_eq!((now.policy, now.staged, now.version), (Some(policy), staged, version + 1));
}

fn step(version: u64, stage: Option<Value>, advance: Advance) -> Step<'static> {
    Step { name: "test", version, term: None, stage, record: json!({ "n": version }), advance }
}

async fn take(store: &Store, stage: Option<Value>, advance: Advance) {
    let step = step(rollout(store).await.version, stage, advance);
    assert!(store.by(ann()).rollout_step(DEFAULT_GROUP, &step).await.unwrap());
}

async fn a_publish_closes_the_gate(home: Home) {
    let store = home.open().await;
    revision(&store, vec![put(route("1"), "a")]).await;
    assert_eq!((gate(&store).await, rollout(&store).await.version), (None, 0));
    stage(&store, true).await;
    assert_eq!(gate(&store).await, None);
    let listed = store.rollout_list().await.unwrap();
    assert_eq!(listed, [rollout(&store).await]);
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
    let version = rollout(&store).await.version;
    let back = || set(vec![put(route("1"), "a")]);
    let stale = store.by(ann()).rollout_back(DEFAULT_GROUP, &step(version - 1, None, Advance::Next), back()).await;
    assert!(stale.unwrap().is_none());
    assert_eq!(store.head(DEFAULT_GROUP).await.unwrap().revision, 3);
    let next = step(version, Some(json!(2)), Advance::Next);
    let published = store.by(ann()).rollout_back(DEFAULT_GROUP, &next, back()).await.unwrap().unwrap();
    assert_eq!((published.revision, gate(&store).await), (4, Some((1, 4))));
    assert_eq!(rollout(&store).await.stage, Some(json!(2)));
    let all = step(version + 1, None, Advance::Head);
    let back = set(vec![delete(route("2"))]);
    let published = store.by(ann()).rollout_back(DEFAULT_GROUP, &all, back).await.unwrap().unwrap();
    assert_eq!((published.revision, gate(&store).await), (5, None));
}

async fn a_step_names_what_it_rests_on(home: Home) {
    let store = home.open().await;
    stage(&store, true).await;
    revision(&store, vec![put(route("1"), "a")]).await;
    let version = rollout(&store).await.version;
    let mut stale = step(version + 1, None, Advance::Head);
    assert!(!store.by(ann()).rollout_step(DEFAULT_GROUP, &stale).await.unwrap());
    assert!(!store.by(ann()).rollout_set(DEFAULT_GROUP, version + 1, &json!({}), false, &json!({})).await.unwrap());
    let term = office(&store).await;
    stale = Step { version, term: Some(Term { epoch: term.epoch + 1, ..term }), ..stale };
    assert!(!store.by(ann()).rollout_step(DEFAULT_GROUP, &stale).await.unwrap());
    assert_eq!(gate(&store).await, Some((0, 1)));
    let good = Step { term: Some(term), ..stale };
    assert!(store.by(ann()).rollout_step(DEFAULT_GROUP, &good).await.unwrap());
    assert_eq!((gate(&store).await, rollout(&store).await.record), (None, json!({ "n": version + 1 })));
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
    assert_eq!(listed.iter().map(|one| one.staged).collect::<Vec<_>>(), [false]);
}
