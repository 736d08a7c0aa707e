//! From a credential's key to its consumer.

use foldhash::fast::RandomState;
use http::HeaderValue;
use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;
use milecastle_model::Key;
use milecastle_plugin_api::{Consumer, CredentialMatch};
use serde_json::Value;
use std::sync::Arc;

/// Key to credential. The hasher is seeded: the keys asked for come from clients.
type Table = GenericHashMap<Box<str>, Arc<Entry>, RandomState, DefaultSharedPtr>;

/// One credential in the table of its plugin.
#[derive(Debug)]
struct Entry {
    holder: Key,
    found: CredentialMatch,
    /// Other holders of the same key, smaller holders later. The control plane refuses duplicates, but keys behind
    /// references are not compared, so they can occur.
    next: Option<Arc<Entry>>,
}

/// The credentials of all consumers, by plugin and key.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    tables: Vec<(Arc<str>, Table)>,
}

impl Credentials {
    pub(crate) fn get(&self, plugin: &str, key: &str) -> Option<CredentialMatch> {
        let (_, table) = self.tables.iter().find(|(name, _)| &**name == plugin)?;
        table.get(key).map(|entry| entry.found.clone())
    }

    pub(crate) fn any(&self, plugin: &str) -> bool {
        self.tables.iter().any(|(name, table)| &**name == plugin && !table.is_empty())
    }

    pub(crate) fn insert(&mut self, plugin: &str, key: &str, holder: Key, consumer: Arc<Consumer>, config: Value) {
        let credential_id = match holder.parent() {
            Some(_) => HeaderValue::from_str(holder.own_id()).ok(),
            None => None,
        };
        let found = CredentialMatch { consumer, credential_id, config: Arc::new(config) };
        let at = match self.tables.iter().position(|(name, _)| &**name == plugin) {
            Some(at) => at,
            None => {
                self.tables.push((plugin.into(), Default::default()));
                self.tables.len() - 1
            }
        };
        let table = &mut self.tables[at].1;
        let mut holders = holders_except(table.get(key), &holder);
        holders.push((holder, found));
        put(table, key, holders);
    }

    pub(crate) fn remove(&mut self, plugin: &str, key: &str, holder: &Key) {
        let Some((_, table)) = self.tables.iter_mut().find(|(name, _)| &**name == plugin) else { return };
        let holders = holders_except(table.get(key), holder);
        put(table, key, holders);
    }
}

fn holders_except(mut entry: Option<&Arc<Entry>>, holder: &Key) -> Vec<(Key, CredentialMatch)> {
    let mut holders = Vec::new();
    while let Some(one) = entry {
        if one.holder != *holder {
            holders.push((one.holder.clone(), one.found.clone()));
        }
        entry = one.next.as_ref();
    }
    holders
}

/// The largest holder answers: among objects loaded in order it is the last one.
fn put(table: &mut Table, key: &str, mut holders: Vec<(Key, CredentialMatch)>) {
    holders.sort_by(|a, b| a.0.cmp(&b.0));
    let chain = holders.into_iter().fold(None, |next, (holder, found)| Some(Arc::new(Entry { holder, found, next })));
    match chain {
        Some(entry) => drop(table.insert(key.into(), entry)),
        None => drop(table.remove(key)),
    }
}
