//! A manager that does not answer, and another one beside it.

use super::*;
use crate::secrets::NodeSecrets;
use milecastle_model::{Key, Kind, Object};
use milecastle_plugin_api::{NoSecrets, Registry, Secrets as _, Shared};
use milecastle_settings::{Secrets as Settings, Time};
use milecastle_snapshot::{Compiler, Snapshot};
use milecastle_testkit::{Vault, eventually};
use serde_json::{Map, json};

const TOKEN: &str = "t0ken";
/// Secrets that the silent one is asked for.
const MANY: usize = 8;

fn object(kind: Kind, id: &str, body: &Value) -> Object {
    Object { key: Key::new(kind, id), body: body.to_string().into(), created: 1, modified: 1 }
}

/// With the managers `vault/a`, which is asked for many secrets, and `vault/b`, which is asked for one.
fn snapshot(a: &Server<Vault>, b: &Server<Vault>) -> Snapshot {
    let manager = |id: &str, server: &Server<Vault>| {
        object(Kind::Secret, id, &json!({ "uri": server.url(), "prefix": "kv", "token": TOKEN }))
    };
    let certificate = |id: &str, place: &str| {
        let (cert, key) = (format!("$secret://{place}/cert"), format!("$secret://{place}/key"));
        object(Kind::Ssl, id, &json!({ "sni": "a.test", "cert": cert, "key": key }))
    };
    let mut objects = vec![manager("vault/a", a), manager("vault/b", b), certificate("b", "vault/b/tls")];
    objects.extend((0..MANY).map(|n| certificate(&n.to_string(), &format!("vault/a/{n}"))));
    let registry = Registry::new(&[], Map::new(), Arc::new(Shared::default()), Arc::new(NoSecrets));
    Compiler::new(Arc::new(registry)).build("line", 1, objects).0
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
    // Less than its turns where it was not reached in time.
    assert!(silent.asked().len() <= 2, "{}", silent.asked().len());
    // What is known to be bad is not waited for a second time: nothing is asked, so nothing could end a wait.
    secrets.take_over(&snapshot);
    assert_eq!(*secrets.awaited.borrow(), 0);
}
