//! The manager `vault`: HashiCorp Vault's key/value engine, `GET <uri>/v1/<prefix>/<path>`.
//!
//! In version 2 of the engine `data` stands between its name and the path: it belongs to the prefix, as in `kv/data`. Its answers
//! are told by their form.

use super::fields::Fields;
use super::http::{Answer, Client, encoded_path};
use super::manager::member;
use super::trouble::{Found, Trouble};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use milecastle_export::Target;
use serde_json::Value;

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");

/// Asks Vault.
pub(super) struct Vault {
    /// With the path that all secrets are under.
    target: Target,
    headers: HeaderMap,
}

impl Vault {
    pub(super) fn new(fields: &Fields<'_>) -> Result<Self, String> {
        let mut target = fields.url("uri", &fields.text("uri")?, true)?;
        target.path.push_str("/v1");
        let prefix = fields.text("prefix")?;
        let prefix = prefix.trim_matches('/');
        if !prefix.is_empty() {
            let prefix = encoded_path(prefix);
            let prefix =
                prefix.ok_or_else(|| fields.fault("prefix", "must be a path without empty parts, `.` and `..`"))?;
            target.path.push('/');
            target.path.push_str(&prefix);
        }
        let mut headers = HeaderMap::new();
        let header = |name, text: &str| {
            HeaderValue::from_str(text).map_err(|_| fields.fault(name, "has a character that cannot be sent"))
        };
        let mut token = header("token", &fields.text("token")?)?;
        token.set_sensitive(true);
        headers.insert(TOKEN, token);
        if let Some(namespace) = fields.optional("namespace")? {
            headers.insert(NAMESPACE, header("namespace", &namespace)?);
        }
        Ok(Self { target, headers })
    }

    /// The members of the secret that a path names one of.
    pub(super) async fn read(&self, client: &Client, path: &str) -> Result<Value, Trouble> {
        let (secret, _) = parts(path)?;
        let secret = encoded_path(secret).ok_or_else(malformed)?;
        let mut target = self.target.clone();
        target.path = format!("{}/{secret}", target.path);
        let answer = client.ask(target, Method::GET, self.headers.clone(), "").await?;
        match answer.status {
            200 => {
                let found = answer.json().ok_or_else(|| answer.malformed())?;
                let data = found.get("data").filter(|data| data.is_object()).ok_or_else(|| answer.malformed())?;
                Ok(unwrapped(data).clone())
            }
            404 if says_absent(&answer) => Err(Trouble::nothing()),
            _ => Err(answer.refused(None)),
        }
    }
}

/// The member that a path names, of the secret that it names.
pub(super) fn pick(secret: &Value, path: &str) -> Found {
    let (_, key) = parts(path)?;
    member(secret, key).ok_or_else(Trouble::nothing)
}

/// The secret and its member.
fn parts(path: &str) -> Result<(&str, &str), Trouble> {
    path.rsplit_once('/').filter(|(_, key)| !key.is_empty()).ok_or_else(malformed)
}

fn malformed() -> Trouble {
    let text = "a reference to vault ends with `/<path>/<key>`, without empty parts, `.` and `..`";
    Trouble::Failed(text.into())
}

/// The members of a secret. Version 2 has them beside the number of their version.
fn unwrapped(data: &Value) -> &Value {
    let versioned = data.pointer("/metadata/version").is_some_and(Value::is_number);
    data.get("data").filter(|inner| versioned && inner.is_object()).unwrap_or(data)
}

/// Whether a 404 is Vault's word that there is no such secret: no error in the list, or the metadata of a deleted version.
/// Without an engine at the prefix there is one.
fn says_absent(answer: &Answer) -> bool {
    answer.json().is_some_and(|answer| {
        let errors = answer.get("errors").and_then(Value::as_array);
        errors.is_some_and(Vec::is_empty) || answer.pointer("/data/metadata").is_some()
    })
}
