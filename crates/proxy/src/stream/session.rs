//! One session, and its end.

use crate::balance::Lease;
use crate::counters::ListenCounters;
use crate::lasting::{Ground, Kind, Lasting};
use crate::worker::{Pinned, Worker};
use milecastle_plugin_api::View;
use milecastle_plugin_api::stream::{StreamChain, StreamCx};
use milecastle_snapshot::{CompiledStreamRoute, SessionFacts, StreamOutcome};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Statuses of sessions, as logs and metrics show them.
pub(super) mod status {
    /// What the client sends is not what the listener expects: a PROXY header, a TLS handshake, what a plugin reads.
    pub(crate) const BAD_CLIENT: u16 = 400;
    /// There is no route.
    pub(crate) const NO_ROUTE: u16 = 403;
    /// Something of our own failed.
    pub(crate) const INTERNAL: u16 = 500;
    /// No node could be connected.
    pub(crate) const BAD_UPSTREAM: u16 = 502;
    /// There is no upstream, or no node in it.
    pub(crate) const NO_UPSTREAM: u16 = 503;
    /// Another connection was to have its place.
    pub(crate) const NO_ROOM: u16 = 503;
}

/// A session under way. Dropping it ends it: the log hooks run then, exactly once.
pub(super) struct Session {
    pub(super) cx: StreamCx,
    pub(super) worker: Rc<Worker>,
    /// The plugins of the route, once there is one.
    pub(super) chain: Option<Arc<StreamChain>>,
    /// The node that it is with, where the balancer or the health checks want to know.
    pub(super) lease: Option<Lease>,
    /// When the present try at a node began.
    pub(super) attempt_began: Instant,
    counters: Arc<ListenCounters>,
    /// Bytes that the counters have been told of.
    told: milecastle_plugin_api::stream::Traffic,
}

impl Session {
    pub(super) fn new(worker: Rc<Worker>, cx: StreamCx, counters: Arc<ListenCounters>) -> Self {
        worker.counters.stream_sessions.up();
        counters.active.up();
        let attempt_began = cx.timing.started;
        Self { cx, worker, chain: None, lease: None, attempt_began, counters, told: Default::default() }
    }

    /// The route of the session in a snapshot, if there is one that serves it; else the status says why not.
    pub(super) fn route(&mut self, pinned: &Pinned) -> Option<Arc<CompiledStreamRoute>> {
        let sni = self.cx.tls.as_ref().and_then(|tls| tls.sni.as_deref());
        let facts = SessionFacts { client: self.cx.client.ip(), local: self.cx.local, sni };
        let Some(route) = pinned.snapshot.stream_route(&facts) else {
            self.worker.counters.stream_unrouted.up();
            self.cx.status = status::NO_ROUTE;
            return None;
        };
        self.cx.route = Some(route.info.clone());
        self.chain = Some(route.chain.clone());
        match route.outcome {
            StreamOutcome::Serve => return Some(route.clone()),
            StreamOutcome::Close => self.cx.status = status::NO_UPSTREAM,
            StreamOutcome::Unspoken => {
                self.cx.status = status::INTERNAL;
                tracing::error!(
                    route = &*route.info.id,
                    "a stream route names a protocol, which this version does not speak: the session is closed; take \
                     `protocol` out of the route to pass its bytes as they are"
                );
            }
        }
        None
    }

    /// Watches a session that is with an upstream, where its policy may end it.
    pub(super) fn watch(&self, route: &CompiledStreamRoute) -> Option<Lasting> {
        let (worker, cx) = (&self.worker, &self.cx);
        let policy = cx.when_superseded.unwrap_or(worker.node.config.lasting.when_superseded);
        Lasting::watch(worker, Kind::Session, policy, cx.timing.started, || Ground::of_session(cx, route))
    }

    /// The upstream has said something, maybe not for the first time.
    pub(super) fn note_first_byte(&mut self) {
        if let Some(attempt) = self.cx.upstream.last_mut()
            && attempt.header.is_none()
        {
            attempt.header = Some(attempt.began.elapsed());
        }
    }

    /// Brings the listener's counters up to what the session has moved.
    pub(super) fn tell_traffic(&mut self) {
        let (now, told) = (self.cx.traffic, self.told);
        self.counters.received.add(now.received - told.received);
        self.counters.sent.add(now.sent - told.sent);
        self.counters.upstream_sent.add(now.upstream_sent - told.upstream_sent);
        self.counters.upstream_received.add(now.upstream_received - told.upstream_received);
        self.told = now;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let ended = Instant::now();
        self.cx.timing.ended = Some(ended);
        if std::thread::panicking() {
            self.cx.status = status::INTERNAL;
        }
        self.tell_traffic();
        self.counters.active.down();
        let connected = self.cx.upstream.last().filter(|attempt| attempt.answered).map(|attempt| attempt.connect);
        if let Some(attempt) = self.cx.upstream.last_mut().filter(|attempt| attempt.answered) {
            attempt.response = ended.saturating_duration_since(self.attempt_began);
            attempt.response_bytes = self.cx.traffic.upstream_received;
        }
        if let Some(lease) = self.lease.take() {
            lease.end_session(connected, ended);
        }
        // Metadata are those of now: a long session keeps no snapshot.
        let view: Rc<dyn View> = self.worker.pin();
        if let Some(chain) = self.chain.take() {
            chain.run_log(&mut self.cx, &view);
        }
        if let Some(on_end) = &self.worker.node.on_session_end {
            self.cx.seeing(&view, |cx| on_end.on_session_end(cx));
        }
    }
}
