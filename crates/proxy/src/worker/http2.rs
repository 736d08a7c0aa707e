//! A client connection that speaks HTTP/2.

use super::activity::{Nature, Phase};
use super::client::Client;
use super::defer::defer;
use super::http2_frames::{Counted, calm_down};
use super::http2_head;
use super::http2_streams::{OnWorker, Streams};
use super::linger::linger;
use super::serve::{answer, note_end};
use super::watching::Watch;
use super::wire::{ClientIo, Wire};
use crate::request;
use crate::upload::Upload;
use http::Request;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::error::Error as _;
use std::future::{Future as _, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

/// Takes what hyper has read of a request.
fn take(client: Rc<Client>, request: Request<Incoming>) -> request::Taken {
    let (parts, incoming) = request.into_parts();
    let head = http2_head::check(parts, client.worker.node.config.client.header_count);
    if let Some(status) = head.fault {
        client.worker.counters.bad_heads.up();
        tracing::debug!(peer = %client.facts.peer, %status, "the head of an HTTP/2 request was refused");
    }
    let body = (!incoming.is_end_stream()).then(|| Upload::http2(incoming, &client));
    request::take(client, head, body)
}

/// The reason that the client was given, if the library has ended the connection for what the client did.
fn last_word(error: &hyper::Error) -> Option<h2::Reason> {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>())?;
    cause.reason().filter(|_| cause.is_library() && cause.is_go_away())
}

/// Serves the connection to its end.
pub(super) async fn serve(client: Rc<Client>, wire: Rc<Wire>, mut watch: Watch) {
    let limits = &client.worker.node.config.client;
    let counters = &client.worker.counters;
    let activity = &client.activity;
    activity.nature.set(Nature::Http2);
    let streams = activity.streams.get_or_init(|| Streams::new(limits, counters.clone(), Instant::now()));
    let mut builder = http2::Builder::new(OnWorker(streams.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(limits.pending_resets)
        .max_local_error_reset_streams(limits.pending_resets)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(limits.send_buffer);
    if !limits.ping_timeout.is_zero() {
        builder.keep_alive_interval(limits.ping_timeout).keep_alive_timeout(limits.ping_timeout);
    }
    let io = Counted::new(ClientIo::new(wire.clone(), activity.clone()), streams.clone());
    let (io, flusher) = defer(io);
    let service = {
        let (client, streams) = (client.clone(), streams.clone());
        service_fn(move |request| {
            let stream = streams.begin();
            let taken = catch_unwind(AssertUnwindSafe(|| take(client.clone(), request)));
            let answered = answer(client.worker.clone(), taken);
            // Boxed: the library and the runtime move a stream's task about until it runs, and once more when it has ended.
            Box::pin(async { Ok::<_, Infallible>(stream.answer(answered.await)) })
        })
    };
    let mut connection = Some(Box::pin(builder.serve_connection(TokioIo::new(io), service)));
    let mut closing = false;
    let ended = poll_fn(|cx| {
        watch.leave_waker(cx);
        if let Some(serving) = &mut connection {
            if watch.must_drain(&client) {
                closing = true;
                serving.as_mut().graceful_shutdown();
            }
            let polled = serving.as_mut().poll(cx);
            if streams.must_calm(activity.cancelled.get(), activity.begun.get()) {
                closing = true;
                flusher.put(&calm_down(streams.last()));
                // Its requests end with it.
                connection = None;
            } else if let Poll::Ready(polled) = polled {
                if let Err(error) = polled {
                    let Some(reason) = last_word(&error) else { return Poll::Ready(Err(io::Error::other(error))) };
                    tracing::debug!(peer = %client.facts.peer, %error, "an HTTP/2 connection was ended");
                    // More resets, CONTINUATION or small DATA frames than the library bears.
                    if reason == h2::Reason::ENHANCE_YOUR_CALM {
                        counters.http2_excess.up();
                    }
                    closing = true;
                }
                connection = None;
            }
        }
        let flushed = flusher.poll_send(cx)?;
        if connection.is_none() && flushed.is_ready() {
            return Poll::Ready(Ok(()));
        }
        match (watch.over(), &mut connection) {
            // The client is told, and has as long again to take leave.
            (Some(Phase::Idle), Some(serving)) if !closing => {
                closing = true;
                serving.as_mut().graceful_shutdown();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            (Some(phase), _) => {
                if phase == Phase::Head && streams.is_within_head() && !activity.evicted.get() {
                    counters.slow_heads.up();
                }
                Poll::Ready(Ok(()))
            }
            (None, _) => Poll::Pending,
        }
    })
    .await;
    drop(connection);
    let after = match ended {
        // What the client had under way when it was told to leave must not cost it the last answers.
        Ok(()) if closing => Box::pin(linger(&client, &wire)).await,
        other => other,
    };
    note_end(&client, after);
}
