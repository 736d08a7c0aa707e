//! The section `apisix` of the gateway's file (docs/spec/tls.md §1, routing.md, control-api.md).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stream::{ProxyProtocol, StreamProxy};
use crate::load::Checks;
use crate::{IpPort, NameServer, Peers, Time, UnitError};

/// Listeners, TLS, matching and what answers tell about the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Apisix {
    /// Listeners of the TCP and UDP proxy. Whether there are routes for them is the setting `proxy_mode` of the gateway group.
    pub stream_proxy: StreamProxy,
    /// Where the PROXY protocol is expected and sent.
    pub proxy_protocol: ProxyProtocol,
    /// Plain HTTP listeners: a port, a list of ports, or a list of `{ip, port, enable_http2}`. Each is of one family: an `ip` of
    /// `0.0.0.0`, the default, is every IPv4 interface, and `::` every IPv6 interface alone. For both list the port twice, as in
    /// `[9080, {ip: "::", port: 9080}]`.
    pub node_listen: NodeListen,
    /// HTTP/2 on the listeners that do not say otherwise: by ALPN on TLS, by prior knowledge on plain ports.
    pub enable_http2: bool,
    /// TLS listeners.
    pub ssl: Ssl,
    /// Where `/status` and `/status/ready` are answered, apart from the workers.
    pub status: IpPort,
    /// Whether the control API is served.
    pub enable_control: bool,
    /// Where the control API is served. It has no authentication: keep it local.
    pub control: IpPort,
    /// Peers whose `X-Forwarded-*` and `Forwarded` headers are believed. Unset believes nobody, but `X-Forwarded-For` of any peer goes on,
    /// with its address behind.
    pub trusted_addresses: Option<TrustedAddresses>,
    /// Resolvers for the names of upstream nodes, `address` or `address:port`; unset asks those of `/etc/resolv.conf`.
    pub dns_resolver: Option<Vec<NameServer>>,
    /// How long every answer of a resolver is kept, whatever its TTL; unset keeps it as long as it says, within `dns.min_ttl` and
    /// `dns.max_ttl`.
    pub dns_resolver_valid: Option<Time>,
    /// Appends the search list of `/etc/resolv.conf` to the names of upstream nodes.
    pub enable_resolv_search_opt: bool,
    /// Asks for IPv6 addresses of upstream nodes that have no IPv4 address.
    pub enable_ipv6: bool,
    /// Removes one trailing `/` of the path before matching; the upstream still gets the original.
    pub delete_uri_tail_slash: bool,
    /// Drops what follows `;` in every path segment before matching, as servlet containers do.
    pub normalize_uri_like_servlet: bool,
    /// Keeps `%2F` encoded while matching, where nothing else of the path needs normalising.
    pub match_uri_encoded_slash: bool,
    /// Answers `GET /apisix/nginx_status` on the listeners of traffic with the counters of connections, as nginx words them: to clients
    /// of 127.0.0.0/24, others get 403. A route that takes this path comes first; where none does, plugins of global rules do not see
    /// the request before it is answered, and cannot refuse it.
    pub enable_nginx_status: bool,
    /// Adds `X-APISIX-Upstream-Status` to every proxied answer, not only where the upstream's status is 5xx.
    pub show_upstream_status_in_response_header: bool,
    /// Traces (plugin `opentelemetry`) show each try at an upstream, and what the gateway and its plugins did in each phase, beside the
    /// request as a whole.
    pub tracing: bool,
    /// Switches all health checks of upstream nodes off, active and passive.
    pub disable_upstream_healthcheck: bool,
    /// Sends `Server: Milecastle/<version>` instead of `Server: Milecastle`. Off by default: a gateway at the edge need not
    /// tell strangers its version.
    pub enable_server_tokens: bool,
}

/// See [`Apisix::trusted_addresses`].
pub type TrustedAddresses = Vec<Peers>;

/// Plain HTTP listeners, whatever form the file uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "NodeListenForm")]
pub struct NodeListen(pub Vec<HttpListen>);

/// One plain HTTP listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpListen {
    /// Address of the interface; `0.0.0.0` is every IPv4 interface, `::` every IPv6 interface.
    #[serde(default = "any")]
    pub ip: IpAddr,
    /// TCP port; 0 lets the system choose one, which is printed at start.
    pub port: u16,
    /// HTTP/2 by prior knowledge on this listener; unset follows `apisix.enable_http2`.
    #[serde(default)]
    pub enable_http2: Option<bool>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum NodeListenForm {
    Port(u16),
    List(Vec<HttpListenForm>),
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum HttpListenForm {
    Port(u16),
    Full(HttpListen),
}

/// TLS listeners and what they offer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Ssl {
    /// Whether the TLS listeners are opened.
    pub enable: bool,
    /// The listeners, HTTP/3 beside them; each of one family, as those of `apisix.node_listen`. For both list the port twice, as in
    /// `[{port: 9443}, {ip: "::", port: 9443}]`.
    #[schemars(length(min = 1))]
    pub listen: Vec<SslListen>,
    /// Protocol versions, separated by spaces. `TLSv1` and `TLSv1.1` are accepted for compatibility, with a
    /// warning at start, and never offered.
    #[schemars(extend("format" = "tls-versions"))]
    pub ssl_protocols: TlsVersions,
    /// OpenSSL names of the suites for TLS 1.2, separated by `:`, in order of preference. Suites that are not built in are
    /// ignored with a warning at start.
    pub ssl_ciphers: String,
    /// Server name assumed where the client sends none.
    pub fallback_sni: Option<String>,
    /// Hands out session tickets for resumption, which the node need not remember.
    pub ssl_session_tickets: bool,
    /// Sessions that the node remembers for resumption without such tickets, for each ssl object; the oldest are forgotten first
    /// (`limit_hits_total`), and 0 remembers none. A key of Milecastle's own.
    #[schemars(extend("x-unit" = "sessions"))]
    pub ssl_session_cache: u32,
    /// How long a ticket (no longer than 12 hours) or a session that the node remembers can be resumed with; 0 lets none be. A
    /// resumption may leave a new ticket, whose time begins anew. Under an ssl object with `client` no session is resumed. A key
    /// of Milecastle's own.
    pub ssl_session_timeout: Time,
    /// Tickets that a client gets with each handshake of TLS 1.3. Where `ssl_session_tickets` is off each stands for a session that the
    /// node remembers, and is good for one resumption. 0 hands out none: sessions of TLS 1.3 are not resumed, and full
    /// handshakes are a little cheaper. A key of Milecastle's own.
    #[schemars(range(max = 8), extend("x-unit" = "tickets"))]
    pub ssl_num_tickets: u32,
    /// How long a client that comes over TCP may remember that the port also has HTTP/3 (`Alt-Svc`), where `enable_http3` is on;
    /// 0 tells nobody. A key of Milecastle's own.
    pub alt_svc_max_age: Time,
    /// Authorities that certificates of upstreams are verified with, by health checks over TLS and where `upstream_tls.verify`
    /// asks for it, and certificates of registries: a file in PEM, or `system` for those that the system trusts.
    pub ssl_trusted_certificate: String,
}

/// One TLS listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SslListen {
    /// Address of the interface; `0.0.0.0` is every IPv4 interface, `::` every IPv6 interface.
    #[serde(default = "any")]
    pub ip: IpAddr,
    /// TCP port; 0 lets the system choose one, which is printed at start.
    pub port: u16,
    /// HTTP/2 on this listener; unset follows `apisix.enable_http2`.
    #[serde(default)]
    pub enable_http2: Option<bool>,
    /// HTTP/3 beside it, on the UDP port of the same number.
    #[serde(default)]
    pub enable_http3: bool,
}

/// Protocol versions in the file's order, duplicates kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct TlsVersions(pub Vec<TlsVersion>);

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// `TLSv1`: never offered.
    V1_0,
    /// `TLSv1.1`: never offered.
    V1_1,
    /// `TLSv1.2`.
    V1_2,
    /// `TLSv1.3`.
    V1_3,
}

fn any() -> IpAddr {
    IpAddr::V4(Ipv4Addr::UNSPECIFIED)
}

impl HttpListen {
    /// As a socket address.
    pub const fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

impl SslListen {
    /// As a socket address.
    pub const fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

impl Apisix {
    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        self.stream_proxy.check(checks);
        if self.node_listen.0.is_empty() && !self.ssl.enable && self.stream_proxy.is_empty() {
            checks.fault(
                "node_listen",
                "expected at least one listener where `ssl.enable` is off and `stream_proxy` empty",
            );
        }
        if self.dns_resolver.as_ref().is_some_and(Vec::is_empty) {
            checks.fault("dns_resolver", "expected at least one resolver; leave the key out for those of the system");
        }
        if self.ssl.fallback_sni.as_ref().is_some_and(|name| name.trim().is_empty()) {
            checks.fault("ssl.fallback_sni", "expected a server name; leave the key out for none");
        }
        let http3 = self.ssl.enable && self.ssl.listen.iter().any(|l| l.enable_http3);
        if http3 && !self.ssl.ssl_protocols.0.contains(&TlsVersion::V1_3) {
            checks.fault("ssl.ssl_protocols", "expected `TLSv1.3` among them: HTTP/3 (`enable_http3`) knows no other");
        }
        if self.ssl.enable && !self.ssl.ssl_protocols.0.iter().any(|v| matches!(v, TlsVersion::V1_2 | TlsVersion::V1_3))
        {
            checks
                .fault("ssl.ssl_protocols", "expected `TLSv1.2`, `TLSv1.3` or both: older versions are never offered");
        }
    }
}

impl From<NodeListenForm> for NodeListen {
    fn from(form: NodeListenForm) -> Self {
        let plain = |port| HttpListen { ip: any(), port, enable_http2: None };
        Self(match form {
            NodeListenForm::Port(port) => vec![plain(port)],
            NodeListenForm::List(list) => list
                .into_iter()
                .map(|item| match item {
                    HttpListenForm::Port(port) => plain(port),
                    HttpListenForm::Full(listen) => listen,
                })
                .collect(),
        })
    }
}

impl TryFrom<String> for TlsVersions {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.split_whitespace()
            .map(|word| match word {
                "TLSv1" => Ok(TlsVersion::V1_0),
                "TLSv1.1" => Ok(TlsVersion::V1_1),
                "TLSv1.2" => Ok(TlsVersion::V1_2),
                "TLSv1.3" => Ok(TlsVersion::V1_3),
                _ => Err(UnitError("`TLSv1.2`, `TLSv1.3` or both, separated by a space")),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl From<TlsVersions> for String {
    fn from(versions: TlsVersions) -> Self {
        let words: Vec<_> = versions
            .0
            .iter()
            .map(|v| match v {
                TlsVersion::V1_0 => "TLSv1",
                TlsVersion::V1_1 => "TLSv1.1",
                TlsVersion::V1_2 => "TLSv1.2",
                TlsVersion::V1_3 => "TLSv1.3",
            })
            .collect();
        words.join(" ")
    }
}

impl Default for Apisix {
    fn default() -> Self {
        Self {
            stream_proxy: StreamProxy::default(),
            proxy_protocol: ProxyProtocol::default(),
            node_listen: NodeListen(vec![HttpListen { ip: any(), port: 9080, enable_http2: None }]),
            enable_http2: true,
            ssl: Ssl::default(),
            status: IpPort::any(7085),
            enable_control: true,
            control: IpPort::loopback(9090),
            trusted_addresses: None,
            dns_resolver: None,
            dns_resolver_valid: None,
            enable_resolv_search_opt: true,
            enable_ipv6: true,
            delete_uri_tail_slash: false,
            normalize_uri_like_servlet: false,
            match_uri_encoded_slash: false,
            enable_nginx_status: true,
            show_upstream_status_in_response_header: false,
            tracing: false,
            disable_upstream_healthcheck: false,
            enable_server_tokens: false,
        }
    }
}

impl Default for Ssl {
    fn default() -> Self {
        Self {
            enable: true,
            listen: vec![SslListen { ip: any(), port: 9443, enable_http2: None, enable_http3: false }],
            ssl_protocols: TlsVersions(vec![TlsVersion::V1_2, TlsVersion::V1_3]),
            ssl_ciphers: "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:\
                          ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
                .into(),
            fallback_sni: None,
            ssl_session_tickets: false,
            ssl_session_cache: 4096,
            ssl_session_timeout: Time::secs(600),
            ssl_num_tickets: 1,
            alt_svc_max_age: Time::secs(24 * 3600),
            ssl_trusted_certificate: "system".into(),
        }
    }
}
