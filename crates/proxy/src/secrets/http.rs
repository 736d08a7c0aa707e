//! Questions to secret managers over HTTP/1.1, one connection each.

use super::trouble::Trouble;
use crate::discovery::encoded;
use bytes::Bytes;
use http::{HeaderMap, Method};
use milecastle_export::{Background, HttpClient, HttpError, Target};
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};

/// Longest name of an error that is told on.
const LONGEST_CODE: usize = 64;

/// Asks over HTTP, all that one fetch needs.
pub(super) struct Client {
    outlet: Arc<Background>,
    reach: Mutex<Reach>,
}

/// Whether anybody was there, by the last question: where several servers are asked for one secret, the last one has it.
#[derive(Debug, Clone, Default)]
pub(super) enum Reach {
    /// Nobody was asked, or the exchange broke.
    #[default]
    Unknown,
    /// There was an answer, whatever it said.
    Answered,
    /// There was no connection. Says why.
    NoConnection(String),
}

/// An answer.
pub(super) struct Answer {
    /// Whose it is.
    server: String,
    pub(super) status: u16,
    body: Bytes,
}

impl Client {
    /// Asks over `outlet`.
    pub(super) fn new(outlet: Arc<Background>) -> Self {
        Self { outlet, reach: Mutex::default() }
    }

    /// Whether anybody was there.
    pub(super) fn reach(&self) -> Reach {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks. A redirection is an answer like any other: it would lead where the object does not say.
    pub(super) async fn ask(
        &self,
        target: Target,
        method: Method,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> Result<Answer, Trouble> {
        let server = target.to_string();
        // The next question is minutes away: no connection is kept.
        let mut client = HttpClient::new(self.outlet.clone(), target);
        let answer = client.send(method, headers, body.into()).await;
        let unasked = |error: &HttpError| format!("{server} cannot be asked: {error}");
        *self.reach.lock().unwrap_or_else(PoisonError::into_inner) = match &answer {
            Ok(_) => Reach::Answered,
            Err(error @ HttpError::Connect(_)) => Reach::NoConnection(unasked(error)),
            Err(_) => Reach::Unknown,
        };
        let answer = answer.map_err(|error| Trouble::Failed(unasked(&error)))?;
        Ok(Answer { server, status: answer.status, body: answer.body })
    }
}

impl Answer {
    /// The body, if it is JSON.
    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// A complaint about an answer that should have a secret in it and has none.
    pub(super) fn malformed(&self) -> Trouble {
        let why =
            if self.body.is_empty() { "empty, cut short or too long" } else { "not of the form that is documented" };
        Trouble::Failed(format!("the answer of {} is {why}", self.server))
    }

    /// A complaint about a refusal, with the name that its error has.
    pub(super) fn refused(&self, code: Option<&str>) -> Trouble {
        let is_name = |code: &&str| {
            code.len() <= LONGEST_CODE && code.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        };
        let code = code.filter(is_name).map(|code| format!(", {code}")).unwrap_or_default();
        Trouble::Failed(format!("{} answers with status {}{code}", self.server, self.status))
    }
}

/// A path as it is sent; `None` if a part of it is empty or leads back.
pub(super) fn encoded_path(path: &str) -> Option<String> {
    let part = |part: &str| (!matches!(part, "" | "." | "..")).then(|| encoded(part));
    Some(path.split('/').map(part).collect::<Option<Vec<_>>>()?.join("/"))
}
