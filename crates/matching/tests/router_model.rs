//! The router against a slow, obvious reading of `docs/spec/routing.md` §3–§5.

#![allow(clippy::unwrap_used, clippy::string_slice)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use milecastle_matching::{CidrSet, Expr, Lookup, MatchInput, MethodSet, RouteEntry, Router, RouterMode, Var, VarName};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use regex::Regex;
use serde_json::json;

/// A route as a user would write it.
#[derive(Clone, Debug)]
struct Spec {
    order: u64,
    priority: i64,
    uris: Vec<String>,
    hosts: Vec<String>,
    methods: Vec<&'static str>,
    addr: Option<&'static str>,
    arg: Option<&'static str>,
}

#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    host: String,
    port: bool,
    path: String,
    addr: &'static str,
    arg: Option<&'static str>,
}

impl Lookup for Request {
    fn var(&self, name: &VarName) -> Option<Var<'_>> {
        (name.as_str() == "arg_a").then(|| self.arg.map(Var::from)).flatten()
    }
}

impl Request {
    fn raw_host(&self) -> String {
        self.host.clone() + if self.port { ":80" } else { "" }
    }
}

/// A pattern that was not recognised as such by the code under test.
struct Pattern {
    text: String,
    exact: bool,
    prefix: String,
    whole: LazyLock<Regex, Box<dyn FnOnce() -> Regex>>,
    captures: Vec<String>,
}

/// Patterns in use; building a regular expression is slow without optimisation.
type Patterns = RefCell<HashMap<String, Rc<Pattern>>>;

impl Pattern {
    fn parse(text: &str, params: bool) -> Pattern {
        let cut = text.find(|c| c == '*' || (params && c == ':'));
        let segments: Vec<&str> = text.split('/').collect();
        let star_segment = segments.iter().any(|segment| segment.starts_with('*'));
        let mut captures = Vec::new();
        let whole = match cut {
            None => format!("^{}$", regex::escape(text)),
            // Only a prefix.
            Some(cut) if !(star_segment || params && text.contains(':')) => {
                format!("^{}", regex::escape(&text[..cut]))
            }
            Some(_) => {
                let parts: Vec<String> = segments
                    .iter()
                    .map(|segment| {
                        if let Some(name) = segment.strip_prefix('*') {
                            captures.push(if name.is_empty() { ":ext" } else { name }.to_owned());
                            "(.*)".to_owned()
                        } else if let Some(name) = segment.strip_prefix(':').filter(|_| params) {
                            captures.push(name.to_owned());
                            "([^/]+)".to_owned()
                        } else {
                            regex::escape(segment).replacen(r"\*", ".*", 1)
                        }
                    })
                    .collect();
                format!("^{}$", parts.join("/"))
            }
        };
        Pattern {
            text: text.to_owned(),
            exact: cut.is_none(),
            prefix: text[..cut.unwrap_or(text.len())].to_owned(),
            whole: LazyLock::new(Box::new(move || Regex::new(&format!("(?s){whole}")).unwrap())),
            captures,
        }
    }
}

fn host_fits(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix),
        None => host == pattern,
    }
}

/// Id, pattern, host pattern and captures of the winner.
type Won = (String, String, Option<String>, Vec<(String, String)>);

/// All candidates, in the order of §4, tried one by one.
fn expected(mode: RouterMode, routes: &BTreeMap<String, Spec>, patterns: &Patterns, request: &Request) -> Option<Won> {
    let params = mode == RouterMode::UriWithParameter;
    let mut candidates = Vec::new();
    for (id, spec) in routes {
        for uri in &spec.uris {
            let mut patterns = patterns.borrow_mut();
            let pattern = patterns.entry(uri.clone()).or_insert_with(|| Rc::new(Pattern::parse(uri, params)));
            if mode == RouterMode::HostUri && !spec.hosts.is_empty() {
                for host in &spec.hosts {
                    candidates.push((id, spec, Some(host.to_lowercase()), Rc::clone(pattern)));
                }
            } else {
                candidates.push((id, spec, None, Rc::clone(pattern)));
            }
        }
    }
    candidates.retain(|(_, _, host, pattern)| {
        host.as_ref().is_none_or(|host| host_fits(host, &request.host))
            && if pattern.exact { pattern.text == request.path } else { request.path.starts_with(&pattern.prefix) }
    });
    candidates.sort_by_key(|(id, spec, host, pattern)| {
        let host_rank = match host {
            Some(host) if !host.starts_with('*') => (0, 0),
            Some(host) => (1, usize::MAX - host.len()),
            None => (2, 0),
        };
        let path_rank = if pattern.exact { (0, 0) } else { (1, usize::MAX - pattern.prefix.len()) };
        (host_rank, path_rank, -spec.priority, usize::MAX - pattern.text.len(), spec.order, *id)
    });
    candidates.into_iter().find_map(|(id, spec, host, pattern)| {
        let addr: IpAddr = request.addr.parse().unwrap();
        let matched_host = if mode == RouterMode::HostUri {
            host
        } else {
            let hosts = spec.hosts.iter().map(|host| host.to_lowercase());
            let raw = request.raw_host();
            hosts.into_iter().find(|host| host_fits(host, if host.contains(':') { &raw } else { &request.host }))
        };
        let holds = (spec.methods.is_empty() || spec.methods.contains(&request.method))
            && spec.addr.is_none_or(|entry| {
                entry == request.addr || (entry == "10.0.0.0/8" && addr.is_ipv4() && request.addr.starts_with("10."))
            })
            && (mode == RouterMode::HostUri || spec.hosts.is_empty() || matched_host.is_some())
            && spec.arg.is_none_or(|arg| request.arg == Some(arg));
        let captures = pattern.whole.captures(&request.path).filter(|_| holds)?;
        let captures =
            pattern.captures.iter().cloned().zip(captures.iter().skip(1).map(|part| part.unwrap().as_str().to_owned()));
        Some((id.clone(), pattern.text.clone(), matched_host, captures.collect()))
    })
}

fn entry(id: &str, spec: &Spec) -> RouteEntry<String> {
    let mut entry =
        RouteEntry::new(id, spec.order, spec.uris.iter().map(|uri| uri.as_str().into()).collect(), id.to_owned());
    entry.priority = spec.priority;
    entry.hosts = spec.hosts.iter().map(|host| host.as_str().into()).collect();
    entry.methods = MethodSet::of(&spec.methods);
    entry.remote_addrs = spec.addr.map(|addr| Arc::new(CidrSet::parse([addr]).unwrap()));
    entry.vars = spec.arg.map(|arg| Arc::new(Expr::parse(&json!([["arg_a", "==", arg]])).unwrap()));
    entry
}

fn found(router: &Router<String>, request: &Request) -> Option<Won> {
    let raw_host = request.raw_host();
    let input = MatchInput {
        path: &request.path,
        host: &request.host,
        raw_host: raw_host.as_bytes(),
        method: request.method,
        addr: request.addr.parse().unwrap(),
    };
    router.find(&input, request).map(|won| {
        let captures = won.pattern().captures(&request.path);
        let captures = captures.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        (won.value().clone(), won.pattern().to_string(), won.host().map(|host| host.to_string()), captures)
    })
}

/// Few different segments, so that patterns and paths meet; one long one, to leave the window of short prefixes.
fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(vec!["a", "b", "ab", "abc", "", "a.b", "é"]).prop_map(str::to_owned),
        1 => Just("l".repeat(60)),
    ]
}

fn uri() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => segment(),
        1 => Just("*".to_owned()),
        1 => Just("*rest".to_owned()),
        1 => Just(":id".to_owned()),
        1 => Just(":n".to_owned()),
        1 => select(vec!["a*", "ab*", "a*b", "a:b"]).prop_map(str::to_owned),
    ];
    (vec(part, 1..5), select(vec!["", "*", "/*", "/"]))
        .prop_map(|(parts, end)| format!("/{}{end}", parts.join("/")))
        // Two stars in one segment have no stated meaning.
        .prop_filter("one star a segment", |uri| uri.split('/').all(|segment| segment.matches('*').count() < 2))
}

fn host() -> impl Strategy<Value = String> {
    select(vec![
        "a.com",
        "b.com",
        "x.a.com",
        "*.a.com",
        "*a.com",
        "*.com",
        "*",
        "A.com",
        "*.x.a.com",
        "a.com:80",
        "*.com:80",
    ])
    .prop_map(str::to_owned)
}

fn spec() -> impl Strategy<Value = Spec> {
    (
        (0_u64..4, -1_i64..2, vec(uri(), 1..4), vec(host(), 0..3)),
        vec(select(vec!["GET", "POST", "PURGE"]), 0..2),
        weighted(0.2, select(vec!["10.0.0.0/8", "::1"])),
        weighted(0.2, select(vec!["1", "2"])),
    )
        .prop_map(|((order, priority, uris, hosts), methods, addr, arg)| Spec {
            order,
            priority,
            uris,
            hosts,
            methods,
            addr,
            arg,
        })
}

fn request() -> impl Strategy<Value = Request> {
    let path = vec(prop_oneof![9 => segment(), 1 => select(vec![":id", "*"]).prop_map(str::to_owned)], 1..7)
        .prop_map(|parts| format!("/{}", parts.join("/")));
    let host =
        select(vec!["a.com", "b.com", "x.a.com", "y.x.a.com", "xa.com", "com", "", "org"]).prop_map(str::to_owned);
    (
        select(vec!["GET", "POST", "BREW"]),
        host,
        any::<bool>(),
        path,
        select(vec!["10.1.1.1", "11.1.1.1", "::1"]),
        weighted(0.5, select(vec!["1", "2"])),
    )
        .prop_map(|(method, host, port, path, addr, arg)| Request { method, host, port, path, addr, arg })
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Box<Spec>),
    Remove(u8),
    /// Keeps the version of this moment, to be asked again at the end.
    Keep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..24, spec()).prop_map(|(id, spec)| Step::Put(id, Box::new(spec))),
        2 => (0_u8..24).prop_map(Step::Remove),
        1 => Just(Step::Keep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_router_agrees_with_the_rules(
        mode in select(vec![RouterMode::HostUri, RouterMode::Uri, RouterMode::UriWithParameter]),
        steps in vec(step(), 1..40),
        requests in vec(request(), 1..30),
    ) {
        let (mut router, mut routes) = (Router::new(mode), BTreeMap::new());
        let (mut versions, patterns) = (Vec::new(), Patterns::default());
        for step in steps {
            match step {
                Step::Put(id, spec) => {
                    let id = format!("r{id:02}");
                    router.insert(entry(&id, &spec));
                    routes.insert(id, *spec);
                }
                Step::Remove(id) => {
                    let id = format!("r{id:02}");
                    prop_assert_eq!(router.remove(&id), routes.remove(&id).is_some());
                }
                Step::Keep => versions.push((router.clone(), routes.clone())),
            }
            prop_assert_eq!(router.len(), routes.len());
        }
        versions.push((router, routes));
        for (router, routes) in &versions {
            for request in &requests {
                prop_assert_eq!(found(router, request), expected(mode, routes, &patterns, request), "{:?}", request);
            }
        }
    }
}
