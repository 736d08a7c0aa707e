//! Sessions without sockets.

use super::FakeView;
use crate::stream::{Preread, StreamChain, StreamCx, Transport};
use crate::{Built, RouteInfo, View};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// A stream route, and the sessions that it takes.
pub struct Sessions {
    chain: Arc<StreamChain>,
    info: Arc<RouteInfo>,
    view: Rc<dyn View>,
}

/// A session that has begun; its log hooks run when it is ended.
pub struct Session {
    /// The session as plugins see it.
    pub cx: StreamCx,
    chain: Arc<StreamChain>,
    view: Rc<dyn View>,
}

impl Sessions {
    pub(super) fn new(plugins: Vec<Built>, info: RouteInfo, view: FakeView) -> Self {
        Self { chain: Arc::new(StreamChain::new(plugins)), info: Arc::new(info), view: Rc::new(view) }
    }

    /// A session of a client that has said nothing yet, and how far `preread` lets it come.
    pub fn begin(&self, client: &str) -> (Session, Preread) {
        self.begin_with(client, b"")
    }

    /// A session of a client that has begun with these bytes.
    ///
    /// # Panics
    /// If `client` is no address.
    pub fn begin_with(&self, client: &str, first: &[u8]) -> (Session, Preread) {
        let client = SocketAddr::new(client.parse().expect("an address"), 40_000);
        let mut cx = StreamCx::new(Transport::Tcp, client, (Ipv4Addr::LOCALHOST, 9100).into(), 1);
        cx.route = Some(self.info.clone());
        cx.first.extend_from_slice(first);
        let passed = self.chain.run_preread(&mut cx, &self.view, 0);
        (Session { cx, chain: self.chain.clone(), view: self.view.clone() }, passed)
    }
}

impl Session {
    /// Ends the session.
    pub fn end(mut self) {
        self.chain.run_log(&mut self.cx, &self.view);
    }
}
