//! Directories that outlive a process, and have one process at a time.

use anyhow::{Context, bail};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Holds the lock, and in it the id of the process that does, for people.
const LOCK: &str = "lock";

/// A directory that is this process's alone until this is dropped, or the process ends, however it ends: the kernel holds
/// the lock, not the file.
#[derive(Debug)]
pub(crate) struct DataDir {
    _lock: File,
}

impl DataDir {
    /// Makes the directory if there is none, for its owner only, and takes it. `setting` is what names another directory.
    ///
    /// # Errors
    /// Another process has it: which one, and what to do.
    pub(crate) fn take(dir: &Path, setting: &str) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make the directory {} ({setting})", dir.display()))?;
        let path = dir.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // It may not have written its id yet; the lock is what counts.
                let _read = file.read_to_string(&mut holder);
                let process = match holder.trim().parse::<u32>() {
                    Ok(id) => format!("process {id}"),
                    Err(_) => "another process".to_owned(),
                };
                bail!(
                    "the directory {} is in use by {process}: stop that one, or give this one a directory of its own \
                     ({setting})",
                    dir.display()
                );
            }
            Err(TryLockError::Error(error)) => {
                bail!("cannot lock {}: {error}; use a directory on a local file system ({setting})", path.display())
            }
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { _lock: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_testkit::TempDir;

    #[test]
    fn a_directory_has_one_holder_until_it_lets_go() {
        let home = TempDir::new();
        let dir = home.path().join("deep/data");
        let held = DataDir::take(&dir, "--data").unwrap();
        let refused = DataDir::take(&dir, "--data").unwrap_err().to_string();
        let expected = format!("the directory {} is in use by process {}: ", dir.display(), std::process::id());
        assert!(refused.starts_with(&expected) && refused.ends_with("(--data)"), "{refused}");
        drop(held);
        DataDir::take(&dir, "--data").unwrap();
    }

    #[test]
    fn what_a_process_left_behind_is_no_lock() {
        let home = TempDir::new();
        home.write(LOCK, "4194304999999\n");
        DataDir::take(home.path(), "--data").unwrap();
        let left = std::fs::read_to_string(home.path().join(LOCK)).unwrap();
        assert_eq!(left, format!("{}\n", std::process::id()));
    }
}
