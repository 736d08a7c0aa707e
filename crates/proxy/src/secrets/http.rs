//! Questions to secret managers over HTTP/1.1, one connection each.

use super::breaker::Breaker;
use super::trouble::Trouble;
use crate::discovery::encoded;
use bytes::Bytes;
use http::{HeaderMap, Method};
use milecastle_export::{Background, HttpClient, HttpError, Target};
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;

/// Longest name of an error that is told on.
const LONGEST_CODE: usize = 64;

/// Asks over HTTP.
pub(super) struct Client {
    outlet: Arc<Background>,
    breaker: Arc<Breaker>,
}

/// An answer.
pub(super) struct Answer {
    /// Whose it is.
    server: String,
    pub(super) status: u16,
    body: Bytes,
}

impl Client {
    /// Asks over `outlet`, and tells `breaker` whether anybody is there.
    pub(super) fn new(outlet: Arc<Background>, breaker: Arc<Breaker>) -> Self {
        Self { outlet, breaker }
    }

    /// Asks. A redirection is an answer like any other: it would lead where the object does not say.
    pub(super) async fn ask(
        &self,
        target: Target,
        method: Method,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> Result<Answer, Trouble> {
        let (server, asked) = (target.to_string(), Instant::now());
        // The next question is minutes away: no connection is kept.
        let mut client = HttpClient::new(self.outlet.clone(), target);
        match client.send(method, headers, body.into()).await {
            Ok(answer) => {
                self.breaker.answered();
                Ok(Answer { server, status: answer.status, body: answer.body })
            }
            Err(error) => {
                let reason = format!("{server} cannot be asked: {error}");
                if matches!(error, HttpError::Connect(_)) {
                    self.breaker.failed(asked, &reason);
                }
                Err(Trouble::Failed(reason))
            }
        }
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
