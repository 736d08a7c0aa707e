//! What requests of each route come to, told to the control plane with the node's reports.
//!
//! Every worker writes rows of its own, and finds that of a route by the address of what requests know of the route.
//!
//! What must stay true:
//! - Counting takes a lock and allocates only where a worker meets a route, or a new form of it, for the first time.
//! - Each count is told once. What is told is bounded, however many routes there are.

use crate::counters::{Counter, TIME_BOUNDS};
use crate::health::{HealthFigures, UpstreamHealth};
use milecastle_plugin_api::RouteInfo;
use milecastle_snapshot::{Snapshot, UpstreamRef};
use milecastle_wire::pb;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Where in a [`Row`] the answers of the class 5xx are that an upstream answered; before them all answers by class.
const UPSTREAM_5XX: usize = 5;

/// Where the times begin, by their bounds.
const TIMES: usize = UPSTREAM_5XX + 1;

const FIGURES: usize = TIMES + TIME_BOUNDS.len() + 1;

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// The class of the answer's status, from 0 for 1xx to 4 for 5xx.
    pub(crate) class: usize,
    /// It is of the class 5xx, and an upstream answered it.
    pub(crate) upstream_5xx: bool,
    /// The place of how long it took among the bounds; `None` if it switched protocols.
    pub(crate) time: Option<usize>,
}

/// What one worker has counted of one route. Only that worker writes.
#[derive(Debug, Default)]
struct Row([Counter; FIGURES]);

impl Row {
    fn count(&self, ended: Ended) {
        self.0[ended.class].up();
        if ended.upstream_5xx {
            self.0[UPSTREAM_5XX].up();
        }
        if let Some(time) = ended.time {
            self.0[TIMES + time].up();
        }
    }
}

/// The figures of a [`Row`], at some time or since some time.
#[derive(Debug, Clone, Copy, Default)]
struct Counts([u64; FIGURES]);

impl Counts {
    fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(own, other)| *own += other);
    }

    fn requests(&self) -> u64 {
        self.0[..UPSTREAM_5XX].iter().sum()
    }

    fn told(&self, route: &str, health: HealthFigures) -> pb::RouteCounts {
        pb::RouteCounts {
            route: route.to_owned(),
            responses: self.0[..UPSTREAM_5XX].to_vec(),
            responses_5xx_upstream: self.0[UPSTREAM_5XX],
            request_times: self.0[TIMES..].to_vec(),
            upstream_targets: health.targets,
            unhealthy_targets: health.unhealthy,
        }
    }
}

/// A row, and what of it was told.
#[derive(Debug, Default)]
struct Kept {
    row: Arc<Row>,
    told: Counts,
}

impl Kept {
    /// What was counted since it was told last.
    fn news(&mut self) -> Counts {
        let mut news = Counts::default();
        for (place, counter) in self.row.0.iter().enumerate() {
            let now = counter.get();
            news.0[place] = now - self.told.0[place];
            self.told.0[place] = now;
        }
        news
    }
}

/// The rows of one worker by the route's id; `None`: requests that no route took.
#[derive(Debug, Default)]
struct Rows(Mutex<HashMap<Option<Arc<str>>, Kept>>);

impl Rows {
    fn of(&self, route: Option<&Arc<str>>) -> Arc<Row> {
        self.lock().entry(route.cloned()).or_default().row.clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<Arc<str>>, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A route that a worker has met. What requests know of it is held, so that its address stays taken.
struct Met {
    route: Arc<RouteInfo>,
    row: Arc<Row>,
}

/// What a worker counts by.
pub(crate) struct RouteCounter {
    rows: Arc<Rows>,
    unmatched: Arc<Row>,
    /// By the address of what requests know of the route.
    met: RefCell<HashMap<usize, Met, foldhash::fast::RandomState>>,
}

impl RouteCounter {
    fn new(rows: Arc<Rows>) -> Self {
        Self { unmatched: rows.of(None), rows, met: RefCell::default() }
    }

    /// Counts a request that is over.
    pub(crate) fn count(&self, route: Option<&Arc<RouteInfo>>, ended: Ended) {
        let Some(route) = route else { return self.unmatched.count(ended) };
        if let Some(met) = self.met.borrow().get(&(Arc::as_ptr(route) as usize)) {
            return met.row.count(ended);
        }
        self.meet(route).count(ended);
    }

    #[cold]
    fn meet(&self, route: &Arc<RouteInfo>) -> Arc<Row> {
        let row = self.rows.of(Some(&route.id));
        self.met.borrow_mut().insert(Arc::as_ptr(route) as usize, Met { route: route.clone(), row: row.clone() });
        row
    }

    /// Lets go of routes that no snapshot in use has any more.
    pub(crate) fn forget_unused(&self) {
        self.met.borrow_mut().retain(|_, met| Arc::strong_count(&met.route) > 1);
    }
}

/// What is counted by route, of all workers.
#[derive(Debug)]
pub(crate) struct RouteTraffic {
    workers: Vec<Arc<Rows>>,
    told_at: Mutex<Instant>,
}

impl Default for RouteTraffic {
    fn default() -> Self {
        Self::new(0)
    }
}

impl RouteTraffic {
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| Arc::default()).collect(), told_at: Mutex::new(Instant::now()) }
    }

    /// What a worker counts by.
    pub(crate) fn worker(&self, index: usize) -> RouteCounter {
        RouteCounter::new(self.workers[index].clone())
    }

    /// What was counted since this was asked last: of the `most` routes with most requests each by itself, with the health of its
    /// upstream.
    pub(crate) fn news(
        &self,
        most: usize,
        snapshot: Option<&Snapshot>,
        upstreams: &UpstreamHealth,
    ) -> pb::RouteTraffic {
        let now = Instant::now();
        let before = std::mem::replace(&mut *self.told_at.lock().unwrap_or_else(PoisonError::into_inner), now);
        let mut sums = self.take();
        let unmatched = sums.remove(&None).unwrap_or_default();
        let health = |route: &str| {
            let path = snapshot.and_then(|snapshot| upstream_of(snapshot, route));
            path.map(|path| upstreams.figures_of(&path)).unwrap_or_default()
        };
        let mut routes: Vec<_> = sums
            .into_iter()
            .filter_map(|(route, counts)| Some((route.as_ref().map(|route| health(route))?, route?, counts)))
            .filter(|(health, _, counts)| counts.requests() > 0 || health.targets > 0)
            .collect();
        routes.sort_unstable_by(|(_, a, one), (_, b, other)| {
            (Reverse(one.requests()), a).cmp(&(Reverse(other.requests()), b))
        });
        let mut other = Counts::default();
        routes.iter().skip(most).for_each(|(.., counts)| other.add(counts));
        routes.truncate(most);
        let rest = |counts: Counts| (counts.requests() > 0).then(|| counts.told("", HealthFigures::default()));
        pb::RouteTraffic {
            over_ms: u64::try_from(now.duration_since(before).as_millis()).unwrap_or(u64::MAX).max(1),
            routes: routes.iter().map(|(health, route, counts)| counts.told(route, *health)).collect(),
            other: rest(other),
            unmatched: rest(unmatched),
        }
    }

    /// What no worker has told yet. Rows of routes that are gone go with what is left in them.
    fn take(&self) -> HashMap<Option<Arc<str>>, Counts> {
        let mut sums: HashMap<Option<Arc<str>>, Counts> = HashMap::new();
        for worker in &self.workers {
            worker.lock().retain(|route, kept| {
                // Before it is read: nobody writes to a row that nobody else has.
                let is_used = Arc::get_mut(&mut kept.row).is_none();
                sums.entry(route.clone()).or_default().add(&kept.news());
                is_used
            });
        }
        sums
    }
}

/// Under which path the health of a route's upstream is kept.
fn upstream_of(snapshot: &Snapshot, route: &str) -> Option<Arc<str>> {
    match &snapshot.route(route)?.upstream {
        UpstreamRef::None => None,
        UpstreamRef::Inline(upstream) => Some(upstream.key.clone()),
        UpstreamRef::Id(id) => Some(snapshot.upstream(id)?.key.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Ended = Ended { class: 1, upstream_5xx: false, time: Some(3) };
    const FAILED: Ended = Ended { class: 4, upstream_5xx: true, time: Some(15) };

    fn route(id: &str) -> Arc<RouteInfo> {
        Arc::new(RouteInfo { id: id.into(), ..RouteInfo::default() })
    }

    /// Routes with their requests, then those of the others, then those that no route took.
    fn told(traffic: &RouteTraffic, most: usize) -> (Vec<(String, u64)>, u64, u64) {
        let news = traffic.news(most, None, &UpstreamHealth::default());
        let sum = |counts: &pb::RouteCounts| counts.responses.iter().sum();
        let rest = |counts: &Option<pb::RouteCounts>| counts.as_ref().map_or(0, sum);
        let routes = news.routes.iter().map(|counts| (counts.route.clone(), sum(counts))).collect();
        (routes, rest(&news.other), rest(&news.unmatched))
    }

    fn one(id: &str, requests: u64) -> (String, u64) {
        (id.to_owned(), requests)
    }

    #[test]
    fn workers_add_up_and_each_count_is_told_once() {
        let traffic = RouteTraffic::new(2);
        let (a, b) = (route("a"), route("b"));
        let workers = [traffic.worker(0), traffic.worker(1)];
        for worker in &workers {
            worker.count(Some(&a), GOOD);
            worker.count(None, GOOD);
        }
        workers[1].count(Some(&b), FAILED);
        let news = traffic.news(10, None, &UpstreamHealth::default());
        assert!(news.over_ms > 0);
        let failed = &news.routes[1];
        assert_eq!((&*failed.route, &failed.responses[..]), ("b", &[0, 0, 0, 0, 1][..]));
        assert_eq!((failed.responses_5xx_upstream, failed.request_times[15]), (1, 1));
        assert_eq!((news.routes[0].responses[1], news.routes[0].request_times[3]), (2, 2));
        assert_eq!(news.unmatched.unwrap().responses, [0, 2, 0, 0, 0]);
        assert_eq!(told(&traffic, 10), (vec![], 0, 0));
        workers[0].count(Some(&b), GOOD);
        assert_eq!(told(&traffic, 10), (vec![one("b", 1)], 0, 0));
    }

    #[test]
    fn of_many_routes_those_with_most_requests_are_told() {
        let traffic = RouteTraffic::new(1);
        let worker = traffic.worker(0);
        for (id, times) in [("a", 1), ("b", 3), ("c", 2), ("d", 2)] {
            let route = route(id);
            (0..times).for_each(|_| worker.count(Some(&route), GOOD));
        }
        assert_eq!(told(&traffic, 2), (vec![one("b", 3), one("c", 2)], 3, 0));
        assert_eq!(told(&traffic, 2), (vec![], 0, 0));
    }

    #[test]
    fn a_route_that_changes_goes_on_and_one_that_is_gone_loses_no_count() {
        let traffic = RouteTraffic::new(1);
        let worker = traffic.worker(0);
        let (old, new, gone) = (route("a"), route("a"), route("gone"));
        for route in [&old, &new, &gone] {
            worker.count(Some(route), GOOD);
        }
        drop((old, gone));
        worker.forget_unused();
        assert_eq!(worker.met.borrow().len(), 1);
        assert_eq!(told(&traffic, 9), (vec![one("a", 2), one("gone", 1)], 0, 0));
        // Its row went along; that of one that comes back begins at zero.
        assert_eq!(traffic.workers[0].lock().len(), 2);
        let back = route("gone");
        worker.count(Some(&back), GOOD);
        assert_eq!(told(&traffic, 9), (vec![one("gone", 1)], 0, 0));
    }
}
