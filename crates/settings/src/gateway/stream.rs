//! The keys of the TCP and UDP proxy, and of the PROXY protocol (docs/spec/stream.md §1, tls.md §1).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::nginx::{EscapeStyle, check_access_log};
use crate::listener::Listener;
use crate::load::Checks;
use crate::{Peers, PortRange};

/// Listeners of the TCP and UDP proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StreamProxy {
    /// TCP listeners: each a port, `ip:port`, a range of ports such as `2000-2100` (also behind an ip), or
    /// `{addr, tls, proxy_protocol, proxy_protocol_to_upstream, proxy_protocol_to_upstream_version}`. Each is of one family: a port
    /// alone is every IPv4 interface, `[::]:9100` every IPv6 interface alone; for both list both.
    pub tcp: Vec<TcpListen>,
    /// UDP listeners: each a port, `ip:port` or a range of ports, of one family as those of `tcp`.
    pub udp: Vec<PortRange>,
}

/// One entry of TCP listeners, whatever form the file uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "TcpListenForm")]
pub struct TcpListen {
    /// Port, `ip:port`, or a range of ports.
    pub addr: PortRange,
    /// Ends TLS here, with the certificates of the ssl objects.
    pub tls: bool,
    /// Expects the PROXY protocol in front; unset follows `apisix.proxy_protocol.enable_tcp_pp`.
    pub proxy_protocol: Option<bool>,
    /// Sends the PROXY protocol in front of what goes upstream; unset follows
    /// `apisix.proxy_protocol.enable_tcp_pp_to_upstream`.
    pub proxy_protocol_to_upstream: Option<bool>,
    /// In which version; unset follows `apisix.proxy_protocol.tcp_pp_to_upstream_version`.
    pub proxy_protocol_to_upstream_version: Option<ProxyVersion>,
}

/// A version of the PROXY protocol (HAProxy, `doc/proxy-protocol.txt`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyVersion {
    /// A line of text.
    #[default]
    V1,
    /// Binary.
    V2,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum TcpListenForm {
    Range(PortRange),
    Full(TcpListenFull),
}

/// One entry in full.
#[derive(Deserialize, JsonSchema)]
struct TcpListenFull {
    /// Port, `ip:port`, or a range of ports.
    addr: PortRange,
    /// Ends TLS here, with the certificates of the ssl objects.
    #[serde(default)]
    tls: bool,
    /// Expects the PROXY protocol in front; unset follows `apisix.proxy_protocol.enable_tcp_pp`.
    #[serde(default)]
    proxy_protocol: Option<bool>,
    /// Sends the PROXY protocol in front of what goes upstream; unset follows
    /// `apisix.proxy_protocol.enable_tcp_pp_to_upstream`.
    #[serde(default)]
    proxy_protocol_to_upstream: Option<bool>,
    /// In which version; unset follows `apisix.proxy_protocol.tcp_pp_to_upstream_version`.
    #[serde(default)]
    proxy_protocol_to_upstream_version: Option<ProxyVersion>,
}

/// Where the PROXY protocol is expected and sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ProxyProtocol {
    /// A further port for plain HTTP, on every IPv4 interface, whose clients send the PROXY protocol first; 0 lets the
    /// system choose one. The address that it names is the client's if the peer is in `nginx_config.http.real_ip_from`.
    pub listen_http_port: Option<u16>,
    /// As `listen_http_port`, for HTTPS.
    pub listen_https_port: Option<u16>,
    /// Expects the PROXY protocol on entries of `apisix.stream_proxy.tcp` that do not say otherwise.
    pub enable_tcp_pp: bool,
    /// Sends it upstream for entries of `apisix.stream_proxy.tcp` that do not say otherwise.
    pub enable_tcp_pp_to_upstream: bool,
    /// The version in which it is sent upstream: `v1`, a line of text, or `v2`, binary.
    pub tcp_pp_to_upstream_version: ProxyVersion,
}

/// The settings of the reference's TCP and UDP server that have a meaning here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NginxStream {
    /// Peers whose PROXY header names the client; the header of others is taken off and not believed.
    pub real_ip_from: Vec<Peers>,
    /// Whether a line is written at the end of each TCP and UDP session.
    pub enable_access_log: bool,
    /// File of these lines; `-` is standard output, a relative path starts at `state.dir`.
    pub access_log: PathBuf,
    /// Such a line, with the `$variables` of sessions.
    pub access_log_format: String,
    /// How values are escaped in it, as in `nginx_config.http.access_log_format_escape`.
    pub access_log_format_escape: EscapeStyle,
}

impl Default for NginxStream {
    fn default() -> Self {
        Self {
            real_ip_from: Vec::new(),
            enable_access_log: false,
            access_log: "logs/access_stream.log".into(),
            access_log_format: "$remote_addr [$time_local] $protocol $status $bytes_sent $bytes_received $session_time"
                .into(),
            access_log_format_escape: EscapeStyle::Default,
        }
    }
}

impl NginxStream {
    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        check_access_log(checks, self.enable_access_log, &self.access_log, &self.access_log_format);
    }
}

impl ProxyProtocol {
    /// Where plain HTTP behind the PROXY protocol is served.
    pub fn http(&self) -> Option<SocketAddr> {
        self.listen_http_port.map(|port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
    }

    /// Where HTTPS behind the PROXY protocol is served.
    pub fn https(&self) -> Option<SocketAddr> {
        self.listen_https_port.map(|port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
    }
}

impl From<TcpListenForm> for TcpListen {
    fn from(form: TcpListenForm) -> Self {
        match form {
            TcpListenForm::Range(addr) => Self {
                addr,
                tls: false,
                proxy_protocol: None,
                proxy_protocol_to_upstream: None,
                proxy_protocol_to_upstream_version: None,
            },
            TcpListenForm::Full(full) => Self {
                addr: full.addr,
                tls: full.tls,
                proxy_protocol: full.proxy_protocol,
                proxy_protocol_to_upstream: full.proxy_protocol_to_upstream,
                proxy_protocol_to_upstream_version: full.proxy_protocol_to_upstream_version,
            },
        }
    }
}

impl StreamProxy {
    /// Every TCP address, with the key that sets it. What UDP listens on stands beside them and can be the same.
    pub(super) fn tcp_listeners(&self) -> impl Iterator<Item = Listener> {
        self.tcp
            .iter()
            .flat_map(|listen| listen.addr.sockets())
            .map(|addr| Listener::listed("apisix.stream_proxy.tcp", addr))
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.udp.is_empty()
    }

    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        let mut taken: Vec<SocketAddr> = Vec::new();
        for addr in self.udp.iter().flat_map(PortRange::sockets).filter(|addr| addr.port() != 0) {
            let same = |other: &&SocketAddr| other.port() == addr.port() && overlap(other.ip(), addr.ip());
            if let Some(other) = taken.iter().find(same) {
                checks
                    .fault("stream_proxy.udp", &format!("{addr} is taken by {other}; each listener needs an address"));
            }
            taken.push(addr);
        }
    }
}

/// Whether sockets on both addresses get in each other's way.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
}
