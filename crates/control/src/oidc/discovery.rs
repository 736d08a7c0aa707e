//! What the provider says of itself (OpenID Connect Discovery 1.0) and its keys, kept for a while.
//!
//! What must stay true:
//! - What a provider says of itself counts only if it is the one of the settings.
//! - A provider that is away is asked less and less often, and what it said last is used meanwhile.
//! - Tokens that name unknown keys make it asked no more often than the settings say.

use std::sync::Arc;
use std::time::Duration;

use milecastle_settings::Oidc;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::jwk::Keys;
use super::web::{Web, WebError};

/// Where it says so, below its own address.
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// What a provider says of itself.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    pub(super) authorization_endpoint: String,
    pub(super) token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    end_session_endpoint: Option<String>,
    /// How clients may prove themselves; unsaid, in the header.
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// Whether it names itself where it sends browsers back (RFC 9207).
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
}

/// A provider as it is known.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) metadata: Arc<Metadata>,
    pub(super) keys: Arc<Keys>,
    /// When it said so.
    at: Instant,
    /// When its keys were read.
    keys_at: Instant,
}

/// Why nothing is known of the provider.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub(super) struct Away {
    why: String,
    /// After how long it will be asked again.
    pub(super) retry: Duration,
}

/// Asks the provider.
pub(super) struct Discovery {
    issuer: String,
    age: Duration,
    keys_pace: Duration,
    retry: (Duration, Duration),
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<Known>,
    failed: Option<Failed>,
}

/// An answer that there was none of.
struct Failed {
    times: u32,
    until: Instant,
    why: String,
}

impl Metadata {
    /// Whether the client's secret goes into the form, not into a header.
    pub(super) fn takes_secret_in_form(&self) -> bool {
        let has = |method: &str| {
            self.token_endpoint_auth_methods_supported.as_ref().is_some_and(|all| all.iter().any(|one| one == method))
        };
        has("client_secret_post") && !has("client_secret_basic")
    }

    /// Whether it is what the provider of the settings may say.
    fn check(&self, issuer: &str) -> Result<(), String> {
        if self.issuer != issuer {
            return Err(format!("it calls itself `{}`: write oidc.issuer so, letter for letter", self.issuer));
        }
        let exposed = |address: &&String| !self.is_as_safe(address);
        match [&self.authorization_endpoint, &self.token_endpoint, &self.jwks_uri].into_iter().find(exposed) {
            Some(address) => Err(format!("it names an address without TLS: {address}")),
            None => Ok(()),
        }
    }

    /// Whether an address is with TLS where the provider is.
    fn is_as_safe(&self, address: &str) -> bool {
        !self.issuer.starts_with("https://") || address.starts_with("https://")
    }

    /// What tells more of somebody than the token does.
    pub(super) fn userinfo(&self) -> Option<&str> {
        self.userinfo_endpoint.as_deref().filter(|address| self.is_as_safe(address))
    }

    /// Where browsers are logged out (OpenID Connect RP-Initiated Logout 1.0).
    pub(super) fn end_session(&self) -> Option<&str> {
        self.end_session_endpoint.as_deref().filter(|address| self.is_as_safe(address))
    }
}

impl Discovery {
    pub(super) fn new(settings: &Oidc, issuer: &str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            age: settings.metadata_age.get(),
            keys_pace: settings.keys_pace.get(),
            retry: (settings.retry_min.get(), settings.retry_max.get()),
            state: Mutex::default(),
        }
    }

    /// The provider as it is known; asked, if that is too long ago. Whoever comes meanwhile waits for the same answer.
    pub(super) async fn current(&self, web: &Web) -> Result<Known, Away> {
        let mut state = self.state.lock().await;
        let fresh = state.known.as_ref().filter(|known| known.at.elapsed() < self.age);
        if let Some(known) = fresh {
            return Ok(known.clone());
        }
        let asked = self.asked(&mut state, self.read(web)).await;
        match (asked, &state.known) {
            (Err(_), Some(known)) => Ok(known.clone()),
            (asked, _) => asked,
        }
    }

    /// The same after a token named a key that is not among those of `seen`.
    pub(super) async fn rotated(&self, web: &Web, seen: &Known) -> Result<Known, Away> {
        let mut state = self.state.lock().await;
        let newer = state.known.as_ref().filter(|known| known.keys_at > seen.keys_at);
        if let Some(known) = newer {
            return Ok(known.clone());
        }
        if seen.keys_at.elapsed() < self.keys_pace {
            return Ok(seen.clone());
        }
        let read = async {
            let keys = self.keys(web, &seen.metadata).await?;
            Ok(Known { keys: Arc::new(keys), keys_at: Instant::now(), ..seen.clone() })
        };
        self.asked(&mut state, read).await
    }

    /// Asks, unless that failed a short while ago.
    async fn asked(&self, state: &mut State, read: impl Future<Output = Result<Known, String>>) -> Result<Known, Away> {
        let now = Instant::now();
        if let Some(Failed { until, why, .. }) = state.failed.as_ref().filter(|failed| failed.until > now) {
            return Err(Away { why: why.clone(), retry: *until - now });
        }
        match read.await {
            Ok(known) => {
                state.failed = None;
                state.known = Some(known.clone());
                Ok(known)
            }
            Err(why) => {
                let times = state.failed.as_ref().map_or(0, |failed| failed.times);
                let (min, max) = self.retry;
                let retry = min.saturating_mul(2_u32.saturating_pow(times)).min(max);
                tracing::warn!(issuer = self.issuer, why, ?retry, "the OpenID Connect provider cannot be asked");
                let until = Instant::now() + retry;
                state.failed = Some(Failed { times: times.saturating_add(1), until, why: why.clone() });
                Err(Away { why, retry })
            }
        }
    }

    async fn read(&self, web: &Web) -> Result<Known, String> {
        let address = format!("{}{WELL_KNOWN}", self.issuer.trim_end_matches('/'));
        let document = web.get(&address, None).await.map_err(|error| told(&address, &error))?;
        let metadata: Metadata =
            serde_json::from_value(document).map_err(|error| format!("{address} is no discovery document: {error}"))?;
        metadata.check(&self.issuer)?;
        let at = Instant::now();
        let keys = Arc::new(self.keys(web, &metadata).await?);
        Ok(Known { metadata: Arc::new(metadata), keys, at, keys_at: at })
    }

    async fn keys(&self, web: &Web, metadata: &Metadata) -> Result<Keys, String> {
        let set: Value = web.get(&metadata.jwks_uri, None).await.map_err(|error| told(&metadata.jwks_uri, &error))?;
        Ok(Keys::parse(&set))
    }
}

fn told(address: &str, error: &WebError) -> String {
    format!("{address}: {error}")
}
