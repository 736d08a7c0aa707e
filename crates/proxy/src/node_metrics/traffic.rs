//! The metrics of connections, requests and sessions, which the workers count.

use super::families::{float, follow};
use super::limits;
use crate::counters::{Counters, TIME_BOUNDS, Totals};
use milecastle_telemetry::metrics::{Counter, Family, Gauge, Handle, Histogram, MetricError, Options, Registry};

/// Reads one figure.
pub(super) type Read = fn(&Totals) -> u64;
/// A counter, and the figure that it follows.
pub(super) type Mirrored = (Handle<Counter>, Read);
/// A gauge, and the figure that it shows.
type Shown = (Handle<Gauge>, Read);

/// The families.
pub(super) struct TrafficMetrics {
    gauges: Vec<Shown>,
    counters: Vec<Mirrored>,
    upstream_times: Handle<Histogram>,
    panics: Family<Counter>,
    workers: WorkerMetrics,
    streams: StreamMetrics,
}

impl TrafficMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, MetricError> {
        let mut gauges = connections(registry)?;
        gauges.extend(levels(registry)?);
        let mut counters = totals(registry)?;
        counters.extend(responses(registry)?);
        counters.extend(superseded(registry)?);
        counters.extend(limits::of_workers(registry)?);
        Ok(Self {
            gauges,
            counters,
            upstream_times: registry
                .histogram(
                    "upstream_response_time",
                    "Milliseconds from the beginning of a try at an upstream node to the end of its answer",
                    &[],
                    &TIME_BOUNDS.map(|bound| bound as f64),
                    Options::default(),
                )?
                .get(),
            panics: registry.counter(
                "plugin_panics_total",
                "Hooks that panicked; each ended its request with 500",
                &["plugin"],
                Options::default(),
            )?,
            workers: WorkerMetrics::new(registry)?,
            streams: StreamMetrics::new(registry)?,
        })
    }

    pub(super) fn update(&self, counters: &Counters) {
        let totals = counters.totals();
        self.gauges.iter().for_each(|(gauge, read)| gauge.set(float(read(&totals))));
        self.counters.iter().for_each(|(counter, read)| follow(counter, read(&totals)));
        let times = counters.upstream_times();
        self.upstream_times.follow(&times.counts, times.sum.as_secs_f64() * 1000.0);
        for (plugin, panics) in counters.panics() {
            follow(&self.panics.with(&[plugin]), panics);
        }
        self.workers.update(counters);
        self.streams.update(counters);
    }
}

/// How the load is spread over the workers.
struct WorkerMetrics {
    accepted: Family<Counter>,
    connections: Family<Gauge>,
    requests: Family<Counter>,
}

impl WorkerMetrics {
    fn new(registry: &Registry) -> Result<Self, MetricError> {
        let labels = ["worker"];
        let counter = |name, help| registry.counter(name, help, &labels, Options::default());
        Ok(Self {
            accepted: counter(
                "worker_accepted_connections_total",
                "Client connections that came to each worker, by whichever they were accepted, TCP sessions included",
            )?,
            connections: registry.gauge(
                "worker_connections",
                "HTTP client connections that are open at each worker",
                &labels,
                Options::default(),
            )?,
            requests: counter("worker_requests_total", "Requests that each worker has taken")?,
        })
    }

    fn update(&self, counters: &Counters) {
        for (worker, totals) in counters.by_worker().enumerate() {
            let worker = worker.to_string();
            follow(&self.accepted.with(&[&worker]), totals.accepted);
            self.connections.with(&[&worker]).set(float(totals.active));
            follow(&self.requests.with(&[&worker]), totals.requests);
        }
    }
}

/// Sessions of TCP and UDP, by listener.
struct StreamMetrics {
    active: Family<Gauge>,
    bandwidth: Family<Counter>,
}

impl StreamMetrics {
    fn new(registry: &Registry) -> Result<Self, MetricError> {
        Ok(Self {
            active: registry.gauge(
                "stream_active_connections",
                "TCP and UDP sessions that are open, by listener",
                &["listen_addr"],
                Options::default(),
            )?,
            bandwidth: registry.counter(
                "stream_bandwidth",
                "Bytes of TCP and UDP sessions, by listener, direction and side",
                &["listen_addr", "type", "side"],
                Options::default(),
            )?,
        })
    }

    fn update(&self, counters: &Counters) {
        for stream in counters.streams() {
            let listen = stream.listen.to_string();
            self.active.with(&[&listen]).set(float(stream.active));
            for (direction, side, bytes) in [
                ("ingress", "downstream", stream.received),
                ("egress", "downstream", stream.sent),
                ("egress", "upstream", stream.upstream_sent),
                ("ingress", "upstream", stream.upstream_received),
            ] {
                follow(&self.bandwidth.with(&[&listen, direction, side]), bytes);
            }
        }
    }
}

fn connections(registry: &Registry) -> Result<Vec<Shown>, MetricError> {
    let help = "Number of HTTP connections";
    let family = registry.gauge("nginx_http_current_connections", help, &["state"], Options::default())?;
    let states: [(&str, Read); 6] = [
        ("active", |totals| totals.active),
        ("accepted", |totals| totals.accepted),
        ("handled", |totals| totals.handled),
        ("reading", |totals| totals.reading),
        ("writing", |totals| totals.in_flight),
        ("waiting", |totals| totals.waiting),
    ];
    Ok(states.into_iter().map(|(state, read)| (family.with(&[state]), read)).collect())
}

fn levels(registry: &Registry) -> Result<Vec<Shown>, MetricError> {
    let figures: [(&str, &str, Read); 4] = [
        ("http_requests_total", "The total number of client requests since the start", |t| t.requests),
        ("pipes", "Pipes of all workers through which large answers pass uncopied", |t| t.pipes),
        ("tunnels", "Client connections that have switched from HTTP to another protocol, and are open", |t| t.tunnels),
        ("udp_sessions", "UDP sessions that are open", |t| t.udp_sessions),
    ];
    let register = |(name, help, read)| Ok((registry.gauge(name, help, &[], Options::default())?.get(), read));
    figures.into_iter().map(register).collect()
}

fn responses(registry: &Registry) -> Result<Vec<Mirrored>, MetricError> {
    let help = "Requests that are over, by the class of the answer's status; 499, a client that left, is 4xx";
    let family = registry.counter("responses_total", help, &["class"], Options::default())?;
    let classes: [(&str, Read); 5] = [
        ("1xx", |t| t.responses_1xx),
        ("2xx", |t| t.responses_2xx),
        ("3xx", |t| t.responses_3xx),
        ("4xx", |t| t.responses_4xx),
        ("5xx", |t| t.responses_5xx),
    ];
    Ok(classes.into_iter().map(|(class, read)| (family.with(&[class]), read)).collect())
}

fn superseded(registry: &Registry) -> Result<Vec<Mirrored>, MetricError> {
    let help = "Connections that last, ended because what they were opened under holds no longer";
    let family = registry.counter("superseded_connections_total", help, &["kind"], Options::default())?;
    let kinds: [(&str, Read); 4] = [
        ("websocket", |t| t.superseded_websockets),
        ("tunnel", |t| t.superseded_tunnels),
        ("answer", |t| t.superseded_answers),
        ("session", |t| t.superseded_sessions),
    ];
    Ok(kinds.into_iter().map(|(kind, read)| (family.with(&[kind]), read)).collect())
}

fn totals(registry: &Registry) -> Result<Vec<Mirrored>, MetricError> {
    let figures: [(&str, &str, Read); 33] = [
        ("responses_5xx_total", "Answers of the 5xx class", |t| t.responses_5xx),
        ("tls_handshake_failures_total", "TLS handshakes with clients that failed", |t| t.tls_failures),
        ("bad_request_heads_total", "Requests refused because their head is malformed or too large", |t| t.bad_heads),
        ("slow_request_heads_total", "Connections closed because a request's head came too slowly", |t| t.slow_heads),
        ("http2_cancels_cut_total", "HTTP/2 connections ended because of limits.http2_cancels", |t| {
            t.http2_cancels_cut
        }),
        ("http2_control_frames_cut_total", "HTTP/2 connections ended because of limits.http2_control_frames", |t| {
            t.http2_control_frames_cut
        }),
        (
            "http2_excess_total",
            "HTTP/2 connections ended for too many resets (limits.http2_pending_resets), empty DATA (limits.http2_empty_data) or CONTINUATION frames, or a huge head",
            |t| t.http2_excess,
        ),
        (
            "http2_stuck_streams_total",
            "Answers given up because the client opened no HTTP/2 window for send_timeout",
            |t| t.http2_stuck_streams,
        ),
        (
            "http3_retries_total",
            "QUIC handshakes answered with a Retry because of limits.http3_handshakes or limits.connections",
            |t| t.http3_retries,
        ),
        ("http3_refused_total", "QUIC connections refused because of limits.connections", |t| t.http3_refused),
        ("http3_cancels_cut_total", "HTTP/3 connections ended because of limits.http3_cancels", |t| {
            t.http3_cancels_cut
        }),
        ("http3_control_frames_cut_total", "HTTP/3 connections ended because of limits.http3_control_frames", |t| {
            t.http3_control_frames_cut
        }),
        (
            "http3_stuck_streams_total",
            "Answers given up because the client took nothing of them over HTTP/3 for send_timeout",
            |t| t.http3_stuck_streams,
        ),
        ("lingering_cut_total", "Connections cut because the client went on sending behind its answer", |t| {
            t.lingering_cut
        }),
        ("connections_held_total", "Connections that had to wait for room because of limits.connections", |t| {
            t.connections_held
        }),
        (
            "connections_evicted_total",
            "Connections waiting for their client, of HTTP and of TCP sessions, that were closed so that others find room: because of limits.connections, or for want of files or memory",
            |t| t.connections_evicted,
        ),
        ("pipes_short_total", "Large answers that were copied because of limits.pipes", |t| t.pipes_short),
        ("upstream_connects_total", "Connections opened to upstreams", |t| t.upstream_connects),
        ("upstream_connect_failures_total", "Connections to upstreams that did not open", |t| {
            t.upstream_connect_failures
        }),
        ("upstream_pool_hits_total", "Requests sent on a kept upstream connection", |t| t.pool_hits),
        ("upstream_pool_given_up_total", "Idle upstream connections closed for want of files or memory", |t| {
            t.idle_connections_given_up
        }),
        ("upstream_pool_stale_total", "Kept upstream connections found closed when they were used", |t| t.pool_stale),
        ("upstream_http2_no_room_total", "Requests for which no HTTP/2 connection had room in time", |t| {
            t.http2_no_room
        }),
        ("upstream_retries_total", "Tries at a further node after a failure", |t| t.retries),
        ("hash_rings_cut_total", "Hash rings made with fewer points than the weights ask for", |t| t.hash_rings_cut),
        ("upstream_health_ignored_total", "Picks of a node of an upstream none of whose nodes is healthy", |t| {
            t.health_ignored
        }),
        ("request_panics_total", "Requests whose handling panicked outside any plugin", |t| t.request_panics),
        ("stream_sessions_total", "TCP and UDP sessions begun", |t| t.stream_sessions),
        ("stream_unrouted_total", "TCP and UDP sessions that no stream route takes", |t| t.stream_unrouted),
        ("stream_preread_cut_total", "TCP sessions closed because a plugin would have had to see too much", |t| {
            t.stream_preread_cut
        }),
        ("bad_proxy_headers_total", "Connections closed for want of a well-formed PROXY header", |t| {
            t.bad_proxy_headers
        }),
        ("udp_sessions_refused_total", "Datagrams dropped because of limits.udp_sessions", |t| t.udp_sessions_refused),
        ("udp_datagrams_dropped_total", "Datagrams dropped because of limits.udp_pending or a full socket", |t| {
            t.udp_datagrams_dropped
        }),
    ];
    let register = |(name, help, read)| Ok((registry.counter(name, help, &[], Options::default())?.get(), read));
    figures.into_iter().map(register).collect()
}
