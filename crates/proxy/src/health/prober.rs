//! The task that probes one upstream's targets (`docs/spec/resources.md` §4.4).
//!
//! It follows the configuration, and ends with the upstream or its checks.

use super::Checkers;
use super::checker::Checker;
use super::probe::probe;
use super::state::Report;
use super::target::{Addresses, Setup, Target};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often names of nodes are asked for again; the resolver remembers for how long its answers hold.
const RESOLVE_EVERY: Duration = Duration::from_secs(1);

/// When a target is due.
struct Due {
    target: Arc<Target>,
    /// When its last probe began; when it was first seen, before that.
    since: Instant,
    running: bool,
}

/// A probe under way: what it was made by, at which target, and what it saw.
type Running = Pin<Box<dyn Future<Output = (Arc<Setup>, Arc<Target>, Option<Report>)> + Send>>;

/// Probes on behalf of one checker.
pub(super) struct Prober {
    pub(super) checkers: Arc<Checkers>,
    pub(super) checker: Arc<Checker>,
    addresses: Addresses,
    dues: Vec<Due>,
    running: FuturesUnordered<Running>,
}

impl Prober {
    pub(super) fn new(checkers: Arc<Checkers>, checker: Arc<Checker>) -> Self {
        Self { checkers, checker, addresses: Addresses::new(), dues: Vec::new(), running: FuturesUnordered::new() }
    }

    /// Probes until the upstream is gone or `stopped` says so.
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut published = self.checkers.current.subscribe();
        let mut resolved = None;
        loop {
            published.borrow_and_update();
            if !self.follow() {
                return;
            }
            let names_due = self.names_due(resolved);
            if names_due.is_some_and(|due| due <= Instant::now()) {
                self.resolve().await;
                resolved = Some(Instant::now());
                continue;
            }
            let next = self.start_due().into_iter().chain(names_due).min();
            tokio::select! {
                Some((setup, target, seen)) = self.running.next(), if !self.running.is_empty() => {
                    self.finish(&setup, &target, seen);
                }
                () = sleep_until(next) => {}
                () = self.checker.changed.notified() => {}
                _ = published.changed() => {}
                _ = stopped.wait_for(|stopped| *stopped) => return,
            }
        }
    }

    /// Follows the snapshot in force; `false`: there is nothing to watch any more.
    fn follow(&mut self) -> bool {
        let setup = self.checker.setup();
        let (upstream, checks) = loop {
            match self.checkers.watched(&setup.upstream.key) {
                Some(watched) => break watched,
                None if self.checkers.forget(&self.checker) => return false,
                // It has come back just now.
                None => {}
            }
        };
        if !Arc::ptr_eq(&upstream, &setup.upstream) {
            self.checker.set_up(upstream, checks, &self.addresses);
        }
        self.schedule();
        true
    }

    /// Brings the list of dues up to what is watched.
    fn schedule(&mut self) {
        let setup = self.checker.setup();
        let same = self.dues.len() == setup.targets().len()
            && self.dues.iter().zip(setup.targets()).all(|(due, target)| Arc::ptr_eq(&due.target, target));
        if same {
            return;
        }
        let mut before = std::mem::take(&mut self.dues);
        let now = Instant::now();
        let due = |target: &Arc<Target>| match before.iter().position(|due| due.target.addr == target.addr) {
            Some(at) => Due { target: target.clone(), ..before.swap_remove(at) },
            None => Due { target: target.clone(), since: now, running: false },
        };
        self.dues = setup.targets().iter().map(due).collect();
    }

    /// Starts what is due, as far as there is room, and says when the next is. What waits for room is started when a probe
    /// ends.
    fn start_due(&mut self) -> Option<Instant> {
        let setup = self.checker.setup();
        let active = &setup.checks.active;
        let room = usize::try_from(active.concurrency).unwrap_or(usize::MAX);
        let now = Instant::now();
        let mut next = None;
        for due in self.dues.iter_mut().filter(|due| !due.running) {
            let usable = due.target.condition().status.is_usable();
            let interval = if usable { active.healthy.interval } else { active.unhealthy.interval };
            if interval.is_zero() {
                continue;
            }
            let at = due.since + interval;
            if at > now {
                next = Some(next.map_or(at, |known: Instant| known.min(at)));
            } else if self.running.len() < room {
                (due.since, due.running) = (now, true);
                let (checkers, setup, target) = (self.checkers.clone(), setup.clone(), due.target.clone());
                self.running.push(Box::pin(async move {
                    let seen = probe(&target, &setup.checks.active, &setup.of_probes, &checkers.tls).await;
                    (setup, target, seen)
                }));
            }
        }
        next
    }

    fn finish(&mut self, setup: &Setup, target: &Target, seen: Option<Report>) {
        // Whatever has taken its place meanwhile: it may be probed again.
        let Some(due) = self.dues.iter_mut().find(|due| due.target.addr == target.addr) else { return };
        due.running = false;
        if let Some(report) = seen {
            self.checker.probed(setup, &due.target, report);
        }
    }

    /// When names are to be asked for; `None` if there is none.
    fn names_due(&self, resolved: Option<Instant>) -> Option<Instant> {
        self.checker.setup().names().next()?;
        Some(resolved.map_or_else(Instant::now, |last| last + RESOLVE_EVERY))
    }

    /// Asks for the addresses of all names, and watches those.
    async fn resolve(&mut self) {
        let setup = self.checker.setup();
        let mut found = Addresses::new();
        for name in setup.names() {
            let mut addresses = self.checkers.resolver.resolve(name, Instant::now()).await.to_vec();
            addresses.sort_unstable();
            addresses.dedup();
            found.insert(name.clone(), addresses.into());
        }
        if found != self.addresses {
            self.addresses = found;
            self.checker.set_up(setup.upstream.clone(), setup.checks.clone(), &self.addresses);
        }
    }
}

/// Waits for a moment; for ever without one.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
