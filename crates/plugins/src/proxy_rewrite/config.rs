//! Configuration of `proxy-rewrite`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// Rewrites path, method, Host and headers of the request before it is sent upstream.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// New path, a template; it may carry a query. The client's query is appended.
    #[schemars(length(min = 1, max = 4096), regex(pattern = r"^/"))]
    pub(super) uri: Option<String>,
    /// Pairs of pattern and replacement, tried on the path in order; the first that matches is applied. Used if there is
    /// no `uri`.
    #[schemars(length(min = 2))]
    pub(super) regex_uri: Option<Vec<String>>,
    /// New method.
    #[schemars(extend("enum" = METHODS))]
    pub(super) method: Option<String>,
    /// Host sent upstream: letters, digits, `-`, `.`, and a port if need be.
    #[schemars(regex(pattern = r"^[0-9a-zA-Z.-]+(:\d{1,5})?$"))]
    pub(super) host: Option<String>,
    /// Headers: `add`, `set` and `remove`, or, the old form, names with the values to set. Values are templates, in which
    /// `$1` is a group of the pattern that matched.
    #[serde(default)]
    #[schemars(schema_with = "headers")]
    pub(super) headers: Option<Value>,
    /// Starts from the target as the client sent it, neither decoded nor normalised.
    #[serde(default)]
    pub(super) use_real_request_uri_unsafe: bool,
}

const METHODS: [&str; 14] = [
    "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "MKCOL", "COPY", "MOVE", "PROPFIND", "LOCK", "UNLOCK", "PATCH",
    "TRACE",
];

fn headers(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let value = serde_json::json!({ "oneOf": [
        { "type": "string" },
        { "type": "number" },
        { "type": "array", "minItems": 1, "items": { "oneOf": [{ "type": "string" }, { "type": "number" }] } },
    ] });
    let named = serde_json::json!({
        "type": "object", "minProperties": 1, "additionalProperties": false, "patternProperties": { "^[^:]+$": value },
    });
    schemars::json_schema!({ "anyOf": [
        {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": false,
            "properties": {
                "add": named,
                "set": named,
                "remove": { "type": "array", "minItems": 1, "items": { "type": "string", "pattern": "^[^:]+$" } },
            },
        },
        { "type": "object", "minProperties": 1, "additionalProperties": { "type": ["string", "number"] } },
    ] })
}
