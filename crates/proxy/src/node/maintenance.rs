//! Whether an operator has taken this node out of service, as the control plane said last.
//!
//! What must stay true: it lasts until the control plane says otherwise, also over restarts of the process while the control
//! plane is away. So it is kept on the disk, in a file that holds the reason. What a disk does or leaves undone holds up
//! nothing: an order is in force at once.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::{JoinHandle, spawn_blocking};

/// The file, in the state directory; it is there while the node is in maintenance.
const FILE: &str = "maintenance";

/// Longest reason that is read back, in bytes: more than the control plane takes.
const LONGEST: u64 = 4096;

/// Tells the node's status page: the reason, or `None` when the node is back in service.
type Tell = Box<dyn Fn(Option<String>) + Send + Sync>;

/// The node's maintenance, in force and on the disk.
pub(super) struct Maintenance {
    kept: Arc<Kept>,
    tell: Tell,
}

/// What is to be on the disk, and what is.
struct Kept {
    directory: PathBuf,
    wanted: Mutex<Option<String>>,
    /// Held while the disk is at work, so that the last order is the one that stays.
    written: Mutex<Option<String>>,
}

impl Maintenance {
    /// Puts in force what the file in `directory` says, if there is one. A file that cannot be read counts: it was put
    /// there to take the node out of service.
    pub(super) fn resume(directory: &Path, tell: Tell) -> Self {
        let reason = match read(&directory.join(FILE)) {
            Ok(reason) => Some(reason),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(format!("the file `{FILE}` in the state directory cannot be read: {error}")),
        };
        if let Some(reason) = &reason {
            tracing::warn!(reason, "this node is in maintenance: /status says 503 until an operator ends that");
        }
        tell(reason.clone());
        let (wanted, written) = (Mutex::new(reason.clone()), Mutex::new(reason));
        Self { kept: Arc::new(Kept { directory: directory.to_owned(), wanted, written }), tell }
    }

    /// Puts in force what the control plane says: the reason, or `None`; and has the disk keep it. `done` hears whether the
    /// disk has it. Must be called within a tokio runtime.
    pub(super) fn set(
        &self,
        reason: Option<String>,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> JoinHandle<()> {
        let before = std::mem::replace(&mut *lock(&self.kept.wanted), reason.clone());
        if before != reason {
            match &reason {
                Some(reason) => tracing::warn!(reason, "this node is in maintenance: /status says 503"),
                None => tracing::info!("this node is in service again"),
            }
            (self.tell)(reason);
        }
        let kept = self.kept.clone();
        spawn_blocking(move || done(kept.write()))
    }
}

impl Kept {
    /// Writes what is wanted by now, unless the disk has it.
    fn write(&self) -> io::Result<()> {
        let mut written = lock(&self.written);
        let wanted = lock(&self.wanted).clone();
        if *written == wanted {
            return Ok(());
        }
        let (path, new) = (self.directory.join(FILE), self.directory.join(format!("{FILE}.new")));
        match &wanted {
            Some(reason) => {
                let mut file = File::create(&new)?;
                file.write_all(reason.as_bytes())?;
                file.sync_all()?;
                fs::rename(&new, &path)?;
            }
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
        File::open(&self.directory)?.sync_all()?;
        *written = wanted;
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(path: &Path) -> io::Result<String> {
    let mut reason = String::new();
    File::open(path)?.take(LONGEST).read_to_string(&mut reason)?;
    Ok(reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_testkit::TempDir;

    /// A node's maintenance, and all that was told of it.
    struct Node {
        maintenance: Maintenance,
        told: Arc<Mutex<Vec<Option<String>>>>,
    }

    impl Node {
        fn start(directory: &Path) -> Self {
            let told: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
            let tell = {
                let told = told.clone();
                Box::new(move |reason| told.lock().unwrap().push(reason))
            };
            Self { maintenance: Maintenance::resume(directory, tell), told }
        }

        /// Gives an order, and whether the disk has it.
        async fn set(&self, reason: Option<&str>) -> io::Result<()> {
            let (send, done) = tokio::sync::oneshot::channel();
            let write = self.maintenance.set(reason.map(str::to_owned), move |kept| send.send(kept).unwrap());
            write.await.unwrap();
            done.await.unwrap()
        }

        fn told(&self) -> Vec<Option<String>> {
            self.told.lock().unwrap().clone()
        }
    }

    #[tokio::test]
    async fn it_lasts_until_it_is_ended() {
        let dir = TempDir::new();
        let reason = || Some("a new disk".to_owned());
        let node = Node::start(dir.path());
        node.set(Some("a new disk")).await.unwrap();
        node.set(Some("a new disk")).await.unwrap();
        assert_eq!(node.told(), [None, reason()]);
        let node = Node::start(dir.path());
        node.set(None).await.unwrap();
        assert_eq!(node.told(), [reason(), None]);
        assert_eq!(Node::start(dir.path()).told(), [None]);
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_in_force_and_tried_again() {
        let dir = TempDir::new();
        let gone = dir.path().join("gone");
        let node = Node::start(&gone);
        node.set(Some("x")).await.unwrap_err();
        assert_eq!(node.told().last().unwrap().as_deref(), Some("x"));
        fs::create_dir(&gone).unwrap();
        node.set(Some("x")).await.unwrap();
        assert_eq!(Node::start(&gone).told(), [Some("x".to_owned())]);
    }

    #[tokio::test]
    async fn of_orders_that_follow_each_other_the_last_one_stays() {
        let dir = TempDir::new();
        let node = Node::start(dir.path());
        let orders: Vec<_> =
            (0..50).map(|n| node.maintenance.set((n % 2 == 0).then(|| n.to_string()), |kept| kept.unwrap())).collect();
        for order in orders {
            order.await.unwrap();
        }
        assert_eq!(Node::start(dir.path()).told(), [None]);
    }

    #[test]
    fn a_file_that_cannot_be_read_counts() {
        let dir = TempDir::new();
        fs::create_dir(dir.path().join(FILE)).unwrap();
        let told = Node::start(dir.path()).told();
        assert!(told[0].as_ref().unwrap().contains("cannot be read"), "{told:?}");
    }
}
