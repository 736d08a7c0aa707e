//! Roles, and who may give them.
//!
//! What must stay true: nobody allows more than they may do themselves, neither by giving a role, nor by making or changing one,
//! which counts for all who have it, wherever they have it. Nor does anybody take away what they could not give.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use http::{HeaderMap, StatusCode};
use milecastle_store::{CustomRole, RoleError, RoleGrant, RoleUpdate, StoreError};
use schemars::{JsonSchema, Schema};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::change_sets::tagged;
use super::expected::Expected;
use super::groups::done;
use super::{Api, Failure, List, Outcome, Site, Who, json};
use crate::callers::Caller;
use crate::openapi::Doc;
use crate::rights::{Action, Need, Place, PrincipalKind, Resource, Rights, Role, Unfit};

/// Longest name and description, in characters.
const LONGEST: usize = 64;
const LONGEST_DESCRIPTION: usize = 512;

/// Members of a body that are none of those there are.
type Others = BTreeMap<String, IgnoredAny>;

/// What is given to make one.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "RoleNew", extend("required" = ["name"]), deny_unknown_fields)]
#[serde(default)]
struct New {
    #[schemars(regex(pattern = "^[A-Za-z0-9._-]{1,64}$"))]
    name: String,
    /// What it is for.
    #[schemars(length(max = LONGEST_DESCRIPTION))]
    description: String,
    /// Resources that it may read.
    #[schemars(transform = readable)]
    read: Vec<String>,
    /// Resources that it may write.
    #[schemars(transform = writable)]
    write: Vec<String>,
    #[serde(flatten)]
    #[schemars(skip)]
    others: Others,
}

fn readable(schema: &mut Schema) {
    named(schema, Action::Read);
}

fn writable(schema: &mut Schema) {
    named(schema, Action::Write);
}

/// Has a list hold the names of resources alone on which there is something to do.
fn named(schema: &mut Schema, action: Action) {
    let names: Vec<&str> = Role::administrator().resources(action).map(Resource::name).collect();
    schema.insert("items".to_owned(), serde_json::json!({ "type": "string", "enum": names }));
}

/// What is given to change one.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "RoleUpdate", deny_unknown_fields)]
#[serde(default)]
struct Update {
    #[schemars(length(max = LONGEST_DESCRIPTION))]
    description: Option<String>,
    /// All resources that it may read anew.
    #[schemars(transform = readable)]
    read: Option<Vec<String>>,
    /// All resources that it may write anew.
    #[schemars(transform = writable)]
    write: Option<Vec<String>>,
    #[serde(flatten)]
    #[schemars(skip)]
    others: Others,
}

/// A role as answers show it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Role")]
struct Shown {
    name: String,
    built_in: bool,
    description: String,
    /// Resources that it may read.
    read: Vec<String>,
    /// Resources that it may write.
    write: Vec<String>,
    /// Grows with each change; of one that is built in `null`, as the times.
    version: Option<u64>,
    created_at: Option<u64>,
    changed_at: Option<u64>,
}

impl From<&Role> for Shown {
    fn from(role: &Role) -> Self {
        let names = |action| role.resources(action).map(|resource| resource.name().to_owned()).collect();
        let (read, write) = (names(Action::Read), names(Action::Write));
        let (name, description) = (role.name.clone(), String::new());
        Self { name, built_in: true, description, read, write, version: None, created_at: None, changed_at: None }
    }
}

impl From<&CustomRole> for Shown {
    fn from(stored: &CustomRole) -> Self {
        let CustomRole { description, version, created_at, changed_at, .. } = stored;
        Self {
            built_in: false,
            description: description.clone(),
            version: Some(*version),
            created_at: Some(*created_at),
            changed_at: Some(*changed_at),
            ..Self::from(&Role::made(stored))
        }
    }
}

/// Whether a role may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=LONGEST).contains(&name.len()) && name.bytes().all(fit)
}

pub(super) const LIST: Doc = Doc::gives::<List<'static, Shown>>("The roles, and what each allows.");

/// `GET /api/roles`: the built-in ones first.
pub(super) async fn list(Shared(api): Site) -> Outcome {
    let made = api.store().role_list().await?;
    let roles: Vec<Shown> = Role::built_in().iter().map(Shown::from).chain(made.iter().map(Shown::from)).collect();
    Ok(super::list(&roles))
}

pub(super) const SHOW: Doc = Doc::gives::<Shown>("A role.");

/// `GET /api/roles/{name}`.
pub(super) async fn show(Shared(api): Site, Path(name): Path<String>) -> Outcome {
    match Role::find(&name) {
        Some(role) => Ok(json(StatusCode::OK, &Shown::from(&role))),
        None => Ok(answer(StatusCode::OK, &found(&api, &name).await?)),
    }
}

pub(super) const CREATE: Doc = Doc::makes::<Shown>("Makes a role.").needs::<New>().refuses(&[409]);

/// `POST /api/roles`: of resources that the caller may read and write too.
pub(super) async fn create(Shared(api): Site, Extension(who): Who, body: Body) -> Outcome {
    let New { name, description, read, write, others } = api.body(body).await?;
    known(&others)?;
    if !is_name(&name) {
        let message = format!("the name of a role is 1 to {LONGEST} of A-Z a-z 0-9 . _ -");
        return Err(Failure::bad("invalid_body", message).at("/name"));
    }
    short(&description)?;
    let role = Role::of(&name, &[(Action::Read, read), (Action::Write, write)])?;
    let allows = role.stored();
    covered(&who, &Rights::everywhere(role))?;
    api.by(&who).role_create(&name, &RoleUpdate { description, allows }).await?;
    tracing::info!(role = name, by = who.name, "role made");
    Ok(answer(StatusCode::CREATED, &found(&api, &name).await?))
}

pub(super) const UPDATE: Doc =
    Doc::gives::<Shown>("Changes a role, for all who have it.").takes::<Update>().refuses(&[409, 412]);

/// `PATCH /api/roles/{name}`: what is given of it is this from then on. With `If-Match` only if it is still of that version.
pub(super) async fn update(
    Shared(api): Site,
    Extension(who): Who,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Outcome {
    let Update { description, read, write, others } = api.body(body).await?;
    known(&others)?;
    let stored = changeable(&api, &who, &name, &headers).await?;
    let description = description.unwrap_or_else(|| stored.description.clone());
    short(&description)?;
    let given: Vec<_> =
        [(Action::Read, read), (Action::Write, write)].into_iter().filter_map(|(a, named)| Some((a, named?))).collect();
    let mut anew = Role::of(&name, &given)?.stored();
    // What is not given stays, also what this version does not know.
    let mut allows = stored.allows.clone();
    for (action, _) in given {
        allows.insert(action.name().to_owned(), anew.remove(action.name()).unwrap_or_default());
    }
    let changed = CustomRole { allows, ..stored };
    covered(&who, &Rights::everywhere(Role::made(&changed)))?;
    let update = RoleUpdate { description, allows: changed.allows };
    api.by(&who).role_update(&name, changed.version, &update).await?;
    tracing::info!(role = name, by = who.name, "role changed");
    Ok(answer(StatusCode::OK, &found(&api, &name).await?))
}

pub(super) const DELETE: Doc = Doc::done("Deletes a role that nobody has.").refuses(&[409, 412]);

/// `DELETE /api/roles/{name}`: with `If-Match` only if it is still of that version.
pub(super) async fn delete(
    Shared(api): Site,
    Extension(who): Who,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Outcome {
    let stored = changeable(&api, &who, &name, &headers).await?;
    api.by(&who).role_delete(&name, stored.version).await?;
    tracing::info!(role = name, by = who.name, "role deleted");
    Ok(done())
}

/// A role that `who` may change: a made one, of the version that is wanted, that allows nothing which `who` may not do. Not one that
/// `who` has, so that there is always an administrator left.
async fn changeable(api: &Api, who: &Caller, name: &str, headers: &HeaderMap) -> Result<CustomRole, Failure> {
    let wanted = Expected::of(headers, "the `version` of the role, as its ETag has it")?;
    if Role::find(name).is_some() {
        let message = format!("`{name}` is built in and stays as it is: make a role of your own");
        return Err(Failure::conflict("built_in_role", message));
    }
    let stored = found(api, name).await?;
    covered(who, &Rights::everywhere(Role::made(&stored)))?;
    if matches!(who.kind, PrincipalKind::Account(_)) && who.rights.grants().iter().any(|grant| grant.role == name) {
        let message = format!("you have the role `{name}` yourself: have another administrator change it");
        return Err(Failure::conflict("own_role", message));
    }
    match wanted.unmet(stored.version, "stale_role")? {
        Some(expected) => Err(RoleError::Stale { expected, current: stored.version }.into()),
        None => Ok(stored),
    }
}

/// Refuses what is no member of a role: what it names is taken for an action.
fn known(others: &Others) -> Result<(), Failure> {
    match others.keys().next() {
        Some(name) => {
            let message = format!("there is no action `{name}`: a role has `read` and `write`");
            Err(Failure::bad("invalid_body", message).at(&format!("/{name}")))
        }
        None => Ok(()),
    }
}

fn short(description: &str) -> Result<(), Failure> {
    if description.chars().count() > LONGEST_DESCRIPTION {
        let message = format!("a description has at most {LONGEST_DESCRIPTION} characters");
        return Err(Failure::bad("invalid_body", message).at("/description"));
    }
    Ok(())
}

async fn found(api: &Api, name: &str) -> Result<CustomRole, Failure> {
    api.store().role_get(name).await?.ok_or_else(|| RoleError::Missing(name.to_owned()).into())
}

fn answer(status: StatusCode, role: &CustomRole) -> axum::response::Response {
    tagged(json(status, &Shown::from(role)), role.version)
}

/// Refuses grants that are none, or that `who` may not make.
pub(super) async fn granted(api: &Api, who: &Caller, grants: &[RoleGrant]) -> Result<(), Failure> {
    if grants.is_empty() {
        return Err(Failure::bad("invalid_body", "without a role nothing is allowed: GET /api/roles").at("/roles"));
    }
    let made = api.store().roles_of(grants).await?;
    for (i, grant) in grants.iter().enumerate() {
        if Role::find(&grant.role).is_none() && made.iter().all(|role| role.name != grant.role) {
            let message = format!("there is no role `{}`: GET /api/roles", grant.role);
            return Err(Failure::bad("invalid_body", message).at(&format!("/roles/{i}/role")));
        }
        if grant.groups.is_empty() {
            let message = "name gateway groups, or `*` for all of them";
            return Err(Failure::bad("invalid_body", message).at(&format!("/roles/{i}/groups")));
        }
    }
    covered(who, &Rights::of(grants, &made))?;
    // After that, so that nobody learns of groups in which they may do nothing.
    groups_exist(api, grants).await
}

/// A group of that name that is made later is another one, and whoever makes it does not know who may write to it already.
async fn groups_exist(api: &Api, grants: &[RoleGrant]) -> Result<(), Failure> {
    for (i, grant) in grants.iter().enumerate() {
        for (j, group) in grant.named() {
            match api.store().head(group).await {
                Ok(_) => {}
                Err(StoreError::UnknownGroup(_)) => {
                    let message = format!("there is no gateway group `{group}`: GET /api/gateway_groups");
                    return Err(Failure::bad("invalid_body", message).at(&format!("/roles/{i}/groups/{j}")));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Refuses if `who` may not do all that these grants allow.
pub(super) async fn may_give(api: &Api, who: &Caller, grants: &[RoleGrant]) -> Result<(), Failure> {
    covered(who, &api.callers.rights(grants).await?)
}

fn covered(who: &Caller, rights: &Rights) -> Result<(), Failure> {
    if who.rights.cover(rights) {
        return Ok(());
    }
    who.refused(Need::write(Resource::Users), Place::Cluster);
    let message = format!("`{}` may neither give nor take away roles that allow more than its own do", who.name);
    Err(Failure::new(StatusCode::FORBIDDEN, "not_allowed", message))
}

impl From<Unfit> for Failure {
    fn from(unfit: Unfit) -> Self {
        Self::bad("invalid_body", unfit.to_string()).at(&unfit.path)
    }
}

impl From<RoleError> for Failure {
    fn from(error: RoleError) -> Self {
        let message = error.to_string();
        match error {
            RoleError::Missing(_) => Self::missing("no_such_role", message),
            RoleError::Exists(_) => Self::conflict("role_exists", message),
            RoleError::Stale { expected, current } => {
                let failure = Self::new(StatusCode::PRECONDITION_FAILED, "stale_role", message);
                failure.with("expected", expected).with("current", current)
            }
            RoleError::Held { by, .. } => {
                let by: Vec<String> = by.iter().map(ToString::to_string).collect();
                Self::conflict("role_in_use", message).with("by", by)
            }
            RoleError::Store(error) => error.into(),
        }
    }
}
