//! Stream routes (`docs/spec/resources.md` §10).

use std::sync::Arc;

use serde::Deserialize;

use super::de::{object, some_int, some_object};
use super::{Labels, Upstream, debug_identity};
use crate::{Id, Plugins};

/// A stream route: what becomes of TCP and UDP sessions that fit its conditions.
#[derive(Clone, PartialEq, Deserialize)]
pub struct StreamRoute {
    /// Identity; in every stored body.
    pub id: Option<Id>,
    /// Name for people and logs.
    pub name: Option<String>,
    /// Labels.
    #[serde(default, deserialize_with = "object")]
    pub labels: Labels,
    /// Client address or block.
    pub remote_addr: Option<String>,
    /// Local address or block.
    pub server_addr: Option<String>,
    /// Local port.
    #[serde(default, deserialize_with = "some_int")]
    pub server_port: Option<u16>,
    /// TLS server name: exact, or with a leading `*`.
    pub sni: Option<String>,
    /// Inline upstream.
    #[serde(default, deserialize_with = "some_object")]
    pub upstream: Option<Arc<Upstream>>,
    /// Upstream by id; preferred to the inline one.
    pub upstream_id: Option<Id>,
    /// The service this route belongs to.
    pub service_id: Option<Id>,
    /// Plugins.
    #[serde(default, deserialize_with = "object")]
    pub plugins: Plugins,
    /// A protocol above TCP that takes over behind `preread`.
    #[serde(default, deserialize_with = "some_object")]
    pub protocol: Option<StreamProtocol>,
}

/// See [`StreamRoute::protocol`]. What else it holds belongs to the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StreamProtocol {
    /// Name of the protocol.
    pub name: String,
    /// The route whose sessions this one takes requests of; it is no entry point then.
    pub superior_id: Option<Id>,
}

debug_identity!(StreamRoute, id);
