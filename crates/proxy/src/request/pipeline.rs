//! Matching and the request phases of the plugins.

use super::live::Live;
use super::proxy::{self, Answer};
use super::{Refusal, nginx_status, refuse};
use crate::upload::Upload;
use crate::worker::Pinned;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, header};
use milecastle_matching::router::MatchInput;
use milecastle_plugin_api::{Body, BodyNeed, Chain, Reply, fields};
use milecastle_snapshot::{CompiledRoute, Outcome, Snapshot};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

/// Takes the request from the match to the head of the upstream's answer. The error is an answer made here.
pub(super) async fn run(live: &mut Live) -> Result<Answer, Refusal> {
    let access = live.cx.way.begin(|| "apisix.phase.access".into());
    let pinned = live.pinned.clone();
    let snapshot = &pinned.snapshot;
    if !snapshot.global_is_whole() {
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE));
    }
    if conditions_read(live, snapshot) {
        let most = live.client.worker.node.config.matched_body;
        Box::pin(read_body(live, most)).await?;
        if live.body.is_some() {
            live.client.worker.counters.matched_bodies_cut.up();
        }
    }
    let global = snapshot.global();
    let matching = live.cx.way.begin(|| "http_router_match".into());
    let found = find(live, &pinned);
    live.cx.way.end(matching);
    let Some(route) = found else {
        if let Some(counters) = nginx_status::answer(live) {
            return Err(Box::new(counters));
        }
        live.cx.global_phase = true;
        global.run_rewrite(&mut live.cx).await?;
        global.run_access(&mut live.cx).await?;
        live.cx.global_phase = false;
        return Err(Box::new(Reply::error_msg(StatusCode::NOT_FOUND, "404 Route Not Found")));
    };
    if let Outcome::Fail(status) = route.outcome {
        return Err(refuse(status));
    }

    if global.has_rewrite() {
        live.cx.global_phase = true;
        global.run_rewrite(&mut live.cx).await?;
        live.cx.global_phase = false;
    }
    let chain = &route.chain;
    if chain.has_rewrite() {
        chain.run_rewrite(&mut live.cx).await?;
    }
    let merged = lay_consumer_over(live, route).await?;
    let chain = merged.as_ref().unwrap_or(chain);
    let need = global.needs().request.max(chain.needs().request);
    if let BodyNeed::Whole { max_bytes } = need
        && matches!(live.cx.request.body, Body::Streaming { .. })
    {
        Box::pin(read_body(live, max_bytes)).await?;
    }
    if global.has_access() {
        live.cx.global_phase = true;
        global.run_access(&mut live.cx).await?;
        live.cx.global_phase = false;
    }
    if chain.has_access() {
        chain.run_access(&mut live.cx).await?;
    }
    live.cx.way.end(access);
    proxy::run(live, &pinned.snapshot, route).await
}

/// The matched route; its facts are noted in the context.
fn find<'p>(live: &mut Live, pinned: &'p Pinned) -> Option<&'p CompiledRoute> {
    let cx = &live.cx;
    let raw_host = fields::get(&cx.request.headers, &header::HOST);
    let input = MatchInput {
        path: live.match_path.as_deref().unwrap_or_else(|| cx.request.normal_path()),
        host: cx.request.host(),
        raw_host: raw_host.map(HeaderValue::as_bytes).unwrap_or_default(),
        method: cx.request.method.as_str(),
        addr: cx.client_ip,
    };
    let found = pinned.snapshot.router().find(&input, cx)?;
    let (route, pattern, host) = (found.value(), found.pattern(), found.host());
    let cx = &mut live.cx;
    cx.matched_uri = Some(pattern.clone());
    cx.matched_path = live.match_path.take();
    cx.matched_host = host.cloned();
    cx.route = Some(route.info.clone());
    cx.chain = Some(route.chain.clone());
    Some(route)
}

/// Lays the consumer's plugins over the route's, and runs those that the consumer alone brings. Gives the chain that is in force
/// then, if it is another one.
async fn lay_consumer_over(live: &mut Live, route: &CompiledRoute) -> Result<Option<Arc<Chain>>, Refusal> {
    let Some(consumer) = &live.cx.consumer else { return Ok(None) };
    if consumer.group_id.is_some() && !consumer.group_found {
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE));
    }
    if consumer.overlay.is_empty() {
        return Ok(None);
    }
    let merged = live.client.worker.overlays.get(&route.chain, consumer);
    live.cx.chain = Some(merged.clone());
    merged.run_rewrite(&mut live.cx).await?;
    Ok(Some(merged))
}

/// Whether conditions of routes read this request's body: a type that has fields, or any that may be a GraphQL document.
fn conditions_read(live: &Live, snapshot: &Snapshot) -> bool {
    const WITH_FIELDS: [&str; 3] = ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"];
    if live.body.is_none() || !(snapshot.wants_fields() || snapshot.wants_document()) {
        return false;
    }
    let request = &live.cx.request;
    let kind = request.header("content-type").unwrap_or_default();
    let is = |readable: &&str| kind.get(..readable.len()).is_some_and(|start| start.eq_ignore_ascii_case(readable));
    snapshot.wants_document() && request.method == Method::POST || snapshot.wants_fields() && WITH_FIELDS.iter().any(is)
}

/// Reads the body, or its first `max_bytes`.
async fn read_body(live: &mut Live, max_bytes: usize) -> Result<(), Refusal> {
    let Some(upload) = &mut live.body else { return Ok(()) };
    let (bytes, ended) = read(upload, max_bytes, live.client.worker.node.config.client.body_timeout).await?;
    if ended {
        live.body = None;
    }
    live.cx.request.body_bytes = bytes.len() as u64;
    live.cx.request.body = Body::Read { bytes, partial: !ended };
    Ok(())
}

/// Reads until the body ends or `keep` bytes have come; says which. The last piece may go beyond `keep`.
pub(super) async fn read(upload: &mut Upload, keep: usize, patience: Duration) -> Result<(Bytes, bool), Refusal> {
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    while !upload.is_ended() {
        let piece = tokio::time::timeout(patience, poll_fn(|cx| upload.poll_piece(cx))).await;
        let piece = piece.unwrap_or_else(|_| Err(upload.too_slow()));
        let Some(data) = piece.map_err(|error| refuse(error.status()))? else { break };
        if first.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&data);
        }
        if first.len().max(more.len()) >= keep && !upload.is_ended() {
            return Ok((if more.is_empty() { first } else { more.freeze() }, false));
        }
    }
    Ok((if more.is_empty() { first } else { more.freeze() }, true))
}
