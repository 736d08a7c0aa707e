//! Asking a responder (RFC 6960 appendix A).

use super::certificate::Certificate;
use super::message::{Response, Unreadable};
use super::slot::Held;
use super::verify::{Clock, Refusal, until, verify};
use super::{Figures, Terms};
use crate::backoff::Backoff;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use milecastle_export::{Background, HttpClient, HttpError};
use milecastle_settings::Ocsp as Settings;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;

/// Why there is no response to staple.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the responder cannot be asked: {0}")]
    Network(#[from] HttpError),
    #[error("the responder answers with HTTP status {0}")]
    Status(u16),
    #[error("the responder's answer is empty, or longer than `ocsp.answer_bytes`")]
    Length,
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl AskError {
    /// What sets one failure apart from another, as far as the log tells of each.
    pub(super) fn kind(&self) -> Kind {
        let refusal = if let Self::Refused(refusal) = self { Some(*refusal) } else { None };
        (discriminant(self), refusal)
    }
}

/// See [`AskError::kind`].
pub(super) type Kind = (Discriminant<AskError>, Option<Refusal>);

/// How responders are asked, for all certificates.
pub(super) struct Asker {
    background: Arc<Background>,
    /// Questions that may be under way.
    room: Semaphore,
    timeout: Duration,
    skew: Duration,
    pub(super) backoff: Backoff,
    pub(super) figures: Arc<Figures>,
}

impl Asker {
    pub(super) fn new(settings: &Settings, background: Background, figures: Arc<Figures>) -> Self {
        Self {
            background: Arc::new(background),
            room: Semaphore::new(settings.concurrency as usize),
            timeout: settings.timeout.get(),
            skew: settings.clock_skew.get(),
            backoff: Backoff { shortest: settings.retry_min.get(), longest: settings.retry_max.get() },
            figures,
        }
    }

    /// Asks for the status of a certificate. What comes back may be stapled.
    pub(super) async fn ask(&self, certificate: &Certificate, terms: Terms) -> Result<Held, AskError> {
        let _place = self.room.acquire().await;
        self.figures.questions.fetch_add(1, Ordering::Relaxed);
        let held = self.exchange(certificate).await.and_then(|response| {
            let until = self.judge(&response, certificate, terms)?;
            Ok(Held { response, until })
        });
        if held.is_err() {
            self.figures.failures.fetch_add(1, Ordering::Relaxed);
        }
        held
    }

    async fn exchange(&self, certificate: &Certificate) -> Result<Bytes, AskError> {
        let headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/ocsp-request")),
            (ACCEPT, HeaderValue::from_static("application/ocsp-response")),
        ]);
        // The next question is hours away: no connection is kept.
        let mut client = HttpClient::new(self.background.clone(), certificate.responder.clone());
        let answer = client.post(headers, certificate.id.request().into(), self.timeout).await?;
        match answer.status {
            200 if answer.body.is_empty() => Err(AskError::Length),
            200 => Ok(answer.body),
            // A redirection too: it would lead where the certificate does not say.
            other => Err(AskError::Status(other)),
        }
    }

    /// Until when a response may be stapled.
    fn judge(&self, response: &[u8], certificate: &Certificate, terms: Terms) -> Result<SystemTime, AskError> {
        let clock = Clock { now: SystemTime::now(), skew: self.skew, ttl: terms.ttl };
        if !terms.skip_verify {
            return Ok(verify(&Response::parse(response)?, certificate, clock)?);
        }
        // As it came, whatever it says; that it has expired is for us to see, so that it is not shown for longer.
        let read = Response::parse(response);
        match read.as_ref().ok().and_then(|read| read.about(&certificate.id)) {
            Some(answer) => Ok(until(answer, clock)?),
            None => Ok(clock.now + terms.ttl),
        }
    }
}
