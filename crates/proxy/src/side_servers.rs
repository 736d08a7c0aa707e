//! The listeners beside the traffic, started together: status, control API, Prometheus page.

use crate::access_log::AccessLog;
use crate::control_api::{self, ControlApi};
use crate::counters::Counters;
use crate::current::Current;
use crate::discovery::Discovery;
use crate::drain::Drain;
use crate::handover::{Gate, Inherited, Listening};
use crate::health::UpstreamHealth;
use crate::metrics_page::MetricsServer;
use crate::node::NodeStatus;
use crate::node_metrics::{NodeMetrics, PushError, Sources, limits};
use crate::secrets::NodeSecrets;
use crate::side_http::{SideLimits, SideListener, SideServer};
use crate::status::{self, Health};
use milecastle_export::Background;
use milecastle_pki::{ListenTlsError, ListenerTls};
use milecastle_plugin_api::NodeFacts;
use milecastle_settings::{Gateway as Settings, ListenTls};
use milecastle_snapshot::{Compiler, Snapshot};
use milecastle_telemetry::metrics;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

/// What the side servers read.
pub struct SideParts {
    /// Where the snapshot in force is, once there is one. Before that, the control API shows an empty configuration.
    pub current: Arc<OnceLock<Arc<Current>>>,
    /// Whether the node may receive traffic.
    pub health: Arc<Health>,
    /// The compiler of the default settings, which are in force until a configuration is.
    pub compiler: Arc<Compiler>,
    /// The metrics of this node. Its prefix is `plugin_attr.prometheus.metric_prefix`, and plugins find the same one in
    /// [`milecastle_plugin_api::Shared`].
    pub metrics: Arc<metrics::Registry>,
    /// What the node counts.
    pub counters: Arc<Counters>,
    /// Health of upstream nodes.
    pub upstream_health: Arc<UpstreamHealth>,
    /// Instances of services.
    pub discovery: Arc<Discovery>,
    /// What references stand for.
    pub secrets: Arc<NodeSecrets>,
    /// What the node knows of its configuration.
    pub node: Arc<dyn Fn() -> NodeStatus + Send + Sync>,
    /// Facts of the node.
    pub facts: NodeFacts,
    /// The access logs that are written.
    pub access_logs: Vec<Arc<AccessLog>>,
    /// How far the end of the process has come.
    pub drain: Arc<Drain>,
    /// Nobody is let in before it opens.
    pub gate: Gate,
    /// Where metrics are pushed from.
    pub exporters: Arc<Background>,
}

/// Why the side servers did not start.
#[derive(Debug, thiserror::Error)]
pub enum SideError {
    /// An address cannot be bound.
    #[error("{addr} cannot be opened: {source}; free it or change {key}")]
    Listen {
        /// The key that sets it.
        key: &'static str,
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The registry has a metric that takes the name of one of the node's own.
    #[error(transparent)]
    Metric(#[from] metrics::MetricError),
    /// The certificate of one of them cannot be used.
    #[error(transparent)]
    Tls(#[from] ListenTlsError),
    /// The collector that metrics are to be pushed to.
    #[error("metrics_push: {0}")]
    Push(#[from] PushError),
}

/// The running side servers. They end when this is dropped.
pub struct SideServers {
    status: SideServer,
    control: Option<SideServer>,
    metrics: Option<MetricsServer>,
    listening: Vec<Listening>,
}

impl SideServers {
    /// Opens the listeners that the settings ask for, on the runtime that this is called on; their sockets may be `inherited`.
    ///
    /// # Errors
    /// An address is taken, or a metric's name, or a certificate cannot be used.
    pub async fn start(settings: &Settings, parts: SideParts, inherited: &mut Inherited) -> Result<Self, SideError> {
        let SideParts {
            current,
            health,
            compiler,
            metrics,
            counters,
            upstream_health,
            discovery,
            secrets,
            node,
            facts,
            access_logs,
            drain,
            gate,
            exporters,
        } = parts;
        let apisix = &settings.apisix;
        let side_limits = SideLimits::new(settings, &metrics)?;
        let mut listening = Vec::new();
        let mut open = |key: &'static str, addr, section: &'static str, tls: &ListenTls| {
            let tls = ListenerTls::load(section, tls, &metrics)?;
            let opened = SideListener::open(key, addr, inherited, &gate, &side_limits, tls);
            let (listener, own) = opened.map_err(|source| SideError::Listen { key, addr, source })?;
            listening.push(own);
            Ok::<_, SideError>(listener)
        };
        let tls = &settings.side_tls;
        let listener = open("apisix.status.port", apisix.status.socket(), "side_tls.status", &tls.status)?;
        let status = status::serve(listener, health);
        let control = if apisix.enable_control {
            let snapshot = in_force(current.clone(), &compiler);
            let dir = settings.state.dir().to_owned();
            let api = ControlApi::new(snapshot, upstream_health.clone(), discovery.clone(), drain.clone(), dir);
            let listener = open("apisix.control.port", apisix.control.socket(), "side_tls.control", &tls.control)?;
            let waited = limits::family(&metrics)?.with(&[limits::CONTROL_ANSWERS]);
            Some(control_api::serve(listener, api, settings.limits.control_answers, waited))
        } else {
            None
        };
        let prometheus = &settings.plugin_attr.prometheus;
        let registry = metrics.clone();
        let sources = Sources {
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
        };
        let node_metrics = Arc::new(NodeMetrics::new(sources, prometheus)?);
        node_metrics.push(&settings.metrics_push)?;
        let metrics = if prometheus.enable_export_server {
            let (key, addr) = ("plugin_attr.prometheus.export_addr.port", prometheus.export_addr.socket());
            let listener = open(key, addr, "side_tls.prometheus", &tls.prometheus)?;
            Some(MetricsServer::start(listener, prometheus, move || node_metrics.render()).await)
        } else {
            None
        };
        Ok(Self { status, control, metrics, listening })
    }

    /// Gives away what a process needs that takes the listeners over. To be dropped before they are to close.
    pub fn take_listening(&mut self) -> Vec<Listening> {
        std::mem::take(&mut self.listening)
    }

    /// Leaves the addresses to another process that listens on the same sockets.
    pub fn leave(&self) {
        let metrics = self.metrics.as_ref().map(MetricsServer::server);
        [Some(&self.status), self.control.as_ref(), metrics].into_iter().flatten().for_each(SideServer::leave);
    }

    /// Where `/status` is answered.
    pub fn status_addr(&self) -> SocketAddr {
        self.status.local_addr()
    }

    /// Where the control API is, if it is served.
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.control.as_ref().map(SideServer::local_addr)
    }

    /// Where the Prometheus page is, if it is served.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(|metrics| metrics.server().local_addr())
    }
}

/// Reads the snapshot in force, and an empty one before the first.
fn in_force(
    current: Arc<OnceLock<Arc<Current>>>,
    compiler: &Compiler,
) -> impl Fn() -> Arc<Snapshot> + Send + Sync + use<> {
    let none = Arc::new(Snapshot::empty("", compiler));
    move || current.get().map_or_else(|| none.clone(), |current| current.load())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Alarm, LastGoodFigures};
    use milecastle_model::{Key, Kind, Object};
    use milecastle_pki::chain_ends;
    use milecastle_plugin_api::{NoSecrets, Registry, Shared};
    use milecastle_settings::{IpPort, SideTls, Time};
    use milecastle_testkit::tls::Authority;
    use milecastle_testkit::{Call, Target, TempDir, eventually};
    use serde_json::{Map, json};
    use std::fs;
    use std::time::{Duration, UNIX_EPOCH};

    fn settings() -> Settings {
        let mut settings = Settings::default();
        let loopback = IpPort { port: 0, ..settings.apisix.control.clone() };
        settings.apisix.status = loopback.clone();
        settings.apisix.control = loopback.clone();
        settings.plugin_attr.prometheus.export_addr = loopback;
        settings
    }

    struct Fixture {
        parts: SideParts,
        compiler: Arc<Compiler>,
    }

    fn fixture() -> Fixture {
        let registry = Registry::new(&[], Map::new(), Arc::new(Shared::default()), Arc::new(NoSecrets));
        let compiler = Arc::new(Compiler::new(Arc::new(registry)));
        let last_good =
            LastGoodFigures { revision: Some(6), generations: 3, failures: 1, ..LastGoodFigures::default() };
        let status = NodeStatus {
            head: 9,
            quarantined: 2,
            connected_to: Some("cp".to_owned()),
            alarms: [(Alarm::LastGood, "the disk is full".to_owned())].into(),
            last_good,
            ..NodeStatus::default()
        };
        let parts = SideParts {
            current: Arc::default(),
            health: Arc::new(Health::new(2)),
            compiler: compiler.clone(),
            metrics: Arc::new(metrics::Registry::new("gw_", 2)),
            counters: Arc::new(Counters::new(2)),
            upstream_health: Arc::default(),
            discovery: Discovery::new(&settings().discovery, tokio::runtime::Handle::current(), None, None).unwrap(),
            secrets: NodeSecrets::new(&settings().secrets, &tokio::runtime::Handle::current(), Background::default()),
            node: Arc::new(move || status.clone()),
            facts: NodeFacts { hostname: "host-1".into(), version: "1.2.3", tracing: false },
            access_logs: Vec::new(),
            drain: Arc::new(Drain::new("1.2.3", Duration::ZERO)),
            gate: Gate::open(),
            exporters: Arc::default(),
        };
        Fixture { parts, compiler }
    }

    fn current(compiler: &Compiler) -> Arc<Current> {
        let body = json!({"id": "1", "uri": "/a"}).to_string().into();
        let route = Object { key: Key::new(Kind::Route, "1"), body, created: 7, modified: 7 };
        let (snapshot, _) = compiler.build("line", 7, vec![route]);
        Arc::new(Current::new(Arc::new(snapshot)))
    }

    #[tokio::test]
    async fn before_the_first_configuration_there_is_nothing_to_show() {
        let Fixture { parts, compiler } = fixture();
        let first = parts.current.clone();
        let side = SideServers::start(&settings(), parts, &mut Inherited::default()).await.unwrap();
        let (status, control) = (side.status_addr(), side.control_addr().unwrap());
        assert_eq!(Call::get("/status").to(status).await.unwrap().status, 503);
        assert_eq!(Call::get("/v1/routes").to(control).await.unwrap().text(), "[]");
        first.get_or_init(|| current(&compiler));
        assert_eq!(Call::get("/v1/routes").to(control).await.unwrap().json().unwrap()[0]["createdIndex"], 7);
    }

    #[tokio::test]
    async fn the_page_shows_the_node() {
        let Fixture { parts, compiler } = fixture();
        let (first, counters) = (parts.current.clone(), parts.counters.clone());
        first.get_or_init(|| current(&compiler));
        let (one, two) = (counters.worker(0), counters.worker(1));
        [&one.accepted, &one.accepted, &two.accepted, &two.waiting, &one.requests, &two.pool_hits, &one.responses_5xx]
            .into_iter()
            .for_each(crate::counters::Counter::up);
        counters.hook_panicked("probe");
        let side = SideServers::start(&settings(), parts, &mut Inherited::default()).await.unwrap();
        let answer = Call::get("/apisix/prometheus/metrics").to(side.metrics_addr().unwrap()).await.unwrap();
        assert_eq!((answer.status, answer.header("content-type").as_str()), (200, "text/plain"));
        let page = answer.text();
        for line in [
            "# TYPE gw_nginx_http_current_connections gauge",
            "gw_nginx_http_current_connections{state=\"accepted\"} 3",
            "gw_nginx_http_current_connections{state=\"active\"} 0",
            "gw_nginx_http_current_connections{state=\"waiting\"} 1",
            "# TYPE gw_http_requests_total gauge",
            "gw_http_requests_total 1",
            "gw_node_info{hostname=\"host-1\",version=\"1.2.3\"} 1",
            "gw_nginx_metric_errors_total 0",
            "gw_worker_accepted_connections_total{worker=\"0\"} 2",
            "gw_worker_accepted_connections_total{worker=\"1\"} 1",
            "gw_upstream_pool_hits_total 1",
            "gw_responses_5xx_total 1",
            "gw_plugin_panics_total{plugin=\"probe\"} 1",
            "gw_access_log_dropped_lines_total 0",
            "gw_config_revision 7",
            "gw_config_head_revision 9",
            "gw_config_quarantined_objects 2",
            "gw_config_stream_connected 1",
            "gw_config_alarms 1",
            "gw_last_good_revision 6",
            "gw_last_good_generations 3",
            "gw_last_good_failures_total 1",
        ] {
            assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
        }
        let value = |name: &str| -> f64 {
            let line = page.lines().find_map(|line| line.strip_prefix(name)).expect("the metric is shown");
            line.trim().parse().unwrap()
        };
        assert!(value("gw_process_resident_memory_bytes ") > 100_000.0);
        assert!(value("gw_config_published_timestamp_seconds ") > 1.6e9);
        assert!(page.lines().all(|line| line.starts_with("gw_") || line.starts_with("# ")), "{page}");
    }

    #[tokio::test]
    async fn each_speaks_tls_with_the_certificate_that_its_files_hold_now() {
        let (files, authority) = (TempDir::new(), Authority::new("side"));
        let put = |authority: &Authority| {
            let identity = authority.issue(&["localhost"]);
            fs::write(files.path().join("key.pem"), identity.key).unwrap();
            fs::write(files.path().join("cert.pem"), identity.cert).unwrap();
        };
        put(&authority);
        let path = |name: &str| Some(files.path().join(name));
        let reload = Time::millis(50);
        let tls = ListenTls { cert_file: path("cert.pem"), key_file: path("key.pem"), reload, ..ListenTls::default() };
        let mut settings = settings();
        settings.side_tls = SideTls { status: tls.clone(), control: tls.clone(), prometheus: tls };
        let side = SideServers::start(&settings, fixture().parts, &mut Inherited::default()).await.unwrap();
        let status = async |addr: SocketAddr, path: &str, authority: &Authority| {
            let mut connection = Target::tls(addr, "localhost", &authority.pem()).connect().await.ok()?;
            Some(Call::get(path).send(&mut connection).await.ok()?.status)
        };
        let all = [
            (side.status_addr(), "/status", 503),
            (side.control_addr().unwrap(), "/v1/routes", 200),
            (side.metrics_addr().unwrap(), "/apisix/prometheus/metrics", 200),
        ];
        for (addr, path, expected) in all {
            assert_eq!(status(addr, path, &authority).await, Some(expected), "{path}");
            assert!(Call::get(path).to(addr).await.is_err(), "no plain HTTP: {path}");
        }
        let (metrics, path, _) = all[2];
        let mut connection = Target::tls(metrics, "localhost", &authority.pem()).connect().await.unwrap();
        let page = Call::get(path).send(&mut connection).await.unwrap().text();
        let end = chain_ends(&fs::read_to_string(files.path().join("cert.pem")).unwrap()).unwrap();
        let end = end.duration_since(UNIX_EPOCH).unwrap().as_secs();
        for section in ["status", "control", "prometheus"] {
            let name = "gw_listener_certificate_end_timestamp_seconds";
            let line = format!("{name}{{section=\"side_tls.{section}\"}} {end}");
            assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
        }
        let renewed = Authority::new("renewed");
        put(&renewed);
        for (addr, path, expected) in all {
            eventually("the renewed certificate is shown", async || {
                status(addr, path, &renewed).await == Some(expected)
            })
            .await;
        }
    }

    #[tokio::test]
    async fn servers_can_be_switched_off_and_say_what_is_taken() {
        let mut settings = settings();
        settings.apisix.enable_control = false;
        settings.plugin_attr.prometheus.enable_export_server = false;
        let side = SideServers::start(&settings, fixture().parts, &mut Inherited::default()).await.unwrap();
        assert_eq!((side.control_addr(), side.metrics_addr()), (None, None));
        settings.apisix.status.port = side.status_addr().port();
        let error = SideServers::start(&settings, fixture().parts, &mut Inherited::default())
            .await
            .err()
            .expect("the port is taken")
            .to_string();
        assert!(error.contains("apisix.status.port"), "{error}");
    }
}
