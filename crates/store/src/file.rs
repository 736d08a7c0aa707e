//! Whether the files of a SQLite database are still those that are open.
//!
//! SQLite goes on with a file that was deleted, or replaced by another of its name: it is still open, and all that is
//! written to it is gone with the process. So before anything is acknowledged the paths are compared with what was opened,
//! by device and inode: a few microseconds beside a commit that waits for the disk.
//!
//! Nothing here may open one of these files: closing it would drop the locks that SQLite has on it in this process
//! (fcntl(2), POSIX record locks).

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use crate::error::StoreError;

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// `None`: there is nothing, or nobody can tell.
    fn of(path: &Path) -> Option<Identity> {
        fs::metadata(path).ok().map(|meta| Identity { device: meta.dev(), inode: meta.ino() })
    }
}

/// The database file was deleted or replaced while it was open.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} was deleted or replaced while it was open, so nothing more is written; put that very file back, or restart to use \
     what is there now", path.display()
)]
pub(crate) struct Replaced {
    path: PathBuf,
}

/// The files of an open database.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    path: PathBuf,
    opened: Identity,
    log: PathBuf,
    /// The write-ahead log of the present writing connection; a first connection makes it, the last one removes it.
    log_opened: Mutex<Option<Identity>>,
}

impl OpenFiles {
    /// Remembers what is at `path`, which must exist.
    pub(crate) fn of(path: &Path) -> io::Result<OpenFiles> {
        let meta = fs::metadata(path)?;
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Ok(OpenFiles {
            path: path.to_owned(),
            opened: Identity { device: meta.dev(), inode: meta.ino() },
            log: log.into(),
            log_opened: Mutex::new(None),
        })
    }

    /// The writing connection was made anew and has its write-ahead log open.
    pub(crate) fn writer_opened(&self) {
        *self.log_opened.lock().unwrap_or_else(PoisonError::into_inner) = Identity::of(&self.log);
    }

    /// Fails unless the files at the paths are those that are open.
    pub(crate) fn check(&self) -> Result<(), Replaced> {
        let log_opened = *self.log_opened.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |path: &Path, opened: Identity| Identity::of(path) == Some(opened);
        for (path, opened) in [(&self.path, Some(self.opened)), (&self.log, log_opened)] {
            if opened.is_some_and(|opened| !is_same(path, opened)) {
                return Err(Replaced { path: path.clone() });
            }
        }
        Ok(())
    }
}

impl From<Replaced> for StoreError {
    fn from(replaced: Replaced) -> StoreError {
        StoreError::Unavailable(Box::new(replaced))
    }
}
