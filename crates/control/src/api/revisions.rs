//! What was published to a group, and how far it has come.

use axum::extract::{Extension, Path, State as Shared};
use http::{StatusCode, Uri};
use milecastle_store::{ChangeSetInfo, Fate, Touched};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{Api, Failure, Outcome, Site, Who, json, query_of};

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
    let op = match touched.fate {
        Fate::Created => "create",
        Fate::Updated => "update",
        Fate::Deleted => "delete",
    };
    json!({ "op": op, "kind": touched.key.kind.name(), "id": &*touched.key.id })
}

/// `GET /api/gateway_groups/{group}/revisions`: newest first; `limit` of them, below `before`, each with the first objects that
/// it changed.
pub(super) async fn list(Shared(api): Site, Path(group): Path<String>, uri: Uri) -> Outcome {
    let query = query_of(&uri);
    let number = |name: &str| match query.get(name).map(str::parse::<u64>) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => Err(Failure::bad("invalid_argument", format!("{name}: expected a whole number"))),
    };
    let (limit, before) = (number("limit")?.unwrap_or(LIMIT), number("before")?);
    if !(1..=MOST).contains(&limit) {
        return Err(Failure::bad("invalid_argument", format!("limit: expected 1 to {MOST}")));
    }
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

async fn number(api: &Api, group: &str, text: &str) -> Result<u64, Failure> {
    if text == HEAD {
        return Ok(api.store().head(group).await?.revision);
    }
    text.parse()
        .map_err(|_| Failure::bad("invalid_argument", format!("expected a revision or `{HEAD}`, found `{text}`")))
}
