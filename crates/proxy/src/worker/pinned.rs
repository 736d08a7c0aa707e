//! The snapshot that a request or session works with from its beginning to its end.

use super::Node;
use milecastle_plugin_api::{Consumer, CredentialMatch, NodeFacts, View};
use milecastle_snapshot::Snapshot;
use std::any::Any;
use std::sync::Arc;

/// A snapshot and its node, as requests are pinned to them.
pub(crate) struct Pinned {
    pub(crate) snapshot: Arc<Snapshot>,
    node: Arc<Node>,
    generation: u64,
}

impl Pinned {
    /// What is in force now.
    pub(super) fn new(node: &Arc<Node>) -> Self {
        // The number first: with a number that is newer than its snapshot, the next publication would be overlooked.
        let generation = node.current.generation();
        Self { snapshot: node.current.load(), node: node.clone(), generation }
    }

    /// Whether nothing has been published since.
    pub(super) fn is_current(&self) -> bool {
        self.generation == self.node.current.generation()
    }

    /// Number of the snapshot in the order of publication on this node.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}

impl View for Pinned {
    fn credential(&self, plugin: &'static str, key: &str) -> Option<CredentialMatch> {
        self.snapshot.credential(plugin, key)
    }

    fn has_credentials(&self, plugin: &'static str) -> bool {
        self.snapshot.has_credentials(plugin)
    }

    fn consumer(&self, name: &str) -> Option<Arc<Consumer>> {
        self.snapshot.consumer(name).cloned()
    }

    fn metadata(&self, plugin: &'static str) -> Option<&Arc<dyn Any + Send + Sync>> {
        self.snapshot.metadata(plugin)
    }

    fn node(&self) -> &NodeFacts {
        &self.node.facts
    }

    fn hook_panicked(&self, plugin: &'static str) {
        self.node.counters.hook_panicked(plugin);
        tracing::error!(plugin, "a plugin's hook panicked; the request is answered with 500");
    }
}
