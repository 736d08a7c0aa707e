//! Which node of an upstream gets the request (`docs/spec/upstream-balancing.md` §3, §4).
//!
//! A [`Balancer`] belongs to one worker and to one version of an upstream's nodes; it lives in the worker's table under the
//! upstream's key, so that changes elsewhere leave it alone. Today there is one algorithm, round robin; the others come
//! behind the same [`Balancer::pick`].

mod round_robin;

use crate::h1::{Pool, PoolKey, Slot};
use milecastle_snapshot::{Algorithm, CompiledNode, CompiledUpstream};
use round_robin::RoundRobin;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Nodes that were tried for one request, by their place in the upstream's list.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    first: u64,
    /// Places from 64 on.
    more: Vec<usize>,
}

impl Tried {
    pub(crate) fn add(&mut self, place: usize) {
        match 1_u64.checked_shl(u32::try_from(place).unwrap_or(u32::MAX)) {
            Some(bit) => self.first |= bit,
            None => self.more.push(place),
        }
    }

    pub(crate) fn has(&self, place: usize) -> bool {
        match 1_u64.checked_shl(u32::try_from(place).unwrap_or(u32::MAX)) {
            Some(bit) => self.first & bit != 0,
            None => self.more.contains(&place),
        }
    }
}

/// State of one upstream on one worker.
pub(crate) struct Balancer {
    upstream: Arc<CompiledUpstream>,
    /// Highest priority first.
    tiers: RefCell<Vec<RoundRobin>>,
    /// Where the node at each place has been reached lately.
    endpoints: RefCell<Vec<Vec<Rc<Endpoint>>>>,
}

/// Where a node is reached.
pub(crate) struct Endpoint {
    pub(crate) addr: SocketAddr,
    /// The address as text.
    pub(crate) text: Arc<str>,
    /// Server name of the TLS connection; `None` without TLS.
    tls: Option<Arc<str>>,
    /// Its idle connections.
    pub(crate) slot: Rc<Slot>,
}

/// Endpoints remembered for each node: a name may have many addresses, a client's Host many values.
const MOST_ENDPOINTS: usize = 32;

impl Balancer {
    /// `seed` decides where the first scan starts.
    pub(crate) fn new(upstream: &Arc<CompiledUpstream>, seed: usize) -> Self {
        let nodes = &upstream.nodes;
        let mut priorities: Vec<i32> = nodes.iter().map(|node| node.priority).collect();
        priorities.sort_unstable_by(|a, b| b.cmp(a));
        priorities.dedup();
        let tier = |priority: i32| {
            let members = nodes.iter().enumerate().filter(|(_, node)| node.priority == priority);
            RoundRobin::new(members.map(|(place, node)| (place, node.weight)).collect(), seed)
        };
        Self {
            upstream: upstream.clone(),
            tiers: RefCell::new(priorities.into_iter().map(tier).collect()),
            endpoints: RefCell::new(vec![Vec::new(); nodes.len()]),
        }
    }

    /// The next node that was not tried, and its place; `None` when all have been.
    pub(crate) fn pick(&self, tried: &Tried) -> Option<usize> {
        // With a single node there is nothing to choose: neither weight nor health counts.
        if self.upstream.nodes.len() == 1 {
            return (!tried.has(0)).then_some(0);
        }
        self.tiers.borrow_mut().iter_mut().find_map(|tier| tier.pick(|place| !tried.has(place)))
    }

    /// The node at a place.
    pub(crate) fn node(&self, place: usize) -> &CompiledNode {
        &self.upstream.nodes[place]
    }

    /// Where the node at a place is reached: at `addr`, with the server name `tls` if TLS is spoken.
    pub(crate) fn endpoint(&self, place: usize, addr: SocketAddr, tls: Option<&str>, pool: &Pool) -> Rc<Endpoint> {
        let known = &mut self.endpoints.borrow_mut()[place];
        if let Some(found) = known.iter().find(|known| known.addr == addr && known.tls.as_deref() == tls) {
            return found.clone();
        }
        let tls: Option<Arc<str>> = tls.map(Into::into);
        let slot = pool.slot(&PoolKey { addr, tls: tls.clone() });
        let new = Rc::new(Endpoint { addr, text: addr.to_string().into(), tls, slot });
        if known.len() >= MOST_ENDPOINTS {
            known.clear();
        }
        known.push(new.clone());
        new
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
    pub(crate) fn of(&self, upstream: &Arc<CompiledUpstream>, seed: impl FnOnce() -> usize) -> Rc<Balancer> {
        if let Some(known) = self.by_key.borrow().get(&upstream.key)
            && known.fits(upstream)
        {
            return known.clone();
        }
        if upstream.algorithm != Algorithm::RoundRobin {
            tracing::error!(upstream = &*upstream.key, algorithm = ?upstream.algorithm, "this way of balancing is not available; requests are answered with 502");
        }
        let new = Rc::new(Balancer::new(upstream, seed()));
        self.by_key.borrow_mut().insert(upstream.key.clone(), new.clone());
        new
    }

    /// Forgets the upstreams for which `lives` is false.
    pub(crate) fn retain(&self, mut lives: impl FnMut(&str) -> bool) {
        self.by_key.borrow_mut().retain(|key, _| lives(key));
    }
}
