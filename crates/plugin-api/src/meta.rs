//! `_meta`: the options that every plugin's configuration may carry (`docs/spec/plugins/_phases.md` §4).

use crate::def::ConfigError;
use crate::flow::{Reply, ReplyBody};
use milecastle_matching::{Expr, PatternBudget};
use serde_json::{Map, Value, json};

/// The options of one plugin on one object, compiled.
#[derive(Debug, Default)]
pub struct Meta {
    /// The plugin is skipped for this object.
    pub disable: bool,
    /// Replaces the plugin's own rank.
    pub priority: Option<i32>,
    /// The hooks run only while this holds for the request.
    pub filter: Option<Expr>,
    /// Replaces the body of the plugin's answers from 400 on.
    pub error_response: Option<ReplyBody>,
}

impl Meta {
    /// Compiles the value of `_meta`, which fits [`schema`]. `writing`: see [`crate::BuildCx::writing`].
    ///
    /// # Errors
    /// A filter that is no expression; script text, which this version does not run.
    pub(crate) fn compile(
        plugin: &str,
        value: &Map<String, Value>,
        writing: Option<&PatternBudget>,
    ) -> Result<Self, ConfigError> {
        if value.contains_key("pre_function") {
            return Err(ConfigError::at(
                "/_meta/pre_function",
                format!(
                    "failed to load _meta.pre_function in plugin {plugin}: Lua functions are not supported by this version"
                ),
            ));
        }
        let filter = value.get("filter").map(|filter| Expr::compiled(filter, writing));
        let filter = filter.transpose().map_err(|error| {
            ConfigError::at("/_meta/filter", format!("failed to validate the 'vars' expression: {error}"))
        })?;
        let error_response = value.get("error_response").map(|body| match body {
            Value::String(text) => ReplyBody::Text(text.clone().into()),
            other => ReplyBody::Json(other.to_string().into()),
        });
        Ok(Self {
            disable: disabled(value),
            priority: value.get("priority").and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok()),
            filter,
            error_response,
        })
    }

    /// Puts the configured body in place of the plugin's own.
    pub(crate) fn replace_body(&self, reply: &mut Reply) {
        if reply.status.as_u16() >= 400
            && let Some(body) = &self.error_response
        {
            reply.body = body.clone();
        }
    }
}

/// Whether `_meta` switches the plugin off, read before anything else is checked.
pub(crate) fn disabled(meta: &Map<String, Value>) -> bool {
    meta.get("disable").and_then(Value::as_bool).unwrap_or(false)
}

/// The schema of `_meta`.
pub(crate) fn schema() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "disable": { "type": "boolean" },
            "error_response": { "oneOf": [{ "type": "string" }, { "type": "object" }] },
            "priority": { "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX },
            "filter": { "type": "array" },
            "pre_function": { "type": "string" },
        },
    })
}
