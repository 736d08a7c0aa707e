//! Lookups, building and changing, beside the obvious flat hash tables in the same run.
//!
//! `cargo bench -p milecastle-matching`. The tables compared with have no conditions, no rank, no ragged prefixes, no
//! wildcard hosts, and cannot be changed while they are read: they are the floor, not an alternative.

#![expect(clippy::unwrap_used, reason = "a benchmark may stop")]

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use divan::Bencher;
use milecastle_matching::{MatchInput, NoVars, RouteEntry, Router, RouterMode};

// The allocator of the binary: where things lie decides what a cold lookup costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

type Map<V> = HashMap<Box<str>, V, foldhash::fast::RandomState>;

/// One measurement.
#[derive(Clone, Copy)]
struct Case {
    routes: u64,
    /// 0 for routes without host.
    hosts: u64,
    exact: bool,
    /// How many different requests take turns.
    requests: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.exact { "exact" } else { "prefix" };
        let heat = if self.requests > 256 { "cold" } else { "hot" };
        write!(f, "{kind:6} {heat:4} {:6} routes {:4} hosts", self.routes, self.hosts)
    }
}

fn cases() -> impl Iterator<Item = Case> {
    let sizes = [(10, 0), (1_000, 0), (100_000, 0), (1_000, 1_000), (100_000, 1_000)];
    sizes.into_iter().flat_map(|(routes, hosts)| {
        [(true, 256), (true, 65_536), (false, 256), (false, 65_536)].into_iter().map(move |(exact, requests)| Case {
            routes,
            hosts,
            exact,
            requests,
        })
    })
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Case {
    fn host(&self, route: u64) -> Option<String> {
        (self.hosts > 0).then(|| format!("host{}.example.com", route % self.hosts))
    }

    /// What the requests of a route start with.
    fn start(&self, route: u64) -> String {
        format!("/api/v{}/service{}/items{}", route % 3, route / 7, route)
    }

    fn entries(&self) -> Vec<RouteEntry<u64>> {
        (0..self.routes)
            .map(|route| {
                let uri = if self.exact { self.start(route) } else { self.start(route) + "/*" };
                let mut entry = RouteEntry::new(format!("{route:020}"), route, vec![uri.into()], route);
                entry.hosts.extend(self.host(route).map(Into::into));
                entry
            })
            .collect()
    }

    /// Hosts and paths, in the order they are asked for.
    fn asked(&self) -> Vec<(String, String)> {
        let mut state = 7;
        (0..self.requests)
            .map(|_| {
                let route = random(&mut state) % self.routes;
                let mut path = self.start(route);
                if !self.exact {
                    path += &format!("/{}", random(&mut state) % 1_000_000);
                }
                (self.host(route).unwrap_or_default(), path)
            })
            .collect()
    }

    fn router(&self) -> Router<u64> {
        let mut router = Router::new(RouterMode::HostUri);
        self.entries().into_iter().for_each(|entry| router.insert(entry));
        router
    }

    /// Measures `find`, one request after the other, after checking that each finds its route.
    fn measure(&self, bencher: Bencher<'_, '_>, find: impl Fn(&str, &str) -> Option<u64>) {
        let asked = self.asked();
        for (host, path) in &asked {
            let route = find(host, path).unwrap();
            assert!(path.starts_with(&self.start(route)));
        }
        let next = Cell::new(0);
        bencher.bench_local(|| {
            let at = next.get();
            next.set((at + 1) % asked.len());
            let (host, path) = &asked[at];
            black_box(find(host, path))
        });
    }
}

fn input<'i>(host: &'i str, path: &'i str) -> MatchInput<'i> {
    MatchInput { path, host, raw_host: host.as_bytes(), method: "GET", addr: IpAddr::V4(Ipv4Addr::LOCALHOST) }
}

/// One table of exact paths and one of prefixes, tried from the last `/` of the path.
#[derive(Default)]
struct Flat {
    exact: Map<u64>,
    prefixes: Map<u64>,
}

impl Flat {
    fn insert(&mut self, uri: &str, route: u64) {
        match uri.strip_suffix('*') {
            Some(prefix) => self.prefixes.insert(prefix.into(), route),
            None => self.exact.insert(uri.into(), route),
        };
    }

    fn find(&self, path: &str) -> Option<u64> {
        if let Some(route) = self.exact.get(path) {
            return Some(*route);
        }
        let mut end = path.len();
        while let Some(slash) = path.get(..end)?.rfind('/') {
            if let Some(route) = self.prefixes.get(path.get(..=slash)?) {
                return Some(*route);
            }
            end = slash;
        }
        None
    }
}

/// A flat table for each host, and one for routes without host.
#[derive(Default)]
struct FlatHosts {
    hosts: Map<Flat>,
    hostless: Flat,
}

impl FlatHosts {
    fn of(entries: &[RouteEntry<u64>]) -> FlatHosts {
        let mut all = FlatHosts::default();
        for entry in entries {
            let flat = match entry.hosts.first() {
                Some(host) => all.hosts.entry((&**host).into()).or_default(),
                None => &mut all.hostless,
            };
            flat.insert(&entry.uris[0], entry.value);
        }
        all
    }

    fn find(&self, host: &str, path: &str) -> Option<u64> {
        self.hosts.get(host).and_then(|flat| flat.find(path)).or_else(|| self.hostless.find(path))
    }
}

#[divan::bench(args = cases(), min_time = 0.3)]
fn lookup_router(bencher: Bencher<'_, '_>, case: Case) {
    let router = case.router();
    case.measure(bencher, |host, path| router.find(&input(host, path), &NoVars).map(|found| *found.value()));
}

#[divan::bench(args = cases(), min_time = 0.3)]
fn lookup_flat_tables(bencher: Bencher<'_, '_>, case: Case) {
    let flat = FlatHosts::of(&case.entries());
    case.measure(bencher, |host, path| flat.find(host, path));
}

const LARGE: [Case; 2] = [
    Case { routes: 100_000, hosts: 0, exact: false, requests: 256 },
    Case { routes: 100_000, hosts: 1_000, exact: false, requests: 256 },
];

#[divan::bench(args = LARGE, sample_count = 5, sample_size = 1)]
fn build(bencher: Bencher<'_, '_>, case: Case) {
    bencher.with_inputs(|| case.entries()).bench_local_values(|entries| {
        let mut router = Router::new(RouterMode::HostUri);
        entries.into_iter().for_each(|entry| router.insert(entry));
        router
    });
}

/// Replaces one route in a copy and drops the version before it.
#[divan::bench(args = LARGE, min_time = 0.3)]
fn change_one_route(bencher: Bencher<'_, '_>, case: Case) {
    let entries = case.entries();
    let mut current = case.router();
    let mut state = 11;
    bencher.bench_local(|| {
        let mut entry = entries[(random(&mut state) % case.routes) as usize].clone();
        entry.priority = 1;
        let mut next = current.clone();
        next.insert(entry);
        current = next;
    });
}
