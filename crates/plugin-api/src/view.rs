//! What a request may ask of the snapshot it is pinned to, and of its node.

use crate::consumer::{Consumer, CredentialMatch};
use std::any::Any;
use std::sync::Arc;

/// Facts of the node that do not change while it runs.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// Host name, for logs.
    pub hostname: Arc<str>,
    /// Version of the gateway.
    pub version: &'static str,
    /// Whether traces show more than the request as a whole: `apisix.tracing`.
    pub tracing: bool,
}

/// The pinned snapshot and the node, as plugins see them. Implemented by the data plane.
pub trait View {
    /// The credential of `plugin` with this key. Keys compare byte for byte.
    fn credential(&self, plugin: &'static str, key: &str) -> Option<CredentialMatch>;
    /// Whether any consumer has a credential of this plugin.
    fn has_credentials(&self, plugin: &'static str) -> bool;
    /// A consumer by username.
    fn consumer(&self, name: &str) -> Option<Arc<Consumer>>;
    /// The compiled metadata of a plugin.
    fn metadata(&self, plugin: &'static str) -> Option<&Arc<dyn Any + Send + Sync>>;
    /// Facts of the node.
    fn node(&self) -> &NodeFacts;
    /// Counts a panic of a plugin's hook and writes one log line.
    fn hook_panicked(&self, plugin: &'static str);
}
