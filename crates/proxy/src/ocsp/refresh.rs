//! The task that keeps the response for one certificate fresh.

use super::asker::{AskError, Asker, Kind};
use super::certificate::Certificate;
use super::slot::Slot;
use super::verify::Refusal;
use super::{Figures, Terms};
use crate::backoff::jitter;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// See the head of the module.
pub(super) struct Refresh {
    /// An ssl object that has the certificate, for the log.
    pub(super) ssl: Arc<str>,
    pub(super) certificate: Certificate,
    pub(super) terms: Terms,
    pub(super) slot: Arc<Slot>,
    pub(super) asker: Arc<Asker>,
    pub(super) tally: Tally,
}

/// What the log has been told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    /// All is well.
    Stapled,
    /// The responder fails in this way; `held`: there is a response all the same.
    Failing {
        held: bool,
        how: Kind,
    },
}

impl Refresh {
    /// Asks for ever.
    pub(super) async fn run(mut self) {
        let mut failures = 0;
        let mut told = Told::Nothing;
        loop {
            let pause = match self.asker.ask(&self.certificate, self.terms).await {
                Ok(held) => {
                    failures = 0;
                    let left = held.until.duration_since(SystemTime::now()).unwrap_or_default();
                    self.slot.put(held);
                    self.tally.set(true);
                    if told != Told::Stapled {
                        tracing::info!(ssl = &*self.ssl, responder = %self.certificate.responder, "an OCSP response is stapled");
                    }
                    told = Told::Stapled;
                    next_question(left, self.terms.ttl, self.asker.backoff.shortest, jitter())
                }
                Err(error) => {
                    self.failed(&error, &mut told);
                    let pause = self.asker.backoff.pause(failures, jitter());
                    failures = failures.saturating_add(1);
                    pause
                }
            };
            self.rest(pause, &mut told).await;
        }
    }

    /// What there is stays in use, unless the authority has revoked the certificate.
    fn failed(&mut self, error: &AskError, told: &mut Told) {
        if matches!(error, AskError::Refused(Refusal::Revoked)) {
            self.slot.clear();
        }
        let held = self.slot.until().is_some();
        self.tally.set(held);
        let now = Told::Failing { held, how: error.kind() };
        if *told == now {
            return;
        }
        *told = now;
        let (ssl, responder) = (&*self.ssl, &self.certificate.responder);
        match held {
            true => tracing::warn!(
                ssl, %responder, %error,
                "no new OCSP response can be had; the one that is there is stapled until it expires"
            ),
            false => tracing::error!(ssl, %responder, "no ocsp response send: {error}"),
        }
    }

    /// Waits, and takes the response away if it expires meanwhile.
    async fn rest(&mut self, pause: Duration, told: &mut Told) {
        let left = self.slot.until().map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
        let Some(left) = left.filter(|left| *left <= pause) else { return tokio::time::sleep(pause).await };
        tokio::time::sleep(left).await;
        self.slot.clear();
        self.tally.set(false);
        match told {
            // The reason was told, and is told again only if it becomes another one.
            Told::Failing { held, .. } => *held = false,
            Told::Nothing | Told::Stapled => *told = Told::Nothing,
        }
        let (ssl, responder) = (&*self.ssl, &self.certificate.responder);
        tracing::error!(ssl, %responder, "no ocsp response send: it has expired, and no newer one could be had");
        tokio::time::sleep(pause.saturating_sub(left)).await;
    }
}

/// The time to the next question about a response that holds for `left`: so early that half of that is left for further tries,
/// and after the `ttl` at the latest. `jitter`, from 0 to 255, takes up to a tenth off, so that not all certificates are asked
/// about at once.
fn next_question(left: Duration, ttl: Duration, shortest: Duration, jitter: u8) -> Duration {
    let latest = ttl.min(left / 2);
    (latest - latest / 10 * u32::from(jitter) / 255).max(shortest)
}

/// One certificate's place in the figures; it leaves them when this is dropped.
pub(super) struct Tally {
    figures: Arc<Figures>,
    stapled: bool,
}

impl Tally {
    pub(super) fn new(figures: Arc<Figures>, stapled: bool) -> Self {
        figures.certificates(stapled).fetch_add(1, Ordering::Relaxed);
        Self { figures, stapled }
    }

    fn set(&mut self, stapled: bool) {
        if self.stapled != stapled {
            self.figures.certificates(stapled).fetch_add(1, Ordering::Relaxed);
            self.figures.certificates(self.stapled).fetch_sub(1, Ordering::Relaxed);
            self.stapled = stapled;
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.figures.certificates(self.stapled).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_renewed_well_before_they_expire() {
        let check = |left: u64, ttl: u64, jitter: u8, expected: u64| {
            let seconds = Duration::from_secs;
            let next = next_question(seconds(left), seconds(ttl), seconds(5), jitter);
            assert_eq!(next, seconds(expected), "{left} s left, {ttl} s, {jitter}");
        };
        check(7 * 86_400, 3600, 0, 3600);
        check(7 * 86_400, 3600, 255, 3240);
        check(600, 3600, 0, 300);
        check(600, 3600, 255, 270);
        check(1, 3600, 0, 5);
    }
}
