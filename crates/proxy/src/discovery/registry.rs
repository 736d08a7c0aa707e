//! What a registry is.

use super::instance::Instance;
use milecastle_settings::RegistryUrl;
use milecastle_snapshot::ServiceQuery;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Where instances of services are told.
pub(super) trait Registry: Send + Sync {
    /// The instances that a service has now. With the position of an earlier answer it may take its time until there is a later
    /// one. It ends by itself, whatever the registry does, and can be dropped at any moment.
    fn ask<'a>(&'a self, service: &'a ServiceQuery, since: Option<Position>) -> Asking<'a>;
}

/// A question under way.
pub(super) type Asking<'a> = Pin<Box<dyn Future<Output = Result<Answer, AskError>> + Send + 'a>>;

/// What a registry has answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) instances: Vec<Instance>,
    /// Where this answer stands among the registry's, for registries that tell when there is a later one.
    pub(super) position: Option<Position>,
    /// How long it holds.
    pub(super) ask_again: Duration,
    /// What is told there that should be an instance and is none, in words for operators.
    pub(super) passed_over: Option<String>,
}

impl Answer {
    /// One that holds so long, of a registry that does not tell when there is a later one.
    pub(super) fn of(instances: Vec<Instance>, ask_again: Duration) -> Self {
        Self { instances, position: None, ask_again, passed_over: None }
    }
}

/// A point in a registry's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The server whose history it is, as its place in the list.
    pub(super) server: usize,
    pub(super) index: u64,
}

/// Why a registry has given no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("{0} cannot be reached: {1}")]
    Network(String, io::Error),
    #[error("{0} does not answer in time")]
    Late(String),
    #[error("{0} answers with status {1}")]
    Status(String, u16),
    #[error("{0} does not speak HTTP/1.1: {1}")]
    Protocol(String, String),
    #[error("the answer is longer than discovery.answer_bytes")]
    TooLong,
    #[error("the answer is malformed: {0}")]
    Malformed(String),
    #[error("there are more instances than discovery.service_instances")]
    TooMany,
    #[error("the service's name is not of the form that this registry asks for: {0}")]
    Name(&'static str),
    #[error("no key of the service names an instance: {0}")]
    NoneRead(String),
    #[error("{0} hides some of it from this token: allow it to read keys, services and nodes")]
    Hidden(String),
    #[error(transparent)]
    Dns(#[from] crate::dns::DnsError),
    #[error("{0}")]
    Reading(String),
}

impl From<serde_json::Error> for AskError {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// Servers of one registry: all of them tell the same, so that the one that answered last is asked until it fails.
#[derive(Debug)]
pub(super) struct Servers {
    list: Vec<RegistryUrl>,
    preferred: AtomicUsize,
}

impl Servers {
    pub(super) fn new(list: Vec<RegistryUrl>) -> Self {
        Self { list, preferred: AtomicUsize::new(0) }
    }

    /// Asks one server after the other, each once, until one answers.
    pub(super) async fn first<'s, T, F>(&'s self, ask: impl Fn(usize, &'s RegistryUrl) -> F) -> Result<T, AskError>
    where
        F: Future<Output = Result<T, AskError>>,
    {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut failed = AskError::Reading("no server is configured".to_owned());
        for place in (0..self.list.len()).map(|step| (preferred + step) % self.list.len()) {
            match ask(place, &self.list[place]).await {
                Ok(answer) => {
                    self.preferred.store(place, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}
