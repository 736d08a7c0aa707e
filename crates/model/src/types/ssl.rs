//! Certificates (`docs/spec/resources.md` §8, `docs/spec/tls.md`).

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::de::{int, list, seconds, some_object, status, yes};
use super::{Labels, SecretText};
use crate::Id;

/// Certificates with their keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Ssl {
    /// Identity; in every stored body.
    pub id: Option<Id>,
    /// Labels.
    #[serde(default, deserialize_with = "super::de::object")]
    pub labels: Labels,
    /// What the certificates are for.
    #[serde(default, rename = "type")]
    pub kind: SslKind,
    /// Main certificate: PEM or a secret reference.
    pub cert: String,
    /// Its key: PEM, ciphertext or a secret reference.
    pub key: SecretText,
    /// Further certificates.
    #[serde(default, deserialize_with = "list")]
    pub certs: Vec<String>,
    /// Their keys, by position.
    #[serde(default, deserialize_with = "list")]
    pub keys: Vec<SecretText>,
    /// The one server name; see [`Ssl::server_names`].
    pub sni: Option<String>,
    /// Several server names.
    #[serde(default, deserialize_with = "list")]
    pub snis: Vec<String>,
    /// Present: clients must show a certificate.
    #[serde(default, deserialize_with = "some_object")]
    pub client: Option<SslClient>,
    /// `status`: false means not in use. Default true.
    #[serde(default = "yes", rename = "status", deserialize_with = "status")]
    pub enabled: bool,
    /// Replaces the node's list of protocol versions.
    #[serde(default, deserialize_with = "some_list")]
    pub ssl_protocols: Option<Vec<TlsVersion>>,
    /// OCSP stapling, if that plugin is enabled.
    #[serde(default, deserialize_with = "some_object")]
    pub ocsp_stapling: Option<OcspStapling>,
}

impl Ssl {
    /// The server names to match: `sni`, then `snis`, in lower case and without a trailing dot (`docs/spec/tls.md` §2).
    pub fn server_names(&self) -> impl Iterator<Item = String> {
        let written = self.sni.iter().chain(&self.snis);
        written.map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase())
    }

    /// Every certificate with its key: the main pair, then the others by position.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &SecretText)> {
        let others = self.certs.iter().map(String::as_str).zip(&self.keys);
        std::iter::once((self.cert.as_str(), &self.key)).chain(others)
    }
}

/// What certificates are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SslKind {
    /// Shown to clients.
    #[default]
    Server,
    /// Shown to upstreams.
    Client,
}

/// How clients are verified.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SslClient {
    /// Certificates of the authorities: PEM or a secret reference.
    pub ca: String,
    /// Most links of a client's chain. Default 1.
    #[serde(default = "one", deserialize_with = "int")]
    pub depth: u32,
    /// Paths for which no certificate is needed.
    #[serde(default, deserialize_with = "list")]
    pub skip_mtls_uri_regex: Vec<String>,
}

/// Protocol versions that the attribute may name. TLS 1.1 is accepted and never offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.1.
    #[serde(rename = "TLSv1.1")]
    V1_1,
    /// TLS 1.2.
    #[serde(rename = "TLSv1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "TLSv1.3")]
    V1_3,
}

/// OCSP stapling.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct OcspStapling {
    /// Default false.
    pub enabled: bool,
    /// Whether the response is used unverified. Default false.
    pub skip_verify: bool,
    /// How long a response is kept. Default 3600 s, at least 60 s.
    #[serde(deserialize_with = "seconds")]
    pub cache_ttl: Duration,
}

impl Default for OcspStapling {
    fn default() -> OcspStapling {
        OcspStapling { enabled: false, skip_verify: false, cache_ttl: Duration::from_secs(3600) }
    }
}

fn one() -> u32 {
    1
}

fn some_list<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    list(deserializer).map(Some)
}
