//! What the spans of a request say. They are made when it is over, so that clients' secrets are masked in them.

use super::context::{SpanId, TraceId};
use crate::entropy;
use http::HeaderMap;
use milecastle_export::otlp::proto::common::v1::KeyValue;
use milecastle_export::otlp::proto::common::v1::any_value::Value;
use milecastle_export::otlp::proto::trace::v1::span::SpanKind;
use milecastle_export::otlp::proto::trace::v1::status::StatusCode;
use milecastle_export::otlp::proto::trace::v1::{Span, Status};
use milecastle_export::otlp::{attribute, text, unix_nanos};
use milecastle_matching::{Lookup as _, Var, VarName};
use milecastle_plugin_api::{Attempt, RequestCx, Stretch};
use std::time::{Instant, SystemTime};

/// The place of a request in a trace, if it is recorded.
pub(super) struct Recorded {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) state: String,
    /// Ids of the spans of tries at upstreams, in order; none where they are not shown.
    pub(super) tries: Vec<SpanId>,
}

/// What operators add to spans.
pub(super) struct Additions {
    pub(super) variables: Box<[VarName]>,
    pub(super) headers: Box<[Header]>,
}

/// Headers of the request, by name in lower case.
pub(super) enum Header {
    Named(Box<str>),
    /// All whose names begin so.
    Prefixed(Box<str>),
}

impl Header {
    pub(super) fn parse(text: &str) -> Self {
        let name = text.to_ascii_lowercase();
        match name.strip_suffix('*') {
            Some(prefix) if !prefix.is_empty() => Self::Prefixed(prefix.into()),
            _ => Self::Named(name.into()),
        }
    }
}

/// The spans of a request that is over: its own, those of the stretches of its way, and those of its tries at upstreams.
pub(super) fn spans(cx: &RequestCx, recorded: &Recorded, additions: &Additions) -> Vec<Span> {
    let started = cx.timing.started_at();
    let tries = cx.upstream.attempts().zip(&recorded.tries).enumerate();
    let tries = tries.map(|(n, (attempt, id))| of_try(cx, recorded, started, n, attempt, id));
    let stretches = cx.way.stretches();
    let ids: Vec<SpanId> = stretches.iter().map(|_| entropy::bytes()).collect();
    let stretches = stretches.iter().zip(&ids).map(|(stretch, id)| {
        let parent = stretch.within.and_then(|place| ids.get(place)).unwrap_or(&recorded.span_id);
        of_stretch(cx, recorded, started, stretch, id, parent)
    });
    std::iter::once(of_request(cx, recorded, started, additions)).chain(stretches).chain(tries).collect()
}

/// A stretch of the way; one that was not ended lasted as long as the request.
fn of_stretch(
    cx: &RequestCx,
    recorded: &Recorded,
    started: SystemTime,
    stretch: &Stretch,
    id: &SpanId,
    parent: &SpanId,
) -> Span {
    let at = |moment: Instant| unix_nanos(started + moment.saturating_duration_since(cx.timing.started));
    Span {
        trace_id: recorded.trace_id.to_vec(),
        span_id: id.to_vec(),
        trace_state: recorded.state.clone(),
        parent_span_id: parent.to_vec(),
        name: stretch.name.clone().into_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: at(stretch.began),
        end_time_unix_nano: stretch.ended.map_or_else(|| unix_nanos(started + cx.timing.total()), at),
        ..Span::default()
    }
}

fn of_request(cx: &RequestCx, recorded: &Recorded, started: SystemTime, additions: &Additions) -> Span {
    let (status, source) = (cx.response.logged_status(), cx.response.source.as_str());
    let method = cx.request.received_method().as_str();
    let matched = cx.matched_uri.as_ref().map(|pattern| pattern.as_str());
    let mut attributes = vec![
        text("net.host.name", cx.request.host()),
        text("http.method", method),
        text("http.scheme", cx.client.scheme.as_str()),
        text("http.target", cx.request.normal_target()),
        text("http.request.method", method),
        text("url.scheme", cx.client.scheme.as_str()),
        text("url.path", cx.request.normal_path()),
    ];
    if let Some(agent) = cx.request.header("user-agent") {
        attributes.extend(["http.user_agent", "user_agent.original"].map(|key| text(key, agent)));
    }
    if let Some(route) = cx.route.as_deref() {
        let mut put = |key: &str, value: Option<&str>| attributes.extend(value.map(|value| text(key, value)));
        put("apisix.route_id", Some(&route.id));
        put("apisix.route_name", route.name.as_deref());
        put("http.route", matched);
        put("apisix.service_id", route.service_id.as_deref());
        put("apisix.service_name", route.service_name.as_deref());
    }
    attributes.push(text("apisix.response_source", source));
    attributes.push(attribute("http.status_code", Value::IntValue(status.into())));
    attributes.push(attribute("http.response.status_code", Value::IntValue(status.into())));
    add(cx, additions, &mut attributes);
    Span {
        trace_id: recorded.trace_id.to_vec(),
        span_id: recorded.span_id.to_vec(),
        trace_state: recorded.state.clone(),
        parent_span_id: recorded.parent.map(Vec::from).unwrap_or_default(),
        name: matched.map_or_else(|| method.to_owned(), |path| format!("{method} {path}")),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: unix_nanos(started),
        end_time_unix_nano: unix_nanos(started + cx.timing.total()),
        attributes,
        status: Some(verdict((status >= 500).then(|| format!("{source} error: {status}")))),
        ..Span::default()
    }
}

/// A try at an upstream (OpenTelemetry semantic conventions 1.30, "HTTP client").
fn of_try(cx: &RequestCx, recorded: &Recorded, started: SystemTime, n: usize, attempt: &Attempt, id: &SpanId) -> Span {
    let method = cx.request.method.as_str();
    let status = attempt.status;
    let mut attributes = vec![
        text("http.request.method", method),
        text("server.address", attempt.addr.ip().to_string()),
        attribute("server.port", Value::IntValue(attempt.addr.port().into())),
    ];
    if n > 0 {
        attributes.push(attribute("http.request.resend_count", Value::IntValue(i64::try_from(n).unwrap_or(i64::MAX))));
    }
    if attempt.answered {
        attributes.push(attribute("http.response.status_code", Value::IntValue(status.into())));
    } else {
        attributes.push(text("error.type", if status == 504 { "timeout" } else { "no_answer" }));
    }
    let began = started + attempt.began.saturating_duration_since(cx.timing.started);
    let fault = match attempt.answered {
        true => (status >= 500).then(|| format!("upstream error: {status}")),
        false => Some(format!("{} gave no answer", attempt.node)),
    };
    Span {
        trace_id: recorded.trace_id.to_vec(),
        span_id: id.to_vec(),
        trace_state: recorded.state.clone(),
        parent_span_id: recorded.span_id.to_vec(),
        name: method.to_owned(),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: unix_nanos(began),
        end_time_unix_nano: unix_nanos(began + attempt.response),
        attributes,
        status: Some(verdict(fault)),
        ..Span::default()
    }
}

fn verdict(fault: Option<String>) -> Status {
    match fault {
        Some(message) => Status { message, code: StatusCode::Error.into() },
        None => Status::default(),
    }
}

/// Adds what the operator has asked for; what has no value is left out.
fn add(cx: &RequestCx, additions: &Additions, attributes: &mut Vec<KeyValue>) {
    for name in &additions.variables {
        if let Some(value) = cx.var(name).and_then(written) {
            attributes.push(text(name.as_str(), value));
        }
    }
    for header in &additions.headers {
        match header {
            Header::Named(name) => attributes.extend(joined(&cx.request.headers, name)),
            Header::Prefixed(prefix) => {
                let names = cx.request.headers.keys().filter(|name| name.as_str().starts_with(&**prefix));
                attributes.extend(names.filter_map(|name| joined(&cx.request.headers, name.as_str())));
            }
        }
    }
}

fn written(value: Var<'_>) -> Option<String> {
    Some(match value {
        Var::Str(text) => text.into_owned(),
        Var::Num(number) => number.to_string(),
        Var::Bool(flag) => flag.to_string(),
        Var::List(items) => serde_json::to_string(&items).ok()?,
    })
}

/// All values of a header.
fn joined(headers: &HeaderMap, name: &str) -> Option<KeyValue> {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    (!values.is_empty()).then(|| text(name, values.join(", ")))
}
