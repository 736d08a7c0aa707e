//! What an operator wants of rollouts in a gateway group.

use milecastle_model::Fault;
use milecastle_settings::Time;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::course::Seen;
use crate::openapi::Span;

/// Bounds of [`Policy::max_p99_factor`].
const FACTORS: std::ops::RangeInclusive<f64> = 1.0..=1_000_000.0;

/// How new revisions of a group go out. What is left out has its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RolloutPolicy", transform = any_may_be_missing)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Policy {
    /// Whether canaries go first.
    pub(crate) strategy: Strategy,
    /// Which nodes these are.
    pub(crate) canaries: Canaries,
    /// How long the canaries serve with a revision before the others get it; `60s` by default.
    #[schemars(with = "Span")]
    pub(crate) soak: Time,
    /// Requests that canaries, or what they are compared with, must have had before they are judged by their answers; 50 by default.
    #[schemars(range(max = u64::MAX))]
    pub(crate) min_requests: u64,
    /// What happens where the canaries had fewer by the end of the soak time.
    pub(crate) without_traffic: WithoutTraffic,
    /// By how many percentage points the share of 5xx may be higher than before and than at the other nodes; 2 by default, 100 is
    /// never too many.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub(crate) max_5xx_rise: f64,
    /// The same of 4xx; 25 by default.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub(crate) max_4xx_rise: f64,
    /// How many times longer than before and than at the other nodes 99 of 100 requests may take; 3 by default, 1 to 1,000,000, which
    /// is never too long.
    #[schemars(range(min = 1.0, max = 1_000_000.0))]
    pub(crate) max_p99_factor: f64,
    /// By how much longer they must take at least to be too slow; `100ms` by default.
    #[schemars(with = "Span")]
    pub(crate) min_p99_rise: Time,
    /// How long a time before is compared with at least, and twice as long at most; `5m` by default.
    #[schemars(with = "Span")]
    pub(crate) baseline: Time,
    /// How long after a candidate was taken back nothing is judged, since what canaries counted with it may be told that late; `10s` by
    /// default, and no less than nodes and DP managers need to tell (`stream.node_report_interval`, `stream.report_interval`).
    #[schemars(with = "Span")]
    pub(crate) settle: Time,
    /// How long a rollout may wait for canaries that serve with it, or take longer than the soak time, before the alarm
    /// `rollout_stalled` is raised; `5m` by default.
    #[schemars(with = "Span")]
    pub(crate) stalled_after: Time,
    /// After how long of the same the candidate is taken back; without it never.
    #[schemars(with = "Option<Span>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) give_up_after: Option<Time>,
}

/// As it is given it has all of its members, as it is taken any may be missing: it is one schema for both.
fn any_may_be_missing(schema: &mut Schema) {
    schema.remove("required");
}

/// Who gets new revisions when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RolloutStrategy")]
#[serde(rename_all = "snake_case")]
pub(crate) enum Strategy {
    /// All nodes at once.
    #[default]
    All,
    /// Canaries first.
    Canary,
}

/// Which nodes are canaries. Names go before a share, a share before a number; without any of them it is one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Canaries {
    /// Ids or host names; a `*` at the end stands for any ending.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nodes: Option<Vec<String>>,
    /// Percent of the nodes that are connected, 1 to 100; at least one.
    #[schemars(range(min = 1, max = 100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) percent: Option<u8>,
    /// So many.
    #[schemars(range(min = 1, max = u32::MAX))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u32>,
}

/// What happens where the answers of canaries are too few to judge by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WithoutTraffic {
    /// The others get the revision all the same, unless the canaries have lost the traffic that they had before, and the others have not.
    #[default]
    Promote,
    /// It is waited for more.
    Hold,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            strategy: Strategy::All,
            canaries: Canaries::default(),
            soak: Time::secs(60),
            min_requests: 50,
            without_traffic: WithoutTraffic::Promote,
            max_5xx_rise: 2.0,
            max_4xx_rise: 25.0,
            max_p99_factor: 3.0,
            min_p99_rise: Time::millis(100),
            baseline: Time::secs(300),
            settle: Time::secs(10),
            stalled_after: Time::secs(300),
            give_up_after: None,
        }
    }
}

impl Policy {
    /// Everything that is wrong with it.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |path: &str, good: bool, expected: &str| {
            if !good {
                faults.push(Fault::rule(path, format!("expected {expected}")));
            }
        };
        check("/max_5xx_rise", (0.0..=100.0).contains(&self.max_5xx_rise), "percentage points, 0 to 100");
        check("/max_4xx_rise", (0.0..=100.0).contains(&self.max_4xx_rise), "percentage points, 0 to 100");
        check("/max_p99_factor", FACTORS.contains(&self.max_p99_factor), "1 to 1000000");
        let Canaries { nodes, percent, count } = &self.canaries;
        check("/canaries/percent", percent.is_none_or(|percent| (1..=100).contains(&percent)), "1 to 100");
        check("/canaries/count", *count != Some(0), "1 and more");
        let named = |nodes: &Vec<String>| !nodes.is_empty() && nodes.iter().all(|name| !name.is_empty());
        check("/canaries/nodes", nodes.as_ref().is_none_or(named), "names of nodes");
        faults
    }

    /// The canaries among the nodes that are connected, by id: those in service first, since the others have no traffic.
    pub(crate) fn choose(&self, nodes: &[Seen]) -> Vec<String> {
        let mut connected: Vec<&Seen> = nodes.iter().filter(|node| node.connected).collect();
        connected.sort_by_key(|node| (node.maintained, &node.id));
        let Canaries { nodes: names, percent, count } = &self.canaries;
        if let Some(names) = names {
            connected.retain(|node| names.iter().any(|name| is_meant(name, node)));
        } else {
            let all = connected.len();
            let share = percent.map(|percent| (all * usize::from(percent)).div_ceil(100));
            connected.truncate(share.unwrap_or(count.unwrap_or(1) as usize));
        }
        connected.into_iter().map(|node| node.id.clone()).collect()
    }
}

fn is_meant(name: &str, node: &Seen) -> bool {
    let texts = [&node.id, &node.host];
    match name.strip_suffix('*') {
        Some(start) => texts.iter().any(|text| text.starts_with(start)),
        None => texts.iter().any(|text| **text == name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn nodes() -> Vec<Seen> {
        let seen = |id: &str, host: &str, connected| Seen {
            id: id.to_owned(),
            host: host.to_owned(),
            connected,
            ..Seen::default()
        };
        let mut nodes = vec![seen("c", "edge-3", true), seen("a", "edge-1", true), seen("d", "edge-4", false)];
        nodes.push(Seen { maintained: true, ..seen("b", "core-2", true) });
        nodes
    }

    fn check(canaries: Value, expected: &[&str]) {
        let policy: Policy = serde_json::from_value(json!({ "canaries": canaries })).unwrap();
        assert_eq!(policy.choose(&nodes()), expected);
    }

    #[test]
    fn canaries_are_named_or_counted() {
        check(json!({}), &["a"]);
        check(json!({ "count": 2 }), &["a", "c"]);
        check(json!({ "count": 9 }), &["a", "c", "b"]);
        check(json!({ "percent": 34 }), &["a", "c"]);
        check(json!({ "percent": 1, "count": 3 }), &["a"]);
        check(json!({ "nodes": ["edge-*"] }), &["a", "c"]);
        check(json!({ "nodes": ["b", "edge-4"], "percent": 100 }), &["b"]);
        check(json!({ "nodes": ["nobody"] }), &[]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(Policy::default().faults(), []);
        let bad = json!({
            "max_5xx_rise": -1, "max_4xx_rise": 101, "max_p99_factor": 0.5,
            "canaries": { "percent": 0, "count": 0, "nodes": [""] },
        });
        let faults = serde_json::from_value::<Policy>(bad).unwrap().faults();
        let paths: Vec<&str> = faults.iter().map(|fault| &*fault.path).collect();
        let expected = [
            "/max_5xx_rise",
            "/max_4xx_rise",
            "/max_p99_factor",
            "/canaries/percent",
            "/canaries/count",
            "/canaries/nodes",
        ];
        assert_eq!(paths, expected);
        assert!(serde_json::from_value::<Policy>(json!({ "sock": "1s" })).is_err());
    }
}
