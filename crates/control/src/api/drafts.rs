//! Change sets of edits: published at once, or prepared as drafts that any replica serves until they are published, discarded or forgotten.
//!
//! What must stay true: whoever edits or publishes an object may write its kind.

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use http::{HeaderMap, StatusCode, Uri};
use milecastle_model::{Fault, Key};
use milecastle_store::{Draft, DraftChange, DraftError, DraftUpdate, Source};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::change_sets::{self, ASKED, Asked, DRY_RUN, FORCE, LONGEST, MESSAGE, WAIT, tagged};
use super::expected::Expected;
use super::groups::done;
use super::{Api, Failure, List, Outcome, Site, Who, json as answer, query_of, whole};
use crate::admin::engine::ATTEMPTS;
use crate::callers::Caller;
use crate::keys;
use crate::openapi::{self, Doc, NAME, Param};
use crate::revisions::{Clash, Editor, Edits, GivenEdit, Op, Plan, published_edits, stamped};
use crate::rights::{Need, Place, Resource};
use crate::state::Image;

/// Longest id and name, in characters.
const LONGEST_NAME: usize = 64;

/// What is given to publish edits at once.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "ChangeSetGiven")]
#[serde(deny_unknown_fields, default)]
struct GivenSet {
    #[schemars(schema_with = "published_edits")]
    edits: Vec<GivenEdit>,
}

/// What is given to begin a draft.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "DraftNew")]
#[serde(deny_unknown_fields, default)]
struct GivenDraft {
    /// Without it, one is made.
    #[schemars(regex(pattern = NAME))]
    id: Option<String>,
    /// What people call it.
    #[schemars(length(max = LONGEST_NAME))]
    name: Option<String>,
    /// Why, for people.
    #[schemars(length(max = LONGEST))]
    message: Option<String>,
    edits: Vec<GivenEdit>,
}

/// What is given to edit one. Its id stays as it is.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "DraftUpdate")]
#[serde(deny_unknown_fields, default)]
struct GivenUpdate {
    /// What people call it.
    #[schemars(length(max = LONGEST_NAME))]
    name: Option<String>,
    /// Why, for people.
    #[schemars(length(max = LONGEST))]
    message: Option<String>,
    edits: Vec<GivenEdit>,
}

/// Members as docs/changes.md has them.
type Open = Map<String, Value>;

pub(super) const PUBLISH_EDITS: Doc = Doc::gives::<Open>("Publishes edits of any kinds as one revision.")
    .takes::<GivenSet>()
    .query(ASKED)
    .refuses(&[409, 412]);

/// `POST /api/gateway_groups/{group}/changes`: edits of any kinds as one revision.
pub(super) async fn publish_edits(
    Shared(api): Site,
    Extension(who): Who,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Outcome {
    let asked = Asked::of(&api, &uri, &headers)?;
    let GivenSet { edits } = api.large_body(body).await?;
    let group = api.state.find(&id).await?;
    let (api, who, edits, asked) = (&*api, &*who, &edits, &asked);
    let editor = api.editor(who, &group);
    let plan = |base: Arc<Image>| async move {
        let update = edited(&base, &BTreeMap::new(), edits.clone())?;
        if !update.leave.is_empty() {
            return Err(Failure::bad("invalid_body", "op: `leave` is for drafts: leave the edit out"));
        }
        publishable(api, who, editor, base, update.put, asked.force()).await
    };
    change_sets::run(api, who, &group, asked, Source::Api, plan).await
}

pub(super) const LIST: Doc = Doc::gives::<List<'static, Open>>("The drafts of a gateway group.");

/// `GET /api/gateway_groups/{group}/drafts`.
pub(super) async fn list(Shared(api): Site, Path(group): Path<String>) -> Outcome {
    api.store().head(&group).await?;
    let drafts: Vec<Value> = api.store().draft_list(&group).await?.iter().map(shown).collect();
    Ok(super::list(&drafts))
}

pub(super) const CREATE: Doc = Doc::makes::<Open>("Begins a draft.").takes::<GivenDraft>().refuses(&[409]);

/// `POST /api/gateway_groups/{group}/drafts`.
pub(super) async fn create(Shared(api): Site, Extension(who): Who, Path(id): Path<String>, body: Body) -> Outcome {
    let GivenDraft { id: draft, name, message, edits } = api.large_body(body).await?;
    let draft = draft.unwrap_or_else(keys::random_id);
    fit(&draft, name.as_deref(), message.as_deref())?;
    let group = api.state.find(&id).await?;
    let base = group.current().await?;
    let DraftUpdate { put, leave, .. } = edited(&base, &BTreeMap::new(), edits)?;
    let update = DraftUpdate { name, message, put, leave };
    may_write(&who, &id, update.put.iter().map(|change| &change.key))?;
    let made = api.by(&who).draft_create(&id, &draft, &update, api.draft_limits).await?;
    Ok(tagged(answer(StatusCode::CREATED, &shown(&made)), made.version))
}

pub(super) const SHOW: Doc = Doc::gives::<Open>("What a draft would do now.");

/// `GET /api/gateway_groups/{group}/drafts/{draft}`: what it would do now, and what stands against it.
pub(super) async fn show(Shared(api): Site, Extension(who): Who, Path((id, draft)): Path<(String, String)>) -> Outcome {
    let group = api.state.find(&id).await?;
    let (draft, changes) = found(&api, &id, &draft).await?;
    // Dropped with this future once the client has left.
    let asker = Arc::new(());
    let effort = Arc::new(api.validations.of_a_caller(&asker, &who, Resource::ChangeSets, &id).await?);
    let editor = Editor { effort: Some(&effort), ..api.editor(&who, &group) };
    let plan = planned(&api, editor, group.current().await?, changes, false).await?;
    let mut body = change_sets::shown(&api, plan).await?;
    body["draft"] = shown(&draft);
    Ok(tagged(answer(StatusCode::OK, &body), draft.version))
}

pub(super) const UPDATE: Doc = Doc::gives::<Open>("Edits a draft.").takes::<GivenUpdate>().refuses(&[409, 412]);

/// `PATCH /api/gateway_groups/{group}/drafts/{draft}`: more edits, another name or message. With `If-Match` only if it is still of that
/// version.
pub(super) async fn update(
    Shared(api): Site,
    Extension(who): Who,
    Path((id, draft)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Outcome {
    let GivenUpdate { name, message, edits } = api.large_body(body).await?;
    fit(&draft, name.as_deref(), message.as_deref())?;
    let expected = of_a_draft(&headers)?;
    let group = api.state.find(&id).await?;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (stored, changes) = wanted(&api, &id, &draft, &expected).await?;
        let changes = changes.into_iter().map(|change| (change.key.clone(), change)).collect();
        let base = group.current().await?;
        let DraftUpdate { put, leave, .. } = edited(&base, &changes, edits.clone())?;
        let update = DraftUpdate { name: name.clone(), message: message.clone(), put, leave };
        may_write(&who, &id, update.put.iter().map(|change| &change.key).chain(&update.leave))?;
        match api.by(&who).draft_update(&id, &draft, stored.version, &update, api.draft_limits).await {
            Ok(updated) => return Ok(tagged(answer(StatusCode::OK, &shown(&updated)), updated.version)),
            Err(DraftError::Stale { .. }) if attempts < ATTEMPTS => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) const DISCARD: Doc = Doc::done("Discards a draft.").refuses(&[412]);

/// `DELETE /api/gateway_groups/{group}/drafts/{draft}`. With `If-Match` only if it is still of that version.
pub(super) async fn discard(
    Shared(api): Site,
    Extension(who): Who,
    Path((group, draft)): Path<(String, String)>,
    headers: HeaderMap,
) -> Outcome {
    let expected = of_a_draft(&headers)?;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (stored, changes) = wanted(&api, &group, &draft, &expected).await?;
        may_write(&who, &group, changes.iter().map(|change| &change.key))?;
        match api.by(&who).draft_delete(&group, &draft, stored.version).await {
            Ok(()) => return Ok(done()),
            Err(DraftError::Stale { .. }) if attempts < ATTEMPTS => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) const PUBLISH: Doc =
    Doc::gives::<Open>("Publishes a draft as one revision.").query(PUBLISHING).refuses(&[409, 412]);

/// By what arguments a draft is published.
const PUBLISHING: &[Param] = &[
    DRY_RUN,
    FORCE,
    MESSAGE,
    WAIT,
    Param::whole(
        "version",
        0,
        openapi::MOST,
        "Only if the draft is still of this version: the one that was looked at.",
    ),
];

/// `POST /api/gateway_groups/{group}/drafts/{draft}/publish`: all of it as one revision; then there is no such draft any more.
pub(super) async fn publish(
    Shared(api): Site,
    Extension(who): Who,
    Path((id, draft)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
) -> Outcome {
    let (stored, _) = found(&api, &id, &draft).await?;
    let message = if stored.message.is_empty() { stored.name } else { stored.message };
    let asked = Asked::of(&api, &uri, &headers)?.saying(message);
    let wanted = whole(&query_of(&uri), "version")?;
    let group = api.state.find(&id).await?;
    let (api, who, id, draft, asked) = (&*api, &*who, &*id, &*draft, &asked);
    let editor = api.editor(who, &group);
    let plan = |base: Arc<Image>| async move {
        let (stored, changes) = found(api, id, draft).await?;
        if let Some(expected) = wanted.filter(|wanted| *wanted != stored.version) {
            return Err(DraftError::Stale { expected, current: stored.version }.into());
        }
        let plan = publishable(api, who, editor, base, changes, asked.force()).await?;
        Ok(plan.finishing(stored.id, stored.version))
    };
    change_sets::run(api, who, &group, asked, Source::Api, plan).await
}

/// What changes come to on top of `base`, with what clashes.
async fn planned(
    api: &Api,
    editor: Editor<'_>,
    base: Arc<Image>,
    changes: Vec<DraftChange>,
    force: bool,
) -> Result<Plan, Failure> {
    let clashes = changes.iter().filter_map(|change| clash(&base, change)).collect();
    let edits: Edits = changes.into_iter().map(|change| (change.key, change.body)).collect();
    let edits = stamped(edits, api.clock.now(), |key| Some(base.get(key)?.body.clone()));
    Ok(editor.plan(base, edits, force).await?.with_clashes(clashes))
}

/// The same, of somebody who may write all that it changes. Nothing is judged for anybody else; what lives below objects that are taken
/// away comes to light only then.
async fn publishable(
    api: &Api,
    who: &Caller,
    editor: Editor<'_>,
    base: Arc<Image>,
    changes: Vec<DraftChange>,
    force: bool,
) -> Result<Plan, Failure> {
    let group = editor.group.id();
    may_write(who, group, changes.iter().map(|change| &change.key))?;
    let plan = planned(api, editor, base, changes, force).await?;
    may_write(who, group, plan.keys())?;
    Ok(plan)
}

/// An object that is another one than the draft has seen, and than it would make it.
fn clash(base: &Image, change: &DraftChange) -> Option<Clash> {
    let stored = base.get(&change.key);
    let current = stored.map(|object| object.modified);
    let same = || match (stored, &change.body) {
        (None, None) => true,
        (Some(object), Some(body)) => milecastle_store::says_the_same(&object.body, body),
        _ => false,
    };
    (current != change.seen && !same()).then(|| Clash { key: change.key.clone(), seen: change.seen, current })
}

/// What edits make of objects, given what there is and what a draft makes of it already.
fn edited(base: &Image, drafted: &BTreeMap<Key, DraftChange>, edits: Vec<GivenEdit>) -> Result<DraftUpdate, Failure> {
    let mut made: BTreeMap<Key, Option<DraftChange>> = BTreeMap::new();
    for (n, edit) in edits.into_iter().enumerate() {
        let place = format!("/edits/{n}");
        let key = edit.key().map_err(|why| Failure::bad("invalid_body", why).at(&place))?;
        let before = match made.get(&key) {
            Some(made) => made.as_ref(),
            None => drafted.get(&key),
        };
        if edit.op == Op::Leave {
            made.insert(key, None);
            continue;
        }
        let stored = base.get(&key);
        let seen = match before {
            // Whoever merges goes on with what was drafted.
            Some(before) if edit.op == Op::Patch => before.seen,
            _ => stored.map(|object| object.modified),
        };
        let there = match before {
            Some(before) => before.body.as_ref(),
            None => stored.map(|object| &object.body),
        };
        if edit.op == Op::Patch && there.is_none() {
            let message = format!("{key}: there is none to merge into; `put` makes one");
            return Err(Failure::conflict("unfit_change_set", message).at(&format!("{place}/body")));
        }
        let body = edit.body(&key, there).map_err(|faults| unfit(&place, &key, &faults))?;
        let change = DraftChange { key: key.clone(), body, seen };
        made.insert(key, Some(change));
    }
    let mut update = DraftUpdate::default();
    for (key, change) in made {
        match change {
            Some(change) => update.put.push(change),
            None => update.leave.push(key),
        }
    }
    Ok(update)
}

fn unfit(place: &str, key: &Key, faults: &[Fault]) -> Failure {
    let listed = faults.iter().map(|fault| json!({ "path": fault.path, "message": fault.to_string() }));
    let listed: Vec<Value> = listed.collect();
    let path = faults.first().map(|fault| fault.path.as_str()).unwrap_or_default();
    let told = faults.first().map(Fault::placed).unwrap_or_default();
    Failure::bad("invalid_body", format!("{key}: {told}")).at(&format!("{place}/body{path}")).with("faults", listed)
}

/// Refuses whoever may not write each of these.
fn may_write<'a>(who: &Caller, group: &str, keys: impl Iterator<Item = &'a Key>) -> Result<(), Failure> {
    let mut kinds: Vec<_> = keys.map(|key| key.kind).collect();
    kinds.sort();
    kinds.dedup();
    for kind in kinds {
        who.authorise(Need::write(Resource::Objects(kind)), Place::Group(group))?;
    }
    Ok(())
}

async fn found(api: &Api, group: &str, id: &str) -> Result<(Draft, Vec<DraftChange>), Failure> {
    let found = api.store().draft_get(group, id).await?;
    found.ok_or_else(|| DraftError::Missing(id.to_owned()).into())
}

/// A draft that is of the version that is expected.
async fn wanted(api: &Api, group: &str, id: &str, expected: &Expected) -> Result<(Draft, Vec<DraftChange>), Failure> {
    let (draft, changes) = found(api, group, id).await?;
    match expected.unmet(draft.version, "stale_draft")? {
        Some(expected) => Err(DraftError::Stale { expected, current: draft.version }.into()),
        None => Ok((draft, changes)),
    }
}

fn of_a_draft(headers: &HeaderMap) -> Result<Expected, Failure> {
    Expected::of(headers, "the `version` of the draft, as its ETag has it")
}

fn shown(draft: &Draft) -> Value {
    json!({
        "id": draft.id,
        "name": draft.name,
        "message": draft.message,
        "author": draft.author,
        "version": draft.version,
        "objects": draft.objects,
        "created_at": draft.created_at,
        "touched_at": draft.touched_at,
    })
}

fn fit(id: &str, name: Option<&str>, message: Option<&str>) -> Result<(), Failure> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=LONGEST_NAME).contains(&id.len()) || !id.bytes().all(fits) {
        let message = format!("the id of a draft is 1 to {LONGEST_NAME} of A-Z a-z 0-9 . _ -");
        return Err(Failure::bad("invalid_id", message).at("/id"));
    }
    for (member, text, most) in [("name", name, LONGEST_NAME), ("message", message, LONGEST)] {
        if text.is_some_and(|text| text.chars().count() > most) {
            let message = format!("{member}: expected at most {most} characters");
            return Err(Failure::bad("invalid_body", message).at(&format!("/{member}")));
        }
    }
    Ok(())
}

impl From<DraftError> for Failure {
    fn from(error: DraftError) -> Self {
        let message = error.to_string();
        match error {
            DraftError::Missing(_) => Self::missing("no_such_draft", message),
            DraftError::Exists(_) => Self::conflict("draft_exists", message),
            DraftError::Stale { expected, current } => {
                let failure = Self::new(StatusCode::PRECONDITION_FAILED, "stale_draft", message);
                failure.with("expected", expected).with("current", current)
            }
            DraftError::TooMany { .. } => Self::conflict("too_many_drafts", message),
            DraftError::TooLarge { .. } | DraftError::TooHeavy { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "draft_too_large", message)
            }
            DraftError::Store(error) => error.into(),
        }
    }
}
