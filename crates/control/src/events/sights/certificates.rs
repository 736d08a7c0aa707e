//! Certificates of objects, and when they end: those that stand in objects, as the database has them, and those that references
//! stand for (`$secret://…`, `$env://…`), as nodes tell.

use std::collections::{BTreeMap, HashMap};
use std::time::UNIX_EPOCH;

use milecastle_model::{Change, Key, Kind, Object};
use milecastle_pki::chain_ends;
use milecastle_settings::Events;
use milecastle_store::{Changes, Head, Heads, Store, StoreError, Topic};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{days_left, topic};
use crate::dpm::{Condition, HeldCertificate, NodeState};
use crate::events::news::News;
use crate::events::{alarm, kind};

/// The kinds whose objects may have certificates: of their own, of upstreams in them, or of upstreams in configurations of plugins.
const HOLDERS: [Kind; 9] = [
    Kind::Ssl,
    Kind::Upstream,
    Kind::Service,
    Kind::Route,
    Kind::StreamRoute,
    Kind::PluginConfig,
    Kind::GlobalRule,
    Kind::ConsumerGroup,
    Kind::Consumer,
];

/// What is known of them. Read on now and then, where something was published since.
#[derive(Default)]
pub(in crate::events) struct Certificates {
    looked: Option<Instant>,
    groups: HashMap<String, Found>,
    /// What nodes told last, by group and id: one that connects anew tells nothing for a moment.
    told: HashMap<(String, String), Vec<HeldCertificate>>,
}

/// Those of a group at a revision.
struct Found {
    lineage: String,
    revision: u64,
    mark: String,
    ends: BTreeMap<Key, End>,
}

/// The first certificate of an object that ends.
#[derive(Clone)]
struct End {
    /// Unix seconds.
    not_after: u64,
    /// JSON pointer; `None`: a reference stands for it.
    at: Option<String>,
}

impl Certificates {
    /// Raises and clears the alarms of those that end soon.
    pub(in crate::events) async fn look(
        &mut self,
        store: &Store,
        heads: &Heads,
        nodes: &[(String, NodeState)],
        settings: &Events,
        news: &mut News<'_>,
    ) -> Result<(), StoreError> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= settings.certificates.get()) {
            self.read(store, heads).await?;
            self.looked = Some(Instant::now());
        }
        self.hear(nodes);
        let mut present = BTreeMap::new();
        for ((group, key), End { not_after, at }) in self.first() {
            if let Some(days) = days_left(not_after, news.now(), &settings.certificate_days) {
                let path = key.path();
                let object = path.trim_start_matches('/');
                let detail = json!({ "object": object, "at": at, "days": days, "not_after": not_after });
                present.insert(topic(kind::ALARM, Some(group), &format!("{}{path}", alarm::CERTIFICATE)), detail);
            }
        }
        news.alarms(present, |topic| topic.subject.starts_with(&format!("{}/", alarm::CERTIFICATE)));
        Ok(())
    }

    async fn read(&mut self, store: &Store, heads: &Heads) -> Result<(), StoreError> {
        self.groups.retain(|group, _| heads.contains_key(group));
        for (group, head) in heads {
            let known = self.groups.get(group).filter(|known| known.lineage == head.lineage);
            if known.is_some_and(|known| known.revision == head.revision) {
                continue;
            }
            let found = Found::read(store, group, head, known).await;
            match found {
                Err(error @ StoreError::Corrupt(_)) => {
                    tracing::warn!(group, %error, "the certificates of a gateway group cannot be read; no alarms are raised of them");
                }
                found => drop(self.groups.insert(group.clone(), found?)),
            }
        }
        Ok(())
    }

    /// Takes note of what nodes tell. What one told that has not been heard of for long counts no more.
    fn hear(&mut self, nodes: &[(String, NodeState)]) {
        let is_heard = |node: &NodeState| !matches!(node.condition, Condition::Offline | Condition::Revoked);
        let heard = nodes.iter().filter(|(_, node)| is_heard(node));
        let heard: BTreeMap<_, _> =
            heard.map(|(group, node)| ((group.clone(), node.id.clone()), &node.troubles.certificates)).collect();
        self.told.retain(|name, _| heard.contains_key(name));
        for (name, told) in heard {
            if let Some(told) = told {
                self.told.insert(name, told.clone());
            }
        }
    }

    /// The first that ends of each object.
    fn first(&self) -> BTreeMap<(&str, Key), End> {
        let written = self.groups.iter().flat_map(|(group, found)| {
            found.ends.iter().map(move |(key, end)| ((group.as_str(), key.clone()), end.clone()))
        });
        let told = self.told.iter().flat_map(|((group, _), told)| {
            told.iter().filter_map(move |HeldCertificate { kind, id, not_after }| {
                let key = Key::new(Kind::from_name(kind)?, id.as_str());
                Some(((group.as_str(), key), End { not_after: *not_after, at: None }))
            })
        });
        let mut first = BTreeMap::new();
        for (object, end) in written.chain(told) {
            let first = first.entry(object).or_insert_with(|| end.clone());
            if end.not_after < first.not_after {
                *first = end;
            }
        }
        first
    }
}

impl Found {
    /// Reads what has changed since `known`, or everything where that cannot be told.
    async fn read(store: &Store, group: &str, head: &Head, known: Option<&Self>) -> Result<Self, StoreError> {
        if let Some(known) = known
            && let Changes::Delta { lineage, to, mark, changes, .. } =
                store.changes_since(group, known.revision, Some(&known.mark)).await?
            && lineage == known.lineage
        {
            let mut ends = known.ends.clone();
            for change in changes {
                match &change {
                    Change::Put(object) => set(&mut ends, object),
                    Change::Delete { key, .. } => drop(ends.remove(key)),
                }
            }
            return Ok(Self { lineage, revision: to, mark, ends });
        }
        // What changes meanwhile is read twice.
        let Head { lineage, revision, mark, .. } = head.clone();
        let mut ends = BTreeMap::new();
        for kind in HOLDERS {
            store.each_of_kind(group, kind, |object| set(&mut ends, &object)).await?;
        }
        Ok(Self { lineage, revision, mark, ends })
    }
}

fn set(ends: &mut BTreeMap<Key, End>, object: &Object) {
    match end(object) {
        Some(end) => drop(ends.insert(object.key.clone(), end)),
        None => drop(ends.remove(&object.key)),
    }
}

/// The first certificate of an object that ends, of those that stand in it.
fn end(object: &Object) -> Option<End> {
    let names: &[&str] = match object.key.kind {
        Kind::Ssl => &["cert", "certs", "ca"],
        _ => &["client_cert"],
    };
    let text = std::str::from_utf8(&object.body).ok()?;
    if !names.iter().any(|name| text.contains(name)) {
        return None;
    }
    let mut ends = Vec::new();
    collect(&serde_json::from_str(text).ok()?, names, "", false, &mut ends);
    ends.into_iter().min_by_key(|end| end.not_after)
}

/// Collects the ends of certificates in a value that stands at this pointer: of all texts under these names. Plugins take upstreams
/// inline too, so they may stand anywhere.
fn collect(value: &Value, names: &[&str], at: &str, named: bool, ends: &mut Vec<End>) {
    match value {
        Value::String(text) if named => {
            let end = chain_ends(text).and_then(|end| end.duration_since(UNIX_EPOCH).ok());
            ends.extend(end.map(|end| End { not_after: end.as_secs(), at: Some(at.to_owned()) }));
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                collect(item, names, &format!("{at}/{n}"), named, ends);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                collect(member, names, &format!("{at}/{name}"), named || names.contains(&&**name), ends);
            }
        }
        _ => {}
    }
}

/// The object that an alarm of a certificate is about; `None` for one of an ssl object that a version told which knew no others.
pub(in crate::events) fn object_of(topic: &Topic) -> Option<Key> {
    Key::from_path(topic.subject.strip_prefix(alarm::CERTIFICATE)?)
}

#[cfg(test)]
mod tests {
    use milecastle_store::Told;

    use super::super::nodes::tests::node;
    use super::*;
    use crate::dpm::Troubles;
    use crate::testing::sqlite;

    const DAY: u64 = 86_400;
    const NOW: u64 = 1000;

    fn says(id: &str, condition: Condition, certificates: Option<&[(&str, u64)]>) -> (String, NodeState) {
        let held = |&(kind, days): &(&str, u64)| HeldCertificate {
            kind: kind.to_owned(),
            id: "1".to_owned(),
            not_after: NOW + days * DAY,
        };
        let certificates = certificates.map(|all| all.iter().map(held).collect());
        let troubles = Troubles { certificates, ..Troubles::default() };
        ("g".to_owned(), NodeState { id: id.to_owned(), ..node(condition, troubles) })
    }

    #[tokio::test]
    async fn what_nodes_tell_is_raised_once_by_the_first_end_and_stays_while_they_connect_anew() {
        let home = tempfile::tempdir().unwrap();
        let store = sqlite(home.path()).await;
        let (mut certificates, mut told) = (Certificates::default(), Told::default());
        let mut step = async |nodes: &[(String, NodeState)]| -> Vec<Value> {
            let mut news = News::new(&told, NOW);
            certificates.look(&store, &Heads::default(), nodes, &Events::default(), &mut news).await.unwrap();
            let (events, states) = news.into_parts();
            told.remember(states);
            events
                .into_iter()
                .map(|event| json!([event.data["state"], event.data["object"], event.data["days"]]))
                .collect()
        };
        let none: [Value; 0] = [];
        // One of a later version's kinds concerns nobody.
        let both = [
            says("a", Condition::Healthy, Some(&[("ssl", 20), ("route", 90), ("of-a-later-version", 1)])),
            says("b", Condition::Healthy, Some(&[("ssl", 5)])),
        ];
        assert_eq!(step(&both).await, [json!(["raised", "ssls/1", 7])]);
        let renewed = says("a", Condition::Healthy, Some(&[("ssl", 365)]));
        assert_eq!(step(&[renewed.clone(), says("b", Condition::Lost, Some(&[("ssl", 5)]))]).await, none);
        assert_eq!(step(&[renewed.clone(), says("b", Condition::Late, None)]).await, none, "it connects anew");
        let gone = says("b", Condition::Offline, Some(&[("ssl", 5)]));
        assert_eq!(step(&[renewed, gone]).await, [json!(["cleared", "ssls/1", 7])]);
    }
}
