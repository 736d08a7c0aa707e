//! The node's open log files.
//!
//! A path is opened once, however many objects log to it. Each entry is one `write` in append mode, so lines of several
//! workers, and of other processes, do not mix. A worker waits for the page cache, never for another worker's line.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Permissions of a new file: entries hold what clients sent.
const MODE: u32 = 0o640;

/// At most one complaint about a file in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// All files.
#[derive(Default)]
pub(super) struct Files {
    by_path: Mutex<HashMap<Box<str>, Arc<LogFile>>>,
    /// Grows with each request to reopen.
    generation: AtomicU64,
}

/// One file, open or not.
#[derive(Default)]
struct LogFile {
    open: RwLock<Option<Open>>,
    complained: Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Open {
    file: Arc<File>,
    generation: u64,
}

impl Files {
    /// Has every file opened anew at its next entry, after somebody has moved it away.
    pub(super) fn reopen(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Appends a line. Failures are logged and harm nobody.
    pub(super) fn append(&self, path: &str, line: &[u8]) {
        let log = {
            let mut files = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
            match files.get(path) {
                Some(log) => log.clone(),
                None => files.entry(path.into()).or_default().clone(),
            }
        };
        if let Err(error) = log.append(path, line, self.generation.load(Ordering::Acquire)) {
            log.complain(path, &error);
        }
    }
}

impl LogFile {
    fn append(&self, path: &str, line: &[u8], generation: u64) -> io::Result<()> {
        let file = self.current(path, generation)?;
        // Not `write_all`: the rest of a cut line would go behind somebody else's.
        let written = (&*file).write(line)?;
        if written < line.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "an entry was written in part: is the disk full?"));
        }
        Ok(())
    }

    fn current(&self, path: &str, generation: u64) -> io::Result<Arc<File>> {
        let is_current = |open: &&Open| open.generation == generation;
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.as_ref().filter(is_current) {
            return Ok(open.file.clone());
        }
        drop(open);
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.as_ref().filter(is_current) {
            return Ok(open.file.clone());
        }
        // The old one is closed first: if the new one cannot be opened, entries do not go on into a moved file.
        *open = None;
        let file = Arc::new(OpenOptions::new().append(true).create(true).mode(MODE).open(path)?);
        *open = Some(Open { file: file.clone(), generation });
        Ok(file)
    }

    fn complain(&self, path: &str, error: &io::Error) {
        let mut last = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            *last = Some(Instant::now());
            tracing::error!(plugin = "file-logger", path, %error, "an entry could not be written; check the directory and its permissions");
        }
    }
}
