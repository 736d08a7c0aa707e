//! Reading what other replicas have written, and telling how old it may be where the database does not say.

use super::{Group, Image};
use milecastle_store::{Heard, StoreError};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// For how long a database that did not answer in time is not asked on behalf of readers: one of them waits, and not each.
const SILENCE: Duration = Duration::from_secs(1);

/// The store asks every second by itself where groups stand; once that has gone unanswered for so long, the database counts as
/// silent.
const UNHEARD: Duration = Duration::from_secs(3);

/// What a reader is shown.
pub struct Seen {
    /// The configuration.
    pub image: Arc<Image>,
    /// How old it may be: what was written since then, by whatever replica, may be missing. `None` if the database stood behind
    /// it.
    pub stale: Option<Duration>,
}

/// What readers ask the database together.
pub(super) struct Asking {
    /// Held while the database is asked.
    turn: tokio::sync::Mutex<()>,
    /// How often it was asked, and which of these it has answered last.
    begun: AtomicU64,
    answered: AtomicU64,
    told: Mutex<Told>,
}

/// How the database took to being asked.
struct Told {
    /// When the last question began that it answered: the image had all that was written until then.
    at: Instant,
    /// When it did not answer in time, if it has not answered since.
    silent: Option<Instant>,
}

impl Asking {
    /// Of an image that the database is asked for at this moment.
    pub(super) fn beginning() -> Self {
        let told = Mutex::new(Told { at: Instant::now(), silent: None });
        Self { turn: tokio::sync::Mutex::default(), begun: AtomicU64::new(0), answered: AtomicU64::new(0), told }
    }

    fn is_in_vain(&self) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).silent.is_some_and(|since| since.elapsed() < SILENCE)
    }

    /// Takes note of an answer to what was asked at `at`, or of none.
    fn note(&self, at: Instant, answered: bool) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.silent = (!answered).then(Instant::now);
        if answered {
            told.at = told.at.max(at);
        }
    }
}

impl Group {
    /// The image as the database has it, so that a client reads from any replica what another one has answered that it wrote. Where
    /// the database does not tell within `patience`, the newest image that was heard of, which is stale.
    ///
    /// # Errors
    /// [`StoreError::UnknownGroup`]: the database told that there is no such group any more.
    pub async fn latest(&self, patience: Duration) -> Result<Seen, StoreError> {
        let asking = &self.asking;
        if patience.is_zero() {
            return Ok(self.seen());
        }
        if asking.is_in_vain() {
            return Ok(self.stale());
        }
        let came = Instant::now();
        let seen = asking.begun.load(Ordering::Acquire);
        let ask = async {
            let _turn = asking.turn.lock().await;
            // What was asked after this reader came, and was answered, holds for it too.
            if asking.answered.load(Ordering::Acquire) <= seen {
                let number = asking.begun.fetch_add(1, Ordering::AcqRel) + 1;
                self.current().await?;
                asking.answered.store(number, Ordering::Release);
            }
            Ok::<_, StoreError>(())
        };
        let told = timeout(patience, ask).await;
        asking.note(came, matches!(told, Ok(Ok(()) | Err(StoreError::UnknownGroup(_)))));
        match told {
            Ok(Ok(())) => Ok(Seen { image: self.image(), stale: None }),
            Ok(Err(error @ StoreError::UnknownGroup(_))) => Err(error),
            Ok(Err(_)) | Err(_) => Ok(self.stale()),
        }
    }

    /// The newest image that was heard of, without asking: late by no more than a second while the database answers, stale once
    /// it does not.
    pub fn seen(&self) -> Seen {
        if self.store.heard().at.elapsed() > UNHEARD { self.stale() } else { Seen { image: self.image(), stale: None } }
    }

    /// The newest image that was heard of, of a database that says nothing.
    fn stale(&self) -> Seen {
        let image = self.image();
        let told = self.asking.told.lock().unwrap_or_else(PoisonError::into_inner).at;
        let Heard { heads, at } = self.store.heard();
        // Of a head that was heard of, and not read any more, the image has nothing.
        let shown = heads.get(&*self.id).is_some_and(|head| {
            (&*head.lineage, head.revision, &*head.mark) == (&**image.lineage(), image.revision(), image.mark())
        });
        let since = if shown { told.max(at) } else { told };
        Seen { image, stale: Some(since.elapsed()) }
    }
}
