//! The registry `consul`: Consul's health endpoint, `GET /v1/health/service/<name>?passing`.

use super::agents::{Agents, Told, or_default, skipped};
use super::http::{Http, encoded};
use super::instance::Instance;
use super::registry::{Answer, AskError, Asking, Position, Registry, Servers};
use milecastle_settings::{Consul as Settings, RegistryUrl};
use milecastle_snapshot::ServiceQuery;
use serde::Deserialize;

/// The port of an instance that names none.
const DEFAULT_PORT: u16 = 80;

/// Asks for services of Consul.
pub(super) struct Consul {
    servers: Servers,
    agents: Agents,
    settings: Settings,
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
        let (servers, agents) = (settings.agents.servers.clone(), Agents::new(settings.agents.clone(), http));
        Self { servers: Servers::new(servers), agents, settings }
    }

    async fn find(&self, service: &str, since: Option<Position>) -> Result<Answer, AskError> {
        if self.settings.skip_services.iter().any(|skipped| skipped == service) {
            return skipped(self.settings.default_service.as_ref());
        }
        self.servers.first(|place, server| self.ask((place, server), service, since)).await
    }

    async fn ask(
        &self,
        agent: (usize, &RegistryUrl),
        service: &str,
        since: Option<Position>,
    ) -> Result<Answer, AskError> {
        let target = format!("/v1/health/service/{}?passing=true", encoded(service));
        let Told { list, position, ask_again } = self.agents.ask(agent, target, since).await?;
        let instances = instances(&list, self.settings.weight)?;
        let instances = or_default(instances, self.settings.default_service.as_ref())?;
        Ok(Answer { position, ..Answer::of(instances, ask_again) })
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
