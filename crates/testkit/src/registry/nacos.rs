//! Nacos' list of instances, with a login (Nacos Open API, versions 1 and 2).

use super::server::{Asked, Body, Protocol, Server, parameters, whole};
use http::{Method, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

/// A Nacos server.
#[derive(Default)]
pub struct Nacos {
    /// By namespace, group and service.
    services: Mutex<BTreeMap<[String; 3], Vec<Value>>>,
    login: Option<(String, String)>,
    /// Number of the token that is good now.
    tokens: Mutex<u64>,
}

impl Nacos {
    /// Starts a server without services, which asks for this login if there is one.
    pub fn start(login: Option<(&str, &str)>) -> Server<Self> {
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        Server::run(Self { login, ..Self::default() })
    }

    /// Says what instances a service has: the members of each beside those that all have.
    pub fn set(&self, namespace: &str, group: &str, service: &str, instances: &[Value]) {
        let key = [namespace, group, service].map(str::to_owned);
        let full = |instance: &Value| {
            let mut full = json!({
                "instanceId": "i", "weight": 1.0, "healthy": true, "enabled": true, "ephemeral": true, "clusterName": "DEFAULT",
                "serviceName": format!("{group}@@{service}"), "metadata": {},
            });
            full.as_object_mut().expect("an object").extend(instance.as_object().expect("an object").clone());
            full
        };
        let instances = instances.iter().map(full).collect();
        self.services.lock().unwrap_or_else(PoisonError::into_inner).insert(key, instances);
    }

    /// Takes all tokens back that were given out.
    pub fn revoke(&self) {
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn token(&self) -> String {
        format!("token-{}", self.tokens.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn log_in(&self, form: &BTreeMap<String, String>) -> Response<Body> {
        let given = (form.get("username"), form.get("password"));
        match &self.login {
            Some((user, password)) if given == (Some(user), Some(password)) => {
                whole(200, json!({ "accessToken": self.token(), "tokenTtl": 18_000, "globalAdmin": true }).to_string())
            }
            _ => whole(403, "unknown user!"),
        }
    }

    fn list(&self, asked: &Asked, second: bool) -> Response<Body> {
        let given = asked.parameters();
        if self.login.is_some() && given.get("accessToken") != Some(&self.token()) {
            return whole(403, json!({ "status": 403, "message": "user not found!" }).to_string());
        }
        let key = ["namespaceId", "groupName", "serviceName"].map(|name| given.get(name).cloned().unwrap_or_default());
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let healthy = |instance: &&Value| {
            given.get("healthyOnly").is_none_or(|only| only != "true") || instance["healthy"] == true
        };
        let hosts: Vec<&Value> = services.get(&key).into_iter().flatten().filter(healthy).collect();
        let [_, group, service] = &key;
        let list = json!({ "name": format!("{group}@@{service}"), "groupName": group, "cacheMillis": 10_000, "hosts": hosts,
            "lastRefTime": 0, "checksum": "", "valid": true });
        whole(200, if second { json!({ "code": 0, "message": "success", "data": list }) } else { list }.to_string())
    }
}

impl Protocol for Nacos {
    fn answer(self: Arc<Self>, asked: Asked) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(async move {
            match (&asked.method, asked.target.path()) {
                (&Method::POST, "/nacos/v1/auth/login") => {
                    self.log_in(&parameters(&String::from_utf8_lossy(&asked.body)))
                }
                (&Method::GET, "/nacos/v1/ns/instance/list") => self.list(&asked, false),
                (&Method::GET, "/nacos/v2/ns/instance/list") => self.list(&asked, true),
                _ => whole(404, "{}"),
            }
        })
    }
}
