//! A made-up snapshot and node.

use crate::{CompiledMetadata, Consumer, CredentialMatch, NodeFacts, View};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// A snapshot of a few consumers and some metadata, on a node called `test-node` whose traces show all.
pub struct FakeView {
    pub(super) consumers: HashMap<String, Arc<Consumer>>,
    /// By plugin, then by key.
    pub(super) credentials: HashMap<String, HashMap<String, CredentialMatch>>,
    pub(super) metadata: HashMap<String, CompiledMetadata>,
    node: NodeFacts,
    panics: RefCell<Vec<&'static str>>,
}

impl Default for FakeView {
    fn default() -> Self {
        Self {
            consumers: HashMap::new(),
            credentials: HashMap::new(),
            metadata: HashMap::new(),
            node: NodeFacts { hostname: "test-node".into(), version: "0.0.0-test", tracing: true },
            panics: RefCell::default(),
        }
    }
}

impl FakeView {
    /// The plugins whose hooks have panicked, in order.
    pub fn panics(&self) -> Vec<&'static str> {
        self.panics.borrow().clone()
    }
}

impl View for FakeView {
    fn credential(&self, plugin: &'static str, key: &str) -> Option<CredentialMatch> {
        self.credentials.get(plugin)?.get(key).cloned()
    }

    fn has_credentials(&self, plugin: &'static str) -> bool {
        self.credentials.contains_key(plugin)
    }

    fn consumer(&self, name: &str) -> Option<Arc<Consumer>> {
        self.consumers.get(name).cloned()
    }

    fn metadata(&self, plugin: &'static str) -> Option<&CompiledMetadata> {
        self.metadata.get(plugin)
    }

    fn node(&self) -> &NodeFacts {
        &self.node
    }

    fn hook_panicked(&self, plugin: &'static str) {
        self.panics.borrow_mut().push(plugin);
    }
}
