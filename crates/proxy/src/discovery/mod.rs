//! Service discovery: where the nodes of upstreams with a `service_name` are (`docs/spec/resources.md` §14).
//!
//! A [`Registry`] is asked by one task for each service, on the side runtime, from the first request for the service on and as
//! long as the configuration in force has an upstream of it. What it has answered last stands in a [`Service`]; workers read
//! it through a [`Subscription`] for each upstream, which is the upstream over the present instances.
//!
//! Invariants:
//! - Workers never talk to a registry. Only the first request for a service waits for it, and not longer than `first_answer`.
//! - No change of instances builds a snapshot. Instances that are the same ones leave the upstream as it is, and with it the
//!   state of balancers and health checks.
//! - What a registry has said last is used until it says something else: a failure takes no instance away, an empty answer takes
//!   all of them. So it is across a restart, within `keep_for`.
//!
//! Deliberately absent: the choice of a node, and any registry's name outside of this folder.

mod figures;
mod follow;
mod instance;
mod keeper;
mod registries;
mod registry;
mod service;
mod subscription;
#[cfg(test)]
mod tests;

mod consul;
mod dns;
mod eureka;
mod http;
mod kubernetes;
mod nacos;

pub(crate) use figures::Figures;
pub use registries::DiscoveryError;

use crate::current::Current;
use arc_swap::ArcSwap;
use follow::Pace;
use keeper::Keeper;
use milecastle_settings::Discovery as Settings;
use milecastle_snapshot::{CompiledUpstream, ServiceQuery};
use registry::Registry;
use service::Service;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use subscription::Subscription;
use tokio::sync::watch;

/// The services that upstreams are subscribed to, for the whole process.
pub struct Discovery {
    registries: BTreeMap<&'static str, Arc<dyn Registry>>,
    /// By the upstream's path.
    subscriptions: ArcSwap<imbl::HashMap<Arc<str>, Arc<Subscription>>>,
    /// Those that some subscription has; the lock also orders the changes of `subscriptions`.
    services: Mutex<HashMap<Arc<ServiceQuery>, Weak<Service>>>,
    /// `None`: nothing is kept on disk.
    keeper: Option<Keeper>,
    changes: watch::Sender<u64>,
    side: tokio::runtime::Handle,
    first_answer: Duration,
    pace: Pace,
}

impl Discovery {
    /// The registries of the settings. `side` is the runtime that they are asked on, `directory` where the last instances are
    /// kept, if anywhere, and `authorities` a file in PEM that registries' certificates are verified with; `None`: those of
    /// the system.
    ///
    /// # Errors
    /// A registry cannot be set up as the settings say.
    pub fn new(
        settings: &Settings,
        side: tokio::runtime::Handle,
        directory: Option<&Path>,
        authorities: Option<PathBuf>,
    ) -> Result<Arc<Self>, DiscoveryError> {
        let registries = registries::configured(settings, authorities, &side)?;
        Ok(Self::of(registries, settings, side, directory))
    }

    fn of(
        registries: BTreeMap<&'static str, Arc<dyn Registry>>,
        settings: &Settings,
        side: tokio::runtime::Handle,
        directory: Option<&Path>,
    ) -> Arc<Self> {
        let keeper = directory.filter(|_| !registries.is_empty()).map(|directory| Keeper::open(directory, settings));
        let discovery = Arc::new(Self {
            registries,
            subscriptions: ArcSwap::default(),
            services: Mutex::default(),
            keeper,
            changes: watch::Sender::new(0),
            first_answer: settings.first_answer.get(),
            pace: Pace::new(settings),
            side,
        });
        if let Some(keeper) = &discovery.keeper {
            let task = keeper.writer().run(Arc::downgrade(&discovery), discovery.changes.subscribe());
            discovery.side.spawn(task);
        }
        discovery
    }

    /// Lets go of services that the configuration in force has no upstream of, from now on.
    pub(crate) fn follow(self: &Arc<Self>, current: &Arc<Current>) {
        let mut published = current.subscribe();
        let (this, current) = (Arc::downgrade(self), Arc::downgrade(current));
        self.side.spawn(async move {
            while published.changed().await.is_ok() {
                let (Some(this), Some(current)) = (this.upgrade(), current.upgrade()) else { return };
                let snapshot = current.load();
                this.retain(|path| snapshot.upstream_at(path)?.service.clone());
            }
        });
    }

    /// An upstream over the instances of its service; `None` if nothing is known of them. The first request for a service waits
    /// for the registry.
    pub(crate) async fn discover(&self, upstream: &Arc<CompiledUpstream>) -> Option<Arc<CompiledUpstream>> {
        let subscription = self.subscription(upstream)?;
        if subscription.service.is_waiting() {
            subscription.service.answered(self.first_answer).await;
        }
        subscription.present(upstream)
    }

    /// As [`Self::discover`], of what is known now, and without asking for it.
    pub(crate) fn present(&self, upstream: &Arc<CompiledUpstream>) -> Option<Arc<CompiledUpstream>> {
        self.subscriptions.load().get(&upstream.key)?.present(upstream)
    }

    /// Wakes at each change of instances.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The subscription of an upstream; made at its first request, and anew when it names another service. `None` for one
    /// without service.
    fn subscription(&self, upstream: &CompiledUpstream) -> Option<Arc<Subscription>> {
        let query = upstream.service.as_ref()?;
        let known = self.subscriptions.load().get(&upstream.key).filter(|known| known.is_of(query)).cloned();
        Some(known.unwrap_or_else(|| self.subscribe(&upstream.key, query)))
    }

    fn subscribe(&self, path: &Arc<str>, query: &Arc<ServiceQuery>) -> Arc<Subscription> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let mut subscriptions = imbl::HashMap::clone(&self.subscriptions.load());
        if let Some(known) = subscriptions.get(path).filter(|known| known.is_of(query)) {
            return known.clone();
        }
        let service = services.get(query).and_then(Weak::upgrade).unwrap_or_else(|| {
            let service = Arc::new(self.start(query));
            services.retain(|_, service| service.strong_count() > 0);
            services.insert(query.clone(), Arc::downgrade(&service));
            service
        });
        let subscription = Arc::new(Subscription::new(service));
        subscriptions.insert(path.clone(), subscription.clone());
        self.subscriptions.store(Arc::new(subscriptions));
        subscription
    }

    /// Begins to follow a service.
    fn start(&self, query: &Arc<ServiceQuery>) -> Service {
        match self.registries.get(&*query.registry) {
            Some(registry) => {
                let kept = self.keeper.as_ref().and_then(|keeper| keeper.take(query));
                Service::follow(query.clone(), registry.clone(), kept, self.pace, self.changes.clone(), &self.side)
            }
            None => {
                let uninitialized = if self.registries.is_empty() {
                    "discovery is uninitialized".to_owned()
                } else {
                    format!("discovery {} is uninitialized", query.registry)
                };
                tracing::error!(
                    service = &*query.name,
                    "{uninitialized}; requests are answered with 503: configure discovery.{}",
                    query.registry
                );
                Service::without_registry(query.clone(), uninitialized)
            }
        }
    }

    /// Keeps the subscriptions of upstreams that still name the same service, by the path.
    fn retain(&self, service_at: impl Fn(&str) -> Option<Arc<ServiceQuery>>) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.subscriptions.load_full();
        let gone: Vec<Arc<str>> = before
            .iter()
            .filter(|(path, subscription)| !service_at(path).is_some_and(|query| subscription.is_of(&query)))
            .map(|(path, _)| path.clone())
            .collect();
        if gone.is_empty() {
            return;
        }
        let mut subscriptions = imbl::HashMap::clone(&before);
        for path in &gone {
            subscriptions.remove(path);
        }
        self.subscriptions.store(Arc::new(subscriptions));
        drop(before);
        services.retain(|_, service| service.strong_count() > 0);
    }

    /// All services that are followed, in order.
    fn services(&self) -> Vec<Arc<Service>> {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Arc<Service>> = services.values().filter_map(Weak::upgrade).collect();
        all.sort_unstable_by(|a, b| a.query().cmp(b.query()));
        all
    }

    /// What there is to tell of every service of a registry, for the control API; `None` if it is not configured.
    pub(crate) fn dump(&self, registry: &str) -> Option<serde_json::Value> {
        self.registries.contains_key(registry).then(|| figures::dump(registry, &self.services()))
    }

    /// What there is to tell of every service, for the metrics.
    pub(crate) fn figures(&self) -> Vec<Figures> {
        self.services().iter().map(|service| Figures::of(service)).collect()
    }
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").field("registries", &self.registries.keys()).finish_non_exhaustive()
    }
}
