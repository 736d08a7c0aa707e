//! A manager that does not answer, and another one beside it.

use super::*;
use crate::secrets::NodeSecrets;
use milecastle_model::{Key, Kind, Object};
use milecastle_plugin_api::{NoSecrets, Registry, Secrets as _, Shared};
use milecastle_settings::{Secrets as Settings, Time};
use milecastle_snapshot::{Compiler, Snapshot};
use milecastle_testkit::{Vault, eventually};
use serde_json::{Map, json};
use std::time::Instant;

const TOKEN: &str = "t0ken";
/// Secrets that the silent one is asked for.
const MANY: usize = 8;

fn object(kind: Kind, id: &str, body: &Value) -> Object {
    Object { key: Key::new(kind, id), body: body.to_string().into(), created: 1, modified: 1 }
}

fn manager_at(id: &str, server: &Server<Vault>, token: &str) -> Object {
    object(Kind::Secret, id, &json!({ "uri": server.url(), "prefix": "kv", "token": token }))
}

fn certificate(id: &str, place: &str) -> Object {
    let (cert, key) = (format!("$secret://{place}/cert"), format!("$secret://{place}/key"));
    object(Kind::Ssl, id, &json!({ "sni": "a.test", "cert": cert, "key": key }))
}

/// Objects that need so many secrets of `vault/a`.
fn certificates(count: usize) -> impl Iterator<Item = Object> {
    (0..count).map(|n| certificate(&n.to_string(), &format!("vault/a/{n}")))
}

/// With the managers `vault/a`, which is asked for many secrets, and `vault/b`, which is asked for one.
fn snapshot(a: &Server<Vault>, b: &Server<Vault>) -> Snapshot {
    let managers = [manager_at("vault/a", a, TOKEN), manager_at("vault/b", b, TOKEN)];
    built(managers.into_iter().chain([certificate("b", "vault/b/tls")]).chain(certificates(MANY)))
}

/// With the manager `vault/a`, which is asked for so many secrets.
fn snapshot_of(a: &Server<Vault>, token: &str, count: usize) -> Snapshot {
    built([manager_at("vault/a", a, token)].into_iter().chain(certificates(count)))
}

fn built(objects: impl Iterator<Item = Object>) -> Snapshot {
    let registry = Registry::new(&[], Map::new(), Arc::new(Shared::default()), Arc::new(NoSecrets));
    Compiler::new(Arc::new(registry)).build("line", 1, objects.collect()).0
}

/// A resolver that has two questions to one manager under way at once.
fn secrets(timeout: Time) -> Arc<NodeSecrets> {
    let settings = Settings { timeout, concurrency: 2, ..Settings::default() };
    NodeSecrets::new(&settings, &Handle::current(), background(None))
}

#[tokio::test]
async fn a_manager_that_does_not_answer_holds_up_no_other() {
    let (silent, healthy) = (Vault::start(TOKEN), Vault::start(TOKEN));
    silent.fail(Some(Fault::Silence));
    healthy.set("kv/tls", json!({ "cert": "c", "key": "k" }));
    let secrets = secrets(Time::secs(3600));
    secrets.take_over(&snapshot(&silent, &healthy));
    eventually("the other one's secret", async || secrets.resolve("$secret://vault/b/tls/key").as_deref() == Some("k"))
        .await;
    assert_eq!(healthy.asked().len(), 1, "once for all members");
    eventually("the silent one is asked", async || silent.asked().len() == 2).await;
}

#[tokio::test]
async fn what_waits_for_a_manager_that_does_not_answer_fails_with_what_was_asked() {
    let (silent, healthy) = (Vault::start(TOKEN), Vault::start(TOKEN));
    silent.fail(Some(Fault::Silence));
    let secrets = secrets(Time::millis(300));
    let snapshot = snapshot(&silent, &healthy);
    // Bounded, whoever answers.
    secrets.prepare(&snapshot).await;
    eventually("all have failed", async || secrets.figures().failed == 2 * MANY as u64).await;
    // Those under way, of which two make it certain, and one that may have its turn between the two; less where it was not reached in
    // time.
    assert!(silent.asked().len() <= 3, "{}", silent.asked().len());
    // What is known to be bad is not waited for a second time: nothing is asked, so nothing could end a wait.
    secrets.take_over(&snapshot);
    assert_eq!(*secrets.awaited.borrow(), 0);
}

#[tokio::test]
async fn changes_do_not_wait_for_a_manager_out_of_reach_and_get_its_secrets_once_it_is_back() {
    let mut vault = Vault::start(TOKEN);
    for n in 0..MANY {
        vault.set(&format!("kv/{n}"), json!({ "cert": "c", "key": "k" }));
    }
    vault.stop();
    let secrets = secrets(Time::secs(3600));
    // There is no connection to be had.
    secrets.prepare(&snapshot_of(&vault, TOKEN, 1)).await;
    // From now on it listens, and says nothing.
    vault.hold(true);
    vault.start();
    for count in 2..=MANY {
        let prepared = tokio::time::timeout(SOON, secrets.prepare(&snapshot_of(&vault, TOKEN, count))).await;
        assert!(prepared.is_ok(), "change {count} waits");
    }
    eventually("nothing is due", async || secrets.next().is_some_and(|at| at > Instant::now())).await;
    eventually("it is asked", async || !vault.asked().is_empty()).await;
    assert_eq!(vault.asked().len(), 1, "one question finds out");
    vault.hold(false);
    // The time of a failure is longer than this waits.
    let has_key = |n: usize| secrets.resolve(&format!("$secret://vault/a/{n}/key")).as_deref() == Some("k");
    eventually("all that it owes", async || (0..MANY).all(has_key)).await;
    assert_eq!(vault.asked().len(), MANY, "once for each");
}

#[tokio::test]
async fn a_manager_that_lets_time_pass_is_waited_for_anew_when_its_object_changes() {
    let vault = Vault::start(TOKEN);
    vault.fail(Some(Fault::Silence));
    let secrets = secrets(Time::millis(300));
    for count in 1..=2 {
        secrets.take_over(&snapshot_of(&vault, TOKEN, count));
        assert_eq!(*secrets.awaited.borrow(), 1, "one secret alone says nothing of the manager");
        eventually("its time has passed", async || secrets.figures().failed == 2 * count as u64).await;
    }
    secrets.take_over(&snapshot_of(&vault, TOKEN, 3));
    assert_eq!(*secrets.awaited.borrow(), 0);
    secrets.take_over(&snapshot_of(&vault, "another", 3));
    assert_eq!(*secrets.awaited.borrow(), 3, "its token may be the one that it wants now");
}
