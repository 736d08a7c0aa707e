//! Our own keys of the gateway's file: caps, time limits, the end of the process, and how upstreams are reached.

use milecastle_model::VerifyUpstreams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Size, Time};

/// Caps. Where one refuses, drops or cuts something, a metric counts it: one of its own, or `limit_hits_total` with the key as
/// the label. Windows, buffers and what else only makes a peer wait is not counted (`docs/hardening.md`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Limits {
    /// Client connections on this node, TCP sessions among them. One more takes the place of one of those that have waited for a request,
    /// for the rest of its head, or for the first bytes of a session's client, for longest (`connections_evicted_total`). While none has
    /// for `timeouts.connection_place`, it waits (`connections_held_total`), and others behind it in the listening socket's queue. 0
    /// goes by the files that the process may have open (`LimitNOFILE`; the soft limit is raised to the hard one at start): a
    /// quarter of them, at most 1,024, is for files and other sockets, and half of the rest, for a connection may need another one to an
    /// upstream. UDP sessions (`udp_sessions`, a file each) and pipes (`pipes`, two files each) have no part of their own in this: where
    /// there are many of them, raise `LimitNOFILE` by as much, or set a lower number here. A number that is higher than that is no limit
    /// in fact; where no file is left, idle connections to upstreams are closed (`upstream_pool_given_up_total`), and clients'
    /// connections make room all the same.
    #[schemars(extend("x-unit" = "connections"))]
    pub connections: u32,
    /// Head of a request, beyond which the answer is 431.
    pub header_bytes: Size,
    /// Header fields of a request, beyond which the answer is 431.
    #[schemars(range(min = 10, max = 10_000), extend("x-unit" = "fields"))]
    pub header_count: u32,
    /// Head of an upstream's response, beyond which the answer is 502.
    pub upstream_header_bytes: Size,
    /// Header fields of an upstream's response, beyond which the answer is 502.
    #[schemars(range(min = 10, max = 10_000), extend("x-unit" = "fields"))]
    pub upstream_header_count: u32,
    /// Request body that is kept so that the request can be sent again to another upstream node; a larger one is not retried. Nor
    /// does a request with a larger one change to a protocol that the plugin `upgrade` allows, unless a plugin or the conditions of
    /// routes (`matched_body`) have read it whole; one that they have read in part does not, whatever its length.
    pub retry_body: Size,
    /// What of a request's body is read, and held, for the conditions of routes on it (`post_arg`, `graphql`), before any plugin looks
    /// at the request; a longer body counts for them as none. There is no number for no limit but one that no body reaches.
    pub matched_body: Size,
    /// Pipes of a worker, through which large answers pass from plain upstream connections to plain HTTP/1 clients without being
    /// copied; each takes two file descriptors while it exists. A worker keeps those that it has made. `0` copies all answers.
    #[schemars(extend("x-unit" = "pipes"))]
    pub pipes: u32,
    /// Points on the ring of a consistent hash, for each worker and upstream; a node has 160 for each unit of its weight.
    /// Weights that ask for more get fewer points, in proportion: then shares are less exact, and keys fall elsewhere.
    #[schemars(range(min = 10_000, max = 100_000_000), extend("x-unit" = "points"))]
    pub hash_ring_points: u32,
    /// Concurrent streams on one HTTP/2 client connection.
    #[schemars(range(min = 1, max = 100_000), extend("x-unit" = "streams"))]
    pub http2_streams: u32,
    /// Streams of one HTTP/2 client connection that the client may have reset before their requests were looked at, and streams
    /// that the gateway had to reset because the client broke the protocol; more of either ends the connection.
    #[schemars(range(min = 1), extend("x-unit" = "streams"))]
    pub http2_pending_resets: u32,
    /// Requests in a second that the client of one HTTP/2 connection may cancel before they are answered, beyond as many as it
    /// lets be answered; more ends the connection (`ENHANCE_YOUR_CALM`).
    #[schemars(range(min = 1), extend("x-unit" = "requests"))]
    pub http2_cancels: u32,
    /// Frames in a second that carry nothing of a request (`PING`, `SETTINGS`, `WINDOW_UPDATE`, `PRIORITY`, `RST_STREAM`, unknown
    /// and empty ones) on one HTTP/2 client connection, beyond 4 for each piece of an answer and 1 for each KiB of it; more ends
    /// the connection (`ENHANCE_YOUR_CALM`).
    #[schemars(range(min = 1), extend("x-unit" = "frames"))]
    pub http2_control_frames: u32,
    /// `DATA` frames that carry nothing and end nothing, over the life of one HTTP/2 client connection; more ends it
    /// (`ENHANCE_YOUR_CALM`).
    #[schemars(range(min = 1), extend("x-unit" = "frames"))]
    pub http2_empty_data: u32,
    /// What may be laid out to be sent on an HTTP/2 client connection before answers wait; beside it each answer holds the piece that
    /// it has last read of its upstream. Once twice as much is left, nothing more is read from the client.
    pub http2_send_buffer: Size,
    /// What a client may send of one request's body over HTTP/2 before that is read, at least 64k. Each stream has so much for itself: a
    /// body that nobody reads holds up no other one.
    pub http2_stream_window: Size,
    /// By what windows of one HTTP/2 client connection may grow beyond that, together: a long way to the client makes no upload slow.
    pub http2_shared_window: Size,
    /// Concurrent streams on one HTTP/3 client connection.
    #[schemars(range(min = 1, max = 100_000), extend("x-unit" = "streams"))]
    pub http3_streams: u32,
    /// QUIC handshakes under way on this node from which on clients have to prove their address first (Retry), which costs them a
    /// round trip; 0 asks every client to. They have to as well where `limits.connections` is reached.
    #[schemars(extend("x-unit" = "handshakes"))]
    pub http3_handshakes: u32,
    /// Requests in a second that the client of one HTTP/3 connection may cancel before they are answered, beyond as many as it
    /// lets be answered; more ends the connection (`H3_EXCESSIVE_LOAD`).
    #[schemars(range(min = 1), extend("x-unit" = "requests"))]
    pub http3_cancels: u32,
    /// Frames in a second beside the requests (on the control stream, or streams of unknown types) on one HTTP/3 client
    /// connection, beyond 4 for each request; more ends the connection (`H3_EXCESSIVE_LOAD`).
    #[schemars(range(min = 1), extend("x-unit" = "frames"))]
    pub http3_control_frames: u32,
    /// What a client may send on one HTTP/3 stream before that is read, 16k to 1g. A longer way to the client needs more for a fast
    /// upload.
    pub http3_stream_window: Size,
    /// What a client may send on all streams of one HTTP/3 connection before that is read, from four times `http3_stream_window` to 16g.
    /// Seven eighths of it, but for one stream's window, are shared out to the bodies of requests, to each what it has announced, at most
    /// `http3_stream_window`: a body that nobody reads holds up no other one. A request whose body finds too little left is refused
    /// (`H3_REQUEST_REJECTED`); its client may send it again, on another connection or once other bodies have been read.
    pub http3_connection_window: Size,
    /// What of the answers of one HTTP/3 client connection may be on its way, or wait to be sent, before its client has acknowledged it,
    /// 16k to 1g.
    pub http3_send_buffer: Size,
    /// Concurrent requests on one HTTP/2 connection to an upstream, if the upstream allows as many.
    #[schemars(range(min = 1, max = 100_000), extend("x-unit" = "streams"))]
    pub upstream_http2_streams: u32,
    /// HTTP/2 connections of one worker to one address of an upstream. Beyond them requests wait for room, for as long as
    /// `timeout.connect` of the upstream says; then the answer is 504.
    #[schemars(range(min = 1, max = 100_000), extend("x-unit" = "connections"))]
    pub upstream_http2_connections: u32,
    /// What an upstream may send ahead of one HTTP/2 answer before the client has taken it. A connection has room for so much
    /// of each of its streams, so that a client that does not read holds up nobody else.
    pub upstream_http2_window: Size,
    /// What of one request's body may wait to be sent on an HTTP/2 connection to an upstream.
    pub upstream_http2_send_buffer: Size,
    /// What a client that was answered before it had sent everything may still send: so much is read and dropped, so that
    /// the client gets to read its answer; then the connection is cut.
    pub lingering_bytes: Size,
    /// UDP sessions on this node, beyond which datagrams of new clients are dropped and counted.
    #[schemars(range(min = 1), extend("x-unit" = "sessions"))]
    pub udp_sessions: u32,
    /// Datagrams of one UDP client that wait while its session is being opened; further ones are dropped and counted.
    #[schemars(range(min = 1, max = 1024), extend("x-unit" = "datagrams"))]
    pub udp_pending: u32,
    /// What a TCP client may send before its session is passed on, where a plugin looks at it; more closes the session.
    pub stream_preread: Size,
    /// Connections of each listener beside the traffic (status, control API, Prometheus page). One more takes the place of the one
    /// of which nothing was heard for longest.
    #[schemars(range(min = 1), extend("x-unit" = "connections"))]
    pub side_connections: u32,
    /// Head of a request to one of them, at least 8k, beyond which the answer is 431.
    pub side_header_bytes: Size,
    /// Answers of the control API that are made at a time; further requests wait. Each takes a thread, of about a MiB.
    #[schemars(range(min = 1), extend("x-unit" = "answers"))]
    pub control_answers: u32,
    /// Answer of a server that log entries, spans and metrics are sent to; of a longer one nothing is looked at but its status, and
    /// its connection is closed.
    pub export_answer: Size,
    /// Access log lines that wait to be written, over all workers; further ones are dropped and counted.
    #[schemars(range(min = 1), extend("x-unit" = "lines"))]
    pub pending_log_entries: u32,
}

/// Time limits that no resource sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Timeouts {
    /// How long the system keeps a new connection to an HTTP port to itself while its client says nothing (`TCP_DEFER_ACCEPT`): until
    /// then it costs nothing, and is not counted. In whole seconds; the system lets it in as soon as it has repeated its part of the
    /// handshake in that time (after 1 s, 3 s, 7 s and so on). 0: connections are accepted at once.
    pub deferred_accept: Time,
    /// How long a client may take for its TLS handshake.
    pub tls_handshake: Time,
    /// How long a client connection that waits for a request keeps its place among `limits.connections`, from its beginning or its last
    /// answer on, while others have none; a TCP session whose client has said nothing, since that has been waited for or bytes have
    /// passed last.
    pub connection_place: Time,
    /// How long a peer may take to send the PROXY protocol's header where it is expected.
    pub proxy_protocol: Time,
    /// How long a TCP client may take to send what a plugin looks at before its session is passed on.
    pub stream_preread: Time,
    /// How long a client of a listener beside the traffic may take for the head of a request, an idle connection's next one
    /// included.
    pub side_header: Time,
    /// How long a connection of such a listener keeps its place after something was heard of it, if only that it came.
    pub side_place: Time,
    /// How long an HTTP/2 client may leave a ping unanswered before its connection is closed.
    pub http2_ping: Time,
    /// How long nothing may be heard of an HTTP/3 client before its connection is given up. It is asked for a sign of life three
    /// times as often; one that lives gives it, however long its request takes.
    pub http3_silence: Time,
    /// How often an upstream is asked for a sign of life on an HTTP/2 connection with requests in work, and how long it has to
    /// give one before the connection is closed; 0 is never. Many gRPC servers end connections that ask more often than every
    /// 5 minutes.
    pub upstream_http2_ping: Time,
    /// How long a client that was answered before it had sent everything may go on sending what is dropped.
    pub lingering_time: Time,
    /// How long such a client may be silent.
    pub lingering_timeout: Time,
}

/// How the process ends after SIGTERM: `/status` answers 503 while traffic is served as before for `grace`; then every answer
/// ends its connection, and for `last_call` what clients had under way is still taken; after `drain` what is left is cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Shutdown {
    /// How long a load balancer has to notice that `/status` says 503; traffic is served as before.
    pub grace: Time,
    /// How long, after `grace`, handshakes under way may still complete, and how long a connection without a request in work
    /// may still send one. Longer than a round trip to the farthest client, and than the pauses of busy kept connections.
    pub last_call: Time,
    /// How long, after `grace`, requests in flight may take to end.
    pub drain: Time,
    /// How long WebSockets that are left then may take for their good-bye: both sides are sent a close frame (1001, going away).
    /// Tunnels of other protocols are ended on both sides in that time.
    pub farewell: Time,
    /// How long, after the last request, log entries, spans and metrics that wait may take to be delivered.
    pub export: Time,
}

/// How another process takes the place of this one: it is handed the listening sockets, and this one ends with its connections
/// (`docs/upgrading.md`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Upgrade {
    /// How long the other process may take until it could serve; after that it is refused, and this one serves on. Meanwhile no
    /// change of the configuration is taken.
    pub ready_timeout: Time,
    /// How long a process that connects to the socket in `state.dir` may take to say whether it wants to take over or to ask.
    pub first_word: Time,
    /// Shortest time between two counts of what is open, for `/v1/drain` and those who ask through that socket: workers count for
    /// all of them together.
    pub count_interval: Time,
    /// How often the process that was replaced looks for what the other one has put in force, for the connections that it still
    /// has.
    pub follow_interval: Time,
    /// How long connections of the process that was replaced may go on: tunnels, sessions, streams and large bodies. After that
    /// what is left is cut. SIGTERM shortens it to `shutdown.drain`.
    pub drain: Time,
}

/// What becomes of WebSockets, long answers, TCP and UDP sessions when their route, their upstream node or their consumer goes, or
/// their route changes (`docs/long-connections.md`). The plugin `long-connections` says it for a route, a service, or on a global
/// rule for all routes; this is the node's default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LongConnections {
    /// What becomes of them: `keep`, they go on until one of their sides ends them; `drain`, they are ended after `drain`; `cut`,
    /// they are ended at once.
    pub policy: LongConnectionPolicy,
    /// How long they go on with the policy `drain`.
    pub drain: Time,
    /// An answer is ended only when it has lasted so long, whatever the policy: a change must not cut what is merely in flight. Answers
    /// of type `text/event-stream` end whenever their policy says.
    pub answers_from: Time,
}

/// See [`LongConnections::policy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LongConnectionPolicy {
    /// They go on.
    #[default]
    Keep,
    /// They are ended after some time.
    Drain,
    /// They are ended at once.
    Cut,
}

/// TLS with upstreams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct UpstreamTls {
    /// Whose certificates are verified, with the authorities of `apisix.ssl.ssl_trusted_certificate`: `off`, nobody's, as the
    /// reference does; `upstream`, those of upstreams with `tls.verify: true`; `required`, everybody's. Where the settings of the
    /// gateway group ask for more, that counts.
    #[schemars(with = "String", extend("enum" = ["off", "upstream", "required"]))]
    pub verify: VerifyUpstreams,
}

/// Connections kept to upstreams, over all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct UpstreamPool {
    /// Idle connections of the whole node, of HTTP/1.1 and of HTTP/2 each; beyond it those used longest ago are closed.
    #[schemars(range(min = 1), extend("x-unit" = "connections"))]
    pub idle_connections: u32,
}

/// How names are resolved: of upstream nodes, and of servers that lines go to over UDP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Dns {
    /// How long a look-up may take, all tries together.
    pub timeout: Time,
    /// How long one try at one resolver may take.
    pub try_timeout: Time,
    /// Tries, over all resolvers.
    #[schemars(range(min = 1, max = 20), extend("x-unit" = "tries"))]
    pub tries: u32,
    /// An answer is kept at least so long, whatever its TTL.
    pub min_ttl: Time,
    /// An answer is kept at most so long.
    pub max_ttl: Time,
    /// How long an answer that is over is still used, counted anew from each look-up that brings no other one: a name that is in
    /// use keeps its addresses while its resolvers are away.
    pub stale_ttl: Time,
    /// How long it is remembered that a name could not be resolved.
    pub error_ttl: Time,
}

/// See [`crate::Gateway::ambiguous_path`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AmbiguousPath {
    /// The canonical form that was matched, encoded anew.
    #[default]
    Canonical,
    /// Nothing: the answer is 400.
    Reject,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 0,
            header_bytes: Size::kib(64),
            header_count: 100,
            upstream_header_bytes: Size::kib(64),
            upstream_header_count: 200,
            retry_body: Size::kib(64),
            matched_body: Size::kib(1024),
            pipes: 128,
            hash_ring_points: 1_048_576,
            http2_streams: 128,
            http2_pending_resets: 20,
            http2_cancels: 200,
            http2_control_frames: 1000,
            http2_empty_data: 100,
            http2_send_buffer: Size::kib(64),
            http2_stream_window: Size::kib(64),
            http2_shared_window: Size::kib(1024),
            http3_streams: 128,
            http3_handshakes: 1000,
            http3_cancels: 200,
            http3_control_frames: 1000,
            http3_stream_window: Size::kib(256),
            http3_connection_window: Size::kib(16 * 1024),
            http3_send_buffer: Size::kib(1024),
            upstream_http2_streams: 100,
            upstream_http2_connections: 64,
            upstream_http2_window: Size::kib(256),
            upstream_http2_send_buffer: Size::kib(256),
            lingering_bytes: Size::kib(64 * 1024),
            udp_sessions: 65_536,
            udp_pending: 16,
            stream_preread: Size::kib(16),
            side_connections: 256,
            side_header_bytes: Size::kib(16),
            control_answers: 4,
            export_answer: Size::kib(64),
            pending_log_entries: 65_536,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            deferred_accept: Time::secs(1),
            tls_handshake: Time::secs(10),
            connection_place: Time::secs(1),
            proxy_protocol: Time::secs(5),
            stream_preread: Time::secs(30),
            side_header: Time::secs(10),
            side_place: Time::millis(100),
            http2_ping: Time::secs(20),
            http3_silence: Time::secs(30),
            upstream_http2_ping: Time::secs(0),
            lingering_time: Time::secs(30),
            lingering_timeout: Time::secs(5),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            grace: Time::secs(5),
            last_call: Time::secs(1),
            drain: Time::secs(30),
            farewell: Time::secs(1),
            export: Time::secs(5),
        }
    }
}

impl Default for Upgrade {
    fn default() -> Self {
        Self {
            ready_timeout: Time::secs(60),
            first_word: Time::secs(5),
            count_interval: Time::millis(200),
            follow_interval: Time::millis(500),
            drain: Time::secs(3600),
        }
    }
}

impl Default for LongConnections {
    fn default() -> Self {
        Self { policy: LongConnectionPolicy::default(), drain: Time::secs(30), answers_from: Time::secs(10) }
    }
}

impl Default for UpstreamPool {
    fn default() -> Self {
        Self { idle_connections: 16_384 }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            timeout: Time::secs(10),
            try_timeout: Time::secs(2),
            tries: 5,
            min_ttl: Time::secs(1),
            max_ttl: Time::secs(3600),
            stale_ttl: Time::secs(300),
            error_ttl: Time::secs(1),
        }
    }
}
