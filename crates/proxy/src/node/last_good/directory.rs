//! The state directory: made, locked, listed and tidied.

use super::file::Kind;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a checkpoint is called until it is whole.
const UNFINISHED: &str = "new";

/// Files by their numbers.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) checkpoints: BTreeMap<u64, PathBuf>,
    pub(super) changes: BTreeMap<u64, PathBuf>,
    /// Of all of them.
    pub(super) bytes: u64,
    unfinished: Vec<PathBuf>,
}

impl Listing {
    /// The greatest number in use.
    pub(super) fn last(&self) -> Option<u64> {
        self.checkpoints.keys().next_back().max(self.changes.keys().next_back()).copied()
    }
}

/// The directory of this process alone, for as long as this lives.
#[derive(Debug)]
pub(super) struct Lock {
    held: Arc<File>,
}

/// Why the directory cannot be had.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another process has it.
    Taken,
    /// The file system.
    Io(io::Error),
}

impl Lock {
    /// Makes the directory (0700) if it is missing, and locks it. The lock is on the directory itself: it needs no right to
    /// write, leaves nothing behind, and ends with the process however that ends.
    pub(super) fn take(dir: &Path) -> Result<Self, LockError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(LockError::Io)?;
        let held = File::open(dir).map_err(LockError::Io)?;
        match held.try_lock() {
            Ok(()) => Ok(Self { held: Arc::new(held) }),
            Err(TryLockError::WouldBlock) => Err(LockError::Taken),
            Err(TryLockError::Error(error)) => Err(LockError::Io(error)),
        }
    }

    /// The lock that another process has handed over, if it is on this directory.
    pub(super) fn inherit(held: Arc<File>, dir: &Path) -> Option<Self> {
        Some(Self { held }).filter(|lock| lock.holds(dir))
    }

    /// The open file that holds the lock, to be handed over: the lock lasts until its last holder drops it.
    pub(super) fn held(&self) -> Arc<File> {
        self.held.clone()
    }

    /// Whether the directory that is locked is still the one at `dir`.
    pub(super) fn holds(&self, dir: &Path) -> bool {
        let same = |held: fs::Metadata, found: fs::Metadata| (held.dev(), held.ino()) == (found.dev(), found.ino());
        self.held.metadata().is_ok_and(|held| fs::metadata(dir).is_ok_and(|found| same(held, found)))
    }
}

/// Path of a file.
pub(super) fn path(dir: &Path, kind: Kind, number: u64) -> PathBuf {
    dir.join(format!("generation-{number:012}.{}", extension(kind)))
}

fn extension(kind: Kind) -> &'static str {
    match kind {
        Kind::Checkpoint => "checkpoint",
        Kind::Changes => "changes",
    }
}

/// Kind and number of a file of ours.
fn named(path: &Path) -> Option<(Kind, u64)> {
    let stem = path.file_stem()?.to_str()?;
    let kind = [Kind::Checkpoint, Kind::Changes]
        .into_iter()
        .find(|kind| path.extension().is_some_and(|e| e == extension(*kind)))?;
    let number = stem.strip_prefix("generation-")?.parse().ok()?;
    (stem == format!("generation-{number:012}")).then_some((kind, number))
}

/// What there is. A directory that is missing holds nothing.
pub(super) fn list(dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if !metadata.is_file() {
            continue;
        }
        if path.extension().is_some_and(|e| e == UNFINISHED) && named(&path.with_extension("")).is_some() {
            listing.unfinished.push(path);
            continue;
        }
        let Some((kind, number)) = named(&path) else { continue };
        listing.bytes += metadata.len();
        match kind {
            Kind::Checkpoint => listing.checkpoints.insert(number, path),
            Kind::Changes => listing.changes.insert(number, path),
        };
    }
    Ok(listing)
}

/// Makes a file for its owner only; one that exists is an error.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Forces the directory's names to the disk.
pub(super) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a file that appears whole or not at all; it still has to be forced to the disk.
pub(super) fn place<T>(path: &Path, write: impl FnOnce(&File) -> io::Result<T>) -> io::Result<File> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".");
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    // A crash may have left one behind.
    remove(&unfinished)?;
    let file = create(&unfinished)?;
    match write(&file).and_then(|_| fs::rename(&unfinished, path)) {
        Ok(()) => Ok(file),
        Err(error) => {
            // Room for the next try; what led here is the error to tell.
            remove(&unfinished).ok();
            Err(error)
        }
    }
}

/// Removes what the newest `keep` checkpoints do not need: older ones, changes that lead to none of them, and what was left
/// unfinished.
pub(super) fn prune(dir: &Path, keep: usize) -> io::Result<Listing> {
    let listing = list(dir)?;
    let oldest = listing.checkpoints.keys().rev().nth(keep.saturating_sub(1)).copied().unwrap_or(0);
    let old = |files: &BTreeMap<u64, PathBuf>| files.range(..oldest).map(|(_, path)| path.clone()).collect::<Vec<_>>();
    for path in old(&listing.checkpoints).iter().chain(&old(&listing.changes)).chain(&listing.unfinished) {
        remove(path)?;
    }
    list(dir)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_testkit::TempDir;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_one_holds_a_directory() {
        let home = TempDir::new();
        let dir = home.path().join("deep/state");
        let lock = Lock::take(&dir).unwrap();
        assert!(lock.holds(&dir));
        assert!(matches!(Lock::take(&dir), Err(LockError::Taken)));
        fs::remove_dir(&dir).unwrap();
        assert!(!lock.holds(&dir));
        let again = Lock::take(&dir).unwrap();
        assert!(again.holds(&dir) && !lock.holds(&dir));
        drop(again);
        Lock::take(&dir).unwrap();
    }

    #[test]
    fn files_of_others_are_let_be() {
        let home = TempDir::new();
        for name in ["node.pem", "generation-1.checkpoint", "generation-0000000000012.changes", "generation-x.changes"]
        {
            home.write(name, "");
        }
        home.write("generation-000000000007.changes", "1234");
        fs::create_dir(home.path().join("generation-000000000009.checkpoint")).unwrap();
        let before = names(home.path());
        let listing = prune(home.path(), 1).unwrap();
        assert_eq!((listing.last(), listing.bytes, listing.changes.len()), (Some(7), 4, 1));
        assert_eq!(names(home.path()), before);
    }

    #[test]
    fn the_newest_generations_stay_with_all_that_follows_them() {
        let home = TempDir::new();
        let dir = home.path();
        for number in [1, 2, 4, 6] {
            place(&path(dir, Kind::Checkpoint, number), |_| Ok(())).unwrap();
        }
        for number in [1, 3, 4, 5] {
            create(&path(dir, Kind::Changes, number)).unwrap();
        }
        home.write("generation-000000000007.checkpoint.new", "half");
        let listing = prune(dir, 2).unwrap();
        assert_eq!(listing.checkpoints.into_keys().collect::<Vec<_>>(), [4, 6]);
        assert_eq!(listing.changes.into_keys().collect::<Vec<_>>(), [4, 5]);
        assert_eq!(names(dir).len(), 4);
    }

    #[test]
    fn a_file_that_fails_half_way_leaves_nothing() {
        let home = TempDir::new();
        let target = path(home.path(), Kind::Checkpoint, 1);
        place(&target, |_| Err::<(), _>(io::Error::other("full"))).unwrap_err();
        assert!(names(home.path()).is_empty());
    }
}
