//! Label values of one request.

use super::config::MetricSettings;
use milecastle_matching::{Lookup, Var};
use milecastle_plugin_api::{RequestCx, VarValue};
use std::borrow::Cow;

/// Bytes at which the name of a model is cut.
const MODEL_BYTES: usize = 128;

/// The values. What has no meaning for the request is empty.
pub(super) struct Labels<'a> {
    code: [u8; 3],
    pub(super) route: &'a str,
    pub(super) matched_uri: &'a str,
    pub(super) matched_host: &'a str,
    pub(super) service: &'a str,
    pub(super) consumer: &'a str,
    pub(super) node: &'a str,
    pub(super) request_type: &'a str,
    pub(super) request_llm_model: &'a str,
    pub(super) llm_model: &'a str,
    pub(super) response_source: &'static str,
}

impl<'a> Labels<'a> {
    pub(super) fn of(cx: &'a RequestCx, prefer_name: bool) -> Self {
        let route = cx.route.as_deref();
        let [request_type, request_llm_model, llm_model] = varying(cx);
        let named =
            |name: Option<&'a str>, id: &'a str| name.filter(|name| prefer_name && !name.is_empty()).unwrap_or(id);
        Self {
            code: digits(cx.response.logged_status()),
            route: route.map_or("", |route| named(route.name.as_deref(), &route.id)),
            matched_uri: cx.matched_uri.as_ref().map_or("", |pattern| pattern.as_str()),
            matched_host: cx.matched_host.as_deref().unwrap_or_default(),
            service: route.map_or("", |route| {
                let id = route.service_id.as_deref().unwrap_or_default();
                named(route.service_name.as_deref().filter(|_| !id.is_empty()), id)
            }),
            consumer: cx.consumer.as_ref().map_or("", |consumer| &consumer.name),
            node: cx.upstream.last().map_or("", |attempt| address(&attempt.node)),
            request_type: request_type.unwrap_or("traditional_http"),
            request_llm_model: request_llm_model.unwrap_or_default(),
            llm_model: llm_model.unwrap_or_default(),
            response_source: cx.response.source.as_str(),
        }
    }

    /// The status, three digits.
    pub(super) fn code(&self) -> &str {
        std::str::from_utf8(&self.code).unwrap_or_default()
    }
}

/// The values that plugins give a request: its type, and the models that it asked for and got.
pub(super) fn varying(cx: &RequestCx) -> [Option<&str>; 3] {
    [given(cx, "request_type"), given(cx, "request_llm_model").map(cut), given(cx, "llm_model").map(cut)]
}

/// The values of a metric's extra labels, in order.
pub(super) fn extra<'a>(cx: &'a RequestCx, settings: &MetricSettings) -> Vec<Cow<'a, str>> {
    let text = |value: Var<'a>| match value {
        Var::Str(text) => text,
        other => Cow::Owned(other.text().into_owned()),
    };
    settings.extra_labels.iter().map(|(_, name)| cx.var(name).map_or(Cow::Borrowed(""), text)).collect()
}

fn digits(status: u16) -> [u8; 3] {
    let digit = |n: u16| b'0' + (n % 10) as u8;
    [digit(status / 100), digit(status / 10), digit(status)]
}

/// The host of `host:port`.
fn address(node: &str) -> &str {
    node.rsplit_once(':').map_or(node, |(host, _)| host).trim_start_matches('[').trim_end_matches(']')
}

fn given<'a>(cx: &'a RequestCx, name: &str) -> Option<&'a str> {
    match cx.overridden(name)? {
        VarValue::Text(text) => Some(text),
        VarValue::Header(value) => value.to_str().ok(),
        VarValue::List(_) => Some("<non-scalar>"),
    }
}

fn cut(model: &str) -> &str {
    model.get(..model.floor_char_boundary(MODEL_BYTES)).unwrap_or(model)
}
