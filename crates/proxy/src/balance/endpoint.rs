//! Where nodes are reached.

use crate::h1::{Pool, PoolKey, Slot};
use crate::h2_client::{self, Lanes};
use crate::tls::{Profile, TlsTerms};
use std::cell::{OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Where a node is reached.
pub(crate) struct Endpoint {
    pub(crate) addr: SocketAddr,
    /// The address as text.
    pub(crate) text: Rc<str>,
    /// `None` without TLS.
    pub(crate) tls: Option<Arc<TlsTerms>>,
    /// Its idle connections, of HTTP/1.1.
    pub(crate) slot: Rc<Slot>,
    /// Its connections of HTTP/2, once they are asked for.
    lanes: OnceCell<Rc<Lanes>>,
}

impl Endpoint {
    /// Its connections of HTTP/2.
    pub(crate) fn lanes(&self, pool: &h2_client::Pool) -> &Rc<Lanes> {
        self.lanes.get_or_init(|| pool.lanes(PoolKey { addr: self.addr, tls: self.tls.clone() }))
    }
}

/// Endpoints remembered for each node: a name may have many addresses, a client's Host many values.
const MOST_ENDPOINTS: usize = 32;

/// Where the node at each place has been reached lately.
pub(super) struct Endpoints(RefCell<Vec<Vec<Rc<Endpoint>>>>);

impl Endpoints {
    /// Room for so many nodes.
    pub(super) fn new(nodes: usize) -> Self {
        Self(RefCell::new(vec![Vec::new(); nodes]))
    }

    /// Where the node at a place is reached: at `addr`, and with TLS under a name and by a profile, if it is spoken.
    pub(super) fn of(
        &self,
        place: usize,
        addr: SocketAddr,
        tls: Option<(&str, &Profile)>,
        pool: &Pool,
    ) -> Rc<Endpoint> {
        let known = &mut self.0.borrow_mut()[place];
        let wanted = |known: &&Rc<Endpoint>| {
            let own = known.tls.as_deref().map(|tls| (&*tls.name, &tls.profile));
            known.addr == addr && own == tls
        };
        if let Some(found) = known.iter().find(wanted) {
            return found.clone();
        }
        // What was opened by an earlier version of the upstream is not used again, its certificate least of all.
        known.retain(|known| known.tls.as_deref().map(|tls| &tls.profile) == tls.map(|(_, profile)| profile));
        let tls = tls.map(|(name, profile)| Arc::new(TlsTerms { name: name.into(), profile: profile.clone() }));
        let slot = pool.slot(&PoolKey { addr, tls: tls.clone() });
        let new = Rc::new(Endpoint { addr, text: addr.to_string().into(), tls, slot, lanes: OnceCell::new() });
        if known.len() >= MOST_ENDPOINTS {
            known.clear();
        }
        known.push(new.clone());
        new
    }
}
