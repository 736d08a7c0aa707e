//! Rest for the membership, while another process gets ready to take it over.
//!
//! At rest there is no configuration stream, and what is in force is on the disk, where this process writes nothing more.

use super::Member;
use super::last_good::Step;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Lets a node's membership rest.
#[derive(Clone)]
pub struct Pause(mpsc::Sender<Ask>);

/// A request for a rest.
type Ask = oneshot::Sender<Result<Paused, RestError>>;

/// Requests for a rest.
pub(super) type Asked = mpsc::Receiver<Ask>;

/// Why a membership does not rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// There is none any more.
    #[error("the node's membership has ended")]
    Ended,
    /// The other process would begin with an older configuration than this one has, and without a control plane stay with it.
    #[error(
        "what is in force cannot be written to state.dir, where the other process reads it: make room there, or mend what this \
         process's log and the node's alarms name"
    )]
    NotOnDisk,
}

/// A membership at rest. It goes on when this is dropped.
pub struct Paused {
    lock: Option<Arc<std::fs::File>>,
    end: oneshot::Sender<()>,
}

impl Pause {
    pub(super) fn new() -> (Self, Asked) {
        let (ask, asked) = mpsc::channel(1);
        (Self(ask), asked)
    }

    /// Waits until the membership rests.
    ///
    /// # Errors
    /// It has ended, or goes on because it cannot rest.
    pub async fn ask(&self) -> Result<Paused, RestError> {
        let (ask, answer) = oneshot::channel();
        self.0.send(ask).await.map_err(|_| RestError::Ended)?;
        answer.await.map_err(|_| RestError::Ended)?
    }
}

impl Paused {
    /// The lock on the state directory, if this process has it.
    pub fn lock(&self) -> Option<BorrowedFd<'_>> {
        self.lock.as_ref().map(|lock| lock.as_fd())
    }

    /// Ends the membership of this process: it is another one's.
    pub fn end(self) {
        // A member that has ended in the meantime does not go on either.
        self.end.send(()).ok();
    }
}

impl Member {
    /// Rests. Says whether the membership goes on afterwards.
    pub(super) async fn rest(&mut self, ask: Ask) -> bool {
        self.tell(|status| status.connected_to = None);
        if let (Some(held), Some(origin)) = (self.in_force.held(), &self.origin)
            && !self.last_good.settle(&held, origin).await
        {
            // If nobody waits any more, nobody takes over either.
            drop(ask.send(Err(RestError::NotOnDisk)));
            self.keep(Step::Whole).await;
            return true;
        }
        let (end, ended) = oneshot::channel();
        // If nobody waits any more, it is dropped and the rest is over.
        drop(ask.send(Ok(Paused { lock: self.last_good.lock(), end })));
        if ended.await.is_ok() {
            return false;
        }
        tracing::info!("this process goes on as the member of the cluster");
        // Another process may have written there.
        self.last_good.begin_anew().await;
        self.keep(Step::Whole).await;
        true
    }
}
