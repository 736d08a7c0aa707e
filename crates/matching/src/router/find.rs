//! Looking up the route of a request.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::path::PathPattern;
use super::probe::{self, Probe};
use super::route::Candidate;
use super::{EXACT_HOST, Group, HOST_SUFFIX, Router, RouterMode};
use crate::var::Lookup;

/// No host name is longer; of a longer one the end is looked at.
const MAX_HOST: usize = 256;

/// What of a request decides, apart from variables (§2).
#[derive(Clone, Copy, Debug)]
pub struct MatchInput<'i> {
    /// The canonical path, see [`crate::uri::canonical_path`].
    pub path: &'i str,
    /// The host in lower case without port.
    pub host: &'i str,
    /// The Host header as sent; only hosts with a port are compared with it, in the modes where the host is a condition.
    pub raw_host: &'i [u8],
    /// The method, in upper case.
    pub method: &'i str,
    /// The client's address after real-IP processing.
    pub addr: IpAddr,
}

/// The route that won.
pub struct Match<'r, T> {
    candidate: &'r Candidate<T>,
    host: Option<&'r Arc<str>>,
}

impl<'r, T> Match<'r, T> {
    /// The route's value.
    pub fn value(&self) -> &'r T {
        &self.candidate.value
    }

    /// The route's id.
    pub fn id(&self) -> &'r Arc<str> {
        &self.candidate.route.id
    }

    /// The pattern that matched: the variable `_path`. [`PathPattern::captures`] gives the `uri_param_*` variables.
    pub fn pattern(&self) -> &'r Arc<PathPattern> {
        self.candidate.pattern()
    }

    /// The host pattern that matched, in lower case: the variable `_host`; `None` if the route has no hosts.
    pub fn host(&self) -> Option<&'r Arc<str>> {
        self.host
    }
}

impl<T: fmt::Debug> fmt::Debug for Match<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Match")
            .field("id", self.id())
            .field("pattern", &self.pattern().as_str())
            .field("host", &self.host)
            .field("value", self.value())
            .finish()
    }
}

/// A request on its way through the candidates.
struct Request<'i> {
    input: &'i MatchInput<'i>,
    path: &'i Probe<'i>,
    vars: &'i dyn Lookup,
}

impl<T> Router<T> {
    /// The route of a request, or `None`. `vars` answers the variables of conditions.
    pub fn find(&self, input: &MatchInput<'_>, vars: &dyn Lookup) -> Option<Match<'_, T>> {
        let mut path = Probe::new(input.path.as_bytes(), b'/', self.seed);
        path.read();
        let request = Request { input, path: &path, vars };
        if self.mode == RouterMode::HostUri && self.hosts.len() > 0 {
            let host = input.host.as_bytes();
            let exact = self.hosts.get(probe::hash(host, EXACT_HOST, self.seed), EXACT_HOST, host);
            if let Some(found) = exact.and_then(|group| self.find_in(group, &request)) {
                return Some(found);
            }
            if !self.suffixes.is_empty()
                && let Some(found) = self.find_by_suffix(host, &request)
            {
                return Some(found);
            }
        }
        self.find_in(&self.hostless, &request)
    }

    fn find_by_suffix(&self, host: &[u8], request: &Request<'_>) -> Option<Match<'_, T>> {
        let mut reversed = [0; MAX_HOST];
        let len = host.len().min(MAX_HOST);
        reversed.iter_mut().zip(host.iter().rev()).for_each(|(to, from)| *to = *from);
        let mut probe = Probe::new(reversed.get(..len)?, b'.', self.seed);
        probe.read();
        self.suffixes.find(&probe, |len| {
            let key = probe.bytes().get(..len)?;
            let group = self.hosts.get(probe.hash(len, HOST_SUFFIX), HOST_SUFFIX, key)?;
            self.find_in(group, request)
        })
    }

    fn find_in<'r>(&'r self, group: &'r Group, request: &Request<'_>) -> Option<Match<'r, T>> {
        let path = request.path;
        let len = path.bytes().len();
        if group.exact.may_hold(len)
            && let Some(found) = self.first_of(group, true, len, request)
        {
            return Some(found);
        }
        if group.prefixes.is_empty() {
            return None;
        }
        group.prefixes.find(path, |len| self.first_of(group, false, len, request))
    }

    /// The first candidate under one key whose conditions hold.
    fn first_of<'r>(
        &'r self,
        group: &'r Group,
        exact: bool,
        len: usize,
        request: &Request<'_>,
    ) -> Option<Match<'r, T>> {
        let tag = group.tag(exact);
        let bucket = self.paths.get(request.path.hash(len, tag), tag, request.path.bytes().get(..len)?)?;
        bucket.candidates().iter().find_map(|candidate| {
            let host = self.admits(candidate, group, request)?;
            Some(Match { candidate, host })
        })
    }

    /// Whether all conditions hold (§5, in that order), and by which host pattern.
    fn admits<'r>(
        &self,
        candidate: &'r Candidate<T>,
        group: &'r Group,
        request: &Request<'_>,
    ) -> Option<Option<&'r Arc<str>>> {
        if candidate.unconditional {
            return Some(group.host.as_ref());
        }
        let route = &candidate.route;
        let input = request.input;
        let mut host = group.host.as_ref();
        let admitted = route.methods.admits(input.method)
            && route.remote_addrs.as_ref().is_none_or(|addrs| addrs.contains(input.addr))
            && (self.mode == RouterMode::HostUri || route.hosts.is_empty() || {
                host = route.hosts.iter().find(|host| host.matches(input.host, input.raw_host)).map(|host| host.text());
                host.is_some()
            })
            && route.vars.as_ref().is_none_or(|expr| expr.eval(request.vars))
            && route.filter.as_ref().is_none_or(|filter| filter(request.vars))
            && candidate.pattern().fits(input.path);
        admitted.then_some(host)
    }
}
