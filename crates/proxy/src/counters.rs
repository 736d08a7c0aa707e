//! What a node counts about its connections and requests.
//!
//! Every worker writes its own counters, so counting costs no more than an addition; readers sum over the workers.

use crate::health::UpstreamHealth;
use crate::node::TrafficFigures;
use crate::ocsp::Figures as OcspFigures;
use crate::route_traffic::{RouteCounter, RouteTraffic};
use milecastle_snapshot::Snapshot;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one worker. Only that worker writes.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct WorkerCounters {
            $(pub(crate) $name: Counter,)*
            /// How long upstreams took, from the beginning of a try to the end of its answer.
            pub(crate) upstream_times: Times,
            /// How long requests took, from their first byte to the end of their answer.
            pub(crate) request_times: Times,
        }

        /// Sums over the workers since the start of the process.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct Totals { $($(#[$doc])* pub $name: u64,)* }

        impl Totals {
            fn add(&mut self, worker: &WorkerCounters) { $(self.$name = self.$name.wrapping_add(worker.$name.get());)* }
        }
    };
}

counters! {
    /// Client connections accepted.
    accepted,
    /// Client connections whose handshake or first bytes were worth serving.
    handled,
    /// Client connections that are open.
    active,
    /// Client connections that wait for a request.
    waiting,
    /// Client connections that send a request's head.
    reading,
    /// Requests that wait for the head of an answer no more: it was made, or they ended without one.
    answers_begun,
    /// Requests whose head was read.
    requests,
    /// Requests in work.
    in_flight,
    /// Answers that switched protocols (101).
    responses_1xx,
    /// Answers of the 2xx class.
    responses_2xx,
    /// Answers of the 3xx class.
    responses_3xx,
    /// Answers of the 4xx class, and requests whose client left before there was one.
    responses_4xx,
    /// Answers of the 5xx class.
    responses_5xx,
    /// Answers of the 5xx class that came from an upstream.
    responses_5xx_upstream,
    /// TLS handshakes that failed.
    tls_failures,
    /// Those of them that took longer than `timeouts.tls_handshake`.
    tls_late,
    /// Client connections closed because a request's head came too slowly.
    slow_heads,
    /// Client connections ended because a request's head was malformed or too large.
    bad_heads,
    /// HTTP/2 client connections ended because of `limits.http2_cancels`.
    http2_cancels_cut,
    /// HTTP/2 client connections ended because of `limits.http2_control_frames`.
    http2_control_frames_cut,
    /// HTTP/2 client connections ended for too many resets, empty DATA or CONTINUATION frames, or a huge head.
    http2_excess,
    /// Answers over HTTP/2 given up because the client opened no window for them.
    http2_stuck_streams,
    /// Streams of HTTP/2 refused because of `limits.http2_streams`.
    http2_streams_refused,
    /// HTTP/2 client connections ended because of `timeouts.http2_ping`.
    http2_silent,
    /// Handshakes of QUIC that were answered with a Retry because of `limits.http3_handshakes` or `limits.connections`.
    http3_retries,
    /// QUIC connections refused because of `limits.connections`.
    http3_refused,
    /// HTTP/3 client connections ended because of `limits.http3_cancels`.
    http3_cancels_cut,
    /// HTTP/3 client connections ended because of `limits.http3_control_frames`.
    http3_control_frames_cut,
    /// Answers over HTTP/3 given up because the client took nothing of them.
    http3_stuck_streams,
    /// HTTP/3 client connections given up because of `timeouts.http3_silence`.
    http3_silent,
    /// Requests over HTTP/3 refused because other bodies took all of `limits.http3_connection_window`.
    http3_bodies_refused,
    /// Client connections of HTTP/1 and HTTP/2 closed because nothing was taken of what was sent for `nginx_config.http.send_timeout`.
    stuck_answers,
    /// Bodies of requests given up because of `nginx_config.http.client_body_timeout`.
    slow_bodies,
    /// Bodies of requests refused because of `nginx_config.http.client_max_body_size`.
    large_bodies,
    /// Bodies of requests of which the conditions of routes saw a part only, because of `limits.matched_body`.
    matched_bodies_cut,
    /// Client connections cut because the client went on sending behind its answer for too long or too much.
    lingering_cut,
    /// Connections opened to upstreams.
    upstream_connects,
    /// Connections to upstreams that failed to open.
    upstream_connect_failures,
    /// Client connections that had to wait for room because of `limits.connections`.
    connections_held,
    /// Client connections that waited for their client and were ended so that others find room, because of `limits.connections` or
    /// for want of files or memory.
    connections_evicted,
    /// Pipes that exist.
    pipes,
    /// Answers that were copied because all pipes were in use.
    pipes_short,
    /// Requests sent on a kept upstream connection.
    pool_hits,
    /// Kept upstream connections that did not take a request any more when they were used.
    pool_stale,
    /// Requests for which no HTTP/2 connection to an upstream had room in time.
    http2_no_room,
    /// HTTP/2 connections to upstreams closed because of `timeouts.upstream_http2_ping`.
    upstream_http2_silent,
    /// Idle connections to upstreams closed because of `upstream_pool.idle_connections`.
    idle_connections_cut,
    /// Idle connections to upstreams closed for want of files or memory for another connection.
    idle_connections_given_up,
    /// Tries that failed because the head of the answer was longer than `limits.upstream_header_bytes`.
    upstream_heads_too_long,
    /// Tries that failed because the head of the answer had more fields than `limits.upstream_header_count`.
    upstream_heads_too_many_fields,
    /// Tries at a further node after a failure.
    retries,
    /// Requests that were not sent to a further node because of `limits.retry_body`.
    retry_bodies_cut,
    /// Hash rings that have fewer points than the weights ask for, each time that one is made.
    hash_rings_cut,
    /// Picks of a node of an upstream none of whose nodes is healthy.
    health_ignored,
    /// Requests whose handling panicked outside any plugin.
    request_panics,
    /// TCP and UDP sessions begun.
    stream_sessions,
    /// TCP and UDP sessions closed because no stream route takes them.
    stream_unrouted,
    /// TCP sessions closed because a plugin would have had to see more of them than it may.
    stream_preread_cut,
    /// TCP sessions closed because of `timeouts.stream_preread`.
    stream_preread_late,
    /// Connections closed because the PROXY header that they have to begin with was malformed or missing.
    bad_proxy_headers,
    /// Client connections that have switched from HTTP to another protocol, and are open.
    tunnels,
    /// WebSockets ended because what they were opened under holds no longer.
    superseded_websockets,
    /// Tunnels of other protocols ended because what they were opened under holds no longer.
    superseded_tunnels,
    /// Lasting answers ended because what they were asked for under holds no longer.
    superseded_answers,
    /// TCP and UDP sessions ended because what they were opened under holds no longer.
    superseded_sessions,
    /// UDP sessions that are open.
    udp_sessions,
    /// Datagrams dropped because there were as many UDP sessions as there may be.
    udp_sessions_refused,
    /// Datagrams dropped because too many waited while their session was being opened, or a socket took no more.
    udp_datagrams_dropped,
}

/// Upper bounds of [`Times`], in milliseconds.
pub(crate) const TIME_BOUNDS: [u64; 15] = milecastle_wire::TIME_BOUNDS_MS;

/// Counts of times by their length. Only one thread writes.
#[derive(Debug, Default)]
pub(crate) struct Times {
    buckets: [Counter; TIME_BOUNDS.len() + 1],
    micros: Counter,
}

impl Times {
    /// Counts one; gives the place of its bound.
    pub(crate) fn count(&self, time: Duration) -> usize {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let place = TIME_BOUNDS.partition_point(|bound| bound * 1000 < micros);
        self.buckets[place].up();
        self.micros.add(micros);
        place
    }
}

/// Sums of [`Times`].
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct TimeTotals {
    /// Times for each bound, not cumulated, and those above all bounds.
    pub(crate) counts: [u64; TIME_BOUNDS.len() + 1],
    /// All of them together.
    pub(crate) sum: Duration,
}

/// What one worker counts for one listener of TCP or UDP sessions. Only that worker writes.
#[derive(Debug, Default)]
pub(crate) struct ListenCounters {
    pub(crate) active: Counter,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    pub(crate) upstream_sent: Counter,
    pub(crate) upstream_received: Counter,
}

/// The counters of a listener of TCP or UDP sessions, one for each worker.
#[derive(Debug)]
pub(crate) struct StreamListener {
    addr: SocketAddr,
    workers: Vec<Arc<ListenCounters>>,
}

impl StreamListener {
    /// Those of one worker.
    pub(crate) fn of(&self, worker: usize) -> Arc<ListenCounters> {
        self.workers[worker].clone()
    }
}

/// Sums over the workers for one listener of TCP or UDP sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamTotals {
    /// The address that is listened on.
    pub listen: SocketAddr,
    /// Sessions that are open.
    pub active: u64,
    /// Bytes from clients.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// Bytes to upstreams.
    pub upstream_sent: u64,
    /// Bytes from upstreams.
    pub upstream_received: u64,
}

/// A number that one thread changes and any may read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds one. Not atomic as a whole: there is one writer.
    pub(crate) fn up(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Adds several.
    pub(crate) fn add(&self, number: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(number), Ordering::Relaxed);
    }

    /// Takes one away.
    pub(crate) fn down(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    /// Puts a number that was counted elsewhere.
    pub(crate) fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    /// The number.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of a node.
#[derive(Debug, Default)]
pub struct Counters {
    workers: Vec<Arc<WorkerCounters>>,
    panics: RwLock<BTreeMap<&'static str, u64>>,
    streams: RwLock<Vec<Arc<StreamListener>>>,
    ocsp: Arc<OcspFigures>,
    forgotten_sessions: Arc<AtomicU64>,
    routes: RouteTraffic,
}

impl Counters {
    /// Counters of a node with so many workers ([`crate::GatewayConfig::workers`]). They are there before the workers, for
    /// those who read them are.
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            panics: RwLock::default(),
            streams: RwLock::default(),
            ocsp: Arc::default(),
            forgotten_sessions: Arc::default(),
            routes: RouteTraffic::new(workers),
        }
    }

    pub(crate) fn worker(&self, index: usize) -> Arc<WorkerCounters> {
        self.workers[index].clone()
    }

    /// What a worker counts requests of routes by.
    pub(crate) fn routes(&self, worker: usize) -> RouteCounter {
        self.routes.worker(worker)
    }

    /// Counters for a listener of TCP or UDP sessions.
    pub(crate) fn stream_listener(&self, addr: SocketAddr) -> Arc<StreamListener> {
        let workers = self.workers.iter().map(|_| Arc::default()).collect();
        let listener = Arc::new(StreamListener { addr, workers });
        self.streams.write().unwrap_or_else(PoisonError::into_inner).push(listener.clone());
        listener
    }

    /// Sums over the workers for each address that TCP or UDP sessions are taken on; one that serves both is one.
    pub fn streams(&self) -> Vec<StreamTotals> {
        let mut sums: BTreeMap<SocketAddr, StreamTotals> = BTreeMap::new();
        for listener in self.streams.read().unwrap_or_else(PoisonError::into_inner).iter() {
            let listen = listener.addr;
            let sum = sums.entry(listen).or_insert(StreamTotals {
                listen,
                active: 0,
                received: 0,
                sent: 0,
                upstream_sent: 0,
                upstream_received: 0,
            });
            for worker in &listener.workers {
                sum.active += worker.active.get();
                sum.received += worker.received.get();
                sum.sent += worker.sent.get();
                sum.upstream_sent += worker.upstream_sent.get();
                sum.upstream_received += worker.upstream_received.get();
            }
        }
        sums.into_values().collect()
    }

    /// Sums over the workers.
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        self.workers.iter().for_each(|worker| sum.add(worker));
        sum
    }

    /// How long upstreams took, over all workers.
    pub(crate) fn upstream_times(&self) -> TimeTotals {
        self.times(|worker| &worker.upstream_times)
    }

    fn times(&self, of: impl Fn(&WorkerCounters) -> &Times) -> TimeTotals {
        let mut sums = TimeTotals::default();
        for times in self.workers.iter().map(|worker| of(worker)) {
            sums.counts.iter_mut().zip(&times.buckets).for_each(|(sum, bucket)| *sum += bucket.get());
            sums.sum += Duration::from_micros(times.micros.get());
        }
        sums
    }

    /// The figures of each worker.
    pub fn by_worker(&self) -> impl Iterator<Item = Totals> {
        self.workers.iter().map(|worker| {
            let mut own = Totals::default();
            own.add(worker);
            own
        })
    }

    /// Reads what the node reports to the control plane, with `most_routes` at most told by themselves. `snapshot` is the one in
    /// force.
    pub fn figures<S: Fn() -> Option<Arc<Snapshot>> + Send + Sync>(
        self: &Arc<Self>,
        upstream_health: Arc<UpstreamHealth>,
        snapshot: S,
        most_routes: u32,
    ) -> impl Fn() -> TrafficFigures + Send + Sync + use<S> {
        let counters = self.clone();
        move || {
            let totals = counters.totals();
            let Totals { responses_1xx, responses_2xx, responses_3xx, responses_4xx, responses_5xx, .. } = totals;
            TrafficFigures {
                requests: totals.requests,
                // Workers go on while they are read.
                requests_waiting: totals.requests.saturating_sub(totals.answers_begun),
                responses: [responses_1xx, responses_2xx, responses_3xx, responses_4xx, responses_5xx],
                responses_5xx_upstream: totals.responses_5xx_upstream,
                request_times: counters.times(|worker| &worker.request_times).counts,
                connections: totals.active,
                upstreams: upstream_health.figures(),
                routes: (most_routes > 0)
                    .then(|| counters.routes.news(most_routes as usize, snapshot().as_deref(), &upstream_health)),
            }
        }
    }

    /// What is counted of OCSP responses.
    pub(crate) fn ocsp(&self) -> &Arc<OcspFigures> {
        &self.ocsp
    }

    /// TLS sessions of clients that were forgotten before their time.
    pub(crate) fn forgotten_sessions(&self) -> &Arc<AtomicU64> {
        &self.forgotten_sessions
    }

    /// Panics of hooks by the plugin's name.
    pub fn panics(&self) -> BTreeMap<&'static str, u64> {
        self.panics.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn hook_panicked(&self, plugin: &'static str) {
        *self.panics.write().unwrap_or_else(PoisonError::into_inner).entry(plugin).or_default() += 1;
    }
}
