//! Certificates of objects, and when they end: those that stand in objects, as the image of their group has them, and those that
//! references stand for (`$secret://…`, `$env://…`), as nodes tell.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use milecastle_model::{Key, Kind, Object, pointer};
use milecastle_pki::each_end;
use milecastle_settings::Events;
use milecastle_store::Topic;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{days_left, topic};
use crate::dpm::{Condition, HeldCertificate, NodeState, clip, off_thread};
use crate::events::news::News;
use crate::events::{alarm, kind};
use crate::rights::Resource;
use crate::state::{Difference, Image, State};

/// What is known of them. Looked for now and then, in what has changed since.
#[derive(Default)]
pub(in crate::events) struct Certificates {
    looked: Option<Instant>,
    groups: HashMap<Arc<str>, Found>,
    /// The newest images. Nodes tell of an object sooner than it is looked for here.
    images: HashMap<Arc<str>, Arc<Image>>,
    /// What nodes told last, by group and id: one that connects anew tells nothing for a moment.
    told: HashMap<(String, String), Vec<HeldCertificate>>,
}

/// Those that stand in the objects of a group.
struct Found {
    image: Arc<Image>,
    ends: BTreeMap<Key, Vec<End>>,
}

/// The end of a certificate that stands in an object.
struct End {
    /// Unix seconds.
    not_after: u64,
    /// JSON pointer of the text, as short as the database needs it.
    path: Arc<str>,
    /// Which one it is of those in the text, from 0.
    nth: usize,
}

impl Certificates {
    /// Raises and clears the alarms of those that end soon.
    pub(in crate::events) async fn look(
        &mut self,
        state: &State,
        nodes: &[(String, NodeState)],
        settings: &Events,
        news: &mut News<'_>,
    ) {
        let groups = state.groups();
        self.images = groups.iter().map(|group| (group.id().clone(), group.image())).collect();
        if self.looked.is_none_or(|looked| looked.elapsed() >= settings.certificates.get()) {
            self.read().await;
            self.looked = Some(Instant::now());
        }
        self.hear(nodes);
        self.tell(&settings.certificate_days, news);
    }

    /// Takes note of what the newest images have.
    async fn read(&mut self) {
        let (images, mut known) = (self.images.clone(), std::mem::take(&mut self.groups));
        let work = move || {
            let follow = |(group, image): (Arc<str>, Arc<Image>)| {
                let mut found = known.remove(&group).unwrap_or_default();
                found.follow(image);
                (group, found)
            };
            images.into_iter().map(follow).collect::<HashMap<_, _>>()
        };
        self.groups = off_thread(work).await;
    }

    /// Takes note of what nodes tell. What one told that has not been heard of for long counts no more.
    fn hear(&mut self, nodes: &[(String, NodeState)]) {
        let is_heard = |node: &NodeState| !matches!(node.condition, Condition::Offline | Condition::Revoked);
        let heard = nodes.iter().filter(|(_, node)| is_heard(node));
        let heard: BTreeMap<_, _> =
            heard.map(|(group, node)| ((group.clone(), node.id.clone()), &node.troubles.certificates)).collect();
        self.told.retain(|name, _| heard.contains_key(name));
        for (name, told) in heard {
            if let Some(told) = told
                && self.told.get(&name) != Some(told)
            {
                self.told.insert(name, told.clone());
            }
        }
    }

    /// Tells of those that end within one of these limits, in days.
    fn tell(&self, limits: &[u64], news: &mut News<'_>) {
        let now = news.now();
        let mut present = BTreeMap::new();
        for (group, found) in &self.groups {
            for (key, end) in found.ends.iter().flat_map(|(key, ends)| ends.iter().map(move |end| (key, end))) {
                if let Some(days) = days_left(end.not_after, now, limits) {
                    let End { not_after, path, nth } = end;
                    let place = format!("#{path}/{nth}");
                    let more = json!({ "path": &**path, "nth": nth, "days": days, "not_after": not_after });
                    present.insert(about(group, key, &place), detail(key, more));
                }
            }
        }
        for ((group, key), not_after) in self.referred(now, limits) {
            let days = days_left(not_after, now, limits);
            let more = json!({ "path": null, "nth": null, "days": days, "not_after": not_after });
            present.insert(about(group, &key, ""), detail(&key, more));
        }
        news.alarms(present, |topic| topic.subject.starts_with(&format!("{}/", alarm::CERTIFICATE)));
    }

    /// Of each object that there is the first end that a node told, of those within one of these limits.
    fn referred(&self, now: u64, limits: &[u64]) -> BTreeMap<(&str, Key), u64> {
        let mut first = BTreeMap::new();
        let told = self.told.iter().flat_map(|((group, _), told)| told.iter().map(move |held| (group.as_str(), held)));
        for (group, HeldCertificate { kind, id, not_after }) in told {
            let ends_soon = || days_left(*not_after, now, limits).is_some();
            let Some(image) = self.images.get(group).filter(|_| ends_soon()) else { continue };
            let key = Kind::from_name(kind).map(|kind| Key::new(kind, id.as_str()));
            if let Some(key) = key.filter(|key| image.get(key).is_some()) {
                let first = first.entry((group, key)).or_insert(*not_after);
                *first = (*first).min(*not_after);
            }
        }
        first
    }
}

impl Default for Found {
    /// Of a group without objects.
    fn default() -> Self {
        Self { image: Arc::new(Image::new("", 0, [])), ends: BTreeMap::new() }
    }
}

impl Found {
    /// Looks at what differs in a newer image.
    fn follow(&mut self, image: Arc<Image>) {
        for Difference { before, after } in self.image.differences(&image) {
            if let Some(before) = before {
                self.ends.remove(&before.key);
            }
            if let Some(after) = after {
                let ends = ends(after);
                if !ends.is_empty() {
                    self.ends.insert(after.key.clone(), ends);
                }
            }
        }
        self.image = image;
    }
}

/// What an alarm of a certificate at this place of an object is about. See [`holder`].
fn about(group: &str, key: &Key, place: &str) -> Topic {
    topic(kind::ALARM, Some(group), &format!("{}{key}{place}", alarm::CERTIFICATE))
}

fn detail(key: &Key, mut detail: Value) -> Value {
    detail["object"] = key.path().trim_start_matches('/').into();
    detail
}

/// The ends of the certificates that stand in an object.
fn ends(object: &Object) -> Vec<End> {
    let names: &[&str] = match object.key.kind {
        Kind::Ssl => &["cert", "certs", "ca"],
        _ => &["client_cert"],
    };
    let mut ends = Vec::new();
    let text = std::str::from_utf8(&object.body).unwrap_or_default();
    if names.iter().any(|name| text.contains(name))
        && let Ok(value) = serde_json::from_str(text)
    {
        collect(&value, names, "", false, &mut ends);
    }
    ends
}

/// Collects the ends of certificates in a value that stands at this pointer: of all texts under these names. Plugins take upstreams
/// inline too, so they may stand anywhere.
fn collect(value: &Value, names: &[&str], path: &str, named: bool, ends: &mut Vec<End>) {
    match value {
        Value::String(text) if named => {
            // Names of members are whatever somebody wrote.
            let path: Arc<str> = clip(path.to_owned()).into();
            for (nth, end) in each_end(text).enumerate() {
                let not_after = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                ends.push(End { not_after, path: path.clone(), nth });
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                collect(item, names, &pointer::join(path, n), named, ends);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                collect(member, names, &pointer::join(path, name), named || names.contains(&&**name), ends);
            }
        }
        _ => {}
    }
}

/// What somebody has to be able to read to see an alarm of a certificate: objects of the kind of the one that has it.
pub(in crate::events) fn holder(topic: &Topic) -> Resource {
    let subject = topic.subject.strip_prefix(alarm::CERTIFICATE).unwrap_or_default();
    let path = subject.split_once('#').map_or(subject, |(path, _)| path);
    match Key::from_path(path) {
        Some(key) => Resource::Objects(key.kind),
        // A version that looked at ssl objects alone named just the id.
        None if path.matches('/').count() == 1 => Resource::Objects(Kind::Ssl),
        // Of a later version: what administrators alone may read stands for what is not known.
        None => Resource::Users,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use milecastle_store::Told;
    use milecastle_testkit::tls::Authority;

    use super::super::nodes::tests::node;
    use super::*;
    use crate::dpm::Troubles;

    const DAY: u64 = 86_400;
    const NOW: u64 = 1000;

    /// A group `g` that has these objects.
    fn with(objects: &[(Kind, &str, &Value)]) -> Certificates {
        let object = |&(kind, id, body): &(Kind, &str, &Value)| Object {
            key: Key::new(kind, id),
            body: body.to_string().into(),
            created: 1,
            modified: 1,
        };
        let (image, mut found) = (Arc::new(Image::new("l", 1, objects.iter().map(object))), Found::default());
        found.follow(image.clone());
        let (groups, images) = (HashMap::from([("g".into(), found)]), HashMap::from([("g".into(), image)]));
        Certificates { groups, images, ..Certificates::default() }
    }

    /// What is told at `now`: these members of each event.
    fn step(certificates: &Certificates, told: &mut Told, now: u64, members: [&str; 3]) -> Vec<Value> {
        let mut news = News::new(told, now);
        certificates.tell(&Events::default().certificate_days, &mut news);
        let (events, states) = news.into_parts();
        told.remember(states);
        events.into_iter().map(|event| json!(members.map(|member| &event.data[member]))).collect()
    }

    fn says(id: &str, condition: Condition, certificates: Option<&[(&str, &str, u64)]>) -> (String, NodeState) {
        let held = |&(kind, id, days): &(&str, &str, u64)| HeldCertificate {
            kind: kind.to_owned(),
            id: id.to_owned(),
            not_after: NOW + days * DAY,
        };
        let certificates = certificates.map(|all| all.iter().map(held).collect());
        let troubles = Troubles { certificates, ..Troubles::default() };
        ("g".to_owned(), NodeState { id: id.to_owned(), ..node(condition, troubles) })
    }

    #[test]
    fn what_nodes_tell_is_raised_once_by_the_first_end_and_stays_while_they_connect_anew() {
        let mut certificates = with(&[(Kind::Ssl, "1", &json!({})), (Kind::Route, "1", &json!({}))]);
        let mut told = Told::default();
        let mut step = |nodes: &[(String, NodeState)]| {
            certificates.hear(nodes);
            step(&certificates, &mut told, NOW, ["state", "object", "days"])
        };
        let none: [Value; 0] = [];
        // One of a later version's kinds, or of no object, concerns nobody.
        let others = [("ssl", "1", 20), ("route", "1", 90), ("of-a-later-version", "1", 1), ("ssl", "none", 1)];
        let both =
            [says("a", Condition::Healthy, Some(&others)), says("b", Condition::Healthy, Some(&[("ssl", "1", 5)]))];
        assert_eq!(step(&both), [json!(["raised", "ssls/1", 7])]);
        let renewed = says("a", Condition::Healthy, Some(&[("ssl", "1", 365)]));
        assert_eq!(step(&[renewed.clone(), says("b", Condition::Lost, Some(&[("ssl", "1", 5)]))]), none);
        assert_eq!(step(&[renewed.clone(), says("b", Condition::Late, None)]), none, "it connects anew");
        let gone = says("b", Condition::Offline, Some(&[("ssl", "1", 5)]));
        assert_eq!(step(&[renewed, gone]), [json!(["cleared", "ssls/1", 7])]);
    }

    #[test]
    fn one_that_has_ended_does_not_hide_another_and_each_place_is_named() {
        let authority = Authority::new("issuer");
        let [ended, soon] = [1, 12].map(|days: u64| authority.issue_for(&["a"], Duration::from_secs(days * DAY)).cert);
        // As a chain has that ends in an authority of before.
        let ssl = json!({ "cert": format!("{soon}{ended}"), "client": { "ca": ended } });
        let route = json!({ "plugins": { "a/b\0": { "client_cert": soon } } });
        let mut certificates = with(&[(Kind::Ssl, "1", &ssl), (Kind::Route, "1", &route), (Kind::Ssl, "2", &json!(1))]);
        let mut told = Told::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 6 * DAY;
        let mut raised = step(&certificates, &mut told, now, ["path", "nth", "days"]);
        raised.sort_by_key(ToString::to_string);
        let expected = [
            json!(["/cert", 0, 7]),
            json!(["/cert", 1, 0]),
            json!(["/client/ca", 0, 0]),
            json!(["/plugins/a~1b /client_cert", 0, 7]),
        ];
        assert_eq!(raised, expected);
        // What is taken away, or has none any more, is cleared.
        let image = Image::new("l", 2, []);
        certificates.groups.get_mut("g").unwrap().follow(Arc::new(image));
        assert_eq!(step(&certificates, &mut told, now, ["state", "nth", "days"]).len(), 4);
        assert_eq!(told.states.len(), 0);
    }
}
