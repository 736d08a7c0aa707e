//! Where nodes are reached.

use crate::h1::{Pool, PoolKey, Slot};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

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

/// Where the node at each place has been reached lately.
pub(super) struct Endpoints(RefCell<Vec<Vec<Rc<Endpoint>>>>);

impl Endpoints {
    /// Room for so many nodes.
    pub(super) fn new(nodes: usize) -> Self {
        Self(RefCell::new(vec![Vec::new(); nodes]))
    }

    /// Where the node at a place is reached: at `addr`, with the server name `tls` if TLS is spoken.
    pub(super) fn of(&self, place: usize, addr: SocketAddr, tls: Option<&str>, pool: &Pool) -> Rc<Endpoint> {
        let known = &mut self.0.borrow_mut()[place];
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
}
