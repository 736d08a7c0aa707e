//! The registry `kubernetes`: Endpoints or EndpointSlices of a cluster.
//!
//! One task lists and then watches all objects that the selectors leave, from the first question on; what it has read is in the
//! [`Store`], and questions are answered from there. `service_name` is `namespace/name:port`, with the port's name, or its number
//! where it has none.

mod objects;
mod reflector;
mod store;

use super::follow::Pace;
use super::http::{Http, Patience};
use super::instance::Instance;
use super::registries::{DiscoveryError, Origin};
use super::registry::{Answer, AskError, Asking, Position, Registry};
use crate::tls::OnDemandTls;
use milecastle_settings::{Discovery as Settings, Kubernetes as Own, KubernetesScheme, RegistryUrl};
use milecastle_snapshot::ServiceQuery;
use reflector::{Reflector, Scope, Token};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::{State, Store};
use tokio::task::AbortHandle;

/// Where pods find what they need.
const IN_POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A question is answered after that at the latest, changed or not: so it is seen that the watch goes on.
const CONFIRM_EVERY: Duration = Duration::from_secs(10);

/// Reads one cluster.
pub(super) struct Kubernetes {
    store: Arc<Store>,
    weight: u32,
    side: tokio::runtime::Handle,
    reading: Mutex<Reading>,
}

/// The task that reads.
enum Reading {
    /// Nobody has asked yet.
    NotYet(Box<Reflector>),
    Running(AbortHandle),
    /// While it is being started.
    Starting,
}

impl Kubernetes {
    pub(super) fn new(
        own: &Own,
        origin: Origin,
        settings: &Settings,
        side: &tokio::runtime::Handle,
    ) -> Result<Self, DiscoveryError> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let host = own.service.host.clone().or_else(|| variable("KUBERNETES_SERVICE_HOST"));
        let port = own.service.port.or_else(|| variable("KUBERNETES_SERVICE_PORT")?.parse().ok());
        let server = RegistryUrl {
            tls: own.service.schema == KubernetesScheme::Https,
            host: host.ok_or(DiscoveryError::NoApiServer)?,
            port: port.unwrap_or(443),
            login: None,
        };
        let of_pod = |file: &str| Some(Path::new(IN_POD).join(file)).filter(|path| path.exists());
        let authorities: Option<PathBuf> = own.service.ca_file.clone().or_else(|| of_pod("ca.crt"));
        // What the pod has is for its own cluster, whoever may name another one.
        let own_cluster = own.service.host.is_none() && own.service.port.is_none();
        let token_of_pod = || of_pod("token").filter(|_| origin == Origin::File || own_cluster);
        let token = match (&own.client.token, &own.client.token_file) {
            (Some(token), _) => Token::Fixed(token.clone()),
            (None, Some(file)) => Token::File(file.clone()),
            (None, None) => token_of_pod().map_or(Token::None, Token::File),
        };
        let tls = Arc::new(OnDemandTls::new(authorities, "discovery.kubernetes.service.ca_file"));
        let store = Arc::new(Store::default());
        let reflector = Reflector {
            http: Http::new(tls, settings.answer_bytes.as_len()).verifying(own.service.ssl_verify),
            server,
            token,
            scope: Scope::new(own)?,
            patience: Patience { connect: own.timeout.get(), answer: own.timeout.get() },
            watch_for: own.watch_for.get(),
            pace: Pace::new(settings),
            store: store.clone(),
        };
        let reading = Mutex::new(Reading::NotYet(Box::new(reflector)));
        Ok(Self { store, weight: own.default_weight, side: side.clone(), reading })
    }

    /// Begins to read, unless that was done before.
    fn start(&self) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        *reading = match std::mem::replace(&mut *reading, Reading::Starting) {
            Reading::NotYet(reflector) => Reading::Running(self.side.spawn(reflector.run()).abort_handle()),
            started => started,
        };
    }

    async fn find(&self, service: &str, since: Option<Position>) -> Result<Answer, AskError> {
        let (namespace, name, port) = split(service)?;
        self.start();
        let mut version = self.store.versions(namespace, name);
        let mut state = self.store.state();
        let mut confirm = std::pin::pin!(tokio::time::sleep(CONFIRM_EVERY));
        let mut confirmed = false;
        loop {
            let now = state.borrow_and_update().clone();
            let index = *version.borrow_and_update();
            match now {
                State::Failing(why) => return Err(AskError::Reading(why.to_string())),
                State::Read if confirmed || since.is_none_or(|since| since.index != index) => {
                    let places = self.store.places(namespace, name, port);
                    let instances = places.iter().map(|(host, port)| Instance::new(host, Some(*port), self.weight));
                    let position = Some(Position { server: 0, index });
                    let instances = instances.collect::<Result<_, _>>()?;
                    return Ok(Answer { position, ..Answer::of(instances, Duration::ZERO) });
                }
                State::Unread if confirmed => {
                    return Err(AskError::Reading("the cluster is still being read".to_owned()));
                }
                State::Read | State::Unread => {}
            }
            // Whoever is told of changes lives as long as the store.
            tokio::select! {
                _ = version.changed() => {}
                _ = state.changed() => {}
                () = &mut confirm, if !confirmed => confirmed = true,
            }
        }
    }
}

impl Registry for Kubernetes {
    fn ask<'a>(&'a self, service: &'a ServiceQuery, since: Option<Position>) -> Asking<'a> {
        Box::pin(self.find(&service.name, since))
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        if let Reading::Running(task) = &*self.reading.lock().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

/// Namespace, name and port of a service's name.
fn split(service: &str) -> Result<(&str, &str, &str), AskError> {
    let parts = service.split_once('/').and_then(|(namespace, rest)| {
        let (name, port) = rest.rsplit_once(':')?;
        Some((namespace, name, port))
    });
    let known = |part: &str| !part.is_empty() && !part.contains(['/', ':']);
    parts
        .filter(|(namespace, name, port)| known(namespace) && known(name) && known(port))
        .ok_or(AskError::Name("expected `namespace/name:port`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_services() {
        assert_eq!(split("default/web:http").unwrap(), ("default", "web", "http"));
        for text in [
            "",
            "web:http",
            "default/web",
            "default/web:",
            "/web:http",
            "default/:http",
            "id/default/web:http",
            "a/b:c:d",
        ] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
