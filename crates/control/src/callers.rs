//! Who calls: keys of the Admin API, tokens of machines, and sessions of people.
//!
//! What must stay true:
//! - Keys are known in memory, so that the database need not answer, unless to say what a role that was made allows. Tokens and
//!   sessions are asked of the database each time, so that one which is over opens nothing from then on, on any replica.
//! - What a browser sends by itself is no proof that its user wants it: a session changes something only for whoever also sends what
//!   no other site can read ([`Login::csrf`]).

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use http::{HeaderMap, Method, header};
use milecastle_settings::Access;
use milecastle_store::{
    Acting, Actor, ActorKind, Backoff, Once, RoleGrant, Session, SessionLimits, Store, StoreError, Subject,
};

use crate::admin::access;
use crate::admin::query::Query;
use crate::keys::{self, KeyError, Keyring};
use crate::listen::Encrypted;
use crate::passwords::Hashing;
use crate::refusals::Refusals;
use crate::rights::{Login, Need, Place, Principal, PrincipalKind, Refused, Rights};

/// With what a token of the API begins, so that it is told from a key, and found where it has no place to be.
const TOKEN: &str = "mcat_";

/// Name of the cookie of a session; over TLS with the prefix with which browsers take it from this very host over TLS alone (RFC 6265bis,
/// §4.1.3.2). There the other one counts for nothing: a neighbour may have planted it.
pub(crate) const SESSION: &str = "milecastle_session";
pub(crate) const HOST_SESSION: &str = "__Host-milecastle_session";

/// The header that proves that a request with the cookie was meant.
const CSRF: &str = "x-csrf-token";

/// What is said of a request that does not bring it.
pub(crate) const FORGED: &str = "a request that changes something in a session needs the header X-CSRF-Token, with `csrf_token` of GET /api/session";

/// Finds out who calls.
pub(crate) struct Callers {
    pub(crate) store: Store,
    pub(crate) keyring: Keyring,
    pub(crate) access: Access,
    pub(crate) hashing: Hashing,
    pub(crate) refusals: Arc<Refusals>,
}

/// Header by which clients name their requests.
const REQUEST_ID: &str = "x-request-id";

/// Longest such name that is kept, in bytes.
const LONGEST_REQUEST_ID: usize = 128;

/// Somebody who calls, from somewhere.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    /// As the audit log names the caller.
    pub(crate) actor: Actor,
    /// The write that is asked for, if it is to be done once.
    pub(crate) once: Option<Arc<Once>>,
    refusals: Arc<Refusals>,
}

impl Caller {
    /// The store in the caller's hands.
    pub(crate) fn acting<'a>(&'a self, store: &'a Store) -> Acting<'a> {
        store.by(&self.actor).once(self.once.as_deref())
    }

    /// The same, whose write is done once.
    pub(crate) fn doing(self, once: Arc<Once>) -> Self {
        Self { once: Some(once), ..self }
    }

    /// Lets a call pass, or says what is missing, of which the audit log takes note.
    pub(crate) fn authorise(&self, need: Need, place: Place<'_>) -> Result<(), Refused> {
        self.principal.authorise(need, place).inspect_err(|_| self.refused(need, place))
    }

    /// Has the audit log take note of a call that did not pass.
    pub(crate) fn refused(&self, need: Need, place: Place<'_>) {
        self.refusals.of_right(&self.actor, need, place);
    }
}

impl Deref for Caller {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.principal
    }
}

/// Why nobody is known to call.
#[derive(Debug)]
pub(crate) enum Stranger {
    /// There is neither key nor token, nor the cookie of a session.
    Nameless,
    /// The key, token or session is none, or none any more.
    Unknown,
    /// The key of this name may only GET.
    ReadsOnly(String),
    /// The key has a role that is not there; what to do.
    NoRole(String),
    /// The session's request lacks the proof that it was meant.
    Forged,
    /// The database does not say.
    Unavailable(StoreError),
}

impl From<KeyError> for Stranger {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Store(error) => Self::Unavailable(error),
            no_role @ KeyError::NoRole { .. } => Self::NoRole(no_role.to_string()),
        }
    }
}

impl Callers {
    /// Whose request it is, by the first key or token that it carries; by the session of its cookie only where there is neither.
    pub(crate) async fn who(&self, peer: IpAddr, query: &Query, head: &Parts) -> Result<Principal, Stranger> {
        let Parts { method, headers, extensions, .. } = head;
        let encrypted = extensions.get().copied().unwrap_or(Encrypted(false));
        let found = match shown(query, headers) {
            Some(Shown::Token(token)) => {
                self.token(&token, self.address(peer, headers)).await.map_err(Stranger::Unavailable)?
            }
            Some(Shown::Key(key)) => self.keyring.find(&key).await?,
            None => {
                let Some(text) = session_of(encrypted, headers) else { return Err(Stranger::Nameless) };
                let found = self.session(&text).await.map_err(Stranger::Unavailable)?;
                if let Some(principal) = found.as_ref().filter(|principal| !is_meant(principal, method, headers)) {
                    self.refusals.of_request(self.actor(ActorKind::Account, &principal.name, peer, headers));
                    return Err(Stranger::Forged);
                }
                found
            }
        };
        match found {
            None => Err(Stranger::Unknown),
            Some(principal) if !principal.may_use(method) => {
                self.refusals.of_request(self.actor(ActorKind::AdminKey, &principal.name, peer, headers));
                Err(Stranger::ReadsOnly(principal.name))
            }
            Some(principal) => Ok(principal),
        }
    }

    /// What became of whoever was let in with these, for an answer that lasts: `None` if they are not let in any more. Looking is no use
    /// of a session, which ends when nobody does anything.
    pub(crate) async fn still(
        &self,
        query: &Query,
        encrypted: Encrypted,
        headers: &HeaderMap,
    ) -> Result<Option<Principal>, StoreError> {
        match shown(query, headers) {
            Some(Shown::Token(token)) => {
                let found = self.store.api_token_find(&hash_of(&token)).await?;
                match found.filter(|token| token.is_good(self.store.now())) {
                    Some(token) => Ok(Some(Principal::of_token(&token, self.rights(&token.grants).await?))),
                    None => Ok(None),
                }
            }
            Some(Shown::Key(key)) => match self.keyring.find(&key).await {
                Ok(found) => Ok(found),
                Err(KeyError::NoRole { .. }) => Ok(None),
                Err(KeyError::Store(error)) => Err(error),
            },
            None => match session_of(encrypted, headers) {
                Some(text) => {
                    let found = self.store.session_look(&hash_of(&text), self.session_limits()).await?;
                    self.of_session(found, &text).await
                }
                // Let in without, so nothing is asked for.
                None => Ok(Some(Principal::anonymous())),
            },
        }
    }

    /// Somebody who calls by this request.
    pub(crate) fn caller(&self, principal: Principal, peer: IpAddr, headers: &HeaderMap) -> Caller {
        let kind = match &principal.kind {
            PrincipalKind::Anonymous => ActorKind::Anonymous,
            PrincipalKind::AdminKey(_) => ActorKind::AdminKey,
            PrincipalKind::Token(_) => ActorKind::ApiToken,
            PrincipalKind::Account(_) => ActorKind::Account,
        };
        let mut actor = self.actor(kind, &principal.name, peer, headers);
        if let PrincipalKind::Token(id) = &principal.kind {
            actor.id.clone_from(id);
        }
        Caller { principal, actor, once: None, refusals: self.refusals.clone() }
    }

    /// The same, of whom not more is known.
    pub(crate) fn actor(&self, kind: ActorKind, name: &str, peer: IpAddr, headers: &HeaderMap) -> Actor {
        let address = Some(self.address(peer, headers).to_string());
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        let request = given.filter(|id| (1..=LONGEST_REQUEST_ID).contains(&id.len())).map(str::to_owned);
        Actor { address, request, ..Actor::new(kind, name) }
    }

    async fn token(&self, text: &str, address: IpAddr) -> Result<Option<Principal>, StoreError> {
        let found = self.store.api_token_find(&hash_of(text)).await?;
        let Some(token) = found.filter(|token| token.is_good(self.store.now())) else { return Ok(None) };
        self.store.api_token_used(&token, &address.to_string()).await?;
        Ok(Some(Principal::of_token(&token, self.rights(&token.grants).await?)))
    }

    /// Whose session it is, if it lasts.
    pub(crate) async fn session(&self, text: &str) -> Result<Option<Principal>, StoreError> {
        let found = self.store.session_find(&hash_of(text), self.session_limits()).await?;
        self.of_session(found, text).await
    }

    /// Whoever is logged in with a session that this cookie names.
    async fn of_session(&self, found: Option<Session>, text: &str) -> Result<Option<Principal>, StoreError> {
        let Some(Session { hash, account, ends_at }) = found else { return Ok(None) };
        let login = Login { hash, csrf: csrf_of(text), ends_at, must_change: account.must_change };
        let rights = self.rights(&account.grants).await?;
        Ok(Some(Principal::of_account(&account, login, rights)))
    }

    /// What grants allow by the roles as they are now: a role that changes does so for all who have it, on any replica.
    pub(crate) async fn rights(&self, grants: &[RoleGrant]) -> Result<Rights, StoreError> {
        Ok(Rights::of(grants, &self.store.roles_of(grants).await?))
    }

    /// The address of whoever asks, behind proxies that are trusted.
    pub(crate) fn address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let trusted = &self.access.trusted_proxies;
        let is_trusted = |address: IpAddr| !trusted.is_empty() && access::admits(trusted, address);
        if !is_trusted(peer) {
            return peer.to_canonical();
        }
        let lines = headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok());
        let hops: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
        // From the right, where the proxies write: what is left of the first stranger is the stranger's own word.
        let known = hops.iter().rev().map_while(|hop| hop.trim().parse().ok());
        let client = known.into_iter().find(|hop| !is_trusted(*hop));
        client.unwrap_or(peer).to_canonical()
    }

    pub(crate) fn session_limits(&self) -> SessionLimits {
        SessionLimits { idle: self.access.session_idle.get(), max: self.access.session_max.get() }
    }

    /// Whose failures count when somebody logs in with a password.
    pub(crate) fn subjects(&self, account: &str, address: &str) -> [(Subject, Backoff); 2] {
        let of_account = (Subject::Account(account.to_owned()), self.backoff(self.access.login_failures));
        [of_account, self.subject(address)]
    }

    /// Whose failures count when somebody logs in from an address, by whatever account.
    pub(crate) fn subject(&self, address: &str) -> (Subject, Backoff) {
        (Subject::Address(address.to_owned()), self.backoff(self.access.login_failures_of_address))
    }

    fn backoff(&self, free: u32) -> Backoff {
        let Access { login_wait_min, login_wait_max, login_memory, .. } = &self.access;
        let (first, most, memory) = (login_wait_min.get(), login_wait_max.get(), login_memory.get());
        Backoff { free, first, most, memory }
    }
}

/// What a request shows to be let in, but for the cookie of a session.
enum Shown {
    Key(String),
    Token(String),
}

fn shown(query: &Query, headers: &HeaderMap) -> Option<Shown> {
    let text = access::key_of(query, headers).or_else(|| bearer(headers))?;
    Some(if text.starts_with(TOKEN) { Shown::Token(text) } else { Shown::Key(text) })
}

/// What the cookie of a session holds. The one of this host alone counts wherever it comes: a proxy may not say that it speaks TLS.
fn session_of(encrypted: Encrypted, headers: &HeaderMap) -> Option<String> {
    let other = || access::cookie(headers, SESSION).filter(|_| !encrypted.told(headers));
    access::cookie(headers, HOST_SESSION).or_else(other)
}

/// Whether a request with a session was meant: it only reads, or proves it.
fn is_meant(principal: &Principal, method: &Method, headers: &HeaderMap) -> bool {
    let PrincipalKind::Account(login) = &principal.kind else { return true };
    let proof = headers.get(CSRF).map(|value| value.as_bytes()).unwrap_or_default();
    [Method::GET, Method::HEAD].contains(method) || verify_slices_are_equal(login.csrf.as_bytes(), proof).is_ok()
}

/// A token of the API that is new, and its hash.
pub(crate) fn mint_token() -> (String, [u8; 32]) {
    let token = format!("{TOKEN}{}", keys::random());
    let hash = hash_of(&token);
    (token, hash)
}

/// What the cookie of a new session holds.
pub(crate) fn mint_session() -> String {
    keys::random()
}

/// [`Login::csrf`]: whoever has it does not have the cookie.
fn csrf_of(session: &str) -> String {
    URL_SAFE_NO_PAD.encode(hash_of(&format!("csrf {session}")))
}

/// Of what is long and random a plain hash is enough.
pub(crate) fn hash_of(text: &str) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn bearers() {
        let check = |value: &'static str, expected: Option<&str>| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))]);
            assert_eq!(bearer(&headers).as_deref(), expected, "{value}");
        };
        check("Bearer mcat_x", Some("mcat_x"));
        check("bearer  mcat_x ", Some("mcat_x"));
        check("Basic mcat_x", None);
        check("Bearer ", None);
        check("Bearer", None);
    }

    #[test]
    fn tokens_are_told_from_keys_and_from_each_other() {
        let ((one, hash), (other, _)) = (mint_token(), mint_token());
        assert!(one.starts_with(TOKEN) && one != other && hash == hash_of(&one));
    }
}
