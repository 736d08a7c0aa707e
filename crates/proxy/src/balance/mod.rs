//! Which node of an upstream gets the request (`docs/spec/upstream-balancing.md` §3, §4).
//!
//! A [`Balancer`] belongs to one worker and one upstream; it lives in the worker's table under the upstream's key, so that
//! changes elsewhere leave it alone. What it balances by is of the worker, and so needs no lock: the turn of round robin and
//! the counts of least connections (a worker has its own connections, and with them its own share of the load). Response times
//! are of the process, since a worker that sees few requests would know too little.
//!
//! Invariants:
//! - A node that was tried for a request is not picked for it again.
//! - A change of an upstream that leaves its nodes as they are leaves the state as it is; one that changes the nodes takes the
//!   counts and the averages of those that stay along.
//! - A pick allocates nothing, unless the key of a hash is put together from several variables.

mod chash;
mod endpoint;
mod ewma;
mod lease;
mod least_conn;
mod method;
mod round_robin;
#[cfg(test)]
mod tests;
mod tried;
mod watch;
mod weights;

pub(crate) use endpoint::Endpoint;
pub(crate) use ewma::Averages;
pub(crate) use lease::Lease;
pub(crate) use method::Parts;
pub(crate) use tried::Tried;

use crate::h1::Pool;
use crate::tls::Profile;
use endpoint::Endpoints;
use http::HeaderValue;
use method::Method;
use milecastle_matching::Lookup;
use milecastle_plugin_api::{NodeNames, PickedNode};
use milecastle_snapshot::{CompiledNode, CompiledUpstream, PassHost};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use watch::Watch;

/// What is known of one request's way through the nodes.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    pub(crate) tried: Tried,
    /// The hash of the request's key, once it was asked for.
    hash: Option<u32>,
}

/// State of one upstream on one worker.
pub(crate) struct Balancer {
    upstream: Arc<CompiledUpstream>,
    names: Rc<Names>,
    /// There is nothing to choose.
    single: bool,
    state: Rc<State>,
    watch: Option<Watch>,
}

/// What the nodes are called, for requests and sessions to hold to their end without holding this version of the upstream.
struct Names(Box<[Name]>);

/// What a node is called, and the Host header that the upstream names for it.
struct Name {
    host: Arc<str>,
    own_host: Option<HeaderValue>,
}

impl Names {
    fn of(upstream: &CompiledUpstream) -> Self {
        let own_host = |node: &CompiledNode| match &upstream.pass_host {
            PassHost::Node => Some(node.host_header.clone()),
            PassHost::Rewrite(host) => Some(host.clone()),
            PassHost::Pass => None,
        };
        Self(upstream.nodes.iter().map(|node| Name { host: node.host.clone(), own_host: own_host(node) }).collect())
    }
}

impl NodeNames for Names {
    fn host(&self, place: usize) -> &Arc<str> {
        &self.0[place].host
    }

    fn own_host(&self, place: usize) -> Option<&HeaderValue> {
        self.0[place].own_host.as_ref()
    }
}

/// What stays as long as the nodes do.
struct State {
    method: Method,
    endpoints: Endpoints,
}

impl Balancer {
    /// `previous` is that of an earlier version of the upstream.
    fn new(upstream: &Arc<CompiledUpstream>, previous: Option<&Balancer>, parts: Parts<'_>) -> Self {
        let same = previous.filter(|previous| previous.upstream.fingerprint == upstream.fingerprint);
        let state = same.map(|same| same.state.clone()).unwrap_or_else(|| {
            let method = Method::new(upstream, previous.map(|previous| &previous.state.method), &parts);
            Rc::new(State { method, endpoints: Endpoints::new(upstream.nodes.len()) })
        });
        let single = upstream.nodes.len() == 1 && !matches!(state.method, Method::Unknown);
        let names = Rc::new(Names::of(upstream));
        Self { upstream: upstream.clone(), names, single, state, watch: parts.checker.map(Watch::new) }
    }

    /// The place of the next node for a request, which counts as tried from now on; `None` when there is none left.
    pub(crate) fn pick(
        &self,
        selection: &mut Selection,
        request: &dyn Lookup,
        random: impl FnOnce() -> u64,
    ) -> Option<usize> {
        // Of a single node neither weight nor health counts.
        let place = if self.single {
            (!selection.tried.has(0)).then_some(0)?
        } else {
            let Selection { tried, hash } = selection;
            let method = &self.state.method;
            match &self.watch {
                None => method.pick(hash, request, random, |place| !tried.has(place))?,
                Some(watch) => {
                    watch.refresh(&self.upstream.nodes);
                    method.pick(hash, request, random, |place| !tried.has(place) && watch.admits(place))?
                }
            }
        };
        selection.tried.add(place);
        Some(place)
    }

    /// Takes the node at a place into use for a request, at `addr`.
    pub(crate) fn lease(&self, place: usize, addr: SocketAddr) -> Option<Lease> {
        let lease = self.state.method.lease(place);
        match &self.watch {
            None => lease,
            Some(watch) => Some(Lease { reporter: Some(watch.reporter(addr)), ..lease.unwrap_or_default() }),
        }
    }

    /// Whether nodes are picked although none of them is healthy.
    pub(crate) fn ignores_health(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_ignored)
    }

    /// One of the addresses of the node at a place, if there are any: of the healthy ones, if there are such.
    pub(crate) fn address(&self, place: usize, found: &[IpAddr], random: u64) -> Option<IpAddr> {
        let port = self.node(place).port;
        let good = |ip: &&IpAddr| self.watch.as_ref().is_none_or(|watch| watch.admits_address(**ip, port));
        let count = found.iter().filter(good).count();
        let draw = |count: usize| usize::try_from(random >> 32).unwrap_or_default().checked_rem(count);
        match draw(count) {
            Some(nth) => found.iter().filter(good).nth(nth).copied(),
            None => draw(found.len()).map(|at| found[at]),
        }
    }

    /// The node at a place.
    pub(crate) fn node(&self, place: usize) -> &CompiledNode {
        &self.upstream.nodes[place]
    }

    /// The same for a request to hold.
    pub(crate) fn picked(&self, place: usize) -> PickedNode {
        PickedNode { names: self.names.clone(), place }
    }

    /// Where the node at a place is reached: at `addr`, and with TLS under a name and by a profile, if it is spoken.
    pub(crate) fn endpoint(
        &self,
        place: usize,
        addr: SocketAddr,
        tls: Option<(&str, &Profile)>,
        pool: &Pool,
    ) -> Rc<Endpoint> {
        self.state.endpoints.of(place, addr, tls, pool)
    }
}

/// The balancers of a worker, by the upstreams' keys.
#[derive(Default)]
pub(crate) struct Balancers {
    by_key: RefCell<HashMap<Arc<str>, Rc<Balancer>, foldhash::fast::RandomState>>,
}

impl Balancers {
    /// The balancer of an upstream; a new one for a new version of it, with the same state if the nodes are the same.
    pub(crate) fn of<'p>(&self, upstream: &Arc<CompiledUpstream>, parts: impl FnOnce() -> Parts<'p>) -> Rc<Balancer> {
        let known = self.by_key.borrow().get(&upstream.key).cloned();
        match known {
            Some(known) if Arc::ptr_eq(&known.upstream, upstream) => known,
            known => {
                let new = Rc::new(Balancer::new(upstream, known.as_deref(), parts()));
                self.by_key.borrow_mut().insert(upstream.key.clone(), new.clone());
                new
            }
        }
    }

    /// Forgets the upstreams for which `lives` is false.
    pub(crate) fn retain(&self, mut lives: impl FnMut(&str) -> bool) {
        self.by_key.borrow_mut().retain(|key, _| lives(key));
    }
}
