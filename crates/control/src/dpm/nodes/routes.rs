//! What nodes that are connected here tell of their routes, added up by group and step, on its way to the store.
//!
//! Steps of both lengths are filled at the same time, so that the longer ones rest on no row that has to be read again.
//!
//! What must stay true: what is held is bounded, whatever nodes say; a step in which nobody told is not made up; a node that goes from
//! one replica to another is one node.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use milecastle_store::{RouteSample, Store, StoreError};
use milecastle_wire::pb;

use crate::charts::{COARSE_STEP, STEP};
use crate::traffic::{OTHER, RouteTold, Traffic, UNMATCHED};

/// A node that tells of a longer time was away meanwhile: nobody knows in which steps it counted that.
const LONGEST_MS: u64 = COARSE_STEP * 1000;

/// Routes of a group that are held apart while a step lasts, for each that is kept in the end: those with most requests are not known
/// before.
const ROOM: usize = 10;

/// Routes of which it is held what one node told of their targets, for each that is kept in the end: a group may have a thousand nodes.
const ROOM_OF_A_NODE: usize = 2;

/// Steps that wait to be written at most, of all groups; the shorter and older ones make room.
const WAITING: usize = 1000;

/// Routes of one report that are taken.
const MOST_TOLD: usize = 1000;

/// Longest id of a route, in bytes.
const LONGEST_ID: usize = 64;

/// Sums of the steps under way, and of those that are still to be written.
pub(super) struct Routes(Mutex<Held>);

struct Held {
    rings: [Ring; 2],
    /// By length and end of the step, and group.
    waiting: BTreeMap<(u64, u64, Arc<str>), RouteSample>,
}

/// Steps of one length.
struct Ring {
    span: u64,
    /// When the step under way ends, Unix time in seconds.
    at: u64,
    groups: HashMap<Arc<str>, Step>,
}

/// What the nodes of a group have told in a step.
#[derive(Default)]
struct Step {
    nodes: HashMap<String, Teller>,
    covered_ms: u64,
    routes: HashMap<String, Sum>,
    /// Routes that are kept apart in the end.
    most: usize,
}

/// A node that has told.
#[derive(Default)]
struct Teller {
    /// Its stream has ended since: where it goes on, it is counted there.
    has_left: bool,
    /// Targets of the upstream of routes, by their places, and unhealthy ones, as it told last.
    health: HashMap<usize, (u64, u64)>,
}

struct Sum {
    /// Which one the route is among those that were told.
    place: usize,
    traffic: Traffic,
}

impl Default for Routes {
    fn default() -> Self {
        let rings = [STEP, COARSE_STEP].map(|span| Ring { span, at: 0, groups: HashMap::new() });
        Self(Mutex::new(Held { rings, waiting: BTreeMap::new() }))
    }
}

impl Routes {
    /// A node has told this, at `now` (Unix seconds); `most` routes of a group are kept apart.
    pub(super) fn add(&self, group: &Arc<str>, node: &str, told: pb::RouteTraffic, now: u64, most: usize) {
        let over_ms = told.over_ms;
        if !(1..=LONGEST_MS).contains(&over_ms) {
            return;
        }
        let told = by_route(told);
        let mut held = self.lock();
        held.turn(now);
        for ring in &mut held.rings {
            let step = ring.groups.entry(group.clone()).or_default();
            step.most = most;
            step.add(node, over_ms, &told);
        }
    }

    /// A node's stream has ended.
    pub(super) fn left(&self, group: &str, node: &str) {
        let mut held = self.lock();
        let steps = held.rings.iter_mut().filter_map(|ring| ring.groups.get_mut(group));
        steps.filter_map(|step| step.nodes.get_mut(node)).for_each(|teller| teller.has_left = true);
    }

    /// Writes the steps that are over, those under way too if this process `stops`; what cannot be written waits on.
    pub(super) async fn write(&self, store: &Store, member: &str, stops: bool) -> Result<(), StoreError> {
        let taken = {
            let mut held = self.lock();
            held.turn(if stops { u64::MAX >> 1 } else { store.now() });
            std::mem::take(&mut held.waiting)
        };
        if taken.is_empty() {
            return Ok(());
        }
        let samples = taken.values().map(|sample| RouteSample { member: member.to_owned(), ..sample.clone() });
        let written = store.route_sample_put(&samples.collect::<Vec<_>>()).await;
        if written.is_err() {
            let mut held = self.lock();
            for (step, sample) in taken {
                held.wait(step, sample);
            }
        }
        written
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Ends the steps that are not those of `now`.
    fn turn(&mut self, now: u64) {
        let mut over = Vec::new();
        for ring in &mut self.rings {
            // A clock that goes back ends no step: it would be told twice.
            let at = ((now / ring.span + 1) * ring.span).max(ring.at);
            let before = std::mem::replace(&mut ring.at, at);
            if before != at {
                over.extend(ring.groups.drain().map(|(group, step)| ((ring.span, before, group), step)));
            }
        }
        for (key, step) in over {
            let sample = step.sample(&key);
            self.wait(key, sample);
        }
    }

    fn wait(&mut self, step: (u64, u64, Arc<str>), sample: RouteSample) {
        self.waiting.entry(step).or_insert(sample);
        while self.waiting.len() > WAITING {
            self.waiting.pop_first();
        }
    }
}

impl Step {
    fn add(&mut self, node: &str, over_ms: u64, told: &[(String, RouteTold)]) {
        let teller = self.nodes.entry(node.to_owned()).or_default();
        teller.has_left = false;
        self.covered_ms += over_ms;
        let mut health = Vec::new();
        for (route, told) in told {
            let is_held = route == UNMATCHED || self.routes.len() < self.most * ROOM || self.routes.contains_key(route);
            let next = Sum { place: self.routes.len(), traffic: Traffic::default() };
            let sum = self.routes.entry(if is_held { route.clone() } else { OTHER.to_owned() }).or_insert(next);
            sum.traffic = sum.traffic.and(&told.traffic);
            if is_held && told.upstream_targets > 0 {
                health.push((sum.place, (told.upstream_targets, told.unhealthy_targets)));
            }
        }
        let new = health.iter().filter(|(place, _)| !teller.health.contains_key(place)).count();
        if teller.health.len() + new > self.most * ROOM_OF_A_NODE {
            // What it tells now says more than what it told of others.
            teller.health.clear();
        }
        teller.health.extend(health);
    }

    fn sample(self, (span, at, group): &(u64, u64, Arc<str>)) -> RouteSample {
        let mut health = vec![(0_u64, 0_u64); self.routes.len()];
        let mut nodes = 0;
        for teller in self.nodes.values().filter(|teller| !teller.has_left) {
            nodes += 1;
            for (place, (targets, unhealthy)) in &teller.health {
                let (all, bad) = health[*place];
                health[*place] = (all.saturating_add(*targets), bad.saturating_add(*unhealthy));
            }
        }
        let (mut kept, mut routes): (BTreeMap<_, _>, Vec<_>) = {
            let told = |Sum { place, traffic }: Sum| {
                let (upstream_targets, unhealthy_targets) = health[place];
                RouteTold { traffic, upstream_targets, unhealthy_targets }
            };
            let told = self.routes.into_iter().map(|(route, sum)| (route, told(sum)));
            let (rest, routes): (Vec<_>, Vec<_>) = told.partition(|(route, _)| route == OTHER || route == UNMATCHED);
            (rest.into_iter().collect(), routes)
        };
        routes.sort_unstable_by(|(a, one), (b, other)| {
            (Reverse(one.traffic.requests()), a).cmp(&(Reverse(other.traffic.requests()), b))
        });
        for (_, told) in routes.drain(self.most.min(routes.len())..) {
            let other = kept.entry(OTHER.to_owned()).or_insert_with(RouteTold::default);
            other.traffic = other.traffic.and(&told.traffic);
        }
        kept.extend(routes);
        RouteSample {
            span: *span,
            at: *at,
            group: group.to_string(),
            member: String::new(),
            nodes,
            covered_ms: self.covered_ms,
            routes: serde_json::to_value(kept).unwrap_or_default(),
        }
    }
}

/// What a node told by route; what is no route's id, or no figures of this version, is left out.
fn by_route(told: pb::RouteTraffic) -> Vec<(String, RouteTold)> {
    let is_id = |id: &str| {
        (1..=LONGEST_ID).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let named = told.routes.into_iter().filter(|counts| is_id(&counts.route)).take(MOST_TOLD);
    let named = named.map(|counts| (counts.route.clone(), counts));
    let rest = [(OTHER, told.other), (UNMATCHED, told.unmatched)];
    let rest = rest.into_iter().filter_map(|(name, counts)| Some((name.to_owned(), counts?)));
    named.chain(rest).filter_map(|(route, counts)| Some((route, RouteTold::told(&counts)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(route: &str, good: u64, health: (u64, u64)) -> pb::RouteCounts {
        let mut request_times = vec![0; 16];
        request_times[2] = good;
        pb::RouteCounts {
            route: route.to_owned(),
            responses: vec![0, good, 0, 0, 0],
            responses_5xx_upstream: 0,
            request_times,
            upstream_targets: health.0,
            unhealthy_targets: health.1,
        }
    }

    fn told(over_ms: u64, routes: &[pb::RouteCounts]) -> pb::RouteTraffic {
        pb::RouteTraffic { over_ms, routes: routes.to_vec(), other: None, unmatched: Some(counts("", 1, (0, 0))) }
    }

    /// Of each step that is over: length, end, nodes, time, and requests and targets by route.
    type Short = (u64, u64, u64, u64, Vec<(String, u64, u64, u64)>);

    fn over(routes: &Routes, now: u64) -> Vec<Short> {
        let mut held = routes.lock();
        held.turn(now);
        let short = |sample: RouteSample| {
            let by_route: BTreeMap<String, RouteTold> = serde_json::from_value(sample.routes).unwrap();
            let short = |(route, told): (String, RouteTold)| {
                (route, told.traffic.requests(), told.upstream_targets, told.unhealthy_targets)
            };
            (sample.span, sample.at, sample.nodes, sample.covered_ms, by_route.into_iter().map(short).collect())
        };
        std::mem::take(&mut held.waiting).into_values().map(short).collect()
    }

    fn line(route: &str, requests: u64, targets: u64, unhealthy: u64) -> (String, u64, u64, u64) {
        (route.to_owned(), requests, targets, unhealthy)
    }

    #[test]
    fn nodes_add_up_in_steps_of_both_lengths() {
        let (routes, group) = (Routes::default(), Arc::from("g"));
        routes.add(&group, "n1", told(5000, &[counts("a", 2, (3, 0))]), 301, 10);
        routes.add(&group, "n1", told(5000, &[counts("a", 2, (3, 1))]), 306, 10);
        routes.add(&group, "n2", told(5000, &[counts("a", 4, (3, 0)), counts("b", 1, (0, 0))]), 307, 10);
        assert_eq!(over(&routes, 329), []);
        let first = vec![line("(unmatched)", 3, 0, 0), line("a", 8, 6, 1), line("b", 1, 0, 0)];
        assert_eq!(over(&routes, 330), [(30, 330, 2, 15_000, first.clone())]);
        routes.add(&group, "n1", told(5000, &[]), 331, 10);
        let second = vec![line("(unmatched)", 1, 0, 0)];
        let all = vec![line("(unmatched)", 4, 0, 0), line("a", 8, 6, 1), line("b", 1, 0, 0)];
        assert_eq!(over(&routes, 600), [(30, 360, 1, 5000, second), (300, 600, 2, 20_000, all)]);
        assert_eq!(over(&routes, 900), [], "nobody has told");
    }

    #[test]
    fn a_node_is_counted_where_it_is_at_the_end_of_the_step() {
        let (routes, group) = (Routes::default(), Arc::from("g"));
        routes.add(&group, "moved", told(5000, &[counts("a", 1, (3, 1))]), 0, 1);
        routes.add(&group, "back", told(5000, &[counts("a", 1, (3, 0))]), 0, 1);
        routes.left("g", "moved");
        routes.left("g", "back");
        routes.left("other", "moved");
        routes.add(&group, "back", told(5000, &[]), 9, 1);
        let told = vec![line("(unmatched)", 3, 0, 0), line("a", 2, 3, 0)];
        assert_eq!(over(&routes, 30), [(30, 30, 1, 15_000, told)]);
    }

    #[test]
    fn of_the_targets_that_one_node_tells_of_no_more_are_held_than_have_room() {
        let (routes, group) = (Routes::default(), Arc::from("g"));
        for (route, requests) in [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)] {
            routes.add(&group, "n", told(5000, &[counts(route, requests, (2, 1))]), 0, 2);
        }
        let held = routes.lock().rings[0].groups[&*group].nodes["n"].health.len();
        assert_eq!(held, 1, "four have room, and the fifth has it to itself");
        let expected = [line("(other)", 6, 0, 0), line("(unmatched)", 5, 0, 0), line("d", 4, 0, 0), line("e", 5, 2, 1)];
        assert_eq!(over(&routes, 30)[0].4, expected);
    }

    #[test]
    fn what_is_told_again_takes_no_room_of_what_is_not() {
        let (routes, group) = (Routes::default(), Arc::from("g"));
        for (first, last) in [(1, 100), (11, 110)] {
            let counted: Vec<_> = (first..=last).map(|n| counts(&format!("r{n}"), 111 - n, (2, 1))).collect();
            let other = Some(counts("", 1, (0, 0)));
            routes.add(&group, "n", pb::RouteTraffic { other, ..told(5000, &counted) }, 0, 100);
        }
        let kept = &over(&routes, 30)[0].4;
        for n in 1..=10 {
            assert!(kept.contains(&line(&format!("r{n}"), 111 - n, 2, 1)), "r{n}: {kept:?}");
        }
    }

    #[test]
    fn of_many_routes_those_with_most_requests_are_kept_and_the_others_added_up() {
        let (routes, group) = (Routes::default(), Arc::from("g"));
        let many: Vec<_> = (1..=30).map(|n| counts(&format!("r{n}"), n, (1, 0))).collect();
        routes.add(&group, "n", told(5000, &many), 0, 2);
        let kept = &over(&routes, 30)[0].4;
        // The first twenty are held apart, as nobody knows which will have most.
        let other = (1..=30).sum::<u64>() - 19 - 20;
        assert_eq!(
            kept[..],
            [line("(other)", other, 0, 0), line("(unmatched)", 1, 0, 0), line("r19", 19, 1, 0), line("r20", 20, 1, 0)]
        );
    }

    #[test]
    fn what_is_no_route_and_what_was_counted_long_ago_is_left_out() {
        let (routes, group) = (Routes::default(), Arc::from("g"));
        let odd = ["", "(other)", "a b", &"x".repeat(65)].map(|id| counts(id, 1, (0, 0)));
        let short = pb::RouteCounts { responses: vec![1], ..counts("short", 1, (0, 0)) };
        routes.add(&group, "n", told(5000, &[&odd[..], &[short]].concat()), 0, 9);
        routes.add(&group, "n", told(LONGEST_MS + 1, &[counts("a", 9, (0, 0))]), 0, 9);
        routes.add(&group, "n", told(0, &[counts("a", 9, (0, 0))]), 0, 9);
        assert_eq!(over(&routes, 30), [(30, 30, 1, 5000, vec![line("(unmatched)", 1, 0, 0)])]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let routes = Routes::default();
        for n in 0..=WAITING {
            routes.add(&Arc::from(format!("g{n}")), "n", told(1, &[]), 0, 1);
        }
        routes.lock().turn(30);
        assert_eq!(routes.lock().waiting.len(), WAITING);
    }
}
