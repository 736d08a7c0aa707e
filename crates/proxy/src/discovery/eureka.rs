//! The registry `eureka`: `GET <prefix>apps/<application>`.
//!
//! One application at a time, which Eureka answers from its cache: a gateway holds what it uses, and an answer is as large as
//! the application. Instances whose status is `UP`, or is set to it by an operator, count.

use super::http::{Http, Patience, Question, encoded};
use super::instance::Instance;
use super::registry::{Answer, AskError, Asking, Position, Registry, Servers};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use milecastle_settings::{Eureka as Settings, RegistryUrl};
use milecastle_snapshot::ServiceQuery;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Asks Eureka servers.
pub(super) struct Eureka {
    servers: Servers,
    settings: Settings,
    http: Http,
}

#[derive(Deserialize)]
struct Document {
    application: Application,
}

#[derive(Deserialize)]
struct Application {
    #[serde(default)]
    instance: OneOrMany,
}

/// Some serialisers write a list of one element as the element.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Entry>),
    One(Box<Entry>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    ip_addr: String,
    status: String,
    overridden_status: Option<String>,
    /// The spelling of older servers; some send both.
    #[serde(rename = "overriddenstatus")]
    older_overridden_status: Option<String>,
    port: Option<Port>,
    secure_port: Option<Port>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

#[derive(Deserialize)]
struct Port {
    #[serde(rename = "$")]
    number: u16,
    /// `"true"` or `true`.
    #[serde(rename = "@enabled")]
    enabled: Value,
}

impl Port {
    fn open(&self) -> Option<u16> {
        let enabled = self.enabled == "true" || self.enabled == true;
        enabled.then_some(self.number)
    }
}

impl Eureka {
    pub(super) fn new(settings: Settings, http: Http) -> Self {
        Self { servers: Servers::new(settings.host.clone()), settings, http }
    }

    async fn find(&self, service: &str) -> Result<Answer, AskError> {
        let instances = self.servers.first(|_, server| self.ask(server, service)).await?;
        Ok(Answer::of(instances, self.settings.fetch_interval.get()))
    }

    async fn ask(&self, server: &RegistryUrl, service: &str) -> Result<Vec<Instance>, AskError> {
        let mut question = Question::get(format!("{}apps/{}", self.settings.prefix, encoded(service)));
        if let Some((user, password)) = &server.login {
            let login = STANDARD.encode(format!("{user}:{}", password.reveal()));
            question = question.secret(AUTHORIZATION, &format!("Basic {login}"));
        }
        let answer = self.http.ask(server, question, Patience::of(self.settings.timeout)).await?;
        match answer.status {
            200 => instances(&answer.body, self.settings.weight),
            404 => Ok(Vec::new()),
            status => Err(AskError::Status(server.to_string(), status)),
        }
    }
}

impl Registry for Eureka {
    fn ask<'a>(&'a self, service: &'a ServiceQuery, _: Option<Position>) -> Asking<'a> {
        Box::pin(self.find(&service.name))
    }
}

fn instances(body: &[u8], weight: u32) -> Result<Vec<Instance>, AskError> {
    let Document { application } = serde_json::from_slice(body)?;
    let entries = match application.instance {
        OneOrMany::Many(entries) => entries,
        OneOrMany::One(entry) => vec![*entry],
    };
    let is_up = |entry: &Entry| {
        let overridden = entry.overridden_status.as_ref().or(entry.older_overridden_status.as_ref());
        let overridden = overridden.map(String::as_str).filter(|status| *status != "UNKNOWN");
        overridden.unwrap_or(&entry.status) == "UP"
    };
    let instance = |entry: Entry| {
        let port = entry.port.as_ref().and_then(Port::open).or_else(|| entry.secure_port.as_ref().and_then(Port::open));
        let port = port.ok_or_else(|| AskError::Malformed("an instance without a port".to_owned()))?;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let own = entry.metadata.get("weight").map(&text).and_then(|weight| weight.parse().ok());
        let mut instance = Instance::new(&entry.ip_addr, Some(port), own.unwrap_or(weight))?;
        instance.metadata = entry.metadata.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        Ok(instance)
    };
    entries.into_iter().filter(is_up).map(instance).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(more: Value) -> Value {
        let mut entry = json!({
            "instanceId": "a", "hostName": "a.test", "app": "A", "ipAddr": "10.0.0.1", "status": "UP",
            "overriddenStatus": "UNKNOWN", "port": { "$": 8080, "@enabled": "true" },
            "securePort": { "$": 8443, "@enabled": "false" }, "metadata": {},
        });
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry
    }

    fn read(instance: Value) -> Option<Vec<(u16, u32)>> {
        let body = json!({ "application": { "name": "A", "instance": instance } }).to_string();
        let read = instances(body.as_bytes(), 100).ok()?;
        Some(read.iter().map(|one| (one.port.unwrap(), one.weight)).collect())
    }

    #[test]
    fn applications() {
        assert_eq!(read(json!([entry(json!({}))])), Some(vec![(8080, 100)]));
        assert_eq!(read(entry(json!({}))), Some(vec![(8080, 100)]));
        assert_eq!(read(json!([])), Some(vec![]));
        let one = |more: Value| read(json!([entry(more)]));
        assert_eq!(one(json!({ "metadata": { "weight": "5" } })), Some(vec![(8080, 5)]));
        assert_eq!(one(json!({ "metadata": { "weight": "many" } })), Some(vec![(8080, 100)]));
        for status in ["DOWN", "STARTING", "OUT_OF_SERVICE"] {
            assert_eq!(one(json!({ "status": status })), Some(vec![]), "{status}");
            assert_eq!(one(json!({ "overriddenStatus": status })), Some(vec![]), "{status}");
        }
        assert_eq!(one(json!({ "status": "DOWN", "overriddenStatus": "UP" })), Some(vec![(8080, 100)]));
        let closed = json!({ "$": 8080, "@enabled": false });
        let secure = json!({ "$": 8443, "@enabled": true });
        assert_eq!(one(json!({ "port": closed, "securePort": secure })), Some(vec![(8443, 100)]));
        assert_eq!(one(json!({ "port": closed })), None);
        assert_eq!(one(json!({ "ipAddr": "" })), None);
        for body in ["", "{}", "[]", "{\"application\":{\"instance\":7}}"] {
            assert!(instances(body.as_bytes(), 1).is_err(), "{body}");
        }
    }

    #[test]
    fn the_spelling_of_older_servers_is_understood() {
        let mut old = entry(json!({ "overriddenstatus": "OUT_OF_SERVICE" }));
        old.as_object_mut().unwrap().remove("overriddenStatus");
        assert_eq!(read(json!([old])), Some(vec![]));
    }
}
