//! What will be, and what was, sent upstream.

use http::{HeaderMap, HeaderValue};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One try at one node.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Address of the node.
    pub addr: SocketAddr,
    /// The node as `ip:port`.
    pub node: Rc<str>,
    /// When it began.
    pub began: Instant,
    /// Status of the answer, or 502 / 504 for a failed try.
    pub status: u16,
    /// Whether a head came from the node.
    pub answered: bool,
    /// Time to connect; zero on a kept connection.
    pub connect: Duration,
    /// Time until the head of the answer, of a session until its first byte, if it came.
    pub header: Option<Duration>,
    /// Time until the end of the answer or of the try.
    pub response: Duration,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
}

/// What the nodes of an upstream are called. That is of all workers: a request that held it itself would have them count its
/// holders together, at each try.
pub trait NodeNames {
    /// Host part of the node at a place, before resolution.
    fn host(&self, place: usize) -> &Arc<str>;

    /// Host header that `pass_host: rewrite` or `node` of the upstream puts in place of any other.
    fn own_host(&self, place: usize) -> Option<&HeaderValue>;
}

/// The node of a try.
pub struct PickedNode {
    /// What the upstream's nodes are called.
    pub names: Rc<dyn NodeNames>,
    /// Its place among them.
    pub place: usize,
}

impl fmt::Debug for PickedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PickedNode").field("place", &self.place).finish_non_exhaustive()
    }
}

/// What will be, and what was, sent upstream.
#[derive(Debug, Default)]
pub struct Upstream {
    /// Host header set by a plugin; it wins over `pass_host: pass`.
    pub host: Option<HeaderValue>,
    /// The protocols that a node is asked to change to, as `Upgrade` lists them. `None`: the request is an ordinary one.
    pub upgrade: Option<String>,
    /// Id of an upstream chosen by a plugin; it wins over the route's.
    pub upstream_id: Option<Arc<str>>,
    /// The node of the present try or the last one.
    pub node: Option<PickedNode>,
    /// Scheme spoken with the upstream.
    pub scheme: &'static str,
    /// Trailers of its answer, where somebody shows headers or trailers of answers when all is over.
    pub trailers: Option<Rc<HeaderMap>>,
    first: Option<Attempt>,
    later: Vec<Attempt>,
}

impl Upstream {
    /// Host part of the picked node, before resolution.
    pub fn unresolved_host(&self) -> Option<&Arc<str>> {
        self.node.as_ref().map(|node| node.names.host(node.place))
    }

    /// Host header that the upstream itself names for the picked node ([`NodeNames::own_host`]).
    pub fn own_host(&self) -> Option<&HeaderValue> {
        self.node.as_ref().and_then(|node| node.names.own_host(node.place))
    }

    /// Records a try. One try, the common case, allocates nothing here.
    pub fn push(&mut self, attempt: Attempt) {
        if self.first.is_none() {
            self.first = Some(attempt);
        } else {
            self.later.push(attempt);
        }
    }

    /// All tries in order.
    pub fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.first.iter().chain(&self.later)
    }

    /// Time spent with upstreams, all tries together; `None` if none was contacted.
    pub fn total(&self) -> Option<Duration> {
        self.first.as_ref()?;
        Some(self.attempts().map(|attempt| attempt.response).sum())
    }

    /// The last try.
    pub fn last(&self) -> Option<&Attempt> {
        self.later.last().or(self.first.as_ref())
    }

    /// The last try, to complete its figures.
    pub fn last_mut(&mut self) -> Option<&mut Attempt> {
        self.later.last_mut().or(self.first.as_mut())
    }
}
