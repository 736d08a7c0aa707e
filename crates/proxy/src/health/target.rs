//! What is watched: the targets of an upstream (`docs/spec/resources.md` §4.3, §4.4).

use super::rules::Rules;
use super::state::{Condition, ConditionCell};
use milecastle_model::HealthChecks;
use milecastle_snapshot::{CompiledNode, CompiledUpstream, PassHost};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// An address of an upstream, and how it stands.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    /// `active.host`, or the address.
    pub(crate) hostname: Arc<str>,
    /// Host that probes ask for.
    pub(crate) probe_host: Arc<str>,
    pub(super) condition: ConditionCell,
}

impl Target {
    /// How it stands now.
    pub(crate) fn condition(&self) -> Condition {
        self.condition.load()
    }

    pub(super) fn is_usable(&self) -> bool {
        self.condition().status.is_usable()
    }
}

/// Addresses of the nodes that are named.
pub(super) type Addresses = HashMap<Arc<str>, Arc<[IpAddr]>>;

/// The targets of an upstream, and how they are judged, as of one version of it.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(super) upstream: Arc<CompiledUpstream>,
    pub(super) checks: Arc<HealthChecks>,
    pub(super) of_probes: Rules,
    pub(super) of_traffic: Rules,
    targets: Vec<Arc<Target>>,
    by_addr: HashMap<SocketAddr, Arc<Target>>,
    /// By host and port of the node.
    by_node: HashMap<(Arc<str>, u16), Vec<Arc<Target>>>,
}

impl Setup {
    /// The targets of `upstream`; those that were there before keep their state. A name without `addresses` has no target yet.
    pub(super) fn new(
        upstream: Arc<CompiledUpstream>,
        checks: Arc<HealthChecks>,
        addresses: &Addresses,
        previous: Option<&Self>,
    ) -> Self {
        let mut setup = Self {
            of_probes: Rules::of_probes(&checks.active),
            of_traffic: Rules::of_traffic(&checks.passive.clone().unwrap_or_default()),
            upstream: upstream.clone(),
            checks,
            targets: Vec::new(),
            by_addr: HashMap::new(),
            by_node: HashMap::new(),
        };
        for node in upstream.nodes.iter() {
            let named = addresses.get(&node.host).into_iter().flat_map(|found| found.iter().copied());
            let targets = node.addr.into_iter().chain(named).map(|ip| setup.target(node, ip, previous)).collect();
            setup.by_node.insert((node.host.clone(), node.port), targets);
        }
        setup
    }

    fn target(&mut self, node: &CompiledNode, ip: IpAddr, previous: Option<&Self>) -> Arc<Target> {
        let addr = self.watched(SocketAddr::new(ip, node.port));
        if let Some(shared) = self.by_addr.get(&addr) {
            return shared.clone();
        }
        let own = self.checks.active.host.as_deref();
        let hostname: Arc<str> = own.map_or_else(|| ip.to_string().into(), Into::into);
        let probe_host: Arc<str> = match (&self.upstream.pass_host, node.addr, own) {
            (PassHost::Rewrite(host), ..) => String::from_utf8_lossy(host.as_bytes()).into(),
            (_, None, _) => node.host.clone(),
            (_, Some(_), Some(own)) => own.into(),
            (_, Some(IpAddr::V6(ip)), None) => format!("[{ip}]").into(),
            (_, Some(IpAddr::V4(ip)), None) => ip.to_string().into(),
        };
        let before = previous.and_then(|previous| previous.by_addr.get(&addr)).filter(|old| old.hostname == hostname);
        let target = match before {
            Some(same) if same.probe_host == probe_host => same.clone(),
            before => {
                let condition = before.map(|old| old.condition()).unwrap_or_default();
                Arc::new(Target { addr, hostname, probe_host, condition: ConditionCell::new(condition) })
            }
        };
        self.by_addr.insert(addr, target.clone());
        self.targets.push(target.clone());
        target
    }

    /// The address that is watched for a node's: its own, unless the checks name a port.
    fn watched(&self, mut addr: SocketAddr) -> SocketAddr {
        if let Some(port) = self.checks.active.port {
            addr.set_port(port);
        }
        addr
    }

    /// All targets, in the order of the nodes.
    pub(crate) fn targets(&self) -> &[Arc<Target>] {
        &self.targets
    }

    /// The target for requests to this address.
    pub(super) fn target_of(&self, addr: SocketAddr) -> Option<&Arc<Target>> {
        self.by_addr.get(&self.watched(addr))
    }

    /// Whether a node can be chosen: one of its addresses is usable, or none is known.
    pub(super) fn is_usable(&self, node: &CompiledNode) -> bool {
        let targets = self.by_node.get(&(node.host.clone(), node.port));
        targets.is_none_or(|targets| targets.is_empty() || targets.iter().any(|target| target.is_usable()))
    }

    /// How long a target is without requests that traffic has taken out and no probe brings back; `None`: for ever.
    pub(super) fn fail_timeout(&self) -> Option<Duration> {
        let passive = self.checks.passive.as_ref()?;
        passive.unhealthy.fail_timeout.filter(|_| self.checks.active.unhealthy.interval.is_zero())
    }

    /// The nodes' names.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.upstream.nodes.iter().filter(|node| node.addr.is_none()).map(|node| &node.host)
    }
}
