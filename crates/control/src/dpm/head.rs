//! A group at its newest revision, with what came shortly before: all that is needed to say what leads a node there.
//!
//! What must stay true:
//! - The digest of a [`Head`] is the sum over the objects of its image, whichever way it was reached.
//! - What is remembered is bounded in number, in the bytes that it keeps from being freed, and in time.
//! - A delta names, for each key that changed, what the head holds: so revisions coalesce by themselves.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use milecastle_model::{Key, Object};
use milecastle_wire::{Digest, DigestKey, pb, split_delta};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::state::Image;

/// Starting points whose deltas to one head are kept: nodes fall behind by few different distances.
const STEPS: usize = 64;

/// Messages of one delta, shared by all streams that need it.
pub(super) type Step = Arc<[pb::Delta]>;

/// How much of a group's past is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// Earlier images, so that deltas are made without the database.
    pub(super) images: usize,
    /// Bytes of replaced and deleted bodies that they may keep from being freed, the newest step aside.
    pub(super) bytes: usize,
    /// How long an image is one of them.
    pub(super) age: Duration,
}

/// A revision and what it adds up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) lineage: Arc<str>,
    pub(super) revision: u64,
    pub(super) digest: Digest,
}

/// Where a group stands.
pub(super) struct Head {
    image: Arc<Image>,
    digest: Digest,
    key: DigestKey,
    memory: Memory,
    /// Earlier images of the lineage, oldest first.
    past: VecDeque<Past>,
    steps: Mutex<HashMap<u64, Arc<OnceCell<Option<Step>>>>>,
}

/// An image that was the head.
#[derive(Clone)]
struct Past {
    image: Arc<Image>,
    digest: Digest,
    /// Size of what the next image no longer has.
    bytes: usize,
    /// When that took its place.
    replaced: Instant,
}

/// What the database knows of the time before the oldest image: keys that changed, and when last.
pub(super) struct History {
    pub(super) lineage: String,
    /// The changes after this revision …
    pub(super) from: u64,
    /// … up to this one.
    pub(super) to: u64,
    pub(super) changed: Vec<(Key, u64)>,
}

impl Head {
    /// A group without a past. The work grows with the configuration.
    pub(super) fn first(image: Arc<Image>, memory: Memory) -> Self {
        let key = DigestKey::of_lineage(image.lineage());
        let digest = image.objects().map(|object| key.object(object)).sum();
        Self { image, digest, key, memory, past: VecDeque::new(), steps: Mutex::default() }
    }

    /// The group at a later image. Of another lineage, or set back: as [`first`](Self::first). Otherwise the work grows with
    /// the change.
    pub(super) fn after(&self, image: Arc<Image>) -> Self {
        if image.lineage() != self.image.lineage() || image.revision() <= self.image.revision() {
            return Self::first(image, self.memory);
        }
        let (mut digest, mut bytes) = (self.digest, 0);
        for difference in self.image.differences(&image) {
            if let Some(old) = difference.before {
                digest -= self.key.object(old);
                bytes += old.body.len();
            }
            if let Some(new) = difference.after {
                digest += self.key.object(new);
            }
        }
        let mut past = self.past.clone();
        past.push_back(Past { image: self.image.clone(), digest: self.digest, bytes, replaced: Instant::now() });
        let mut kept: usize = past.iter().map(|past| past.bytes).sum();
        while past.len() > self.memory.images || (kept > self.memory.bytes && past.len() > 1) {
            kept -= past.pop_front().map_or(0, |past| past.bytes);
        }
        Self { image, digest, key: self.key.clone(), memory: self.memory, past, steps: Mutex::default() }
    }

    /// The same without what has been remembered for long enough by `now`, and the deltas that begin before the rest; `None`: there is
    /// nothing of either.
    pub(super) fn without_old(&self, now: Instant) -> Option<Self> {
        let old = self.past.partition_point(|past| now.saturating_duration_since(past.replaced) >= self.memory.age);
        let oldest = self.past.get(old).map_or(self.revision(), |past| past.image.revision());
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if old == 0 && steps.keys().all(|from| *from >= oldest) {
            return None;
        }
        let steps = steps.iter().filter(|(from, _)| **from >= oldest);
        Some(Self {
            image: self.image.clone(),
            digest: self.digest,
            key: self.key.clone(),
            memory: self.memory,
            past: self.past.range(old..).cloned().collect(),
            steps: Mutex::new(steps.map(|(from, cell)| (*from, cell.clone())).collect()),
        })
    }

    pub(super) fn image(&self) -> &Arc<Image> {
        &self.image
    }

    pub(super) fn lineage(&self) -> &Arc<str> {
        self.image.lineage()
    }

    pub(super) fn revision(&self) -> u64 {
        self.image.revision()
    }

    pub(super) fn position(&self) -> Position {
        Position { lineage: self.lineage().clone(), revision: self.revision(), digest: self.digest }
    }

    /// The oldest revision from which the way is known without the database.
    pub(super) fn oldest(&self) -> u64 {
        self.past.front().map_or(self.revision(), |past| past.image.revision())
    }

    /// Image and digest of exactly this revision, if it is remembered.
    pub(super) fn at(&self, revision: u64) -> Option<(&Arc<Image>, Digest)> {
        if revision == self.revision() {
            return Some((&self.image, self.digest));
        }
        let found = self.past.binary_search_by_key(&revision, |past| past.image.revision()).ok()?;
        self.past.get(found).map(|past| (&past.image, past.digest))
    }

    /// The place for the delta from `from` to here; `None` if there are too many different ones to keep.
    pub(super) fn step_cell(&self, from: u64) -> Option<Arc<OnceCell<Option<Step>>>> {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.len() >= STEPS && !steps.contains_key(&from) {
            return None;
        }
        Some(steps.entry(from).or_default().clone())
    }

    /// The delta from `from` to here, in messages; `None` if the way is not known. `history` must reach from `from` at the
    /// latest to the oldest image, and is needed only if `from` lies before that.
    pub(super) fn step(&self, from: u64, history: Option<&History>) -> Option<Step> {
        let changes = self.changes(from, history)?;
        let delta = pb::Delta {
            lineage: self.lineage().to_string(),
            from,
            to: self.revision(),
            digest: self.digest.into(),
            changes,
            chunk: None,
            mark: self.image.mark().to_owned(),
        };
        match split_delta(delta) {
            Ok(messages) => Some(messages.into()),
            Err(error) => {
                tracing::error!(%error, "a delta could not be packed; a snapshot goes out instead");
                None
            }
        }
    }

    fn changes(&self, from: u64, history: Option<&History>) -> Option<Vec<pb::Change>> {
        if from >= self.oldest() {
            // The newest image that is not newer: what it has in common with the head, the node at `from` has too.
            let base = self.past.partition_point(|past| past.image.revision() <= from).checked_sub(1)?;
            let base = self.past.get(base)?;
            // A node in between has some of the changes already.
            let due = |object: &Object| object.modified > from;
            return Some(
                base.image
                    .differences(&self.image)
                    .filter(|difference| difference.after.is_none_or(due))
                    .filter_map(|difference| Some(self.change(&difference.after.or(difference.before)?.key)))
                    .collect(),
            );
        }
        let history = history
            .filter(|known| *known.lineage == **self.lineage() && known.from <= from && known.to >= self.oldest())?;
        let mut keys: BTreeSet<&Key> =
            history.changed.iter().filter(|(_, revision)| *revision > from).map(|(key, _)| key).collect();
        let later = self.past.partition_point(|past| past.image.revision() <= history.to).checked_sub(1);
        if let Some(base) = later.and_then(|at| self.past.get(at)) {
            let differences = base.image.differences(&self.image);
            keys.extend(differences.filter_map(|difference| Some(&difference.after.or(difference.before)?.key)));
        }
        Some(keys.into_iter().map(|key| self.change(key)).collect())
    }

    /// What this head says of a key.
    fn change(&self, key: &Key) -> pb::Change {
        let change = match self.image.get(key) {
            Some(object) => pb::change::Change::Put(object.into()),
            None => pb::change::Change::Delete(pb::Delete { key: Some(key.into()), revision: self.revision() }),
        };
        pb::Change { change: Some(change) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use milecastle_model::{Change, Kind};
    use milecastle_wire::DeltaAssembler;

    use super::*;

    const MEMORY: Memory = Memory { images: 20, bytes: 1 << 20, age: Duration::from_secs(30) };

    /// What a node holds: by kind and id the body.
    type Held = BTreeMap<(String, String), Vec<u8>>;

    fn put(id: &str, revision: u64) -> Change {
        let body = format!("{{\"id\":\"{id}\",\"at\":{revision}}}").into();
        Change::Put(Object { key: Key::new(Kind::Route, id), body, created: revision, modified: revision })
    }

    fn delete(id: &str, revision: u64) -> Change {
        Change::Delete { key: Key::new(Kind::Route, id), revision }
    }

    fn held(head: &Head) -> Held {
        let parts =
            |object: &Object| ((object.key.kind.name().to_owned(), object.key.id.to_string()), object.body.to_vec());
        head.image.objects().map(parts).collect()
    }

    /// Takes the step as a node does, and gives the number of its changes.
    fn check(node: &Held, head: &Head, from: u64, history: Option<&History>) -> usize {
        let step = head.step(from, history).expect("the way is known");
        let mut assembler = DeltaAssembler::new(milecastle_wire::Limits::default());
        let delta = step.iter().find_map(|message| assembler.push(message.clone()).unwrap()).unwrap();
        assert_eq!((delta.from, delta.to, &*delta.lineage), (from, head.revision(), &**head.lineage()));
        let (mut node, changes) = (node.clone(), delta.changes.len());
        for change in delta.changes {
            match change.change.unwrap() {
                pb::change::Change::Put(object) => {
                    let key = object.key.unwrap();
                    node.insert((key.kind, key.id), object.body.to_vec());
                }
                pb::change::Change::Delete(delete) => {
                    let key = delete.key.unwrap();
                    node.remove(&(key.kind, key.id));
                }
            }
        }
        assert_eq!(node, held(head));
        let key = DigestKey::of_lineage(head.lineage());
        let digest: Digest = node.iter().map(|((kind, id), body)| key.item(kind, id, body)).sum();
        assert_eq!((digest, &*delta.digest), (head.digest, &digest.to_bytes()[..]));
        changes
    }

    #[test]
    fn every_remembered_revision_leads_to_the_head() {
        let mut image = Image::new("l", 0, []);
        let mut heads = vec![Arc::new(Head::first(Arc::new(image.clone()), MEMORY))];
        // Revision 4 came together with 5, so no image of it was ever seen.
        for (to, changes) in [
            (1, vec![put("a", 1), put("b", 1)]),
            (2, vec![put("c", 2)]),
            (3, vec![delete("b", 3)]),
            (5, vec![put("a", 5), put("d", 4)]),
            (6, vec![delete("c", 6), put("b", 6)]),
        ] {
            image = image.after(to, changes);
            let next = heads.last().unwrap().after(Arc::new(image.clone()));
            heads.push(Arc::new(next));
        }
        let last = heads.last().unwrap();
        assert_eq!(last.oldest(), 0);
        let expected = [(0, 3), (1, 3), (2, 4), (3, 4), (5, 2)];
        for (head, (from, changes)) in heads.iter().zip(expected) {
            assert_eq!(check(&held(head), last, from, None), changes, "from {from}");
            assert_eq!(last.at(from).map(|(_, digest)| digest), Some(head.digest));
        }
        // A node that another replica left at 4: it has the new `d`, and not the new `a`.
        let mut four = held(&heads[3]);
        four.insert(("route".to_owned(), "d".to_owned()), b"{\"id\":\"d\",\"at\":4}".to_vec());
        assert_eq!(check(&four, last, 4, None), 3);
        assert!(last.at(4).is_none());
    }

    #[test]
    fn history_leads_over_the_gap() {
        let old = Head::first(Arc::new(Image::new("l", 0, []).after(2, [put("a", 1), put("b", 2)])), MEMORY);
        let image = old.image.after(5, [put("a", 4), delete("b", 5), put("c", 5)]);
        // A replica that started at revision 5, and heard of 6.
        let started = Head::first(Arc::new(image.clone()), MEMORY);
        let head = started.after(Arc::new(image.after(6, [put("d", 6)])));
        assert_eq!(head.oldest(), 5);
        assert!(head.step(2, None).is_none());
        let key = |id: &str| Key::new(Kind::Route, id);
        let changed = vec![(key("a"), 4), (key("b"), 5), (key("c"), 5)];
        let history =
            |lineage: &str, from, to| History { lineage: lineage.to_owned(), from, to, changed: changed.clone() };
        assert_eq!(check(&held(&old), &head, 2, Some(&history("l", 1, 5))), 4);
        // The database was asked after 6 was made.
        assert_eq!(check(&held(&old), &head, 2, Some(&history("l", 2, 6))), 4);
        for wrong in [history("l", 3, 6), history("l", 2, 4), history("other", 2, 6)] {
            assert!(head.step(2, Some(&wrong)).is_none());
        }
    }

    #[test]
    fn another_lineage_or_a_step_back_begins_anew() {
        let first = Head::first(Arc::new(Image::new("l", 0, []).after(2, [put("a", 1)])), MEMORY);
        let restored = first.after(Arc::new(Image::new("m", 0, []).after(3, [put("a", 1)])));
        assert_eq!(restored.oldest(), 3);
        assert_ne!(restored.digest, first.digest);
        let back = first.after(Arc::new(Image::new("l", 1, [])));
        assert_eq!((back.oldest(), back.digest), (1, Digest::default()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut head = Head::first(Arc::new(Image::new("l", 0, [])), MEMORY);
        for revision in 1..=100 {
            head = head.after(Arc::new(head.image.after(revision, [put("a", revision)])));
        }
        assert_eq!(head.past.len(), MEMORY.images);
        let large = |revision| {
            let body = vec![b'x'; MEMORY.bytes / 4].into();
            Change::Put(Object { key: Key::new(Kind::Route, "large"), body, created: 1, modified: revision })
        };
        for revision in 101..=120 {
            head = head.after(Arc::new(head.image.after(revision, [large(revision)])));
        }
        assert!(head.past.len() < 10);
        assert!(head.past.iter().map(|past| past.bytes).sum::<usize>() <= MEMORY.bytes);
    }

    #[test]
    fn what_is_old_is_forgotten_and_nothing_keeps_it() {
        let first = Arc::new(Image::new("l", 0, []).after(1, [put("a", 1)]));
        let second = Arc::new(first.after(2, [delete("a", 2)]));
        let third = Arc::new(second.after(3, [put("b", 3)]));
        let mut head = Head::first(first.clone(), MEMORY).after(second);
        let began = head.past[0].replaced;
        head = head.after(third);
        head.past[1].replaced = began + MEMORY.age / 2;
        let cell = |head: &Head, from| head.step_cell(from).expect("there is room for it");
        for from in [1, 2] {
            assert!(cell(&head, from).set(head.step(from, None)).is_ok());
        }
        assert!(head.without_old(began + MEMORY.age / 2).is_none(), "nothing is old");
        let younger = head.without_old(began + MEMORY.age).expect("revision 1 is old");
        drop(head);
        assert_eq!((younger.oldest(), younger.revision(), Arc::strong_count(&first)), (2, 3, 1));
        assert!(cell(&younger, 1).get().is_none() && cell(&younger, 2).get().is_some());
        assert!(younger.step(1, None).is_none() && younger.step(2, None).is_some());
        let youngest = younger.without_old(began + 2 * MEMORY.age).expect("all is old");
        assert_eq!(youngest.oldest(), 3);
        assert!(youngest.without_old(began + 2 * MEMORY.age).is_none());
    }
}
