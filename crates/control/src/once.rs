//! Writes with an idempotency key: done once, and answered as at first however often they are repeated.
//!
//! What must stay true:
//! - Keys belong to who sends them. Whoever may not write any more is not answered either: this comes after the right was found.
//! - One key means one request: method, path, gateway group and body.
//! - What was refused is not kept, since nothing was done: it is judged again.
//! - Whoever waits for an answer holds a connection, and the body that it has sent: so many may do so at a time, and so many of a caller.

use crate::waits::{Full, Place, REPEATS, Waits};
use aws_lc_rs::digest;
use http::{HeaderMap, Method, Uri};
use milecastle_settings::Admin;
use milecastle_store::{Acting, Actor, Answered, Done, Once, StoreError};
use milecastle_telemetry::metrics::{Counter, Handle, MetricError, Options, Registry};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The header that names a write.
pub(crate) const HEADER: &str = "idempotency-key";

/// Longest key, in bytes.
const LONGEST: usize = 255;

/// How often an answer is looked for that is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// On an answer that was given before.
pub(crate) const REPLAYED: &str = "idempotency-replayed";

/// Why a key opens no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// It is no key.
    #[error("Idempotency-Key: expected 1 to {LONGEST} visible ASCII characters")]
    Form,
    /// Another request had it.
    #[error(
        "this Idempotency-Key was used for another request: take a new one for each write, and the same only to repeat it"
    )]
    Reused,
    /// The request was done; what was answered is not known yet, or was lost with the process that did it.
    #[error(
        "a write with this Idempotency-Key was done, and what was answered is not known yet, or was lost: repeat it later, or read what it \
         was to write"
    )]
    Unanswered,
}

/// The key of a request, if it writes and has one.
pub(crate) fn key_of<'a>(method: &Method, headers: &'a HeaderMap) -> Result<Option<&'a str>, Unfit> {
    let Some(value) = headers.get(HEADER).filter(|_| !method.is_safe()) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Unfit::Form)?;
    match (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(Some(text)),
        false => Err(Unfit::Form),
    }
}

/// The write that a request with a key asks for.
pub(crate) fn asked(key: &str, method: &Method, uri: &Uri, group: &str, body: &[u8]) -> Once {
    let mut hash = digest::Context::new(&digest::SHA256);
    let target = uri.path_and_query().map(http::uri::PathAndQuery::as_str).unwrap_or_default();
    for part in [method.as_str(), target, group] {
        // With its length, so that no two requests read the same.
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(body);
    let request = hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
    Once::new(key, request)
}

/// Repeated writes of a process.
pub(crate) struct Repeats {
    /// How long one waits.
    patience: Duration,
    /// Those that wait.
    places: Waits,
    refused: Handle<Counter>,
}

impl Repeats {
    /// As [`Admin::max_repeat_wait`], [`Admin::max_repeat_waits`] and [`Admin::max_repeat_waits_of_a_caller`] have it.
    ///
    /// # Errors
    /// A metric of the same name is another one.
    pub(crate) fn new(settings: &Admin, metrics: &Registry) -> Result<Self, MetricError> {
        let help = "Repeated writes that did not wait for the answer to the first one, since too many others did.";
        let refused = metrics.counter("repeats_refused_total", help, &[], Options::default())?.with(&[]);
        let (all, of_a_caller) = (settings.max_repeat_waits, settings.max_repeat_waits_of_a_caller);
        let places = Waits::new(&REPEATS, all as usize, of_a_caller as usize);
        Ok(Self { patience: settings.max_repeat_wait.get(), places, refused })
    }

    /// What was answered to the write at first; `None` if it was not done yet. One that was just done has its answer soon, which is waited
    /// for.
    pub(crate) async fn answered(&self, acting: Acting<'_>, once: &Once) -> Result<Option<Answered>, Fault> {
        let until = Instant::now() + self.patience;
        let mut place = None;
        loop {
            match acting.done(once).await? {
                None => return Ok(None),
                Some(Done { same: false, .. }) => return Err(Unfit::Reused.into()),
                Some(Done { answered: Some(answered), .. }) => return Ok(Some(answered)),
                Some(Done { answered: None, .. }) if Instant::now() < until => {
                    if place.is_none() {
                        place = Some(self.place(acting)?);
                    }
                    sleep(LOOK).await;
                }
                Some(Done { answered: None, .. }) => return Err(Unfit::Unanswered.into()),
            }
        }
    }

    fn place(&self, acting: Acting<'_>) -> Result<Place, Full> {
        let Actor { kind, name, id, .. } = acting.actor();
        self.places.enter_as(&format!("{} {id}", kind.name()), name).inspect_err(|_| self.refused.inc())
    }
}

/// Keeps an answer, unless it says that nothing was done, or not whether anything was. If it is lost, a repeated write is told so.
pub(crate) async fn keep(acting: Acting<'_>, once: &Once, answer: Answered) {
    if answer.status >= 500 {
        return;
    }
    if let Err(error) = acting.once(Some(once)).answered(&answer).await {
        tracing::warn!(%error, "what was answered to a write with an idempotency key is not kept");
    }
}

/// Why a write is not done, or its answer not given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The key.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The request was done, and too many others wait for an answer.
    #[error("a write with this Idempotency-Key was done, and what was answered is not known yet; {0}")]
    Crowded(#[from] Full),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn keys() {
        let check = |method: Method, value: &str, expected: Result<Option<&str>, Unfit>| {
            let headers = HeaderMap::from_iter([(HEADER.parse().unwrap(), HeaderValue::from_str(value).unwrap())]);
            assert_eq!(key_of(&method, &headers), expected, "{method} {value}");
        };
        check(Method::PUT, "a-1", Ok(Some("a-1")));
        check(Method::GET, "a-1", Ok(None));
        check(Method::POST, "", Err(Unfit::Form));
        check(Method::DELETE, "a b", Err(Unfit::Form));
        check(Method::PATCH, &"x".repeat(256), Err(Unfit::Form));
        assert_eq!(key_of(&Method::PUT, &HeaderMap::new()), Ok(None));
    }

    #[test]
    fn requests_are_told_apart_by_all_that_they_ask() {
        let base = asked("k", &Method::PUT, &Uri::from_static("/a?b"), "default", b"{}");
        assert_eq!(base.request, asked("k", &Method::PUT, &Uri::from_static("/a?b"), "default", b"{}").request);
        for other in [
            asked("k", &Method::POST, &Uri::from_static("/a?b"), "default", b"{}"),
            asked("k", &Method::PUT, &Uri::from_static("/a"), "default", b"{}"),
            asked("k", &Method::PUT, &Uri::from_static("/a?b"), "prod", b"{}"),
            asked("k", &Method::PUT, &Uri::from_static("/a?b"), "default", b"{ }"),
        ] {
            assert_ne!(base.request, other.request);
        }
    }
}
