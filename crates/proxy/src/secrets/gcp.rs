//! The manager `gcp`: Google Secret Manager, `GET <entries_uri>/projects/<project_id>/secrets/<name>/versions/latest:access`.
//!
//! A service account proves itself with a signed JWT (RFC 7523) and is given a token, which is used until shortly before it ends.

use super::fields::Fields;
use super::http::{Answer, Client};
use super::manager::part;
use super::trouble::{Found, Trouble};
use crate::discovery::encoded;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use milecastle_export::{Target, without_login};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;

const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const ENTRIES_URI: &str = "https://secretmanager.googleapis.com/v1";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// How long a JWT says that it holds: the most that Google takes.
const JWT_LIFE: Duration = Duration::from_secs(3600);
/// A token is not used for so long before its end.
const EARLY: Duration = Duration::from_secs(60);
/// No token is used for longer, whatever its server says.
const LONGEST: Duration = Duration::from_secs(86_400);
/// Longest file of a service account, in bytes; Google's have some 2.5 KB.
const LONGEST_FILE: u64 = 64 << 10;

/// Asks Secret Manager.
pub(super) struct Gcp {
    source: Source,
    session: Mutex<Option<Session>>,
}

/// Where the service account is described.
enum Source {
    Object(Arc<Account>),
    /// Read before each login: the file may have been replaced.
    File {
        path: PathBuf,
        verify: bool,
    },
}

/// A service account.
struct Account {
    email: String,
    key: RsaKeyPair,
    project: String,
    /// Whom the JWT is for: the URL as it is written, without a login.
    audience: String,
    logins: Target,
    entries: Target,
    scope: String,
}

/// What a service account has been let in with.
#[derive(Clone)]
struct Session {
    account: Arc<Account>,
    authorization: HeaderValue,
    until: Instant,
}

impl Gcp {
    pub(super) fn new(fields: &Fields<'_>) -> Result<Self, String> {
        let verify = match fields.value("ssl_verify") {
            None => true,
            Some(verify) => verify.as_bool().ok_or_else(|| fields.fault("ssl_verify", "must be a boolean"))?,
        };
        let source = match (fields.value("auth_config"), fields.optional("auth_file")?) {
            (Some(config), None) => {
                Source::Object(Arc::new(Account::of(&Fields::within(config, "auth_config."), verify)?))
            }
            (None, Some(path)) => Source::File { path: path.into(), verify },
            _ => return Err("exactly one of `auth_config` and `auth_file` is needed".to_owned()),
        };
        Ok(Self { source, session: Mutex::default() })
    }

    /// The latest version of the secret that a path names, or a member of.
    pub(super) async fn read(&self, client: &Client, path: &str) -> Found {
        let (name, _) = parts(path);
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return Err(Trouble::Failed("a reference to gcp names a secret of letters, digits, `-` and `_`".into()));
        }
        let session = self.session(client).await?;
        let mut answer = self.access(client, &session, name).await?;
        if answer.status == 401 {
            // The token has been taken back before its time.
            self.forget(&session).await;
            answer = self.access(client, &self.session(client).await?, name).await?;
        }
        let said = answer.json();
        let code = said.as_ref().and_then(|said| said.pointer("/error/status")?.as_str());
        match (answer.status, code) {
            (200, _) => {
                let data = said.as_ref().and_then(|said| said.pointer("/payload/data")?.as_str());
                let data = data.and_then(|data| STANDARD.decode(data).ok()).ok_or_else(|| answer.malformed())?;
                // What is no text is nothing that a reference could stand for.
                String::from_utf8(data).map_err(|_| Trouble::nothing())
            }
            // The second: the latest version has been disabled or destroyed.
            (404, Some("NOT_FOUND")) | (400, Some("FAILED_PRECONDITION")) => Err(Trouble::nothing()),
            (_, code) => Err(answer.refused(code)),
        }
    }

    async fn access(&self, client: &Client, session: &Session, name: &str) -> Result<Answer, Trouble> {
        let mut target = session.account.entries.clone();
        let project = encoded(&session.account.project);
        target.path = format!("{}/projects/{project}/secrets/{name}/versions/latest:access", target.path);
        let headers = HeaderMap::from_iter([(AUTHORIZATION, session.authorization.clone())]);
        client.ask(target, Method::GET, headers, "").await
    }

    /// A token that holds. However many ask, one of them logs in while the others wait.
    async fn session(&self, client: &Client) -> Result<Session, Trouble> {
        let mut held = self.session.lock().await;
        if let Some(held) = held.as_ref().filter(|held| held.until > Instant::now()) {
            return Ok(held.clone());
        }
        let account = self.account().await?;
        let session = Self::log_in(client, account).await?;
        *held = Some(session.clone());
        Ok(session)
    }

    /// Forgets a token, unless there is another one already.
    async fn forget(&self, session: &Session) {
        let mut held = self.session.lock().await;
        if held.as_ref().is_some_and(|held| held.authorization == session.authorization) {
            *held = None;
        }
    }

    async fn account(&self) -> Result<Arc<Account>, Trouble> {
        match &self.source {
            Source::Object(account) => Ok(account.clone()),
            Source::File { path, verify } => {
                let (path, verify) = (path.clone(), *verify);
                let read = tokio::task::spawn_blocking(move || Account::read(&path, verify)).await;
                let read = read.unwrap_or_else(|_| Err("`auth_file` cannot be read: the runtime ends".to_owned()));
                read.map(Arc::new).map_err(Trouble::Failed)
            }
        }
    }

    async fn log_in(client: &Client, account: Arc<Account>) -> Result<Session, Trouble> {
        let asked = Instant::now();
        let jwt = account.jwt(SystemTime::now())?;
        let form = format!("grant_type={}&assertion={jwt}", encoded(GRANT_TYPE));
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind)]);
        let answer = client.ask(account.logins.clone(), Method::POST, headers, form).await?;
        let said = answer.json();
        if answer.status != 200 {
            return Err(answer.refused(said.as_ref().and_then(|said| said.get("error")?.as_str())));
        }
        let said = said.ok_or_else(|| answer.malformed())?;
        let token = said.get("access_token").and_then(Value::as_str);
        let authorization = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let mut authorization = authorization.ok_or_else(|| answer.malformed())?;
        authorization.set_sensitive(true);
        // Seconds. One that does not say how long it holds is used once.
        let holds = Duration::from_secs(said.get("expires_in").and_then(Value::as_u64).unwrap_or_default());
        let until = asked + holds.min(LONGEST).saturating_sub(EARLY);
        Ok(Session { account, authorization, until })
    }
}

/// What a path names, of the secret that it names.
pub(super) fn pick(secret: &str, path: &str) -> Found {
    part(secret, parts(path).1)
}

/// The name of the secret, and the member.
fn parts(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(name, field)| (name, Some(field)))
}

impl Account {
    fn of(fields: &Fields<'_>, verify: bool) -> Result<Self, String> {
        let url = |name, default: &str| {
            let written = fields.optional(name)?.unwrap_or_else(|| default.to_owned());
            let target = fields.url(name, &written, verify)?;
            Ok::<_, String>((target, without_login(&written).unwrap_or(written)))
        };
        let (mut logins, audience) = url("token_uri", TOKEN_URI)?;
        if logins.path.is_empty() {
            logins.path.push('/');
        }
        let (entries, _) = url("entries_uri", ENTRIES_URI)?;
        let scope = match fields.value("scope") {
            None => SCOPE.to_owned(),
            Some(list) => {
                let list: Option<Vec<_>> = list.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
                list.ok_or_else(|| fields.fault("scope", "must be a list of strings"))?.join(" ")
            }
        };
        let key = rsa(&fields.text("private_key")?).ok_or_else(|| {
            fields.fault(
                "private_key",
                "must be an RSA key of 2048 to 8192 bits in PEM, PKCS#8 or PKCS#1, without a passphrase",
            )
        })?;
        Ok(Self {
            email: fields.text("client_email")?,
            key,
            project: fields.text("project_id")?,
            audience,
            logins,
            entries,
            scope,
        })
    }

    /// The one that a file describes, in the form that Google hands out.
    fn read(path: &Path, verify: bool) -> Result<Self, String> {
        let fault = |why: String| format!("`auth_file` cannot be used: {why}");
        let mut text = String::new();
        // Asked before it is opened: opening a pipe may wait for ever.
        let kind = std::fs::metadata(path).map_err(|error| fault(error.to_string()))?;
        if !kind.is_file() || kind.len() > LONGEST_FILE {
            return Err(fault(format!("it is no file of at most {LONGEST_FILE} bytes")));
        }
        let file = File::open(path).map_err(|error| fault(error.to_string()))?;
        file.take(LONGEST_FILE).read_to_string(&mut text).map_err(|error| fault(error.to_string()))?;
        let body: Value = serde_json::from_str(&text).map_err(|_| fault("it is no JSON".to_owned()))?;
        Self::of(&Fields::within(&body, "auth_file."), verify)
    }

    /// A JWT that proves who asks, in the form that Google wants (RFC 7523 §3; RS256 as of RFC 7518 §3.3).
    fn jwt(&self, now: SystemTime) -> Result<String, Trouble> {
        let issued = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = json!({
            "iss": self.email,
            "scope": self.scope,
            "aud": self.audience,
            "iat": issued.as_secs(),
            "exp": (issued + JWT_LIFE).as_secs(),
        });
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(json!({ "alg": "RS256", "typ": "JWT" })), part(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        let made = self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature);
        made.map_err(|_| Trouble::Failed("`private_key` does not sign".to_owned()))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// A private key in PEM.
fn rsa(pem: &str) -> Option<RsaKeyPair> {
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()? {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).ok(),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::tests::gcp::KEY;

    #[test]
    fn gcp_addresses_that_were_stored_with_a_login_serve_without_it() {
        let addresses = ["token_uri", "entries_uri"].map(|name| (name, "http://user:hush@a.test:1/b"));
        let mut body = json!({ "client_email": "a", "private_key": KEY.pkcs8, "project_id": "p" });
        addresses.iter().for_each(|(name, address)| body[*name] = (*address).into());
        let account = Account::of(&Fields::of(&body), true).unwrap();
        for target in [&account.logins, &account.entries] {
            assert_eq!(format!("{target}{}", target.path), "http://a.test:1/b");
        }
        assert_eq!(account.audience, "http://a.test:1/b");
    }

    #[test]
    fn gcp_defaults_are_googles_addresses() {
        let body = json!({ "client_email": "a", "private_key": KEY.pkcs8, "project_id": "p" });
        let account = Account::of(&Fields::of(&body), true).unwrap();
        let shown = |target: &Target| format!("{target}{}", target.path);
        assert_eq!(shown(&account.logins), "https://oauth2.googleapis.com:443/token");
        assert_eq!(shown(&account.entries), "https://secretmanager.googleapis.com:443/v1");
        assert_eq!(account.audience, "https://oauth2.googleapis.com/token");
        assert_eq!(account.scope, "https://www.googleapis.com/auth/cloud-platform");
    }
}
