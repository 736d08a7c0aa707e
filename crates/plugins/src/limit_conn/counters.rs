//! How many are open for each key, for the whole node.

use foldhash::quality::RandomState;
use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, PoisonError};

const SHARDS: usize = 64;

type Shard = Mutex<HashMap<Arc<str>, u64, RandomState>>;

/// Counts by key; a key that nobody holds takes no room.
pub(crate) struct Counters {
    shards: Arc<[Shard]>,
    /// Seeded, since keys come from clients.
    hasher: RandomState,
}

/// One of those that are open; it counts until it is dropped.
pub(crate) struct Place {
    shards: Arc<[Shard]>,
    shard: usize,
    key: Arc<str>,
}

impl Default for Counters {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::default() }
    }
}

impl Counters {
    /// Takes a place for a key, if fewer than `most` are taken; says how many are then.
    pub(crate) fn enter(&self, key: String, most: u64) -> Option<(Place, u64)> {
        let shard = usize::try_from(self.hasher.hash_one(&key) % SHARDS as u64).unwrap_or_default();
        let mut counts = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let key: Arc<str> = key.into();
        let open = counts.get(&key).copied().unwrap_or_default() + 1;
        if open > most {
            return None;
        }
        counts.insert(key.clone(), open);
        drop(counts);
        Some((Place { shards: self.shards.clone(), shard, key }, open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.shards[self.shard].lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.key) {
            Some(open) if *open > 1 => *open -= 1,
            _ => drop(counts.remove(&self.key)),
        }
    }
}
