//! Counters in the node's memory, shared by all workers.
//!
//! Invariants: a counter is found by the instance that counts and the text of the key, both compared in full; what has
//! run out is evicted as the table grows, and beyond a fixed number of keys the ones that run out first are, so that
//! clients who make up keys cannot fill the memory; a lock is held for one look-up and never across an await.

use super::window::{State, Verdict, Window};
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Locks that the keys are spread over.
const SHARDS: usize = 64;

/// Keys of a shard below which nothing is swept.
const SWEEP_FROM: usize = 64;

/// Most keys held at once, unless `plugin_attr.limit-count.max_keys` says otherwise: about 100 MB.
pub(super) const MAX_KEYS: usize = 1_048_576;

/// All counters of a node.
pub(super) struct Counters {
    shards: Box<[Mutex<Shard>]>,
    /// Seeded, since keys come from clients.
    hasher: RandomState,
    max_keys_of_shard: usize,
    next_instance: AtomicU64,
    groups: Mutex<HashMap<String, u64>>,
}

#[derive(Default)]
struct Shard {
    table: HashTable<Entry>,
    /// The table is swept when it has grown to this.
    sweep_at: usize,
}

struct Entry {
    instance: u64,
    key: Box<str>,
    state: State,
}

/// A moment, on both clocks. The wall clock is asked only for windows that need it.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) monotonic: Duration,
    pub(super) wall: Duration,
}

impl Counters {
    pub(super) fn new(max_keys: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            max_keys_of_shard: (max_keys / SHARDS).max(1),
            next_instance: AtomicU64::new(1),
            groups: Mutex::default(),
        }
    }

    /// A number for an instance that shares its counters with nobody.
    pub(super) fn instance(&self) -> u64 {
        self.next_instance.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of a group.
    pub(super) fn group(&self, name: &str) -> u64 {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        *groups.entry(name.to_owned()).or_insert_with(|| self.instance())
    }

    /// Counts one request for a key and says whether it may pass.
    pub(super) fn charge(&self, instance: u64, key: &str, window: Window, now: Now) -> Verdict {
        let hash = self.hash(instance, key);
        // The top bits; the table uses the others.
        let shard = &self.shards[(hash >> 58) as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.table.len() >= shard.sweep_at.max(SWEEP_FROM).min(self.max_keys_of_shard) {
            self.sweep(&mut shard, now.monotonic);
        }
        let same = |entry: &Entry| entry.instance == instance && *entry.key == *key;
        let rehash = |entry: &Entry| self.hash(entry.instance, &entry.key);
        match shard.table.entry(hash, same, rehash) {
            Place::Occupied(mut place) => place.get_mut().state.charge(window, now),
            Place::Vacant(place) => {
                let mut state = State::default();
                let verdict = state.charge(window, now);
                place.insert(Entry { instance, key: key.into(), state });
                verdict
            }
        }
    }

    /// Lets go of what has run out, and of the half that runs out first if that leaves no room.
    fn sweep(&self, shard: &mut Shard, now: Duration) {
        shard.table.retain(|entry| entry.state.ends() > now);
        if shard.table.len() >= self.max_keys_of_shard {
            let held = shard.table.len() * SHARDS;
            tracing::warn!(plugin = "limit-count", held, "too many keys: counters whose windows end first are dropped");
            let mut ends: Vec<Duration> = shard.table.iter().map(|entry| entry.state.ends()).collect();
            let middle = ends.len() / 2;
            let (_, median, _) = ends.select_nth_unstable(middle);
            let mut spare = self.max_keys_of_shard / 2;
            shard.table.retain(|entry| {
                let goes = entry.state.ends() <= *median && spare > 0;
                spare -= usize::from(goes);
                !goes
            });
        }
        shard.sweep_at = 2 * shard.table.len();
        shard.table.shrink_to(shard.sweep_at, |entry| self.hash(entry.instance, &entry.key));
    }

    fn hash(&self, instance: u64, key: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(instance);
        hasher.write(key.as_bytes());
        hasher.finish()
    }

    /// Number of keys held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().table.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::WindowType;
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { monotonic: Duration::from_secs(seconds), wall: Duration::from_secs(seconds) }
    }

    const WINDOW: Window = Window { kind: WindowType::Fixed, limit: 1, seconds: 10 };

    #[test]
    fn instances_and_keys_are_apart_and_groups_are_one() {
        let counters = Counters::new(MAX_KEYS);
        let (one, two) = (counters.instance(), counters.instance());
        assert!(counters.charge(one, "a", WINDOW, at(0)).allowed);
        assert!(counters.charge(one, "b", WINDOW, at(0)).allowed);
        assert!(counters.charge(two, "a", WINDOW, at(0)).allowed);
        assert!(!counters.charge(one, "a", WINDOW, at(0)).allowed);
        assert_eq!(counters.group("g"), counters.group("g"));
        assert!(![one, two, counters.group("h")].contains(&counters.group("g")));
    }

    #[test]
    fn what_has_run_out_is_evicted() {
        let counters = Counters::new(MAX_KEYS);
        for round in 0..20 {
            for key in 0..10_000 {
                counters.charge(1, &format!("{round} {key}"), WINDOW, at(round * 10));
            }
        }
        assert!(counters.len() < 40_000, "{} keys are held, 10,000 live", counters.len());
    }

    #[test]
    fn the_number_of_keys_is_bounded_and_the_longest_lived_stay() {
        let counters = Counters::new(SHARDS * 100);
        let long = Window { seconds: 1000, ..WINDOW };
        for key in 0..1000 {
            assert!(counters.charge(1, &format!("long {key}"), long, at(0)).allowed);
        }
        for key in 0..100_000 {
            counters.charge(1, &format!("made up {key}"), WINDOW, at(0));
        }
        assert!(counters.len() <= SHARDS * 100);
        let kept = (0..1000).filter(|key| !counters.charge(1, &format!("long {key}"), long, at(1)).allowed).count();
        assert_eq!(kept, 1000);
    }
}
