//! The algorithms, tier by tier.

use super::chash::Ring;
use super::ewma::{Average, Averages, Ewma};
use super::lease::Lease;
use super::least_conn::{Counted, Counts, InFlight, LeastConn};
use super::round_robin::RoundRobin;
use super::weights::Member;
use crate::counters::WorkerCounters;
use crate::health::Checker;
use milecastle_matching::{Lookup, VarName};
use milecastle_snapshot::{Algorithm, CompiledNode, CompiledUpstream, HashKey};
use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// What a balancer is made with.
pub(crate) struct Parts<'a> {
    pub(crate) averages: &'a Averages,
    /// Watches the upstream's health, if that is to be watched.
    pub(crate) checker: Option<Arc<Checker>>,
    pub(crate) counters: &'a WorkerCounters,
    /// Most points of a hash ring.
    pub(crate) ring_points: u64,
    /// Decides where turns begin.
    pub(crate) seed: usize,
}

/// An algorithm with its state. Tiers stand by priority, highest first.
pub(super) enum Method {
    RoundRobin(RefCell<Vec<RoundRobin>>),
    ConsistentHash {
        key: HashKey,
        rings: Vec<Ring>,
    },
    LeastConn {
        tiers: Vec<LeastConn>,
        in_flight: Vec<InFlight>,
        counts: Counts,
    },
    Ewma {
        tiers: Vec<Ewma>,
        averages: Vec<Arc<Average>>,
    },
    /// Gives no node.
    Unknown,
}

/// The key of a hash where the request has none.
static CLIENT_ADDRESS: LazyLock<VarName> = LazyLock::new(|| VarName::parse("remote_addr"));

impl Method {
    /// `previous` is the state before the nodes changed.
    pub(super) fn new(upstream: &CompiledUpstream, previous: Option<&Self>, parts: &Parts<'_>) -> Self {
        let nodes = &upstream.nodes;
        let tiers = || by_tier(nodes).into_iter();
        match &upstream.algorithm {
            Algorithm::RoundRobin => {
                Self::RoundRobin(RefCell::new(tiers().map(|tier| RoundRobin::new(tier, parts.seed)).collect()))
            }
            Algorithm::ConsistentHash(key) => {
                let rings: Vec<Ring> = tiers().map(|tier| Ring::new(&tier, nodes, parts.ring_points)).collect();
                if rings.iter().any(|ring| ring.is_cut) {
                    parts.counters.hash_rings_cut.up();
                    tracing::warn!(
                        upstream = &*upstream.key,
                        limit = parts.ring_points,
                        "the weights of this upstream ask for more points than a hash ring may have, so shares are less exact: \
                         use smaller weights, or raise limits.hash_ring_points"
                    );
                }
                Self::ConsistentHash { key: key.clone(), rings }
            }
            Algorithm::LeastConn => {
                let mut counts = match previous {
                    Some(Self::LeastConn { counts, .. }) => counts.clone(),
                    _ => Counts::default(),
                };
                let in_flight = counts.of(nodes);
                let tiers = tiers().map(|tier| LeastConn::new(tier, parts.seed)).collect();
                Self::LeastConn { tiers, in_flight, counts }
            }
            Algorithm::Ewma => Self::Ewma {
                tiers: tiers().map(Ewma::new).collect(),
                averages: parts.averages.of(nodes, Instant::now()),
            },
            Algorithm::Unknown(name) => {
                tracing::error!(
                    upstream = &*upstream.key,
                    r#type = &**name,
                    "this way of balancing is not known; requests are answered with 502: set `type` to roundrobin, chash, \
                     least_conn or ewma"
                );
                Self::Unknown
            }
        }
    }

    /// The next `free` place of the highest tier that has one. `hash` is that of the request, once it is known.
    pub(super) fn pick(
        &self,
        hash: &mut Option<u32>,
        request: &dyn Lookup,
        random: impl FnOnce() -> u64,
        free: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        match self {
            Self::RoundRobin(tiers) => tiers.borrow_mut().iter_mut().find_map(|tier| tier.pick(&free)),
            Self::ConsistentHash { key, rings } => {
                let hash = *hash.get_or_insert_with(|| hash_of(key, request));
                rings.iter().find_map(|ring| ring.pick(hash, &free))
            }
            Self::LeastConn { tiers, in_flight, .. } => tiers.iter().find_map(|tier| tier.pick(in_flight, &free)),
            Self::Ewma { tiers, averages } => {
                let (random, now) = (random(), Instant::now());
                tiers.iter().find_map(|tier| tier.pick(averages, random, now, &free))
            }
            Self::Unknown => None,
        }
    }

    /// Takes the node at a place into use, where the algorithm wants to know of it.
    pub(super) fn lease(&self, place: usize) -> Option<Lease> {
        match self {
            Self::LeastConn { in_flight, .. } => {
                Some(Lease { counted: Some(Counted::new(&in_flight[place])), ..Lease::default() })
            }
            Self::Ewma { averages, .. } => Some(Lease { average: Some(averages[place].clone()), ..Lease::default() }),
            Self::RoundRobin(_) | Self::ConsistentHash { .. } | Self::Unknown => None,
        }
    }
}

/// The nodes of each priority, highest first, in the order of the list.
fn by_tier(nodes: &[CompiledNode]) -> Vec<Vec<Member>> {
    let mut priorities: Vec<i32> = nodes.iter().map(|node| node.priority).collect();
    priorities.sort_unstable_by(|a, b| b.cmp(a));
    priorities.dedup();
    let of = |priority: i32| {
        let nodes = (0..).zip(nodes).filter(move |(_, node)| node.priority == priority);
        nodes.map(|(place, node)| Member { place, weight: node.weight }).collect()
    };
    priorities.into_iter().map(of).collect()
}

/// The hash of a request's key; of the client's address, if it has none.
fn hash_of(key: &HashKey, request: &dyn Lookup) -> u32 {
    let hash = |text: Cow<'_, str>| crc32fast::hash(text.as_bytes());
    let own = match key {
        HashKey::Variable(name) => request.var(name).map(|value| hash(value.text())),
        HashKey::Combination(template) => {
            let rendered = template.render(request);
            (rendered.resolved > 0).then(|| hash(rendered.text.into()))
        }
    };
    own.or_else(|| request.var(&CLIENT_ADDRESS).map(|value| hash(value.text()))).unwrap_or_default()
}
