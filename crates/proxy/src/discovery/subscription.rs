//! An upstream's use of a service.

use super::instance::Instance;
use super::registries::Source;
use super::service::Service;
use arc_swap::ArcSwapOption;
use milecastle_snapshot::{CompiledUpstream, ServiceQuery};
use std::sync::Arc;

/// The upstream over the service's present instances, for all workers.
pub(super) struct Subscription {
    pub(super) service: Arc<Service>,
    made: ArcSwapOption<Made>,
}

/// An upstream over instances, and what it was made of.
struct Made {
    base: Arc<CompiledUpstream>,
    instances: Arc<Vec<Instance>>,
    upstream: Arc<CompiledUpstream>,
}

impl Subscription {
    pub(super) fn new(service: Arc<Service>) -> Self {
        Self { service, made: ArcSwapOption::empty() }
    }

    pub(super) fn is_of(&self, query: &Arc<ServiceQuery>) -> bool {
        Arc::ptr_eq(self.service.query(), query) || self.service.query() == query
    }

    /// Whether the service is asked for there.
    pub(super) fn is_at(&self, source: Option<&Arc<Source>>) -> bool {
        self.service.is_of(source)
    }

    /// The upstream over what is known; `None` if nothing is. It is the same object until either changes.
    pub(super) fn present(&self, base: &Arc<CompiledUpstream>) -> Option<Arc<CompiledUpstream>> {
        let instances = self.service.instances()?;
        if let Some(made) = &*self.made.load()
            && Arc::ptr_eq(&made.base, base)
            && Arc::ptr_eq(&made.instances, &instances)
        {
            return Some(made.upstream.clone());
        }
        let nodes = instances.iter().filter_map(|instance| instance.node(base.scheme)).collect();
        let upstream = Arc::new(base.over(nodes));
        self.made.store(Some(Arc::new(Made { base: base.clone(), instances, upstream: upstream.clone() })));
        Some(upstream)
    }
}
