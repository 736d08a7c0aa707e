//! The answer's head on its way to the client.

use super::body::{Farewell, OutBody, Source, Upstream};
use super::live::{Held, Live};
use super::proxy::Answer;
use super::{Response, upgrade};
use crate::h1::{Received, Started};
use crate::lasting::{Kind, Lasting};
use crate::upload::Progress;
use crate::worker::Tunnel;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use milecastle_plugin_api::{HookPanicked, Reply, ResponseSource, WhenSuperseded};

const UPSTREAM_STATUS: HeaderName = HeaderName::from_static("x-apisix-upstream-status");

/// Sends on what the upstream has answered.
pub(super) fn with_answer(mut live: Held, answer: Answer) -> Response {
    let response = &mut live.cx.response;
    response.source = ResponseSource::Upstream;
    match answer {
        Answer::Proxied { head, body } => {
            (response.status, response.headers) = (head.status, head.headers);
            match body {
                Started::Whole(bytes) => {
                    live.upstream_bytes = bytes.len() as u64;
                    finish(live, head.received, Source::Whole(bytes))
                }
                Started::Flowing(body) => finish(live, head.received, Source::Flowing(Upstream::Http1(body))),
            }
        }
        Answer::Streamed(answered) => {
            (response.status, response.headers) = (answered.status, answered.headers);
            finish(live, None, Source::Flowing(Upstream::Http2(answered.body)))
        }
        Answer::Switched { head, conn, idle } => {
            let websocket = upgrade::is_to_websocket(&head.headers);
            let protocol = head.headers.get(header::UPGRADE).cloned();
            (response.status, response.headers) = (head.status, head.headers);
            if filter_head(&mut live).is_err() {
                return refused(live);
            }
            let response = &mut live.cx.response;
            if response.status != StatusCode::SWITCHING_PROTOCOLS {
                // A plugin has made another answer of it. To the upstream it was its last word over HTTP.
                response.headers.remove(header::UPGRADE);
                return finish_filtered(live, None, Source::Whole(Bytes::new()));
            }
            // Whatever plugins have done to these: a 101 without them is none (RFC 9110 §7.8, §15.2.2).
            response.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            if let Some(protocol) = protocol {
                response.headers.insert(header::UPGRADE, protocol);
            }
            let (status, headers) = (response.status, response.headers.clone());
            live.begin_answer();
            let (upstream, first) = conn.into_parts();
            let kind = if websocket { Kind::WebSocket } else { Kind::Tunnel };
            let lasting = live.watch(kind, live.cx.timing.started);
            let tunnel = Box::new(Tunnel { upstream, first, websocket, idle, lasting, request: live });
            Response { status, headers, received: None, body: OutBody::empty(), tunnel: Some(tunnel) }
        }
    }
}

/// Sends an answer made by the gateway.
pub(super) fn with_reply(mut live: Held, reply: Reply) -> Response {
    live.cx.global_phase = false;
    let tried = live.cx.upstream.last().is_some();
    let from_plugin = reply.plugin.is_some();
    if let Some(plugin) = reply.plugin.filter(|_| reply.status.as_u16() >= 400) {
        tracing::debug!(plugin, status = reply.status.as_u16(), "a plugin ended the request");
    }
    let (status, headers, body) = reply.into_parts();
    let response = &mut live.cx.response;
    response.source = if tried && !from_plugin { ResponseSource::Nginx } else { ResponseSource::Apisix };
    response.status = status;
    response.headers = headers;
    finish(live, None, Source::Whole(body))
}

/// Runs the header filters and puts the response together.
fn finish(mut live: Held, mut received: Option<Received>, source: Source) -> Response {
    match &mut received {
        Some(received) => set_beside(&mut live, received),
        None if filter_head(&mut live).is_err() => return refused(live),
        None => {}
    }
    finish_filtered(live, received, source)
}

/// Puts the response together whose head has been filtered.
fn finish_filtered(mut live: Held, received: Option<Received>, source: Source) -> Response {
    let bodiless = live.cx.request.received_method() == Method::HEAD
        || matches!(live.cx.response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let seen = live.body_is_seen();
    let source = match source {
        Source::Whole(mut bytes) if seen => {
            if super::body::filter(&mut live, &mut bytes, true).is_err() {
                return refused(live);
            }
            if !bodiless {
                live.cx.response.headers.remove(header::CONTENT_LENGTH);
            }
            Source::Whole(bytes)
        }
        Source::Flowing(body) if seen => {
            live.cx.response.headers.remove(header::CONTENT_LENGTH);
            Source::Filtered { body, trailers: None, ended: false }
        }
        other => other,
    };
    live.complete = bodiless;
    send(live, received, if bodiless { Source::Whole(Bytes::new()) } else { source })
}

/// The response as the protocols take it. From here on the request ends when its body does.
fn send(mut live: Held, received: Option<Received>, source: Source) -> Response {
    if live.cx.request.version < Version::HTTP_2 && ends_connection(&live) {
        live.client.activity.closing.set(true);
        live.cx.response.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    live.begin_answer();
    let logged = live.head_is_logged();
    let lasting = if matches!(source, Source::Flowing(_) | Source::Filtered { .. }) { watch(&live) } else { None };
    let sent = &mut live.cx.response;
    let status = sent.status;
    let headers = if logged { sent.headers.clone() } else { std::mem::take(&mut sent.headers) };
    sent.bytes_sent += head_bytes(&headers) + received.as_ref().map_or(0, Received::bytes);
    Response { status, headers, received, body: OutBody::new(source, lasting, live), tunnel: None }
}

/// Watches an answer that is flowing, where its policy may end it, and says how that would be done.
fn watch(live: &Live) -> Option<Box<(Lasting, Farewell)>> {
    if live.when_superseded() == WhenSuperseded::Keep {
        return None;
    }
    let kind = live.cx.response.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let is = |wanted: &str| kind.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted.as_bytes()));
    let started = live.cx.timing.started;
    let later = started + live.client.worker.node.config.lasting.answers_from;
    let (farewell, not_before) = if is("text/event-stream") {
        (Farewell::Events, started)
    } else if is("application/grpc") && live.cx.request.version >= Version::HTTP_2 {
        (Farewell::Grpc, later)
    } else {
        (Farewell::Cut, later)
    };
    Some(Box::new((live.watch(Kind::Answer, not_before)?, farewell)))
}

/// Whether no further request is taken from an HTTP/1 connection after this answer.
fn ends_connection(live: &Live) -> bool {
    // What could not be understood may have been misunderstood.
    let refused = !live.plugins;
    let unread = matches!(live.client.activity.upload.get(), Progress::Long | Progress::Awaited | Progress::Spoilt);
    let worker = &live.client.worker;
    refused || unread || worker.is_leaving() || worker.node.config.client.keepalive_timeout.is_zero()
}

/// `header_filter`: what the gateway sets, then global rules, then the route's plugins.
fn filter_head(live: &mut Live) -> Result<(), HookPanicked> {
    let worker = live.client.worker.clone();
    let headers = &mut live.cx.response.headers;
    headers.insert(header::SERVER, worker.server_header.clone());
    if let Some(alternative) = &live.client.alternative {
        headers.insert(header::ALT_SVC, alternative.clone());
    }
    if let Some(last) = live.cx.upstream.last()
        && (last.status >= 500 || worker.node.config.show_upstream_status)
    {
        let list = live.cx.upstream.attempts().map(|attempt| attempt.status.to_string()).collect::<Vec<_>>().join(", ");
        if let Ok(list) = HeaderValue::from_str(&list) {
            live.cx.response.headers.insert(UPSTREAM_STATUS, list);
        }
    }
    let filtering = live.cx.way.begin(|| "apisix.phase.header_filter".into());
    let outcome = live.on_chains(|chain, cx| chain.run_headers(cx));
    live.cx.way.end(filtering);
    outcome
}

/// What the gateway sets on an answer whose fields nobody looks at, and what plugins have asked for.
fn set_beside(live: &mut Live, received: &mut Received) {
    received.set.push((header::SERVER, live.client.worker.server_header.clone()));
    live.cx.list_response_headers(&mut received.set);
}

/// A filter has panicked: nothing of the answer goes out. The filters have had their turn.
fn refused(mut live: Held) -> Response {
    let (status, mut headers, body) = Reply::status(StatusCode::INTERNAL_SERVER_ERROR).into_parts();
    headers.insert(header::SERVER, live.client.worker.server_header.clone());
    live.cx.response.source = ResponseSource::Apisix;
    live.cx.response.status = status;
    live.cx.response.headers = headers;
    send(live, None, Source::Whole(body))
}

/// About what the head takes on the wire.
fn head_bytes(headers: &HeaderMap) -> u64 {
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    fields as u64 + 19
}
