//! Certificates of objects, and when they end.

use std::collections::{BTreeMap, HashMap};
use std::time::UNIX_EPOCH;

use milecastle_model::{Kind, Object};
use milecastle_pki::chain_ends;
use milecastle_settings::Events;
use milecastle_store::{Head, Heads, Store, StoreError};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{days_left, topic};
use crate::events::news::News;
use crate::events::{alarm, kind};

/// What is known of them. Read again now and then, where something was published since.
#[derive(Default)]
pub(in crate::events) struct Certificates {
    looked: Option<Instant>,
    groups: HashMap<String, Found>,
}

/// Those of a group at a revision.
struct Found {
    lineage: String,
    revision: u64,
    /// By the object's id, when the first of its certificates ends (Unix seconds).
    ends: Vec<(String, u64)>,
}

impl Certificates {
    /// Raises and clears the alarms of those that end soon.
    pub(in crate::events) async fn look(
        &mut self,
        store: &Store,
        heads: &Heads,
        settings: &Events,
        news: &mut News<'_>,
    ) -> Result<(), StoreError> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= settings.certificates.get()) {
            self.read(store, heads).await?;
            self.looked = Some(Instant::now());
        }
        let mut present = BTreeMap::new();
        for (group, found) in &self.groups {
            for (id, ends) in &found.ends {
                if let Some(days) = days_left(*ends, news.now(), &settings.certificate_days) {
                    let subject = topic(kind::ALARM, Some(group), &format!("{}/{id}", alarm::CERTIFICATE));
                    let object = format!("{}/{id}", Kind::Ssl.collection());
                    present.insert(subject, json!({ "object": object, "days": days, "not_after": ends }));
                }
            }
        }
        news.alarms(present, |topic| topic.subject.starts_with(&format!("{}/", alarm::CERTIFICATE)));
        Ok(())
    }

    async fn read(&mut self, store: &Store, heads: &Heads) -> Result<(), StoreError> {
        self.groups.retain(|group, _| heads.contains_key(group));
        for (group, Head { lineage, revision, .. }) in heads {
            let known = self.groups.get(group);
            if known.is_some_and(|known| known.lineage == *lineage && known.revision == *revision) {
                continue;
            }
            let objects = match store.load_kind(group, Kind::Ssl).await {
                Err(error @ StoreError::Corrupt(_)) => {
                    tracing::warn!(group, %error, "the certificates of a gateway group cannot be read; no alarms are raised of them");
                    continue;
                }
                objects => objects?,
            };
            let ends = objects.iter().filter_map(|object| Some((object.key.id.to_string(), ends(object)?))).collect();
            self.groups.insert(group.clone(), Found { lineage: lineage.clone(), revision: *revision, ends });
        }
        Ok(())
    }
}

/// When the first certificate of an object ends, as far as they stand in it: some are references to where they are.
fn ends(object: &Object) -> Option<u64> {
    let body: Value = serde_json::from_slice(&object.body).ok()?;
    let more = body.get("certs").and_then(Value::as_array).into_iter().flatten();
    let chains = body.get("cert").into_iter().chain(more).filter_map(Value::as_str);
    let first = chains.filter_map(chain_ends).min()?;
    Some(first.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}
