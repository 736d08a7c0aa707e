//! A group as one file, and objects from one group to another.

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use axum::response::IntoResponse;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri, header};
use milecastle_model::{Key, Kind};
use milecastle_store::Source;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::change_sets::{self, Asked, DRY_RUN, FORCE, MESSAGE, WAIT, tagged};
use super::{Failure, Outcome, Site, Who, flag, query_of};
use crate::admin::validate::is_yaml;
use crate::admin::yaml;
use crate::openapi::{Doc, NAME, Param};
use crate::revisions::{Arrival, Editor, Existing, Plan, Refused, Selection, transfer};
use crate::rights::{Need, Place, Resource};
use crate::state::Image;

/// Media types of files.
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

const KINDS: Param = Param::kinds("kinds", "Only objects of these kinds, joined by commas.");
const OBJECTS: Param = Param::objects("objects", "Only these objects, such as /routes/1, joined by commas.");
const EXISTING: Param =
    Param::one_of("existing", &["overwrite", "keep", "refuse"], "What becomes of objects that are there already.");
const PRUNE: Param = Param::flag("prune", "Delete what does not arrive.");

/// Which objects the arguments `kinds` and `objects` name.
fn selection(uri: &Uri) -> Result<Selection, Failure> {
    let query = query_of(uri);
    let words =
        |name: &str| query.get(name).into_iter().flat_map(|text| text.split(',')).filter(|word| !word.is_empty());
    let mut selection = Selection::default();
    for name in words("kinds") {
        let kind = Kind::from_name(name).or_else(|| Kind::from_collection(name));
        let unknown = || Failure::bad("invalid_argument", format!("kinds: there is no kind `{name}`"));
        selection.kinds.insert(kind.ok_or_else(unknown)?);
    }
    for path in words("objects") {
        let unknown =
            || Failure::bad("invalid_argument", format!("objects: expected paths such as /routes/1, found `{path}`"));
        selection.keys.insert(transfer::key_of(path).ok_or_else(unknown)?);
    }
    Ok(selection)
}

fn arrival(uri: &Uri) -> Result<Arrival, Failure> {
    let query = query_of(uri);
    let existing = match query.get("existing").map(Existing::from_name) {
        None => Existing::default(),
        Some(Some(existing)) => existing,
        Some(None) => return Err(Failure::bad("invalid_argument", "existing: expected overwrite, keep or refuse")),
    };
    Ok(Arrival { selection: selection(uri)?, existing, prune: flag(&query, "prune")? })
}

pub(super) const EXPORT: Doc = Doc::gives::<Map<String, Value>>("A gateway group as one file.")
    .also("application/yaml")
    .query(&[Param::one_of("format", &["json", "yaml"], "JSON without it."), KINDS, OBJECTS]);

/// `GET /api/gateway_groups/{group}/export`: the group as one file, as JSON or with `format=yaml` as YAML.
pub(super) async fn export(Shared(api): Site, Path(id): Path<String>, uri: Uri) -> Outcome {
    let selection = selection(&uri)?;
    let as_yaml = match query_of(&uri).get("format") {
        None | Some("json") => false,
        Some("yaml") => true,
        Some(_) => return Err(Failure::bad("invalid_argument", "format: expected json or yaml")),
    };
    let image = api.state.find(&id).await?.current().await?;
    let revision = image.revision();
    let work = move || {
        let text = transfer::write(&id, &image, &selection)?;
        Ok(match as_yaml {
            true => (YAML, yaml::write(&serde_json::from_slice(&text)?).into_bytes()),
            false => (JSON, text),
        })
    };
    let unreadable = |error: serde_json::Error| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("what is stored is not readable: {error}"))
    };
    let (media, text) = tokio::task::spawn_blocking(work).await.map_err(Refused::from)?.map_err(unreadable)?;
    Ok(tagged((StatusCode::OK, [(header::CONTENT_TYPE, media)], text).into_response(), revision))
}

pub(super) const IMPORT: Doc = Doc::gives::<Map<String, Value>>("Takes over the objects of such a file.")
    .needs::<transfer::GroupFile>()
    .query(&[DRY_RUN, FORCE, MESSAGE, WAIT, KINDS, OBJECTS, EXISTING, PRUNE])
    .refuses(&[409, 412, 428]);

/// `POST /api/gateway_groups/{group}/import`: objects of such a file become the group's.
pub(super) async fn import(
    Shared(api): Site,
    Extension(who): Who,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Outcome {
    let (asked, arrival) = (Asked::of(&api, &uri, &headers)?.on_top_of_something()?, arrival(&uri)?);
    let text = api.large_body_limits.read(body).await?;
    let in_yaml = headers.get(header::CONTENT_TYPE).is_some_and(is_yaml);
    let read = move || {
        let text = match in_yaml {
            true => yaml::read(&text).ok_or("it is no YAML")?.to_string().into_bytes().into(),
            false => text,
        };
        transfer::read(&text)
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(Refused::from)?;
    let bodies = read.map_err(|why| Failure::bad("invalid_body", format!("not a group's file: {why}")))?;
    let group = api.state.find(&id).await?;
    let (editor, bodies, arrival, force) = (api.editor(&who, &group), &bodies, &arrival, asked.force());
    let plan = |base| async move { arrived(editor, base, bodies.clone(), arrival, force).await };
    change_sets::run(&api, &who, &group, &asked, Source::File, plan).await
}

pub(super) const PROMOTE: Doc = Doc::gives::<Map<String, Value>>("Takes over objects of another group.")
    .query(&[
        Param::like("from", NAME, "The group that they come from.").needed(),
        DRY_RUN,
        FORCE,
        MESSAGE,
        WAIT,
        KINDS,
        OBJECTS,
        EXISTING,
        PRUNE,
    ])
    .refuses(&[409, 412, 428]);

/// `POST /api/gateway_groups/{group}/promote?from=`: objects of another group become this group's, secrets included.
pub(super) async fn promote(
    Shared(api): Site,
    Extension(who): Who,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Outcome {
    let (asked, arrival) = (Asked::of(&api, &uri, &headers)?.on_top_of_something()?, arrival(&uri)?);
    let query = query_of(&uri);
    let Some(from) = query.get("from").filter(|from| !from.is_empty()) else {
        return Err(Failure::bad("invalid_argument", "from: name the gateway group that the objects come from"));
    };
    // Private keys and other secrets come along, which nobody is shown who may only read there.
    who.authorise(Need::write(Resource::Configuration), Place::Group(from))?;
    let (source, group) = (api.state.find(from).await?, api.state.find(&id).await?);
    let (editor, source, arrival, force) = (api.editor(&who, &group), &source, &arrival, asked.force());
    let plan = |base| async move {
        let theirs = source.current().await?;
        // What can be built in a group is its own matter unless it is named.
        let named = |kind: Kind| kind != Kind::GroupSettings || arrival.selection.kinds.contains(&kind);
        let bodies: BTreeMap<_, _> = theirs
            .objects()
            .filter(|object| named(object.key.kind))
            .map(|object| (object.key.clone(), object.body.clone()))
            .collect();
        arrived(editor, base, bodies, arrival, force).await
    };
    change_sets::run(&api, &who, &group, &asked, Source::Api, plan).await
}

/// What the arrival of bodies comes to.
async fn arrived(
    editor: Editor<'_>,
    base: Arc<Image>,
    bodies: BTreeMap<Key, Bytes>,
    arrival: &Arrival,
    force: bool,
) -> Result<Plan, Failure> {
    let (edits, flaws) = transfer::arrive(&base, bodies, arrival);
    let mut plan = editor.plan(base, edits, force).await?;
    plan.add_flaws(flaws);
    Ok(plan)
}
