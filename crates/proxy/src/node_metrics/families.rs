//! The families of the node's metrics, and where each figure comes from.

use super::Sources;
use crate::control_api::STORAGE_PREFIX;
use crate::counters::{Counters, TIME_BOUNDS, Totals};
use crate::current::Current;
use crate::discovery::Figures;
use crate::drain::Stage;
use crate::health::UpstreamHealth;
use crate::node::{LastGoodFigures, NodeStatus};
use crate::ocsp::Figures as OcspFigures;
use crate::process;
use milecastle_settings::Prometheus;
use milecastle_telemetry::metrics::{Counter, Family, Gauge, Handle, Histogram, MetricError, Options, Registry};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

/// Reads one figure.
type Read = fn(&Totals) -> u64;
/// A counter, and the figure that it follows.
type Mirrored = (Handle<Counter>, Read);
/// The gauge of a state, and the figure that it shows.
type Labelled = (Handle<Gauge>, Read);

/// The families.
pub(super) struct Families {
    node_info: Family<Gauge>,
    responses: Vec<Mirrored>,
    superseded: Vec<Mirrored>,
    upstream_times: Handle<Histogram>,
    workers: WorkerMetrics,
    pipes: Handle<Gauge>,
    pub(super) push_failures: Handle<Counter>,
    connections: Vec<Labelled>,
    requests: Handle<Gauge>,
    totals: Vec<Mirrored>,
    panics: Family<Counter>,
    upstream_status: Family<Gauge>,
    discovery: DiscoveryMetrics,
    ocsp: OcspMetrics,
    tunnels: Handle<Gauge>,
    udp_sessions: Handle<Gauge>,
    stream_active: Family<Gauge>,
    stream_bandwidth: Family<Counter>,
    metric_errors: Handle<Counter>,
    log_lines_dropped: Handle<Counter>,
    revision: Handle<Gauge>,
    head: Handle<Gauge>,
    published: Handle<Gauge>,
    quarantined: Handle<Gauge>,
    stream_connected: Handle<Gauge>,
    alarms: Handle<Gauge>,
    last_good: LastGoodMetrics,
    ending: Handle<Gauge>,
    ends_in: Handle<Gauge>,
    cpu: Handle<Gauge>,
    memory: Handle<Gauge>,
}

impl Families {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken by a metric of another kind.
    pub(super) fn new(registry: &Registry, settings: &Prometheus) -> Result<Self, MetricError> {
        let gauge = |name, help| Ok(registry.gauge(name, help, &[], Options::default())?.get());
        let counter = |name, help| Ok(registry.counter(name, help, &[], Options::default())?.get());
        let labelled = |name, help, label| registry.counter(name, help, &[label], Options::default());
        Ok(Self {
            node_info: registry.gauge(
                "node_info",
                "Info of the gateway node",
                &["hostname", "version"],
                Options::default(),
            )?,
            connections: connections(registry)?,
            requests: gauge("http_requests_total", "The total number of client requests since the start")?,
            totals: totals(registry)?,
            responses: responses(registry)?,
            superseded: superseded(registry)?,
            upstream_times: registry
                .histogram(
                    "upstream_response_time",
                    "Milliseconds from the beginning of a try at an upstream node to the end of its answer",
                    &[],
                    &TIME_BOUNDS.map(|bound| bound as f64),
                    Options::default(),
                )?
                .get(),
            workers: WorkerMetrics::new(registry)?,
            pipes: gauge("pipes", "Pipes of all workers through which large answers pass uncopied")?,
            push_failures: counter(
                "metrics_push_failures_total",
                "Pushes of metrics that the OpenTelemetry collector did not take",
            )?,
            panics: labelled("plugin_panics_total", "Hooks that panicked; each ended its request with 500", "plugin")?,
            upstream_status: upstream_status(registry, settings)?,
            discovery: DiscoveryMetrics::new(registry)?,
            ocsp: OcspMetrics::new(registry)?,
            tunnels: gauge(
                "tunnels",
                "Client connections that have switched from HTTP to another protocol, and are open",
            )?,
            udp_sessions: gauge("udp_sessions", "UDP sessions that are open")?,
            stream_active: registry.gauge(
                "stream_active_connections",
                "TCP and UDP sessions that are open, by listener",
                &["listen_addr"],
                Options::default(),
            )?,
            stream_bandwidth: registry.counter(
                "stream_bandwidth",
                "Bytes of TCP and UDP sessions, by listener, direction and side",
                &["listen_addr", "type", "side"],
                Options::default(),
            )?,
            metric_errors: counter(
                "nginx_metric_errors_total",
                "Updates of metrics that could not be counted under their own labels",
            )?,
            log_lines_dropped: counter(
                "access_log_dropped_lines_total",
                "Lines of the access logs, of requests and of sessions, that were not written",
            )?,
            revision: gauge("config_revision", "Revision of the configuration in force")?,
            head: gauge("config_head_revision", "Newest revision that the control plane has named")?,
            published: gauge(
                "config_published_timestamp_seconds",
                "When the configuration in force took effect on this node; its age is time() minus this",
            )?,
            quarantined: gauge("config_quarantined_objects", "Objects whose present form this node cannot build")?,
            stream_connected: gauge("config_stream_connected", "Whether the configuration stream is open: 1 or 0")?,
            alarms: gauge("config_alarms", "Conditions of the node as a member of its cluster that need an operator")?,
            last_good: LastGoodMetrics::new(registry)?,
            ending: gauge("draining", "Whether the process was told to stop: 1 or 0")?,
            ends_in: gauge(
                "drain_seconds_left",
                "Seconds until what is left of a process that was told to stop is cut; 0 while it serves",
            )?,
            cpu: gauge("process_cpu_seconds", "CPU time of the process since its start, user and system")?,
            memory: gauge("process_resident_memory_bytes", "Resident memory of the process")?,
        })
    }

    /// Brings them up to date. Only one at a time may.
    pub(super) fn update(&self, sources: &Sources) {
        let Sources { registry, counters, upstream_health, discovery, current, node, facts, access_logs, drain } =
            sources;
        self.node_info.with(&[&facts.hostname, facts.version]).set(1.0);
        let totals = counters.totals();
        self.connections.iter().for_each(|(gauge, read)| gauge.set(float(read(&totals))));
        self.requests.set(float(totals.requests));
        self.totals.iter().for_each(|(counter, read)| follow(counter, read(&totals)));
        self.responses.iter().for_each(|(counter, read)| follow(counter, read(&totals)));
        self.superseded.iter().for_each(|(counter, read)| follow(counter, read(&totals)));
        let times = counters.upstream_times();
        self.upstream_times.follow(&times.counts, times.sum.as_secs_f64() * 1000.0);
        self.workers.update(counters);
        self.pipes.set(float(totals.pipes));
        for (plugin, panics) in counters.panics() {
            follow(&self.panics.with(&[plugin]), panics);
        }
        self.update_upstreams(upstream_health);
        self.discovery.update(&discovery.figures());
        self.ocsp.update(counters.ocsp());
        self.tunnels.set(float(totals.tunnels));
        self.udp_sessions.set(float(totals.udp_sessions));
        self.update_streams(counters);
        follow(&self.metric_errors, registry.overflowed());
        follow(&self.log_lines_dropped, access_logs.iter().map(|log| log.dropped()).sum());
        self.update_configuration(&node(), current.get());
        let (stage, left) = drain.at();
        self.ending.set(if stage == Stage::Serving { 0.0 } else { 1.0 });
        self.ends_in.set(left.unwrap_or_default().as_secs_f64());
        let (cpu_ms, resident) = process::usage();
        self.cpu.set(float(cpu_ms) / 1000.0);
        self.memory.set(float(resident));
    }

    fn update_streams(&self, counters: &Counters) {
        for stream in counters.streams() {
            let listen = stream.listen.to_string();
            self.stream_active.with(&[&listen]).set(float(stream.active));
            for (direction, side, bytes) in [
                ("ingress", "downstream", stream.received),
                ("egress", "downstream", stream.sent),
                ("egress", "upstream", stream.upstream_sent),
                ("ingress", "upstream", stream.upstream_received),
            ] {
                follow(&self.stream_bandwidth.with(&[&listen, direction, side]), bytes);
            }
        }
    }

    fn update_upstreams(&self, health: &UpstreamHealth) {
        let targets = health.targets();
        let series: Vec<[String; 3]> = targets
            .iter()
            .map(|(path, target)| {
                [format!("{STORAGE_PREFIX}{path}"), target.addr.ip().to_string(), target.addr.port().to_string()]
            })
            .collect();
        for ((_, target), [name, ip, port]) in targets.iter().zip(&series) {
            let usable = target.condition().status.is_usable();
            self.upstream_status.with(&[name, ip, port]).set(if usable { 1.0 } else { 0.0 });
        }
        let shown: HashSet<[&str; 3]> = series.iter().map(|values| values.each_ref().map(String::as_str)).collect();
        self.upstream_status.retain(|values| match values {
            [name, ip, port] => shown.contains(&[&**name, &**ip, &**port]),
            _ => false,
        });
    }

    fn update_configuration(&self, status: &NodeStatus, current: Option<&Arc<Current>>) {
        self.revision.set(float(current.map_or(0, |current| current.load().revision())));
        let published = current.map(|current| current.published_at().duration_since(UNIX_EPOCH).unwrap_or_default());
        self.published.set(published.unwrap_or_default().as_secs_f64());
        self.head.set(float(status.head));
        self.quarantined.set(float(status.quarantined as u64));
        self.stream_connected.set(if status.connected_to.is_some() { 1.0 } else { 0.0 });
        self.alarms.set(float(status.alarms.len() as u64));
        self.last_good.update(&status.last_good);
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
                "Client connections accepted by each worker, TCP sessions included",
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

/// How the services stand that upstreams' nodes are asked for.
struct DiscoveryMetrics {
    instances: Family<Gauge>,
    age: Family<Gauge>,
    failures: Family<Counter>,
}

impl DiscoveryMetrics {
    fn new(registry: &Registry) -> Result<Self, MetricError> {
        let labels = ["type", "service"];
        Ok(Self {
            instances: registry.gauge(
                "discovery_instances",
                "Instances in use of each service that the configuration names",
                &labels,
                Options::default(),
            )?,
            age: registry.gauge(
                "discovery_age_seconds",
                "Time since the registry has confirmed the instances of a service",
                &labels,
                Options::default(),
            )?,
            failures: registry.counter(
                "discovery_failures_total",
                "Questions for a service that the registry did not answer, or not as it should",
                &labels,
                Options::default(),
            )?,
        })
    }

    fn update(&self, services: &[Figures]) {
        for Figures { registry, service, instances, age, failures } in services {
            let labels = [registry.as_str(), service.as_str()];
            self.instances.with(&labels).set(float(*instances));
            if let Some(age) = age {
                self.age.with(&labels).set(age.as_secs_f64());
            }
            follow(&self.failures.with(&labels), *failures);
        }
        let shown: HashSet<[&str; 2]> =
            services.iter().map(|service| [service.registry.as_str(), service.service.as_str()]).collect();
        let is_shown = |values: &[Box<str>]| match values {
            [registry, service] => shown.contains(&[&**registry, &**service]),
            _ => false,
        };
        self.instances.retain(is_shown);
        self.age.retain(is_shown);
        self.failures.retain(is_shown);
    }
}

/// How OCSP stapling stands.
struct OcspMetrics {
    stapled: Handle<Gauge>,
    without: Handle<Gauge>,
    questions: Handle<Counter>,
    failures: Handle<Counter>,
}

impl OcspMetrics {
    fn new(registry: &Registry) -> Result<Self, MetricError> {
        let counter = |name, help| Ok(registry.counter(name, help, &[], Options::default())?.get());
        let certificates = registry.gauge(
            "ocsp_certificates",
            "Certificates of ssl objects with ocsp_stapling that have an OCSP response (stapled), and that have none (without)",
            &["state"],
            Options::default(),
        )?;
        Ok(Self {
            stapled: certificates.with(&["stapled"]),
            without: certificates.with(&["without"]),
            questions: counter("ocsp_questions_total", "Questions to OCSP responders")?,
            failures: counter("ocsp_failures_total", "Questions to OCSP responders that brought nothing to staple")?,
        })
    }

    fn update(&self, figures: &OcspFigures) {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        self.stapled.set(float(read(&figures.stapled)));
        self.without.set(float(read(&figures.without)));
        follow(&self.questions, read(&figures.questions));
        follow(&self.failures, read(&figures.failures));
    }
}

/// What of the configuration is kept on disk.
struct LastGoodMetrics {
    revision: Handle<Gauge>,
    written: Handle<Gauge>,
    generations: Handle<Gauge>,
    bytes: Handle<Gauge>,
    failures: Handle<Counter>,
    damaged: Handle<Counter>,
}

impl LastGoodMetrics {
    fn new(registry: &Registry) -> Result<Self, MetricError> {
        let gauge = |name, help| Ok(registry.gauge(name, help, &[], Options::default())?.get());
        let counter = |name, help| Ok(registry.counter(name, help, &[], Options::default())?.get());
        Ok(Self {
            revision: gauge(
                "last_good_revision",
                "Revision that the node would start with; 0 if there is none on disk",
            )?,
            written: gauge(
                "last_good_checkpoint_timestamp_seconds",
                "When the newest checkpoint was written; its age is time() minus this",
            )?,
            generations: gauge("last_good_generations", "Checkpoints on disk")?,
            bytes: gauge("last_good_bytes", "Size of the last good configuration's files, all generations together")?,
            failures: counter(
                "last_good_failures_total",
                "Times that the configuration in force could not be written",
            )?,
            damaged: counter("last_good_damaged_files_total", "Files found damaged at the start, in whole or in part")?,
        })
    }

    fn update(&self, figures: &LastGoodFigures) {
        let written = figures.written_at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        self.revision.set(float(figures.revision.unwrap_or_default()));
        self.written.set(written.as_secs_f64());
        self.generations.set(float(figures.generations as u64));
        self.bytes.set(float(figures.bytes));
        follow(&self.failures, figures.failures);
        follow(&self.damaged, figures.damaged);
    }
}

fn upstream_status(registry: &Registry, settings: &Prometheus) -> Result<Family<Gauge>, MetricError> {
    let name = "upstream_status";
    let expire = settings.metrics.get(name).map(|own| own.expire.get()).filter(|expire| !expire.is_zero());
    let options = Options { expire, ..Options::default() };
    registry.gauge(
        name,
        "Whether an upstream node gets requests, by its health: 1 or 0",
        &["name", "ip", "port"],
        options,
    )
}

fn connections(registry: &Registry) -> Result<Vec<Labelled>, MetricError> {
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
    let kinds: [(&str, Read); 3] = [
        ("websocket", |t| t.superseded_websockets),
        ("answer", |t| t.superseded_answers),
        ("session", |t| t.superseded_sessions),
    ];
    Ok(kinds.into_iter().map(|(kind, read)| (family.with(&[kind]), read)).collect())
}

fn totals(registry: &Registry) -> Result<Vec<Mirrored>, MetricError> {
    let figures: [(&str, &str, Read); 32] = [
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
            "HTTP/2 connections ended for too many resets (limits.http2_pending_resets), CONTINUATION or empty DATA frames, or a huge head",
            |t| t.http2_excess,
        ),
        (
            "http2_stuck_streams_total",
            "Answers given up because the client opened no HTTP/2 window for send_timeout",
            |t| t.http2_stuck_streams,
        ),
        ("http3_retries_total", "QUIC handshakes answered with a Retry because of limits.http3_handshakes", |t| {
            t.http3_retries
        }),
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
            "Connections without a request that were closed so that others find room (limits.connections)",
            |t| t.connections_evicted,
        ),
        ("pipes_short_total", "Large answers that were copied because of limits.pipes", |t| t.pipes_short),
        ("upstream_connects_total", "Connections opened to upstreams", |t| t.upstream_connects),
        ("upstream_connect_failures_total", "Connections to upstreams that did not open", |t| {
            t.upstream_connect_failures
        }),
        ("upstream_pool_hits_total", "Requests sent on a kept upstream connection", |t| t.pool_hits),
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

/// Brings a counter up to a figure that is counted elsewhere and only grows.
fn follow(counter: &Counter, figure: u64) {
    counter.add(figure.saturating_sub(counter.get()));
}

/// Exact up to 2^53, as every number on the page is.
fn float(figure: u64) -> f64 {
    figure as f64
}
