//! The task that asks secret managers, on the side runtime.

use super::NodeSecrets;
use super::cache::{Question, Trouble};
use super::manager::{FetchError, Manager};
use super::reference::Reference;
use std::sync::{Arc, Weak};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A question, and whom it goes to.
pub(super) struct Errand {
    pub(super) question: Question,
    /// `Err`: nobody, and why.
    pub(super) to: Result<Arc<Manager>, Trouble>,
}

impl Errand {
    async fn run(self) -> (Question, Result<String, Trouble>) {
        let Self { question, to } = self;
        let answer = match (to, Reference::parse(&question.reference)) {
            (Err(trouble), _) => Err(trouble),
            (Ok(manager), Some(reference)) => fetch(&manager, reference.path).await,
            (Ok(_), None) => Err(malformed()),
        };
        (question, answer)
    }
}

/// Why a reference that cannot be read has no value.
pub(super) fn malformed() -> Trouble {
    Trouble::Absent("expected `$secret://<manager>/<id>/<path>`".to_owned())
}

async fn fetch(manager: &Manager, path: &str) -> Result<String, Trouble> {
    match manager.fetch(path).await {
        // Nobody is let in by a key that is empty.
        Ok(value) if value.is_empty() => Err(Trouble::Absent("its value is empty".to_owned())),
        Ok(value) => Ok(value),
        Err(FetchError::Absent) => Err(Trouble::Absent("the secret manager has nothing of that name".to_owned())),
        Err(FetchError::Failed(reason)) => Err(Trouble::Failed(reason)),
    }
}

/// Asks for what is due until `secrets` are gone. `poked`: something may be due.
pub(super) async fn run(secrets: Weak<NodeSecrets>, poked: Arc<Notify>, concurrency: usize) {
    let mut asking = JoinSet::new();
    loop {
        let next = {
            let Some(secrets) = secrets.upgrade() else { return };
            while asking.len() < concurrency
                && let Some(errand) = secrets.errand()
            {
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
                if let Ok((question, answer)) = done {
                    secrets.answered(question, answer);
                }
            }
            () = due, if asking.len() < concurrency => {}
            () = poked.notified() => {}
        }
    }
}
