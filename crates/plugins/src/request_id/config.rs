//! Configuration of `request-id`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Gives every request an id header: the client's own if it sent one, else a new one.
///
/// The id also is the variable `apisix_request_id`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// Header that carries the id.
    #[serde(default = "header_name")]
    pub(super) header_name: String,
    /// Puts the id on the answer too, unless the upstream has set the header.
    #[serde(default = "yes")]
    pub(super) include_in_response: bool,
    /// How an id is made.
    #[serde(default)]
    pub(super) algorithm: Algorithm,
    /// Form of the ids of `range_id`.
    #[serde(default)]
    pub(super) range_id: RangeId,
}

/// How an id is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(crate) enum Algorithm {
    #[default]
    Uuid,
    Nanoid,
    #[serde(rename = "range_id")]
    RangeId,
    Ksuid,
    Uuidv7,
}

/// Form of the ids of `range_id`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RangeId {
    /// Number of characters.
    #[serde(default = "length")]
    #[schemars(range(min = 6, max = 4096))]
    pub(super) length: usize,
    /// The characters to draw from.
    #[serde(default = "char_set")]
    #[schemars(length(min = 6))]
    pub(super) char_set: String,
}

impl Default for RangeId {
    fn default() -> Self {
        Self { length: length(), char_set: char_set() }
    }
}

fn header_name() -> String {
    "X-Request-Id".to_owned()
}

fn yes() -> bool {
    true
}

fn length() -> usize {
    16
}

/// As specified: there is no capital J.
fn char_set() -> String {
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIGKLMNOPQRSTUVWXYZ0123456789".to_owned()
}
