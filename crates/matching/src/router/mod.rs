//! The route matcher (`docs/spec/routing.md` §3–§5).
//!
//! One persistent hash table holds the literal start of every path pattern, under the group of its host: patterns of
//! an exact path and prefixes each in their own key space. A lookup goes from the exact host over the matching
//! wildcard hosts, longest first, to the routes without host; in each group first to the exact path, then to the
//! prefixes, longest first; and under one key through the candidates by rank. A candidate whose conditions fail never
//! ends the search.
//!
//! Invariants: a clone shares all structure with its original and neither sees changes of the other, so a new version
//! is made by a clone and a few changes while requests use the old one. Removing a route removes every trace of it.
//! [`Router::find`] allocates nothing.
//!
//! Deliberately absent: `filter_func`'s language (a route brings a predicate), the answer to a request that matches
//! nothing, and regular expressions: patterns are matched literally (§3, rule 5).

mod find;
mod host;
mod method;
mod path;
mod probe;
mod route;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

pub use find::{Match, MatchInput};
use host::HostPattern;
pub use method::MethodSet;
pub use path::PathPattern;
use probe::Lengths;
use route::{Bucket, Candidate, Route};
pub use route::{Filter, RouteEntry};
use table::Table;

/// How hosts and parameters count (`apisix.router.http`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterMode {
    /// `radixtree_host_uri`: host, then path, then priority.
    #[default]
    HostUri,
    /// `radixtree_uri`: path, then priority; the host is a condition.
    Uri,
    /// `radixtree_uri_with_parameter`: as `Uri`, and `:name` in a path is a parameter.
    UriWithParameter,
}

/// The routes of one host pattern, or those without host: what the table of paths holds under the group's tags.
#[derive(Clone)]
struct Group {
    /// Never used twice in the life of a router and its clones.
    number: u64,
    host: Option<Arc<str>>,
    exact: Lengths,
    prefixes: Lengths,
}

impl Group {
    fn new(number: u64, host: Option<Arc<str>>) -> Group {
        Group { number, host, exact: Lengths::default(), prefixes: Lengths::default() }
    }

    fn tag(&self, exact: bool) -> u64 {
        self.number << 1 | u64::from(exact)
    }

    fn lengths(&mut self, exact: bool) -> &mut Lengths {
        if exact { &mut self.exact } else { &mut self.prefixes }
    }
}

/// Tags of the table of groups.
const EXACT_HOST: u64 = 0;
const HOST_SUFFIX: u64 = 1;

/// The routes of a gateway, ready to be looked up.
pub struct Router<T> {
    mode: RouterMode,
    /// Makes hashes unpredictable to clients.
    seed: u64,
    routes: Table<Arc<Route>>,
    paths: Table<Bucket<T>>,
    /// Groups by host: exact hosts as they are, what follows a `*` reversed.
    hosts: Table<Group>,
    /// Lengths of the keys under [`HOST_SUFFIX`].
    suffixes: Arc<Lengths>,
    hostless: Arc<Group>,
    next_group: u64,
}

impl<T> Clone for Router<T> {
    fn clone(&self) -> Self {
        Router {
            mode: self.mode,
            seed: self.seed,
            routes: self.routes.clone(),
            paths: self.paths.clone(),
            hosts: self.hosts.clone(),
            suffixes: Arc::clone(&self.suffixes),
            hostless: Arc::clone(&self.hostless),
            next_group: self.next_group,
        }
    }
}

impl<T> fmt::Debug for Router<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("mode", &self.mode).field("routes", &self.len()).finish_non_exhaustive()
    }
}

impl<T> Router<T> {
    /// A router without routes.
    pub fn new(mode: RouterMode) -> Router<T> {
        Router {
            mode,
            seed: std::hash::RandomState::new().hash_one(mode as u8),
            routes: Table::default(),
            paths: Table::default(),
            hosts: Table::default(),
            suffixes: Arc::default(),
            hostless: Arc::new(Group::new(0, None)),
            next_group: 1,
        }
    }

    /// The mode it was made for.
    pub fn mode(&self) -> RouterMode {
        self.mode
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Clone> Router<T> {
    /// Adds a route, or replaces the one with its id.
    pub fn insert(&mut self, entry: RouteEntry<T>) {
        self.remove(&entry.id);
        let route = Arc::new(Route::compile(&entry, self.mode));
        let id = route.id.as_bytes();
        self.routes.insert_new(probe::hash(id, 0, self.seed), 0, id, Arc::clone(&route));
        self.each_group(&route, |router, host| {
            Candidate::all(&entry.value, &route, router.mode).for_each(|candidate| router.enter(host, candidate));
        });
    }

    /// Removes a route; false if there is none with this id.
    pub fn remove(&mut self, id: &str) -> bool {
        let hash = probe::hash(id.as_bytes(), 0, self.seed);
        let Some(route) = self.routes.get(hash, 0, id.as_bytes()).cloned() else { return false };
        self.routes.remove(hash, 0, id.as_bytes());
        self.each_group(&route, |router, host| {
            route.patterns.iter().for_each(|pattern| router.leave(host, pattern, id));
            router.drop_if_empty(host);
        });
        true
    }

    /// Calls `change` for each host of a route that has a group, or once for the group without host.
    fn each_group(&mut self, route: &Route, mut change: impl FnMut(&mut Self, Option<&HostPattern>)) {
        if self.mode == RouterMode::HostUri && !route.hosts.is_empty() {
            route.hosts.iter().for_each(|host| change(self, Some(host)));
        } else {
            change(self, None);
        }
    }

    fn enter(&mut self, host: Option<&HostPattern>, candidate: Candidate<T>) {
        let pattern = Arc::clone(candidate.pattern());
        let (exact, key) = (pattern.is_exact(), pattern.prefix());
        let tag = self.group(host).tag(exact);
        let hash = probe::hash(key, tag, self.seed);
        match self.paths.get_mut(hash, tag, key) {
            Some(bucket) => bucket.add(candidate),
            None => {
                self.paths.insert_new(hash, tag, key, Bucket::One(candidate));
                self.group(host).lengths(exact).add(key, b'/');
            }
        }
    }

    fn leave(&mut self, host: Option<&HostPattern>, pattern: &PathPattern, id: &str) {
        let (exact, key) = (pattern.is_exact(), pattern.prefix());
        let tag = self.group(host).tag(exact);
        let hash = probe::hash(key, tag, self.seed);
        // Nothing is left to do if another pattern of the route had the same key.
        if self.paths.get_mut(hash, tag, key).is_some_and(|bucket| bucket.remove(id)) {
            self.paths.remove(hash, tag, key);
            self.group(host).lengths(exact).remove(key, b'/');
        }
    }

    /// The group of a host, made if there is none.
    fn group(&mut self, host: Option<&HostPattern>) -> &mut Group {
        let Some(host) = host else { return Arc::make_mut(&mut self.hostless) };
        let (tag, key) = host_key(host);
        let hash = probe::hash(&key, tag, self.seed);
        if self.hosts.get(hash, tag, &key).is_none() {
            let group = Group::new(self.next_group, Some(Arc::clone(host.text())));
            self.next_group += 1;
            self.hosts.insert_new(hash, tag, &key, group);
            if tag == HOST_SUFFIX {
                Arc::make_mut(&mut self.suffixes).add(&key, b'.');
            }
        }
        self.hosts.get_mut(hash, tag, &key).expect("it was there or has just been made")
    }

    fn drop_if_empty(&mut self, host: Option<&HostPattern>) {
        let Some(host) = host else { return };
        let (tag, key) = host_key(host);
        let hash = probe::hash(&key, tag, self.seed);
        let empty =
            self.hosts.get(hash, tag, &key).is_some_and(|group| group.exact.is_empty() && group.prefixes.is_empty());
        if empty {
            self.hosts.remove(hash, tag, &key);
            if tag == HOST_SUFFIX {
                Arc::make_mut(&mut self.suffixes).remove(&key, b'.');
            }
        }
    }
}

/// Where the group of a host is kept: suffixes reversed, so that they are starts of reversed hosts.
fn host_key(host: &HostPattern) -> (u64, Vec<u8>) {
    match host.suffix() {
        Some(suffix) => (HOST_SUFFIX, suffix.bytes().rev().collect()),
        None => (EXACT_HOST, host.text().as_bytes().to_vec()),
    }
}
