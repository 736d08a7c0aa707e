//! Eureka's applications (Eureka REST operations, `GET /eureka/apps/<application>`).

use super::server::{Asked, Body, Protocol, Server, whole};
use http::Response;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

/// A Eureka server.
#[derive(Default)]
pub struct Eureka {
    applications: Mutex<BTreeMap<String, Vec<Value>>>,
    authorization: Option<String>,
}

impl Eureka {
    /// Starts a server without applications, which asks for this `Authorization` if there is one.
    pub fn start(authorization: Option<&str>) -> Server<Self> {
        Server::run(Self { authorization: authorization.map(str::to_owned), ..Self::default() })
    }

    /// Says what instances an application has, with their status and what an operator has set it to (`UNKNOWN`: nothing).
    pub fn set(&self, application: &str, instances: &[(SocketAddr, &str, &str)]) {
        let instances =
            instances.iter().map(|(address, status, set)| instance(application, *address, status, set)).collect();
        self.applications.lock().unwrap_or_else(PoisonError::into_inner).insert(application.to_owned(), instances);
    }
}

fn instance(application: &str, address: SocketAddr, status: &str, set: &str) -> Value {
    json!({
        "instanceId": format!("{address}"), "hostName": "host.test", "app": application, "ipAddr": address.ip().to_string(),
        "status": status, "overriddenStatus": set, "port": { "$": address.port(), "@enabled": "true" },
        "securePort": { "$": 443, "@enabled": "false" }, "countryId": 1,
        "dataCenterInfo": { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn" },
        "leaseInfo": { "renewalIntervalInSecs": 30, "durationInSecs": 90 }, "metadata": { "management.port": "1" },
        "homePageUrl": "", "vipAddress": application, "isCoordinatingDiscoveryServer": "false", "actionType": "ADDED",
    })
}

impl Protocol for Eureka {
    fn answer(self: Arc<Self>, asked: Asked) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(async move {
            if self.authorization.as_deref().is_some_and(|wanted| asked.header("authorization") != wanted) {
                return whole(401, "");
            }
            let applications = self.applications.lock().unwrap_or_else(PoisonError::into_inner);
            let name = asked.target.path().strip_prefix("/eureka/apps/").unwrap_or_default();
            match applications.get(name).filter(|instances| !instances.is_empty()) {
                Some(instances) => {
                    whole(200, json!({ "application": { "name": name, "instance": instances } }).to_string())
                }
                None => whole(404, ""),
            }
        })
    }
}
