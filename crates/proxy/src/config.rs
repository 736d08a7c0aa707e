//! What the data plane takes from the gateway's file, in the form the request path wants it.

use crate::dns::HostLookup;
use crate::h1::{Keep, Limits, Patience};
use crate::h2_client::Http2Limits;
use http::{HeaderName, HeaderValue};
use milecastle_matching::{CidrError, CidrSet};
use milecastle_model::VerifyUpstreams;
use milecastle_plugin_api::{NodeFacts, WhenSuperseded};
use milecastle_settings::{
    AmbiguousPath, Apisix, Gateway as Settings, LongConnectionPolicy, LongConnections, NginxHttp, Ocsp, Peers,
    PortRange, ProxyVersion, TlsVersion,
};
use rustix::process::{Resource, getrlimit};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Files that are set aside for what is neither a connection of a client nor the one that it may need to an upstream.
const OTHER_FILES: u64 = 1024;

/// A value of the file that the data plane cannot use.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A list of addresses.
    #[error("{key}: {source}")]
    Addresses {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        source: CidrError,
    },
    /// A header's name.
    #[error("nginx_config.http.real_ip_header: `{0}` is no header name")]
    Header(String),
}

/// One TCP address to listen on.
#[derive(Debug, Clone)]
pub(crate) struct Listen {
    pub(crate) addr: SocketAddr,
    /// The key that sets it.
    pub(crate) key: &'static str,
    pub(crate) tls: bool,
    pub(crate) http2: bool,
    /// Whether clients send the PROXY protocol first.
    pub(crate) proxy_protocol: bool,
    pub(crate) served: Served,
    /// Whether HTTP/3 is spoken on the UDP port of the same number.
    pub(crate) http3: bool,
    /// What answers over TCP say of that.
    pub(crate) alternative: Option<HeaderValue>,
}

/// HTTP/3 with clients.
#[derive(Debug)]
pub(crate) struct Http3Config {
    /// Requests that one connection may have under way.
    pub(crate) streams: u32,
    /// Handshakes under way on one worker from which on clients have to prove their address.
    pub(crate) handshakes: u32,
    /// Of one connection in a second: requests that are cancelled, and frames that carry nothing of a request.
    pub(crate) cancels: u32,
    pub(crate) control_frames: u32,
    /// What may come on one stream ahead of its reader.
    pub(crate) stream_window: u64,
    /// The same on all streams of a connection.
    pub(crate) connection_window: u64,
    /// Answer bytes of all streams of a connection that the client has not acknowledged.
    pub(crate) send_buffer: u64,
    /// How long a client may be silent.
    pub(crate) silence: Duration,
    /// How long a client may remember that there is HTTP/3; `None`: it is not told.
    alternative_age: Option<Duration>,
}

impl Http3Config {
    fn new(settings: &Settings, workers: usize) -> Self {
        let limits = &settings.limits;
        Self {
            streams: limits.http3_streams,
            handshakes: per_worker(limits.http3_handshakes, workers),
            cancels: limits.http3_cancels,
            control_frames: limits.http3_control_frames,
            stream_window: limits.http3_stream_window.get(),
            connection_window: limits.http3_connection_window.get(),
            send_buffer: limits.http3_send_buffer.get(),
            silence: settings.timeouts.http3_silence.get(),
            alternative_age: Some(settings.apisix.ssl.alt_svc_max_age.get()).filter(|age| !age.is_zero()),
        }
    }

    /// What answers over TCP say (`Alt-Svc`, RFC 7838 §3) of HTTP/3 on this port.
    pub(crate) fn alternative(&self, port: u16) -> Option<HeaderValue> {
        let age = self.alternative_age?.as_secs();
        HeaderValue::from_str(&format!("h3=\":{port}\"; ma={age}")).ok()
    }
}

/// What is served on a TCP listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    Http,
    /// Bytes as they are.
    Stream {
        /// The version of the PROXY protocol that is sent in front of them.
        proxy_protocol_to_upstream: Option<ProxyVersion>,
    },
}

/// What TCP and UDP sessions are held to.
#[derive(Debug)]
pub(crate) struct StreamLimits {
    /// Peers whose PROXY header is believed.
    pub(crate) real_ip_from: CidrSet,
    /// What plugins may ask to see before a session is passed on.
    pub(crate) preread_bytes: usize,
    pub(crate) preread_timeout: Duration,
    /// UDP sessions of one worker.
    pub(crate) udp_sessions: usize,
    /// Datagrams that wait while a session is being opened.
    pub(crate) udp_pending: usize,
}

impl StreamLimits {
    fn new(settings: &Settings, workers: usize) -> Result<Self, ConfigError> {
        let limits = &settings.limits;
        Ok(Self {
            real_ip_from: addresses(&settings.nginx_config.stream.real_ip_from, "nginx_config.stream.real_ip_from")?,
            preread_bytes: limits.stream_preread.as_len(),
            preread_timeout: settings.timeouts.stream_preread.get(),
            udp_sessions: per_worker(limits.udp_sessions, workers) as usize,
            udp_pending: limits.udp_pending as usize,
        })
    }
}

/// What becomes of connections that last (`docs/long-connections.md`).
#[derive(Debug)]
pub(crate) struct Lasting {
    /// Where no plugin says anything.
    pub(crate) when_superseded: WhenSuperseded,
    /// Answers that have lasted less are not ended, unless they are streams of events.
    pub(crate) answers_from: Duration,
}

impl Lasting {
    fn new(settings: &LongConnections) -> Self {
        Self {
            when_superseded: match settings.policy {
                LongConnectionPolicy::Keep => WhenSuperseded::Keep,
                LongConnectionPolicy::Drain => WhenSuperseded::EndAfter(settings.drain.get()),
                LongConnectionPolicy::Cut => WhenSuperseded::EndAfter(Duration::ZERO),
            },
            answers_from: settings.answers_from.get(),
        }
    }
}

/// How the client's address is found behind proxies (`docs/spec/routing.md` §9).
#[derive(Debug)]
pub(crate) struct RealIp {
    pub(crate) header: HeaderName,
    pub(crate) from: CidrSet,
    pub(crate) recursive: bool,
}

impl RealIp {
    fn new(http: &NginxHttp) -> Result<Self, ConfigError> {
        Ok(Self {
            header: http.real_ip_header.parse().map_err(|_| ConfigError::Header(http.real_ip_header.clone()))?,
            from: addresses(&http.real_ip_from, "nginx_config.http.real_ip_from")?,
            recursive: http.real_ip_recursive.0,
        })
    }
}

/// How clients may keep us waiting, and what they may send.
#[derive(Debug)]
pub(crate) struct ClientLimits {
    pub(crate) header_bytes: usize,
    pub(crate) header_count: usize,
    /// `None`: any size.
    pub(crate) body_bytes: Option<u64>,
    pub(crate) header_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) send_timeout: Duration,
    /// An HTTP/1 client that has ended sending is answered.
    pub(crate) half_close: bool,
    /// Zero: the connection is closed after each answer.
    pub(crate) keepalive_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) proxy_protocol_timeout: Duration,
    pub(crate) ping_timeout: Duration,
    /// How long the system keeps silent connections back. Zero: not at all.
    pub(crate) deferred_accept: Duration,
    /// How long a connection that waits for a request keeps its place while another one has none.
    pub(crate) connection_place: Duration,
    /// A client that was answered before it had sent everything: how long it may go on, how long it may be silent, and how many
    /// bytes it may send.
    pub(crate) lingering_time: Duration,
    pub(crate) lingering_timeout: Duration,
    pub(crate) lingering_bytes: u64,
    /// While the node ends: how long a connection without a request in work may still send one.
    pub(crate) last_call: Duration,
    /// At the very end: how long WebSockets that are left may take for their good-bye.
    pub(crate) farewell: Duration,
    pub(crate) streams: u32,
    pub(crate) pending_resets: usize,
    /// Of one HTTP/2 connection in a second: requests that are cancelled, and frames that carry nothing of a request.
    pub(crate) cancels: u32,
    pub(crate) control_frames: u32,
    /// Data frames of one HTTP/2 connection that carry nothing and end nothing.
    pub(crate) empty_data: u32,
    /// Bytes of answers over HTTP/2 that may wait for the client, beside the pieces at hand.
    pub(crate) send_buffer: usize,
    /// What of one request over HTTP/2 may come ahead of its reader, and by what that may grow for all of a connection together.
    pub(crate) stream_window: u32,
    pub(crate) shared_window: u32,
}

/// How paths are brought into their normal form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathRules {
    pub(crate) delete_tail_slash: bool,
    pub(crate) like_servlet: bool,
    pub(crate) match_encoded_slash: bool,
    /// An ambiguous target is answered with 400 instead of being sent in canonical form.
    pub(crate) reject_ambiguous: bool,
}

/// What the listeners offer in TLS.
#[derive(Debug)]
pub(crate) struct TlsOffer {
    pub(crate) versions: Vec<TlsVersion>,
    /// OpenSSL names, in order of preference.
    pub(crate) ciphers: String,
    pub(crate) fallback_sni: Option<String>,
    pub(crate) tickets: bool,
    /// Sessions that are remembered for each ssl object.
    pub(crate) sessions: usize,
    /// How long a session can be resumed.
    pub(crate) session_life: Duration,
    /// Tickets that a client gets with each handshake of TLS 1.3.
    pub(crate) tls13_tickets: usize,
}

/// Settings of the data plane.
#[derive(Debug)]
pub struct GatewayConfig {
    pub(crate) listens: Vec<Listen>,
    /// Where datagrams are served.
    pub(crate) udp: Vec<SocketAddr>,
    pub(crate) stream: StreamLimits,
    pub(crate) lasting: Lasting,
    pub(crate) workers: usize,
    /// Workers hand on connections to others that have fewer.
    pub(crate) balance_connections: bool,
    pub(crate) client: ClientLimits,
    pub(crate) upstream: Limits,
    /// Connections to upstreams that speak HTTP/2.
    pub(crate) http2: Http2Limits,
    pub(crate) http3: Http3Config,
    /// Which upstreams' certificates are verified.
    pub(crate) verify_upstreams: VerifyUpstreams,
    /// Idle upstream connections of one worker.
    pub(crate) idle_connections: usize,
    /// Client connections of one worker.
    pub(crate) connections: u32,
    pub(crate) retry_body: usize,
    /// What of a body is read for the conditions of routes.
    pub(crate) matched_body: usize,
    /// Pipes of a worker.
    pub(crate) pipes: usize,
    /// Points of one ring of a consistent hash.
    pub(crate) ring_points: u64,
    /// Idle pools of upstreams that set none.
    pub(crate) keepalive: Keep,
    pub(crate) real_ip: RealIp,
    /// `None`: not configured.
    pub(crate) trusted: Option<CidrSet>,
    pub(crate) path: PathRules,
    pub(crate) tls: TlsOffer,
    pub(crate) show_upstream_status: bool,
    /// Clients of this machine are shown the counters of connections, where no route says otherwise.
    pub(crate) nginx_status: bool,
    /// Requests are counted by route, for the control plane.
    pub(crate) counts_routes: bool,
    pub(crate) server_header: HeaderValue,
    pub(crate) dns: DnsConfig,
    /// How OCSP responders are asked.
    pub(crate) ocsp: Ocsp,
    /// Whether upstream nodes are probed and watched where their upstream asks for it.
    pub(crate) health_checks: bool,
    /// Authorities in PEM that certificates of upstreams and registries are verified with; `None`: those of the system.
    pub(crate) authorities: Option<PathBuf>,
}

/// How names of upstream nodes are looked up.
#[derive(Debug, Clone)]
pub(crate) struct DnsConfig {
    pub(crate) lookup: HostLookup,
    /// For a whole look-up.
    pub(crate) timeout: Duration,
    min_ttl: Duration,
    max_ttl: Duration,
    /// How long every answer holds; `None`: as long as it says.
    valid: Option<Duration>,
    /// How much longer an answer is used while fresh ones cannot be had.
    pub(crate) stale: Duration,
    /// How long a failed look-up is remembered.
    pub(crate) failed: Duration,
}

impl DnsConfig {
    fn new(settings: &Settings) -> Self {
        let (apisix, dns) = (&settings.apisix, &settings.dns);
        let servers = apisix.dns_resolver.as_ref();
        Self {
            lookup: HostLookup {
                servers: servers.map(|servers| servers.iter().map(|server| server.0).collect()),
                search: apisix.enable_resolv_search_opt,
                ipv6: apisix.enable_ipv6,
                timeout: dns.try_timeout.get(),
                tries: dns.tries,
            },
            timeout: dns.timeout.get(),
            min_ttl: dns.min_ttl.get(),
            max_ttl: dns.max_ttl.get(),
            valid: apisix.dns_resolver_valid.map(milecastle_settings::Time::get),
            stale: dns.stale_ttl.get(),
            failed: dns.error_ttl.get(),
        }
    }

    /// How long an answer is kept that says this.
    pub(crate) fn holds(&self, ttl: Option<Duration>) -> Duration {
        self.valid.unwrap_or_else(|| ttl.unwrap_or(self.min_ttl).clamp(self.min_ttl, self.max_ttl))
    }
}

impl GatewayConfig {
    /// Takes over the gateway's file.
    ///
    /// # Errors
    /// A list of addresses or a header's name cannot be used.
    pub fn new(settings: &Settings, facts: &NodeFacts) -> Result<Self, ConfigError> {
        let apisix = &settings.apisix;
        let http = &settings.nginx_config.http;
        let limits = &settings.limits;
        let workers = match settings.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => usize::from(n),
        };
        let server = if apisix.enable_server_tokens {
            HeaderValue::from_str(&format!("Milecastle/{}", facts.version)).ok()
        } else {
            None
        };
        Ok(Self {
            listens: listens(apisix),
            udp: sockets(&apisix.stream_proxy.udp),
            stream: StreamLimits::new(settings, workers)?,
            lasting: Lasting::new(&settings.long_connections),
            workers,
            balance_connections: settings.balance_connections,
            client: ClientLimits {
                header_bytes: limits.header_bytes.as_len(),
                header_count: limits.header_count as usize,
                body_bytes: Some(http.client_max_body_size.get()).filter(|most| *most > 0),
                header_timeout: http.client_header_timeout.get(),
                body_timeout: http.client_body_timeout.get(),
                send_timeout: http.send_timeout.get(),
                half_close: http.proxy_ignore_client_abort.0,
                keepalive_timeout: http.keepalive_timeout.get(),
                handshake_timeout: settings.timeouts.tls_handshake.get(),
                proxy_protocol_timeout: settings.timeouts.proxy_protocol.get(),
                ping_timeout: settings.timeouts.http2_ping.get(),
                deferred_accept: settings.timeouts.deferred_accept.get(),
                connection_place: settings.timeouts.connection_place.get(),
                lingering_time: settings.timeouts.lingering_time.get(),
                lingering_timeout: settings.timeouts.lingering_timeout.get(),
                lingering_bytes: limits.lingering_bytes.get(),
                last_call: settings.shutdown.last_call.get(),
                farewell: settings.shutdown.farewell.get(),
                streams: limits.http2_streams,
                pending_resets: limits.http2_pending_resets as usize,
                cancels: limits.http2_cancels,
                control_frames: limits.http2_control_frames,
                empty_data: limits.http2_empty_data,
                send_buffer: limits.http2_send_buffer.as_len(),
                stream_window: u32::try_from(limits.http2_stream_window.get()).unwrap_or(u32::MAX),
                shared_window: u32::try_from(limits.http2_shared_window.get()).unwrap_or(u32::MAX),
            },
            upstream: Limits {
                head_bytes: limits.upstream_header_bytes.as_len(),
                head_fields: limits.upstream_header_count as usize,
            },
            http2: Http2Limits {
                streams: limits.upstream_http2_streams,
                connections: limits.upstream_http2_connections as usize,
                window: u32::try_from(limits.upstream_http2_window.get()).unwrap_or(u32::MAX),
                send_buffer: limits.upstream_http2_send_buffer.as_len(),
                ping: settings.timeouts.upstream_http2_ping.get(),
            },
            http3: Http3Config::new(settings, workers),
            verify_upstreams: settings.upstream_tls.verify,
            idle_connections: per_worker(settings.upstream_pool.idle_connections, workers) as usize,
            connections: per_worker(connections(limits.connections, getrlimit(Resource::Nofile).current), workers),
            retry_body: limits.retry_body.as_len(),
            matched_body: limits.matched_body.as_len(),
            pipes: limits.pipes as usize,
            ring_points: limits.hash_ring_points.into(),
            keepalive: Keep {
                size: http.upstream.keepalive as usize,
                idle_timeout: http.upstream.keepalive_timeout.get(),
                requests: http.upstream.keepalive_requests,
            },
            real_ip: RealIp::new(http)?,
            trusted: apisix
                .trusted_addresses
                .as_ref()
                .map(|peers| addresses(peers, "apisix.trusted_addresses"))
                .transpose()?,
            path: PathRules {
                delete_tail_slash: apisix.delete_uri_tail_slash,
                like_servlet: apisix.normalize_uri_like_servlet,
                match_encoded_slash: apisix.match_uri_encoded_slash,
                reject_ambiguous: settings.ambiguous_path == AmbiguousPath::Reject,
            },
            tls: TlsOffer {
                versions: apisix.ssl.ssl_protocols.0.clone(),
                ciphers: apisix.ssl.ssl_ciphers.clone(),
                fallback_sni: apisix.ssl.fallback_sni.clone(),
                tickets: apisix.ssl.ssl_session_tickets,
                sessions: apisix.ssl.ssl_session_cache as usize,
                session_life: apisix.ssl.ssl_session_timeout.get(),
                tls13_tickets: apisix.ssl.ssl_num_tickets as usize,
            },
            show_upstream_status: apisix.show_upstream_status_in_response_header,
            nginx_status: apisix.enable_nginx_status,
            counts_routes: settings.control_plane.routes > 0,
            server_header: server.unwrap_or(HeaderValue::from_static("Milecastle")),
            ocsp: settings.ocsp.clone(),
            health_checks: !apisix.disable_upstream_healthcheck,
            authorities: Some(&apisix.ssl.ssl_trusted_certificate).filter(|path| *path != "system").map(PathBuf::from),
            dns: DnsConfig::new(settings),
        })
    }

    /// Authorities in PEM that certificates are verified with beside the traffic; `None`: those of the system.
    pub fn authorities(&self) -> Option<PathBuf> {
        self.authorities.clone()
    }

    /// Worker threads.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Limits for an exchange with an upstream.
    pub(crate) fn patience(&self, timeouts: &milecastle_snapshot::Timeouts) -> Patience {
        Patience { send: timeouts.send, read: timeouts.read, client: self.client.body_timeout }
    }
}

/// Every TCP listener of the settings.
fn listens(apisix: &Apisix) -> Vec<Listen> {
    let http = |addr, key, tls, http2: Option<bool>, proxy_protocol| Listen {
        addr,
        key,
        tls,
        http2: http2.unwrap_or(apisix.enable_http2),
        proxy_protocol,
        served: Served::Http,
        http3: false,
        alternative: None,
    };
    let mut all = Vec::new();
    let plain = apisix.node_listen.0.iter();
    all.extend(plain.map(|own| http(own.socket(), "apisix.node_listen", false, own.enable_http2, false)));
    let tls = apisix.ssl.listen.iter().filter(|_| apisix.ssl.enable);
    all.extend(tls.map(|own| Listen {
        http3: own.enable_http3,
        ..http(own.socket(), "apisix.ssl.listen", true, own.enable_http2, false)
    }));
    let behind = &apisix.proxy_protocol;
    let plain = behind.http().map(|addr| http(addr, "apisix.proxy_protocol.listen_http_port", false, None, true));
    let tls = behind.https().map(|addr| http(addr, "apisix.proxy_protocol.listen_https_port", true, None, true));
    all.extend(plain.into_iter().chain(tls));
    let defaults = &apisix.proxy_protocol;
    for entry in &apisix.stream_proxy.tcp {
        let sends = entry.proxy_protocol_to_upstream.unwrap_or(defaults.enable_tcp_pp_to_upstream);
        let version = entry.proxy_protocol_to_upstream_version.unwrap_or(defaults.tcp_pp_to_upstream_version);
        let served = Served::Stream { proxy_protocol_to_upstream: sends.then_some(version) };
        all.extend(entry.addr.sockets().map(|addr| Listen {
            addr,
            key: "apisix.stream_proxy.tcp",
            tls: entry.tls,
            http2: false,
            proxy_protocol: entry.proxy_protocol.unwrap_or(defaults.enable_tcp_pp),
            served,
            http3: false,
            alternative: None,
        }));
    }
    all
}

/// Client connections of a node that may have so many files open (`None`: as many as it likes). `set` is what the file says; 0 goes by
/// the files.
fn connections(set: u32, files: Option<u64>) -> u32 {
    let derived = files.map_or(u64::MAX, |files| (files - OTHER_FILES.min(files / 4)) / 2);
    if set > 0 { set } else { u32::try_from(derived).unwrap_or(u32::MAX).max(1) }
}

/// What one worker may have of something that the settings limit for the node.
fn per_worker(limit: u32, workers: usize) -> u32 {
    limit.div_ceil(u32::try_from(workers).unwrap_or(u32::MAX))
}

fn sockets(ranges: &[PortRange]) -> Vec<SocketAddr> {
    ranges.iter().flat_map(PortRange::sockets).collect()
}

fn addresses(peers: &[Peers], key: &'static str) -> Result<CidrSet, ConfigError> {
    // No peer of a TCP listener comes over a Unix socket.
    let networks = peers.iter().filter(|peers| !matches!(peers, Peers::Unix));
    CidrSet::parse(networks.map(ToString::to_string)).map_err(|source| ConfigError::Addresses { key, source })
}

#[cfg(test)]
mod tests {
    use super::connections;

    #[test]
    fn what_is_not_set_leaves_each_connection_another_one_to_an_upstream() {
        let table = [(512, 192), (1024, 384), (20_000, 9_488), (1 << 20, 523_776), (0, 1)];
        for (files, expected) in table {
            assert_eq!(connections(0, Some(files)), expected, "{files} files");
        }
        assert_eq!(connections(0, None), u32::MAX);
        assert_eq!(connections(7, Some(8)), 7);
    }
}
