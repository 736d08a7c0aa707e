//! What a group was: its objects at a revision, what lies between two, and the way back.

use axum::extract::{Extension, Path, State as Shared};
use http::{HeaderMap, StatusCode, Uri};
use milecastle_model::Kind;
use milecastle_store::{Mask as _, Source};
use serde_json::{Map, Value, json};

use super::change_sets::{self, ASKED, Asked};
use super::revisions::{number, parsed};
use super::{Api, Failure, Outcome, Site, Who, json as answer, query_of, whole};
use crate::callers::Caller;
use crate::masks::Masks;
use crate::openapi::{self, Doc, Param};
use crate::revisions::Refused;
use crate::state::Image;

/// Objects in an answer unless asked for fewer or more, and at most.
const LIMIT: usize = 500;
const MOST: usize = 5000;

/// Which part of a long list is asked for.
struct Page {
    offset: usize,
    limit: usize,
}

impl Page {
    fn of(uri: &Uri) -> Result<Self, Failure> {
        let query = query_of(uri);
        let number =
            |name: &str| whole(&query, name).map(|found| found.map(|n| usize::try_from(n).unwrap_or(usize::MAX)));
        let page = Self { offset: number("offset")?.unwrap_or(0), limit: number("limit")?.unwrap_or(LIMIT) };
        match (1..=MOST).contains(&page.limit) {
            true => Ok(page),
            false => Err(Failure::bad("invalid_argument", format!("limit: expected 1 to {MOST}"))),
        }
    }
}

const OFFSET: Param = Param::whole("offset", 0, openapi::MOST, "Skips so many.");
const COUNT: Param = Param::whole("limit", 1, MOST as u64, "So many at most; 500 without it.");

pub(super) const OBJECTS: Doc = Doc::gives::<Map<String, Value>>("What a gateway group held at a revision.")
    .query(&[
        OFFSET,
        COUNT,
        Param::kind("kind", "Only objects of this kind."),
        Param::text("id", "Only those of this id."),
    ])
    .refuses(&[410]);

/// `GET /api/gateway_groups/{group}/revisions/{revision}/objects`: all that the group held then, without secrets; with `kind` and `id`
/// only these.
pub(super) async fn objects(
    Shared(api): Site,
    Extension(who): Who,
    Path((group, revision)): Path<(String, String)>,
    uri: Uri,
) -> Outcome {
    let (page, query) = (Page::of(&uri)?, query_of(&uri));
    let kind = match query.get("kind").map(Kind::from_name) {
        Some(None) => {
            let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            return Err(Failure::bad("invalid_argument", format!("kind: expected one of {}", names.join(", "))));
        }
        kind => kind.flatten(),
    };
    let id = query.get("id").map(str::to_owned);
    let past = at(&api, &who, &group, [&revision]).await?;
    let masks = Masks { compiler: api.compiler.clone() };
    let work = move || {
        let [past] = &past;
        let chosen = past.objects().filter(|object| {
            kind.is_none_or(|kind| object.key.kind == kind) && id.as_deref().is_none_or(|id| *object.key.id == *id)
        });
        let chosen: Vec<_> = chosen.collect();
        let total = chosen.len();
        let shown = chosen.into_iter().skip(page.offset).take(page.limit).map(|object| {
            let mut body: Value = serde_json::from_slice(&object.body).unwrap_or_default();
            masks.mask(&object.key, &mut body);
            let (kind, id) = (object.key.kind.name(), &*object.key.id);
            json!({ "kind": kind, "id": id, "created": object.created, "modified": object.modified, "body": body })
        });
        json!({ "revision": past.revision(), "list": shown.collect::<Vec<_>>(), "total": total })
    };
    let body = tokio::task::spawn_blocking(work).await.map_err(Refused::from)?;
    Ok(answer(StatusCode::OK, &body))
}

pub(super) const DIFF: Doc = Doc::gives::<Map<String, Value>>("What lies between two revisions of a gateway group.")
    .query(&[OFFSET, COUNT])
    .refuses(&[410]);

/// `GET /api/gateway_groups/{group}/revisions/{revision}/diff/{other}`: what it takes to come from the one to the other, object by object.
pub(super) async fn diff(
    Shared(api): Site,
    Extension(who): Who,
    Path((group, revision, other)): Path<(String, String, String)>,
    uri: Uri,
) -> Outcome {
    let page = Page::of(&uri)?;
    let [from, to] = at(&api, &who, &group, [&revision, &other]).await?;
    let masks = Masks { compiler: api.compiler.clone() };
    let work = move || {
        let mut body = change_sets::summary(&masks, from.differences(&to), page.offset, page.limit);
        body["group"] = group.into();
        body["from"] = from.revision().into();
        body["to"] = to.revision().into();
        body
    };
    let body = tokio::task::spawn_blocking(work).await.map_err(Refused::from)?;
    Ok(answer(StatusCode::OK, &body))
}

pub(super) const ROLLBACK: Doc =
    Doc::gives::<Map<String, Value>>("Brings a gateway group back to what it was at a revision.")
        .query(ASKED)
        .refuses(&[409, 410, 412, 428]);

/// `POST /api/gateway_groups/{group}/revisions/{revision}/rollback`: the group becomes what it was then, as a new revision.
pub(super) async fn rollback(
    Shared(api): Site,
    Extension(who): Who,
    Path((id, revision)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
) -> Outcome {
    let asked = Asked::of(&api, &uri, &headers)?.on_top_of_something()?;
    let (revision, force) = (number(&api, &id, &revision).await?, asked.force());
    let group = api.state.find(&id).await?;
    let editor = api.editor(&who, &group);
    let plan = |base| async move { Ok(editor.plan_rollback(base, revision, force).await?) };
    let done = change_sets::run(&api, &who, &group, &asked, Source::Rollback, plan).await?;
    tracing::info!(group = id, by = who.name, to = revision, "asked to bring a group back to a revision");
    Ok(done)
}

/// The group as it was at revisions, each a number or `head`. They share what they have in common.
async fn at<const N: usize>(api: &Api, who: &Caller, id: &str, revisions: [&str; N]) -> Result<[Image; N], Failure> {
    let group = api.state.find(id).await?;
    let head = group.current().await?;
    let editor = api.editor(who, &group);
    let mut found = [(); N].map(|()| (*head).clone());
    for (image, revision) in found.iter_mut().zip(revisions) {
        *image = editor.at(&head, parsed(revision, head.revision())?).await?;
    }
    Ok(found)
}
