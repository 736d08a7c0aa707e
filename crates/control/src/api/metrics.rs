//! Charts of the traffic of nodes, from a ring of samples in the database.

use axum::extract::{Extension, State as Shared};
use http::{StatusCode, Uri};
use milecastle_store::SampleFilter;
use schemars::JsonSchema;
use serde::Serialize;

use super::nodes::groups_asked;
use super::{Failure, Outcome, Site, Who, json, query_of, whole};
use crate::admin::query::Query;
use crate::charts::{By, COARSE_STEP, Chart, Name, Point, RouteName, STEP, Window};
use crate::openapi::{Doc, Param};
use crate::rights::Resource;

/// Samples that are read at once.
const PAGE: u64 = 2000;

/// Lines of a chart at most.
pub(super) const MOST_LINES: usize = 500;

/// Points of a line at most.
const MOST_POINTS: u64 = 300;

/// How far a chart may go back: the words for it, seconds, and the step without another one.
const WINDOWS: [(&str, u64, u64); 4] =
    [("15m", 900, STEP), ("1h", 3600, 2 * STEP), ("6h", 21_600, COARSE_STEP), ("24h", 86_400, 3 * COARSE_STEP)];

/// A chart: for each line one number at each of the times.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Metrics")]
pub(super) struct Shown {
    /// Seconds between two points. Each stands for the time since the one before.
    pub(super) step: u64,
    /// When the points are, Unix time in seconds.
    pub(super) at: Vec<u64>,
    pub(super) series: Vec<Series>,
}

/// A line of each figure; where nothing is known `null`, or no nodes.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MetricsSeries")]
pub(super) struct Series {
    /// The gateway group that it is about; `null`: all that may be seen.
    group: Option<String>,
    /// The node that it is about; `null`: all of them.
    node: Option<String>,
    /// The route that it is about; `null`: all of them.
    route: Option<String>,
    /// Nodes that are counted in.
    nodes: Vec<u64>,
    /// Requests in a second.
    requests: Vec<Option<f64>>,
    /// Those of them whose answer is of a class, in a second.
    responses: Responses,
    /// Those of the class 5xx that an upstream answered; the others are the gateway's own.
    responses_5xx_upstream: Vec<Option<f64>>,
    /// The bound in milliseconds within which so many of 100 took.
    p50_ms: Vec<Option<u64>>,
    p95_ms: Vec<Option<u64>>,
    p99_ms: Vec<Option<u64>>,
    /// Client connections; not known by route.
    connections: Vec<Option<u64>>,
    /// Addresses of upstreams whose health is watched, by each node on its own; of a route those of its upstream.
    upstream_targets: Vec<Option<u64>>,
    /// Those of them that are not healthy.
    unhealthy_targets: Vec<Option<u64>>,
}

/// By the class of the answer's status.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MetricsResponses")]
struct Responses {
    #[serde(rename = "1xx")]
    informational: Vec<Option<f64>>,
    #[serde(rename = "2xx")]
    successful: Vec<Option<f64>>,
    #[serde(rename = "3xx")]
    redirected: Vec<Option<f64>>,
    #[serde(rename = "4xx")]
    client_errors: Vec<Option<f64>>,
    #[serde(rename = "5xx")]
    server_errors: Vec<Option<f64>>,
}

impl Series {
    fn new((group, node): Name, points: &[Option<Point>]) -> Self {
        let count =
            |read: fn(&Point) -> Option<u64>| points.iter().map(|point| point.as_ref().and_then(read)).collect();
        let class = |place: usize| rates(points, move |point| point.responses[place]);
        Self {
            group,
            node,
            route: None,
            nodes: points.iter().map(|point| point.map_or(0, |point| point.nodes)).collect(),
            requests: rates(points, |point| point.responses.iter().sum()),
            responses: Responses {
                informational: class(0),
                successful: class(1),
                redirected: class(2),
                client_errors: class(3),
                server_errors: class(4),
            },
            responses_5xx_upstream: rates(points, |point| point.upstream_5xx),
            p50_ms: count(|point| point.traffic.percentile_ms(50)),
            p95_ms: count(|point| point.traffic.percentile_ms(95)),
            p99_ms: count(|point| point.traffic.p99_ms()),
            connections: count(|point| Some(point.connections)),
            upstream_targets: count(|point| Some(point.upstream_targets)),
            unhealthy_targets: count(|point| Some(point.unhealthy_targets)),
        }
    }

    pub(super) fn of_route((group, route): RouteName, points: &[Option<Point>]) -> Self {
        let connections = vec![None; points.len()];
        Self { route: Some(route), connections, ..Self::new((Some(group), None), points) }
    }
}

/// Rates, to the thousandth.
fn rates(points: &[Option<Point>], read: impl Fn(&Point) -> f64) -> Vec<Option<f64>> {
    points.iter().map(|point| point.as_ref().map(|point| (read(point) * 1000.0).round() / 1000.0)).collect()
}

pub(super) const WINDOW: Param =
    Param::one_of("window", &["15m", "1h", "6h", "24h"], "How far back; 15 minutes without it.");
pub(super) const EVERY: Param = Param::whole("step", STEP, 86_400, "Seconds between two points.");

pub(super) const CHART: Doc = Doc::gives::<Shown>("The traffic of nodes over the last minutes or hours.").query(&[
    WINDOW,
    EVERY,
    Param::one_of(
        "by",
        &["all", "group", "node"],
        "One line for all nodes, for each group or for each node; for all without it.",
    ),
    Param::text("group", "Nodes of this gateway group."),
    Param::text("node", "This node."),
]);

/// `GET /api/metrics`: of nodes in groups of which whoever asks may see the nodes.
pub(super) async fn chart(Shared(api): Site, Extension(who): Who, uri: Uri) -> Outcome {
    let query = query_of(&uri);
    without(&query, "route", "nodes are sampled over all their routes; those of a group are at /api/metrics/routes")?;
    let (window, by) = (window(&query, api.store().now())?, by(&query)?);
    let node = query.get("node").filter(|node| !node.is_empty()).map(str::to_owned);
    let Window { from, until, step } = window;
    let filter = SampleFilter { groups: groups_asked(Resource::Nodes, &query, &who)?, node, from, until, step };
    let mut chart = Chart::new(window, by);
    let mut last = (0, String::new(), String::new());
    loop {
        let page = api.store().node_sample_list(&filter, (last.0, &last.1, &last.2), PAGE).await?;
        let full = page.len() as u64 == PAGE;
        if let Some(end) = page.last() {
            last = (end.at, end.group.clone(), end.node.clone());
        }
        page.into_iter().for_each(|sample| chart.add(sample));
        if chart.lines() > MOST_LINES {
            let message =
                format!("by: this would be more than {MOST_LINES} lines; name a group or a node, or take fewer lines");
            return Err(Failure::bad("invalid_argument", message));
        }
        if !full {
            break;
        }
    }
    let series = chart.into_lines().into_iter().map(|(name, points)| Series::new(name, &points)).collect();
    Ok(json(StatusCode::OK, &Shown { step, at: window.times().collect(), series }))
}

/// In which steps there are samples for a chart that goes so far back, in seconds.
pub(super) fn sampled_every(length: u64) -> u64 {
    if length > WINDOWS[1].1 { COARSE_STEP } else { STEP }
}

/// The window that is asked for, up to now (Unix seconds).
pub(super) fn window(query: &Query, now: u64) -> Result<Window, Failure> {
    let wrong = |message: String| Failure::bad("invalid_argument", message);
    let word = query.get("window").filter(|word| !word.is_empty()).unwrap_or(WINDOWS[0].0);
    let found = WINDOWS.into_iter().find(|(name, ..)| *name == word);
    let (name, length, usual) = found.ok_or_else(|| wrong("window: expected 15m, 1h, 6h or 24h".to_owned()))?;
    let step = whole(query, "step")?.unwrap_or(usual);
    let unit = sampled_every(length);
    let fits = step > 0 && step.is_multiple_of(unit) && step <= length && length / step <= MOST_POINTS;
    if !fits {
        return Err(wrong(format!(
            "step: expected a multiple of {unit}, and no more than {length}, for a window of {name}"
        )));
    }
    let until = now / step * step;
    Ok(Window { from: until - length / step * step, until, step })
}

/// Refuses an argument that would narrow a chart by what its samples do not tell.
pub(super) fn without(query: &Query, argument: &str, why: &str) -> Result<(), Failure> {
    match query.get(argument) {
        None | Some("") => Ok(()),
        Some(_) => Err(Failure::bad("invalid_argument", format!("{argument}: {why}"))),
    }
}

fn by(query: &Query) -> Result<By, Failure> {
    match query.get("by") {
        None | Some("" | "all") => Ok(By::All),
        Some("group") => Ok(By::Group),
        Some("node") => Ok(By::Node),
        Some(_) => Err(Failure::bad("invalid_argument", "by: expected all, group or node")),
    }
}
