//! Accounts of people (`docs/access.md`).

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use http::StatusCode;
use milecastle_store::{Account, AccountUpdate, NewPassword, RoleGrant};
use milecastle_telemetry::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::groups::done;
use super::roles::{granted, may_give};
use super::{Api, Failure, List, Outcome, Site, Who, json};
use crate::callers::Caller;
use crate::openapi::Doc;
use crate::passwords::{check_password, generate_password};
use crate::rights::{Principal, PrincipalKind};

/// Longest name, in bytes.
const LONGEST: usize = 64;

/// Longest subject, in characters (OpenID Connect Core 1.0, §2).
const LONGEST_SUBJECT: usize = 255;

/// What is given to make one.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(
    rename = "UserNew",
    extend("required" = ["name", "roles"]),
    extend("not" = {
        "required": ["provider", "password"],
        "properties": { "provider": { "const": true }, "password": { "type": "string" } },
    })
)]
#[serde(deny_unknown_fields, default)]
struct New {
    #[schemars(regex(pattern = "^[A-Za-z0-9._@-]{1,64}$"))]
    name: String,
    /// Without it, one is made and shown.
    #[schemars(with = "Option<String>")]
    password: Option<Secret<String>>,
    /// An account of a provider that gives roles itself (`oidc.roles`) may have none.
    #[schemars(length(min = 1))]
    roles: Vec<RoleGrant>,
    /// Whether its owner logs in through the provider of OpenID Connect; then it has no password.
    provider: bool,
    /// What the provider calls its owner (`sub`), who logs in through it then; without it, the first who logs in with the account's name as
    /// `oidc.account_claim` is its owner.
    #[schemars(length(min = 1, max = LONGEST_SUBJECT))]
    subject: Option<String>,
}

/// What is given to change one.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "UserUpdate")]
#[serde(deny_unknown_fields, default)]
struct Update {
    #[schemars(length(min = 1))]
    roles: Option<Vec<RoleGrant>>,
    disabled: Option<bool>,
    /// For somebody who has forgotten theirs.
    #[schemars(with = "Option<String>")]
    password: Option<Secret<String>>,
}

/// An account as answers show it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "User")]
struct Shown {
    name: String,
    roles: Vec<RoleGrant>,
    must_change_password: bool,
    disabled_at: Option<u64>,
    created_at: u64,
    password_at: u64,
    /// The provider through which its owner logs in, and the subject by which it knows them, after the first login.
    issuer: Option<String>,
    subject: Option<String>,
    /// Of an account of the provider, those of its roles that were given by hand, which no login takes away.
    #[serde(skip_serializing_if = "Option::is_none")]
    roles_by_hand: Option<Vec<RoleGrant>>,
    /// One that was made, shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

impl From<Account> for Shown {
    fn from(account: Account) -> Self {
        let Account { name, grants: roles, must_change: must_change_password, disabled_at, .. } = account;
        let Account { created_at, password_at, issuer, subject, by_hand, .. } = account;
        let (roles_by_hand, password) = (issuer.is_some().then_some(by_hand), None);
        Self {
            name,
            roles,
            must_change_password,
            disabled_at,
            created_at,
            password_at,
            issuer,
            subject,
            roles_by_hand,
            password,
        }
    }
}

/// Whether an account may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    (1..=LONGEST).contains(&name.len()) && name.bytes().all(fit)
}

pub(super) const LIST: Doc = Doc::gives::<List<'static, Shown>>("The accounts.");

/// `GET /api/users`.
pub(super) async fn list(Shared(api): Site) -> Outcome {
    let accounts: Vec<Shown> = api.store().account_list().await?.into_iter().map(Shown::from).collect();
    Ok(super::list(&accounts))
}

pub(super) const SHOW: Doc = Doc::gives::<Shown>("An account.");

/// `GET /api/users/{name}`.
pub(super) async fn show(Shared(api): Site, Path(name): Path<String>) -> Outcome {
    Ok(json(StatusCode::OK, &Shown::from(found(&api, &name).await?)))
}

pub(super) const CREATE: Doc = Doc::makes::<Shown>("Makes an account.").needs::<New>().refuses(&[409]);

/// `POST /api/users`: the password is to be changed at the first login, whoever chose it.
pub(super) async fn create(Shared(api): Site, Extension(who): Who, body: Body) -> Outcome {
    let New { name, password, roles, provider, subject } = api.body(body).await?;
    if !is_name(&name) {
        let message = format!("the name of an account is 1 to {LONGEST} of A-Z a-z 0-9 . _ @ -");
        return Err(Failure::bad("invalid_body", message).at("/name"));
    }
    if provider || subject.is_some() {
        return create_for_provider(&api, &who, &name, (password.is_some(), subject.as_deref()), &roles).await;
    }
    granted(&api, &who, &roles).await?;
    let made = password.is_none().then(generate_password);
    let password = match (password, &made) {
        (None, Some(made)) => to_change(&api, made.clone()).await,
        (chosen, _) => new_password(&api, chosen.unwrap_or_default()).await?,
    };
    if !api.by(&who).account_create(&name, &password, &roles).await? {
        return Err(exists(&name));
    }
    tracing::info!(account = name, by = who.name, "account made");
    let password = made.map(|made| made.reveal().clone());
    Ok(json(StatusCode::CREATED, &Shown { password, ..found(&api, &name).await?.into() }))
}

async fn create_for_provider(
    api: &Api,
    who: &Caller,
    name: &str,
    (password, subject): (bool, Option<&str>),
    roles: &[RoleGrant],
) -> Outcome {
    let message = "no provider of OpenID Connect is configured here (oidc.issuer)";
    let none = || Failure::conflict("no_provider", message).at("/provider");
    let provider = api.provider.as_ref().ok_or_else(none)?;
    if password {
        let message = "an account of the provider has no password: leave out one of both";
        return Err(Failure::bad("invalid_body", message).at("/provider"));
    }
    if !provider.gives_roles() || !roles.is_empty() {
        granted(api, who, roles).await?;
    }
    let issuer = provider.issuer();
    let fits =
        |subject: &str| (1..=LONGEST_SUBJECT).contains(&subject.chars().count()) && !subject.contains(char::is_control);
    if !subject.is_none_or(fits) {
        let message = format!("a subject has 1 to {LONGEST_SUBJECT} characters, none of them a control character");
        return Err(Failure::bad("invalid_body", message).at("/subject"));
    }
    if !api.by(who).account_create_for(issuer, subject, name, roles).await? {
        let known = match subject {
            Some(subject) => api.store().account_of(issuer, subject).await?,
            None => None,
        };
        return Err(match known {
            Some(known) => {
                let message = format!("whoever the provider calls so has the account `{}` already", known.name);
                Failure::conflict("user_exists", message).at("/subject")
            }
            None => exists(name),
        });
    }
    tracing::info!(account = name, by = who.name, "account of the provider made");
    Ok(json(StatusCode::CREATED, &Shown::from(found(api, name).await?)))
}

fn exists(name: &str) -> Failure {
    Failure::conflict("user_exists", format!("there is an account `{name}` already"))
}

pub(super) const UPDATE: Doc =
    Doc::gives::<Shown>("Changes roles or password of an account, or whether it may log in.")
        .takes::<Update>()
        .refuses(&[409]);

/// `PATCH /api/users/{name}`: roles, a new password, or whether it may log in. All but new roles ends its sessions; new ones count
/// at once.
pub(super) async fn update(Shared(api): Site, Extension(who): Who, Path(name): Path<String>, body: Body) -> Outcome {
    let Update { roles, disabled, password } = api.body(body).await?;
    let account = found(&api, &name).await?;
    may_give(&api, &who, &account.grants).await?;
    if let Some(roles) = &roles {
        granted(&api, &who, roles).await?;
    }
    if roles.is_some() || disabled == Some(true) || password.is_some() {
        not_oneself(&who, &name)?;
    }
    if password.is_some() && account.issuer.is_some() {
        // It would be a second way in, to whatever the provider gives its owner later.
        let message =
            "an account of the provider has no password here; `milecastle user passwd` on the machine gives it one";
        return Err(Failure::conflict("provider_account", message).at("/password"));
    }
    let password = match password {
        Some(chosen) => Some(new_password(&api, chosen).await?),
        None => None,
    };
    let update = AccountUpdate { grants: roles, disabled, password };
    if !api.by(&who).account_update(&name, &update, None).await? {
        return Err(missing(&name));
    }
    tracing::info!(account = name, by = who.name, "account changed");
    Ok(json(StatusCode::OK, &Shown::from(found(&api, &name).await?)))
}

pub(super) const DELETE: Doc = Doc::done("Deletes an account.").refuses(&[409]);

/// `DELETE /api/users/{name}`: its sessions end.
pub(super) async fn delete(Shared(api): Site, Extension(who): Who, Path(name): Path<String>) -> Outcome {
    may_give(&api, &who, &found(&api, &name).await?.grants).await?;
    not_oneself(&who, &name)?;
    if !api.by(&who).account_delete(&name).await? {
        return Err(missing(&name));
    }
    tracing::info!(account = name, by = who.name, "account deleted");
    Ok(done())
}

/// So there is always one left who may do this to others.
fn not_oneself(who: &Principal, name: &str) -> Result<(), Failure> {
    if matches!(who.kind, PrincipalKind::Account(_)) && who.name == name {
        let message = "this is your own account: have another administrator do it, or change your password by \
                       PUT /api/session/password";
        return Err(Failure::conflict("own_account", message));
    }
    Ok(())
}

async fn new_password(api: &Api, chosen: Secret<String>) -> Result<NewPassword, Failure> {
    check_password(chosen.reveal(), api.callers.access.password_min_length)
        .map_err(|error| Failure::bad("unfit_password", error.to_string()).at("/password"))?;
    Ok(to_change(api, chosen).await)
}

/// A password that somebody else than its owner knows.
async fn to_change(api: &Api, password: Secret<String>) -> NewPassword {
    NewPassword { hash: api.callers.hashing.hash(password).await, must_change: true }
}

async fn found(api: &Api, name: &str) -> Result<Account, Failure> {
    api.store().account_get(name).await?.ok_or_else(|| missing(name))
}

fn missing(name: &str) -> Failure {
    Failure::missing("no_such_user", format!("there is no account `{name}`"))
}
