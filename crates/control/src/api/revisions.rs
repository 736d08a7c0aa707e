//! What was published to a group, and how far it has come.

use axum::extract::{Extension, Path, State as Shared};
use http::{StatusCode, Uri};
use milecastle_store::{ChangeSetInfo, Touched};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{Api, Failure, Outcome, Site, Who, json, query_of};
use crate::admin::query::Query;
use crate::rights::{Need, Place, Resource};

/// Revisions in a list unless asked for fewer or more, and at most.
const LIMIT: u64 = 50;
const MOST: u64 = 500;

/// The word that names the newest revision in a path.
const HEAD: &str = "head";

/// Objects that a list names for each revision; the others are in `puts` and `deletes` only.
const NAMED: u64 = 5;

fn shown<'a>(info: &ChangeSetInfo, changes: impl IntoIterator<Item = &'a Touched>) -> Value {
    json!({
        "revision": info.revision,
        "author": info.author,
        "message": info.message,
        "source": info.source.name(),
        "at": info.at,
        "puts": info.puts,
        "deletes": info.deletes,
        "changes": changes.into_iter().map(change).collect::<Vec<_>>(),
    })
}

fn change(touched: &Touched) -> Value {
    json!({ "op": touched.fate.name(), "kind": touched.key.kind.name(), "id": &*touched.key.id })
}

/// `GET /api/gateway_groups/{group}/revisions`: newest first; `limit` of them, below `before`, each with the first objects that
/// it changed.
pub(super) async fn list(Shared(api): Site, Path(group): Path<String>, uri: Uri) -> Outcome {
    let query = query_of(&uri);
    let before = query.get("before").map(str::parse::<u64>).transpose();
    let before = before.map_err(|_| Failure::bad("invalid_argument", "before: expected a whole number"))?;
    let limit = limit(&query)?;
    let head = api.store().head(&group).await?;
    let page = api.store().history_list(&group, before, limit).await?;
    let touched = match (page.last(), page.first()) {
        (Some(oldest), Some(newest)) => {
            api.store().history_touched(&group, oldest.revision..=newest.revision, NAMED).await?
        }
        _ => BTreeMap::new(),
    };
    let list: Vec<Value> =
        page.iter().map(|info| shown(info, touched.get(&info.revision).into_iter().flatten())).collect();
    let body = json!({ "list": list, "head": head.revision, "lineage": head.lineage });
    Ok(json(StatusCode::OK, &body))
}

/// How many revisions are asked for.
fn limit(query: &Query) -> Result<u64, Failure> {
    let limit = query.get("limit").map_or(Ok(LIMIT), str::parse);
    let limit = limit.ok().filter(|limit| (1..=MOST).contains(limit));
    limit.ok_or_else(|| Failure::bad("invalid_argument", format!("limit: expected 1 to {MOST}")))
}

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
    let mut found = Vec::new();
    for group in api.store().group_list().await?.into_iter().map(|group| group.id) {
        let seen = who.rights.allow(Need::read(Resource::Revisions), Place::Group(&group));
        if seen && wanted.is_none_or(|wanted| wanted == group) {
            // One more, to tell whether there is a page after this one.
            let page = api.store().history_list(&group, reached.get(&group).copied(), limit + 1).await?;
            found.extend(page.into_iter().map(|info| (group.clone(), info)));
        }
    }
    found.sort_by(|(one, a), (other, b)| b.at.cmp(&a.at).then_with(|| (one, b.revision).cmp(&(other, a.revision))));
    let more = found.len() as u64 > limit;
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    for (group, info) in &found {
        reached.insert(group.clone(), info.revision);
    }
    let list = found.iter().map(|(group, info)| {
        let mut one = shown(info, []);
        one["group"] = group.as_str().into();
        one
    });
    let next = reached.iter().map(|(group, revision)| format!("{group}:{revision}")).collect::<Vec<_>>().join(",");
    let body = json!({ "list": list.collect::<Vec<_>>(), "next": more.then_some(next) });
    Ok(json(StatusCode::OK, &body))
}

/// `GET /api/gateway_groups/{group}/revisions/{revision}`: which objects it changed. Their bodies are not shown: they may
/// hold secrets.
pub(super) async fn show(Shared(api): Site, Path((group, revision)): Path<(String, String)>) -> Outcome {
    let revision = number(&api, &group, &revision).await?;
    let Some(published) = api.store().history_get(&group, revision).await? else {
        let message = format!("group `{group}` has no revision {revision}, or does not keep it any more");
        return Err(Failure::missing("no_such_revision", message));
    };
    let changes: Vec<Touched> = published.changes.iter().map(Touched::by).collect();
    Ok(json(StatusCode::OK, &shown(&published.info, &changes)))
}

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
    let body = json!({
        "group": group,
        "revision": revision,
        "head": head.revision,
        "applied": receipt.applied,
        "total": receipt.total,
        "rejected": receipt.rejected,
        "settled": receipt.settled,
        "receipt": receipt.to_string(),
    });
    Ok(json(StatusCode::OK, &body))
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
        _ => text
            .parse()
            .map_err(|_| Failure::bad("invalid_argument", format!("expected a revision or `{HEAD}`, found `{text}`"))),
    }
}
