//! A client connection that speaks HTTP/2.

use super::activity::{Nature, Phase};
use super::client::Client;
use super::defer::defer;
use super::http2_head;
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
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

/// Answer bytes of all streams of a connection that may wait for the client.
const SEND_BUFFER: usize = 1024 * 1024;

/// Runs futures of streams on the worker.
#[derive(Clone)]
struct OnWorker;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnWorker {
    fn execute(&self, future: F) {
        drop(tokio::task::spawn_local(async move {
            drop(future.await);
        }));
    }
}

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

/// Serves the connection to its end.
pub(super) async fn serve(client: Rc<Client>, wire: Rc<Wire>, mut watch: Watch) {
    let limits = &client.worker.node.config.client;
    client.activity.nature.set(Nature::Http2);
    let mut builder = http2::Builder::new(OnWorker);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(limits.pending_resets)
        .max_local_error_reset_streams(limits.pending_resets)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER);
    if !limits.ping_timeout.is_zero() {
        builder.keep_alive_interval(limits.ping_timeout).keep_alive_timeout(limits.ping_timeout);
    }
    let (io, flusher) = defer(ClientIo::new(wire.clone(), client.activity.clone()));
    let service = {
        let client = client.clone();
        service_fn(move |request| {
            let taken = catch_unwind(AssertUnwindSafe(|| take(client.clone(), request)));
            let answered = answer(client.worker.clone(), taken);
            async { Ok::<_, Infallible>(answered.await.into_http()) }
        })
    };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut done = false;
    let mut closing = false;
    let ended = poll_fn(|cx| {
        watch.leave_waker(cx);
        if watch.must_drain(&client) {
            closing = true;
            connection.as_mut().graceful_shutdown();
        }
        if !done {
            match connection.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => done = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Pending => {}
            }
        }
        let flushed = flusher.poll_send(cx)?;
        if done && flushed.is_ready() {
            return Poll::Ready(Ok(()));
        }
        match watch.over() {
            // The client is told, and has as long again to take leave.
            Some(Phase::Idle) if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(_) => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    })
    .await;
    let after = match ended {
        // What the client had under way when it was told to leave must not cost it the last answers.
        Ok(()) if closing => Box::pin(linger(&client, &wire)).await,
        other => other,
    };
    note_end(&client, after);
}
