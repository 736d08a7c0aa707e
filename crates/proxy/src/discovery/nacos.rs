//! The registry `nacos`: `GET <prefix>ns/instance/list`, in the forms of both versions of Nacos' open API.
//!
//! Healthy and enabled instances count. `discovery_args` name namespace, group, and metadata that an instance must have.

use super::http::{Http, Patience, Question, encoded};
use super::instance::Instance;
use super::registry::{Answer, AskError, Asking, Position, Registry, Servers};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use milecastle_settings::{Nacos as Settings, RegistryUrl};
use milecastle_snapshot::ServiceQuery;
use milecastle_telemetry::Secret;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const DEFAULT_NAMESPACE: &str = "public";
const DEFAULT_GROUP: &str = "DEFAULT_GROUP";
/// Where an instance has the port of its gRPC server.
const GRPC_PORT: &str = "gRPC_port";
/// Codes of the second version that say that there is no such service.
const NO_SERVICE: [i64; 2] = [20_004, 21_008];

/// Asks Nacos servers.
pub(super) struct Nacos {
    servers: Servers,
    settings: Settings,
    http: Http,
    /// What servers have let us in with, by their place in the list.
    tokens: Mutex<HashMap<usize, Token>>,
}

#[derive(Clone)]
struct Token {
    text: Secret<String>,
    until: Instant,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Login {
    access_token: Secret<String>,
    /// Seconds.
    token_ttl: u64,
}

#[derive(Deserialize)]
struct List {
    hosts: Vec<Host>,
}

#[derive(Deserialize)]
struct Host {
    ip: String,
    port: u16,
    weight: Option<f64>,
    healthy: Option<bool>,
    enabled: Option<bool>,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
}

impl Nacos {
    pub(super) fn new(settings: Settings, http: Http) -> Self {
        Self { servers: Servers::new(settings.host.clone()), settings, http, tokens: Mutex::default() }
    }

    async fn find(&self, service: &ServiceQuery) -> Result<Answer, AskError> {
        let instances = self.servers.first(|place, server| self.ask_let_in(place, server, service)).await?;
        Ok(Answer::of(instances, self.settings.fetch_interval.get()))
    }

    /// Asks a server, and once more where the token that it was asked with has been taken back before its time.
    async fn ask_let_in(
        &self,
        place: usize,
        server: &RegistryUrl,
        service: &ServiceQuery,
    ) -> Result<Vec<Instance>, AskError> {
        match self.ask(place, server, service).await {
            Err(AskError::Status(_, 401 | 403)) if self.forget(place) => self.ask(place, server, service).await,
            answered => answered,
        }
    }

    async fn ask(&self, place: usize, server: &RegistryUrl, service: &ServiceQuery) -> Result<Vec<Instance>, AskError> {
        let token = self.token(place, server).await?;
        let group = service.group.as_deref().unwrap_or(DEFAULT_GROUP);
        let mut target = format!(
            "{}ns/instance/list?healthyOnly=true&serviceName={}&namespaceId={}&groupName={}",
            self.settings.prefix,
            encoded(&service.name),
            encoded(service.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)),
            encoded(group),
        );
        if let Some(token) = token {
            target.push_str(&format!("&accessToken={}", encoded(token.reveal())));
        }
        if let (Some(access), Some(secret)) = (&self.settings.access_key, &self.settings.secret_key) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            target.push_str(&signature(access, secret, &format!("{now}@@{group}@@{}", service.name)));
        }
        let answer = self.http.ask(server, Question::get(target), Patience::of(self.settings.timeout)).await?;
        match answer.status {
            200 => instances(&answer.body, self.settings.weight, &service.metadata),
            status => Err(AskError::Status(server.to_string(), status)),
        }
    }

    /// The token for a server that asks for a login.
    async fn token(&self, place: usize, server: &RegistryUrl) -> Result<Option<Secret<String>>, AskError> {
        let Some((user, password)) = &server.login else { return Ok(None) };
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&place).cloned();
        if let Some(known) = known.filter(|known| known.until > Instant::now()) {
            return Ok(Some(known.text));
        }
        // The login has one path in both versions.
        let target = format!("{}auth/login", self.settings.prefix.replace("/v2/", "/v1/"));
        let form = format!("username={}&password={}", encoded(user), encoded(password.reveal()));
        let answer = self.http.ask(server, Question::post(target, form), Patience::of(self.settings.timeout)).await?;
        if answer.status != 200 {
            return Err(AskError::Status(server.to_string(), answer.status));
        }
        let Login { access_token, token_ttl } = serde_json::from_slice(&answer.body)
            .map_err(|_| AskError::Malformed("the answer to the login".to_owned()))?;
        // Renewed before it ends; a year is as good as for ever.
        let holds = Duration::from_secs(token_ttl.min(365 * 86_400)) * 9 / 10;
        let token = Token { text: access_token.clone(), until: Instant::now() + holds };
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(place, token);
        Ok(Some(access_token))
    }

    /// Forgets the token for a server; `false` if there was none.
    fn forget(&self, place: usize) -> bool {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(&place).is_some()
    }
}

impl Registry for Nacos {
    fn ask<'a>(&'a self, service: &'a ServiceQuery, _: Option<Position>) -> Asking<'a> {
        Box::pin(self.find(service))
    }
}

/// The parameters that sign a question.
fn signature(access: &str, secret: &Secret<String>, data: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.reveal().as_bytes());
    let signature = STANDARD.encode(hmac::sign(&key, data.as_bytes()));
    format!("&ak={}&data={}&signature={}", encoded(access), encoded(data), encoded(&signature))
}

/// The instances of an answer, of either version, whose metadata have all of `wanted`.
fn instances(body: &[u8], weight: u32, wanted: &[(String, String)]) -> Result<Vec<Instance>, AskError> {
    let mut answer: Value = serde_json::from_slice(body)?;
    if let Some(code) = answer.get("code").and_then(Value::as_i64)
        && answer.get("hosts").is_none()
    {
        match code {
            0 => answer = answer["data"].take(),
            code if NO_SERVICE.contains(&code) => return Ok(Vec::new()),
            code => return Err(AskError::Malformed(format!("the registry answers with code {code}"))),
        }
    }
    let List { hosts } = serde_json::from_value(answer)?;
    let usable = |host: &Host| {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let has = |(name, value): &(String, String)| {
            host.metadata.as_ref().and_then(|metadata| metadata.get(name)).is_some_and(|own| text(own) == *value)
        };
        host.healthy != Some(false) && host.enabled != Some(false) && wanted.iter().all(has)
    };
    let hosts: Vec<Host> = hosts.into_iter().filter(usable).collect();
    // Weights may be fractions: then all of them are taken in hundredths.
    let whole = hosts.iter().filter_map(|host| host.weight).all(|weight| weight.fract() == 0.0);
    let scale = if whole { 1.0 } else { 100.0 };
    let instance = |host: &Host| {
        let weight = host.weight.unwrap_or_else(|| weight.into()) * scale;
        if !weight.is_finite() || weight < 0.0 {
            return Err(AskError::Malformed(format!("a weight of {weight}")));
        }
        // What is above zero stays so; what is beyond the range is the most there is.
        let weight = if weight > 0.0 { weight.round().max(1.0) as u32 } else { 0 };
        let mut instance = Instance::new(&host.ip, Some(host.port), weight)?;
        let grpc = host.metadata.as_ref().and_then(|metadata| metadata.get(GRPC_PORT));
        instance.grpc_port = grpc
            .and_then(|port| port.as_str().map_or_else(|| port.as_u64()?.try_into().ok(), |text| text.parse().ok()));
        Ok(instance)
    };
    hosts.iter().map(instance).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(answer: Value, wanted: &[(&str, &str)], expected: Option<&[(&str, u32)]>) {
        let wanted: Vec<_> = wanted.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let read = instances(answer.to_string().as_bytes(), 7, &wanted).ok();
        let shown = read.map(|read| read.iter().map(|one| (one.host.to_string(), one.weight)).collect::<Vec<_>>());
        let expected = expected.map(|all| all.iter().map(|(host, weight)| ((*host).to_owned(), *weight)).collect());
        assert_eq!(shown, expected, "{answer}");
    }

    fn host(ip: &str, more: Value) -> Value {
        let mut host = json!({ "ip": ip, "port": 80 });
        host.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        host
    }

    #[test]
    fn both_versions_are_read() {
        let hosts = json!([host("10.0.0.1", json!({ "weight": 2.0, "healthy": true })), host("10.0.0.2", json!({}))]);
        let expected: Option<&[(&str, u32)]> = Some(&[("10.0.0.1", 2), ("10.0.0.2", 7)]);
        check(json!({ "name": "g@@s", "hosts": hosts }), &[], expected);
        check(json!({ "code": 0, "message": "success", "data": { "hosts": hosts } }), &[], expected);
        check(json!({ "code": 21_008, "message": "service not exist", "data": null }), &[], Some(&[]));
        check(json!({ "code": 10_001, "message": "access denied" }), &[], None);
        check(json!([]), &[], None);
        check(json!({ "hosts": [{ "ip": "10.0.0.1" }] }), &[], None);
    }

    #[test]
    fn only_usable_instances_count() {
        let hosts = json!([
            host("10.0.0.1", json!({ "healthy": false })),
            host("10.0.0.2", json!({ "enabled": false })),
            host("10.0.0.3", json!({ "metadata": { "v": "1", "n": 2 } })),
            host("10.0.0.4", json!({ "metadata": { "v": "2" } })),
        ]);
        check(json!({ "hosts": hosts }), &[], Some(&[("10.0.0.3", 7), ("10.0.0.4", 7)]));
        check(json!({ "hosts": hosts }), &[("v", "1"), ("n", "2")], Some(&[("10.0.0.3", 7)]));
        check(json!({ "hosts": hosts }), &[("w", "1")], Some(&[]));
    }

    #[test]
    fn fractions_of_weights_are_kept() {
        let weights =
            |a: f64, b: f64| json!({ "hosts": [host("a", json!({ "weight": a })), host("b", json!({ "weight": b }))] });
        check(weights(1.0, 0.0), &[], Some(&[("a", 1), ("b", 0)]));
        check(weights(0.5, 2.0), &[], Some(&[("a", 50), ("b", 200)]));
        check(weights(0.001, 1e300), &[], Some(&[("a", 1), ("b", u32::MAX)]));
        check(weights(-1.0, 1.0), &[], None);
    }

    #[test]
    fn the_port_of_grpc_is_taken_from_the_metadata() {
        let body = json!({ "hosts": [host("a", json!({ "metadata": { "gRPC_port": "9090" } }))] }).to_string();
        assert_eq!(instances(body.as_bytes(), 1, &[]).unwrap()[0].grpc_port, Some(9090));
    }

    #[test]
    fn questions_are_signed() {
        // HMAC-SHA1("key", "The quick brown fox jumps over the lazy dog"), a vector that many publish.
        let signed = signature("a&b", &Secret::new("key".to_owned()), "The quick brown fox jumps over the lazy dog");
        assert_eq!(
            signed,
            "&ak=a%26b&data=The%20quick%20brown%20fox%20jumps%20over%20the%20lazy%20dog&signature=3nybhbi3iqa8ino29wqQcBydtNk%3D"
        );
    }
}
