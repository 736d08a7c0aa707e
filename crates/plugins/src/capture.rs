//! Bodies for logs: attribute group B of `docs/spec/plugins/_logging-common.md`.

use crate::decode::Coding;
use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use milecastle_matching::{Expr, ExprError, PatternError};
use milecastle_plugin_api::{Body, BodyNeed, BodyNeeds, BuildCx, ConfigError, RequestCx};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;

/// Most bytes of a body that are logged if nothing else is said.
const DEFAULT_MAX: usize = 524_288;

/// The attributes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct BodyConfig {
    /// Logs the body of the request.
    #[serde(default)]
    include_req_body: bool,
    /// Condition for the request's body, checked when the entry is written.
    #[schemars(length(min = 1))]
    include_req_body_expr: Option<Vec<Vec<Value>>>,
    /// Logs the body of the answer.
    #[serde(default)]
    include_resp_body: bool,
    /// Condition for the answer's body, checked at its first chunk.
    #[schemars(length(min = 1))]
    include_resp_body_expr: Option<Vec<Vec<Value>>>,
    /// Bytes at which a logged request body is cut.
    #[serde(default = "default_max")]
    #[schemars(range(min = 1, max = 1_073_741_824))]
    max_req_body_bytes: usize,
    /// Bytes at which a logged answer is cut. The client gets all of it.
    #[serde(default = "default_max")]
    #[schemars(range(min = 1, max = 1_073_741_824))]
    max_resp_body_bytes: usize,
}

fn default_max() -> usize {
    DEFAULT_MAX
}

/// Which bodies a logger keeps.
pub(crate) struct Bodies {
    request: Gate,
    response: Gate,
    max_request: usize,
    max_response: usize,
}

/// Whether a body is kept.
enum Gate {
    Never,
    Always,
    If(Expr),
    /// The condition is none; reported when a request would have needed it.
    Broken(String),
}

/// What is kept of one answer.
#[derive(Default)]
pub(crate) struct Captured {
    /// `None` before the first chunk.
    wanted: Option<bool>,
    bytes: Vec<u8>,
    cut: bool,
}

impl Bodies {
    /// Takes the attributes. A malformed condition is accepted and then keeps no body.
    ///
    /// # Errors
    /// The object's patterns are too large together.
    pub(crate) fn new(config: BodyConfig, cx: &BuildCx<'_>) -> Result<Self, ConfigError> {
        let gate = |include, condition, attribute: &str| {
            let reason = |error: ExprError| format!("failed to validate the '{attribute}' expression: {error}");
            Gate::new(include, condition, cx).map_err(|error| ConfigError::at(format!("/{attribute}"), reason(error)))
        };
        Ok(Self {
            request: gate(config.include_req_body, config.include_req_body_expr, "include_req_body_expr")?,
            response: gate(config.include_resp_body, config.include_resp_body_expr, "include_resp_body_expr")?,
            max_request: config.max_req_body_bytes,
            max_response: config.max_resp_body_bytes,
        })
    }

    /// What the plugin has to ask for.
    pub(crate) fn needs(&self) -> BodyNeeds {
        BodyNeeds {
            request: match self.request {
                Gate::Never => BodyNeed::None,
                _ => BodyNeed::Whole { max_bytes: self.max_request },
            },
            response: match self.response {
                Gate::Never => BodyNeed::None,
                _ => BodyNeed::Stream,
            },
        }
    }

    /// Keeps a chunk of the answer. `owner` is the plugin's instance, whose slot holds [`Captured`].
    pub(crate) fn keep<P>(&self, owner: &P, cx: &mut RequestCx, chunk: &Bytes) {
        if cx.slot::<_, Captured>(owner).wanted.is_none() {
            let wanted = self.response.open(cx);
            cx.slot::<_, Captured>(owner).wanted = Some(wanted);
        }
        let captured: &mut Captured = cx.slot(owner);
        if captured.wanted == Some(true) {
            let room = self.max_response.saturating_sub(captured.bytes.len()).min(chunk.len());
            captured.cut |= room < chunk.len();
            captured.bytes.extend_from_slice(&chunk[..room]);
        }
    }

    /// The request's body for a log, if it is wanted.
    pub(crate) fn request<'a>(&self, cx: &'a RequestCx) -> Option<Cow<'a, str>> {
        self.request.open(cx).then(|| self.buffered_request(cx)).flatten()
    }

    /// The request's body for a log as far as anybody has read it, wanted or not.
    pub(crate) fn buffered_request<'a>(&self, cx: &'a RequestCx) -> Option<Cow<'a, str>> {
        match &cx.request.body {
            Body::Read { bytes, .. } => Some(String::from_utf8_lossy(bytes.get(..self.max_request).unwrap_or(bytes))),
            Body::None | Body::Streaming { .. } => None,
        }
    }

    /// What was kept of the answer, decoded; `None` if nothing was wanted.
    pub(crate) fn response<P>(&self, owner: &P, cx: &RequestCx) -> Option<String> {
        let captured: &Captured = cx.slot_if_made(owner)?;
        captured.wanted.filter(|wanted| *wanted)?;
        let raw = || String::from_utf8_lossy(&captured.bytes).into_owned();
        let named = cx.response.headers.get(CONTENT_ENCODING).map_or(Some(""), |value| value.to_str().ok());
        let decoded = match named.and_then(Coding::parse) {
            Some(Coding::Identity) => return Some(raw()),
            Some(coding) => coding.decode(&captured.bytes, self.max_response, captured.cut),
            None => {
                tracing::warn!(coding = named, "the coding of a logged body is not known; it is logged as it is");
                return Some(raw());
            }
        };
        Some(match decoded {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                tracing::warn!(%error, "a logged body cannot be decoded; it is logged as it is");
                raw()
            }
        })
    }
}

impl Gate {
    fn new(include: bool, condition: Option<Vec<Vec<Value>>>, cx: &BuildCx<'_>) -> Result<Self, ExprError> {
        Ok(match condition {
            _ if !include => Self::Never,
            None => Self::Always,
            Some(condition) => match cx.condition(&condition.into()) {
                Ok(condition) => Self::If(condition),
                // A node compiles what is accepted.
                Err(error @ ExprError::InvalidPattern { error: PatternError::TooMuch { .. }, .. }) => {
                    return Err(error);
                }
                Err(error) => Self::Broken(error.to_string()),
            },
        })
    }

    fn open(&self, cx: &RequestCx) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::If(condition) => condition.eval(cx),
            Self::Broken(reason) => {
                tracing::error!(reason, "the condition for logging a body is malformed; no body is logged");
                false
            }
        }
    }
}
