//! Reading what other replicas have written.

use super::{Group, Image};
use milecastle_store::StoreError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// For how long a database that did not answer in time is not asked on behalf of readers: one of them waits, and not each.
const SILENCE: Duration = Duration::from_secs(1);

/// What readers ask the database together.
#[derive(Default)]
pub(super) struct Asking {
    /// Held while the database is asked.
    turn: Mutex<()>,
    /// How often it was asked, and which of these it has answered last.
    begun: AtomicU64,
    answered: AtomicU64,
    /// When it did not answer in time, if it has not answered since.
    silent: std::sync::Mutex<Option<Instant>>,
}

impl Asking {
    fn is_in_vain(&self) -> bool {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|since| since.elapsed() < SILENCE)
    }
}

impl Group {
    /// The image as the database has it, so that a client reads from any replica what another one has answered that it wrote. Where
    /// the database does not tell within `patience`, the newest image that was heard of, which may be late.
    pub async fn latest(&self, patience: Duration) -> Arc<Image> {
        let asking = &self.asking;
        if patience.is_zero() || asking.is_in_vain() {
            return self.image();
        }
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
        let told = matches!(timeout(patience, ask).await, Ok(Ok(())));
        *asking.silent.lock().unwrap_or_else(PoisonError::into_inner) = (!told).then(Instant::now);
        self.image()
    }
}
