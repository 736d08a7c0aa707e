//! Settings of a gateway group: what decides what can be built in it (`milecastle_model::GroupSettings`).
//!
//! They are an object of the group's configuration, so a change of them is a revision like any other. It is refused where
//! stored objects could not be built any more, unless it is forced: then these are in quarantine on every node.
//!
//! Secrets of the registries among them are stored sealed and are never shown; a mask that comes back stands for what is stored.

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use http::{HeaderMap, StatusCode, Uri};
use milecastle_model::{Fault, Key, Kind};
use milecastle_plugin_api::Registry;
use milecastle_settings::Registries;
use milecastle_snapshot::Compiler;
use milecastle_store::{ChangeSet, Op, PublishError, Published, Put, Source};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::change_sets::tagged;
use super::expected::Expected;
use super::{Api, Failure, Outcome, Site, Who, flag, json as answer, query_of};
use crate::callers::Caller;
use crate::dpm::Receipt;
use crate::efforts::Effort;
use crate::openapi::{Doc, Param};
use crate::state::{Group, Image, Seen};
use crate::terms::{self, Review, Terms, Unreadable};
use crate::{STALE, staleness};

/// How often a change is judged anew because the group was written to meanwhile. Later rounds look at what was written alone.
const ATTEMPTS: usize = 32;

/// Objects that a refusal lists, and that its message names.
const LISTED: usize = 100;
const NAMED: usize = 3;

/// How a change is asked for.
struct Asked {
    force: bool,
    /// The revision that the settings must have; 0 where there are none yet.
    expected: Expected,
    wait: Option<Duration>,
    who: Arc<Caller>,
}

/// Settings as answers show them.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "GroupSettings")]
struct Shown {
    group: String,
    /// That changed them last; 0: none did.
    revision: u64,
    /// As they were written, but for secrets.
    settings: Map<String, Value>,
    /// With the defaults filled in.
    effective: Map<String, Value>,
    /// How far the change has come, if that was waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<String>,
}

/// Settings as they are given: by the schema that they are judged by.
struct Given;

impl JsonSchema for Given {
    fn schema_name() -> Cow<'static, str> {
        "GroupSettingsGiven".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let schema = milecastle_model::named_schema(Kind::GroupSettings.name()).expect("every kind has a schema");
        schema.clone().try_into().expect("a schema of a kind is an object")
    }
}

const CHANGE: &[Param] = &[
    Param::flag("force", "Also where stored objects could not be built any more."),
    Param::span("wait", "Waits so long for the nodes to have it in force."),
];

pub(super) const SHOW: Doc = Doc::gives::<Shown>("Settings of a gateway group.");

/// `GET /api/gateway_groups/{group}/settings`.
pub(super) async fn show(Shared(api): Site, Path(id): Path<String>) -> Outcome {
    let Seen { image, stale } = api.state.find(&id).await?.latest(api.max_read_wait).await?;
    let mut response = shown(&api, &id, &image, None)?;
    response.headers_mut().extend(stale.map(|age| (STALE, staleness(age))));
    Ok(response)
}

pub(super) const REPLACE: Doc = Doc::gives::<Shown>("Replaces the settings of a gateway group.")
    .needs::<Given>()
    .query(CHANGE)
    .refuses(&[409, 412]);

/// `PUT /api/gateway_groups/{group}/settings`: all of them anew; what is left out has its default.
pub(super) async fn replace(
    Shared(api): Site,
    Extension(who): Who,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Outcome {
    let given = api.any_body(body).await?;
    let asked = asked(&api, &uri, &headers, who)?;
    change(&api, &id, asked, |_| given.clone()).await
}

pub(super) const PATCH: Doc = Doc::gives::<Shown>("Merges into the settings of a gateway group (RFC 7396).")
    .merges::<Given>()
    .query(CHANGE)
    .refuses(&[409, 412]);

/// `PATCH /api/gateway_groups/{group}/settings`: merged into what is there (RFC 7396); `null` takes a member away.
pub(super) async fn patch(
    Shared(api): Site,
    Extension(who): Who,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Outcome {
    let given = api.any_body(body).await?;
    let asked = asked(&api, &uri, &headers, who)?;
    let merged = |mut stored: Value| {
        milecastle_model::patch::merge_patch(&mut stored, &given);
        stored
    };
    change(&api, &id, asked, merged).await
}

fn asked(api: &Api, uri: &Uri, headers: &HeaderMap, who: Arc<Caller>) -> Result<Asked, Failure> {
    let query = query_of(uri);
    let expected = Expected::of(headers, "the `revision` of the settings, as their ETag has it")?;
    let wait = query.get("wait").map(|_| api.wait(&query)).transpose()?;
    Ok(Asked { force: flag(&query, "force")?, expected, wait, who })
}

async fn change(api: &Api, id: &str, asked: Asked, make: impl Fn(Value) -> Value) -> Outcome {
    let _place = api.place(&asked.who, asked.wait.unwrap_or_default())?;
    let group = api.state.find(id).await?;
    let mut review: Option<Review> = None;
    for _ in 0..ATTEMPTS {
        let image = group.current().await?;
        check_expected(&asked, &image)?;
        let terms = Terms::of(&api.compiler, &image)?;
        let stored = settings(&image);
        let mut new = make(stored.clone());
        unmask(&mut new, &stored)?;
        if new == stored {
            return shown(api, id, &image, None);
        }
        let after = judged(terms.compiler(), &new)?;
        let mut set = change_set(&image, &new);
        if !asked.force && !after.builds_like(terms.compiler()) {
            // Nothing may come in unseen between looking and publishing.
            set.expected_revision = Some(image.revision());
            let seen = look(review.take(), terms.compiler().clone(), after, image.clone()).await?;
            if seen.found().len() > 0 {
                return Err(in_use(&seen));
            }
            review = Some(seen);
        }
        match api.by(&asked.who).publish(id, set).await {
            Ok(published) => {
                tracing::info!(
                    group = id,
                    by = asked.who.name,
                    revision = published.revision,
                    "settings of a group changed"
                );
                return done(api, &group, &published, asked.wait).await;
            }
            // Others have written to the group meanwhile.
            Err(PublishError::StaleRevision { .. } | PublishError::PreconditionFailed { .. }) => {}
            Err(PublishError::Store(error)) => return Err(error.into()),
            Err(other) => {
                return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", other.to_string()));
            }
        }
    }
    Err(Failure::busy())
}

/// Refuses if the settings are not those that the request expects.
fn check_expected(asked: &Asked, image: &Image) -> Result<(), Failure> {
    let current = revision(image);
    match asked.expected.unmet(current, "stale_revision")? {
        None => Ok(()),
        Some(expected) => {
            let message = format!("the settings are of revision {current}, not {expected}: read them again");
            let failure = Failure::new(StatusCode::PRECONDITION_FAILED, "stale_revision", message);
            Err(failure.with("expected", expected).with("current", current))
        }
    }
}

/// The compiler of new settings, if they are any.
fn judged(compiler: &Compiler, new: &Value) -> Result<Compiler, Failure> {
    let mut faults = compiler.check(Kind::GroupSettings, &Key::group_settings().id, new);
    faults.extend(terms::too_large(terms::size_of(new), new));
    if faults.is_empty() {
        return compiler.under_settings(new).map_err(|faults| refused(&faults));
    }
    Err(refused(&faults))
}

fn refused(faults: &[Fault]) -> Failure {
    let listed: Vec<Value> =
        faults.iter().map(|fault| json!({ "path": fault.path, "message": fault.message })).collect();
    let (path, message) = faults.first().map(|fault| (&*fault.path, &*fault.message)).unwrap_or_default();
    let message = if path.is_empty() { message.to_owned() } else { format!("{path}: {message}") };
    Failure::bad("invalid_settings", message).at(path).with("faults", listed)
}

fn change_set(image: &Image, new: &Value) -> ChangeSet {
    let body = serde_json::to_vec(new).expect("a JSON value can be written as text");
    let sealed = new.get("discovery").is_some_and(|registries| Registries::mask(&mut registries.clone()));
    let put = Put { expect: terms::settings(image), sealed, ..Put::new(Key::group_settings(), body) };
    let mut set = ChangeSet::new(Source::Api, vec![Op::Put(put)]);
    set.message = "settings of the gateway group".to_owned();
    set
}

/// Looks for objects that the change would take out of service, off the runtime's threads.
async fn look(review: Option<Review>, before: Compiler, after: Compiler, image: Arc<Image>) -> Result<Review, Failure> {
    // Dropped with this future once the client has left.
    let asker = Arc::new(());
    let effort = Effort::of_a_write(&asker);
    // Where others have changed the settings meanwhile, what was seen says nothing.
    let work = move || match review.filter(|review| review.is_of(&before, &after)) {
        Some(mut review) => {
            review.go_on(image);
            Ok(review)
        }
        None => Review::of(before, after, image, &effort),
    };
    Ok(tokio::task::spawn_blocking(work).await??)
}

fn in_use(review: &Review) -> Failure {
    let total = review.found().len();
    let listed: Vec<Value> = review
        .found()
        .take(LISTED)
        .map(|(key, fault)| {
            json!({ "kind": key.kind.name(), "id": &*key.id, "path": fault.path, "reason": fault.message })
        })
        .collect();
    let named: Vec<String> =
        review.found().take(NAMED).map(|(key, fault)| format!("{key}: {}", fault.message)).collect();
    let more = total.saturating_sub(named.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let message = format!(
        "objects of the group could not be built under these settings: {}{more}. Change them first; or do it all the same \
         with `?force=true`: until they can be built, they are in quarantine, and what depends on them is answered with 503",
        named.join("; ")
    );
    Failure::conflict("settings_in_use", message).with("objects", listed).with("total", total)
}

/// The answer to a change, after waiting for the nodes if that was asked for.
async fn done(api: &Api, group: &Group, published: &Published, wait: Option<Duration>) -> Outcome {
    let Published { revision, mark, .. } = published;
    group.reach(*revision, mark).await?;
    let image = group.image();
    let receipt = match wait {
        Some(wait) => Some(api.nodes.wait_written(group.id(), image.lineage(), *revision, wait).await),
        None => None,
    };
    shown(api, group.id(), &group.image(), receipt)
}

/// Puts stored secrets in the place of the masks that they were shown as.
fn unmask(new: &mut Value, stored: &Value) -> Result<(), Failure> {
    let Some(registries) = new.get_mut("discovery") else { return Ok(()) };
    let within = |fault: Fault| Fault { path: format!("/discovery{}", fault.path), ..fault };
    let stored = stored.get("discovery").unwrap_or(&Value::Null);
    Registries::unmask(registries, stored)
        .map_err(|faults| refused(&faults.into_iter().map(within).collect::<Vec<_>>()))
}

/// The settings as they were written; an empty object where there are none.
fn settings(image: &Image) -> Value {
    let stored = image.get(&Key::group_settings()).and_then(|object| serde_json::from_slice(&object.body).ok());
    stored.unwrap_or_else(|| Value::Object(Map::new()))
}

/// The revision that changed them last; 0 where there are none.
fn revision(image: &Image) -> u64 {
    image.get(&Key::group_settings()).map_or(0, |object| object.modified)
}

/// As they were written but for secrets, and what they come to with the defaults; how far they have come, if that was waited for.
fn shown(api: &Api, group: &str, image: &Image, receipt: Option<Receipt>) -> Outcome {
    let terms = Terms::of(&api.compiler, image)?;
    let compiler = terms.compiler();
    let mut effective = serde_json::to_value(compiler.settings()).expect("settings have a JSON form");
    let names = |registry: &Registry| registry.plugins().iter().map(|def| def.name).collect::<Value>();
    effective["plugins"] = names(compiler.registry());
    effective["stream_plugins"] = compiler.streams().map_or_else(|| json!([]), |registry| names(registry));
    let mut settings = settings(image);
    if let Some(registries) = settings.get_mut("discovery") {
        effective["discovery"] = compiler.discovery().effective(registries);
        Registries::mask(registries);
    }
    let revision = revision(image);
    let receipt = receipt.map(|receipt| receipt.to_string());
    let (settings, effective) = (members(settings), members(effective));
    let body = Shown { group: group.to_owned(), revision, settings, effective, receipt };
    Ok(tagged(answer(StatusCode::OK, &body), revision))
}

/// Of an object, as all settings are.
fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => unreachable!("settings are an object, not {other}"),
    }
}

impl From<Unreadable> for Failure {
    fn from(error: Unreadable) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "other_version", error.to_string())
    }
}
