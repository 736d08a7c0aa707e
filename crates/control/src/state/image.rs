//! One group's objects at one revision.

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use milecastle_model::{Change, Key, Kind, Object};
use milecastle_store::Gate;
use std::sync::Arc;

/// All objects of a gateway group at one revision. Immutable; a copy shares everything with the original.
#[derive(Clone, Debug)]
pub struct Image {
    lineage: Arc<str>,
    revision: u64,
    mark: Arc<str>,
    gate: Option<Gate>,
    /// By kind in the order of [`Kind::ALL`], then by id.
    objects: Vec<OrdMap<Arc<str>, Object>>,
}

/// One key under which two images hold different things; not both are `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference<'a> {
    /// What the one has.
    pub before: Option<&'a Object>,
    /// What the other has.
    pub after: Option<&'a Object>,
}

impl Image {
    /// The image of `objects`, which are all of the group at `revision`.
    pub fn new(lineage: impl Into<Arc<str>>, revision: u64, objects: impl IntoIterator<Item = Object>) -> Self {
        let maps = Kind::ALL.iter().map(|_| OrdMap::new()).collect();
        let mut image = Self { lineage: lineage.into(), revision, mark: "".into(), gate: None, objects: maps };
        for object in objects {
            image.kind_mut(object.key.kind).insert(object.key.id.clone(), object);
        }
        image
    }

    /// The image after `changes`, which lead to `revision`; without mark and gate.
    #[must_use]
    pub fn after(&self, revision: u64, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut image = self.clone();
        (image.revision, image.mark, image.gate) = (revision, "".into(), None);
        for change in changes {
            match change {
                Change::Put(object) => {
                    image.kind_mut(object.key.kind).insert(object.key.id.clone(), object);
                }
                Change::Delete { key, .. } => {
                    image.kind_mut(key.kind).remove(&key.id);
                }
            }
        }
        image
    }

    /// The same, of the revision that has this mark.
    #[must_use]
    pub fn marked(mut self, mark: impl Into<Arc<str>>) -> Self {
        self.mark = mark.into();
        self
    }

    /// The same, with the gate that was read along with it.
    #[must_use]
    pub fn gated(self, gate: Option<Gate>) -> Self {
        Self { gate, ..self }
    }

    /// Up to where nodes might go when it was read, if it was the head.
    pub fn gate(&self) -> Option<Gate> {
        self.gate
    }

    /// As in [`milecastle_store::Head`]; empty unless [`marked`](Self::marked).
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Random name of the history that the revision belongs to.
    pub fn lineage(&self) -> &Arc<str> {
        &self.lineage
    }

    /// The revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The object of that key.
    pub fn get(&self, key: &Key) -> Option<&Object> {
        self.kind(key.kind).get(&key.id)
    }

    /// All objects of a kind, by id in byte order.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.kind(kind).values()
    }

    /// The objects of a sub-resource that live below one parent, by id in byte order.
    pub fn below(&self, kind: Kind, parent: &str) -> impl Iterator<Item = &Object> {
        let prefix: Arc<str> = Key::child(kind, parent, "").id;
        let start = prefix.clone();
        self.kind(kind).range(start..).take_while(move |(id, _)| id.starts_with(&*prefix)).map(|(_, object)| object)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.iter().map(OrdMap::len).sum()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.objects.iter().all(OrdMap::is_empty)
    }

    /// All objects.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().flat_map(OrdMap::values)
    }

    /// Where another image differs from this one. The work grows with what differs if one was derived from the other.
    pub fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Difference<'a>> {
        self.objects.iter().zip(&other.objects).flat_map(|(here, there)| here.diff(there)).map(|item| match item {
            DiffItem::Add(_, new) => Difference { before: None, after: Some(new) },
            DiffItem::Update { old, new } => Difference { before: Some(old.1), after: Some(new.1) },
            DiffItem::Remove(_, old) => Difference { before: Some(old), after: None },
        })
    }

    fn kind(&self, kind: Kind) -> &OrdMap<Arc<str>, Object> {
        self.objects.get(position(kind)).expect("there is a map for each kind")
    }

    fn kind_mut(&mut self, kind: Kind) -> &mut OrdMap<Arc<str>, Object> {
        self.objects.get_mut(position(kind)).expect("there is a map for each kind")
    }
}

fn position(kind: Kind) -> usize {
    kind as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: Key, modified: u64) -> Object {
        Object { key, body: "{}".into(), created: 1, modified }
    }

    fn ids<'a>(objects: impl Iterator<Item = &'a Object>) -> Vec<&'a str> {
        objects.map(|object| &*object.key.id).collect()
    }

    #[test]
    fn changes_make_a_new_image_and_leave_the_old_one() {
        let route = |id: &str| Key::new(Kind::Route, id);
        let first =
            Image::new("l", 1, [object(route("b"), 1), object(route("a"), 1), object(Key::new(Kind::Ssl, "a"), 1)]);
        assert_eq!(ids(first.of_kind(Kind::Route)), ["a", "b"]);
        let second =
            first.after(3, [Change::Put(object(route("a"), 2)), Change::Delete { key: route("b"), revision: 3 }]);
        assert_eq!((first.revision(), first.len(), first.get(&route("a")).unwrap().modified), (1, 3, 1));
        assert_eq!((second.revision(), second.len(), second.get(&route("a")).unwrap().modified), (3, 2, 2));
        assert!(!second.is_empty() && second.after(4, []).lineage() == first.lineage());
    }

    #[test]
    fn differences_of_two_images() {
        let route = |id: &str| Key::new(Kind::Route, id);
        let first = Image::new("l", 1, (0..200).map(|n| object(route(&format!("{n:03}")), 1)));
        let put = |id: &str| Change::Put(object(route(id), 2));
        let second = first.after(2, [put("100"), put("0995"), Change::Delete { key: route("150"), revision: 2 }]);
        let seen = |from: &Image, to: &Image| -> Vec<(Option<u64>, Option<u64>, String)> {
            let modified = |object: Option<&Object>| object.map(|object| object.modified);
            let id = |difference: Difference<'_>| difference.after.or(difference.before).unwrap().key.id.to_string();
            from.differences(to).map(|d| (modified(d.before), modified(d.after), id(d))).collect()
        };
        let expected = [(None, Some(2), "0995"), (Some(1), Some(2), "100"), (Some(1), None, "150")];
        assert_eq!(seen(&first, &second), expected.map(|(before, after, id)| (before, after, id.to_owned())));
        let expected = [(Some(2), None, "0995"), (Some(2), Some(1), "100"), (None, Some(1), "150")];
        assert_eq!(seen(&second, &first), expected.map(|(before, after, id)| (before, after, id.to_owned())));
        assert_eq!(first.differences(&first).count(), 0);
        assert_eq!(first.objects().count(), 200);
    }

    #[test]
    fn what_lives_below_a_parent() {
        let keys = ["jack", "jack-2", "jac", "zoe"].map(|consumer| Key::credential(consumer, "c"));
        let more = [Key::credential("jack", "a"), Key::new(Kind::Consumer, "jack")];
        let image = Image::new("l", 1, keys.into_iter().chain(more).map(|key| object(key, 1)));
        assert_eq!(ids(image.below(Kind::Credential, "jack")), ["jack/credentials/a", "jack/credentials/c"]);
        assert_eq!(ids(image.below(Kind::Credential, "nobody")), [""; 0]);
    }
}
