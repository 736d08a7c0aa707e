//! A node against what control planes and disks do to it.

mod holdings;
mod in_force;
mod manager;
mod membership;
mod stream;

use milecastle_plugin_api::{NoSecrets, Registry, Secrets, Shared};
use milecastle_snapshot::Compiler;
use milecastle_testkit::Vault;
use milecastle_testkit::registry::Server;
use milecastle_testkit::tls::Identity;
use milecastle_wire::{Digest, DigestKey, pb};
use serde_json::{Map, Value, json};
use std::sync::Arc;

const LINEAGE: &str = "line";

pub(in crate::node) fn compiler() -> Compiler {
    compiler_with(Arc::new(NoSecrets))
}

fn compiler_with(secrets: Arc<dyn Secrets>) -> Compiler {
    let registry = Registry::new(&[], Map::new(), Arc::new(Shared::default()), secrets);
    Compiler::new(Arc::new(registry))
}

/// The secret object `vault/1` of a Vault whose token is `t0ken`.
fn manager_of(vault: &Server<Vault>) -> pb::Object {
    let body = json!({ "uri": vault.url(), "prefix": "kv", "token": "t0ken" });
    object("secret", "vault/1", &body.to_string())
}

/// A certificate for `a.test` that `vault/1` keeps at `kv/<path>`.
fn certificate(path: &str) -> pb::Object {
    let (cert, key) = (format!("$secret://vault/1/{path}/cert"), format!("$secret://vault/1/{path}/key"));
    object("ssl", "1", &json!({ "sni": "a.test", "cert": cert, "key": key }).to_string())
}

/// As it is kept.
fn pair(identity: &Identity) -> Value {
    json!({ "cert": identity.cert, "key": identity.key })
}

fn object(kind: &str, id: &str, body: &str) -> pb::Object {
    let key = Some(pb::ObjectKey { kind: kind.into(), id: id.into() });
    pb::Object { key, body: body.as_bytes().to_vec().into(), created: 1, modified: 1 }
}

pub(in crate::node) fn route(id: &str, uri: &str) -> pb::Object {
    object("route", id, &json!({ "uri": uri }).to_string())
}

fn digest(objects: &[pb::Object]) -> Digest {
    let key = DigestKey::of_lineage(LINEAGE);
    objects.iter().map(|object| key.wire_object(object)).sum()
}

pub(in crate::node) fn put(object: &pb::Object) -> pb::Change {
    pb::Change { change: Some(pb::change::Change::Put(object.clone())) }
}

pub(in crate::node) fn delete(kind: &str, id: &str) -> pb::Change {
    let key = Some(pb::ObjectKey { kind: kind.into(), id: id.into() });
    pb::Change { change: Some(pb::change::Change::Delete(pb::Delete { key, revision: 2 })) }
}

fn delta(from: u64, to: u64, changes: Vec<pb::Change>, after: &[pb::Object]) -> pb::Delta {
    pb::Delta { lineage: LINEAGE.into(), from, to, digest: digest(after).into(), changes, ..pb::Delta::default() }
}
