//! Routes: as they come in, compiled, and ranked among those with the same path.

use std::cmp::Ordering;
use std::slice;
use std::sync::Arc;

use super::RouterMode;
use super::host::HostPattern;
use super::method::MethodSet;
use super::path::PathPattern;
use crate::cidr::CidrSet;
use crate::expr::Expr;
use crate::var::Lookup;

/// The predicate of a `filter_func`.
pub type Filter = Arc<dyn Fn(&dyn Lookup) -> bool + Send + Sync>;

/// A route as the router takes it.
#[derive(Clone)]
pub struct RouteEntry<T> {
    /// Identity: inserting a second entry with an id replaces the first.
    pub id: Arc<str>,
    /// Rank among routes that are equal otherwise: load order, which an update must keep. Lower wins; then the id.
    pub order: u64,
    /// Higher wins among routes with the same exact path or the same prefix; 0 if the route has none.
    pub priority: i64,
    /// Path patterns.
    pub uris: Vec<Arc<str>>,
    /// Effective hosts: the route's own, else its service's; none for any host.
    pub hosts: Vec<Arc<str>>,
    /// Methods; the empty set for any.
    pub methods: MethodSet,
    /// Client addresses; `None` for any.
    pub remote_addrs: Option<Arc<CidrSet>>,
    /// The `vars` expression.
    pub vars: Option<Arc<Expr>>,
    /// The `filter_func`.
    pub filter: Option<Filter>,
    /// What a match gives. It is kept beside each pattern, so it should be small and cheap to clone, an `Arc` say.
    pub value: T,
}

impl<T> RouteEntry<T> {
    /// A route without conditions.
    pub fn new(id: impl Into<Arc<str>>, order: u64, uris: Vec<Arc<str>>, value: T) -> RouteEntry<T> {
        RouteEntry {
            id: id.into(),
            order,
            priority: 0,
            uris,
            hosts: Vec::new(),
            methods: MethodSet::ANY,
            remote_addrs: None,
            vars: None,
            filter: None,
            value,
        }
    }
}

/// A compiled route, shared by all places where it is entered.
pub(super) struct Route {
    pub(super) id: Arc<str>,
    pub(super) order: u64,
    pub(super) priority: i64,
    pub(super) patterns: Box<[Arc<PathPattern>]>,
    pub(super) hosts: Box<[HostPattern]>,
    pub(super) methods: MethodSet,
    pub(super) remote_addrs: Option<Arc<CidrSet>>,
    pub(super) vars: Option<Arc<Expr>>,
    pub(super) filter: Option<Filter>,
}

impl Route {
    pub(super) fn compile<T>(entry: &RouteEntry<T>, mode: RouterMode) -> Route {
        let mut patterns: Vec<Arc<PathPattern>> = Vec::with_capacity(entry.uris.len());
        for uri in &entry.uris {
            if patterns.iter().all(|known| known.as_str() != &**uri) {
                patterns.push(Arc::new(PathPattern::parse(uri, mode == RouterMode::UriWithParameter)));
            }
        }
        let mut hosts: Vec<HostPattern> = Vec::with_capacity(entry.hosts.len());
        for host in &entry.hosts {
            let host = HostPattern::new(host);
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        Route {
            id: Arc::clone(&entry.id),
            order: entry.order,
            priority: entry.priority,
            patterns: patterns.into(),
            hosts: hosts.into(),
            methods: entry.methods,
            remote_addrs: entry.remote_addrs.clone(),
            vars: entry.vars.clone(),
            filter: entry.filter.clone(),
        }
    }

    /// Whether a condition can refuse a request.
    fn has_conditions(&self, mode: RouterMode) -> bool {
        self.methods != MethodSet::ANY
            || self.remote_addrs.is_some()
            || (mode != RouterMode::HostUri && !self.hosts.is_empty())
            || self.vars.as_ref().is_some_and(|vars| !vars.is_empty())
            || self.filter.is_some()
    }
}

/// A route under one of its patterns.
#[derive(Clone)]
pub(super) struct Candidate<T> {
    pub(super) value: T,
    pub(super) route: Arc<Route>,
    /// One of the route's, here so that a lookup need not go through the route to it.
    pattern: Arc<PathPattern>,
    /// Its place among them.
    place: u32,
    /// Neither a condition nor the pattern can refuse a request that came here. Told here, so that the route need not
    /// be read.
    pub(super) unconditional: bool,
}

impl<T: Clone> Candidate<T> {
    /// A candidate for each pattern.
    pub(super) fn all(value: &T, route: &Arc<Route>, mode: RouterMode) -> impl Iterator<Item = Candidate<T>> {
        let conditions = route.has_conditions(mode);
        (0_u32..).zip(&route.patterns).map(move |(at, pattern)| Candidate {
            value: value.clone(),
            route: Arc::clone(route),
            pattern: Arc::clone(pattern),
            place: at,
            unconditional: !conditions && !pattern.needs_check(),
        })
    }
}

impl<T> Candidate<T> {
    pub(super) fn pattern(&self) -> &Arc<PathPattern> {
        &self.pattern
    }

    /// Less is tried first (§4.3).
    fn rank(&self, other: &Candidate<T>) -> Ordering {
        let (a, b) = (&self.route, &other.route);
        b.priority
            .cmp(&a.priority)
            .then_with(|| other.pattern().as_str().len().cmp(&self.pattern().as_str().len()))
            .then_with(|| a.order.cmp(&b.order))
            .then_with(|| a.id.cmp(&b.id))
            .then_with(|| self.place.cmp(&other.place))
    }
}

/// The candidates of one exact path or one prefix, by rank. Nearly always one, which is then held in place.
#[derive(Clone)]
pub(super) enum Bucket<T> {
    One(Candidate<T>),
    Many(Vec<Candidate<T>>),
}

impl<T> Bucket<T> {
    #[inline]
    pub(super) fn candidates(&self) -> &[Candidate<T>] {
        match self {
            Bucket::One(candidate) => slice::from_ref(candidate),
            Bucket::Many(candidates) => candidates,
        }
    }
}

impl<T: Clone> Bucket<T> {
    pub(super) fn add(&mut self, candidate: Candidate<T>) {
        if let Bucket::One(only) = self {
            *self = Bucket::Many(vec![only.clone()]);
        }
        if let Bucket::Many(candidates) = self {
            let at = candidates.partition_point(|other| other.rank(&candidate).is_lt());
            candidates.insert(at, candidate);
        }
    }

    /// Takes a route out; true if that leaves nothing.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        match self {
            Bucket::One(only) => &*only.route.id == id,
            Bucket::Many(candidates) => {
                candidates.retain(|candidate| &*candidate.route.id != id);
                candidates.is_empty()
            }
        }
    }
}
