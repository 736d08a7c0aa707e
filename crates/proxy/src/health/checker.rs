//! Watching one upstream: what is reported, and what balancers and operators read.

use super::state::{Condition, Report};
use super::target::{Addresses, Setup, Target};
use arc_swap::ArcSwap;
use milecastle_model::HealthChecks;
use milecastle_snapshot::{CompiledNode, CompiledUpstream};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// The health of one upstream's targets, for the whole process.
#[derive(Debug)]
pub(crate) struct Checker {
    setup: ArcSwap<Setup>,
    /// Changes when a target becomes usable or stops being so, or when targets come or go.
    version: AtomicU64,
    /// Wakes the prober, with each change of the version.
    pub(super) changed: Notify,
}

/// How a try failed that is followed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailedTry {
    Network,
    Timeout,
}

/// Where a report comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    Probes,
    Traffic,
}

impl Checker {
    pub(super) fn new(upstream: Arc<CompiledUpstream>, checks: Arc<HealthChecks>) -> Self {
        let setup = Setup::new(upstream, checks, &Addresses::new(), None);
        Self { setup: ArcSwap::from_pointee(setup), version: AtomicU64::new(0), changed: Notify::new() }
    }

    /// What is watched now, and by which rules.
    pub(crate) fn setup(&self) -> Arc<Setup> {
        self.setup.load_full()
    }

    /// Watches another version of the upstream, or other addresses of it. Only its prober calls this.
    pub(super) fn set_up(&self, upstream: Arc<CompiledUpstream>, checks: Arc<HealthChecks>, addresses: &Addresses) {
        let next = Setup::new(upstream, checks, addresses, Some(&self.setup.load()));
        self.setup.store(Arc::new(next));
        self.turn();
    }

    /// A number that changes with what [`Self::is_usable`] says.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether a node can be chosen.
    pub(crate) fn is_usable(&self, node: &CompiledNode) -> bool {
        self.setup.load().is_usable(node)
    }

    /// Whether an address of a node that has several should be used. What is not known is usable.
    pub(crate) fn is_usable_at(&self, ip: IpAddr, port: u16) -> bool {
        self.setup.load().target_of(SocketAddr::new(ip, port)).is_none_or(|target| target.is_usable())
    }

    /// The status that the client was answered with, after the node at `addr` was the last one used.
    pub(crate) fn end(&self, addr: SocketAddr, status: u16) {
        let setup = self.setup.load();
        if setup.checks.passive.is_none() {
            return;
        }
        if let (Some(target), Some(report)) = (setup.target_of(addr), setup.of_traffic.judge(status)) {
            self.report(&setup, target, report, Source::Traffic);
        }
    }

    /// A TCP or UDP session has ended without a connection, after the node at `addr` was the last one tried.
    pub(crate) fn session_failed(&self, addr: SocketAddr) {
        let setup = self.setup.load();
        if let Some(target) = setup.target_of(addr).filter(|_| setup.checks.passive.is_some()) {
            self.report(&setup, target, Report::TcpFailure, Source::Traffic);
        }
    }

    /// A try at the node at `addr` has failed, and another node is tried.
    pub(crate) fn retried(&self, addr: SocketAddr, failed: FailedTry) {
        let setup = self.setup.load();
        let report = match failed {
            FailedTry::Network => Report::TcpFailure,
            FailedTry::Timeout => Report::Timeout,
        };
        if let Some(target) = setup.target_of(addr) {
            self.report(&setup, target, report, Source::Traffic);
        }
    }

    /// A probe has seen this.
    pub(super) fn probed(&self, setup: &Setup, target: &Target, report: Report) {
        self.report(setup, target, report, Source::Probes);
    }

    /// A target has been without requests for as long as the checks say: it gets some again.
    pub(super) fn try_again(&self, setup: &Setup, target: &Target) {
        if target.condition.try_again() {
            self.turn();
            let upstream = &*setup.upstream.key;
            tracing::info!(upstream, target = %target.addr, "an unhealthy upstream node gets requests again, on trial");
        }
    }

    fn report(&self, setup: &Setup, target: &Target, report: Report, source: Source) {
        let rules = match source {
            Source::Probes => &setup.of_probes,
            Source::Traffic => &setup.of_traffic,
        };
        if let Some(now) = target.condition.report(report, rules.thresholds) {
            self.turn();
            announce(setup, target, now, source);
        }
    }

    fn turn(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
    }
}

/// Tells the operator that requests are sent to a target again, or no longer.
fn announce(setup: &Setup, target: &Target, now: Condition, source: Source) {
    let (upstream, addr) = (&*setup.upstream.key, target.addr);
    if now.status.is_usable() {
        tracing::info!(upstream, target = %addr, ?source, "an upstream node is healthy again");
        return;
    }
    let Condition { http_failure, tcp_failure, timeout_failure, .. } = now;
    tracing::warn!(
        upstream, target = %addr, ?source, http_failure, tcp_failure, timeout_failure,
        "an upstream node is unhealthy; it gets no requests while others are healthy"
    );
    if !setup.targets().iter().any(|target| target.is_usable()) {
        tracing::error!(upstream, "no node of this upstream is healthy: all of them get requests");
    }
}
