//! Lines on their way from the workers to the writer.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

/// Bytes in a buffer at which the writer is woken before its time.
const HURRY_AT: usize = 256 * 1024;
/// A waiting line counts as at least so many bytes: the bound of a buffer in bytes is its bound in lines times this.
const BYTES_PER_LINE: usize = 1024;

/// What the writer has to do, in growing order of urgency.
const NOTHING: u8 = 0;
const SOON: u8 = 1;
const NOW: u8 = 2;

/// The buffers of all workers, and the writer's bell.
pub(super) struct Lanes {
    lanes: Box<[Lane]>,
    /// Lines that may wait in one lane.
    most: usize,
    urgency: AtomicU8,
    reopen: AtomicBool,
    stop: AtomicBool,
    writer: OnceLock<Thread>,
    unwritten: AtomicU64,
}

/// The buffer of one worker, on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Lane {
    pending: Mutex<Pending>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Pending {
    text: String,
    lines: usize,
    /// Lines that the writer has taken and not yet written.
    in_writing: usize,
}

/// The lane of this thread, before it is brought into range. Workers are the only threads that log, so each has its own.
fn my_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed)));
    NUMBER.get()
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    /// Buffers for `workers` threads that hold `pending` lines together.
    pub(super) fn new(workers: usize, pending: usize) -> Self {
        let workers = workers.max(1);
        Self {
            lanes: (0..workers).map(|_| Lane::default()).collect(),
            most: (pending / workers).max(1),
            urgency: AtomicU8::new(NOTHING),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            writer: OnceLock::new(),
            unwritten: AtomicU64::new(0),
        }
    }

    /// Names the thread to wake.
    pub(super) fn wakes(&self, writer: Thread) {
        self.writer.get_or_init(|| writer);
        // What was asked for before the writer had a name.
        self.ring(NOW);
    }

    /// Adds the line that `write` appends, unless too many wait already.
    pub(super) fn push(&self, write: impl FnOnce(&mut String)) {
        let lane = &self.lanes[my_number() % self.lanes.len()];
        let mut pending = lane.lock();
        if pending.lines + pending.in_writing >= self.most || pending.text.len() >= self.most * BYTES_PER_LINE {
            drop(pending);
            lane.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        write(&mut pending.text);
        pending.lines += 1;
        let urgency = if pending.text.len() >= HURRY_AT { NOW } else { SOON };
        drop(pending);
        // The writer has put the bell down before it took this lane's lock. If it has not seen the line, it has let go of
        // the lock before we took it, so this load sees that.
        if self.urgency.load(Ordering::Relaxed) < urgency {
            self.ring(urgency);
        }
    }

    pub(super) fn ask_to_reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        self.ring(NOW);
    }

    pub(super) fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring(NOW);
    }

    /// Lines that were not written.
    pub(super) fn dropped(&self) -> u64 {
        let no_room: u64 = self.lanes.iter().map(|lane| lane.dropped.load(Ordering::Relaxed)).sum();
        no_room + self.unwritten.load(Ordering::Relaxed)
    }

    fn ring(&self, urgency: u8) {
        if self.urgency.fetch_max(urgency, Ordering::AcqRel) < urgency
            && let Some(writer) = self.writer.get()
        {
            writer.unpark();
        }
    }

    // The writer's side.

    pub(super) fn is_asked(&self) -> bool {
        self.urgency.load(Ordering::Acquire) > NOTHING
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.urgency.load(Ordering::Acquire) >= NOW
    }

    /// Whether to end after the coming round, and whether to reopen after it. Lines pushed from now on ring again.
    pub(super) fn begin_round(&self) -> (bool, bool) {
        self.urgency.store(NOTHING, Ordering::Release);
        (self.stop.load(Ordering::Acquire), self.reopen.swap(false, Ordering::AcqRel))
    }

    /// Takes the lines of one lane after the other and hands them to `write`, which says whether it could. `spare` is an
    /// empty buffer that takes the place of the one taken.
    pub(super) fn drain(&self, spare: &mut String, mut write: impl FnMut(&str) -> bool) {
        for lane in &self.lanes {
            let mut pending = lane.lock();
            if pending.lines == 0 {
                continue;
            }
            std::mem::swap(&mut pending.text, spare);
            pending.in_writing = std::mem::take(&mut pending.lines);
            let lines = pending.in_writing;
            drop(pending);
            if !write(spare) {
                self.unwritten.fetch_add(lines as u64, Ordering::Relaxed);
            }
            lane.lock().in_writing = 0;
            spare.clear();
            // One burst should not hold its memory for ever.
            spare.shrink_to(HURRY_AT);
        }
    }
}
