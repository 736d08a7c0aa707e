//! The task that asks secret managers, on the side runtime.

use super::NodeSecrets;
use super::cache::Question;
use super::manager::Manager;
use super::reference::Reference;
use super::trouble::{Found, Trouble};
use std::sync::{Arc, Weak};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A question, and whom it goes to.
pub(super) struct Errand {
    pub(super) question: Question,
    pub(super) to: Arc<Manager>,
    /// Held until it is over, if it finds out whether the manager is back.
    pub(super) probe: Option<OwnedSemaphorePermit>,
}

/// A question with its answers, one for each of its references.
pub(super) struct Answered {
    pub(super) question: Question,
    pub(super) answers: Vec<Found>,
    /// Whether anybody was asked.
    pub(super) asked: bool,
}

impl Errand {
    async fn run(self) -> Answered {
        let Self { question, to, probe } = self;
        // Where the place can be read, so can what is in it.
        let path = |reference: &Arc<str>| Reference::parse(reference).map_or("", |of| of.path).to_owned();
        let paths: Vec<String> = question.references.iter().map(path).collect();
        let found = to.fetch(&question.place, &paths).await;
        let answers = found.into_iter().map(|found| found.and_then(not_empty)).collect();
        drop(probe);
        Answered { question, answers, asked: true }
    }
}

/// Nobody is let in by a key that is empty.
fn not_empty(value: String) -> Found {
    if value.is_empty() { Err(Trouble::Absent("its value is empty".to_owned())) } else { Ok(value) }
}

/// Asks for what is due until `secrets` are gone. `poked`: something may be due. Each manager has its own bound of questions under
/// way, so one that does not answer holds up no other.
pub(super) async fn run(secrets: Weak<NodeSecrets>, poked: Arc<Notify>) {
    let mut asking = JoinSet::new();
    loop {
        let next = {
            let Some(secrets) = secrets.upgrade() else { return };
            while let Some(errand) = secrets.errand() {
                asking.spawn(errand.run());
            }
            secrets.next()
        };
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(Instant::from_std(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(done) = asking.join_next() => {
                let Some(secrets) = secrets.upgrade() else { return };
                // One that has panicked is asked again, as any without an answer.
                if let Ok(answered) = done {
                    secrets.answered(answered);
                }
            }
            () = due => {}
            () = poked.notified() => {}
        }
    }
}
