//! One gateway group as all its streams see it: up to where nodes may go, what leads there, and the packed snapshot, each made once
//! and shared.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use milecastle_settings as settings;
use milecastle_store::{Changes, Store, StoreError};
use milecastle_wire::{Digest, Frames, pack_snapshot, pb};
use tokio::sync::{Mutex, OnceCell, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::head::{Head, History, Memory, Step};
use super::lines::Lines;
use crate::state::{Group, State};

/// How often lines are made anew at once because a rollout went on while they were made.
const CATCH_UPS: usize = 4;

/// The pause after the database could not be asked what nodes may have.
const RETRY: Duration = Duration::from_secs(1);

/// All feeds of a DP manager, each made when the first node asks for it.
pub(super) struct Feeds {
    state: Arc<State>,
    memory: Memory,
    snapshot_idle: Duration,
    /// So many feeds are made at once, of however many groups nodes ask.
    starts: Semaphore,
    /// Of feeds that follow their groups so many ask the database at once.
    turns: Arc<Semaphore>,
    by_group: std::sync::Mutex<HashMap<Arc<str>, Slot>>,
}

/// The place of a group's feed. It is filled once, by whoever comes first: those of other groups do not wait for it, and where it fails or
/// is given up, the next one tries.
#[derive(Clone)]
struct Slot {
    group: Arc<Group>,
    feed: Arc<OnceCell<Arc<Feed>>>,
}

/// One group.
pub(super) struct Feed {
    group: Arc<Group>,
    store: Store,
    /// How long the packed snapshot is kept that nobody asks for.
    snapshot_idle: Duration,
    memory: Memory,
    lines: watch::Sender<Arc<Lines>>,
    /// Held while the lines are made, so that each follow on those before.
    making: Mutex<()>,
    supersedes: RwLock<Arc<[String]>>,
    /// Held while the database is asked, so that of many nodes that ask at once one does.
    history: Mutex<Option<Arc<History>>>,
    /// Held while it is packed, for the same reason.
    packed: Mutex<Option<Packed>>,
    follower: std::sync::OnceLock<JoinHandle<()>>,
}

/// A snapshot as it travels.
#[derive(Clone)]
pub(super) struct Packed {
    pub(super) lineage: Arc<str>,
    pub(super) revision: u64,
    pub(super) mark: String,
    pub(super) digest: Digest,
    pub(super) frames: Frames,
    used: Instant,
}

impl Feeds {
    pub(super) fn new(state: Arc<State>, settings: &settings::Stream) -> Self {
        let memory = Memory {
            images: settings.past_revisions as usize,
            bytes: settings.past_bytes.as_len(),
            age: settings.past_age.get(),
        };
        let room = state.store().background();
        Self {
            state,
            memory,
            snapshot_idle: settings.snapshot_idle.get(),
            starts: Semaphore::new(room),
            turns: Arc::new(Semaphore::new(room)),
            by_group: std::sync::Mutex::default(),
        }
    }

    /// The feed of a group; `None` if there is no such group (or not here yet).
    pub(super) async fn get(&self, id: &str) -> Result<Option<Arc<Feed>>, StoreError> {
        let slot = {
            let mut slots = self.slots();
            let Some(group) = self.state.group(id) else { return Ok(None) };
            let slot = slots.entry(group.id().clone()).or_insert_with(|| Slot::of(group.clone()));
            // A group that was deleted and made anew is another one.
            if !Arc::ptr_eq(&slot.group, &group) {
                *slot = Slot::of(group);
            }
            slot.clone()
        };
        self.fill(&slot).await.map(Some)
    }

    /// The feed of a slot, made unless it is there.
    async fn fill(&self, slot: &Slot) -> Result<Arc<Feed>, StoreError> {
        let (group, store) = (slot.group.clone(), self.state.store().clone());
        // In a box: what waits for a feed waits within so much else that the compiler gives up on futures within futures.
        let start = || {
            Box::pin(async move {
                // In the order in which they came, each for as long as the database takes to answer. None is ever closed.
                let _turn = self.starts.acquire().await;
                Feed::start(group, store, self.memory, self.snapshot_idle, self.turns.clone()).await
            })
        };
        slot.feed.get_or_try_init(start).await.cloned()
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Arc<str>, Slot>> {
        self.by_group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of a group that is no more.
    pub(super) fn forget(&self, id: &str) {
        self.slots().remove(id);
    }

    /// Has the lineages that are over and the canaries read again, if any node asked for the group.
    pub(super) async fn refresh(&self, id: &str) -> Result<(), StoreError> {
        let slot = self.slots().get(id).cloned();
        let Some(slot) = slot else { return Ok(()) };
        // One that is being made may have read already what is another by now.
        let feed = self.fill(&slot).await?;
        feed.read_supersedes().await?;
        feed.advance().await
    }
}

impl Slot {
    fn of(group: Arc<Group>) -> Self {
        Self { group, feed: Arc::default() }
    }
}

impl Feed {
    async fn start(
        group: Arc<Group>,
        store: Store,
        memory: Memory,
        snapshot_idle: Duration,
        turns: Arc<Semaphore>,
    ) -> Result<Arc<Self>, StoreError> {
        let mut images = group.subscribe();
        images.borrow_and_update();
        let lines = Lines::first(&store, group.id(), group.image(), memory).await?;
        let feed = Arc::new(Self {
            group,
            store,
            snapshot_idle,
            memory,
            lines: watch::Sender::new(Arc::new(lines)),
            making: Mutex::default(),
            supersedes: RwLock::default(),
            history: Mutex::default(),
            packed: Mutex::default(),
            follower: std::sync::OnceLock::new(),
        });
        feed.read_supersedes().await?;
        let following = Arc::downgrade(&feed);
        let quiet = snapshot_idle.min(memory.age);
        feed.follower.get_or_init(|| {
            tokio::spawn(async move {
                let mut failed = false;
                loop {
                    let changed = tokio::select! {
                        changed = images.changed() => changed.is_ok(),
                        () = sleep(if failed { RETRY } else { quiet }) => failed,
                    };
                    let Some(feed) = following.upgrade() else { return };
                    if changed {
                        // In the order in which they came. None is ever closed.
                        let turn = turns.acquire().await;
                        images.borrow_and_update();
                        let advanced = feed.advance().await;
                        drop(turn);
                        failed = advanced.is_err();
                        if let Err(error) = advanced {
                            let group = feed.group();
                            tracing::warn!(%group, %error, "cannot ask the database what nodes may have; trying again");
                        }
                    } else {
                        *feed.history.lock().await = None;
                    }
                    feed.let_go().await;
                }
            })
        });
        Ok(feed)
    }

    /// Brings the lines to the newest image.
    async fn advance(&self) -> Result<(), StoreError> {
        let _alone = self.making.lock().await;
        let before = self.lines.borrow().clone();
        let lines = before.after(&self.store, self.group.id(), self.group.image(), self.memory).await?;
        self.lines.send_replace(Arc::new(lines));
        Ok(())
    }

    /// Frees what nobody asked for in a while, and what has been remembered for long enough.
    async fn let_go(&self) {
        self.forget_old().await;
        let mut packed = self.packed.lock().await;
        if packed.as_ref().is_some_and(|packed| packed.used.elapsed() >= self.snapshot_idle) {
            *packed = None;
        }
    }

    /// Frees what has been remembered for long enough.
    async fn forget_old(&self) {
        let alone = self.making.lock().await;
        let before = self.lines.borrow().clone();
        let Some(younger) = before.without_old(Instant::now()).map(Arc::new) else { return };
        self.lines.send_if_modified(|lines| {
            *lines = younger;
            // Nodes may go no further than before.
            false
        });
        drop(alone);
        // Much is freed with it in a large group.
        off_thread(move || drop(before)).await;
    }

    async fn read_supersedes(&self) -> Result<(), StoreError> {
        let lineages = self.store.group_get(self.group.id()).await?.supersedes.into();
        *self.supersedes.write().unwrap_or_else(PoisonError::into_inner) = lineages;
        Ok(())
    }

    /// The group's id.
    pub(super) fn group(&self) -> &Arc<str> {
        self.group.id()
    }

    /// Lineages that were declared over.
    pub(super) fn supersedes(&self) -> Arc<[String]> {
        self.supersedes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The group as it is known now, as far as a node may go.
    pub(super) fn head(&self, node: &str) -> Arc<Head> {
        self.lines.borrow().of(node).clone()
    }

    /// Hears whenever nodes may go further, or others may; several changes may come as one.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Lines>> {
        self.lines.subscribe()
    }

    /// Brings the lines to what the database holds at this moment: for a node that knows more than this replica does.
    pub(super) async fn catch_up(&self) -> Result<(), StoreError> {
        for _ in 0..CATCH_UPS {
            let image = self.group.current().await?;
            // While a rollout is on, who is a canary may be known elsewhere and not here yet.
            if Arc::ptr_eq(self.lines.borrow().image(), &image) && image.gate().is_none() {
                return Ok(());
            }
            self.advance().await?;
            if self.lines.borrow().are_of_one_moment() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether the database has another revision of that number than the node that holds `have`, which is of the head's lineage
    /// and not beyond it. Nobody can tell for revisions that never had a mark, or that the history no longer reaches back to.
    pub(super) async fn is_apart(&self, head: &Head, have: &pb::Have) -> Result<bool, StoreError> {
        if have.mark.is_empty() {
            return Ok(false);
        }
        if let Some((image, digest)) = head.at(have.revision) {
            // Where both add up to the same, the one leads on from the other.
            return Ok(!image.mark().is_empty() && image.mark() != have.mark && *have.digest != digest.to_bytes());
        }
        let mark = self.store.mark(self.group.id(), have.revision).await?;
        Ok(!mark.is_empty() && mark != have.mark)
    }

    /// The delta from `from` to `head`; `None` if only a snapshot leads there.
    pub(super) async fn step(&self, head: Arc<Head>, from: u64) -> Option<Step> {
        match head.step_cell(from) {
            Some(cell) => cell.get_or_init(|| self.make_step(head, from)).await.clone(),
            None => self.make_step(head, from).await,
        }
    }

    async fn make_step(&self, head: Arc<Head>, from: u64) -> Option<Step> {
        let history = if from < head.oldest() { Some(self.history(&head, from).await?) } else { None };
        off_thread(move || head.step(from, history.as_deref())).await
    }

    /// What changed between `from` and the oldest image that `head` remembers, from the database.
    async fn history(&self, head: &Head, from: u64) -> Option<Arc<History>> {
        let mut history = self.history.lock().await;
        let fits = |known: &Arc<History>| {
            *known.lineage == **head.lineage() && known.from <= from && known.to >= head.oldest()
        };
        if let Some(known) = history.as_ref().filter(|known| fits(known)) {
            return Some(known.clone());
        }
        match self.store.changes_since(self.group.id(), from, None).await {
            Ok(Changes::Delta { lineage, to, changes, .. }) => {
                let changed = changes.iter().map(|change| (change.key().clone(), change.revision())).collect();
                let read = Arc::new(History { lineage, from, to, changed });
                *history = Some(read.clone());
                Some(read).filter(fits)
            }
            Ok(Changes::Gone { .. }) => None,
            Err(error) => {
                tracing::warn!(group = %self.group.id(), %error, "no history for a delta; a snapshot goes out instead");
                None
            }
        }
    }

    /// A packed snapshot of `head`, or of a revision before it that is no older than `least` and from which a delta leads
    /// on.
    pub(super) async fn snapshot(&self, head: Arc<Head>, least: u64) -> Option<Packed> {
        let mut slot = self.packed.lock().await;
        if let Some(packed) = slot.as_mut() {
            let leads_on = packed.revision >= head.oldest() && packed.revision <= head.revision();
            if packed.lineage == *head.lineage() && packed.revision >= least && leads_on {
                packed.used = Instant::now();
                return Some(packed.clone());
            }
        }
        let revision = head.revision();
        *slot = pack(head, revision).await;
        slot.clone()
    }

    /// The packed snapshot of exactly this revision, to go on with one that broke off; `None` if it cannot be had any more.
    pub(super) async fn snapshot_at(&self, head: Arc<Head>, lineage: &str, revision: u64) -> Option<Packed> {
        let mut slot = self.packed.lock().await;
        if let Some(packed) = slot.as_mut().filter(|packed| *packed.lineage == *lineage && packed.revision == revision)
        {
            packed.used = Instant::now();
            return Some(packed.clone());
        }
        if **head.lineage() != *lineage || head.at(revision).is_none() {
            return None;
        }
        *slot = pack(head, revision).await;
        slot.clone()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.get() {
            follower.abort();
        }
    }
}

async fn pack(head: Arc<Head>, revision: u64) -> Option<Packed> {
    off_thread(move || {
        let (image, digest) = head.at(revision)?;
        match pack_snapshot(image.objects()) {
            Ok(frames) => {
                let (lineage, mark) = (image.lineage().clone(), image.mark().to_owned());
                Some(Packed { lineage, revision, mark, digest, frames, used: Instant::now() })
            }
            Err(error) => {
                tracing::error!(%error, revision, "a snapshot could not be packed");
                None
            }
        }
    })
    .await
}

/// Runs what may take long with a large configuration beside the threads that serve.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going away, and with it whoever waits.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use milecastle_store::{Actor, DEFAULT_GROUP, NewGroup};
    use milecastle_testkit::{TempDir, eventually};

    use super::*;
    use crate::testing;

    /// The feeds of a store with another group beside the default one.
    async fn feeds(home: &TempDir) -> Arc<Feeds> {
        let store = testing::sqlite(home.path()).await;
        store.by(&Actor::system()).group_create(&NewGroup::named("other")).await.unwrap();
        let state = Arc::new(State::start(store).await.unwrap());
        eventually("the group is here", async || state.group("other").is_some()).await;
        Arc::new(Feeds::new(state, &settings::Stream::default()))
    }

    #[tokio::test]
    async fn a_feed_that_is_being_made_keeps_nobody_from_another_one() {
        let home = TempDir::new();
        let feeds = feeds(&home).await;
        // Begun, and held up where its head is made, beside this thread.
        let mut begun = Box::pin(feeds.get(DEFAULT_GROUP));
        assert!(begun.as_mut().now_or_never().is_none());
        assert!(feeds.get("other").await.unwrap().is_some());
        // Given up, it is begun anew by the next one, and made once.
        drop(begun);
        let made = feeds.get(DEFAULT_GROUP).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&made, &feeds.get(DEFAULT_GROUP).await.unwrap().unwrap()));
        assert!(feeds.get("nobody").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn so_many_feeds_are_made_at_once() {
        let home = TempDir::new();
        let feeds = feeds(&home).await;
        let all = u32::try_from(feeds.starts.available_permits()).unwrap();
        let held = feeds.starts.acquire_many(all).await.unwrap();
        let asking = feeds.clone();
        let asked = tokio::spawn(async move { asking.get("other").await.map(|feed| feed.is_some()) });
        // As often as it takes a feed to be made, and longer.
        for _ in 0..100 {
            feeds.state.store().group_get("other").await.unwrap();
        }
        assert!(!asked.is_finished());
        drop(held);
        assert!(asked.await.unwrap().unwrap());
    }
}
