//! Consul agents, as the registries `consul` and `consul_kv` ask them.
//!
//! With `keepalive` an agent is asked by blocking queries: it answers when the index of what is asked for is beyond the one that is
//! named. What its manual asks of a client is kept: an index that goes backwards or is none begins anew.

use super::http::{Http, Patience, Question};
use super::instance::Instance;
use super::registry::{Answer, AskError, Position};
use bytes::Bytes;
use http::HeaderName;
use milecastle_settings::{ConsulAgents, DefaultService, RegistryUrl};
use std::time::Duration;

/// Stands for the state that an answer is of.
const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
/// Says that there is more, which the token may not read.
const FILTERED: HeaderName = HeaderName::from_static("x-consul-results-filtered-by-acls");
/// Pause between two blocking queries: an agent whose index moves all the time is not asked all the time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// How long an answer holds that nobody was asked for.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Asks Consul agents.
pub(super) struct Agents {
    settings: ConsulAgents,
    http: Http,
}

/// What an agent has told.
pub(super) struct Told {
    /// A list, in JSON.
    pub(super) list: Bytes,
    pub(super) position: Option<Position>,
    pub(super) ask_again: Duration,
}

impl Agents {
    pub(super) fn new(settings: ConsulAgents, http: Http) -> Self {
        Self { settings, http }
    }

    /// The agents that the settings name.
    pub(super) fn servers(&self) -> &[RegistryUrl] {
        &self.settings.servers
    }

    /// Asks the agent at `place` for the list at `target`, a path with a query. With the position of an earlier answer of the same
    /// agent it may take its time until there is a later one.
    pub(super) async fn ask(
        &self,
        (place, server): (usize, &RegistryUrl),
        mut target: String,
        since: Option<Position>,
    ) -> Result<Told, AskError> {
        let ConsulAgents { token, fetch_interval, keepalive, timeout, .. } = &self.settings;
        let millis = |millis: u32| Duration::from_millis(millis.into());
        let mut patience = Patience { connect: millis(timeout.connect), answer: millis(timeout.read) };
        let since = since.filter(|since| since.server == place && *keepalive);
        if let Some(since) = since {
            let wait = Duration::from_secs(timeout.wait.into());
            target.push_str(&format!("&index={}&wait={}s", since.index, timeout.wait));
            // The agent adds up to a sixteenth, so that not all clients come back at once.
            patience.answer += wait + wait / 16;
        }
        let mut question = Question::get(target);
        if let Some(token) = token {
            question = question.secret(TOKEN, token.reveal());
        }
        let answer = self.http.ask(server, question, patience).await?;
        // A token that has lost a right has taken no instance away.
        if answer.headers.get(FILTERED).is_some_and(|filtered| filtered.as_bytes().eq_ignore_ascii_case(b"true")) {
            return Err(AskError::Hidden(server.to_string()));
        }
        let list = match answer.status {
            200 => answer.body,
            // So it says that there are no such keys. What is no agent says it without an index.
            404 if answer.headers.contains_key(INDEX) => Bytes::from_static(b"[]"),
            status => return Err(AskError::Status(server.to_string(), status)),
        };
        let index = answer.headers.get(INDEX).and_then(|index| index.to_str().ok()?.parse().ok());
        let index = index.filter(|index| *index > 0 && since.is_none_or(|since| *index >= since.index));
        let position = index.filter(|_| *keepalive).map(|index| Position { server: place, index });
        let ask_again = if position.is_some() { SHORTEST_PAUSE } else { fetch_interval.get() };
        Ok(Told { list, position, ask_again })
    }
}

/// The answer about a service that is never asked for.
pub(super) fn skipped(default: Option<&DefaultService>) -> Result<Answer, AskError> {
    Ok(Answer::of(or_default(Vec::new(), default)?, NEVER))
}

/// The instances, or the one that stands for none.
pub(super) fn or_default(
    instances: Vec<Instance>,
    default: Option<&DefaultService>,
) -> Result<Vec<Instance>, AskError> {
    match default.filter(|_| instances.is_empty()) {
        Some(default) => Ok(vec![Instance::new(&default.host, Some(default.port), default.metadata.weight)?]),
        None => Ok(instances),
    }
}
