//! Routes and services (`docs/spec/resources.md` §1, §2).

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::de::{int, list, object, some_object, status, yes};
use super::{Labels, Timeout, Upstream, debug_identity};
use crate::{Id, Plugins};

/// A route.
#[derive(Clone, PartialEq, Deserialize)]
pub struct Route {
    /// Identity; in every stored body.
    pub id: Option<Id>,
    /// Name for people and logs.
    pub name: Option<String>,
    /// Labels.
    #[serde(default, deserialize_with = "object")]
    pub labels: Labels,
    /// The one path pattern; see [`Route::paths`].
    pub uri: Option<String>,
    /// Several path patterns.
    #[serde(default, deserialize_with = "list")]
    pub uris: Vec<String>,
    /// The one host pattern; see [`EffectiveRoute::hosts`](super::EffectiveRoute::hosts).
    pub host: Option<String>,
    /// Several host patterns.
    #[serde(default, deserialize_with = "list")]
    pub hosts: Vec<String>,
    /// Methods; empty means any.
    #[serde(default, deserialize_with = "list")]
    pub methods: Vec<String>,
    /// The one client address or block; see [`Route::client_addresses`].
    pub remote_addr: Option<String>,
    /// Several client addresses or blocks.
    #[serde(default, deserialize_with = "list")]
    pub remote_addrs: Vec<String>,
    /// Higher wins among equal paths. Default 0.
    #[serde(default, deserialize_with = "int")]
    pub priority: i64,
    /// Expression list of `docs/spec/routing.md` §6, always an array; absent is always true.
    #[serde(default, deserialize_with = "expression")]
    pub vars: Option<Value>,
    /// Plugins.
    #[serde(default, deserialize_with = "object")]
    pub plugins: Plugins,
    /// Plugins shared with other routes.
    pub plugin_config_id: Option<Id>,
    /// Inline upstream.
    #[serde(default, deserialize_with = "some_object")]
    pub upstream: Option<Arc<Upstream>>,
    /// Upstream by id; preferred to the inline one.
    pub upstream_id: Option<Id>,
    /// The service this route belongs to.
    pub service_id: Option<Id>,
    /// Replaces the upstream's timeout as a whole.
    #[serde(default, deserialize_with = "some_object")]
    pub timeout: Option<Timeout>,
    /// Absent: the service's value.
    pub enable_websocket: Option<bool>,
    /// `status`: false means the route is not matched at all. Default true.
    #[serde(default = "yes", rename = "status", deserialize_with = "status")]
    pub enabled: bool,
}

impl Route {
    /// The path patterns: `uri`, then `uris`.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.uri.iter().chain(&self.uris).map(String::as_str)
    }

    /// The client addresses and blocks: `remote_addr`, then `remote_addrs`; none means any client.
    pub fn client_addresses(&self) -> impl Iterator<Item = &str> {
        self.remote_addr.iter().chain(&self.remote_addrs).map(String::as_str)
    }
}

/// A service.
#[derive(Clone, PartialEq, Deserialize)]
pub struct Service {
    /// Identity; in every stored body.
    pub id: Option<Id>,
    /// Name for people and logs.
    pub name: Option<String>,
    /// Labels.
    #[serde(default, deserialize_with = "object")]
    pub labels: Labels,
    /// Plugins of its routes, unless they have the same.
    #[serde(default, deserialize_with = "object")]
    pub plugins: Plugins,
    /// Inline upstream.
    #[serde(default, deserialize_with = "some_object")]
    pub upstream: Option<Arc<Upstream>>,
    /// Upstream by id; preferred to the inline one.
    pub upstream_id: Option<Id>,
    /// Hosts of its routes that name none.
    #[serde(default, deserialize_with = "list")]
    pub hosts: Vec<String>,
    /// WebSocket for its routes that do not say.
    pub enable_websocket: Option<bool>,
}

fn expression<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    list(deserializer).map(|items| Some(Value::Array(items)))
}

debug_identity!(Route, id);
debug_identity!(Service, id);
