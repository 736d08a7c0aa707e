//! One request over HTTP/3, on a stream of its own, from its first byte until the client has the whole of the answer.

use super::connection::{Http3, Open};
use super::head::{self, Unreadable};
use crate::config::ClientLimits;
use crate::h1::server::date;
use crate::h3::{self, Body, Frames, StreamFault, code, frame};
use crate::interim::Interims;
use crate::request::{self, Head, Response};
use crate::upload::Upload;
use crate::worker::http1::expects_continue;
use crate::worker::serve::answer;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use http_body::Body as _;
use quinn::{RecvStream, SendStream, VarInt, WriteError};
use std::cell::Cell;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Fields that have no place in an answer (RFC 9114 §4.2); a plugin may have set one.
const OF_A_CONNECTION: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Why a stream does not end with the whole of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The client has left, or given up on it.
    Client,
    /// The client takes nothing of it.
    Stuck,
    /// It is reset for this reason.
    With(VarInt),
}

/// Why a request goes no further than to its head.
enum NoHead {
    Answered { status: StatusCode, to_head: bool },
    Cut(Cut),
}

impl NoHead {
    /// Nobody knows what is asked for.
    fn unread(status: StatusCode) -> Self {
        Self::Answered { status, to_head: false }
    }
}

impl From<StreamFault> for NoHead {
    fn from(_: StreamFault) -> Self {
        Self::Cut(Cut::Client)
    }
}

/// Serves a request.
pub(super) async fn serve(open: Open, send: SendStream, recv: RecvStream) {
    let connection = &*open.0;
    let patience = connection.client.worker.node.config.client.send_timeout;
    // Ready if the client gives up, and also once it has acknowledged the whole of an answer.
    let mut over = pin!(send.stopped());
    let mut out = Out { send, patience, code: Some(code::REQUEST_CANCELLED), laid_out: Vec::new() };
    let waste = Waste(Cell::new(Some(connection)));
    let exchanged = tokio::select! {
        _given_up = &mut over => return,
        exchanged = exchange(connection, &waste, &mut out, recv) => exchanged,
    };
    let cut = match exchanged {
        // The connection is kept until then: its end would take along what is on its way.
        Ok(()) => tokio::time::timeout(patience, over).await.err().map(|_| Cut::Stuck),
        Err(cut) => Some(cut),
    };
    match cut {
        Some(Cut::Stuck) => {
            connection.client.worker.counters.http3_stuck_streams.up();
            out.code = Some(code::REQUEST_CANCELLED);
        }
        Some(Cut::With(code)) => out.code = Some(code),
        Some(Cut::Client) | None => {}
    }
}

/// Takes the request in and sends its answer.
async fn exchange(connection: &Http3, waste: &Waste<'_>, out: &mut Out, recv: RecvStream) -> Result<(), Cut> {
    let client = &connection.client;
    let (worker, limits) = (&client.worker, &client.worker.node.config.client);
    let mut frames = Frames::new(connection.quic.clone(), recv);
    let read = tokio::time::timeout(limits.header_timeout, read_head(&mut frames, limits)).await;
    let (head, length) = match read.unwrap_or(Err(NoHead::unread(StatusCode::REQUEST_TIMEOUT))) {
        Ok(read) => read,
        Err(NoHead::Cut(cut)) => return Err(cut),
        Err(NoHead::Answered { status, to_head }) => {
            waste.none();
            frames.stop(code::NO_ERROR);
            let late = status == StatusCode::REQUEST_TIMEOUT;
            if late {
                worker.counters.slow_heads.up()
            } else {
                worker.counters.bad_heads.up()
            }
            tracing::debug!(peer = %client.facts.peer, %status, "the head of an HTTP/3 request was refused");
            let taken = catch_unwind(AssertUnwindSafe(|| request::take_unread(client.clone(), status)));
            return out.send_response(answer(worker.clone(), taken).await, to_head).await;
        }
    };
    if let Some(status) = head.fault {
        worker.counters.bad_heads.up();
        tracing::debug!(peer = %client.facts.peer, %status, "the head of an HTTP/3 request was refused");
    }
    let mut body = Body::new(frames, length, limits.header_bytes);
    let is_empty = match poll_fn(|cx| Poll::Ready(body.poll_empty(cx))).await {
        Poll::Ready(is_empty) => is_empty,
        // The end of its stream may come after the head.
        Poll::Pending if head.fault.is_none() && !head.seen.expect && is_likely_empty(&head.method, length) => {
            tokio::time::timeout(limits.body_timeout, poll_fn(|cx| body.poll_empty(cx))).await.unwrap_or(false)
        }
        Poll::Pending => false,
    };
    waste.none();
    if !is_empty {
        let Some(share) = connection.room.take(length) else {
            worker.counters.http3_bodies_refused.up();
            tracing::debug!(peer = %client.facts.peer, "an HTTP/3 request was refused: there is no room for its body");
            body.reject();
            return Err(Cut::With(code::REQUEST_REJECTED));
        };
        body.hold(share);
    }
    let expectation = (!is_empty && head.seen.expect && expects_continue(&head.headers)).then(|| body.expect());
    let asks_for_head = head.method == Method::HEAD;
    let upload = (!is_empty).then(|| Upload::http3(body, limits.body_bytes, worker.counters.clone()));
    let told = Rc::<h3::Interims>::default();
    let interims = Interims::Http3(told.clone());
    let taken = catch_unwind(AssertUnwindSafe(|| request::take(client.clone(), head, upload, interims)));
    let mut answered = pin!(answer(worker.clone(), taken));
    let mut expectation = expectation.as_deref();
    let response = loop {
        let wanted = async {
            match expectation {
                Some(expectation) => expectation.wanted().await,
                None => std::future::pending().await,
            }
        };
        // What is said in advance waits for the client's window, and the request goes on meanwhile: the client may read nothing
        // before it has sent its body.
        tokio::select! {
            response = &mut answered => break response,
            () = wanted => {
                expectation = None;
                out.put_fields(Some(StatusCode::CONTINUE), &HeaderMap::new());
            }
            (status, fields) = told.next() => out.put_fields(Some(status), &fields),
            written = out.write(), if out.is_behind() => written?,
        }
    };
    while let Some((status, fields)) = told.take() {
        out.put_fields(Some(status), &fields);
    }
    out.send_response(response, asks_for_head).await
}

/// Whether a request most likely has no body. Then nothing is lost by waiting until that is known, while room for one would be taken
/// from others.
fn is_likely_empty(method: &Method, length: Option<u64>) -> bool {
    let methods = [Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE];
    length.map_or_else(|| methods.contains(method), |length| length == 0)
}

/// Reads a request's head, and the length of the body that it announces.
async fn read_head(frames: &mut Frames, limits: &ClientLimits) -> Result<(Head, Option<u64>), NoHead> {
    let Some((kind, length)) = frames.next_known().await? else {
        return Err(NoHead::Cut(Cut::With(code::REQUEST_INCOMPLETE)));
    };
    if kind != frame::HEADERS {
        return Err(frames.refuse(code::FRAME_UNEXPECTED, "a request begins with its head").into());
    }
    // What is encoded is hardly ever longer than what it stands for.
    if length > limits.header_bytes as u64 {
        return Err(NoHead::unread(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    let block = frames.payload(length).await?;
    head::read(&block, limits).map_err(|unreadable| match unreadable {
        Unreadable::Answered { status, to_head } => NoHead::Answered { status, to_head },
        Unreadable::Undecodable => frames.refuse(code::DECOMPRESSION_FAILED, "a head cannot be decoded").into(),
    })
}

/// Counts a stream that ends before there is a request, at next to no cost for its client.
struct Waste<'c>(Cell<Option<&'c Http3>>);

impl Waste<'_> {
    /// There is a request.
    fn none(&self) {
        self.0.set(None);
    }
}

impl Drop for Waste<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0.get() {
            connection.waste();
        }
    }
}

/// The gateway's side of a stream.
struct Out {
    send: SendStream,
    /// How long the client may take nothing.
    patience: Duration,
    /// With what the stream is reset, unless it has come to its end.
    code: Option<VarInt>,
    /// What has yet to be sent, in its order.
    laid_out: Vec<Bytes>,
}

impl Out {
    async fn send_response(&mut self, response: Response, asked_for_head: bool) -> Result<(), Cut> {
        let (parts, mut body) = response.into_http().into_parts();
        let (status, mut fields) = (parts.status, parts.headers);
        for name in OF_A_CONNECTION {
            fields.remove(name);
        }
        if let (false, Some(date)) = (fields.contains_key(header::DATE), date()) {
            fields.insert(header::DATE, date);
        }
        let bodiless = asked_for_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if let (false, Some(length)) = (bodiless, body.size_hint().exact())
            && !fields.contains_key(header::CONTENT_LENGTH)
        {
            fields.insert(header::CONTENT_LENGTH, length.into());
        }
        self.put_fields(Some(status), &fields);
        drop(fields);
        self.flush().await?;
        while !bodiless && !body.is_end_stream() {
            let Some(part) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await else { break };
            let part = part.map_err(|_| Cut::With(code::INTERNAL_ERROR))?;
            match part.into_data() {
                Ok(data) => self.put(frame::DATA, data),
                Err(part) => {
                    if let Ok(trailers) = part.into_trailers() {
                        self.put_fields(None, &trailers);
                    }
                }
            }
            self.flush().await?;
        }
        self.send.finish().map_err(|_| Cut::Client)?;
        self.code = None;
        Ok(())
    }

    /// Lays a head out, or trailers.
    fn put_fields(&mut self, status: Option<StatusCode>, fields: &HeaderMap) {
        let mut block = Vec::new();
        h3::encode(status, fields, &mut block);
        self.put(frame::HEADERS, block.into());
    }

    /// Lays a frame out.
    fn put(&mut self, kind: u64, payload: Bytes) {
        self.laid_out.extend([Bytes::from(h3::frame_head(kind, payload.len())), payload]);
    }

    /// Whether something that is laid out has yet to be sent.
    fn is_behind(&self) -> bool {
        !self.laid_out.is_empty()
    }

    /// Sends all that is laid out, as fast as the client takes it.
    async fn flush(&mut self) -> Result<(), Cut> {
        while self.is_behind() {
            tokio::time::timeout(self.patience, self.write()).await.unwrap_or(Err(Cut::Stuck))?;
        }
        Ok(())
    }

    /// Sends some of what is laid out, as soon as the client takes it. Cancel safe.
    async fn write(&mut self) -> Result<(), Cut> {
        let written = self.send.write_chunks(&mut self.laid_out).await;
        self.laid_out.retain(|chunk| !chunk.is_empty());
        match written {
            Ok(_) => Ok(()),
            Err(WriteError::Stopped(_) | WriteError::ConnectionLost(_)) => Err(Cut::Client),
            Err(_) => Err(Cut::With(code::INTERNAL_ERROR)),
        }
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        // The library would end the stream as if the answer were whole.
        if let Some(code) = self.code {
            self.send.reset(code).ok();
        }
    }
}
