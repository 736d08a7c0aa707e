//! Upstreams: nodes, balancing and how to talk to them (`docs/spec/resources.md` §3).

use crate::compiled::Timeouts;
use foldhash::quality::FixedState;
use http::HeaderValue;
use milecastle_matching::{Template, VarName};
use milecastle_model::{Balancer, Fault, HashOn, HealthChecks, PassHost as Mode, Scheme, Timeout, Upstream};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a consistent hash is made of (`docs/spec/upstream-balancing.md` §4.2, rule 6).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// A variable; headers, cookies and the consumer's name are variables too.
    Variable(VarName),
    /// A text with variables in it.
    Combination(Template),
}

/// How a node is chosen (`docs/spec/upstream-balancing.md` §4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Weighted round robin.
    RoundRobin,
    /// Consistent hash.
    ConsistentHash(HashKey),
    /// Least connections in relation to the weight.
    LeastConn,
    /// Exponentially weighted moving average of the response time.
    Ewma,
    /// A name that this version does not know; requests fail when they need a node.
    Unknown(Arc<str>),
}

/// What is spoken with the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamScheme {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// gRPC: HTTP/2 with prior knowledge.
    Grpc,
    /// gRPC over TLS.
    Grpcs,
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// Datagrams.
    Udp,
    /// Kafka.
    Kafka,
}

impl UpstreamScheme {
    fn of(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Http => Self::Http,
            Scheme::Https => Self::Https,
            Scheme::Grpc => Self::Grpc,
            Scheme::Grpcs => Self::Grpcs,
            Scheme::Tcp => Self::Tcp,
            Scheme::Tls => Self::Tls,
            Scheme::Udp => Self::Udp,
            Scheme::Kafka => Self::Kafka,
        }
    }

    /// Its name in configuration and variables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
            Self::Kafka => "kafka",
        }
    }

    /// Whether TLS is spoken.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs | Self::Tls)
    }

    /// The port of a node that names none, and the one left out of a Host header; 0 where there is no such port.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http | Self::Grpc => 80,
            Self::Https | Self::Grpcs => 443,
            Self::Tcp | Self::Tls | Self::Udp | Self::Kafka => 0,
        }
    }
}

/// Which Host the upstream sees (`docs/spec/upstream-balancing.md` §8.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PassHost {
    /// The client's.
    Pass,
    /// The node's.
    Node,
    /// This one.
    Rewrite(HeaderValue),
}

/// Idle connections kept for each worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Keepalive {
    /// How many.
    pub size: u32,
    /// How long one is kept idle.
    pub idle_timeout: Duration,
    /// Requests after which one is closed.
    pub requests: u64,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CompiledNode {
    /// Host as configured, brackets removed.
    pub host: Arc<str>,
    /// The address, if the host is one.
    pub addr: Option<IpAddr>,
    /// Port; 0 if the node names none and its scheme has no default.
    pub port: u16,
    /// Share of the requests.
    pub weight: u32,
    /// Tier, higher first.
    pub priority: i32,
    /// Host header for `pass_host: node`.
    pub host_header: HeaderValue,
}

/// An upstream, ready to balance over.
#[derive(Debug)]
pub struct CompiledUpstream {
    /// Path of the object that carries it, such as `/upstreams/1` or, inline, `/routes/7`. State that outlives snapshots
    /// is kept under it.
    pub key: Arc<str>,
    /// The nodes, in configuration order.
    pub nodes: Arc<[CompiledNode]>,
    /// How one is chosen.
    pub algorithm: Algorithm,
    /// What is spoken with them.
    pub scheme: UpstreamScheme,
    /// Which Host they see.
    pub pass_host: PassHost,
    /// Tries after the first; as many as there are further nodes if it is `None`.
    pub retries: Option<u32>,
    /// No retry starts later than this after the first try.
    pub retry_timeout: Option<Duration>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Its own idle pool; `None` for the node's default pool.
    pub keepalive: Option<Keepalive>,
    /// Whether it names its nodes through service discovery.
    pub discovered: bool,
    /// The certificate of the upstream is verified.
    pub verify: bool,
    /// How the nodes' health is watched; `None`: not at all.
    pub checks: Option<Arc<HealthChecks>>,
    /// Changes when nodes, algorithm or scheme do: balancer state is made anew then.
    pub fingerprint: u64,
}

/// Compiles an upstream object or an inline one; `key` is the path of the object that carries it, for one in a plugin's
/// configuration with the place behind a `#`.
///
/// # Errors
/// A host that cannot be a header value.
pub fn compile(key: Arc<str>, upstream: &Upstream) -> Result<CompiledUpstream, Vec<Fault>> {
    let scheme = UpstreamScheme::of(upstream.scheme);
    let configured = upstream.nodes.as_deref().unwrap_or_default();
    let mut faults = Vec::new();
    let mut nodes = Vec::with_capacity(configured.len());
    for (index, node) in configured.iter().enumerate() {
        let port = node.port.unwrap_or_else(|| scheme.default_port());
        let host = node.bracketed_host();
        let header = if port == scheme.default_port() { host } else { format!("{host}:{port}").into() };
        match HeaderValue::from_str(&header) {
            Ok(host_header) => nodes.push(CompiledNode {
                host: node.host.as_str().into(),
                addr: node.host.parse().ok(),
                port,
                weight: node.weight,
                priority: node.priority,
                host_header,
            }),
            Err(_) => faults.push(Fault::rule(format!("/nodes/{index}/host"), format!("invalid host {:?}", node.host))),
        }
    }
    let pass_host = match (upstream.pass_host, &upstream.upstream_host) {
        (Mode::Node, _) => PassHost::Node,
        (Mode::Rewrite, Some(host)) => match HeaderValue::from_str(host) {
            Ok(host) => PassHost::Rewrite(host),
            Err(_) => {
                faults.push(Fault::rule("/upstream_host", format!("invalid host {host:?}")));
                PassHost::Pass
            }
        },
        (Mode::Rewrite, None) | (Mode::Pass, _) => PassHost::Pass,
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    let algorithm = algorithm(upstream);
    let fingerprint = FixedState::default().hash_one((&nodes, &algorithm, scheme));
    Ok(CompiledUpstream {
        key,
        nodes: nodes.into(),
        algorithm,
        scheme,
        pass_host,
        retries: upstream.retries,
        retry_timeout: upstream.retry_timeout.filter(|limit| !limit.is_zero()),
        timeouts: upstream.timeout.as_ref().map(timeouts).unwrap_or_default(),
        keepalive: upstream.keepalive_pool.as_ref().map(|pool| Keepalive {
            size: pool.size,
            idle_timeout: pool.idle_timeout,
            requests: pool.requests,
        }),
        discovered: upstream.service_name.is_some(),
        verify: upstream.tls.as_ref().is_some_and(|tls| tls.verify),
        checks: upstream.checks.clone().map(Arc::new),
        fingerprint,
    })
}

/// An upstream without nodes, for one in quarantine that never had a good form: requests are answered with 503.
pub(crate) fn unusable(key: Arc<str>) -> CompiledUpstream {
    CompiledUpstream {
        key,
        nodes: [].into(),
        algorithm: Algorithm::RoundRobin,
        scheme: UpstreamScheme::Http,
        pass_host: PassHost::Pass,
        retries: None,
        retry_timeout: None,
        timeouts: Timeouts::default(),
        keepalive: None,
        discovered: false,
        verify: false,
        checks: None,
        fingerprint: 0,
    }
}

/// The time limits of a `timeout` object.
pub(crate) fn timeouts(timeout: &Timeout) -> Timeouts {
    Timeouts { connect: timeout.connect, send: timeout.send, read: timeout.read }
}

fn algorithm(upstream: &Upstream) -> Algorithm {
    match &upstream.balancer {
        Balancer::RoundRobin => Algorithm::RoundRobin,
        Balancer::LeastConn => Algorithm::LeastConn,
        Balancer::Ewma => Algorithm::Ewma,
        Balancer::Chash => Algorithm::ConsistentHash(hash_key(upstream)),
        Balancer::Other(name) => Algorithm::Unknown(name.as_str().into()),
    }
}

fn hash_key(upstream: &Upstream) -> HashKey {
    let key = upstream.key.as_deref().unwrap_or_default();
    let variable = |name: &str| HashKey::Variable(VarName::parse(name));
    match upstream.hash_on {
        HashOn::Vars => variable(key),
        HashOn::Header => variable(&format!("http_{key}")),
        HashOn::Cookie => variable(&format!("cookie_{key}")),
        HashOn::Consumer => variable("consumer_name"),
        HashOn::VarsCombinations => HashKey::Combination(Template::parse(key)),
    }
}
