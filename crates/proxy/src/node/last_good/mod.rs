//! The last good configuration: what this node had in force, kept on disk, so that it starts without the control plane.
//!
//! A *generation* is a checkpoint (`generation-N.checkpoint`, a whole configuration) with the changes that follow it
//! (`generation-N.changes`, one record for each delta applied). When the changes grow past `state.fold_at` the next generation
//! begins; the newest `state.generations` of them are kept. Numbers only grow, and no file is ever written to again once its
//! writer is gone: a start that goes on from a generation opens a file of changes with a number of its own.
//!
//! Two lanes work on the directory. The *lane* of appends is on the way from a delta to `Applied`: one `write`, no more. The
//! *keeper*, a thread of its own, does what may take long: forcing records to the disk, folding, tidying, trying again.
//!
//! Invariants:
//! - What is loaded is a configuration that this node had in force: every file opens under the state key, its objects add
//!   up to the digest in its head, and each change leads from the position before it to the digest that it names.
//! - A damaged file costs what stands in it and behind it, never more: the generation before it is used, with all changes that
//!   lead on from there.
//! - An older generation goes only when a newer one is on the disk.
//! - Trouble with the disk changes nothing for traffic or updates. It is an alarm until a whole generation was written.
//!
//! Deliberately absent: protection against root, or against somebody who has the key (`state.key_file`); and the earlier forms
//! of objects in quarantine: after a start they have none, so what depends on them answers 503.

mod directory;
mod file;
mod generation;
mod keeper;
mod key;
mod load;
mod trail;

#[cfg(test)]
mod tests;

use super::holdings::{Holdings, Position};
use directory::{Lock, LockError};
use file::{Kind, StateKey, Writer};
use milecastle_settings::State;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex as Cell, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::Mutex;
use tokio::time::timeout;

use keeper::Keeper;
use load::Loader;

pub(super) use generation::Origin;
pub(super) use trail::{Look, Trail};

/// Files of changes after one checkpoint, beyond which it is time for the next: each start may add one.
const MANY_FILES: usize = 16;

/// Another process uses the state directory.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is in use by another process: two gateway nodes cannot share a state directory; end the other one, or set state.dir \
     to a directory of this node's own",
    dir.display()
)]
pub struct DirectoryInUse {
    dir: PathBuf,
}

/// The last good configuration in figures, for metrics and status pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastGoodFigures {
    /// Revision that the node would start with; `None` while there is nothing on the disk.
    pub revision: Option<u64>,
    /// Number of the newest checkpoint; 0 before the first.
    pub generation: u64,
    /// Checkpoints on the disk.
    pub generations: usize,
    /// When the newest checkpoint was written, by the wall clock.
    pub written_at: Option<SystemTime>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Times that writing failed, since the start of the process.
    pub failures: u64,
    /// Files found damaged, in whole or in part, at the start of the process.
    pub damaged: u64,
    /// What keeps the configuration from being kept; `None` if all is well.
    pub fault: Option<String>,
    /// What is wrong, although it is kept.
    pub warning: Option<String>,
}

/// How what is in force now came from what was before.
pub(super) enum Step {
    /// It replaced it as a whole.
    Whole,
    /// By a delta, encoded, from this position.
    Delta { from: Position, bytes: Vec<u8> },
}

/// The state directory of a node. The keeper's thread ends when this is dropped.
pub(super) struct LastGood {
    shared: Arc<Shared>,
    /// Held while a record is written.
    lane: Arc<Mutex<Lane>>,
    keeper: Keeper,
    /// Configurations kept so far.
    turn: u64,
    /// An append did not end in time: until it does, nothing waits for the lane any more.
    stuck: bool,
}

/// What both lanes use.
struct Shared {
    settings: State,
    figures: Arc<Cell<LastGoodFigures>>,
    /// The lock, once it was had, and the key. Taken by the keeper alone after the start.
    access: Cell<Access>,
}

#[derive(Default)]
struct Access {
    lock: Option<Lock>,
    key: Option<StateKey>,
}

/// The lane of appends.
#[derive(Default)]
struct Lane {
    /// The file of changes that is being written.
    log: Option<Writer<Arc<File>>>,
    /// Number of the next file.
    next: u64,
    /// Where the changes on the disk have come to; `None` if they lead nowhere, and only a checkpoint helps.
    reached: Option<Position>,
    /// Whether `reached` leads on from a checkpoint that is on the disk.
    anchored: bool,
    /// Changes since the newest checkpoint.
    bytes: u64,
    files: usize,
    /// Whose changes they are.
    origin: Option<Origin>,
    key: Option<StateKey>,
}

impl LastGood {
    /// Takes the directory, with the lock that another process has handed over if there is one. A directory that cannot be used
    /// is a fault, and no reason not to start.
    ///
    /// # Errors
    /// Another process uses it.
    pub(super) fn open(settings: State, inherited: Option<Arc<File>>) -> Result<Self, DirectoryInUse> {
        let inherited = inherited.and_then(|held| Lock::inherit(held, settings.dir()));
        let lock = match inherited.map_or_else(|| Lock::take(settings.dir()), Ok) {
            Err(LockError::Taken) => return Err(DirectoryInUse { dir: settings.dir().to_owned() }),
            Ok(lock) => Ok(lock),
            Err(LockError::Io(error)) => Err(error),
        };
        let figures = Arc::new(Cell::new(LastGoodFigures::default()));
        let shared = Arc::new(Shared { settings, figures, access: Cell::default() });
        match lock {
            Ok(lock) => shared.access().lock = Some(lock),
            Err(error) => shared.failed(&error),
        }
        let lane = Arc::new(Mutex::new(Lane { next: 1, ..Lane::default() }));
        let keeper = Keeper::start(shared.clone(), lane.clone());
        Ok(Self { shared, lane, keeper, turn: 0, stuck: false })
    }

    /// What metrics and reports read.
    pub(super) fn figures(&self) -> Arc<Cell<LastGoodFigures>> {
        self.shared.figures.clone()
    }

    /// Reads what is there; to be used once, before the first [`keep`](Self::keep).
    pub(super) fn loader(&self) -> Loader {
        Loader { shared: self.shared.clone(), lane: self.lane.clone(), keeper: self.keeper.handle() }
    }

    /// Keeps what is in force. Returns when it is written, but not before it is forced to the disk; or when it failed, or took
    /// longer than `state.write_timeout`: then the figures tell the fault.
    pub(super) async fn keep(&mut self, step: Step, held: &Holdings, origin: &Origin) {
        let patience = self.shared.settings.write_timeout.get();
        let keeper = self.keeper.handle();
        self.turn += 1;
        let turn = self.turn;
        let Step::Delta { from, bytes } = step else {
            // An end without a word is a failure that the keeper told.
            if timeout(patience, keeper.in_force(turn, held, origin, true)).await.is_err() {
                self.too_slow(turn, held, origin);
            }
            return;
        };
        let lane = self.lane.clone();
        let lane = match self.stuck {
            true => lane.try_lock_owned().ok(),
            false => timeout(patience, lane.lock_owned()).await.ok(),
        };
        self.stuck = lane.is_none();
        let Some(mut lane) = lane else {
            return self.too_slow(turn, held, origin);
        };
        let append = {
            let (shared, held, origin) = (self.shared.clone(), held.clone(), origin.clone());
            tokio::task::spawn_blocking(move || {
                let fold = lane.append(&shared, &origin, from, held.position().clone(), bytes);
                drop(keeper.in_force(turn, &held, &origin, fold));
                if let Some(log) = &lane.log {
                    keeper.dirty(log.sink().clone());
                }
            })
        };
        if timeout(patience, append).await.is_err() {
            self.stuck = true;
            self.too_slow(turn, held, origin);
        }
    }

    /// Has all that is in force on the disk, and nothing more written there until the next [`keep`](Self::keep); or gives up after
    /// `state.write_timeout`. Says whether it is there.
    pub(super) async fn settle(&mut self, held: &Holdings, origin: &Origin) -> bool {
        if !self.has(held).await {
            self.keep(Step::Whole, held, origin).await;
        }
        // Past that time the keeper works on something that another process does not need.
        drop(timeout(self.shared.settings.write_timeout.get(), self.keeper.handle().at_rest()).await);
        self.has(held).await
    }

    /// Whether what is written leads to what is held.
    async fn has(&self, held: &Holdings) -> bool {
        let lane = timeout(self.shared.settings.write_timeout.get(), self.lane.lock()).await;
        lane.is_ok_and(|lane| lane.anchored && lane.reached.as_ref() == Some(held.position()))
    }

    /// Forgets what was written: what follows on the disk leads on from nothing of it.
    pub(super) async fn begin_anew(&self) {
        let mut lane = self.lane.lock().await;
        *lane = Lane { next: lane.next, key: lane.key.take(), ..Lane::default() };
    }

    /// Leaves the directory to another process, and follows what that one writes from `held` on, which is [settled](Self::settle).
    pub(super) async fn into_trail(self, held: Holdings, origin: Origin) -> Trail {
        let passed = self.lane.lock().await.next.saturating_sub(1);
        Trail::new(self.shared.settings.clone(), origin, held, passed)
    }

    /// The lock on the directory, if it was had.
    pub(super) fn lock(&self) -> Option<Arc<File>> {
        self.shared.access().lock.as_ref().map(Lock::held)
    }

    /// Goes on without the disk. The next generation, whenever it comes, takes the alarm back.
    fn too_slow(&self, turn: u64, held: &Holdings, origin: &Origin) {
        self.shared.failed(&"the disk did not take it within state.write_timeout");
        drop(self.keeper.handle().in_force(turn, held, origin, true));
    }
}

impl Lane {
    /// Appends a delta if it leads on from what is on the disk. Says whether a new generation is due.
    fn append(&mut self, shared: &Shared, origin: &Origin, from: Position, to: Position, bytes: Vec<u8>) -> bool {
        if self.reached.as_ref() != Some(&from) || self.origin.as_ref() != Some(origin) {
            self.reached = None;
            return true;
        }
        match self.write(shared, origin, &from, bytes) {
            Ok(written) => {
                self.bytes += written;
                if self.anchored {
                    shared.figures().revision = Some(to.revision);
                }
                shared.figures().bytes += written;
                self.reached = Some(to);
                self.bytes >= shared.settings.fold_at.get() || self.files >= MANY_FILES
            }
            Err(error) => {
                (self.reached, self.anchored) = (None, false);
                shared.failed(&error);
                true
            }
        }
    }

    fn write(&mut self, shared: &Shared, origin: &Origin, from: &Position, bytes: Vec<u8>) -> io::Result<u64> {
        let (before, log) = match self.log.take() {
            Some(log) => (log.bytes(), log),
            None => {
                let key = self.key.clone().ok_or_else(|| io::Error::other("there is no state key yet"))?;
                let number = self.take_number()?;
                let file = directory::create(&directory::path(shared.settings.dir(), Kind::Changes, number))?;
                self.files += 1;
                (0, generation::begin_changes(Arc::new(file), &key, number, origin, from)?)
            }
        };
        let log = log.push(bytes)?;
        let written = log.bytes() - before;
        self.log = Some(log);
        Ok(written)
    }

    fn take_number(&mut self) -> io::Result<u64> {
        let number = self.next;
        self.next = number.checked_add(1).ok_or_else(|| io::Error::other("no numbers are left for new files"))?;
        Ok(number)
    }
}

impl Shared {
    fn figures(&self) -> MutexGuard<'_, LastGoodFigures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn access(&self) -> MutexGuard<'_, Access> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a failure and raises the alarm; logs it once for as long as it stays the same.
    fn failed(&self, error: &dyn std::fmt::Display) {
        let dir = self.settings.dir().display();
        let fault = format!("the configuration in force cannot be kept in {dir}: {error}");
        let mut figures = self.figures();
        figures.failures += 1;
        if figures.fault.as_ref() != Some(&fault) {
            tracing::error!(%dir, %error, "the configuration in force cannot be kept on disk; traffic and updates go on");
            figures.fault = Some(fault);
        }
    }
}
