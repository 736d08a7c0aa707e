//! What the nodes of all groups have logged of level WARN and ERROR, in one place.

use axum::extract::{Extension, State as Shared};
use http::Uri;
use milecastle_store::{NodeWarning, WarningFilter};
use schemars::JsonSchema;
use serde::Serialize;

use super::nodes::groups_asked;
use super::{Failure, List, Outcome, Site, Who, query_of, whole};
use crate::admin::query::Query;
use crate::openapi::{self, Doc, Param};
use crate::rights::Resource;

/// Lines in a list unless asked for fewer or more, and at most.
const LIMIT: u64 = 100;
const MOST: u64 = 1000;

/// A line of a node's log as answers show it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "NodeWarning")]
struct Shown {
    group: String,
    node: String,
    /// `error` or `warn`.
    level: &'static str,
    /// The module that wrote it.
    target: String,
    text: String,
    /// How often it was written.
    times: u64,
    /// Unix time in seconds.
    first_at: u64,
    last_at: u64,
}

impl From<NodeWarning> for Shown {
    fn from(warning: NodeWarning) -> Self {
        let NodeWarning { group, node, is_error, target, text, times, first_at, last_at, .. } = warning;
        Self { group, node, level: if is_error { "error" } else { "warn" }, target, text, times, first_at, last_at }
    }
}

pub(super) const LIST: Doc =
    Doc::gives::<List<'static, Shown>>("What nodes have logged of level WARN and ERROR, what was written last first.")
        .query(&[
            Param::text("group", "Of nodes of this gateway group."),
            Param::text("node", "Of this node."),
            Param::one_of("level", &["error", "warn"], "Of this level; of both without it."),
            Param::text("text", "In which this stands."),
            Param::whole("since", 0, openapi::MOST, "Last written then or later, Unix time in seconds."),
            Param::whole("limit", 1, MOST, "Lines at most; 100 without it."),
        ]);

/// `GET /api/warnings`: those first that were written last, of groups of which whoever asks may see the nodes.
pub(super) async fn list(Shared(api): Site, Extension(who): Who, uri: Uri) -> Outcome {
    let query = query_of(&uri);
    let (mut filter, limit) = wanted(&query)?;
    filter.groups = groups_asked(Resource::Nodes, &query, &who)?;
    let found = api.store().node_warning_list(&filter, limit).await?;
    Ok(super::list(&found.into_iter().map(Shown::from).collect::<Vec<_>>()))
}

fn wanted(query: &Query) -> Result<(WarningFilter, u64), Failure> {
    let text = |name: &str| query.get(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let is_error = match query.get("level") {
        None | Some("") => None,
        Some("error") => Some(true),
        Some("warn") => Some(false),
        Some(_) => return Err(Failure::bad("invalid_argument", "level: expected error or warn")),
    };
    let limit = whole(query, "limit")?.unwrap_or(LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(Failure::bad("invalid_argument", format!("limit: expected 1 to {MOST}")));
    }
    let since = whole(query, "since")?;
    Ok((WarningFilter { groups: None, node: text("node"), is_error, text: text("text"), since }, limit))
}
