//! Logging in through the provider of the settings ([`crate::oidc`]).
//!
//! What must stay true:
//! - A login ends in the browser in which it began, once, and in time: what that has to bring is a cookie of its own, which no script
//!   reads, no other site's request but a navigation carries, and where there is TLS nobody else can have set.
//! - Whoever is let in has an account here; what the provider calls him says which.
//! - What the provider or the database does not answer is nobody's failed login.

use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{Extension, State as Shared};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use milecastle_store::{ActorKind, ProviderLogin, RoleGrant, SignedIn, StoreError};
use schemars::JsonSchema;
use serde::Serialize;

use super::session::{Cookie, too_many, with_cookie, with_session};
use super::{Api, Failure, Outcome, Site, json, query_of};
use crate::admin::access;
use crate::admin::query::Query;
use crate::callers;
use crate::listen::Peer;
use crate::oidc::{Attempt, CALLBACK, OidcError, Person, Provider, Returned, word};
use crate::openapi::{Doc, Param};

/// Name of the cookie that a browser carries from the beginning of a login to its end. Over TLS with the prefix with which browsers take
/// it from this host alone, by TLS and for all of it (RFC 6265bis, §4.1.3.2): no neighbour and nobody on the way plants one.
const TICKET: &str = "milecastle_login";
const HOST_TICKET: &str = "__Host-milecastle_login";

/// Of a navigation that another site has begun it is sent along: the provider's sending back is one.
const LAX: &str = "Lax";

/// How one may log in.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LoginMethods")]
struct Methods {
    /// With a password: `POST /api/session`.
    password: bool,
    /// Through a provider of OpenID Connect: the browser goes to `/api/session/oidc`.
    oidc: bool,
}

pub(super) const METHODS: Doc = Doc::gives::<Methods>("How one may log in.");

/// `GET /api/session/methods`: what a page for logging in offers.
pub(super) async fn methods(Shared(api): Site) -> Outcome {
    let methods = Methods { password: api.callers.access.password_login, oidc: api.provider.is_some() };
    Ok(json(StatusCode::OK, &methods))
}

pub(super) const BEGIN: Doc =
    Doc::leads("Begins a login through the provider of OpenID Connect, to which the browser is sent.").refuses(&[404]);

/// `GET /api/session/oidc`: for browsers, which it sends to the provider.
pub(super) async fn begin(Shared(api): Site) -> Outcome {
    let provider = configured(&api)?;
    let (location, attempt) = provider.begin(api.store().now()).await.map_err(|error| failed(&error))?;
    let ticket = api.tickets.seal(api.store(), &attempt).await?;
    Ok(with_ticket(led(&location)?, provider, &ticket, provider.patience().as_secs()))
}

pub(super) const LEAVE: Doc = Doc::leads(
    "Leads to where the provider of OpenID Connect logs its user out, after the session here has ended; home, where it does not say where.",
)
.refuses(&[404]);

/// `GET /api/session/oidc/logout`: for browsers, once `DELETE /api/session` has been answered.
pub(super) async fn leave(Shared(api): Site) -> Outcome {
    let provider = configured(&api)?;
    let location = provider.leave().await.map_err(|error| failed(&error))?;
    led(&location.unwrap_or_else(|| home(provider)))
}

pub(super) const FINISH: Doc =
    Doc::leads("Ends a login through the provider; the answer sets the cookie of the session.")
        .query(&[
            Param::text("code", "What the provider redeems."),
            Param::text("state", "Names the login."),
            Param::text("iss", "The provider."),
            Param::text("error", "Why it let nobody log in."),
        ])
        .refuses(&[400, 401, 404, 429]);

/// `GET /api/session/oidc/callback`: to where the provider sends the browser back.
pub(super) async fn finish(
    Shared(api): Site,
    Extension(Peer(peer)): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
) -> Outcome {
    let provider = configured(&api)?;
    let asked = Asked { api: &api, provider, peer, headers: &headers };
    let response = match asked.finished(&query_of(&uri)).await {
        Ok(response) => response,
        Err(failure) => {
            if !failure.is_ours() {
                // Who it was is not known, or he has no account.
                let actor = api.callers.actor(ActorKind::Anonymous, "unknown", peer, &headers);
                api.callers.refusals.of_login(actor);
            }
            failure.into_response()
        }
    };
    // Whatever became of it, it is over.
    Ok(with_ticket(response, provider, "", 0))
}

/// Sets the cookie of a login for so many seconds.
fn with_ticket(response: Response, provider: &Provider, ticket: &str, seconds: u64) -> Response {
    let encrypted = is_encrypted(provider);
    let path = if encrypted { "/" } else { CALLBACK };
    let pair = format!("{}={ticket}; Max-Age={seconds}", ticket_of(provider));
    with_cookie(response, &Cookie { pair: &pair, path, same_site: LAX }, encrypted)
}

fn ticket_of(provider: &Provider) -> &'static str {
    if is_encrypted(provider) { HOST_TICKET } else { TICKET }
}

/// A browser that was sent back.
struct Asked<'a> {
    api: &'a Api,
    provider: &'a Provider,
    peer: IpAddr,
    headers: &'a HeaderMap,
}

impl Asked<'_> {
    async fn finished(&self, query: &Query) -> Result<Response, Failure> {
        let (api, provider) = (self.api, self.provider);
        let attempt = self.attempt(query).await?.ok_or_else(another)?;
        if let Some(error) = query.get("error") {
            tracing::info!(why = word(error), "the OpenID Connect provider let nobody log in");
            let message = format!("the provider let nobody log in ({}): begin again", word(error));
            return Err(Failure::new(StatusCode::UNAUTHORIZED, "wrong_login", message));
        }
        let returned = Returned { code: query.get("code").ok_or_else(another)?, issuer: query.get("iss") };
        let address = api.callers.address(self.peer, self.headers).to_string();
        let subjects = [api.callers.subject(&address)];
        if let Some(wait) = api.store().login_attempt(&subjects).await? {
            return Err(too_many(wait));
        }
        let known = provider.finish(&attempt, &returned, api.store().now()).await;
        if matches!(known, Ok(_) | Err(OidcError::Away { .. })) {
            api.store().login_succeeded(&subjects).await?;
        }
        let person = known.map_err(|error| failed(&error))?;
        self.let_in(&attempt, &person, &address).await
    }

    /// The login that this browser has begun, if it is the one that it is sent back with, and not begun too long ago.
    async fn attempt(&self, query: &Query) -> Result<Option<Attempt>, StoreError> {
        let (api, state) = (self.api, query.get("state").unwrap_or_default());
        let Some(ticket) = access::cookie(self.headers, ticket_of(self.provider)) else { return Ok(None) };
        let attempt = api.tickets.open(api.store(), &ticket).await?;
        let over = |attempt: &Attempt| attempt.began.saturating_add(self.provider.patience().as_secs());
        Ok(attempt.filter(|attempt| {
            let is_same = verify_slices_are_equal(attempt.state.as_bytes(), state.as_bytes()).is_ok();
            is_same && api.store().now() < over(attempt)
        }))
    }

    /// Begins the session of somebody whom the provider knows.
    async fn let_in(&self, attempt: &Attempt, person: &Person, address: &str) -> Result<Response, Failure> {
        let (api, provider) = (self.api, self.provider);
        let (issuer, subject) = (provider.issuer(), &*person.subject);
        let stranger = |why: &str| {
            tracing::warn!(issuer, subject, why, "somebody whom the OpenID Connect provider knows is not let in");
            let message =
                "the provider knows you, and this dashboard does not: an administrator finds the reason in its log";
            Failure::new(StatusCode::FORBIDDEN, "no_account", message)
        };
        let name = match api.store().account_of(issuer, subject).await? {
            Some(account) => account.name,
            None => {
                let named = person.name.clone().filter(|name| super::users::is_name(name));
                named.ok_or_else(|| stranger("oidc.account_claim gives no name that an account may have"))?
            }
        };
        let grants = match provider.grants(person) {
            Some(grants) => Some(self.existing(grants).await?),
            None => None,
        };
        let text = callers::mint_session();
        let login = ProviderLogin {
            hash: callers::hash_of(&attempt.state),
            remembered: provider.patience(),
            issuer,
            subject,
            grants: grants.as_deref(),
            make: provider.makes_accounts(),
            session: callers::hash_of(&text),
            address,
            limits: api.callers.session_limits(),
        };
        let actor = api.callers.actor(ActorKind::Account, &name, self.peer, self.headers);
        let signed_in = match api.store().by(&actor).session_create_by(&name, &login).await {
            Err(StoreError::UnknownRole(role)) => {
                return Err(stranger(&format!("oidc.roles names `{role}`, and there is no such role")));
            }
            signed_in => signed_in?,
        };
        match signed_in {
            SignedIn::Done => {
                tracing::info!(account = name, address, issuer, subject, "logged in");
                Ok(with_session(led(&home(provider))?, &text, is_encrypted(provider)))
            }
            SignedIn::Repeated => Err(another()),
            SignedIn::Unknown => Err(stranger(&format!("there is no account `{name}` (oidc.create_accounts)"))),
            SignedIn::Taken => Err(stranger(&format!("the account `{name}` is another one's, or has a password"))),
            SignedIn::Roleless => Err(stranger(
                "oidc.roles gives no role for any value of oidc.groups_claim, and the account has none by hand",
            )),
            SignedIn::Disabled => Err(stranger(&format!("the account `{name}` is disabled"))),
        }
    }

    /// Grants in groups that there are: one that is made later is another one.
    async fn existing(&self, grants: Vec<RoleGrant>) -> Result<Vec<RoleGrant>, Failure> {
        let mut existing = Vec::new();
        for grant in grants {
            let mut gone = Vec::new();
            for (_, group) in grant.named() {
                match self.api.store().head(group).await {
                    Ok(_) => {}
                    Err(StoreError::UnknownGroup(group)) => gone.push(group),
                    Err(error) => return Err(error.into()),
                }
            }
            if !gone.is_empty() {
                tracing::warn!(groups = gone.join(", "), "oidc.roles names gateway groups that there are not");
            }
            let RoleGrant { role, groups } = grant;
            let groups: Vec<String> = groups.into_iter().filter(|group| !gone.contains(group)).collect();
            if !groups.is_empty() {
                existing.push(RoleGrant { role, groups });
            }
        }
        Ok(existing)
    }
}

fn configured(api: &Api) -> Result<&Provider, Failure> {
    api.provider.as_ref().ok_or_else(|| {
        Failure::missing("no_provider", "no provider of OpenID Connect is configured here (oidc.issuer)")
    })
}

/// Where the dashboard begins.
fn home(provider: &Provider) -> String {
    format!("{}/", provider.public_url())
}

/// Whether browsers speak TLS with the dashboard, or with what stands before it.
fn is_encrypted(provider: &Provider) -> bool {
    provider.public_url().starts_with("https://")
}

/// Sends the browser elsewhere.
fn led(location: &str) -> Result<Response, Failure> {
    let location = HeaderValue::try_from(location).map_err(|_| {
        let message = "the provider names an address for logins that is none";
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable", message)
    })?;
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response())
}

/// What the browser brings is of no login that may end here and now.
fn another() -> Failure {
    let message = "this login began in another browser, has ended already, or took longer than oidc.login_timeout: begin again at \
                   /api/session/oidc";
    Failure::bad("wrong_state", message)
}

/// What is answered where the provider vouches for nobody; why, the log says.
fn failed(error: &OidcError) -> Failure {
    tracing::warn!(%error, "a login through the OpenID Connect provider failed");
    match error {
        OidcError::Away { retry, .. } => {
            let message = "the provider of OpenID Connect gives no answer: try again";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable", message).after(retry.as_secs().max(1))
        }
        OidcError::Redeem(_) | OidcError::Issuer | OidcError::Token(_) | OidcError::Userinfo(_) => {
            let message =
                "what the provider says of this login does not count: begin again; the log of the dashboard says why";
            Failure::new(StatusCode::UNAUTHORIZED, "wrong_login", message)
        }
    }
}
