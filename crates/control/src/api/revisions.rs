//! What was published to a group, and how far it has come.

use axum::extract::{Extension, Path, State as Shared};
use http::{StatusCode, Uri};
use milecastle_store::{ChangeSetInfo, Touched};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

use super::{Api, Failure, Outcome, Site, Who, json, query_of, whole};
use crate::admin::query::Query;
use crate::openapi::{self, Doc, Param};
use crate::rights::{Need, Place, Resource};

/// Revisions in a list unless asked for fewer or more, and at most.
const LIMIT: u64 = 50;
const MOST: u64 = 500;

/// The word that names the newest revision in a path.
const HEAD: &str = "head";

/// Objects that a list names for each revision; the others are in `puts` and `deletes` only.
const NAMED: u64 = 5;

/// A revision as answers show it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Revision")]
struct Shown {
    revision: u64,
    author: String,
    message: String,
    /// `api`, `console`, `file`, `rollback` or `expiry`.
    source: &'static str,
    at: u64,
    puts: u64,
    deletes: u64,
    changes: Vec<Changed>,
}

/// An object that a revision changed.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Changed")]
struct Changed {
    /// `create`, `update` or `delete`.
    op: &'static str,
    kind: &'static str,
    id: String,
}

/// A page of revisions.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Revisions")]
struct Listed {
    list: Vec<Shown>,
    /// The newest revision.
    head: u64,
    lineage: String,
}

/// How far a revision has come.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Receipt")]
struct Come {
    group: String,
    revision: u64,
    head: u64,
    applied: usize,
    total: usize,
    rejected: usize,
    /// From which a rollout keeps it for now.
    held: usize,
    settled: bool,
    receipt: String,
}

fn shown<'a>(info: ChangeSetInfo, changes: impl IntoIterator<Item = &'a Touched>) -> Shown {
    let ChangeSetInfo { revision, author, message, source, at, puts, deletes } = info;
    let changes = changes.into_iter().map(change).collect();
    Shown { revision, author, message, source: source.name(), at, puts, deletes, changes }
}

/// The same, as an event has it.
pub(crate) fn told<'a>(info: ChangeSetInfo, changes: impl IntoIterator<Item = &'a Touched>) -> Value {
    serde_json::to_value(shown(info, changes)).expect("texts and numbers have a JSON form")
}

fn change(touched: &Touched) -> Changed {
    Changed { op: touched.fate.name(), kind: touched.key.kind.name(), id: touched.key.id.to_string() }
}

pub(super) const LIST: Doc = Doc::gives::<Listed>("What was published to a gateway group, newest first.").query(&[
    Param::whole("limit", 1, MOST, "Revisions at most; 50 without it."),
    Param::whole("before", 0, openapi::MOST, "Only those below this one."),
]);

/// `GET /api/gateway_groups/{group}/revisions`: newest first; `limit` of them, below `before`, each with the first objects that
/// it changed.
pub(super) async fn list(Shared(api): Site, Path(group): Path<String>, uri: Uri) -> Outcome {
    let query = query_of(&uri);
    let (limit, before) = (limit(&query)?, whole(&query, "before")?);
    let head = api.store().head(&group).await?;
    let page = api.store().history_list(&group, before, limit).await?;
    let touched = match (page.last(), page.first()) {
        (Some(oldest), Some(newest)) => {
            api.store().history_touched(&group, oldest.revision..=newest.revision, NAMED).await?
        }
        _ => BTreeMap::new(),
    };
    let with_changes = |info: ChangeSetInfo| {
        let changes = touched.get(&info.revision).into_iter().flatten();
        shown(info, changes)
    };
    let list = page.into_iter().map(with_changes).collect();
    Ok(json(StatusCode::OK, &Listed { list, head: head.revision, lineage: head.lineage }))
}

/// How many revisions are asked for.
fn limit(query: &Query) -> Result<u64, Failure> {
    let limit = query.get("limit").map_or(Ok(LIMIT), str::parse);
    let limit = limit.ok().filter(|limit| (1..=MOST).contains(limit));
    limit.ok_or_else(|| Failure::bad("invalid_argument", format!("limit: expected 1 to {MOST}")))
}

/// A revision with its group.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RevisionOfGroup")]
struct OfGroup {
    #[serde(flatten)]
    revision: Shown,
    group: String,
}

/// A page of what was published to all groups.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Changes")]
struct Everywhere {
    list: Vec<OfGroup>,
    /// What `before` is for the page after; `null` on the last one.
    next: Option<String>,
}

/// Groups, each with the revision that it has come to.
const REACHED: &str = "^[^,]*:[0-9]{1,15}(,[^,]*:[0-9]{1,15})*$";

pub(super) const EVERYWHERE: Doc =
    Doc::gives::<Everywhere>("What was published to all groups, newest first.").query(&[
        Param::whole("limit", 1, MOST, "Revisions at most; 50 without it."),
        Param::text("group", "Only those of this group."),
        Param::like("before", REACHED, "`next` of the page before."),
    ]);

/// `GET /api/changes`: what was published to all groups that whoever asks may see, newest first. A page names in `next` what `before` is
/// for the one after: of each group the revision that it has come to.
pub(super) async fn everywhere(Shared(api): Site, Extension(who): Who, uri: Uri) -> Outcome {
    let query = query_of(&uri);
    let limit = limit(&query)?;
    let wanted = query.get("group");
    let mut reached = BTreeMap::new();
    for one in query.get("before").into_iter().flat_map(|text| text.split(',')) {
        let place = one.rsplit_once(':').and_then(|(group, revision)| Some((group, revision.parse::<u64>().ok()?)));
        let wrong = || Failure::bad("invalid_argument", "before: expected `next` of the page before");
        let (group, revision) = place.ok_or_else(wrong)?;
        reached.insert(group.to_owned(), revision);
    }
    let mut groups = Vec::new();
    for (group, head) in api.store().head_list().await? {
        let seen = who.rights.allow(Need::read(Resource::Revisions), Place::Group(&group));
        if seen && wanted.is_none_or(|wanted| wanted == group) {
            let below = reached.get(&group).map_or(head.revision + 1, |reached| (head.revision + 1).min(*reached));
            groups.push((group, below));
        }
    }
    // One more, to tell whether there is a page after this one.
    let mut found = api.store().history_merged(&groups, limit + 1).await?;
    let more = found.len() as u64 > limit;
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    for (group, info) in &found {
        reached.insert(group.clone(), info.revision);
    }
    let next = reached.iter().map(|(group, revision)| format!("{group}:{revision}")).collect::<Vec<_>>().join(",");
    let list = found.into_iter().map(|(group, info)| OfGroup { group, revision: shown(info, []) }).collect();
    Ok(json(StatusCode::OK, &Everywhere { list, next: more.then_some(next) }))
}

pub(super) const SHOW: Doc = Doc::gives::<Shown>("Which objects a revision changed.");

/// `GET /api/gateway_groups/{group}/revisions/{revision}`: which objects it changed. Their bodies are not shown: they may
/// hold secrets.
pub(super) async fn show(Shared(api): Site, Path((group, revision)): Path<(String, String)>) -> Outcome {
    let revision = number(&api, &group, &revision).await?;
    let Some(published) = api.store().history_get(&group, revision).await? else {
        let message = format!("group `{group}` has no revision {revision}, or does not keep it any more");
        return Err(Failure::missing("no_such_revision", message));
    };
    let changes: Vec<Touched> = published.changes.iter().map(Touched::by).collect();
    Ok(json(StatusCode::OK, &shown(published.info, &changes)))
}

pub(super) const RECEIPT: Doc = Doc::gives::<Come>("How many of the connected nodes have a revision in force.")
    .query(&[Param::span("wait", "Waits so long at most until all have it in force.")]);

/// `GET /api/gateway_groups/{group}/revisions/{revision}/receipt`: how far it has come, after waiting for `wait` at most.
/// `revision` is a number or `head`.
pub(super) async fn receipt(
    Shared(api): Site,
    Extension(who): Who,
    Path((group, revision)): Path<(String, String)>,
    uri: Uri,
) -> Outcome {
    let wait = api.wait(&query_of(&uri))?;
    let _place = api.place(&who, wait)?;
    let revision = number(&api, &group, &revision).await?;
    let head = api.store().head(&group).await?;
    if revision > head.revision {
        let message = format!("group `{group}` stands at revision {}, {revision} is yet to come", head.revision);
        return Err(Failure::missing("no_such_revision", message).with("head", head.revision));
    }
    let receipt = api.nodes.wait_applied(&group, revision, wait).await;
    let come = Come {
        group,
        revision,
        head: head.revision,
        applied: receipt.applied,
        total: receipt.total,
        rejected: receipt.rejected,
        held: receipt.held,
        settled: receipt.settled,
        receipt: receipt.to_string(),
    };
    Ok(json(StatusCode::OK, &come))
}

/// The revision that a path names.
pub(super) async fn number(api: &Api, group: &str, text: &str) -> Result<u64, Failure> {
    match text {
        HEAD => Ok(api.store().head(group).await?.revision),
        _ => parsed(text, 0),
    }
}

/// The same, where the newest one is known.
pub(super) fn parsed(text: &str, head: u64) -> Result<u64, Failure> {
    match text {
        HEAD => Ok(head),
        _ => text.parse().ok().filter(|number| *number <= openapi::MOST).ok_or_else(|| {
            Failure::bad("invalid_argument", format!("expected a revision or `{HEAD}`, found `{text}`"))
        }),
    }
}
