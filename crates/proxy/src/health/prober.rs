//! The task that probes one upstream's targets (`docs/spec/resources.md` §4.4).
//!
//! It follows the configuration and the instances of services, and ends with the upstream or its checks. Where the checks have
//! no probe that brings a target back, it lets the target have requests again after a while.

use super::Checkers;
use super::checker::Checker;
use super::probe::probe;
use super::state::Report;
use super::target::{Addresses, Setup, Target};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
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
    /// Since when it has had no requests.
    out_since: Option<Instant>,
}

/// A probe under way: what it was made by, at which target, and what it saw.
type Running = Pin<Box<dyn Future<Output = (Arc<Setup>, Arc<Target>, Option<Report>)> + Send>>;

/// A look-up of all names under way.
type Resolving = Pin<Box<dyn Future<Output = Addresses> + Send>>;

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
        let mut instances = self.checkers.discovery.changes();
        let mut resolving: Option<Resolving> = None;
        let mut resolve_at = Instant::now();
        loop {
            published.borrow_and_update();
            instances.borrow_and_update();
            if !self.follow() {
                return;
            }
            let rests = resolving.is_none() && self.checker.setup().names().next().is_some();
            if rests && resolve_at <= Instant::now() {
                resolving = Some(self.resolve());
                resolve_at = Instant::now() + RESOLVE_EVERY;
            }
            let dues = [self.try_again(), self.start_due(), rests.then_some(resolve_at)];
            let next = dues.into_iter().flatten().min();
            tokio::select! {
                Some((setup, target, seen)) = self.running.next(), if !self.running.is_empty() => {
                    self.finish(&setup, &target, seen);
                }
                found = resolved(&mut resolving) => {
                    resolving = None;
                    self.watch_at(found);
                }
                () = sleep_until(next) => {}
                () = self.checker.changed.notified() => {}
                _ = published.changed() => {}
                Ok(()) = instances.changed() => {}
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
            None => Due { target: target.clone(), since: now, running: false, out_since: None },
        };
        self.dues = setup.targets().iter().map(due).collect();
    }

    /// Lets targets have requests again whose time is over, and says when the next one's is.
    fn try_again(&mut self) -> Option<Instant> {
        let setup = self.checker.setup();
        let fail_timeout = setup.fail_timeout()?;
        let now = Instant::now();
        let mut next = None;
        for due in &mut self.dues {
            if due.target.condition().status.is_usable() {
                due.out_since = None;
                continue;
            }
            let at = *due.out_since.get_or_insert(now) + fail_timeout;
            if at <= now {
                due.out_since = None;
                self.checker.try_again(&setup, &due.target);
            } else {
                next = Some(earlier(next, at));
            }
        }
        next
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
                next = Some(earlier(next, at));
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

    /// Asks for the addresses of all names at once: probes do not wait for it.
    fn resolve(&self) -> Resolving {
        let (setup, resolver) = (self.checker.setup(), self.checkers.resolver.clone());
        Box::pin(async move {
            let one = async |name: &Arc<str>| {
                let mut found = resolver.resolve(name, Instant::now()).await.to_vec();
                found.sort_unstable();
                found.dedup();
                (name.clone(), found.into())
            };
            join_all(setup.names().map(one)).await.into_iter().collect()
        })
    }

    /// Watches the names' nodes at these addresses.
    fn watch_at(&mut self, found: Addresses) {
        if found != self.addresses {
            self.addresses = found;
            let setup = self.checker.setup();
            self.checker.set_up(setup.upstream.clone(), setup.checks.clone(), &self.addresses);
        }
    }
}

fn earlier(known: Option<Instant>, other: Instant) -> Instant {
    known.map_or(other, |known| known.min(other))
}

/// The addresses, once they are found; never if nobody asks.
async fn resolved(resolving: &mut Option<Resolving>) -> Addresses {
    match resolving {
        Some(resolving) => resolving.await,
        None => std::future::pending().await,
    }
}

/// Waits for a moment; for ever without one.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
