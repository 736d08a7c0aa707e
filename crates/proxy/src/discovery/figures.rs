//! What operators are told of services.

use super::instance::Instance;
use super::service::{News, Service};
use milecastle_snapshot::ServiceQuery;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The figures of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) registry: String,
    pub(crate) service: String,
    pub(crate) instances: u64,
    /// How long ago the registry has confirmed them; `None`: never.
    pub(crate) age: Option<Duration>,
    pub(crate) failures: u64,
}

impl Figures {
    pub(super) fn of(service: &Service) -> Self {
        Self {
            registry: service.query().registry.to_string(),
            service: full_name(service.query()),
            instances: service.instances().map_or(0, |instances| instances.len() as u64),
            age: age(&service.news()),
            failures: service.failures(),
        }
    }
}

/// The services of a registry: instances by name, and how each service stands.
pub(super) fn dump(registry: &str, services: &[Arc<Service>]) -> Value {
    let (mut instances, mut state) = (Map::new(), Map::new());
    for service in services.iter().filter(|service| *service.query().registry == *registry) {
        let name = full_name(service.query());
        let known = service.instances();
        let shown: Vec<Value> = known.iter().flat_map(|known| known.iter()).map(instance).collect();
        let news = service.news();
        let age = age(&news).map(|age| age.as_secs());
        let stands = json!({ "age_seconds": age, "error": news.failing, "passed_over": news.passed_over });
        state.insert(name.clone(), stands);
        instances.insert(name, shown.into());
    }
    json!({ "services": instances, "state": state })
}

fn instance(instance: &Instance) -> Value {
    serde_json::to_value(instance).unwrap_or_default()
}

/// The service's name, with the arguments before it that tell it from others of this name.
pub(super) fn full_name(query: &ServiceQuery) -> String {
    let ServiceQuery { name, namespace, group, metadata, .. } = query;
    let mut full = String::new();
    for part in [namespace, group].into_iter().flatten() {
        full.push_str(part);
        full.push('/');
    }
    full.push_str(name);
    for (index, (key, value)) in metadata.iter().enumerate() {
        full.push_str(if index == 0 { "?" } else { "&" });
        full.push_str(&format!("{key}={value}"));
    }
    full
}

fn age(news: &News) -> Option<Duration> {
    news.heard.map(|heard| SystemTime::now().duration_since(heard).unwrap_or_default())
}
