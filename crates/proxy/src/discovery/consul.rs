//! The registry `consul`: Consul's health endpoint, `GET /v1/health/service/<name>?passing`.
//!
//! With `keepalive` the agent is asked by blocking queries: it answers when the service's index is beyond the one that is named.
//! What its manual asks of a client is kept: an index that goes backwards or is none begins anew.

use super::http::{Http, Patience, Question, encoded};
use super::instance::Instance;
use super::registry::{Answer, AskError, Asking, Position, Registry, Servers};
use http::HeaderName;
use milecastle_settings::{Consul as Settings, RegistryUrl};
use milecastle_snapshot::ServiceQuery;
use serde::Deserialize;
use std::time::Duration;

/// The port of an instance that names none.
const DEFAULT_PORT: u16 = 80;
/// Pause between two blocking queries: an agent whose index moves all the time is not asked all the time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// How long an answer holds that nobody was asked for.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Asks Consul agents.
pub(super) struct Consul {
    servers: Servers,
    settings: Settings,
    http: Http,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: u16,
}

impl Consul {
    pub(super) fn new(settings: Settings, http: Http) -> Self {
        Self { servers: Servers::new(settings.servers.clone()), settings, http }
    }

    async fn find(&self, service: &str, since: Option<Position>) -> Result<Answer, AskError> {
        if self.settings.skip_services.iter().any(|skipped| skipped == service) {
            return Ok(Answer { instances: self.or_default(Vec::new())?, position: None, ask_again: NEVER });
        }
        self.servers.first(|place, server| self.ask(place, server, service, since)).await
    }

    async fn ask(
        &self,
        place: usize,
        server: &RegistryUrl,
        service: &str,
        since: Option<Position>,
    ) -> Result<Answer, AskError> {
        let timeout = &self.settings.timeout;
        let millis = |millis: u32| Duration::from_millis(millis.into());
        let mut answer = millis(timeout.read);
        let mut target = format!("/v1/health/service/{}?passing=true", encoded(service));
        let since = since.filter(|since| since.server == place && self.settings.keepalive);
        if let Some(since) = since {
            let wait = Duration::from_secs(timeout.wait.into());
            target.push_str(&format!("&index={}&wait={}s", since.index, timeout.wait));
            // The agent adds up to a sixteenth, so that not all clients come back at once.
            answer += wait + wait / 16;
        }
        let mut question = Question::get(target);
        if let Some(token) = &self.settings.token {
            question = question.secret(HeaderName::from_static("x-consul-token"), token.reveal());
        }
        let patience = Patience { connect: millis(timeout.connect), answer };
        let answer = self.http.ask(server, question, patience).await?;
        if answer.status != 200 {
            return Err(AskError::Status(server.to_string(), answer.status));
        }
        let index = answer.headers.get("x-consul-index").and_then(|index| index.to_str().ok()?.parse().ok());
        let index = index.filter(|index| *index > 0 && since.is_none_or(|since| *index >= since.index));
        let position = index.filter(|_| self.settings.keepalive).map(|index| Position { server: place, index });
        Ok(Answer {
            instances: self.or_default(instances(&answer.body, self.settings.weight)?)?,
            position,
            ask_again: if position.is_some() { SHORTEST_PAUSE } else { self.settings.fetch_interval.get() },
        })
    }

    fn or_default(&self, instances: Vec<Instance>) -> Result<Vec<Instance>, AskError> {
        match &self.settings.default_service {
            Some(default) if instances.is_empty() => {
                Ok(vec![Instance::new(&default.host, Some(default.port), default.metadata.weight)?])
            }
            _ => Ok(instances),
        }
    }
}

impl Registry for Consul {
    fn ask<'a>(&'a self, service: &'a ServiceQuery, since: Option<Position>) -> Asking<'a> {
        Box::pin(self.find(&service.name, since))
    }
}

fn instances(body: &[u8], weight: u32) -> Result<Vec<Instance>, AskError> {
    let entries: Vec<Entry> = serde_json::from_slice(body)?;
    let instance = |entry: Entry| {
        let Entry { node, service } = entry;
        let host = if service.address.is_empty() { node.address } else { service.address };
        let port = if service.port == 0 { DEFAULT_PORT } else { service.port };
        Instance::new(&host, Some(port), weight)
    };
    entries.into_iter().map(instance).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn entries() {
        let check = |entry: Value, expected: Option<(&str, u16)>| {
            let read = instances(json!([entry]).to_string().as_bytes(), 3).ok();
            let expected = expected.map(|(host, port)| vec![Instance::new(host, Some(port), 3).unwrap()]);
            assert_eq!(read, expected, "{entry}");
        };
        let node = json!({ "Node": "n1", "Address": "10.0.0.9" });
        check(
            json!({ "Node": node, "Service": { "Address": "10.0.0.1", "Port": 8080 }, "Checks": [] }),
            Some(("10.0.0.1", 8080)),
        );
        check(json!({ "Node": node, "Service": { "Address": "", "Port": 8080 } }), Some(("10.0.0.9", 8080)));
        check(json!({ "Node": node, "Service": { "Service": "s", "Port": 0 } }), Some(("10.0.0.9", 80)));
        check(json!({ "Node": {}, "Service": { "Port": 1 } }), None);
        check(json!({ "Node": node, "Service": { "Port": 70_000 } }), None);
        check(json!({ "Node": node, "Service": { "Address": "a b", "Port": 1 } }), None);
        check(json!({ "Node": node }), None);
        for body in ["", "{}", "null", "[1]"] {
            assert!(instances(body.as_bytes(), 1).is_err(), "{body}");
        }
    }
}
