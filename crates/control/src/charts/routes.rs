//! Charts of routes.

use std::collections::{BTreeMap, HashMap};

use milecastle_store::RouteSample;

use super::{Point, Window};
use crate::traffic::{OTHER, RouteTold, Traffic, UNMATCHED};

/// Group and route that a line is about.
pub(crate) type RouteName = (String, String);

/// A chart of routes in the making: a line for each of a group.
pub(crate) struct RouteChart {
    window: Window,
    /// The route that it is about; `None`: all of them.
    route: Option<String>,
    lines: BTreeMap<RouteName, Vec<Option<Sum>>>,
    groups: HashMap<String, Vec<Option<Cover>>>,
}

/// What is known of a group in the step that ends at a point.
#[derive(Debug, Clone, Copy, Default)]
struct Cover {
    /// The end of the last sample, and the nodes that told in that and were there at its end.
    last: (u64, u64),
    /// The most of them in one.
    nodes: u64,
    covered_ms: u64,
    /// There were requests of routes that were not told by themselves.
    hides: bool,
}

/// What is known of a route.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    traffic: Traffic,
    /// The end of the last sample, and the targets in that.
    last: u64,
    targets: (u64, u64),
}

impl RouteChart {
    pub(crate) fn new(window: Window, route: Option<String>) -> Self {
        Self { window, route, lines: BTreeMap::new(), groups: HashMap::new() }
    }

    /// Takes the next sample; those of each group come in the order of their steps.
    pub(crate) fn add(&mut self, sample: RouteSample) {
        let RouteSample { at, group, nodes, covered_ms, routes, .. } = sample;
        // Written by another version, perhaps: then this is a gap.
        let Ok(told) = serde_json::from_value::<HashMap<String, RouteTold>>(routes) else { return };
        let Some(place) = self.window.place_within(at) else { return };
        let points = self.window.points();
        let covers = self.groups.entry(group.clone()).or_insert_with(|| vec![None; points]);
        let cover = covers[place].get_or_insert_default();
        // Nodes of all members that told of the same step.
        cover.last = (at, nodes + if cover.last.0 == at { cover.last.1 } else { 0 });
        cover.nodes = cover.nodes.max(cover.last.1);
        cover.covered_ms += covered_ms;
        cover.hides |= told.get(OTHER).is_some_and(|other| other.traffic.requests() > 0);
        for (route, told) in told {
            if self.route.as_ref().is_some_and(|asked| *asked != route) {
                continue;
            }
            let line = self.lines.entry((group.clone(), route)).or_insert_with(|| vec![None; points]);
            let sum = line[place].get_or_insert_default();
            sum.traffic = sum.traffic.and(&told.traffic);
            let (targets, unhealthy) = if sum.last == at { sum.targets } else { (0, 0) };
            sum.last = at;
            sum.targets = (targets + told.upstream_targets, unhealthy + told.unhealthy_targets);
        }
    }

    /// How many lines there are so far.
    pub(crate) fn lines(&self) -> usize {
        self.lines.len()
    }

    /// Its lines, each with a place for each of the window's points. Where a route may be among those that were not told by
    /// themselves, nothing is known of it.
    pub(crate) fn into_lines(self) -> BTreeMap<RouteName, Vec<Option<Point>>> {
        let Self { lines, groups, .. } = self;
        let drawn = |(name, sums): (RouteName, Vec<Option<Sum>>)| {
            let is_hidden = name.1 != OTHER && name.1 != UNMATCHED;
            let point = |(cover, sum): (&Option<Cover>, Option<Sum>)| {
                let cover = cover.as_ref()?;
                (sum.is_some() || !(is_hidden && cover.hides)).then(|| cover.point(&sum.unwrap_or_default()))
            };
            let points = groups[&name.0].iter().zip(sums).map(point).collect();
            (name, points)
        };
        lines.into_iter().map(drawn).collect()
    }
}

impl Cover {
    /// What a route comes to. Nodes tell when they tell: what they counted is set against the time of which they told.
    fn point(&self, sum: &Sum) -> Point {
        // Where all have left meanwhile, there was one at least.
        let nodes = self.nodes.max(1);
        let seconds = self.covered_ms as f64 / 1000.0 / nodes as f64;
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Point {
            nodes,
            responses: sum.traffic.responses.map(rate),
            upstream_5xx: rate(sum.traffic.upstream_5xx),
            traffic: sum.traffic,
            connections: 0,
            upstream_targets: sum.targets.0,
            unhealthy_targets: sum.targets.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What a member was told in the step that ends at `at`: by two nodes, each of 30 seconds.
    fn sample(at: u64, member: &str, told: &[(&str, u64, u64)]) -> RouteSample {
        let one = |(route, good, targets): &(&str, u64, u64)| {
            let traffic = Traffic { responses: [0, *good, 0, 0, 0], ..Traffic::default() };
            let told = RouteTold { traffic, upstream_targets: *targets, unhealthy_targets: 0 };
            ((*route).to_owned(), told)
        };
        let routes = serde_json::to_value(told.iter().map(one).collect::<HashMap<_, _>>()).unwrap();
        let (group, member) = ("g".to_owned(), member.to_owned());
        RouteSample { span: 30, at, group, member, nodes: 2, covered_ms: 60_000, routes }
    }

    /// Nodes, requests in a second and targets at each point of each line.
    type Short = Vec<Option<(u64, f64, u64)>>;

    fn drawn(step: u64, route: Option<&str>, samples: &[RouteSample]) -> Vec<(String, Short)> {
        let mut chart = RouteChart::new(Window { from: 300, until: 420, step }, route.map(str::to_owned));
        samples.iter().cloned().for_each(|sample| chart.add(sample));
        let short = |point: Point| (point.nodes, point.responses[1], point.upstream_targets);
        let line = |((_, route), points): (RouteName, Vec<Option<Point>>)| {
            (route, points.into_iter().map(|point| point.map(short)).collect())
        };
        chart.into_lines().into_iter().map(line).collect()
    }

    #[test]
    fn members_add_up_and_gaps_are_gaps() {
        let samples = [
            sample(300, "m1", &[("a", 900, 1)]),
            sample(330, "m1", &[("a", 30, 1)]),
            sample(330, "m2", &[("a", 60, 2)]),
            sample(360, "m1", &[]),
            sample(420, "m1", &[("a", 30, 1), ("b", 30, 0)]),
        ];
        let a = vec![Some((4, 3.0, 3)), Some((2, 0.0, 0)), None, Some((2, 1.0, 1))];
        let b = vec![Some((4, 0.0, 0)), Some((2, 0.0, 0)), None, Some((2, 1.0, 0))];
        let both = vec![("a".to_owned(), a.clone()), ("b".to_owned(), b)];
        assert_eq!(drawn(30, None, &samples), both);
        assert_eq!(drawn(30, Some("a"), &samples), [("a".to_owned(), a)]);
        // Over longer steps the time that is known counts, and targets are those that were told last.
        let a = vec![Some((4, 2.0, 3)), Some((2, 1.0, 1))];
        assert_eq!(drawn(60, Some("a"), &samples), [("a".to_owned(), a)]);
    }

    #[test]
    fn a_route_that_may_be_among_others_is_unknown() {
        let samples = [
            sample(330, "m", &[("a", 30, 0)]),
            sample(360, "m", &[("(other)", 30, 0)]),
            sample(390, "m", &[("(other)", 0, 0)]),
        ];
        let a = vec![Some((2, 1.0, 0)), None, Some((2, 0.0, 0)), None];
        let other = vec![Some((2, 0.0, 0)), Some((2, 1.0, 0)), Some((2, 0.0, 0)), None];
        assert_eq!(drawn(30, None, &samples), [("(other)".to_owned(), other), ("a".to_owned(), a)]);
    }

    #[test]
    fn what_another_version_wrote_is_a_gap() {
        let mut odd = sample(330, "m", &[]);
        odd.routes = json!({ "a": { "responses": 1 } });
        assert_eq!(drawn(30, None, &[odd, sample(360, "m", &[("a", 30, 0)])])[0].1[0], None);
    }
}
