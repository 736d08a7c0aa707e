//! A bounded queue that is sent batch by batch (`docs/spec/plugins/_logging-common.md`, "Batch queue").

use crate::Background;
use milecastle_telemetry::Paced;
use milecastle_telemetry::metrics::{Counter, Handle};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// At most one complaint about discarded entries in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// When entries are handed over, and how often that is tried.
#[derive(Debug, Clone)]
pub struct BatchSettings {
    /// Name of the queue, for logs.
    pub name: String,
    /// Entries of a batch: so many are handed over at once.
    pub most: usize,
    /// Time without a new entry after which what is there is handed over.
    pub inactive: Duration,
    /// Age of the oldest entry at which what is there is handed over.
    pub age: Duration,
    /// Tries after the first one that failed.
    pub retries: u32,
    /// Pause before each of them.
    pub retry_delay: Duration,
}

/// A batch was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undelivered {
    /// Entries at its front that got through all the same; they are not sent again.
    pub delivered: usize,
    /// Why the rest did not.
    pub reason: String,
}

impl From<String> for Undelivered {
    fn from(reason: String) -> Self {
        Self { delivered: 0, reason }
    }
}

/// What has come of entries that were given to an exporter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Entries that the server has taken.
    pub sent: usize,
    /// Entries that never will get there.
    pub dropped: usize,
}

/// Sends batches to a server.
pub trait Deliver<T>: Send + 'static {
    /// Sends a batch; it ends in bounded time. Tells of what has come of entries since it was last asked, also of earlier batches: who
    /// holds entries back tells of them once they are sent, and who drops some says so in the log.
    ///
    /// # Errors
    /// The batch, or its rest, did not get through; it may be given once more.
    fn deliver(&mut self, batch: &[T]) -> impl Future<Output = Result<Outcome, Undelivered>> + Send;

    /// Sends what it still holds, and tells what has come of that: there will be no further batch. It ends in bounded time.
    fn end(&mut self) -> impl Future<Output = Outcome> + Send {
        std::future::ready(Outcome::default())
    }
}

/// What waits in all queues of one exporter, and what came of the rest. Cheap to clone.
#[derive(Clone)]
pub struct Backlog {
    pending: Arc<AtomicUsize>,
    complained: Arc<Paced>,
    sent: Handle<Counter>,
    dropped: Handle<Counter>,
}

impl Backlog {
    /// Nothing waits. Entries that were sent and dropped are counted.
    pub fn new(sent: Handle<Counter>, dropped: Handle<Counter>) -> Self {
        Self { pending: Arc::default(), complained: Arc::new(Paced::new(COMPLAIN_EVERY)), sent, dropped }
    }

    /// An entry had no room: counts it, and says so in the log at most once in a second.
    fn discard(&self, queue: &str, now: Instant, limit: usize) {
        self.dropped.inc();
        if let Some(discarded) = self.complained.happened(1, now.into_std()) {
            let waiting = self.pending.load(Ordering::Relaxed);
            tracing::error!(queue, waiting, limit, discarded, "entries are discarded: is the server slow, or away?");
        }
    }

    fn count(&self, Outcome { sent, dropped }: Outcome) {
        self.sent.add(sent as u64);
        self.dropped.add(dropped as u64);
    }

    fn leave(&self, entries: usize) {
        self.pending.fetch_sub(entries, Ordering::Relaxed);
    }
}

/// The queue. Dropped, it sends what it holds, and ends.
pub struct Batches<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    settings: BatchSettings,
    backlog: Backlog,
    waiting: Mutex<Waiting<T>>,
    wake: Notify,
}

struct Waiting<T> {
    /// Each with the time at which it came.
    entries: VecDeque<(Instant, T)>,
    closed: bool,
}

impl<T> Shared<T> {
    /// Held for moments, never while anybody waits.
    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + Sync + 'static> Batches<T> {
    /// Starts the exporters of a queue: as many batches as there are may be under way at once.
    pub fn start(
        background: &Background,
        settings: BatchSettings,
        backlog: Backlog,
        exporters: impl IntoIterator<Item = impl Deliver<T>>,
    ) -> Self {
        let waiting = Mutex::new(Waiting { entries: VecDeque::new(), closed: false });
        let shared = Arc::new(Shared { settings, backlog, waiting, wake: Notify::new() });
        for deliver in exporters {
            background.spawn(run(shared.clone(), background.ending(), deliver));
        }
        Self { shared }
    }

    /// Adds an entry, unless `limit` of this exporter wait already. Says how many wait in this queue now.
    pub fn push(&self, entry: T, limit: usize) -> usize {
        let Shared { settings, backlog, wake, .. } = &*self.shared;
        let now = Instant::now();
        if backlog.pending.load(Ordering::Relaxed) >= limit {
            backlog.discard(&settings.name, now, limit);
            return self.shared.waiting().entries.len();
        }
        backlog.pending.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.shared.waiting();
        waiting.entries.push_back((now, entry));
        let count = waiting.entries.len();
        drop(waiting);
        // An exporter waits for the first one, and then for a whole batch or for its time.
        if count == 1 || count == settings.most {
            wake.notify_one();
        }
        count
    }
}

impl<T> Drop for Batches<T> {
    fn drop(&mut self) {
        self.shared.waiting().closed = true;
        self.shared.wake.notify_one();
    }
}

async fn run<T: Send + Sync, D: Deliver<T>>(shared: Arc<Shared<T>>, mut ending: watch::Receiver<bool>, mut deliver: D) {
    while let Some(batch) = next_batch(&shared, &mut ending).await {
        let count = batch.len();
        let outcome = send(&shared.settings, &mut deliver, batch).await;
        shared.backlog.count(outcome);
        shared.backlog.leave(count);
    }
    shared.backlog.count(deliver.end().await);
}

/// Waits until a batch is complete or old enough; `None` once there will be no more.
async fn next_batch<T>(shared: &Shared<T>, ending: &mut watch::Receiver<bool>) -> Option<Vec<T>> {
    let settings = &shared.settings;
    loop {
        let last_call = *ending.borrow_and_update();
        let due = {
            let mut waiting = shared.waiting();
            let idle = waiting.entries.back().map(|(last, _)| *last + settings.inactive);
            let old = waiting.entries.front().map(|(first, _)| *first + settings.age);
            let due = idle.into_iter().chain(old).min();
            let finish = waiting.closed || last_call;
            let full = waiting.entries.len() >= settings.most;
            if full || (finish && !waiting.entries.is_empty()) || due.is_some_and(|due| due <= Instant::now()) {
                let count = waiting.entries.len().min(settings.most);
                let batch = waiting.entries.drain(..count).map(|(_, entry)| entry).collect();
                // The rest is for another exporter, if there is one that has nothing to do.
                if !waiting.entries.is_empty() {
                    shared.wake.notify_one();
                }
                return Some(batch);
            }
            if finish {
                // The next one has to end too.
                shared.wake.notify_one();
                return None;
            }
            due
        };
        let time = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.wake.notified() => {}
            () = time => {}
            // An error: the background is gone, and so is the process.
            changed = ending.changed() => changed.ok()?,
        }
    }
}

/// Sends a batch, again if need be. What does not get through then is dropped.
async fn send<T: Send + Sync, D: Deliver<T>>(settings: &BatchSettings, deliver: &mut D, mut batch: Vec<T>) -> Outcome {
    let (queue, mut through, mut tries) = (&*settings.name, 0, 0);
    loop {
        let Undelivered { delivered, reason } = match deliver.deliver(&batch).await {
            Ok(outcome) => return Outcome { sent: through + outcome.sent, ..outcome },
            Err(error) => error,
        };
        through += batch.drain(..delivered.min(batch.len())).len();
        if tries >= settings.retries {
            let entries = batch.len();
            tracing::error!(queue, entries, reason, "a batch could not be delivered and is dropped");
            return Outcome { sent: through, dropped: entries };
        }
        tries += 1;
        tracing::debug!(queue, reason, tries, "a batch was not delivered; it is tried again");
        tokio::time::sleep(settings.retry_delay).await;
    }
}
