//! A file in the making.
//!
//! What must stay true: it is for its owner alone from the beginning, one process writes it, and what has the name in the end is whole and
//! on the disk. What is left of a process that was killed keeps nobody from trying again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use super::beside;

/// A file that is not there yet, under another name. Unless it becomes what it is to be, nothing is left of it.
pub(super) struct Part {
    pub(super) path: PathBuf,
    /// Locked for as long as it is written.
    _held: File,
}

impl Part {
    /// Of a file that must not be there.
    pub(super) fn of(file: &Path) -> anyhow::Result<Self> {
        ensure!(!file.exists(), "there is a {} already: choose another name", file.display());
        Self::of_any(file)
    }

    pub(super) fn of_any(file: &Path) -> anyhow::Result<Self> {
        let path = beside(file, ".part");
        let make = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let made = match make() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                clear(&path)?;
                make()
            }
            made => made,
        };
        let held = made.with_context(|| format!("cannot make {}", path.display()))?;
        lock(&held, &path)?;
        ensure!(is_at(&held, &path)?, "another process has begun {} meanwhile: try again", path.display());
        Ok(Self { path, _held: held })
    }

    /// Gives it its name, once all of it is on the disk. What has the name by then stays.
    pub(super) fn becomes(self, file: &Path) -> anyhow::Result<()> {
        File::open(&self.path).and_then(|part| part.sync_all()).context("cannot bring the file to the disk")?;
        fs::hard_link(&self.path, file).with_context(|| format!("cannot make {}", file.display()))?;
        // A name is on the disk with its directory.
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.with_context(|| format!("cannot bring {} to the disk", directory.display()))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm", "-journal"] {
            // Whatever is not there was not made.
            let _gone = fs::remove_file(beside(&self.path, end));
        }
    }
}

/// Takes away what is left of a process that has ended. It is not written on: whoever made it may be somebody else, who reads along.
fn clear(path: &Path) -> anyhow::Result<()> {
    let is_file = fs::symlink_metadata(path).is_ok_and(|left| left.is_file());
    ensure!(is_file, "{} is no file that was left behind: move it away", path.display());
    let left = OpenOptions::new().write(true).open(path);
    let left = left.with_context(|| format!("cannot open {}, which was left behind", path.display()))?;
    lock(&left, path)?;
    // It is gone by itself where its process has just come to its end.
    if is_at(&left, path)? {
        for end in ["-wal", "-shm", "-journal", ""] {
            let _gone = fs::remove_file(beside(path, end));
        }
    }
    Ok(())
}

fn lock(file: &File, path: &Path) -> anyhow::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => bail!("another process is writing {}: wait for its end", path.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Whether a path leads to this very file.
fn is_at(file: &File, path: &Path) -> anyhow::Result<bool> {
    let opened = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
    let found = fs::symlink_metadata(path);
    Ok(found.is_ok_and(|found| (found.dev(), found.ino()) == (opened.dev(), opened.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_testkit::TempDir;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn what_was_left_behind_is_taken_away() {
        let dir = TempDir::new();
        let file = dir.path().join("backup");
        let part = beside(&file, ".part");
        for end in ["", "-wal", "-journal"] {
            fs::write(beside(&part, end), "of a process that was killed").unwrap();
        }
        fs::set_permissions(&part, fs::Permissions::from_mode(0o644)).unwrap();
        let mut reader = File::open(&part).unwrap();
        let made = Part::of(&file).unwrap();
        fs::write(&made.path, "new").unwrap();
        assert_eq!(fs::metadata(&made.path).unwrap().permissions().mode() & 0o777, 0o600);
        // Whoever has it open reads nothing of what comes.
        assert_eq!(io::read_to_string(&mut reader).unwrap(), "of a process that was killed");
        made.becomes(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(Part::of(&file).is_err());
    }

    #[test]
    fn one_process_writes_it() {
        let dir = TempDir::new();
        let file = dir.path().join("backup");
        let first = Part::of(&file).unwrap();
        fs::write(&first.path, "first").unwrap();
        let refused = Part::of(&file).err().unwrap().to_string();
        assert!(refused.contains("wait for its end"), "{refused}");
        assert_eq!(fs::read_to_string(&first.path).unwrap(), "first");
        drop(first);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "stays").unwrap();
        symlink(&elsewhere, beside(&file, ".part")).unwrap();
        let refused = Part::of(&file).err().unwrap().to_string();
        assert!(refused.contains("move it away"), "{refused}");
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "stays");
    }
}
