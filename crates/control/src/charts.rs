//! What the samples of nodes come to, step by step: the points of charts.
//!
//! What must stay true: a step of which nothing is known is a gap and never a zero; what is held while a chart is made is one sample of
//! each node and the chart itself.

mod routes;

use std::collections::{BTreeMap, HashMap};

use milecastle_store::NodeSample;

pub(crate) use self::routes::{RouteChart, RouteName};
use crate::traffic::{Told, Traffic};

/// How often nodes are sampled, in seconds.
pub(crate) const STEP: u64 = 30;

/// Of what is kept for longer, how often, in seconds.
pub(crate) const COARSE_STEP: u64 = 300;

/// The points of a chart: at each multiple of `step` after `from` and up to `until`, which are multiples too; Unix time in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) step: u64,
}

impl Window {
    /// How many points there are.
    pub(crate) fn points(&self) -> usize {
        usize::try_from((self.until - self.from) / self.step).unwrap_or(0)
    }

    /// Their times.
    pub(crate) fn times(&self) -> impl Iterator<Item = u64> {
        (self.from..self.until).step_by(usize::try_from(self.step).unwrap_or(usize::MAX)).map(|at| at + self.step)
    }

    /// The place of a time among them.
    fn place(&self, at: u64) -> Option<usize> {
        let place = usize::try_from(at.checked_sub(self.from)? / self.step).ok()?.checked_sub(1)?;
        (place < self.points()).then_some(place)
    }

    /// The place of the step in which a time lies.
    fn place_within(&self, at: u64) -> Option<usize> {
        let since = at.checked_sub(self.from + 1).filter(|_| at <= self.until)?;
        usize::try_from(since / self.step).ok()
    }
}

/// What the lines of a chart stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// One line for all nodes.
    All,
    /// One for each gateway group.
    Group,
    /// One for each node.
    Node,
}

/// Group and node, as far as a line is about one.
pub(crate) type Name = (Option<String>, Option<String>);

/// What nodes did in the step that ends at a point, and how they stood then.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Point {
    /// Nodes that are known for the whole step.
    pub(crate) nodes: u64,
    /// Answers in a second by class, from 1xx to 5xx.
    pub(crate) responses: [f64; 5],
    /// Those of the class 5xx that upstreams answered.
    pub(crate) upstream_5xx: f64,
    /// All that was counted.
    pub(crate) traffic: Traffic,
    /// Client connections.
    pub(crate) connections: u64,
    /// Addresses of upstreams whose health is watched; by each node on its own.
    pub(crate) upstream_targets: u64,
    /// Those of them that are not healthy.
    pub(crate) unhealthy_targets: u64,
}

/// A chart in the making.
pub(crate) struct Chart {
    window: Window,
    by: By,
    lines: BTreeMap<Name, Vec<Option<Point>>>,
    /// The last sample of each node.
    last: HashMap<(String, String), Seen>,
}

struct Seen {
    at: u64,
    boot: String,
    reported_at: u64,
    traffic: Traffic,
}

impl Chart {
    pub(crate) fn new(window: Window, by: By) -> Self {
        Self { window, by, lines: BTreeMap::new(), last: HashMap::new() }
    }

    /// Takes the next sample; those of each node come in the order of their steps.
    pub(crate) fn add(&mut self, sample: NodeSample) {
        // Written by another version, perhaps: then this is a gap.
        let Ok(told) = serde_json::from_value::<Told>(sample.traffic) else { return };
        let NodeSample { at, group, node, boot, reported_at, .. } = sample;
        let name = match self.by {
            By::All => (None, None),
            By::Group => (Some(group.clone()), None),
            By::Node => (Some(group.clone()), Some(node.clone())),
        };
        let seen = Seen { at, boot: boot.clone(), reported_at, traffic: told.traffic };
        let Some(before) = self.last.insert((group, node), seen) else { return };
        let seconds = reported_at.saturating_sub(before.reported_at);
        let Some(place) = self.window.place(at).filter(|_| at - before.at == self.window.step && seconds > 0) else {
            return;
        };
        // A process that has started since began to count at zero.
        let counted = if boot == before.boot { told.traffic.since(&before.traffic) } else { told.traffic };
        let line = self.lines.entry(name).or_insert_with(|| vec![None; self.window.points()]);
        let point = line[place].get_or_insert_default();
        let rate = |count: u64| count as f64 / seconds as f64;
        point.nodes += 1;
        point.responses.iter_mut().zip(counted.responses).for_each(|(all, count)| *all += rate(count));
        point.upstream_5xx += rate(counted.upstream_5xx);
        point.traffic = point.traffic.and(&counted);
        point.connections += told.connections;
        point.upstream_targets += told.upstream_targets;
        point.unhealthy_targets += told.unhealthy_targets;
    }

    /// How many lines there are so far.
    pub(crate) fn lines(&self) -> usize {
        self.lines.len()
    }

    /// Its lines, each with a place for each of the window's points.
    pub(crate) fn into_lines(self) -> BTreeMap<Name, Vec<Option<Point>>> {
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { from: 300, until: 420, step: 30 };

    fn sample(at: u64, node: &str, boot: &str, answered: u64) -> NodeSample {
        let traffic =
            Traffic { responses: [0, answered, 0, 0, answered], upstream_5xx: answered, ..Traffic::default() };
        let told =
            Told { traffic, connections: 2, upstream_targets: 3, unhealthy_targets: 1, revision: None, at: Some(at) };
        let traffic = serde_json::to_value(told).unwrap();
        let (group, node, boot) = ("g".to_owned(), node.to_owned(), boot.to_owned());
        NodeSample { at, group, node, boot, reported_at: at, traffic }
    }

    /// Nodes, and answers of the class 2xx in a second.
    type Short = Option<(u64, f64)>;

    /// What there is at each point of each line.
    fn drawn(by: By, samples: &[NodeSample]) -> Vec<(Name, Vec<Short>)> {
        let mut chart = Chart::new(WINDOW, by);
        samples.iter().cloned().for_each(|sample| chart.add(sample));
        let short = |points: Vec<Option<Point>>| {
            points.into_iter().map(|point| point.map(|point| (point.nodes, point.responses[1]))).collect()
        };
        chart.into_lines().into_iter().map(|(name, points)| (name, short(points))).collect()
    }

    #[test]
    fn nodes_add_up_and_gaps_are_gaps() {
        assert_eq!(WINDOW.times().collect::<Vec<_>>(), [330, 360, 390, 420]);
        let samples = [
            sample(300, "a", "1", 100),
            sample(300, "b", "1", 0),
            sample(330, "a", "1", 130),
            sample(330, "b", "1", 60),
            sample(360, "a", "1", 160),
            // One step of `b` is missing.
            sample(390, "b", "1", 600),
            sample(420, "b", "1", 600),
        ];
        let all = vec![Some((2, 3.0)), Some((1, 1.0)), None, Some((1, 0.0))];
        assert_eq!(drawn(By::All, &samples), [((None, None), all)]);
        let b = vec![Some((1, 2.0)), None, None, Some((1, 0.0))];
        let of_b = (Some("g".to_owned()), Some("b".to_owned()));
        assert_eq!(drawn(By::Node, &samples)[1], (of_b, b));
    }

    #[test]
    fn a_process_that_started_anew_counts_from_zero() {
        let samples = [sample(300, "a", "1", 1000), sample(330, "a", "2", 30)];
        assert_eq!(drawn(By::Group, &samples)[0].1[0], Some((1, 1.0)));
    }

    #[test]
    fn what_another_version_wrote_is_a_gap() {
        let mut samples = [sample(300, "a", "1", 0), sample(330, "a", "1", 30), sample(360, "a", "1", 30)];
        samples[1].traffic = serde_json::json!({ "responses": [1] });
        assert_eq!(drawn(By::All, &samples), []);
    }
}
