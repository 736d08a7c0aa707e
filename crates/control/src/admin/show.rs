//! Objects as answers show them (`docs/spec/admin-api.md` §5, §8).

use crate::admin::aside::aside;
use crate::admin::engine::Call;
use crate::admin::kinds::Rules;
use crate::admin::list::Selection;
use crate::admin::private_keys::{self, Occasion};
use crate::admin::refusal;
use crate::admin::reply::Reply;
use crate::efforts::{Effort, Efforts};
use crate::state::{Image, Seen};
use http::StatusCode;
use milecastle_model::{Kind, Object};
use milecastle_store::Outcome;
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// An answer, or the answer that refuses one.
pub(crate) type Answer = Result<Reply, Box<Reply>>;

/// What stands before every key in answers.
pub(crate) const PREFIX: &str = "/apisix";

/// An object as reads and lists show it.
#[derive(Serialize)]
struct Shown<'a> {
    key: String,
    value: Cow<'a, RawValue>,
    #[serde(rename = "createdIndex")]
    created: u64,
    #[serde(rename = "modifiedIndex")]
    modified: u64,
}

/// An object as the answer to a write shows it.
#[derive(Serialize)]
struct Written<'a> {
    key: String,
    value: Cow<'a, RawValue>,
}

#[derive(Serialize)]
struct List<'a> {
    list: Vec<Shown<'a>>,
    total: usize,
}

/// Answers a GET, from what the database is found to have within `patience`.
pub(crate) async fn get(call: &Call, patience: Duration, searches: &Efforts) -> Answer {
    let Seen { image, stale } = call.group.latest(patience).await.map_err(|error| refusal::unavailable(&error))?;
    let reply = match &call.place.id {
        None => {
            let (kind, parent, query) = (call.place.kind, call.place.parent.clone(), call.query.clone());
            // Dropped with this future once the client has left.
            let asker = Arc::new(());
            let search = match Selection::searches(&query) {
                true => Some(searches.begin(&asker, &call.caller.actor).await?),
                false => None,
            };
            aside(move || list(kind, parent.as_deref(), &Selection::of(kind, &query)?, search.as_ref(), &image)).await?
        }
        Some(id) => match image.get(&call.place.key(id)) {
            Some(object) => Reply::json(StatusCode::OK, &show(object)?),
            None => Reply::key_not_found(),
        },
    };
    Ok(Reply { stale, ..reply })
}

fn list(kind: Kind, parent: Option<&str>, selection: &Selection, search: Option<&Effort>, image: &Image) -> Answer {
    let goes_on = || search.is_none_or(Effort::goes_on);
    let found = match parent {
        Some(parent) => selection.apply(image.below(kind, parent), &goes_on),
        None => selection.apply(image.of_kind(kind), &goes_on),
    };
    let Some((total, chosen)) = found else {
        return Err(search.map(Effort::given_up).expect("nothing but a search is given up").into());
    };
    if total == 0 && Rules::of(kind).empty_list_is_404 {
        return Ok(Reply::key_not_found());
    }
    let list = chosen.into_iter().map(show).collect::<Result<_, _>>()?;
    Ok(Reply::json(StatusCode::OK, &List { list, total }))
}

fn show(object: &Object) -> Result<Shown<'_>, Box<Reply>> {
    Ok(Shown {
        key: format!("{PREFIX}{}", object.key),
        value: value_of(object, Occasion::Read)?,
        created: object.created,
        modified: object.modified,
    })
}

fn value_of(object: &Object, occasion: Occasion) -> Result<Cow<'_, RawValue>, Box<Reply>> {
    private_keys::shown(object.key.kind, &object.body, occasion).map_err(|error| refusal::no_json(object, &error))
}

/// Answers a write.
pub(crate) fn written(outcome: Option<&Outcome>) -> Answer {
    let (status, object) = match outcome {
        Some(Outcome::Created(object)) => (StatusCode::CREATED, object),
        Some(Outcome::Replaced(object) | Outcome::Unchanged(object)) => (StatusCode::OK, object),
        other => unreachable!("a put is answered with what became of it, not with {other:?}"),
    };
    let written = Written { key: format!("{PREFIX}{}", object.key), value: value_of(object, Occasion::Write)? };
    Ok(Reply::json(status, &written))
}
