//! A client connection that speaks HTTP/1.1, request by request.
//!
//! All of it happens in one task: the head is read, the request is handled, its answer is sent, what is left of its body is
//! dropped, and the next head is read. While a request is in work the client is watched for leaving.
//!
//! Invariants:
//! - An answer is sent whole, or the connection ends such that the client sees that it was not.
//! - The next head is looked for only behind a body that was read to its end.

use super::activity::Phase;
use super::client::Client;
use super::linger::linger;
use super::serve::{answer, note_end};
use super::tunnel::{self, Tunnel};
use super::watching::Watch;
use super::wire::{ClientIo, Wire};
use crate::h1::server::{Announced, BadHead, Fields, Framing, HeadError, Length, RequestHead, write_head};
use crate::h1::{Limits, Outbox, PassError};
use crate::interim::Interims;
use crate::request::{self, OutBody, Response};
use crate::upload::{Progress, Upload, discard};
use http::{HeaderMap, Method, StatusCode, Version, header};
use http_body::Body as _;
use std::any::Any;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// How long a client may take to accept the answer to a head that is refused.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);

/// How a connection ends.
enum Ended {
    /// Nothing more will be said, and nothing is unread.
    Done,
    /// The client is to read its last answer, and may still be sending.
    Answered,
    /// The head was too slow or is no good: that is said, then it ends.
    Refused(StatusCode),
    /// The client has closed while its request was in work.
    Gone,
    /// The limit of its phase was reached.
    Over,
    /// An answer could not be completed.
    Cut,
    Failed(io::Error),
    /// From here on bytes pass both ways.
    Switched(Box<Tunnel>),
}

/// A request whose head has been taken in.
struct Begun {
    taken: Result<request::Taken, Box<dyn Any + Send>>,
    http10: bool,
    keep_alive: bool,
    /// The answer has no body, whatever it says.
    to_head: bool,
}

struct Connection {
    client: Rc<Client>,
    wire: Rc<Wire>,
    watch: Watch,
    limits: Limits,
    out: Outbox,
}

/// Serves the connection to its end.
pub(super) async fn serve(client: Rc<Client>, wire: Rc<Wire>, watch: Watch) {
    let config = &client.worker.node.config.client;
    let limits = Limits { head_bytes: config.header_bytes, head_fields: config.header_count };
    let mut connection = Connection { client: client.clone(), wire, watch, limits, out: Outbox::default() };
    let ended = connection.run().await;
    note_end(&client, Box::pin(connection.end(ended)).await);
}

impl Connection {
    async fn run(&mut self) -> Ended {
        loop {
            let begun = match poll_fn(|cx| self.poll_begin(cx)).await {
                Ok(begun) => begun,
                Err(ended) => return ended,
            };
            if let Err(ended) = self.exchange(begun).await {
                return ended;
            }
        }
    }

    /// Reads the head of the next request and takes it in.
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<Begun, Ended>> {
        self.watch.leave_waker(cx);
        let worker = &self.client.worker;
        match self.wire.poll_head(cx, &worker.scratch, &|| worker.spare.take_map(), self.limits) {
            Poll::Ready(Ok(Some(head))) => Poll::Ready(Ok(self.begin(head))),
            Poll::Ready(Ok(None)) => Poll::Ready(Err(Ended::Done)),
            Poll::Ready(Err(HeadError::Io(error))) => Poll::Ready(Err(Ended::Failed(error))),
            Poll::Ready(Err(HeadError::Bad(bad))) => Poll::Ready(Err(self.refuse(bad))),
            Poll::Pending => {
                let activity = &self.client.activity;
                activity.reading.set(self.wire.inbound().is_ahead());
                match self.watch.over() {
                    None => Poll::Pending,
                    // A request that has arrived and was not yet seen is answered.
                    Some(_) if !activity.reading.get() && self.wire.is_readable() => Poll::Pending,
                    Some(Phase::Head) if activity.reading.get() && !activity.evicted.get() => {
                        worker.counters.slow_heads.up();
                        Poll::Ready(Err(Ended::Refused(StatusCode::REQUEST_TIMEOUT)))
                    }
                    Some(_) => Poll::Ready(Err(Ended::Over)),
                }
            }
        }
    }

    fn refuse(&self, bad: BadHead) -> Ended {
        self.client.worker.counters.bad_heads.up();
        tracing::debug!(peer = %self.client.facts.peer, error = %bad, "the head of a request was refused");
        Ended::Refused(bad.status())
    }

    fn begin(&self, RequestHead { head, length, keep_alive }: RequestHead) -> Begun {
        let http10 = head.version == Version::HTTP_10;
        let to_head = head.method == Method::HEAD;
        let body = (length != Length::Bytes(0)).then(|| {
            let awaited = head.seen.expect && !http10 && expects_continue(&head.headers);
            Upload::http1(self.wire.clone(), self.client.clone(), awaited)
        });
        let interims = if http10 { Interims::Nowhere } else { Interims::Http1(self.wire.clone()) };
        let taken = catch_unwind(AssertUnwindSafe(|| request::take(self.client.clone(), head, body, interims)));
        Begun { taken, http10, keep_alive, to_head }
    }

    /// Handles a request and sends its answer. `Ok`: another may follow.
    async fn exchange(&mut self, begun: Begun) -> Result<(), Ended> {
        let Begun { taken, http10, keep_alive, to_head } = begun;
        let mut response = {
            let mut handling = pin!(answer(self.client.worker.clone(), taken));
            poll_fn(|cx| match handling.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Ok(response)),
                Poll::Pending => match self.wire.poll_interim(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(Ended::Failed(error))),
                    Poll::Ready(Ok(())) | Poll::Pending => self.poll_ended(cx).map(Err),
                },
            })
            .await?
        };
        let tunnel = response.tunnel.take();
        let (mut sending, goes_on) = self.start(response, http10, keep_alive, to_head);
        let mut dropping = None;
        poll_fn(|cx| match sending.poll(self, cx) {
            Poll::Ready(sent) => Poll::Ready(sent),
            Poll::Pending => {
                self.poll_dropping(&mut dropping, cx);
                self.poll_ended(cx).map(Err)
            }
        })
        .await?;
        drop(sending);
        if let Some(tunnel) = tunnel {
            return Err(Ended::Switched(tunnel));
        }
        let activity = &self.client.activity;
        let goes_on = goes_on && !activity.closing.get();
        let progress = match activity.upload.get() {
            Progress::Coming if goes_on => {
                dropping.unwrap_or_else(|| Box::pin(discard(self.client.clone(), self.wire.clone()))).await
            }
            progress => progress,
        };
        match progress {
            Progress::Ended if goes_on => Ok(()),
            Progress::GivenUp => Err(Ended::Done),
            Progress::Ended if !activity.closing.get() && !self.wire.inbound().is_ahead() => Err(Ended::Done),
            _ => Err(Ended::Answered),
        }
    }

    /// Lays out the head of an answer. Says as well whether the connection goes on behind it.
    fn start(&mut self, response: Response, http10: bool, keep_alive: bool, to_head: bool) -> (Sending, bool) {
        let Response { status, headers, received, body, .. } = response;
        let bodiless =
            to_head || status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let framing = match body.size_hint().exact() {
            _ if bodiless => Framing::None,
            Some(length) => Framing::Length(length),
            None if http10 => Framing::UntilClose,
            None => Framing::Chunked,
        };
        let said = headers.contains_key(header::CONNECTION);
        let goes_on = keep_alive && framing != Framing::UntilClose && !(said && says_close(&headers));
        let announced = match goes_on {
            _ if said => Announced::Nothing,
            false => Announced::Close,
            true if http10 => Announced::KeepAlive,
            true => Announced::Nothing,
        };
        let worker = &self.client.worker;
        let text = self.out.text(&worker.scratch.text);
        self.wire.inbound().put_rest(text);
        write_head(text, status, http10, Fields { set: &headers, received: received.as_ref() }, framing, announced);
        if let Some(received) = received {
            worker.scratch.give_back(received);
        }
        worker.spare.put_map(headers);
        (Sending::new(body, framing), goes_on)
    }

    /// Goes on dropping a body that nobody reads any more while its answer is still being sent: a client that reads only once
    /// it has sent everything would wait for ever.
    fn poll_dropping(&self, dropping: &mut Option<Pin<Box<dyn Future<Output = Progress>>>>, cx: &mut Context<'_>) {
        let unread = self.client.activity.upload.get() == Progress::Coming && !self.wire.body_has_reader.get();
        if unread && !self.client.activity.closing.get() {
            let dropping = dropping.get_or_insert_with(|| Box::pin(discard(self.client.clone(), self.wire.clone())));
            // What it has reached is noted in the activity, where it is looked at once the answer is out.
            let _reached = dropping.as_mut().poll(cx).is_ready();
        }
    }

    /// Whether the connection ends while a request is in work.
    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Ended> {
        let activity = &self.client.activity;
        let watched = || self.wire.is_watched() || !self.client.worker.newcomers.may_wait(activity);
        let half_close = self.client.worker.node.config.client.half_close;
        if activity.in_flight.get() > 0 && watched() && self.wire.poll_gone(half_close, cx).is_ready() {
            return Poll::Ready(Ended::Gone);
        }
        match self.watch.over() {
            Some(phase) => {
                if phase == Phase::Blocked {
                    self.client.worker.counters.stuck_answers.up();
                }
                Poll::Ready(Ended::Over)
            }
            None => Poll::Pending,
        }
    }

    /// Sends what is laid out, and notes whether the client takes it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.out.pending();
        let sent = self.wire.poll_send(&mut self.out, cx, &self.client.worker.scratch);
        let activity = &self.client.activity;
        activity.blocked.set(sent.is_pending());
        if self.out.pending() != before {
            activity.written.set(true);
        }
        sent
    }

    /// The last that is said on the connection.
    async fn end(mut self, ended: Ended) -> io::Result<()> {
        match ended {
            Ended::Done if !self.wire.is_tls() => Ok(()),
            // Over TLS the client is told that nothing was cut off; nobody waits until it can be told.
            Ended::Done | Ended::Over => match poll_fn(|cx| Poll::Ready(self.wire.poll_finish(cx))).await {
                Poll::Ready(finished) => finished,
                Poll::Pending => Ok(()),
            },
            Ended::Answered => linger(&self.client, &self.wire).await,
            Ended::Refused(status) => {
                self.answer_unread(status).await?;
                linger(&self.client, &self.wire).await
            }
            Ended::Gone => Ok(()),
            Ended::Cut => match self.client.activity.cut.get() {
                true => self.wire.reset(),
                false => Ok(()),
            },
            Ended::Failed(error) => Err(error),
            Ended::Switched(tunnel) => {
                let io = ClientIo::new(self.wire.clone(), self.client.activity.clone());
                let _counted = tunnel::Counted::new(&self.client, &tunnel);
                tunnel::run(*tunnel, io).await
            }
        }
    }

    /// Answers a head that could not be read.
    async fn answer_unread(&mut self, status: StatusCode) -> io::Result<()> {
        let taken = catch_unwind(AssertUnwindSafe(|| request::take_unread(self.client.clone(), status)));
        let begun = Begun { taken, http10: false, keep_alive: false, to_head: false };
        match tokio::time::timeout(REFUSAL_PATIENCE, self.exchange(begun)).await? {
            Err(Ended::Failed(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether the client waits for 100 before it sends its body (RFC 9110 §10.1.1).
pub(super) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whether an answer ends its connection by what the gateway or a plugin has put into its fields.
fn says_close(headers: &HeaderMap) -> bool {
    let words =
        headers.get_all(header::CONNECTION).into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    words.map(<[u8]>::trim_ascii).any(|word| word.eq_ignore_ascii_case(b"close"))
}

/// An answer that is being sent. Its head is laid out.
struct Sending {
    /// Gone once its last piece is laid out; with it the request ends.
    body: Option<OutBody>,
    framing: Framing,
    /// What the announced length has left.
    left: u64,
}

impl Sending {
    fn new(body: OutBody, framing: Framing) -> Self {
        let left = if let Framing::Length(length) = framing { length } else { 0 };
        let body = (framing != Framing::None && !body.is_end_stream()).then_some(body);
        Self { body, framing, left }
    }

    fn poll(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        loop {
            if matches!(self.framing, Framing::Length(_)) && self.body.as_ref().is_some_and(OutBody::may_pass) {
                match ready!(self.poll_pass(connection, cx)) {
                    None => {}
                    Some(Ok(())) if self.body.is_none() => return Poll::Ready(Ok(())),
                    Some(Ok(())) => continue,
                    Some(Err(ended)) => return Poll::Ready(Err(ended)),
                }
            }
            let laid_out = self.poll_lay_out(&mut connection.out, &connection.client.worker.scratch.text, cx);
            match ready!(connection.poll_send(cx)) {
                Err(error) => return Poll::Ready(Err(Ended::Failed(error))),
                Ok(()) if ready!(laid_out).is_err() => return Poll::Ready(Err(Ended::Cut)),
                Ok(()) if self.body.is_none() => return Poll::Ready(Ok(())),
                Ok(()) => {}
            }
        }
    }

    /// Passes some of the body on behind what is laid out. `None`: what comes next has to be laid out.
    fn poll_pass(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Option<Result<(), Ended>>> {
        if connection.wire.is_tls() {
            return Poll::Ready(None);
        }
        if let Err(error) = ready!(connection.poll_send(cx)) {
            return Poll::Ready(Some(Err(Ended::Failed(error))));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let activity = &connection.client.activity;
        let passed = connection.wire.with_plain(|stream| body.poll_pass(stream, cx)).unwrap_or(Poll::Ready(None));
        activity.blocked.set(passed.is_pending() && body.is_in_pipe());
        Poll::Ready(match ready!(passed) {
            None => None,
            Some(Err(PassError::Upstream(_))) => Some(Err(Ended::Cut)),
            Some(Err(PassError::Client(error))) => Some(Err(Ended::Failed(error))),
            Some(Ok(bytes)) => {
                activity.written.set(true);
                self.left = self.left.saturating_sub(bytes as u64);
                if body.is_end_stream() {
                    self.body = None;
                }
                Some(Ok(()))
            }
        })
    }

    /// Lays out the next piece. The error: there will be no further one, though there should be.
    fn poll_lay_out(
        &mut self,
        out: &mut Outbox,
        spare: &RefCell<Vec<u8>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ()>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
        if !out.has_room() {
            return Poll::Ready(Ok(()));
        }
        let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            None => None,
            Some(Ok(frame)) => Some(frame),
            Some(Err(_)) => return Poll::Ready(Err(())),
        };
        let ended = frame.is_none() || body.is_end_stream();
        match frame.map(http_body::Frame::into_data) {
            Some(Ok(data)) => {
                self.left = match self.left.checked_sub(data.len() as u64) {
                    Some(left) => left,
                    None if matches!(self.framing, Framing::Length(_)) => return Poll::Ready(Err(())),
                    None => 0,
                };
                if self.framing == Framing::Chunked {
                    out.put_chunk(data, ended, spare);
                } else {
                    out.put(data, b"");
                }
            }
            Some(Err(frame)) => {
                let trailers = frame.into_trailers().ok().filter(|_| body.takes_trailers());
                out.put_last_chunk(trailers.as_ref(), spare);
                self.body = None;
                return Poll::Ready(Ok(()));
            }
            None if self.framing == Framing::Chunked => out.put_last_chunk(None, spare),
            None => {}
        }
        if ended {
            self.body = None;
            if self.left > 0 {
                return Poll::Ready(Err(()));
            }
        }
        Poll::Ready(Ok(()))
    }
}
