//! One client connection, as its requests and its worker see it.

use super::activity::{Activity, Phase, Signal};
use super::{Tunnel, Worker};
use crate::config::ClientLimits;
use crate::drain::Count;
use http::HeaderValue;
use milecastle_plugin_api::ClientConn;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;
use tokio::sync::Notify;

/// One client connection.
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    pub(crate) facts: Rc<ClientConn>,
    pub(crate) activity: Rc<Activity>,
    pub(crate) believed: Believed,
    /// What answers say of HTTP/3 on the same port.
    pub(crate) alternative: Option<HeaderValue>,
    /// Set by the request whose answer is 101: what follows is passed between client and upstream.
    pub(crate) tunnel: RefCell<Option<Tunnel>>,
    /// The host that was last found to agree with the connection's TLS, and the snapshot's number.
    pub(crate) checked_host: RefCell<Option<(u64, Box<str>)>>,
}

/// What a peer is believed to say about earlier proxies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Believed {
    /// The client's address, in the configured header.
    pub(crate) real_ip: bool,
    /// `X-Forwarded-*` and `Forwarded`.
    pub(crate) forwarded: bool,
}

/// The open client connections of a worker.
#[derive(Default)]
pub(crate) struct Registry {
    open: RefCell<HashMap<u64, Rc<Activity>, foldhash::fast::RandomState>>,
    gone: Notify,
}

/// Takes the connection off the list when it is dropped.
pub(crate) struct Registered {
    worker: Rc<Worker>,
    serial: u64,
}

impl Registry {
    pub(crate) fn add(worker: &Rc<Worker>, serial: u64, activity: &Rc<Activity>) -> Registered {
        worker.clients.open.borrow_mut().insert(serial, activity.clone());
        worker.counters.active.up();
        Registered { worker: worker.clone(), serial }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Tells every connection that the node is ending.
    pub(crate) fn drain(&self) {
        self.open.borrow().values().for_each(|activity| activity.send(Signal::Drain));
    }

    /// Looks at every connection; says how many are waiting for a request, and reading one. `leaving` is since when the node
    /// has been ending.
    pub(crate) fn look(&self, now: Instant, limits: &ClientLimits, leaving: Option<Instant>) -> (u64, u64) {
        let mut found = (0, 0);
        for activity in self.open.borrow().values() {
            match activity.look(now, limits, leaving) {
                Phase::Idle => found.0 += 1,
                Phase::Head => found.1 += 1,
                Phase::Busy | Phase::Blocked => {}
            }
        }
        found
    }

    /// Counts what there is.
    pub(crate) fn count(&self) -> Count {
        let mut count = Count::default();
        self.open.borrow().values().for_each(|activity| activity.count(&mut count));
        count
    }

    /// Waits until there is none.
    pub(crate) async fn emptied(&self) {
        while self.len() > 0 {
            self.gone.notified().await;
        }
    }

    /// Waits until one has ended.
    pub(crate) async fn shrunk(&self) {
        self.gone.notified().await;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.clients.open.borrow_mut().remove(&self.serial);
        self.worker.counters.active.down();
        self.worker.clients.gone.notify_waiters();
    }
}
