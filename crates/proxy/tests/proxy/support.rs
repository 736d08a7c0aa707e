//! A gateway with a configuration of its own, and upstreams that follow a script.

use bytes::Bytes;
use milecastle_export::Background;
use milecastle_model::{Key, Kind, Object};
use milecastle_plugin_api::{
    BodyNeed, BodyNeeds, BuildCx, ConfigError, Flow, Hooks, NoSecrets, NodeFacts, OnAccess, OnBody, OnHeaders, OnLog,
    Plugin, PluginDef, Registry, Reply, RequestCx, Shared,
};
use milecastle_proxy::drain::Drain;
use milecastle_proxy::handover::{Gate, Inherited};
use milecastle_proxy::node::NodeStatus;
use milecastle_proxy::status::Health;
use milecastle_proxy::{
    AccessLog, Counters, Current, Discovery, Gateway, GatewayConfig, GatewayParts, HealthFigures, NodeSecrets,
    OnRequestEnd, SideParts, SideServers, Totals, UpstreamHealth,
};
use milecastle_settings::{Gateway as Settings, HttpListen, IpPort, NodeListen, SslListen, Time};
use milecastle_snapshot::Compiler;
use milecastle_telemetry::metrics;
use milecastle_testkit::{Answer, Call, wait_for_blocking};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

pub(crate) const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// What one ended request looked like to the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) target: String,
    pub(crate) status: u16,
    pub(crate) client_gone: bool,
    pub(crate) body_bytes: u64,
    pub(crate) attempts: Vec<u16>,
    pub(crate) client: String,
}

#[derive(Default)]
struct Lines {
    seen: Mutex<Vec<Line>>,
    log: Option<AccessLog>,
}

impl OnRequestEnd for Lines {
    fn on_request_end(&self, cx: &RequestCx) {
        self.seen.lock().unwrap().push(Line {
            target: cx.request.received_target().to_owned(),
            status: cx.response.logged_status(),
            client_gone: cx.response.client_gone,
            body_bytes: cx.response.body_bytes_sent,
            attempts: cx.upstream.attempts().map(|attempt| attempt.status).collect(),
            client: cx.client_ip.to_string(),
        });
        if let Some(log) = &self.log {
            log.on_request_end(cx);
        }
    }
}

/// A gateway for one test.
pub(crate) struct Bed {
    gateway: Option<Gateway>,
    side: tokio::runtime::Runtime,
    current: Arc<Current>,
    upstream_health: Arc<UpstreamHealth>,
    discovery: Arc<Discovery>,
    settings: Settings,
    compiler: Compiler,
    revision: u64,
    lines: Arc<Lines>,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
}

/// An object of a configuration.
pub(crate) fn object(kind: Kind, id: &str, body: Value) -> Object {
    Object { key: Key::new(kind, id), body: body.to_string().into(), created: 1, modified: 1 }
}

/// A route of everything to these nodes.
pub(crate) fn route_to(nodes: &[SocketAddr], more: Value) -> Vec<Object> {
    let nodes: Vec<Value> =
        nodes.iter().map(|addr| json!({ "host": addr.ip().to_string(), "port": addr.port(), "weight": 1 })).collect();
    let mut upstream = json!({ "nodes": nodes });
    let mut route = json!({ "uri": "/*", "upstream_id": "u" });
    for (name, value) in more.as_object().unwrap() {
        match name.as_str() {
            "upstream" => upstream.as_object_mut().unwrap().extend(value.as_object().unwrap().clone()),
            _ => drop(route.as_object_mut().unwrap().insert(name.clone(), value.clone())),
        }
    }
    vec![object(Kind::Upstream, "u", upstream), object(Kind::Route, "r", route)]
}

impl Bed {
    pub(crate) fn new(objects: Vec<Object>) -> Self {
        Self::with(objects, |_| {})
    }

    /// A gateway whose file is changed by `change`.
    pub(crate) fn with(objects: Vec<Object>, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings { workers: 1, ..Settings::default() };
        settings.apisix.node_listen = NodeListen(vec![HttpListen { ip: LOCAL, port: 0, enable_http2: None }]);
        settings.apisix.ssl.listen = vec![SslListen { ip: LOCAL, port: 0, enable_http2: None, enable_http3: false }];
        settings.nginx_config.http.enable_access_log = false;
        change(&mut settings);
        let facts = NodeFacts { hostname: "test".into(), version: "1.2.3", tracing: false };
        let defs = [&const { PluginDef::of::<Early>() }, &const { PluginDef::of::<Witness>() }];
        let registry = Registry::new(&defs, Map::new(), Arc::new(Shared::default()), Arc::new(NoSecrets));
        let compiler = Compiler::new(Arc::new(registry));
        let (snapshot, rejected) = compiler.build("test", 1, objects);
        assert!(rejected.is_empty(), "{:?}", rejected.iter().map(|r| (&r.key, &r.reason)).collect::<Vec<_>>());
        let current = Arc::new(Current::new(Arc::new(snapshot)));
        let upstream_health: Arc<UpstreamHealth> = Arc::default();
        let side = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let lines = Arc::new(Lines { log: AccessLog::of_requests(&settings, 1).unwrap(), ..Lines::default() });
        let config = GatewayConfig::new(&settings, &facts).unwrap();
        let directory = settings.state.dir.as_deref();
        let discovery = Discovery::new(&settings.discovery, side.handle().clone(), directory, None).unwrap();
        let gateway = Gateway::start(
            GatewayParts {
                counters: Arc::new(Counters::new(config.workers())),
                config,
                facts,
                current: current.clone(),
                upstream_health: upstream_health.clone(),
                discovery: discovery.clone(),
                side: side.handle().clone(),
                on_end: Some(lines.clone()),
                on_session_end: None,
                drain: Arc::new(Drain::new("1.2.3", Duration::ZERO)),
                gate: Gate::open(),
            },
            &mut Inherited::default(),
        )
        .unwrap();
        let addr = |tls: bool| gateway.local_addrs().iter().find(|local| local.tls == tls).unwrap().addr;
        let (http, https) = (addr(false), addr(true));
        let gateway = Some(gateway);
        Self { gateway, side, current, upstream_health, discovery, settings, compiler, revision: 1, lines, http, https }
    }

    /// Puts another configuration in force.
    pub(crate) fn publish(&mut self, objects: Vec<Object>) {
        self.revision += 1;
        let (snapshot, rejected) = self.compiler.build("test", self.revision, objects);
        assert!(rejected.is_empty());
        self.current.publish(Arc::new(snapshot));
    }

    pub(crate) fn current(&self) -> &Arc<Current> {
        &self.current
    }

    pub(crate) fn totals(&self) -> Totals {
        self.gateway.as_ref().unwrap().counters().totals()
    }

    /// Open client connections of each worker.
    pub(crate) fn open_by_worker(&self) -> Vec<u64> {
        self.gateway.as_ref().unwrap().counters().by_worker().map(|totals| totals.active).collect()
    }

    pub(crate) fn panics(&self, plugin: &str) -> u64 {
        self.gateway.as_ref().unwrap().counters().panics().get(plugin).copied().unwrap_or_default()
    }

    /// Opens control API and Prometheus page of this gateway.
    pub(crate) fn side_servers(&self) -> SideServers {
        let mut settings = self.settings.clone();
        let loopback = IpPort { port: 0, ..settings.apisix.control.clone() };
        (settings.apisix.status, settings.apisix.control) = (loopback.clone(), loopback.clone());
        settings.plugin_attr.prometheus.export_addr = loopback;
        settings.plugin_attr.prometheus.refresh_interval = Time::millis(20);
        let parts = SideParts {
            current: Arc::new(OnceLock::from(self.current.clone())),
            health: Arc::new(Health::new(1)),
            compiler: Arc::new(self.compiler.clone()),
            metrics: Arc::new(metrics::Registry::new("gw_", 1)),
            counters: self.gateway.as_ref().unwrap().counters().clone(),
            upstream_health: self.upstream_health.clone(),
            discovery: self.discovery.clone(),
            secrets: NodeSecrets::new(&settings.secrets, self.side.handle(), Background::default()),
            node: Arc::new(NodeStatus::default),
            facts: NodeFacts { hostname: "test".into(), version: "1.2.3", tracing: false },
            access_logs: Vec::new(),
            exporters: Arc::default(),
            drain: Arc::new(Drain::new("1.2.3", Duration::ZERO)),
            gate: Gate::open(),
        };
        self.run(SideServers::start(&settings, parts, &mut Inherited::default())).unwrap()
    }

    pub(crate) fn health(&self) -> HealthFigures {
        self.upstream_health.figures()
    }

    /// Runs client code.
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.side.block_on(work)
    }

    /// Runs client code beside the test.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.side.spawn(work)
    }

    pub(crate) fn call(&self, call: Call) -> Answer {
        self.run(call.to(self.http)).unwrap()
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.call(Call::get(target))
    }

    /// Sends bytes and returns what comes back until the gateway closes.
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        self.run(milecastle_testkit::raw::exchange(self.http, bytes)).unwrap()
    }

    /// The log lines, once there are `count`.
    pub(crate) fn lines(&self, count: usize) -> Vec<Line> {
        let lines = wait_for_blocking("log lines", SOON, || {
            let lines = self.lines.seen.lock().unwrap();
            (lines.len() >= count).then(|| lines.clone())
        });
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }

    /// Waits until the totals are as wanted.
    pub(crate) fn wait_totals(&self, what: &str, wanted: impl Fn(&Totals) -> bool) {
        wait_for_blocking(what, SOON, || wanted(&self.totals()).then_some(()));
    }

    /// Ends the gateway in order; says whether all connections ended by themselves.
    pub(crate) fn drain(mut self, deadline: Duration) -> bool {
        let gateway = self.gateway.take().unwrap();
        self.side.block_on(gateway.drain(deadline))
    }

    /// Begins to end the gateway while the test goes on.
    pub(crate) fn start_drain(&mut self, deadline: Duration) -> tokio::task::JoinHandle<bool> {
        let gateway = self.gateway.take().unwrap();
        self.side.spawn(gateway.drain(deadline))
    }
}

/// An upstream that answers each connection by a script.
pub(crate) struct Scripted {
    pub(crate) addr: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
}

impl Scripted {
    /// `serve` gets each connection and its number, from 0.
    pub(crate) fn new(serve: impl Fn(&mut TcpStream, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, serve) = (connections.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let serve = serve.clone();
                std::thread::spawn(move || serve(&mut stream, number));
            }
        });
        Self { addr, connections }
    }

    /// Answers every request, whatever it is, with these bytes, and keeps the connection if `keep`.
    pub(crate) fn answering(answer: impl Into<Vec<u8>>, keep: bool) -> Self {
        let answer = answer.into();
        Self::new(move |stream, _| {
            while read_head(stream).is_some() {
                if stream.write_all(&answer).is_err() || !keep {
                    break;
                }
            }
        })
    }
}

/// Reads up to the end of a request's head; `None` when the connection ends.
pub(crate) fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

/// What [`Witness`] does.
#[derive(Clone, Default, Deserialize, JsonSchema)]
pub(crate) struct WitnessConfig {
    /// Phase in which to panic.
    panic_in: Option<String>,
    /// Status with which to end the request in `access`.
    reply: Option<u16>,
    /// Bytes of the request's body to ask for; the answer's header `X-Seen` tells how many came.
    whole: Option<usize>,
    /// Puts brackets around every piece of the answer's body.
    #[serde(default)]
    brackets: bool,
    /// A header for the answer, `name: value`.
    header: Option<String>,
    /// Protocols that the client may change to.
    upgrades: Option<Vec<String>>,
    /// A status in place of the answer's.
    status: Option<u16>,
}

/// A plugin that acts in every phase, as told.
pub(crate) struct Witness(WitnessConfig);

impl Plugin for Witness {
    type Config = WitnessConfig;
    const NAME: &'static str = "witness";
    const PRIORITY: i32 = 1;

    fn compile(config: WitnessConfig, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        Ok(Self(config))
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.access().headers().body().log()
    }

    fn body_needs(&self) -> BodyNeeds {
        let request = self.0.whole.map_or(BodyNeed::None, |max_bytes| BodyNeed::Whole { max_bytes });
        let in_body = self.0.brackets || self.0.panic_in.as_deref() == Some("body");
        BodyNeeds { request, response: if in_body { BodyNeed::Stream } else { BodyNeed::None } }
    }
}

/// What [`Early`] asks for.
#[derive(Clone, Default, Deserialize, JsonSchema)]
pub(crate) struct EarlyConfig {
    /// Headers for the answer, `name: value`.
    set: Vec<String>,
    /// The same, where the answer brings none.
    #[serde(default)]
    default: Vec<String>,
}

/// A plugin that asks for headers and looks at no answer.
pub(crate) struct Early(EarlyConfig);

impl Plugin for Early {
    type Config = EarlyConfig;
    const NAME: &'static str = "early";
    const PRIORITY: i32 = 2;

    fn compile(config: EarlyConfig, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        Ok(Self(config))
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.access()
    }
}

impl OnAccess for Early {
    fn on_access<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        let field = |line: &String| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.parse().unwrap(), value.parse().unwrap())
        };
        self.0.set.iter().map(field).for_each(|(name, value)| cx.set_response_header(name, value));
        self.0.default.iter().map(field).for_each(|(name, value)| cx.default_response_header(name, value));
        Flow::Next
    }
}

impl Witness {
    fn enter(&self, phase: &str) {
        assert_ne!(self.0.panic_in.as_deref(), Some(phase), "a panic of a plugin");
    }
}

impl OnAccess for Witness {
    fn on_access<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        self.enter("access");
        if self.0.whole.is_some() {
            let seen = match &cx.request.body {
                milecastle_plugin_api::Body::Read { bytes, partial } => format!("{} {partial}", bytes.len()),
                milecastle_plugin_api::Body::None => "none".into(),
                milecastle_plugin_api::Body::Streaming { .. } => "unread".into(),
            };
            cx.set_response_header("x-seen".parse().unwrap(), seen.parse().unwrap());
        }
        cx.upgrades = self.0.upgrades.clone().map(Into::into);
        match self.0.reply {
            Some(status) => Flow::Reply(Reply::text(http::StatusCode::from_u16(status).unwrap(), "ended")),
            None => Flow::Next,
        }
    }
}

impl OnHeaders for Witness {
    fn on_headers(&self, cx: &mut RequestCx) {
        self.enter("headers");
        if let Some(status) = self.0.status {
            cx.response.status = http::StatusCode::from_u16(status).unwrap();
        }
        if let Some((name, value)) = self.0.header.as_ref().and_then(|header| header.split_once(": ")) {
            let name: http::HeaderName = name.parse().unwrap();
            cx.response.headers.insert(name, value.parse().unwrap());
        }
    }
}

impl OnBody for Witness {
    fn on_body(&self, _: &mut RequestCx, chunk: &mut Bytes, last: bool) {
        self.enter("body");
        if self.0.brackets && (!chunk.is_empty() || last) {
            *chunk = [&b"["[..], chunk, if last { b"]." } else { b"]" }].concat().into();
        }
    }
}

impl OnLog for Witness {
    fn on_log(&self, _: &mut RequestCx) {
        self.enter("log");
    }
}
