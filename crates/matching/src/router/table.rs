//! A persistent hash table of byte strings.
//!
//! Two levels of 64 branches lead to small flat tables. A clone shares everything; a change copies the one small
//! table it touches and the two nodes above it, or nothing where nobody else holds them, so that building from nothing
//! is done in place. A lookup is two array steps and a short scan, without a hash computed here; entries lie in the
//! flat table itself, so that of all memory it touches only one place is not shared by many lookups.

use std::array;
use std::sync::Arc;

const BRANCHES: usize = 64;
const BRANCH_BITS: u32 = 6;

/// Keys are a tag and bytes; equal bytes under different tags are different keys. The caller brings the hash of both.
pub(super) struct Table<V> {
    root: Arc<Node<Node<[Slot<V>]>>>,
    len: usize,
}

struct Node<C: ?Sized>([Option<Arc<C>>; BRANCHES]);

/// A place of a flat table, free or taken.
type Slot<V> = Option<Entry<V>>;

#[derive(Clone)]
struct Entry<V> {
    hash: u64,
    tag: u64,
    key: Key,
    value: V,
}

/// The longest key that is kept in its entry.
const INLINE: usize = 46;

/// The bytes of a key, in place if they are few: a lookup then touches no memory apart from the entry.
#[derive(Clone)]
enum Key {
    Inline { len: u8, bytes: [u8; INLINE] },
    Boxed(Box<[u8]>),
}

impl Key {
    fn new(key: &[u8]) -> Key {
        match u8::try_from(key.len()) {
            Ok(len) if key.len() <= INLINE => {
                let mut bytes = [0; INLINE];
                bytes.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
                Key::Inline { len, bytes }
            }
            _ => Key::Boxed(key.into()),
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Key::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Key::Boxed(bytes) => bytes,
        }
    }
}

impl<V> Clone for Table<V> {
    fn clone(&self) -> Self {
        Table { root: Arc::clone(&self.root), len: self.len }
    }
}

impl<C: ?Sized> Clone for Node<C> {
    fn clone(&self) -> Self {
        Node(self.0.clone())
    }
}

impl<C: ?Sized> Default for Node<C> {
    fn default() -> Self {
        Node(array::from_fn(|_| None))
    }
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Table { root: Arc::new(Node::default()), len: 0 }
    }
}

/// The three parts of a hash: branch of the root, branch below it, place in the flat table.
#[inline]
fn split(hash: u64) -> (usize, usize, usize) {
    let branch = |hash: u64| hash as usize % BRANCHES;
    (branch(hash), branch(hash >> BRANCH_BITS), (hash >> (2 * BRANCH_BITS)) as usize)
}

/// The place of a key in a flat table, or the free place where it would go. There is always a free place, and the
/// length is a power of two.
#[inline]
fn place<V>(slots: &[Slot<V>], hash: u64, tag: u64, key: &[u8]) -> Result<usize, usize> {
    let mask = slots.len() - 1;
    let mut at = split(hash).2 & mask;
    loop {
        match &slots[at] {
            None => return Err(at),
            Some(entry) if entry.hash == hash && entry.tag == tag && entry.key.bytes() == key => return Ok(at),
            Some(_) => at = (at + 1) & mask,
        }
    }
}

/// A flat table of the given entries, at most three quarters full.
fn flat<V>(entries: impl Iterator<Item = Entry<V>>, count: usize) -> Arc<[Slot<V>]> {
    let size = (count * 4 / 3 + 1).next_power_of_two();
    let mut slots: Vec<Slot<V>> = Vec::with_capacity(size);
    slots.resize_with(size, || None);
    for entry in entries {
        let mut at = split(entry.hash).2 & (size - 1);
        while slots[at].is_some() {
            at = (at + 1) & (size - 1);
        }
        slots[at] = Some(entry);
    }
    slots.into()
}

/// The entries of a flat table, moved out if nobody else holds it.
fn entries<V: Clone>(mut slots: Arc<[Slot<V>]>) -> Vec<Entry<V>> {
    match Arc::get_mut(&mut slots) {
        Some(slots) => slots.iter_mut().filter_map(Option::take).collect(),
        None => slots.iter().flatten().cloned().collect(),
    }
}

impl<V> Table<V> {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn get(&self, hash: u64, tag: u64, key: &[u8]) -> Option<&V> {
        let (upper, lower, _) = split(hash);
        let slots = self.root.0[upper].as_ref()?.0[lower].as_ref()?;
        let at = place(slots, hash, tag, key).ok()?;
        slots[at].as_ref().map(|entry| &entry.value)
    }
}

impl<V: Clone> Table<V> {
    /// The value of a key, to be changed; `None` without a copy made if there is none.
    pub(super) fn get_mut(&mut self, hash: u64, tag: u64, key: &[u8]) -> Option<&mut V> {
        self.get(hash, tag, key)?;
        let (upper, lower, _) = split(hash);
        let node = Arc::make_mut(Arc::make_mut(&mut self.root).0[upper].as_mut()?);
        let slots = Arc::make_mut(node.0[lower].as_mut()?);
        let at = place(slots, hash, tag, key).ok()?;
        slots[at].as_mut().map(|entry| &mut entry.value)
    }

    /// Sets the value of a key that is not there yet.
    pub(super) fn insert_new(&mut self, hash: u64, tag: u64, key: &[u8], value: V) {
        let (upper, lower, _) = split(hash);
        let node = Arc::make_mut(Arc::make_mut(&mut self.root).0[upper].get_or_insert_default());
        let slots = node.0[lower].get_or_insert_with(|| flat(std::iter::empty(), 1));
        let used = slots.iter().flatten().count();
        if (used + 1) * 4 > slots.len() * 3 {
            let old = std::mem::replace(slots, Arc::new([]));
            *slots = flat(entries(old).into_iter(), used + 1);
        }
        let slots = Arc::make_mut(slots);
        if let Err(at) = place(slots, hash, tag, key) {
            slots[at] = Some(Entry { hash, tag, key: Key::new(key), value });
            self.len += 1;
        }
    }

    /// Removes a key, and the nodes that become empty with it.
    pub(super) fn remove(&mut self, hash: u64, tag: u64, key: &[u8]) {
        if self.get(hash, tag, key).is_none() {
            return;
        }
        let (upper, lower, _) = split(hash);
        let root = Arc::make_mut(&mut self.root);
        let Some(node) = root.0[upper].as_mut().map(Arc::make_mut) else { return };
        let Some(slots) = node.0[lower].take() else { return };
        // Made anew: entries after the gap may have to move up.
        let mut kept = entries(slots);
        kept.retain(|entry| entry.hash != hash || entry.tag != tag || entry.key.bytes() != key);
        let count = kept.len();
        node.0[lower] = (count > 0).then(|| flat(kept.into_iter(), count));
        if node.0.iter().all(Option::is_none) {
            root.0[upper] = None;
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A poor hash, so that keys meet.
    fn hash(key: u8) -> u64 {
        u64::from(key % 7) << 12 | u64::from(key % 2)
    }

    fn contents(table: &Table<u32>) -> BTreeMap<u8, u32> {
        (0..=u8::MAX).filter_map(|key| table.get(hash(key), 0, &[key]).map(|value| (key, *value))).collect()
    }

    proptest! {
        #[test]
        fn a_table_is_a_map_and_its_clones_stay(steps in vec((any::<u8>(), any::<u32>(), 0..4), 0..300)) {
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            let mut versions = Vec::new();
            for (key, value, action) in steps {
                match action {
                    0 => {
                        table.remove(hash(key), 0, &[key]);
                        model.remove(&key);
                    }
                    1 => versions.push((table.clone(), model.clone())),
                    _ => {
                        match table.get_mut(hash(key), 0, &[key]) {
                            Some(old) => *old = value,
                            None => table.insert_new(hash(key), 0, &[key], value),
                        }
                        model.insert(key, value);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
            }
            versions.push((table, model));
            for (table, model) in versions {
                prop_assert_eq!(contents(&table), model);
            }
        }
    }

    #[test]
    fn an_emptied_table_holds_no_nodes() {
        let mut table = Table::default();
        (0..=u8::MAX).for_each(|key| table.insert_new(hash(key), 3, &[key], ()));
        assert!(table.get(hash(1), 2, &[1]).is_none(), "found under another tag");
        (0..=u8::MAX).for_each(|key| table.remove(hash(key), 3, &[key]));
        assert_eq!(table.len(), 0);
        assert!(table.root.0.iter().all(Option::is_none));
    }
}
