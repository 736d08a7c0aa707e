//! Places for connections: how many there may be at a time, and which of them makes room for one more.
//!
//! What must stay true:
//! - Whoever only holds on to a place keeps nobody out: the holder that has waited for longest makes room.
//! - A holder that has work keeps its place, and so does one that came, or ended its work, no longer ago than [`Places::new`]
//!   says: of many that come at once none is sent away before it could be served.
//!
//! Deliberately absent: what a connection is, and what becomes of one that was cut. Whoever serves it sees to that.

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The places of a listener, or of one kind of its connections.
pub struct Places {
    most: usize,
    keep: Duration,
    state: Mutex<State>,
    /// A place has become free, or has a holder again that waits.
    changed: Notify,
}

#[derive(Default)]
struct State {
    taken: usize,
    /// Holders that wait, by when they began to: a number that grows.
    waiting: BTreeMap<u64, Waiting>,
    began: u64,
}

struct Waiting {
    since: Instant,
    holder: Arc<Holder>,
}

#[derive(Default)]
struct Holder {
    cut: Notify,
    /// It was cut, and its place is another one's. Changed under the lock of the state alone.
    is_cut: AtomicBool,
}

/// A place. Its holder waits from the start, and whenever nothing of it is [in work](Self::busy). Dropped, it is free.
pub struct Place {
    places: Arc<Places>,
    holder: Arc<Holder>,
    /// Its number among those that wait, and how many pieces of work there are instead.
    work: Mutex<(u64, usize)>,
}

/// For as long as it lives, the holder of a place has work.
pub struct Busy(Arc<Place>);

impl Places {
    /// So many places, of which each keeps its holder for `keep` after it began to wait, even if there is none for others.
    pub fn new(most: usize, keep: Duration) -> Arc<Self> {
        Arc::new(Self { most, keep, state: Mutex::default(), changed: Notify::new() })
    }

    /// A place, as soon as there is one; if need be that of the holder that has waited for longest, which is cut.
    pub async fn take(self: &Arc<Self>) -> Arc<Place> {
        loop {
            let mut changed = pin!(self.changed.notified());
            // From now on, so that nothing is missed between the look and the wait.
            changed.as_mut().enable();
            match self.look() {
                Ok(place) => return place,
                Err(None) => changed.await,
                Err(Some(until)) => tokio::select! {
                    () = sleep_until(until) => {}
                    () = changed => {}
                },
            }
        }
    }

    /// As [`Self::take`], now or not at all.
    pub fn try_take(self: &Arc<Self>) -> Option<Arc<Place>> {
        self.look().ok()
    }

    /// A place for one that cannot be sent away, however many there are.
    pub fn take_beyond(self: &Arc<Self>) -> Arc<Place> {
        self.enter(&mut self.lock())
    }

    /// A place, or when there will be one at the latest: `None` if that depends on the work of its holders.
    fn look(self: &Arc<Self>) -> Result<Arc<Place>, Option<Instant>> {
        let mut state = self.lock();
        if state.taken >= self.most {
            let longest = state.waiting.first_entry().ok_or(None)?;
            let until = longest.get().since + self.keep;
            if until > Instant::now() {
                return Err(Some(until));
            }
            let holder = longest.remove().holder;
            holder.is_cut.store(true, Ordering::Relaxed);
            holder.cut.notify_one();
            state.taken -= 1;
        }
        Ok(self.enter(&mut state))
    }

    fn enter(self: &Arc<Self>, state: &mut State) -> Arc<Place> {
        state.taken += 1;
        let holder = Arc::<Holder>::default();
        let number = state.wait(&holder);
        Arc::new(Place { places: self.clone(), holder, work: Mutex::new((number, 0)) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The holder waits from now on; its number.
    fn wait(&mut self, holder: &Arc<Holder>) -> u64 {
        let number = self.began;
        self.began += 1;
        self.waiting.insert(number, Waiting { since: Instant::now(), holder: holder.clone() });
        number
    }
}

impl Place {
    /// The holder has work.
    pub fn busy(self: &Arc<Self>) -> Busy {
        let mut work = self.work();
        work.1 += 1;
        if work.1 == 1 {
            self.places.lock().waiting.remove(&work.0);
        }
        Busy(self.clone())
    }

    /// Ready when the holder has to end: its place is another one's.
    pub async fn cut(&self) {
        self.holder.cut.notified().await;
    }

    fn work(&self) -> MutexGuard<'_, (u64, usize)> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Self(place) = self;
        let mut work = place.work();
        work.1 -= 1;
        if work.1 == 0 {
            let mut state = place.places.lock();
            if !place.holder.is_cut.load(Ordering::Relaxed) {
                work.0 = state.wait(&place.holder);
                place.places.changed.notify_waiters();
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let number = self.work().0;
        let mut state = self.places.lock();
        if !self.holder.is_cut.load(Ordering::Relaxed) {
            state.waiting.remove(&number);
            state.taken -= 1;
            self.places.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::{advance, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn is_cut(place: &Place) -> bool {
        place.cut().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_has_waited_longest_makes_room() {
        let places = Places::new(3, Duration::ZERO);
        let held: Vec<_> = (0..3).map(|_| places.try_take().unwrap()).collect();
        let first = held[0].busy();
        let newcomer = places.take().await;
        assert!(!is_cut(&held[0]) && is_cut(&held[1]) && !is_cut(&held[2]), "one with work stays");
        drop(first);
        let others = [places.take().await, places.take().await];
        assert!(is_cut(&held[2]) && is_cut(&newcomer) && !is_cut(&held[0]), "one that had work has waited least");
        let _third = places.take().await;
        assert!(is_cut(&held[0]) && !is_cut(&others[0]));
        drop(held);
        assert_eq!(places.lock().taken, 3, "one that was cut leaves nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_kept_for_a_while() {
        let places = Places::new(2, SECOND);
        let held = [places.take().await, places.take().await];
        assert!(places.try_take().is_none(), "both have just come");
        advance(SECOND / 2).await;
        drop(held[0].busy());
        let begun = Instant::now();
        let _newcomer = places.take().await;
        assert_eq!(begun.elapsed(), SECOND / 2);
        assert!(is_cut(&held[1]) && !is_cut(&held[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn while_all_have_work_one_more_waits_for_the_first_that_has_none() {
        let places = Places::new(2, Duration::ZERO);
        let held = [places.take().await, places.take().await];
        let mut work = held.each_ref().map(Place::busy).map(Some);
        let twice = held[1].busy();
        let mut newcomer = pin!(places.take());
        assert!(timeout(SECOND, &mut newcomer).await.is_err());
        work[1] = None;
        assert!(timeout(SECOND, &mut newcomer).await.is_err(), "it has more");
        drop(twice);
        let _place = newcomer.await;
        assert!(is_cut(&held[1]) && !is_cut(&held[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_makes_room_too() {
        let places = Places::new(1, SECOND);
        let held = places.take().await;
        let beyond = places.take_beyond();
        let mut newcomer = pin!(places.take());
        drop(held);
        assert!((&mut newcomer).now_or_never().is_none(), "there is still one");
        drop(beyond);
        assert!(newcomer.now_or_never().is_some());
        assert!(places.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn work_that_ends_after_its_holder_was_cut_frees_nothing() {
        let places = Places::new(1, Duration::ZERO);
        let cut = places.take().await;
        let held = places.take().await;
        assert!(is_cut(&cut));
        drop(cut.busy());
        drop(cut);
        let state = places.lock();
        assert!(state.taken == 1 && state.waiting.len() == 1 && !is_cut(&held));
    }
}
