//! The thread that does what may take long: it forces records to the disk, folds them into checkpoints, tidies, and tries again
//! what failed.

use super::directory::{Lock, LockError};
use super::file::{Kind, StateKey};
use super::generation::Origin;
use super::{Lane, LastGoodFigures, Shared, directory, generation, key};
use crate::node::holdings::Holdings;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Condvar, Mutex as Cell, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Mutex, oneshot};

/// What the keeper has to do. Its thread ends when this is dropped.
pub(super) struct Keeper(Handle);

/// Tells the keeper what to do.
#[derive(Clone)]
pub(super) struct Handle(Arc<Chores>);

#[derive(Default)]
struct Chores {
    todo: Cell<Todo>,
    wake: Condvar,
}

#[derive(Default)]
struct Todo {
    in_force: Option<InForce>,
    /// A new generation is wanted.
    fold: bool,
    /// Hear when it is written, but not forced to the disk yet.
    waiting: Vec<oneshot::Sender<()>>,
    /// Files with records that were not forced to the disk, and since when.
    dirty: Vec<Arc<File>>,
    dirty_since: Option<Instant>,
    /// Hear when there is nothing left to do.
    resting: Vec<oneshot::Sender<()>>,
    stop: bool,
}

#[derive(Clone)]
struct InForce {
    /// Grows with each configuration: one that is told late does not replace a later one.
    turn: u64,
    held: Holdings,
    origin: Origin,
}

enum Chore {
    Fold,
    Sync(Vec<Arc<File>>),
    Stop,
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn start(shared: Arc<Shared>, lane: Arc<Mutex<Lane>>) -> Self {
        let chores = Arc::<Chores>::default();
        let handle = Handle(chores.clone());
        let work = Work { shared: shared.clone(), lane, chores };
        if let Err(error) = std::thread::Builder::new().name("last-good".to_owned()).spawn(move || work.run()) {
            shared.failed(&error);
        }
        Self(handle)
    }

    pub(super) fn handle(&self) -> Handle {
        self.0.clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.0.todo().stop = true;
        self.0.0.wake.notify_one();
    }
}

impl Handle {
    /// Names what is in force, and whether it is to begin a new generation. What is returned hears of that when it is written;
    /// if it never is, it ends without a word.
    pub(super) fn in_force(&self, turn: u64, held: &Holdings, origin: &Origin, fold: bool) -> oneshot::Receiver<()> {
        let (written, hears) = oneshot::channel();
        let mut todo = self.0.todo();
        if todo.in_force.as_ref().is_none_or(|known| known.turn <= turn) {
            todo.in_force = Some(InForce { turn, held: held.as_received(), origin: origin.clone() });
        }
        if fold {
            todo.fold = true;
            todo.waiting.push(written);
            self.0.wake.notify_one();
        }
        hears
    }

    /// Waits until there is nothing left to do; what is to be forced to the disk is so at once.
    pub(super) async fn at_rest(&self) {
        let (rests, hears) = oneshot::channel();
        self.0.todo().resting.push(rests);
        self.0.wake.notify_one();
        // An end without a word is a rest as well.
        hears.await.ok();
    }

    /// Has a file forced to the disk.
    pub(super) fn dirty(&self, file: Arc<File>) {
        let mut todo = self.0.todo();
        if !todo.dirty.iter().any(|known| Arc::ptr_eq(known, &file)) {
            todo.dirty.push(file);
        }
        todo.dirty_since.get_or_insert_with(Instant::now);
        self.0.wake.notify_one();
    }
}

/// Forces a file to the disk, unless it is no longer there: a directory that was removed takes every record in silence.
fn sync(file: &File) -> io::Result<()> {
    file.sync_data()?;
    match file.metadata()?.nlink() {
        0 => Err(io::Error::other("the file of changes was removed")),
        _ => Ok(()),
    }
}

impl Chores {
    fn todo(&self) -> MutexGuard<'_, Todo> {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Work {
    shared: Arc<Shared>,
    lane: Arc<Mutex<Lane>>,
    chores: Arc<Chores>,
}

impl Work {
    fn run(self) {
        let mut not_before = Instant::now();
        loop {
            match self.next(not_before) {
                Chore::Stop => return,
                Chore::Sync(files) => {
                    if let Err(error) = files.iter().try_for_each(|file| sync(file)) {
                        // What the disk holds of it is unknown from here on.
                        self.shared.failed(&error);
                        self.chores.todo().fold = true;
                    }
                    self.look_at_key();
                }
                Chore::Fold => {
                    let folded = self.fold();
                    self.shared.figures().warning = key::open_to_others(&self.shared.settings);
                    if let Err(error) = folded {
                        self.shared.failed(&error);
                        not_before = Instant::now() + self.shared.settings.retry_interval.get();
                        let mut todo = self.chores.todo();
                        todo.fold = true;
                        todo.waiting.clear();
                    }
                }
            }
        }
    }

    /// Waits for something to do. Folding is not tried again before the moment given.
    fn next(&self, not_before: Instant) -> Chore {
        let mut todo = self.chores.todo();
        loop {
            let now = Instant::now();
            if todo.stop {
                return Chore::Stop;
            }
            let fold = (todo.fold && todo.in_force.is_some()).then_some(not_before);
            if fold.is_some_and(|at| at <= now) {
                return Chore::Fold;
            }
            let delay = if todo.resting.is_empty() { self.shared.settings.sync_delay.get() } else { Duration::ZERO };
            let sync = todo.dirty_since.map(|since| since + delay);
            if sync.is_some_and(|at| at <= now) {
                todo.dirty_since = None;
                return Chore::Sync(std::mem::take(&mut todo.dirty));
            }
            if fold.is_none() && sync.is_none() {
                for rests in todo.resting.drain(..) {
                    // The waiting side may have given up.
                    rests.send(()).ok();
                }
            }
            let wake = &self.chores.wake;
            todo = match fold.into_iter().chain(sync).min() {
                Some(at) => wake.wait_timeout(todo, at - now).unwrap_or_else(PoisonError::into_inner).0,
                None => wake.wait(todo).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Begins a generation with what is in force.
    fn fold(&self) -> io::Result<()> {
        let Shared { settings, .. } = &*self.shared;
        let dir = settings.dir();
        let key = self.access()?;
        let beyond = directory::list(dir)?.last().unwrap_or(0).saturating_add(1);
        // From here on records go to the next file of changes, behind the checkpoint.
        let mut lane = self.lane.blocking_lock();
        let (in_force, waiting) = {
            let mut todo = self.chores.todo();
            todo.fold = false;
            (todo.in_force.clone(), std::mem::take(&mut todo.waiting))
        };
        let Some(InForce { held, origin, .. }) = in_force else { return Ok(()) };
        // The directory may be another one than at the start, or could not be listed then.
        lane.next = lane.next.max(beyond);
        let number = lane.take_number()?;
        let at = Some(held.position().clone());
        lane.anchored &= lane.reached == at && lane.origin.as_ref() == Some(&origin);
        (lane.reached, lane.log) = (at, None);
        (lane.bytes, lane.files) = (0, 0);
        lane.origin = Some(origin.clone());
        lane.key = Some(key.clone());
        drop(lane);

        let path = directory::path(dir, Kind::Checkpoint, number);
        let placed = directory::place(&path, |file| generation::write_checkpoint(file, &key, number, &origin, &held));
        let mut lane = self.lane.blocking_lock();
        let file = match placed {
            Ok(file) => file,
            Err(error) => {
                if !lane.anchored {
                    lane.reached = None;
                }
                return Err(error);
            }
        };
        lane.anchored = true;
        let reached = lane.reached.as_ref().unwrap_or(held.position()).revision;
        drop(lane);
        {
            let mut figures = self.shared.figures();
            (figures.generation, figures.written_at) = (number, Some(SystemTime::now()));
            figures.revision = Some(reached);
        }
        for waiting in waiting {
            // The waiting side may have given up.
            waiting.send(()).ok();
        }
        file.sync_all()?;
        directory::sync(dir)?;
        let listing = directory::prune(dir, settings.generations as usize)?;
        let mut figures = self.shared.figures();
        let LastGoodFigures { generations, bytes, fault, .. } = &mut *figures;
        (*generations, *bytes) = (listing.checkpoints.len(), listing.bytes);
        if fault.take().is_some() {
            tracing::info!(generation = number, "the configuration in force is kept on disk again");
        }
        Ok(())
    }

    /// Whether others can read the key, for the alarm to come and go; and whether it is there at all.
    fn look_at_key(&self) {
        let settings = &self.shared.settings;
        self.shared.figures().warning = key::open_to_others(settings);
        if !matches!(StateKey::read(settings), Ok(Some(_))) {
            self.chores.todo().fold = true;
        }
    }

    /// The directory and the key, had again if need be.
    fn access(&self) -> io::Result<StateKey> {
        let dir = self.shared.settings.dir();
        let mut access = self.shared.access();
        if access.lock.as_ref().is_none_or(|lock| !lock.holds(dir)) {
            let lock = Lock::take(dir).map_err(|error| match error {
                LockError::Taken => io::Error::other("another process took the directory over"),
                LockError::Io(error) => error,
            })?;
            access.lock = Some(lock);
        }
        // Read each time: one that was removed is put back before it is missed at a start.
        let key = StateKey::read_or_make(&self.shared.settings, access.key.clone()).map_err(io::Error::other)?;
        Ok(access.key.insert(key).clone())
    }
}
