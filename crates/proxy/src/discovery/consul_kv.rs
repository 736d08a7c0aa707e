//! The registry `consul_kv`: keys of Consul's key/value store, `GET /v1/kv/<prefix>/<name>/?recurse`.
//!
//! Whoever runs a service writes a key for each instance, `<prefix>/<name>/<host:port>`, whose value is a JSON object. They are
//! written by many hands, so one that cannot be read is passed over and said; the others count.

use super::agents::{Agents, Told, or_default, skipped};
use super::http::{Http, encoded};
use super::instance::Instance;
use super::registry::{Answer, AskError, Asking, Position, Registry};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use milecastle_settings::{ConsulKv as Settings, RegistryUrl};
use milecastle_snapshot::ServiceQuery;
use serde::Deserialize;
use serde_json::Value;

/// What stands between the agent and the key in a service's name.
const STORE: &str = "/v1/kv/";

/// Asks for keys of Consul.
pub(super) struct ConsulKv {
    agents: Agents,
    settings: Settings,
}

/// A key and its value.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    key: String,
    /// In Base64; null if it is empty.
    #[serde(default)]
    value: Option<String>,
}

/// The value of a key. Other members, as `max_fails`, say nothing here.
#[derive(Deserialize)]
struct Said {
    weight: Option<u32>,
    /// `false`, or the word: whoever watches the instance has found it unhealthy.
    check_status: Option<Value>,
}

impl ConsulKv {
    pub(super) fn new(settings: Settings, http: Http) -> Self {
        Self { agents: Agents::new(settings.agents.clone(), http), settings }
    }

    async fn find(&self, service: &str, since: Option<Position>) -> Result<Answer, AskError> {
        let (agent, folder) = self.place(service)?;
        let default = self.settings.default_service.as_ref();
        if self.settings.skip_keys.iter().any(|skipped| skipped == folder) {
            return skipped(default);
        }
        let path: Vec<String> = folder.split('/').map(encoded).collect();
        let target = format!("{STORE}{}?recurse=true", path.join("/"));
        let Told { list, position, ask_again } = self.agents.ask(agent, target, since).await?;
        let (instances, passed_over) = instances(&list, folder, self.settings.weight)?;
        Ok(Answer { instances: or_default(instances, default)?, position, ask_again, passed_over })
    }

    /// Whom to ask, and what the keys of the instances begin with, of a service's name:
    /// `http://agent:8500/v1/kv/upstreams/web/`.
    ///
    /// # Errors
    /// It is no such name. Nobody is asked whom the settings do not name.
    fn place<'a>(&self, service: &'a str) -> Result<((usize, &RegistryUrl), &'a str), AskError> {
        const FORM: AskError = AskError::Name("http://agent:8500/v1/kv/prefix/name/, with discovery.consul_kv.prefix");
        let (server, folder) = service.split_once(STORE).ok_or(FORM)?;
        let name = folder.strip_prefix(&*self.settings.prefix).and_then(|rest| rest.strip_prefix('/'));
        if name.is_none_or(|name| name.len() < 2 || !name.ends_with('/')) {
            return Err(FORM);
        }
        // Names of services are shown, so they hold no login; servers are compared as they are shown, with the port.
        let server = server.parse::<RegistryUrl>().map_err(|_| FORM)?;
        if server.login.is_some() {
            return Err(AskError::Name("without a login, which belongs in discovery.consul_kv.servers"));
        }
        let server = server.to_string();
        let agent = self.agents.servers().iter().enumerate().find(|(_, known)| known.to_string() == server);
        let unknown = AskError::Name("it begins with one of discovery.consul_kv.servers");
        Ok((agent.ok_or(unknown)?, folder))
    }
}

impl Registry for ConsulKv {
    fn ask<'a>(&'a self, service: &'a ServiceQuery, since: Option<Position>) -> Asking<'a> {
        Box::pin(self.find(&service.name, since))
    }
}

/// The instances below `folder`, and what there is beside them that should be some.
///
/// # Errors
/// There are no instances, and what should be some cannot be read: whoever broke all keys of a service has not said that it has none.
fn instances(list: &[u8], folder: &str, weight: u32) -> Result<(Vec<Instance>, Option<String>), AskError> {
    let entries: Vec<Entry> = serde_json::from_slice(list)?;
    let (mut instances, mut bad) = (Vec::new(), 0_usize);
    let mut first = String::new();
    for Entry { key, value } in entries {
        // The folder itself, and what is below other folders in it, are no instances of this service.
        let place = key.strip_prefix(folder).filter(|place| !place.is_empty() && !place.contains('/'));
        let Some(place) = place else { continue };
        match instance(place, value.as_deref(), weight) {
            Ok(instance) => instances.extend(instance),
            Err(why) => {
                bad += 1;
                if bad == 1 {
                    first = format!("{:?}: {why}", key.chars().take(80).collect::<String>());
                }
            }
        }
    }
    let passed_over = match bad {
        0 => None,
        1 => Some(first),
        more => Some(format!("{first}, and {} more", more - 1)),
    };
    match passed_over {
        Some(all) if instances.is_empty() => Err(AskError::NoneRead(all)),
        passed_over => Ok((instances, passed_over)),
    }
}

/// The instance that a key names; `None` for one that is said to be unhealthy.
fn instance(place: &str, value: Option<&str>, weight: u32) -> Result<Option<Instance>, &'static str> {
    let at = place.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let (host, port) = at.ok_or("expected host:port behind the service's name")?;
    let said = value.and_then(|value| serde_json::from_slice(&STANDARD.decode(value).ok()?).ok());
    let Said { weight: own, check_status } =
        said.ok_or("expected a JSON object such as {\"weight\": 1} as its value")?;
    if check_status.is_some_and(|status| status == false || status == "false") {
        return Ok(None);
    }
    let instance = Instance::new(host, Some(port), own.unwrap_or(weight));
    instance.map(Some).map_err(|_| "expected a name or an address, and a port from 1 on")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::OnDemandTls;
    use milecastle_settings::ConsulAgents;
    use serde_json::json;
    use std::sync::Arc;

    fn entry(key: &str, value: &str) -> Value {
        let value = STANDARD.encode(value);
        json!({ "LockIndex": 0, "Key": key, "Flags": 0, "Value": value, "CreateIndex": 1, "ModifyIndex": 1 })
    }

    fn read(entries: Value) -> (Vec<(String, u16, u32)>, Option<String>) {
        let (found, passed_over) = instances(entries.to_string().as_bytes(), "upstreams/web/", 7).unwrap();
        let shown = found.iter().map(|one| (one.host.to_string(), one.port.unwrap(), one.weight));
        (shown.collect(), passed_over)
    }

    #[test]
    fn keys_are_instances() {
        let good = read(json!([
            { "Key": "upstreams/web/", "Value": null },
            entry("upstreams/web/10.0.0.1:80", " {\"weight\": 3, \"max_fails\": 2, \"fail_timeout\": 1}"),
            entry("upstreams/web/a.test:81", "{}"),
            entry("upstreams/web/[::1]:82", "{\"weight\": 0}"),
            entry("upstreams/web/10.0.0.4:80", "{\"check_status\": false}"),
            entry("upstreams/web/10.0.0.5:80", "{\"check_status\": \"false\"}"),
            entry("upstreams/web/10.0.0.6:80", "{\"check_status\": true}"),
            entry("upstreams/web/v2/10.0.0.7:80", "{}"),
            entry("upstreams/web/v2/bad", ""),
        ]));
        let at = |host: &str, port, weight| (host.to_owned(), port, weight);
        let expected = vec![at("10.0.0.1", 80, 3), at("a.test", 81, 7), at("::1", 82, 0), at("10.0.0.6", 80, 7)];
        assert_eq!(good, (expected, None));
        assert_eq!(read(json!([])), (vec![], None));
        for list in ["", "{}", "null", "[1]", "[{}]"] {
            assert!(instances(list.as_bytes(), "upstreams/web/", 1).is_err(), "{list}");
        }
    }

    #[test]
    fn what_is_no_instance_is_passed_over_and_said() {
        let value = "expected a JSON object such as {\"weight\": 1} as its value";
        let place = "expected host:port behind the service's name";
        let host = "expected a name or an address, and a port from 1 on";
        for (key, of, why) in [
            ("10.0.0.1:80", "", value),
            ("10.0.0.1:80", "weight=1", value),
            ("10.0.0.1:80", "7", value),
            ("10.0.0.1:80", "{\"weight\": -1}", value),
            ("10.0.0.1:80", "{\"weight\": \"1\"}", value),
            ("10.0.0.1:80", "{\"weight\": 1.5}", value),
            ("10.0.0.1", "{}", place),
            ("10.0.0.1:", "{}", place),
            ("10.0.0.1:70000", "{}", place),
            ("10.0.0.1:0", "{}", host),
            (":80", "{}", host),
            ("a b:80", "{}", host),
        ] {
            let bad = entry(&format!("upstreams/web/{key}"), of);
            let why = format!("\"upstreams/web/{key}\": {why}");
            let (found, said) = read(json!([&bad, entry("upstreams/web/10.0.0.9:80", "{}")]));
            assert_eq!((found.len(), said), (1, Some(why.clone())), "{key} {of}");
            // None is left that could be read: that is not to say that there are none.
            let taken_out = entry("upstreams/web/10.0.0.9:80", "{\"check_status\": false}");
            for list in [json!([&bad]), json!([&bad, &taken_out])] {
                let failed = instances(list.to_string().as_bytes(), "upstreams/web/", 7);
                let expected = format!("no key of the service names an instance: {why}");
                assert_eq!(failed.unwrap_err().to_string(), expected, "{key} {of}");
            }
            assert_eq!(read(json!([taken_out])), (vec![], None));
        }
        let no_value = json!({ "Key": "upstreams/web/10.0.0.1:80", "Value": null });
        let no_base64 = json!({ "Key": "upstreams/web/10.0.0.2:80", "Value": "{}" });
        let (found, said) = read(json!([no_value, entry("upstreams/web/10.0.0.3:80", "{}"), no_base64]));
        assert_eq!(found, [("10.0.0.3".to_owned(), 80, 7)], "the others count");
        assert_eq!(said, Some(format!("\"upstreams/web/10.0.0.1:80\": {value}, and 1 more")));
    }

    #[test]
    fn names_tell_whom_to_ask_for_what() {
        let servers =
            ["http://a:8500", "https://user:secret@b"].map(|server| server.parse::<RegistryUrl>().unwrap()).to_vec();
        let agents = ConsulAgents { servers, ..ConsulAgents::default() };
        let settings = Settings { agents, prefix: "deep/upstreams".into(), ..Settings::default() };
        let http = Http::new(Arc::new(OnDemandTls::new(None, "test")), 1024);
        let registry = ConsulKv::new(settings, http);
        let check = |name: &str, expected: Result<(usize, &str), &str>| {
            let found = registry.place(name).map(|((place, _), folder)| (place, folder));
            assert_eq!(found.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{name}");
        };
        check("http://a:8500/v1/kv/deep/upstreams/web/", Ok((0, "deep/upstreams/web/")));
        check("https://b:443/v1/kv/deep/upstreams/team/web/", Ok((1, "deep/upstreams/team/web/")));
        let form = "the service's name is not of the form that this registry asks for: \
                    http://agent:8500/v1/kv/prefix/name/, with discovery.consul_kv.prefix";
        for name in [
            "web",
            "http://a:8500/v1/kv/deep/upstreams/web",
            "http://a:8500/v1/kv/deep/upstreams/",
            "http://a:8500/v1/kv/deep/upstreams//",
            "http://a:8500/v1/kv/deep/upstreamsweb/",
            "http://a:8500/v1/kv/upstreams/web/",
            "a:8500/v1/kv/deep/upstreams/web/",
        ] {
            check(name, Err(form));
        }
        let login = "the service's name is not of the form that this registry asks for: \
                     without a login, which belongs in discovery.consul_kv.servers";
        check("https://user:secret@b/v1/kv/deep/upstreams/web/", Err(login));
        let unknown = "the service's name is not of the form that this registry asks for: \
                       it begins with one of discovery.consul_kv.servers";
        for name in ["http://c:8500/v1/kv/deep/upstreams/web/", "http://a/v1/kv/deep/upstreams/web/"] {
            check(name, Err(unknown));
        }
    }
}
