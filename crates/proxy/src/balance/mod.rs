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
mod weights;

pub(crate) use endpoint::Endpoint;
pub(crate) use ewma::Averages;
pub(crate) use lease::Lease;
pub(crate) use method::Parts;
pub(crate) use tried::Tried;

use crate::h1::Pool;
use endpoint::Endpoints;
use method::Method;
use milecastle_matching::Lookup;
use milecastle_snapshot::{CompiledNode, CompiledUpstream};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

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
    method: Method,
    endpoints: Endpoints,
}

impl Balancer {
    /// `previous` is the state before the nodes changed.
    fn new(upstream: &Arc<CompiledUpstream>, previous: Option<&Balancer>, parts: &Parts<'_>) -> Self {
        Self {
            method: Method::new(upstream, previous.map(|previous| &previous.method), parts),
            endpoints: Endpoints::new(upstream.nodes.len()),
            upstream: upstream.clone(),
        }
    }

    /// The place of the next node for a request, which counts as tried from now on; `None` when there is none left.
    pub(crate) fn pick(
        &self,
        selection: &mut Selection,
        request: &dyn Lookup,
        random: impl FnOnce() -> u64,
    ) -> Option<usize> {
        // With a single node there is nothing to choose: neither weight nor health counts.
        let place = if self.upstream.nodes.len() == 1 {
            (!selection.tried.has(0)).then_some(0)?
        } else {
            let Selection { tried, hash } = selection;
            self.method.pick(hash, request, random, |place| !tried.has(place))?
        };
        selection.tried.add(place);
        Some(place)
    }

    /// Takes the node at a place into use for a request.
    pub(crate) fn lease(&self, place: usize) -> Option<Lease> {
        self.method.lease(place)
    }

    /// The node at a place.
    pub(crate) fn node(&self, place: usize) -> &CompiledNode {
        &self.upstream.nodes[place]
    }

    /// Where the node at a place is reached: at `addr`, with the server name `tls` if TLS is spoken.
    pub(crate) fn endpoint(&self, place: usize, addr: SocketAddr, tls: Option<&str>, pool: &Pool) -> Rc<Endpoint> {
        self.endpoints.of(place, addr, tls, pool)
    }

    /// Whether this state still describes the upstream.
    fn fits(&self, upstream: &Arc<CompiledUpstream>) -> bool {
        Arc::ptr_eq(&self.upstream, upstream) || self.upstream.fingerprint == upstream.fingerprint
    }
}

/// The balancers of a worker, by the upstreams' keys.
#[derive(Default)]
pub(crate) struct Balancers {
    by_key: RefCell<HashMap<Arc<str>, Rc<Balancer>, foldhash::fast::RandomState>>,
}

impl Balancers {
    /// The balancer of an upstream; a new one if its nodes have changed.
    pub(crate) fn of<'p>(&self, upstream: &Arc<CompiledUpstream>, parts: impl FnOnce() -> Parts<'p>) -> Rc<Balancer> {
        let known = self.by_key.borrow().get(&upstream.key).cloned();
        match known {
            Some(known) if known.fits(upstream) => known,
            known => {
                let new = Rc::new(Balancer::new(upstream, known.as_deref(), &parts()));
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
