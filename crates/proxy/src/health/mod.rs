//! Health of upstream nodes (`docs/spec/resources.md` §4).
//!
//! There is one table for the process, [`UpstreamHealth`]: a [`Checker`] for each upstream with `checks` that has had traffic,
//! by the upstream's path, and in it a target for each address. Balancers, the control API, the metrics and the node's report
//! all read it. Probes are sent by a task for each checker on the side runtime; requests report what they saw by one atomic
//! word for each target.
//!
//! Invariants:
//! - A worker waits for nothing here: it takes the table's lock when it meets a version of an upstream for the first time,
//!   and never while a request is with a node.
//! - A target that stays keeps its state, whatever changes around it; with the upstream or its checks the state goes.
//! - What a checker watches is the snapshot in force, over the present instances of services, not what the request knew
//!   which made it.
//!
//! Deliberately absent: the choice of a node.

mod checker;
mod probe;
mod prober;
mod rules;
mod state;
mod target;

pub(crate) use checker::{Checker, FailedTry};
pub(crate) use state::Condition;
pub(crate) use target::Target;

use crate::current::Current;
use crate::discovery::Discovery;
use crate::resolve::Resolver;
use crate::tls::OnDemandTls;
use milecastle_model::HealthChecks;
use milecastle_snapshot::CompiledUpstream;
use prober::Prober;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// The health of all upstreams of a process.
#[derive(Debug, Default)]
pub struct UpstreamHealth {
    checkers: RwLock<BTreeMap<Arc<str>, Arc<Checker>>>,
}

/// How many targets there are, and how they stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthFigures {
    /// Targets that are watched.
    pub targets: u64,
    /// Those of them that get no requests while others do.
    pub unhealthy: u64,
}

impl UpstreamHealth {
    /// The checker of the upstream at this path.
    pub(crate) fn get(&self, path: &str) -> Option<Arc<Checker>> {
        self.checkers.read().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    /// All targets, with the path of their upstream, in order of the paths.
    pub(crate) fn targets(&self) -> Vec<(Arc<str>, Arc<Target>)> {
        let checkers = self.checkers.read().unwrap_or_else(PoisonError::into_inner);
        let of = |(path, checker): (&Arc<str>, &Arc<Checker>)| {
            let path = path.clone();
            checker.setup().targets().iter().map(move |target| (path.clone(), target.clone())).collect::<Vec<_>>()
        };
        checkers.iter().flat_map(of).collect()
    }

    /// How many targets there are, and how they stand.
    pub fn figures(&self) -> HealthFigures {
        HealthFigures::of(self.targets().iter().map(|(_, target)| target))
    }

    /// The same of the upstream at this path.
    pub(crate) fn figures_of(&self, path: &str) -> HealthFigures {
        self.get(path).map(|checker| HealthFigures::of(checker.setup().targets().iter())).unwrap_or_default()
    }
}

impl HealthFigures {
    fn of<'a>(targets: impl Iterator<Item = &'a Arc<Target>>) -> Self {
        targets.fold(Self::default(), |Self { targets, unhealthy }, target| Self {
            targets: targets + 1,
            unhealthy: unhealthy + u64::from(!target.condition().status.is_usable()),
        })
    }
}

/// What makes checkers, and what these work with.
pub(crate) struct Checkers {
    table: Arc<UpstreamHealth>,
    current: Arc<Current>,
    resolver: Arc<Resolver>,
    discovery: Arc<Discovery>,
    tls: OnDemandTls,
    side: tokio::runtime::Handle,
    stop: watch::Sender<bool>,
    enabled: bool,
}

/// What checkers are made from.
pub(crate) struct CheckerParts {
    pub(crate) table: Arc<UpstreamHealth>,
    pub(crate) current: Arc<Current>,
    pub(crate) resolver: Arc<Resolver>,
    /// Where the nodes of discovered upstreams are.
    pub(crate) discovery: Arc<Discovery>,
    /// The runtime that probes run on.
    pub(crate) side: tokio::runtime::Handle,
    /// Whether there are health checks at all.
    pub(crate) enabled: bool,
    /// Authorities that probes over TLS verify with, in PEM; `None`: those of the system.
    pub(crate) authorities: Option<PathBuf>,
}

impl Checkers {
    pub(crate) fn new(parts: CheckerParts) -> Arc<Self> {
        let CheckerParts { table, current, resolver, discovery, side, enabled, authorities } = parts;
        let tls = OnDemandTls::new(authorities, "apisix.ssl.ssl_trusted_certificate");
        Arc::new(Self { table, current, resolver, discovery, tls, side, stop: watch::Sender::new(false), enabled })
    }

    /// The checker for an upstream that has a request; `None` if its health is not watched.
    pub(crate) fn of(self: &Arc<Self>, upstream: &CompiledUpstream) -> Option<Arc<Checker>> {
        if !self.enabled || upstream.checks.is_none() || upstream.nodes.is_empty() {
            return None;
        }
        let mut checkers = self.table.checkers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = checkers.get(&upstream.key) {
            return Some(known.clone());
        }
        let (upstream, checks) = self.watched(&upstream.key)?;
        let key = upstream.key.clone();
        let checker = Arc::new(Checker::new(upstream, checks));
        checkers.insert(key, checker.clone());
        drop(checkers);
        self.side.spawn(Prober::new(self.clone(), checker.clone()).run(self.stop.subscribe()));
        Some(checker)
    }

    /// The upstream at this path in the snapshot in force, over its present nodes, if its health is to be watched.
    fn watched(&self, path: &str) -> Option<(Arc<CompiledUpstream>, Arc<HealthChecks>)> {
        let snapshot = self.current.load();
        let configured = snapshot.upstream_at(path)?;
        let checks = configured.checks.clone()?;
        let upstream = match configured.service {
            None => configured.clone(),
            Some(_) => self.discovery.present(configured)?,
        };
        (!upstream.nodes.is_empty()).then_some((upstream, checks))
    }

    /// Takes a checker out of the table, unless there is something to watch again.
    fn forget(&self, checker: &Arc<Checker>) -> bool {
        let setup = checker.setup();
        let key = &setup.upstream.key;
        let mut checkers = self.table.checkers.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: a request for the checker of a later snapshot finds this one in the table, or makes one.
        if self.watched(key).is_some() {
            return false;
        }
        checkers.remove(key);
        true
    }

    /// Ends all probes.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }
}
