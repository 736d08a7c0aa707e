//! Upstreams: nodes, balancing and how to talk to them (`docs/spec/resources.md` §3).

use crate::compiled::Timeouts;
use crate::identity::ClientCertificate;
use foldhash::quality::FixedState;
use http::HeaderValue;
use milecastle_matching::{Template, VarName};
use milecastle_model::{Balancer, Fault, HashOn, HealthChecks, PassHost as Mode, Scheme, Timeout, Upstream, bracketed};
use serde_json::Value;
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

    /// Whether requests can be sent there.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https | Self::Grpc | Self::Grpcs)
    }

    /// Whether HTTP/2 is spoken.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Grpc | Self::Grpcs)
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

/// What an upstream's nodes are asked for (`docs/spec/resources.md` §14).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceQuery {
    /// `discovery_type`.
    pub registry: Box<str>,
    /// `service_name`.
    pub name: Box<str>,
    /// `discovery_args.namespace_id`.
    pub namespace: Option<Box<str>>,
    /// `discovery_args.group_name`.
    pub group: Option<Box<str>>,
    /// `discovery_args.metadata`, sorted: what the metadata of an instance must have. Values that are no text stand as JSON.
    pub metadata: Vec<(String, String)>,
}

impl ServiceQuery {
    fn of(upstream: &Upstream) -> Option<Self> {
        let name = upstream.service_name.as_deref()?;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let argument = |name| upstream.discovery_args.get(name).and_then(Value::as_str).map(Into::into);
        let metadata = upstream.discovery_args.get("metadata").and_then(Value::as_object);
        let mut metadata: Vec<_> =
            metadata.into_iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect();
        metadata.sort_unstable();
        Some(Self {
            registry: upstream.discovery_type.as_deref().unwrap_or_default().into(),
            name: name.into(),
            namespace: argument("namespace_id"),
            group: argument("group_name"),
            metadata,
        })
    }
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

impl CompiledNode {
    /// A node at a host, an IPv6 address without brackets; `None` if the host cannot stand in a Host header.
    pub fn new(host: &str, port: u16, weight: u32, priority: i32, scheme: UpstreamScheme) -> Option<Self> {
        let bracketed = bracketed(host);
        let header = if port == scheme.default_port() { bracketed } else { format!("{bracketed}:{port}").into() };
        let host_header = HeaderValue::from_str(&header).ok()?;
        Some(Self { host: host.into(), addr: host.parse().ok(), port, weight, priority, host_header })
    }
}

/// An upstream, ready to balance over.
#[derive(Debug, Clone)]
pub struct CompiledUpstream {
    /// Path of the object that carries it, such as `/upstreams/1` or, inline, `/routes/7`. State that outlives snapshots
    /// is kept under it.
    pub key: Arc<str>,
    /// The nodes by host and port: in which order they were written does not matter.
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
    /// The service that its nodes are asked for; `None`: `nodes` has them all.
    pub service: Option<Arc<ServiceQuery>>,
    /// It asks for its nodes' certificates to be verified; whether that counts is for the node to say.
    pub verify: bool,
    /// What its nodes are shown when they ask for a certificate.
    pub client_certificate: ClientCertificate,
    /// How the nodes' health is watched; `None`: not at all.
    pub checks: Option<Arc<HealthChecks>>,
    /// Changes when nodes, algorithm or scheme do: balancer state is made anew then.
    pub fingerprint: u64,
}

impl CompiledUpstream {
    /// The same upstream over these nodes, which service discovery has found and sorted.
    pub fn over(&self, nodes: Arc<[CompiledNode]>) -> Self {
        let fingerprint = fingerprint(&nodes, &self.algorithm, self.scheme);
        Self { nodes, fingerprint, ..self.clone() }
    }
}

fn fingerprint(nodes: &[CompiledNode], algorithm: &Algorithm, scheme: UpstreamScheme) -> u64 {
    FixedState::default().hash_one((nodes, algorithm, scheme))
}

/// Compiles an upstream object or an inline one; `key` is the path of the object that carries it, for one in a plugin's
/// configuration with the place behind a `#`. `resolve` gives a text itself, or what a reference to a secret stands for.
///
/// # Errors
/// A host that cannot be a header value, or a client certificate that references lead to and that is none.
pub fn compile(
    key: Arc<str>,
    upstream: &Upstream,
    resolve: &dyn Fn(&str) -> Option<String>,
) -> Result<CompiledUpstream, Vec<Fault>> {
    let scheme = UpstreamScheme::of(upstream.scheme);
    let configured = upstream.nodes.as_deref().unwrap_or_default();
    let mut faults = Vec::new();
    let mut nodes = Vec::with_capacity(configured.len());
    for (index, node) in configured.iter().enumerate() {
        let port = node.port.unwrap_or_else(|| scheme.default_port());
        match CompiledNode::new(&node.host, port, node.weight, node.priority, scheme) {
            Some(node) => nodes.push(node),
            None => faults.push(Fault::rule(format!("/nodes/{index}/host"), format!("invalid host {:?}", node.host))),
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
    let client_certificate = ClientCertificate::of(upstream.tls.as_ref(), resolve).unwrap_or_else(|fault| {
        faults.push(fault);
        ClientCertificate::None
    });
    if !faults.is_empty() {
        return Err(faults);
    }
    nodes.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
    let algorithm = algorithm(upstream);
    let fingerprint = fingerprint(&nodes, &algorithm, scheme);
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
        service: ServiceQuery::of(upstream).map(Arc::new),
        verify: upstream.tls.as_ref().is_some_and(|tls| tls.verify),
        client_certificate,
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
        service: None,
        verify: false,
        client_certificate: ClientCertificate::None,
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
