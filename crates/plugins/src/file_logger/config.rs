//! Configuration of `file-logger`.

use crate::capture::BodyConfig;
use crate::log_entry::FormatConfig;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// Appends one line of JSON for each request to a local file.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// The file; a relative path starts at the gateway's working directory. It is created if it is missing, its directory
    /// is not. Needed here or in the metadata.
    pub(super) path: Option<String>,
    /// Lists of conditions: an entry is written if all conditions of any list hold.
    #[serde(rename = "match")]
    #[schemars(length(max = 20))]
    pub(super) matches: Option<Vec<Vec<Value>>>,
    #[serde(flatten)]
    pub(super) format: FormatConfig,
    #[serde(flatten)]
    pub(super) bodies: BodyConfig,
}

/// What holds for all instances that do not say otherwise.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct MetadataConfig {
    /// The file, for instances without one.
    pub(super) path: Option<String>,
    #[serde(flatten)]
    pub(super) format: FormatConfig,
}
