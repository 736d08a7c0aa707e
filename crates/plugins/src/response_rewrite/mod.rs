//! `response-rewrite`: changes answers (`docs/spec/plugins/response-rewrite.md`).
//!
//! A body is held back only for `filters`, and then at most `max_resp_body_size` bytes of it.

mod body;
mod config;
mod edits;
#[cfg(test)]
mod tests;

use crate::decode::Coding;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use body::Filters;
use bytes::Bytes;
use config::Config;
use edits::Edits;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, ETAG, LAST_MODIFIED};
use http::{Method, StatusCode};
use milecastle_matching::Expr;
use milecastle_plugin_api::{
    BodyNeed, BodyNeeds, BuildCx, ConfigError, Example, Hooks, OnBody, OnHeaders, Plugin, PluginDef, RequestCx,
};
use serde_json::Value;

pub(crate) static DEF: PluginDef = PluginDef::of::<ResponseRewrite>();

struct ResponseRewrite {
    condition: Option<Expr>,
    status: Option<StatusCode>,
    headers: Edits,
    body: NewBody,
}

enum NewBody {
    Kept,
    Fixed(Bytes),
    Filtered(Filters),
}

/// What is known of one answer whose body changes.
#[derive(Default)]
enum Work {
    /// The condition does not hold, or the coding is not known: the body passes.
    #[default]
    Pass,
    /// The body is dropped; the new one ends the answer.
    Replace,
    /// The body is collected.
    Collect { coding: Option<Coding>, kept: Vec<u8>, cut: bool },
}

impl Plugin for ResponseRewrite {
    type Config = Config;
    const NAME: &'static str = "response-rewrite";
    const PRIORITY: i32 = 899;
    const EXAMPLES: &'static [Example] = &[
        Example::new("A friendlier page for failures", include_str!("examples/failures.json")),
        Example::new("Headers", include_str!("examples/headers.json")),
        Example::new("Edit the body", include_str!("examples/filters.json")),
    ];

    fn compile(config: Config, cx: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        let mut faults = Vec::new();
        let body = new_body(&config, cx).map_err(|found| faults.extend(found)).ok();
        let headers = Edits::new(config.headers.as_ref()).map_err(|found| faults.extend(found)).ok();
        let condition = config.vars.map(|vars| cx.condition(&Value::Array(vars))).transpose();
        let condition = condition.map_err(|error| {
            let text = format!("failed to validate the 'vars' expression: {error}");
            faults.push(ConfigError::at("/vars", text));
        });
        let status = config.status_code.and_then(|code| StatusCode::from_u16(code).ok());
        match (body, headers, condition) {
            (Some(body), Some(headers), Ok(condition)) => Ok(Self { condition, status, headers, body }),
            _ => Err(faults),
        }
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.headers().body()
    }

    fn body_needs(&self) -> BodyNeeds {
        let response = match self.body {
            NewBody::Kept => BodyNeed::None,
            NewBody::Fixed(_) | NewBody::Filtered(_) => BodyNeed::Stream,
        };
        BodyNeeds { response, ..BodyNeeds::default() }
    }
}

fn new_body(config: &Config, cx: &BuildCx<'_>) -> Result<NewBody, Vec<ConfigError>> {
    if config.body.is_some() && config.filters.is_some() {
        return Err(vec![ConfigError::at("/filters", "body and filters cannot be specified at the same time")]);
    }
    if let Some(filters) = &config.filters {
        return Filters::new(filters, config.max_resp_body_size, cx).map(NewBody::Filtered);
    }
    let text = config.body.as_deref();
    if !config.body_base64 || text.is_some_and(milecastle_plugin_api::is_reference) {
        return Ok(text.map_or(NewBody::Kept, |text| NewBody::Fixed(Bytes::copy_from_slice(text.as_bytes()))));
    }
    match STANDARD.decode(text.unwrap_or_default()) {
        Ok(bytes) if !bytes.is_empty() => Ok(NewBody::Fixed(bytes.into())),
        Ok(_) | Err(_) => Err(vec![ConfigError::at("/body", "invalid base64 content")]),
    }
}

impl OnHeaders for ResponseRewrite {
    fn on_headers(&self, cx: &mut RequestCx) {
        if self.condition.as_ref().is_some_and(|condition| !condition.eval(cx)) {
            return;
        }
        if let Some(status) = self.status {
            cx.response.status = status;
        }
        self.begin_body(cx);
        self.headers.apply(cx);
    }
}

impl ResponseRewrite {
    /// Decides what becomes of the body, and takes away the headers that no longer describe it.
    fn begin_body(&self, cx: &mut RequestCx) {
        let work = match &self.body {
            NewBody::Kept => return,
            NewBody::Fixed(_) => Work::Replace,
            NewBody::Filtered(_) => {
                let named = cx.response.headers.get(CONTENT_ENCODING).map_or(Some(""), |value| value.to_str().ok());
                let Some(coding) = named.and_then(Coding::parse) else {
                    tracing::error!(
                        plugin = Self::NAME,
                        coding = named,
                        "the body's coding is not known; it is not filtered"
                    );
                    return;
                };
                Work::Collect { coding: Some(coding), kept: Vec::new(), cut: false }
            }
        };
        for stale in [CONTENT_LENGTH, CONTENT_ENCODING, LAST_MODIFIED, ETAG] {
            cx.response.headers.remove(stale);
        }
        *cx.slot(self) = work;
    }
}

impl OnBody for ResponseRewrite {
    fn on_body(&self, cx: &mut RequestCx, chunk: &mut Bytes, last: bool) {
        if matches!(self.body, NewBody::Kept) || is_bodiless(cx) {
            return;
        }
        match (&self.body, cx.slot::<_, Work>(self)) {
            (NewBody::Fixed(body), Work::Replace) => *chunk = if last { body.clone() } else { Bytes::new() },
            (NewBody::Filtered(filters), Work::Collect { coding, kept, cut }) => {
                let room = filters.cap().saturating_sub(kept.len()).min(chunk.len());
                *cut |= room < chunk.len();
                kept.extend_from_slice(&chunk[..room]);
                *chunk = match coding.take_if(|_| last) {
                    Some(coding) => filters.apply(std::mem::take(kept), coding, *cut).into(),
                    None => Bytes::new(),
                };
            }
            _ => {}
        }
    }
}

/// Whether the answer has no body on the wire whatever is written (RFC 9110 §6.4.1).
fn is_bodiless(cx: &RequestCx) -> bool {
    cx.request.received_method() == Method::HEAD
        || matches!(cx.response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}
