//! One client connection, as its requests and its worker see it.

use super::io::Activity;
use super::{Tunnel, Worker};
use milecastle_plugin_api::ClientConn;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;
use tokio::sync::Notify;

/// One client connection.
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    pub(crate) facts: Rc<ClientConn>,
    pub(crate) activity: Rc<Activity>,
    pub(crate) believed: Believed,
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
    wakers: RefCell<HashMap<u64, Option<Waker>, foldhash::fast::RandomState>>,
    gone: Notify,
}

/// Takes the connection off the list when it is dropped.
pub(crate) struct Registered {
    worker: Rc<Worker>,
    serial: u64,
}

impl Registry {
    pub(crate) fn add(worker: &Rc<Worker>, serial: u64) -> Registered {
        worker.clients.wakers.borrow_mut().insert(serial, None);
        worker.counters.active.up();
        Registered { worker: worker.clone(), serial }
    }

    pub(crate) fn len(&self) -> usize {
        self.wakers.borrow().len()
    }

    /// Has every connection look at the stage again.
    pub(crate) fn wake_all(&self) {
        let wakers: Vec<Waker> = self.wakers.borrow().values().flatten().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
        self.gone.notify_waiters();
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

impl Registered {
    /// Leaves the waker of the connection's task.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        self.worker.clients.wakers.borrow_mut().insert(self.serial, Some(waker.clone()));
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.clients.wakers.borrow_mut().remove(&self.serial);
        self.worker.counters.active.down();
        self.worker.clients.gone.notify_waiters();
    }
}
