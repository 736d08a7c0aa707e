//! Charts of routes, and the routes with most of something, from a ring of samples in the database.

use std::cmp::Reverse;

use axum::extract::{Extension, State as Shared};
use http::{StatusCode, Uri};
use milecastle_model::Kind;
use milecastle_store::RouteSampleFilter;
use schemars::JsonSchema;
use serde::Serialize;

use super::metrics::{EVERY, MOST_LINES, Series, Shown as Drawn, WINDOW, sampled_every, window, without};
use super::nodes::groups_asked;
use super::{Api, Failure, List, Outcome, Site, Who, json, query_of, whole};
use crate::charts::{Point, RouteChart, RouteName, Window};
use crate::openapi::{Doc, Param};
use crate::rights::Resource;

/// Samples that are read at once; each tells of up to 1000 routes.
const PAGE: u64 = 50;

/// Routes that are compared at most.
const MOST_COMPARED: usize = 20_000;

/// Routes in a list unless asked for fewer or more, and at most.
const LIMIT: u64 = 10;
const MOST: u64 = 500;

/// Why there is no chart of a route on one node.
const OF_ALL_NODES: &str = "routes are sampled over all nodes of their group; one on one node is in the node's own metrics (`http_status` by \
                            `route`)";

const GROUP: Param = Param::text("group", "Routes of this gateway group.");

pub(super) const CHART: Doc = Doc::gives::<Drawn>("The traffic of routes over the last minutes or hours.").query(&[
    WINDOW,
    EVERY,
    GROUP,
    Param::text(
        "route",
        "The route of this id; `(unmatched)`: requests that no route took; `(other)`: routes that nodes told of together.",
    ),
]);

/// `GET /api/metrics/routes`: of groups of which whoever asks may see the routes.
pub(super) async fn chart(Shared(api): Site, Extension(who): Who, uri: Uri) -> Outcome {
    let query = query_of(&uri);
    without(&query, "node", OF_ALL_NODES)?;
    let groups = groups_asked(Resource::Objects(Kind::Route), &query, &who)?;
    let window = window(&query, api.store().now())?;
    let route = query.get("route").filter(|route| !route.is_empty()).map(str::to_owned);
    let chart = read(&api, window, route, groups, MOST_LINES).await?;
    let series = chart.into_lines().into_iter().map(|(name, points)| Series::of_route(name, &points)).collect();
    Ok(json(StatusCode::OK, &Drawn { step: window.step, at: window.times().collect(), series }))
}

/// What came of a route in a span of time.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RouteTraffic")]
struct Shown {
    group: String,
    /// Its id; `(unmatched)`: requests that no route took; `(other)`: routes that nodes told of together.
    route: String,
    requests: u64,
    /// Answers by class, from 1xx to 5xx.
    responses: [u64; 5],
    /// Those of the class 5xx.
    errors: u64,
    /// Those of them that an upstream answered; the others are the gateway's own.
    errors_upstream: u64,
    /// The bound in milliseconds within which so many of 100 took.
    p50_ms: Option<u64>,
    p95_ms: Option<u64>,
    p99_ms: Option<u64>,
    /// Addresses of its upstream whose health is watched, by each node on its own, as they were told last.
    upstream_targets: u64,
    /// Those of them that are not healthy.
    unhealthy_targets: u64,
}

impl Shown {
    fn new((group, route): RouteName, point: &Point) -> Self {
        let Point { traffic, upstream_targets, unhealthy_targets, .. } = *point;
        Self {
            group,
            route,
            requests: traffic.requests(),
            responses: traffic.responses,
            errors: traffic.responses[4],
            errors_upstream: traffic.upstream_5xx,
            p50_ms: traffic.percentile_ms(50),
            p95_ms: traffic.percentile_ms(95),
            p99_ms: traffic.p99_ms(),
            upstream_targets,
            unhealthy_targets,
        }
    }
}

pub(super) const TOP: Doc = Doc::gives::<List<'static, Shown>>(
    "The routes with most requests, errors or latency over the last minutes or hours.",
)
.query(&[
    WINDOW,
    GROUP,
    Param::one_of("sort", &["requests", "errors", "p99"], "By what; by requests without it."),
    Param::whole("limit", 1, MOST, "Routes at most; 10 without it."),
]);

/// `GET /api/metrics/top_routes`: of groups of which whoever asks may see the routes.
pub(super) async fn top(Shared(api): Site, Extension(who): Who, uri: Uri) -> Outcome {
    let query = query_of(&uri);
    without(&query, "node", OF_ALL_NODES)?;
    let groups = groups_asked(Resource::Objects(Kind::Route), &query, &who)?;
    let rank: fn(&Shown) -> u64 = match query.get("sort") {
        None | Some("" | "requests") => |shown| shown.requests,
        Some("errors") => |shown| shown.errors,
        Some("p99") => |shown| shown.p99_ms.unwrap_or(0),
        Some(_) => return Err(Failure::bad("invalid_argument", "sort: expected requests, errors or p99")),
    };
    let limit = whole(&query, "limit")?.unwrap_or(LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(Failure::bad("invalid_argument", format!("limit: expected 1 to {MOST}")));
    }
    let window = window(&query, api.store().now())?;
    let window = Window { step: window.until - window.from, ..window };
    let lines = read(&api, window, None, groups, MOST_COMPARED).await?.into_lines().into_iter();
    let mut all: Vec<Shown> = lines.filter_map(|(name, points)| Some(Shown::new(name, points[0].as_ref()?))).collect();
    // Lines come by group and route: that is the order of those that are alike.
    all.sort_by_key(|shown| Reverse((rank(shown), shown.requests)));
    all.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(super::list(&all))
}

/// Reads a chart of `most` lines at most.
async fn read(
    api: &Api,
    window: Window,
    route: Option<String>,
    groups: Option<Vec<String>>,
    most: usize,
) -> Result<RouteChart, Failure> {
    let Window { from, until, .. } = window;
    let filter = RouteSampleFilter { groups, span: sampled_every(until - from), after: from, until };
    let mut chart = RouteChart::new(window, route);
    let mut last = (0, String::new(), String::new());
    loop {
        let page = api.store().route_sample_list(&filter, (last.0, &last.1, &last.2), PAGE).await?;
        let full = page.len() as u64 == PAGE;
        if let Some(end) = page.last() {
            last = (end.at, end.group.clone(), end.member.clone());
        }
        for sample in page {
            chart.add(sample);
            // After each sample: a line takes room for all of its points.
            if chart.lines() > most {
                let message = format!("group: this would be more than {most} routes; name a group or a route");
                return Err(Failure::bad("invalid_argument", message));
            }
        }
        if !full {
            return Ok(chart);
        }
    }
}
