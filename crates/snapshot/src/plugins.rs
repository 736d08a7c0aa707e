//! Global rules, folded into one chain.

use crate::snapshot::Map;
use imbl::OrdSet;
use milecastle_plugin_api::{Built, Chain};
use std::collections::HashMap;
use std::sync::Arc;

/// The plugins of each global rule, and the chain of them all.
#[derive(Clone, Default)]
pub(crate) struct GlobalRules {
    rules: Map<Arc<[Built]>>,
    /// Rules in quarantine that never had a good form.
    broken: OrdSet<Arc<str>>,
    chain: Arc<Chain>,
}

impl GlobalRules {
    pub(crate) fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    pub(crate) fn set(&mut self, id: &Arc<str>, plugins: Option<Vec<Built>>) {
        self.broken.remove(id);
        match plugins {
            Some(plugins) => drop(self.rules.insert(id.clone(), plugins.into())),
            None => drop(self.rules.remove(&**id)),
        }
        self.fold();
    }

    /// Keeps the last good form of a rule; without one, no request may pass.
    pub(crate) fn quarantine(&mut self, id: &Arc<str>) {
        if !self.rules.contains_key(&**id) {
            self.broken.insert(id.clone());
        }
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.rules.contains_key(id)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.broken.is_empty()
    }

    /// A name in more than one rule is removed entirely, so that none of the copies runs.
    fn fold(&mut self) {
        let mut times: HashMap<&str, usize> = HashMap::new();
        let all = || self.rules.values().flat_map(|plugins| plugins.iter());
        for built in all() {
            *times.entry(built.name()).or_default() += 1;
        }
        for (name, count) in times.iter().filter(|(_, count)| **count > 1) {
            tracing::error!(plugin = name, rules = count, "plugin is in several global rules: none of them runs it");
        }
        self.chain = Arc::new(Chain::new(all().filter(|built| times[built.name()] == 1).cloned().collect()));
    }
}
