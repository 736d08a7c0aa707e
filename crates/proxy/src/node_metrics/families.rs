//! The families of the node's metrics, and where each figure comes from.

use super::Sources;
use super::limits::{self, EXPORT_ANSWER, SESSION_CACHE};
use super::traffic::TrafficMetrics;
use crate::control_api::STORAGE_PREFIX;
use crate::current::Current;
use crate::discovery::Figures;
use crate::drain::Stage;
use crate::health::UpstreamHealth;
use crate::node::{LastGoodFigures, NodeStatus};
use crate::ocsp::Figures as OcspFigures;
use crate::process;
use crate::secrets::Figures as SecretFigures;
use milecastle_settings::Prometheus;
use milecastle_telemetry::metrics::{Counter, Family, Gauge, Handle, MetricError, Options, Registry};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

/// The families.
pub(super) struct Families {
    node_info: Family<Gauge>,
    traffic: TrafficMetrics,
    pub(super) push_failures: Handle<Counter>,
    upstream_status: Family<Gauge>,
    discovery: DiscoveryMetrics,
    ocsp: OcspMetrics,
    secrets: SecretMetrics,
    metric_errors: Handle<Counter>,
    log_lines_dropped: Handle<Counter>,
    long_answers: Handle<Counter>,
    forgotten_sessions: Handle<Counter>,
    revision: Handle<Gauge>,
    head: Handle<Gauge>,
    published: Handle<Gauge>,
    publications: Handle<Counter>,
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
        Ok(Self {
            node_info: registry.gauge(
                "node_info",
                "Info of the gateway node",
                &["hostname", "version"],
                Options::default(),
            )?,
            traffic: TrafficMetrics::new(registry)?,
            push_failures: counter(
                "metrics_push_failures_total",
                "Pushes of metrics that the OpenTelemetry collector did not take",
            )?,
            upstream_status: upstream_status(registry, settings)?,
            discovery: DiscoveryMetrics::new(registry)?,
            ocsp: OcspMetrics::new(registry)?,
            secrets: SecretMetrics::new(registry)?,
            metric_errors: counter(
                "nginx_metric_errors_total",
                "Updates of metrics that could not be counted under their own labels",
            )?,
            log_lines_dropped: counter(
                "access_log_dropped_lines_total",
                "Lines of the access logs, of requests and of sessions, that were not written",
            )?,
            long_answers: limits::family(registry)?.with(&[EXPORT_ANSWER]),
            forgotten_sessions: limits::family(registry)?.with(&[SESSION_CACHE]),
            revision: gauge("config_revision", "Revision of the configuration in force")?,
            head: gauge("config_head_revision", "Newest revision that the control plane has named")?,
            published: gauge(
                "config_published_timestamp_seconds",
                "When the configuration in force took effect on this node; its age is time() minus this",
            )?,
            publications: counter(
                "config_published_total",
                "Configurations that were built and took effect on this node",
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
        let Sources {
            registry,
            counters,
            upstream_health,
            discovery,
            secrets,
            current,
            node,
            facts,
            access_logs,
            drain,
            exporters,
        } = sources;
        self.node_info.with(&[&facts.hostname, facts.version]).set(1.0);
        self.traffic.update(counters);
        self.update_upstreams(upstream_health);
        self.discovery.update(&discovery.figures());
        self.ocsp.update(counters.ocsp());
        self.secrets.update(&secrets.figures());
        follow(&self.metric_errors, registry.overflowed());
        follow(&self.log_lines_dropped, access_logs.iter().map(|log| log.dropped()).sum());
        follow(&self.long_answers, exporters.long_answers());
        follow(&self.forgotten_sessions, counters.forgotten_sessions().load(Ordering::Relaxed));
        self.update_configuration(&node(), current.get());
        let (stage, left) = drain.at();
        self.ending.set(if stage == Stage::Serving { 0.0 } else { 1.0 });
        self.ends_in.set(left.unwrap_or_default().as_secs_f64());
        let (cpu_ms, resident) = process::usage();
        self.cpu.set(float(cpu_ms) / 1000.0);
        self.memory.set(float(resident));
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
        follow(&self.publications, current.map_or(0, |current| current.publications()));
        self.head.set(float(status.head));
        self.quarantined.set(float(status.quarantined as u64));
        self.stream_connected.set(if status.connected_to.is_some() { 1.0 } else { 0.0 });
        self.alarms.set(float(status.alarms.len() as u64));
        self.last_good.update(&status.last_good);
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

/// How references to secret managers stand.
struct SecretMetrics {
    found: Handle<Counter>,
    absent: Handle<Counter>,
    failed: Handle<Counter>,
    resolved: Handle<Gauge>,
    stale: Handle<Gauge>,
    unresolved: Handle<Gauge>,
    left_out: Handle<Gauge>,
}

impl SecretMetrics {
    fn new(registry: &Registry) -> Result<Self, MetricError> {
        let questions = registry.counter(
            "secret_lookups_total",
            "References that secret managers were asked for: those that have a value (found), that there is none for (absent), or that \
             were not answered (failed)",
            &["result"],
            Options::default(),
        )?;
        let references = registry.gauge(
            "secret_references",
            "References to secret managers in the configuration in force: with a value (resolved), with the last one known while no newer \
             one is to be had (stale), without one (unresolved), and beyond secrets.entries (left_out)",
            &["state"],
            Options::default(),
        )?;
        Ok(Self {
            found: questions.with(&["found"]),
            absent: questions.with(&["absent"]),
            failed: questions.with(&["failed"]),
            resolved: references.with(&["resolved"]),
            stale: references.with(&["stale"]),
            unresolved: references.with(&["unresolved"]),
            left_out: references.with(&["left_out"]),
        })
    }

    fn update(&self, figures: &SecretFigures) {
        follow(&self.found, figures.found);
        follow(&self.absent, figures.absent);
        follow(&self.failed, figures.failed);
        self.resolved.set(float(figures.census.resolved));
        self.stale.set(float(figures.census.stale));
        self.unresolved.set(float(figures.census.unresolved));
        self.left_out.set(float(figures.census.left_out));
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

/// Brings a counter up to a figure that is counted elsewhere and only grows.
pub(super) fn follow(counter: &Counter, figure: u64) {
    counter.add(figure.saturating_sub(counter.get()));
}

/// Exact up to 2^53, as every number on the page is.
pub(super) fn float(figure: u64) -> f64 {
    figure as f64
}
