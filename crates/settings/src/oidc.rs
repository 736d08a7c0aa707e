//! Logging in through a provider of OpenID Connect (docs/access.md).

use std::net::IpAddr;
use std::path::PathBuf;

use milecastle_telemetry::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::secret;
use crate::load::Checks;
use crate::{SecretError, Size, Time};

/// What is said of an address that is not safe.
const ADDRESS: &str =
    "expected an address that begins with `https://`, without `?` and `#`; `http://` only on a loopback address";

/// Logging in to the dashboard through a provider of OpenID Connect; off without `oidc.issuer`. Any replica may finish what another has
/// begun, so all should have the same settings here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Oidc {
    /// The provider, letter for letter as its discovery document and its tokens name it: `https://id.example.com/realms/main`. Plain
    /// HTTP only on a loopback address.
    pub issuer: Option<String>,
    /// Where browsers find the dashboard, without a path: `https://gateways.example.com`. The provider sends them back to this address
    /// followed by `/api/session/oidc/callback`, which has to be registered there.
    pub public_url: Option<String>,
    /// What the provider calls the dashboard.
    pub client_id: String,
    /// What the dashboard proves itself by; without one it is a public client. May be what `milecastle sealing-key seal` made of it,
    /// `sealed:…`. Better given in the environment or in a file.
    #[serde(skip_serializing)]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub client_secret: Option<Secret<String>>,
    /// A file that holds it.
    pub client_secret_file: Option<PathBuf>,
    /// Authorities in PEM that the provider's certificate may be of; without it, those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// What the provider is asked for; `openid` must be among it.
    pub scopes: Vec<String>,
    /// The claim that names the account of whoever logs in for the first time. Of `email` only one that the provider has verified counts.
    #[schemars(length(min = 1))]
    pub account_claim: String,
    /// The claim whose values `oidc.roles` maps: a text, or a list of texts.
    #[schemars(length(min = 1))]
    pub groups_claim: String,
    /// Whether the provider's userinfo endpoint is asked for these two claims where the ID token lacks one of them.
    pub userinfo: bool,
    /// Which roles the values of that claim give. If there is any, accounts of the provider have at each login the roles that come of it,
    /// beside those that an administrator gave them, and nobody logs in without one; if there is none, they have the administrator's.
    pub roles: Vec<OidcRole>,
    /// Whether accounts are made for people who have none; takes `oidc.roles`.
    pub create_accounts: bool,
    /// How long somebody may take to log in with the provider.
    pub login_timeout: Time,
    /// How long the provider may take for one answer.
    pub request_timeout: Time,
    /// Longest answer of the provider that is read.
    pub max_answer: Size,
    /// How old the provider's discovery document and keys may be before they are read again.
    pub metadata_age: Time,
    /// Shortest time between two looks at its keys because a token names one that is not known.
    pub keys_pace: Time,
    /// Pause after the provider gave no answer for the first time; doubled after each further time.
    pub retry_min: Time,
    /// Longest such pause.
    pub retry_max: Time,
    /// By how much the clocks of the provider and of the database may differ.
    pub clock_skew: Time,
}

/// See [`Oidc::roles`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OidcRole {
    /// The value of the claim that gives the role.
    #[schemars(length(min = 1))]
    pub value: String,
    /// The role, built in or made.
    #[schemars(length(min = 1))]
    pub role: String,
    /// Ids of the gateway groups in which it is given; `*` is all of them.
    #[schemars(length(min = 1))]
    pub groups: Vec<String>,
}

impl Oidc {
    /// The client's secret from the first place that has one: `client_secret`, `client_secret_file`, the systemd credential
    /// `milecastle-oidc-client-secret`; sealed as it was given.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn secret(&self) -> Result<Option<Secret<String>>, SecretError> {
        let (value, file) = (self.client_secret.as_ref(), self.client_secret_file.as_deref());
        secret(value, file, "oidc.client_secret_file", "milecastle-oidc-client-secret")
    }

    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        let mut checks = checks.at("oidc");
        checks.above_zero(&[
            ("login_timeout", self.login_timeout),
            ("request_timeout", self.request_timeout),
            ("metadata_age", self.metadata_age),
        ]);
        if self.retry_min.is_zero() || self.retry_min > self.retry_max {
            checks.fault("retry_min", "expected more than 0 and no more than `oidc.retry_max`");
        }
        let Some(issuer) = &self.issuer else { return };
        if !is_safe(issuer) {
            checks.fault("issuer", ADDRESS);
        }
        match &self.public_url {
            None => checks.fault("public_url", "required with `oidc.issuer`: where browsers find the dashboard"),
            Some(url) if !is_safe(url) => checks.fault("public_url", ADDRESS),
            Some(url) if url.matches('/').count() > 2 => {
                checks.fault("public_url", "expected no path, and no `/` at the end");
            }
            Some(_) => {}
        }
        if self.client_id.is_empty() {
            checks.fault("client_id", "required with `oidc.issuer`: what the provider calls the dashboard");
        }
        if !self.scopes.iter().any(|scope| scope == "openid") {
            checks.fault("scopes", "expected `openid` among them");
        }
        if self.create_accounts && self.roles.is_empty() {
            checks.fault("create_accounts", "takes `oidc.roles`: an account without a role may do nothing");
        }
        match &self.client_secret {
            Some(_) if self.client_secret_file.is_some() => {
                checks.fault("client_secret_file", "give either this or `oidc.client_secret`");
            }
            None if checks.known().secret_files => {
                if let Err(error) = self.secret() {
                    checks.fault("client_secret_file", &error.reason());
                }
            }
            _ => {}
        }
    }
}

/// Whether what is sent to this address is read by nobody else on the way.
fn is_safe(address: &str) -> bool {
    let rest = |scheme| address.strip_prefix(scheme).filter(|rest| !rest.contains(['?', '#', ' ', '@']));
    let host = |rest: &str| {
        let authority = rest.split('/').next().unwrap_or_default();
        let host = match authority.rsplit_once(':') {
            Some((host, _)) if !authority.ends_with(']') => host,
            _ => authority,
        };
        host.trim_matches(['[', ']']).to_owned()
    };
    if let Some(rest) = rest("https://") {
        return !host(rest).is_empty();
    }
    let is_loopback = |host: &str| host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    rest("http://").is_some_and(|rest| is_loopback(&host(rest)))
}

impl Default for Oidc {
    fn default() -> Self {
        Self {
            issuer: None,
            public_url: None,
            client_id: String::new(),
            client_secret: None,
            client_secret_file: None,
            ca_file: None,
            scopes: ["openid", "profile", "email"].map(str::to_owned).to_vec(),
            account_claim: "preferred_username".to_owned(),
            groups_claim: "groups".to_owned(),
            userinfo: false,
            roles: Vec::new(),
            create_accounts: false,
            login_timeout: Time::secs(600),
            request_timeout: Time::secs(10),
            max_answer: Size::kib(1024),
            metadata_age: Time::secs(3600),
            keys_pace: Time::secs(10),
            retry_min: Time::secs(1),
            retry_max: Time::secs(60),
            clock_skew: Time::secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_nobody_else_reads() {
        for (address, safe) in [
            ("https://id.example.com", true),
            ("https://id.example.com:8443/realms/main", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080/a", true),
            ("http://localhost", true),
            ("http://id.example.com", false),
            ("http://127.0.0.1.example.com", false),
            ("http://localhost@id.example.com", false),
            ("https://id.example.com?a", false),
            ("https://", false),
            ("ftp://127.0.0.1", false),
        ] {
            assert_eq!(is_safe(address), safe, "{address}");
        }
    }
}
