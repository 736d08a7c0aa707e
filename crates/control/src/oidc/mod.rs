//! Logging in through a provider of OpenID Connect: the authorization code flow (Core 1.0, §3.1) with PKCE (RFC 7636).
//!
//! A login is begun and finished by any replicas: what has to be remembered in between ([`Attempt`]) goes along with the browser, sealed
//! (`ticket`). What the provider says of itself is in `discovery`, its keys in `jwk`, what a token has to be in `token`.
//!
//! What must stay true:
//! - Nobody is known by what the browser brings, but by what the provider itself says, for this login, over TLS that is verified.
//! - The address to which browsers are sent back is that of the settings, whatever a request says.
//! - No code, token, secret or verifier is in a log, an error or an answer.

mod discovery;
mod jwk;
mod ticket;
mod token;
mod web;

use std::fmt::Write as _;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderValue, StatusCode};
use milecastle_settings::{Oidc, OidcRole};
use milecastle_store::RoleGrant;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::keys;
use discovery::{Away, Discovery, Known};
pub(crate) use ticket::Tickets;
use token::{Claims, Expected, TokenError};
pub use web::TrustError;
use web::{Web, WebError};

/// Where the provider sends browsers back to, below the public address.
pub(crate) const CALLBACK: &str = "/api/session/oidc/callback";

/// The claim of which only a verified one counts, and the one that says so.
const EMAIL: &str = "email";
const EMAIL_VERIFIED: &str = "email_verified";

/// Longest word of a provider's that goes into the log, in bytes.
const LONGEST_WORD: usize = 64;

/// The provider of the settings.
pub(crate) struct Provider {
    settings: Oidc,
    issuer: String,
    public_url: String,
    web: Web,
    discovery: Discovery,
}

/// A login that was begun.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// Names it, with the browser.
    pub(crate) state: String,
    /// Names it, in the token.
    nonce: String,
    /// What whoever redeems the code has to know.
    verifier: String,
    /// Unix time in seconds.
    pub(crate) began: u64,
}

/// With what the provider sends a browser back.
pub(crate) struct Returned<'a> {
    pub(crate) code: &'a str,
    /// The provider, by its own word.
    pub(crate) issuer: Option<&'a str>,
}

/// Somebody whom the provider knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) subject: String,
    /// The account's name by `oidc.account_claim`, if there is such a claim.
    pub(crate) name: Option<String>,
    /// The values of `oidc.groups_claim`.
    groups: Vec<String>,
}

/// Why a login did not come to its end, in the operator's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OidcError {
    /// The provider cannot be asked.
    #[error("the provider cannot be asked: {why}")]
    Away {
        why: String,
        /// After how long that will be tried again.
        retry: Duration,
    },
    /// It does not redeem the code.
    #[error(
        "the provider does not redeem the code: {0}; are oidc.client_id and oidc.client_secret what it has, and oidc.public_url what is registered there?"
    )]
    Redeem(String),
    /// Somebody else sent the browser back.
    #[error("the browser was sent back by another provider")]
    Issuer,
    /// Its token does not count.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// What it says of somebody beside its token does not count.
    #[error("the provider's userinfo endpoint, which oidc.userinfo has asked: {0}")]
    Userinfo(String),
}

/// What is answered to a code.
#[derive(Deserialize)]
struct Redeemed {
    id_token: String,
    /// What opens the userinfo endpoint.
    access_token: Option<String>,
}

impl Provider {
    /// The provider of the settings, if they name one. Reads files.
    pub(crate) fn new(settings: &Oidc) -> Result<Option<Self>, TrustError> {
        let (Some(issuer), Some(public_url)) = (&settings.issuer, &settings.public_url) else { return Ok(None) };
        let (web, discovery) = (Web::new(settings)?, Discovery::new(settings, issuer));
        let (issuer, public_url) = (issuer.clone(), public_url.clone());
        Ok(Some(Self { settings: settings.clone(), issuer, public_url, web, discovery }))
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Where browsers find the dashboard.
    pub(crate) fn public_url(&self) -> &str {
        &self.public_url
    }

    /// How long a login may take.
    pub(crate) fn patience(&self) -> Duration {
        self.settings.login_timeout.get()
    }

    /// Where a browser is logged out there, and then sent home; `None` where the provider does not say.
    pub(crate) async fn leave(&self) -> Result<Option<String>, OidcError> {
        let Known { metadata, .. } = self.discovery.current(&self.web).await?;
        let home = format!("{}/", self.public_url);
        // No `id_token_hint`, since no token is kept: the client is named in its place (RP-Initiated Logout 1.0, §2), and some providers ask
        // their user first.
        let query = form(&[("client_id", &*self.settings.client_id), ("post_logout_redirect_uri", &*home)]);
        Ok(metadata.end_session().map(|address| with_query(address, &query)))
    }

    /// Whether the roles of its accounts are those that the settings map its groups to.
    pub(crate) fn gives_roles(&self) -> bool {
        !self.settings.roles.is_empty()
    }

    /// Whether accounts are made for people who have none.
    pub(crate) fn makes_accounts(&self) -> bool {
        self.settings.create_accounts
    }

    /// The roles that somebody has by the provider's word; `None` where the settings leave them to administrators.
    pub(crate) fn grants(&self, person: &Person) -> Option<Vec<RoleGrant>> {
        let roles = &self.settings.roles;
        let given = |one: &&OidcRole| person.groups.contains(&one.value);
        let grant = |one: &OidcRole| RoleGrant { role: one.role.clone(), groups: one.groups.clone() };
        self.gives_roles().then(|| roles.iter().filter(given).map(grant).collect())
    }

    /// Begins a login at `now` (Unix seconds): where to send the browser, and what it has to bring back.
    pub(crate) async fn begin(&self, now: u64) -> Result<(String, Attempt), OidcError> {
        let Known { metadata, .. } = self.discovery.current(&self.web).await?;
        let [state, nonce, verifier] = std::array::from_fn(|_| keys::random());
        let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
        let query = form(&[
            ("response_type", "code"),
            ("client_id", &*self.settings.client_id),
            ("redirect_uri", &*self.callback()),
            ("scope", &*self.settings.scopes.join(" ")),
            ("state", &*state),
            ("nonce", &*nonce),
            ("code_challenge", &*challenge),
            ("code_challenge_method", "S256"),
        ]);
        Ok((with_query(&metadata.authorization_endpoint, &query), Attempt { state, nonce, verifier, began: now }))
    }

    /// Finishes a login that this browser has begun, at `now` (Unix seconds).
    pub(crate) async fn finish(
        &self,
        attempt: &Attempt,
        returned: &Returned<'_>,
        now: u64,
    ) -> Result<Person, OidcError> {
        let known = self.discovery.current(&self.web).await?;
        let is_ours = match returned.issuer {
            Some(issuer) => issuer == self.issuer,
            None => !known.metadata.authorization_response_iss_parameter_supported,
        };
        if !is_ours {
            return Err(OidcError::Issuer);
        }
        let Redeemed { id_token: token, access_token } = self.redeem(&known, attempt, returned.code).await?;
        let expected = Expected {
            issuer: &self.issuer,
            client_id: &self.settings.client_id,
            nonce: &attempt.nonce,
            now,
            began: attempt.began,
            skew: self.settings.clock_skew.get().as_secs(),
        };
        let mut claims = match token::read(&token, &known.keys, &expected) {
            // The provider may have another key by now.
            Err(TokenError::UnknownKey | TokenError::Signature) => {
                let rotated = self.discovery.rotated(&self.web, &known).await?;
                token::read(&token, &rotated.keys, &expected)?
            }
            read => read?,
        };
        let wanted = [&self.settings.account_claim, &self.settings.groups_claim];
        if self.settings.userinfo && !wanted.into_iter().all(|claim| claims.has(claim)) {
            let told = self.userinfo(&known, access_token).await?;
            if !claims.complete(told) {
                return Err(OidcError::Userinfo("it speaks of somebody else than the ID token (`sub`)".to_owned()));
            }
        }
        Ok(self.person(&claims))
    }

    /// What the provider says of whoever has this token.
    async fn userinfo(&self, known: &Known, token: Option<String>) -> Result<Map<String, Value>, OidcError> {
        let refused = |why: &str| OidcError::Userinfo(why.to_owned());
        let address = known.metadata.userinfo();
        let address = address.ok_or_else(|| refused("the provider's discovery document names none with TLS"))?;
        let token = token.ok_or_else(|| refused("the provider gave no access token to ask it with"))?;
        let proof = HeaderValue::try_from(format!("Bearer {token}"));
        let mut proof = proof.map_err(|_| refused("the access token does not fit into a header"))?;
        proof.set_sensitive(true);
        match self.web.get(address, Some(proof)).await {
            Ok(Value::Object(told)) => Ok(told),
            Ok(_) | Err(WebError::Form) => Err(refused("its answer is no JSON object; signed answers are not read")),
            Err(WebError::Status(status)) if !status.is_server_error() => {
                Err(refused(&format!("it answered {status}")))
            }
            Err(error) => Err(self.away(&error)),
        }
    }

    /// It was asked, and gave no answer.
    fn away(&self, error: &WebError) -> OidcError {
        OidcError::Away { why: error.to_string(), retry: self.settings.retry_min.get() }
    }

    /// What there is for a code.
    async fn redeem(&self, known: &Known, attempt: &Attempt, code: &str) -> Result<Redeemed, OidcError> {
        let (id, secret) = (&*self.settings.client_id, self.settings.client_secret.as_ref());
        let callback = self.callback();
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &*callback),
            ("code_verifier", &*attempt.verifier),
        ];
        let mut proof = None;
        match secret.map(|secret| secret.reveal().as_str()) {
            Some(secret) if known.metadata.takes_secret_in_form() => {
                fields.extend([("client_id", id), ("client_secret", secret)]);
            }
            // Both are written as in a form first (RFC 6749, §2.3.1).
            Some(secret) => {
                let pair = STANDARD.encode(format!("{}:{}", escaped(id), escaped(secret)));
                let mut value = HeaderValue::try_from(format!("Basic {pair}")).expect("base64 is fit for a header");
                value.set_sensitive(true);
                proof = Some(value);
            }
            None => fields.push(("client_id", id)),
        }
        let answered = self.web.post(&known.metadata.token_endpoint, proof, form(&fields)).await;
        let (status, body) = answered.map_err(|error| match error {
            WebError::Status(status) if !status.is_server_error() => OidcError::Redeem(status.to_string()),
            error => self.away(&error),
        })?;
        match status {
            StatusCode::OK => {
                serde_json::from_value(body).map_err(|_| OidcError::Redeem("its answer has no `id_token`".to_owned()))
            }
            status if status.is_server_error() => Err(self.away(&WebError::Status(status))),
            _ => Err(OidcError::Redeem(word(body["error"].as_str().unwrap_or_default()))),
        }
    }

    fn person(&self, claims: &Claims) -> Person {
        let claim = &*self.settings.account_claim;
        let counts = claim != EMAIL || claims.holds(EMAIL_VERIFIED);
        Person {
            subject: claims.subject().to_owned(),
            name: claims.text(claim).filter(|_| counts).map(str::to_owned),
            groups: claims.texts(&self.settings.groups_claim).into_iter().map(str::to_owned).collect(),
        }
    }

    fn callback(&self) -> String {
        format!("{}{CALLBACK}", self.public_url)
    }
}

impl From<Away> for OidcError {
    fn from(away: Away) -> Self {
        Self::Away { why: away.to_string(), retry: away.retry }
    }
}

/// A word of a protocol as a log may hold it, whoever has sent it.
pub(crate) fn word(text: &str) -> String {
    let fit = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let is_word = (1..=LONGEST_WORD).contains(&text.len()) && text.bytes().all(fit);
    if is_word { text.to_owned() } else { "it does not say why".to_owned() }
}

/// An address with a query, beside one that it has already.
fn with_query(address: &str, query: &str) -> String {
    let joint = if address.contains('?') { '&' } else { '?' };
    format!("{address}{joint}{query}")
}

/// Fields as a form has them.
fn form(fields: &[(&str, &str)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect::<Vec<_>>().join("&")
}

/// A value as a form and a query have it: all but letters, digits and `-._~` by their codes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => write!(out, "%{byte:02X}").expect("a String takes all that is written to it"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_forms() {
        assert_eq!(escaped("a b&c=d/é~"), "a%20b%26c%3Dd%2F%C3%A9~");
        assert_eq!(form(&[("a", "1"), ("b", "x y")]), "a=1&b=x%20y");
    }

    #[test]
    fn words_of_others_are_words() {
        assert_eq!(word("access_denied"), "access_denied");
        for text in ["", "two words", "Line\nbreak", &"x".repeat(65)] {
            assert_eq!(word(text), "it does not say why");
        }
    }
}
