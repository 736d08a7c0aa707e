//! Configuration of `key-auth`.

use crate::auth::REALM;
use schemars::JsonSchema;
use serde::Deserialize;

/// Identifies a consumer by an opaque API key in a header or a query argument.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// Header that carries the key. If it is present, even empty, the query is ignored.
    #[serde(default = "apikey")]
    pub(super) header: String,
    /// Query argument that carries the key.
    #[serde(default = "apikey")]
    pub(super) query: String,
    /// Removes the key before the request is proxied, from the place where it was found.
    #[serde(default)]
    pub(super) hide_credentials: bool,
    /// Realm of the `WWW-Authenticate` header of a refusal: printable ASCII without `"` and `\`.
    #[serde(default = "realm")]
    #[schemars(length(min = 1, max = 128), regex(pattern = REALM))]
    pub(super) realm: String,
    /// Username of the consumer as which a request goes on that could not be authenticated. It needs no credential.
    #[schemars(length(min = 1))]
    pub(super) anonymous_consumer: Option<String>,
}

/// The credential, under a consumer or a credential object.
#[derive(Debug, Deserialize, JsonSchema)]
#[expect(dead_code, reason = "read by the snapshot's table of credentials; here it is a schema")]
pub(crate) struct Credential {
    /// The API key. No two credentials have the same. Stored encrypted.
    key: String,
}

fn apikey() -> String {
    "apikey".to_owned()
}

fn realm() -> String {
    "key".to_owned()
}
