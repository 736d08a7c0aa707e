//! What was published to a group, and how far it has come.

use axum::extract::{Path, State as Shared};
use http::{StatusCode, Uri};
use milecastle_model::Change;
use milecastle_store::ChangeSetInfo;
use serde_json::{Value, json};

use super::{Api, Failure, Outcome, Site, json, query_of};

/// Revisions in a list unless asked for fewer or more, and at most.
const LIMIT: u64 = 50;
const MOST: u64 = 500;

/// The word that names the newest revision in a path.
const HEAD: &str = "head";

fn shown(info: &ChangeSetInfo) -> Value {
    json!({
        "revision": info.revision,
        "author": info.author,
        "message": info.message,
        "source": info.source.name(),
        "at": info.at,
        "puts": info.puts,
        "deletes": info.deletes,
    })
}

/// `GET /api/gateway_groups/{group}/revisions`: newest first; `limit` of them, below `before`.
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
    let list: Vec<Value> = api.store().history_list(&group, before, limit).await?.iter().map(shown).collect();
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
    let changes = published.changes.iter().map(|change| {
        let op = match change {
            Change::Put(object) if object.created == object.modified => "create",
            Change::Put(_) => "update",
            Change::Delete { .. } => "delete",
        };
        json!({ "op": op, "kind": change.key().kind.name(), "id": &*change.key().id })
    });
    let mut body = shown(&published.info);
    if let Value::Object(members) = &mut body {
        members.insert("changes".to_owned(), changes.collect());
    }
    Ok(json(StatusCode::OK, &body))
}

/// `GET /api/gateway_groups/{group}/revisions/{revision}/receipt`: how far it has come, after waiting for `wait` at most.
/// `revision` is a number or `head`.
pub(super) async fn receipt(Shared(api): Site, Path((group, revision)): Path<(String, String)>, uri: Uri) -> Outcome {
    let wait = api.wait(&query_of(&uri))?;
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
