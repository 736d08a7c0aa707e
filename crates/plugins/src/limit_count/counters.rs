//! Counters in the node's memory, shared by all workers.
//!
//! Invariants: a counter is found by the instance that counts and the text of the key, both compared in full; what has
//! run out is evicted as the table grows, and beyond a fixed number of keys those are that have spent least of their quota,
//! so that clients who make up keys can neither fill the memory nor have their own quota begin anew; a lock is held for one
//! look-up and never across an await.

use super::window::{State, Verdict, Window};
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use milecastle_telemetry::Paced;
use milecastle_telemetry::metrics::{Counter, Handle};
use std::cmp::Ordering as Order;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Locks that the keys are spread over.
const SHARDS: usize = 64;

/// Keys of a shard below which nothing is swept.
const SWEEP_FROM: usize = 64;

/// Where a shard is full, one in so many of its counters makes room: looking at all of them costs each new key little.
const EVICTED: usize = 16;

/// How often the log says that counters are dropped.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Most keys held at once, unless `plugin_attr.limit-count.max_keys` says otherwise: about 200 MB.
pub(super) const MAX_KEYS: usize = 1_048_576;

/// All counters of a node.
pub(super) struct Counters {
    shards: Box<[Mutex<Shard>]>,
    /// Seeded, since keys come from clients.
    hasher: RandomState,
    max_keys_of_shard: usize,
    /// Counters that were dropped before their time.
    dropped: Handle<Counter>,
    warned: Paced,
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
    /// How much of the quota was spent after the last request ([`Verdict::spent`]).
    spent: u32,
}

impl Entry {
    /// Of two counters the smaller one is the smaller loss: less of its quota is spent, or else it ends sooner.
    fn loss(&self) -> (u32, Duration) {
        (self.spent, self.state.ends())
    }
}

/// A moment, on both clocks. The wall clock is asked only for windows that need it.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) monotonic: Duration,
    pub(super) wall: Duration,
}

impl Counters {
    /// Counters of which at most so many are held; `dropped` counts those that had to make room.
    pub(super) fn new(max_keys: usize, dropped: Handle<Counter>) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            max_keys_of_shard: (max_keys / SHARDS).max(1),
            dropped,
            warned: Paced::new(WARN_EVERY),
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
        let shard = &mut *shard;
        let same = |entry: &Entry| entry.instance == instance && *entry.key == *key;
        if let Some(entry) = shard.table.find_mut(hash, same) {
            let verdict = entry.state.charge(window, now);
            entry.spent = verdict.spent(window.limit);
            return verdict;
        }
        if shard.table.len() >= shard.sweep_at.max(SWEEP_FROM).min(self.max_keys_of_shard) {
            self.sweep(shard, now.monotonic);
        }
        let mut state = State::default();
        let verdict = state.charge(window, now);
        let entry = Entry { instance, key: key.into(), state, spent: verdict.spent(window.limit) };
        shard.table.insert_unique(hash, entry, |entry| self.hash(entry.instance, &entry.key));
        verdict
    }

    /// Lets go of what has run out, and if that leaves no room, of the counters that are the smallest loss.
    fn sweep(&self, shard: &mut Shard, now: Duration) {
        shard.table.retain(|entry| entry.state.ends() > now);
        if shard.table.len() >= self.max_keys_of_shard {
            let dropped = evict(&mut shard.table, (self.max_keys_of_shard / EVICTED).max(1)) as u64;
            self.dropped.add(dropped);
            if let Some(dropped) = self.warned.happened(dropped, Instant::now()) {
                tracing::warn!(
                    plugin = "limit-count",
                    dropped,
                    "too many keys: counters that had spent least of their quota were dropped; see what clients may choose of \
                     the key, or raise plugin_attr.limit-count.max_keys"
                );
            }
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

/// Takes the smallest losses out of a table, `number` of them or all; says how many they were.
fn evict(table: &mut HashTable<Entry>, number: usize) -> usize {
    let before = table.len();
    let mut losses: Vec<_> = table.iter().map(Entry::loss).collect();
    let Some(last) = number.min(before).checked_sub(1) else { return 0 };
    let (smaller, &mut largest, _) = losses.select_nth_unstable(last);
    let mut equal = 1 + smaller.iter().filter(|loss| **loss == largest).count();
    table.retain(|entry| match entry.loss().cmp(&largest) {
        Order::Less => false,
        Order::Equal if equal > 0 => {
            equal -= 1;
            false
        }
        Order::Equal | Order::Greater => true,
    });
    before - table.len()
}

#[cfg(test)]
mod tests {
    use super::super::config::WindowType;
    use super::*;
    use milecastle_telemetry::metrics::Registry;

    fn counters(max_keys: usize) -> Counters {
        Counters::new(max_keys, Registry::default().limit_hits().unwrap().with(&["max_keys"]))
    }

    fn at(seconds: u64) -> Now {
        Now { monotonic: Duration::from_secs(seconds), wall: Duration::from_secs(seconds) }
    }

    const WINDOW: Window = Window { kind: WindowType::Fixed, limit: 1, seconds: 10 };

    #[test]
    fn instances_and_keys_are_apart_and_groups_are_one() {
        let counters = counters(MAX_KEYS);
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
        let counters = counters(MAX_KEYS);
        for round in 0..20 {
            for key in 0..10_000 {
                counters.charge(1, &format!("{round} {key}"), WINDOW, at(round * 10));
            }
        }
        assert!(counters.len() < 40_000, "{} keys are held, 10,000 live", counters.len());
    }

    #[test]
    fn the_number_of_keys_is_bounded_and_the_longest_lived_stay() {
        let counters = counters(SHARDS * 100);
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

    #[test]
    fn made_up_keys_begin_no_spent_quota_anew() {
        let counters = counters(SHARDS * 100);
        let window = Window { limit: 10, ..WINDOW };
        let spend = |key: &str, times: usize| {
            for _ in 0..times {
                counters.charge(1, key, window, at(0));
            }
        };
        for key in 0..500 {
            spend(&format!("spent {key}"), 10);
            spend(&format!("nearly spent {key}"), 9);
        }
        // Their windows end later.
        for key in 0..100_000 {
            counters.charge(1, &format!("made up {key}"), window, at(1));
        }
        assert!(counters.len() <= SHARDS * 100);
        for key in 0..500 {
            assert!(!counters.charge(1, &format!("spent {key}"), window, at(2)).allowed);
            assert_eq!(counters.charge(1, &format!("nearly spent {key}"), window, at(2)).remaining, 0);
        }
    }

    #[test]
    fn a_key_that_is_counted_needs_no_room() {
        let counters = counters(1);
        assert!(counters.charge(1, "a", WINDOW, at(0)).allowed);
        assert!(!counters.charge(1, "a", WINDOW, at(1)).allowed);
        assert_eq!(counters.dropped.get(), 0);
    }

    #[test]
    fn no_more_is_dropped_than_makes_room_and_all_of_it_is_counted() {
        let counters = counters(SHARDS * 160);
        let keys = SHARDS * 1000;
        for key in 0..keys {
            counters.charge(1, &key.to_string(), WINDOW, at(0));
        }
        let held = counters.len();
        assert!((SHARDS * 150..=SHARDS * 160).contains(&held), "{held} are held");
        assert_eq!(counters.dropped.get(), (keys - held) as u64);
    }
}
