//! What clients take their TLS sessions up again with (`docs/spec/tls.md` §1). None of it opens anything after its time, and none
//! of it holds a client's certificate (§6).

use rustls::crypto::aws_lc_rs;
use rustls::server::{ProducesTickets, StoresServerSessions};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest lifetime of a ticket that may be told (RFC 8446 §4.6.1).
const LONGEST_TOLD: Duration = Duration::from_secs(7 * 24 * 3600);

/// The sessions of one server configuration. They are secrets, and only for memory.
pub(super) struct Sessions(Mutex<Kept>);

struct Kept {
    life: Duration,
    most: usize,
    sessions: HashMap<Vec<u8>, Vec<u8>>,
    /// When each session ends, in the order in which they came. Those that were taken meanwhile are among them.
    ends: VecDeque<(Instant, Vec<u8>)>,
    /// Counts those that were forgotten before their time.
    forgotten: Arc<AtomicU64>,
}

impl Sessions {
    /// Keeps each session for `life`, and of more than `most` those that came last; `forgotten` counts the others.
    pub(super) fn new(life: Duration, most: usize, forgotten: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Kept::new(life, most, forgotten))))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, id: Vec<u8>, session: Vec<u8>) -> bool {
        self.kept().put(id, session, Instant::now());
        true
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.kept().at(Instant::now()).get(id).cloned()
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.kept().at(Instant::now()).remove(id)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl Kept {
    fn new(life: Duration, most: usize, forgotten: Arc<AtomicU64>) -> Self {
        Self { life, most, sessions: HashMap::new(), ends: VecDeque::new(), forgotten }
    }

    fn put(&mut self, id: Vec<u8>, session: Vec<u8>, now: Instant) {
        self.sessions.insert(id.clone(), session);
        self.ends.push_back((now + self.life, id));
        self.at(now);
    }

    /// The sessions that have not ended.
    fn at(&mut self, now: Instant) -> &mut HashMap<Vec<u8>, Vec<u8>> {
        while let Some((end, id)) = self.ends.front()
            && (*end <= now || self.ends.len() > self.most)
        {
            let was_kept = self.sessions.remove(id).is_some();
            self.forgotten.fetch_add(u64::from(was_kept && *end > now), Ordering::Relaxed);
            self.ends.pop_front();
        }
        &mut self.sessions
    }
}

/// Tickets that say when they were made: their keys alone would let them live for hours.
#[derive(Debug)]
pub(super) struct Tickets {
    sealed: Arc<dyn ProducesTickets>,
    life: Duration,
    began: Instant,
}

impl Tickets {
    /// # Errors
    /// There is no randomness for a key.
    pub(super) fn new(life: Duration) -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self { sealed: aws_lc_rs::Ticketer::new()?, life, began: Instant::now() }))
    }

    fn seal(&self, session: &[u8], age: Duration) -> Option<Vec<u8>> {
        self.sealed.encrypt(&[&age.as_nanos().to_be_bytes()[..], session].concat())
    }

    fn open(&self, ticket: &[u8], age: Duration) -> Option<Vec<u8>> {
        let opened = self.sealed.decrypt(ticket)?;
        let (made, session) = opened.split_first_chunk()?;
        let since = age.as_nanos().checked_sub(u128::from_be_bytes(*made))?;
        (since < self.life.as_nanos()).then(|| session.to_vec())
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.life.min(LONGEST_TOLD).as_secs()).expect("a week has no more seconds than that")
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, self.began.elapsed())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, self.began.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(600);

    #[test]
    fn sessions_end_after_their_time_and_the_oldest_make_room() {
        let began = Instant::now();
        let mut kept = Kept::new(LIFE, 2, Arc::default());
        let knows = |kept: &mut Kept, id: u8, after: Duration| kept.at(began + after).contains_key(&[id][..]);
        kept.put(vec![1], vec![11], began);
        kept.put(vec![2], vec![12], began + LIFE / 2);
        let just_before = LIFE - Duration::from_nanos(1);
        assert!(knows(&mut kept, 1, just_before) && knows(&mut kept, 2, just_before));
        assert!(!knows(&mut kept, 1, LIFE) && knows(&mut kept, 2, LIFE));
        assert_eq!(kept.forgotten.load(Ordering::Relaxed), 0);
        kept.put(vec![3], vec![13], began + LIFE);
        kept.put(vec![4], vec![14], began + LIFE);
        assert!(!knows(&mut kept, 2, LIFE) && knows(&mut kept, 3, LIFE) && knows(&mut kept, 4, LIFE));
        assert_eq!(kept.forgotten.load(Ordering::Relaxed), 1);
        // What is taken is kept no longer, nor is there more of a list than of sessions.
        assert_eq!(kept.at(began + LIFE).remove(&[4_u8][..]), Some(vec![14]));
        for id in 5..50 {
            kept.put(vec![id], vec![id], began + LIFE);
            assert_eq!(kept.at(began + LIFE).remove(&[id][..]), Some(vec![id]));
        }
        assert!(kept.sessions.is_empty() && kept.ends.len() <= 2);
    }

    #[test]
    fn tickets_open_nothing_after_their_time() {
        let tickets = Tickets::new(LIFE).unwrap();
        assert_eq!(tickets.lifetime(), 600);
        let made = Duration::from_secs(1);
        let ticket = tickets.seal(b"session", made).unwrap();
        let opened = |age| tickets.open(&ticket, age);
        assert_eq!(opened(made).as_deref(), Some(&b"session"[..]));
        assert_eq!(opened(made + LIFE - Duration::from_nanos(1)).as_deref(), Some(&b"session"[..]));
        assert_eq!(opened(made + LIFE), None);
        assert_eq!(opened(Duration::ZERO), None);
    }
}
