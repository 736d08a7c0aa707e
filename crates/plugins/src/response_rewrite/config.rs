//! Configuration of `response-rewrite`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Changes status, headers and body of answers, the gateway's own included.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// New status.
    #[schemars(range(min = 200, max = 598))]
    pub(super) status_code: Option<u16>,
    /// New body, in place of the whole old one. Not together with `filters`.
    pub(super) body: Option<String>,
    /// `body` is the base64 text of the bytes to send.
    #[serde(default)]
    pub(super) body_base64: bool,
    /// Headers: `add` (a list of `Name: value`), `set` and `remove`, or, the old form, names with the values to set, where
    /// an empty text removes. Values are templates.
    #[serde(default)]
    #[schemars(schema_with = "headers")]
    pub(super) headers: Option<Value>,
    /// Condition: nothing is changed unless it holds when the head of the answer is known.
    pub(super) vars: Option<Vec<Value>>,
    /// Edits of the body by patterns, each on the result of the one before. A body in gzip or brotli is decoded first.
    #[schemars(length(min = 1))]
    pub(super) filters: Option<Vec<Filter>>,
    /// With `filters`: bytes of the body that are kept; what is beyond is cut off.
    #[serde(default = "max_resp_body_size")]
    #[schemars(range(min = 1, max = 1_073_741_824))]
    pub(super) max_resp_body_size: usize,
}

/// One edit of the body.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(crate) struct Filter {
    /// The pattern.
    #[schemars(length(min = 1))]
    pub(super) regex: String,
    /// What to put in its place; `$1` is a group.
    pub(super) replace: String,
    /// The first occurrence, or all.
    #[serde(default)]
    pub(super) scope: Scope,
    /// Flags: `i` ignores case, `s` lets `.` match line ends, `m` anchors at lines, `x` ignores blanks in the pattern, `u`
    /// takes both as Unicode; `j` and `o` have no effect.
    #[serde(default = "options")]
    pub(super) options: String,
}

/// How many occurrences are replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum Scope {
    #[default]
    Once,
    Global,
}

fn max_resp_body_size() -> usize {
    67_108_864
}

fn options() -> String {
    "jo".to_owned()
}

fn headers(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let single = serde_json::json!({ "type": ["string", "number"] });
    schemars::json_schema!({ "anyOf": [
        {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": false,
            "properties": {
                "add": {
                    "type": "array", "minItems": 1, "items": { "type": "string", "pattern": "^[^:]+:[^:]*[^/]$" },
                },
                "set": {
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": false,
                    "patternProperties": { "^[^:]+$": { "oneOf": [{ "type": "string" }, { "type": "number" }] } },
                },
                "remove": {
                    "type": "array", "minItems": 1, "items": { "type": "string", "minLength": 1, "pattern": "^[^:]+$" },
                },
            },
        },
        { "type": "object", "minProperties": 1, "properties": { "add": single, "set": single, "remove": single } },
    ] })
}
