//! The gateway's file.

mod apisix;
mod member;
mod metrics_push;
mod nginx;
mod node;
mod ocsp;
mod prometheus;
mod secrets;
mod stream;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use apisix::{Apisix, HttpListen, NodeListen, Ssl, SslListen, TlsVersion, TlsVersions, TrustedAddresses};
pub use member::{ControlPlane, State};
pub use metrics_push::MetricsPush;
pub use nginx::{EscapeStyle, NginxConfig, NginxHttp, UpstreamKeepalive};
pub use node::{
    AmbiguousPath, Dns, Limits, LongConnectionPolicy, LongConnections, Shutdown, Timeouts, Upgrade, UpstreamPool,
    UpstreamTls,
};
pub use ocsp::Ocsp;
pub use prometheus::{MetricSettings, Prometheus};
pub use secrets::Secrets;
pub use stream::{NginxStream, ProxyProtocol, ProxyVersion, StreamProxy, TcpListen};

use crate::listener::Listener;
use crate::load::{Checks, File};
use crate::{Discovery, ListenTls, Log, Size};

/// Configuration of a gateway node: the file of `milecastle gateway`, and the section `gateway` of `milecastle up`.
///
/// The sections `apisix`, `nginx_config` and `plugin_attr` speak the names operators know from Apache APISIX. What decides what
/// can be built (enabled plugins, router) is no key of this file but a setting of the gateway group, which comes to every node
/// with the configuration: `milecastle group settings`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Gateway {
    /// Listeners, TLS, matching and what answers tell about the gateway.
    pub apisix: Apisix,
    /// The settings of the reference's HTTP server that have a meaning here.
    pub nginx_config: NginxConfig,
    /// Settings of plugins that belong to the node, not to a route.
    pub plugin_attr: PluginAttr,
    /// TLS of the listeners beside the traffic.
    pub side_tls: SideTls,
    /// Where metrics are pushed to, beside the Prometheus page.
    pub metrics_push: MetricsPush,
    /// Worker threads, one runtime and one set of listening sockets each; 0 is one for each core.
    #[schemars(range(max = 1024), extend("x-unit" = "threads"))]
    pub workers: u16,
    /// Whether a worker hands a new TCP connection, before it reads anything of it, to another one that has fewer, by more than an eighth of its own.
    /// The system spreads connections by a hash, by which of a few long ones most often come to one worker.
    pub balance_connections: bool,
    /// Threads of the runtime beside the workers: configuration stream, health checks, DNS, exporters, log shippers.
    #[schemars(range(min = 1, max = 64), extend("x-unit" = "threads"))]
    pub background_threads: u16,
    /// Where the configuration comes from.
    pub control_plane: ControlPlane,
    /// Where the last good configuration is kept.
    pub state: State,
    /// Caps. Where one refuses, drops or cuts something, a metric counts it: one of its own, or `limit_hits_total` with the key as
    /// the label.
    pub limits: Limits,
    /// Time limits that no resource sets.
    pub timeouts: Timeouts,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// How another process takes its place.
    pub upgrade: Upgrade,
    /// What becomes of connections that last when the configuration changes.
    pub long_connections: LongConnections,
    /// Connections kept to upstreams, over all of them.
    pub upstream_pool: UpstreamPool,
    /// TLS with upstreams.
    pub upstream_tls: UpstreamTls,
    /// How OCSP responders are asked for what is stapled to certificates.
    pub ocsp: Ocsp,
    /// How secret managers are asked for what references stand for.
    pub secrets: Secrets,
    /// How names are resolved: of upstream nodes, and of servers that lines go to over UDP.
    pub dns: Dns,
    /// How registries of services are asked, and which ones this node has of its own: each takes the place of the one in the
    /// settings of its gateway group.
    pub discovery: Discovery,
    /// What is sent upstream when the client's path is ambiguous (encoded slash, dot segments, backslash and the like).
    pub ambiguous_path: AmbiguousPath,
}

/// What may be under way on one HTTP/2 stream (RFC 9113 §4.2, §6.9.1).
const HTTP2_STREAM: std::ops::RangeInclusive<Size> = Size::kib(16)..=Size::kib(1024 * 1024);
/// What a client may send on one HTTP/2 stream ahead of its reader. One that has not heard of less takes it for 64 KiB (RFC 9113 §6.9.2).
const STREAM_WINDOW: std::ops::RangeInclusive<Size> = Size::kib(64)..=Size::kib(1024 * 1024);
/// By how much a window of that size may grow at most.
const SHARED_WINDOW: Size = Size::kib(512 * 1024);
/// What may be under way on one HTTP/3 stream to the gateway, and on all of a connection to the client. The protocol itself asks for
/// nothing (RFC 9000 §4).
const HTTP3_WINDOW: std::ops::RangeInclusive<Size> = Size::kib(16)..=Size::kib(1024 * 1024);
/// Largest `limits.http3_connection_window`.
const MOST_HTTP3_CONNECTION_WINDOW: Size = Size::kib(16 * 1024 * 1024);

/// TLS of the listeners beside the traffic; each speaks plain HTTP unless it is given a certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SideTls {
    /// That of `apisix.status`: what load balancers ask.
    pub status: ListenTls,
    /// That of `apisix.control`: the control API.
    pub control: ListenTls,
    /// That of `plugin_attr.prometheus.export_addr`: the Prometheus page.
    pub prometheus: ListenTls,
}

/// See [`Gateway::plugin_attr`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PluginAttr {
    /// Metrics of this node.
    pub prometheus: Prometheus,
    /// Settings of other plugins, by the plugin's name; each plugin's page lists its own.
    #[serde(flatten)]
    pub others: BTreeMap<String, serde_json::Map<String, serde_json::Value>>,
}

/// The file of `milecastle gateway`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GatewayFile {
    /// What the process writes to standard error.
    pub log: Log,
    /// All the rest.
    #[serde(flatten)]
    pub gateway: Gateway,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            apisix: Apisix::default(),
            nginx_config: NginxConfig::default(),
            plugin_attr: PluginAttr::default(),
            side_tls: SideTls::default(),
            metrics_push: MetricsPush::default(),
            workers: 0,
            balance_connections: true,
            background_threads: 2,
            control_plane: ControlPlane::default(),
            state: State::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            shutdown: Shutdown::default(),
            upgrade: Upgrade::default(),
            long_connections: LongConnections::default(),
            upstream_pool: UpstreamPool::default(),
            upstream_tls: UpstreamTls::default(),
            ocsp: Ocsp::default(),
            secrets: Secrets::default(),
            dns: Dns::default(),
            discovery: Discovery::default(),
            ambiguous_path: AmbiguousPath::default(),
        }
    }
}

impl PluginAttr {
    /// The section as plugins are handed it: by plugin name, with the defaults filled in.
    pub fn to_json(&self) -> serde_json::Map<String, serde_json::Value> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(map)) => map,
            // A struct of plain values with text keys is an object.
            other => unreachable!("plugin_attr became {other:?}"),
        }
    }
}

impl Gateway {
    /// Every address that this node listens on, with the key that sets it, in the order of the file's reference page.
    pub fn listeners(&self) -> Vec<Listener> {
        let (apisix, mut all) = (&self.apisix, Vec::new());
        all.extend(apisix.node_listen.0.iter().map(|l| Listener::listed("apisix.node_listen", l.socket())));
        let tls = apisix.ssl.listen.iter().filter(|_| apisix.ssl.enable);
        all.extend(tls.map(|l| Listener::listed("apisix.ssl.listen", l.socket())));
        all.extend(
            apisix.proxy_protocol.http().map(|addr| Listener::listed("apisix.proxy_protocol.listen_http_port", addr)),
        );
        all.extend(
            apisix.proxy_protocol.https().map(|addr| Listener::listed("apisix.proxy_protocol.listen_https_port", addr)),
        );
        all.extend(apisix.stream_proxy.tcp_listeners());
        all.push(Listener::alone("apisix.status.port", self.apisix.status.socket()));
        if self.apisix.enable_control {
            all.push(Listener::alone("apisix.control.port", self.apisix.control.socket()));
        }
        let prometheus = &self.plugin_attr.prometheus;
        if prometheus.enable_export_server {
            all.push(Listener::alone("plugin_attr.prometheus.export_addr.port", prometheus.export_addr.socket()));
        }
        all
    }

    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        self.apisix.check(&mut checks.at("apisix"));
        self.plugin_attr.prometheus.check(&mut checks.at("plugin_attr.prometheus"));
        self.side_tls.status.check(&mut checks.at("side_tls.status"));
        self.side_tls.control.check(&mut checks.at("side_tls.control"));
        self.side_tls.prometheus.check(&mut checks.at("side_tls.prometheus"));
        self.metrics_push.check(&mut checks.at("metrics_push"));
        self.control_plane.check(&mut checks.at("control_plane"));
        self.state.check(&mut checks.at("state"));
        self.nginx_config.http.check(&mut checks.at("nginx_config.http"));
        self.nginx_config.stream.check(&mut checks.at("nginx_config.stream"));
        self.ocsp.check(&mut checks.at("ocsp"));
        self.secrets.check(&mut checks.at("secrets"));
        self.discovery.check(&mut checks.at("discovery"));
        for name in self.plugin_attr.others.keys() {
            checks.plugin(&format!("plugin_attr.{name}"), name);
        }
        let heads = [
            ("limits.header_bytes", self.limits.header_bytes),
            ("limits.upstream_header_bytes", self.limits.upstream_header_bytes),
        ];
        for (key, _) in heads.iter().filter(|(_, size)| *size < Size::kib(1)) {
            checks.fault(key, "expected at least 1k: no real message has a smaller head");
        }
        if !(Size::kib(8)..=Size::kib(1 << 20)).contains(&self.limits.side_header_bytes) {
            checks.fault("limits.side_header_bytes", "expected 8k to 1g");
        }
        let streams = [
            ("limits.http2_send_buffer", self.limits.http2_send_buffer),
            ("limits.upstream_http2_window", self.limits.upstream_http2_window),
            ("limits.upstream_http2_send_buffer", self.limits.upstream_http2_send_buffer),
        ];
        for (key, _) in streams.iter().filter(|(_, size)| !HTTP2_STREAM.contains(size)) {
            checks.fault(key, "expected 16k to 1g: the size of a frame, and what HTTP/2 can count");
        }
        if !STREAM_WINDOW.contains(&self.limits.http2_stream_window) {
            checks.fault("limits.http2_stream_window", "expected 64k, which a client takes for granted, to 1g");
        }
        if self.limits.http2_shared_window > SHARED_WINDOW {
            checks
                .fault("limits.http2_shared_window", "expected no more than 512m: HTTP/2 could not count the windows");
        }
        let http3 = [
            ("limits.http3_stream_window", self.limits.http3_stream_window),
            ("limits.http3_send_buffer", self.limits.http3_send_buffer),
        ];
        for (key, _) in http3.iter().filter(|(_, size)| !HTTP3_WINDOW.contains(size)) {
            checks.fault(key, "expected 16k to 1g: less would have every stream wait for its other side");
        }
        let least = Size::bytes(self.limits.http3_stream_window.get().saturating_mul(4));
        if !(least..=MOST_HTTP3_CONNECTION_WINDOW).contains(&self.limits.http3_connection_window) {
            checks.fault(
                "limits.http3_connection_window",
                "expected four times `limits.http3_stream_window`, so that bodies have shares of it, to 16g",
            );
        }
        checks.above_zero(&[
            ("timeouts.tls_handshake", self.timeouts.tls_handshake),
            ("timeouts.http2_ping", self.timeouts.http2_ping),
            ("timeouts.http3_silence", self.timeouts.http3_silence),
            ("timeouts.proxy_protocol", self.timeouts.proxy_protocol),
            ("timeouts.stream_preread", self.timeouts.stream_preread),
            ("timeouts.side_header", self.timeouts.side_header),
            ("upgrade.ready_timeout", self.upgrade.ready_timeout),
            ("upgrade.first_word", self.upgrade.first_word),
            ("upgrade.follow_interval", self.upgrade.follow_interval),
            ("dns.timeout", self.dns.timeout),
            ("dns.try_timeout", self.dns.try_timeout),
        ]);
        if self.shutdown.last_call > self.shutdown.drain {
            checks
                .fault("shutdown.last_call", "expected no more than `shutdown.drain`, which begins at the same moment");
        }
        if self.dns.min_ttl > self.dns.max_ttl {
            checks.fault("dns.min_ttl", "expected no more than `dns.max_ttl`");
        }
    }
}

impl File for GatewayFile {
    const ROLE: &'static str = "gateway";

    fn listeners(&self) -> Vec<Listener> {
        self.gateway.listeners()
    }

    fn check(&self, checks: &mut Checks<'_>) {
        self.gateway.check(checks);
        self.log.check(checks);
        if self.gateway.control_plane.endpoints.is_empty() {
            checks.fault(
                "control_plane.endpoints",
                "required: name at least one DP manager, e.g. `[\"https://control.example.org:17900\"]`",
            );
        }
    }
}
