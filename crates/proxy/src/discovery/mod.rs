//! Service discovery: where the nodes of upstreams with a `service_name` are (`docs/spec/resources.md` §14).
//!
//! A [`Registry`] is asked by one task for each service, on the side runtime, from the first request for the service on and as
//! long as the configuration in force has an upstream of it. Which registries there are is said by the node's file and by the
//! settings of its group, which come with the configuration ([`registries`]). What a registry has answered last stands in a [`Service`]; workers read
//! it through a [`Subscription`] for each upstream, which is the upstream over the present instances.
//!
//! Invariants:
//! - Workers never talk to a registry. Only the first request for a service waits for it, and not longer than `first_answer`.
//! - No change of instances builds a snapshot. Instances that are the same ones leave the upstream as it is, and with it the
//!   state of balancers and health checks.
//! - A request asks the registries of its own snapshot. Those that are the same under other settings of the group go on; of one that
//!   is set up anew the instances told before are used until it answers.
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

mod agents;
mod consul;
mod consul_kv;
mod dns;
mod eureka;
mod http;
mod kubernetes;
mod nacos;

pub(crate) use self::http::encoded;
pub(crate) use figures::Figures;
pub use registries::DiscoveryError;

use crate::current::Current;
use arc_swap::ArcSwap;
use follow::Pace;
use keeper::Keeper;
use milecastle_settings::{Discovery as Settings, Registries};
use milecastle_snapshot::{CompiledUpstream, ServiceQuery, Snapshot};
use registries::{Maker, Source, Sources};
use service::{Known, Service};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use subscription::Subscription;
use tokio::sync::watch;

/// How often is looked whether requests under former settings have ended, so that registries which only these had are let go.
const FORMER: Duration = Duration::from_secs(1);

/// The services that upstreams are subscribed to, for the whole process.
pub struct Discovery {
    maker: Maker,
    /// Of the settings of the group that snapshots in use have.
    sources: ArcSwap<Vec<Arc<Sources>>>,
    /// By the upstream's path.
    subscriptions: ArcSwap<imbl::HashMap<Arc<str>, Arc<Subscription>>>,
    /// Those that some subscription has; the lock also orders the changes of `sources` and `subscriptions`.
    services: Mutex<Services>,
    /// `None`: nothing is kept on disk.
    keeper: Option<Keeper>,
    changes: watch::Sender<u64>,
    side: tokio::runtime::Handle,
    first_answer: Duration,
    pace: Pace,
}

/// The services that are followed, each where it is asked for last.
type Services = HashMap<Arc<ServiceQuery>, Weak<Service>>;

impl Discovery {
    /// With the registries that the node has of its own. `side` is the runtime that they are asked on, `directory` where the last instances are
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
        let make = registries::maker(settings, authorities, side.clone());
        Ok(Self::of(Maker::new(&settings.registries, make)?, settings, side, directory))
    }

    fn of(maker: Maker, settings: &Settings, side: tokio::runtime::Handle, directory: Option<&Path>) -> Arc<Self> {
        let keeper = directory.map(|directory| Keeper::open(directory, settings));
        let discovery = Arc::new(Self {
            maker,
            sources: ArcSwap::default(),
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

    /// From now on, asks the registries of the configuration in force, and lets go of services that it has no upstream of.
    pub(crate) fn follow(self: &Arc<Self>, current: &Arc<Current>) {
        let mut published = current.subscribe();
        let (this, current) = (Arc::downgrade(self), Arc::downgrade(current));
        self.side.spawn(async move {
            loop {
                let former = {
                    let (Some(this), Some(current)) = (this.upgrade(), current.upgrade()) else { return };
                    // First, so that nobody moves a service back once there are none.
                    let former = this.forget_former();
                    this.settle(&current.load());
                    former
                };
                let looked_at_again = tokio::time::sleep(FORMER);
                tokio::select! {
                    changed = published.changed() => if changed.is_err() { return },
                    () = looked_at_again, if former => {}
                }
            }
        });
    }

    /// An upstream over the instances of its service, asked of the registries of its snapshot; `None` if nothing is known of them.
    /// The first request for a service waits for the registry.
    pub(crate) async fn discover(
        &self,
        upstream: &Arc<CompiledUpstream>,
        group: &Arc<Registries>,
    ) -> Option<Arc<CompiledUpstream>> {
        let subscription = self.subscription(upstream, group)?;
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

    /// The registries under these settings of the group.
    fn sources(&self, group: &Arc<Registries>) -> Arc<Sources> {
        let find = |all: &[Arc<Sources>]| all.iter().find(|sources| sources.are_of(group)).cloned();
        if let Some(known) = find(&self.sources.load()) {
            return known;
        }
        let _ordered = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let former = self.sources.load_full();
        find(&former).unwrap_or_else(|| {
            let made = Arc::new(self.maker.sources(group, &former));
            self.sources.store(Arc::new(former.iter().cloned().chain([made.clone()]).collect()));
            made
        })
    }

    /// Forgets registries that no request can ask any more. Gives whether there are some that only requests under former settings ask.
    fn forget_former(&self) -> bool {
        let _ordered = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.sources.load_full();
        let used: Vec<_> = all.iter().filter(|sources| sources.in_use()).cloned().collect();
        let former = used.len() > 1;
        if used.len() < all.len() {
            self.sources.store(Arc::new(used));
        }
        former
    }

    /// The subscription of an upstream; made at its first request, and anew when it names another service, or the settings of the
    /// group another registry. `None` for one without service.
    fn subscription(&self, upstream: &CompiledUpstream, group: &Arc<Registries>) -> Option<Arc<Subscription>> {
        let query = upstream.service.as_ref()?;
        let sources = self.sources(group);
        let source = sources.get(&query.registry);
        let fits = |known: &&Arc<Subscription>| known.is_of(query) && known.is_at(source);
        let known = self.subscriptions.load().get(&upstream.key).filter(fits).cloned();
        Some(known.unwrap_or_else(|| self.subscribe(&upstream.key, query, &sources)))
    }

    fn subscribe(&self, path: &Arc<str>, query: &Arc<ServiceQuery>, sources: &Sources) -> Arc<Subscription> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let mut subscriptions = imbl::HashMap::clone(&self.subscriptions.load());
        let source = sources.get(&query.registry);
        if let Some(known) = subscriptions.get(path).filter(|known| known.is_of(query) && known.is_at(source)) {
            return known.clone();
        }
        let subscription = Arc::new(Subscription::new(self.service(&mut services, query, sources)));
        subscriptions.insert(path.clone(), subscription.clone());
        self.subscriptions.store(Arc::new(subscriptions));
        subscription
    }

    /// The service, which begins to be followed if it is not, or is at another registry.
    fn service(&self, services: &mut Services, query: &Arc<ServiceQuery>, sources: &Sources) -> Arc<Service> {
        let followed = services.get(query).and_then(Weak::upgrade);
        if let Some(service) = followed.as_ref().filter(|service| service.is_of(sources.get(&query.registry))) {
            return service.clone();
        }
        let service = Arc::new(self.start(query, sources, followed.as_deref()));
        services.retain(|_, service| service.strong_count() > 0);
        services.insert(query.clone(), Arc::downgrade(&service));
        service
    }

    /// Begins to follow a service, with what is known of it where it was followed before.
    fn start(&self, query: &Arc<ServiceQuery>, sources: &Sources, before: Option<&Service>) -> Service {
        let source = sources.get(&query.registry);
        let why = match source.map(|source| (source, &**source)) {
            Some((source, Source::Registry(registry))) => {
                let kept = || self.keeper.as_ref()?.take(query).map(Known::Kept);
                let known = before.and_then(Service::known).or_else(kept).unwrap_or(Known::Nothing);
                let (from, changes) = ((source.clone(), registry.clone()), self.changes.clone());
                return Service::follow(query.clone(), from, known, self.pace, changes, &self.side);
            }
            Some((_, Source::Unusable(why))) => why.clone(),
            None if sources.is_empty() => "discovery is uninitialized".to_owned(),
            None => format!("discovery {} is uninitialized", query.registry),
        };
        tracing::error!(
            service = &*query.name,
            "{why}; requests are answered with 503: configure discovery.{}",
            query.registry
        );
        Service::without_registry(query.clone(), source.cloned(), why)
    }

    /// Keeps the subscriptions of upstreams that still name the same service, and moves those whose registry is another one.
    fn settle(&self, snapshot: &Snapshot) {
        let sources = self.sources(snapshot.discovery());
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.subscriptions.load_full();
        let mut subscriptions = imbl::HashMap::clone(&before);
        for (path, subscription) in before.iter() {
            let named = snapshot.upstream_at(path).and_then(|upstream| upstream.service.as_ref());
            match named.filter(|query| subscription.is_of(query)) {
                None => drop(subscriptions.remove(path)),
                Some(query) if !subscription.is_at(sources.get(&query.registry)) => {
                    let moved = Subscription::new(self.service(&mut services, query, &sources));
                    subscriptions.insert(path.clone(), Arc::new(moved));
                }
                Some(_) => {}
            }
        }
        if !subscriptions.ptr_eq(&before) {
            self.subscriptions.store(Arc::new(subscriptions));
        }
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
    pub(crate) fn dump(&self, registry: &str, group: &Arc<Registries>) -> Option<serde_json::Value> {
        self.sources(group).get(registry).map(|_| figures::dump(registry, &self.services()))
    }

    /// What the disk keeps of a registry's services, for the control API; `None` if the registry is not configured, an error in
    /// words for operators if nothing is kept of it.
    pub(crate) fn kept(&self, registry: &str, group: &Arc<Registries>) -> Option<Result<serde_json::Value, String>> {
        self.sources(group).get(registry)?;
        Some(match &self.keeper {
            Some(keeper) => keeper.show(registry),
            None => Err("this node has no state directory".to_owned()),
        })
    }

    /// What there is to tell of every service, for the metrics.
    pub(crate) fn figures(&self) -> Vec<Figures> {
        self.services().iter().map(|service| Figures::of(service)).collect()
    }
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").field("maker", &self.maker).finish_non_exhaustive()
    }
}
