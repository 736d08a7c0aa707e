//! The answer's body on its way to the client.

use super::live::{Held, Live};
use crate::h1::{AnswerBody, Part, PassError};
use crate::h2_client;
use crate::lasting::Lasting;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use http_body::{Body, Frame, SizeHint};
use milecastle_plugin_api::HookPanicked;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::net::TcpStream;

/// Where the body comes from.
pub(super) enum Source {
    /// It is here; plugins have seen it.
    Whole(Bytes),
    /// The last of it is here; plugins have seen it.
    Ending { piece: Bytes, trailers: Option<Box<HeaderMap>> },
    /// Nothing more comes, though it should.
    Broken,
    /// From the upstream, untouched.
    Flowing(Upstream),
    /// From the upstream, each piece through the plugins.
    Filtered {
        body: Upstream,
        /// They follow what plugins put at the end.
        trailers: Option<Box<HeaderMap>>,
        /// The plugins have seen the end.
        ended: bool,
    },
}

/// A body that is read from an upstream.
pub(super) enum Upstream {
    Http1(Box<AnswerBody>),
    Http2(Box<h2_client::AnswerBody>),
}

impl Upstream {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Part>>> {
        match self {
            Self::Http1(body) => body.poll_part(cx),
            Self::Http2(body) => body.poll_part(cx),
        }
    }

    /// Whether the last part has been handed out.
    fn ended(&self) -> bool {
        match self {
            Self::Http1(body) => body.ended(),
            Self::Http2(body) => body.ended(),
        }
    }

    /// Bytes that are still to come, where that is known.
    fn remaining(&self) -> Option<u64> {
        match self {
            Self::Http1(body) => body.remaining(),
            Self::Http2(body) => body.remaining(),
        }
    }
}

/// How an answer is ended whose policy ends it before the upstream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    /// As a stream of events ends: a reader drops an event that is not whole, and asks again.
    Events,
    /// As gRPC ends a call, which may be made again.
    Grpc,
    /// It breaks off: what was sent must not pass for a whole answer.
    Cut,
}

/// The body of an answer. With it the request ends.
pub(crate) struct OutBody {
    source: Source,
    /// Present if the policy may end it.
    lasting: Option<Box<(Lasting, Farewell)>>,
    live: Option<Held>,
}

impl OutBody {
    /// A body of a response that belongs to no request any more.
    pub(super) fn empty() -> Self {
        Self { source: Source::Whole(Bytes::new()), lasting: None, live: None }
    }

    pub(super) fn new(source: Source, lasting: Option<Box<(Lasting, Farewell)>>, mut live: Held) -> Self {
        // Nobody need ask for a body that is empty from the start.
        live.complete |= match &source {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Flowing(body) => body.ended(),
            Source::Ending { .. } | Source::Broken | Source::Filtered { .. } => false,
        };
        Self { source, lasting, live: Some(live) }
    }

    /// Whether the client has said that it reads trailers (RFC 9110 §6.5.1).
    pub(crate) fn takes_trailers(&self) -> bool {
        let fields = self.live.as_ref().map(|live| live.cx.request.headers.get_all(http::header::TE));
        let mut words = fields.into_iter().flatten().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    }

    /// Whether what comes next can pass to a plain connection without being looked at or copied.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(&self.source, Source::Flowing(Upstream::Http1(body)) if body.may_pass())
    }

    /// Whether the client has yet to take what is passing.
    pub(crate) fn is_in_pipe(&self) -> bool {
        matches!(&self.source, Source::Flowing(Upstream::Http1(body)) if body.is_in_pipe())
    }

    /// Passes some of the body on to `to`, and says how much ([`AnswerBody::poll_pass`]).
    pub(crate) fn poll_pass(&mut self, to: &TcpStream, cx: &mut Context<'_>) -> Poll<Option<Result<usize, PassError>>> {
        if self.poll_superseded(cx).is_ready() {
            return Poll::Ready(None);
        }
        let (Source::Flowing(Upstream::Http1(body)), Some(live)) = (&mut self.source, &mut self.live) else {
            return Poll::Ready(None);
        };
        Poll::Ready(match ready!(body.poll_pass(to, &live.client.worker.pipes, cx)) {
            Some(Ok(bytes)) => {
                live.upstream_bytes += bytes as u64;
                let ended = body.ended();
                self.sent(bytes);
                if ended {
                    self.complete();
                }
                Some(Ok(bytes))
            }
            Some(Err(PassError::Upstream(error))) => Some(Err(PassError::Upstream(self.broken(error)))),
            other => other,
        })
    }

    /// Counts a piece that is handed to the connection.
    fn sent(&mut self, bytes: usize) {
        if let Some(live) = &mut self.live {
            live.cx.response.bytes_sent += bytes as u64;
            live.cx.response.body_bytes_sent += bytes as u64;
        }
    }

    /// Keeps trailers for whoever shows them when all is over; the client is sent them, if it takes any.
    fn note_trailers(&mut self, trailers: &HeaderMap, of_upstream: bool) {
        if !self.live.as_ref().is_some_and(|live| live.head_is_logged()) {
            return;
        }
        let takes = self.takes_trailers();
        let Some(live) = &mut self.live else { return };
        let trailers = Rc::new(trailers.clone());
        let sent = match live.cx.request.version {
            Version::HTTP_2 | Version::HTTP_3 => true,
            version => version == Version::HTTP_11 && takes,
        };
        live.cx.response.trailers = sent.then(|| trailers.clone());
        live.cx.upstream.trailers = of_upstream.then_some(trailers);
    }

    fn complete(&mut self) {
        if let Some(live) = &mut self.live {
            live.complete = true;
        }
    }

    /// Ready if the policy ends the answer now; what is left of it stands in the source then.
    fn poll_superseded(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((lasting, farewell)) = self.lasting.as_deref() else { return Poll::Pending };
        ready!(lasting.poll_over(cx));
        let farewell = *farewell;
        self.lasting = None;
        let mut piece = Bytes::new();
        let filtered = match (&self.source, &mut self.live) {
            (Source::Filtered { ended: true, .. } | Source::Whole(_), _) => return Poll::Pending,
            (Source::Filtered { .. }, Some(live)) if farewell != Farewell::Cut => filter(live, &mut piece, true),
            _ => Ok(()),
        };
        self.source = match farewell {
            Farewell::Cut => Source::Broken,
            _ if filtered.is_err() => Source::Broken,
            Farewell::Events => Source::Ending { piece, trailers: None },
            Farewell::Grpc => Source::Ending { piece, trailers: Some(Box::new(unavailable())) },
        };
        Poll::Ready(())
    }

    /// The answer cannot be completed: the connection to the client is cut.
    fn cut(&mut self) {
        if let Some(live) = &mut self.live {
            live.broken = true;
            // HTTP/1.0 knows no chunks: the end of a body of unknown length is that of the connection.
            live.client.activity.cut.set(live.cx.request.version < Version::HTTP_11);
        }
    }

    /// The upstream has failed: the connection to the client is cut.
    fn broken(&mut self, error: io::Error) -> io::Error {
        self.cut();
        if let Some(live) = &self.live {
            let node = live.cx.upstream.last().map(|attempt| attempt.node.clone()).unwrap_or_default();
            tracing::warn!(node = &*node, %error, "an upstream's answer broke off");
        }
        error
    }
}

/// What a gRPC client takes for a server that has gone, and a call that it may make again.
fn unavailable() -> HeaderMap {
    const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");
    let message = HeaderValue::from_static("the gateway has ended the call: its route or upstream has changed");
    [(HeaderName::from_static("grpc-status"), UNAVAILABLE), (HeaderName::from_static("grpc-message"), message)]
        .into_iter()
        .collect()
}

/// Runs the body filters on a piece, of global rules and then of the route, then the delayed ones.
pub(super) fn filter(live: &mut Live, piece: &mut Bytes, last: bool) -> Result<(), HookPanicked> {
    let filtering = live.cx.way.go_on("apisix.phase.body_filter");
    live.on_chains(|chain, cx| chain.run_body(cx, piece, last))?;
    let outcome = live.on_chains(|chain, cx| chain.run_delayed_body(cx, piece, last));
    if last {
        live.cx.way.end(filtering);
    }
    outcome
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let _told = this.poll_superseded(cx);
        loop {
            let (part, filtered) = match &mut this.source {
                Source::Whole(bytes) => {
                    let bytes = std::mem::take(bytes);
                    this.complete();
                    if bytes.is_empty() {
                        return Poll::Ready(None);
                    }
                    this.sent(bytes.len());
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Source::Ending { piece, trailers } => {
                    let piece = std::mem::take(piece);
                    if piece.is_empty() {
                        let trailers = trailers.take();
                        if let Some(trailers) = &trailers {
                            this.note_trailers(trailers, false);
                        }
                        this.complete();
                        return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))));
                    }
                    // Where no trailers follow, the connection does not ask again.
                    if trailers.is_none() {
                        this.complete();
                    }
                    this.sent(piece.len());
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                Source::Broken => {
                    this.cut();
                    let why = "what the answer was asked for under holds no longer";
                    return Poll::Ready(Some(Err(io::Error::other(why))));
                }
                Source::Filtered { ended: true, trailers, .. } => {
                    let trailers = trailers.take();
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))));
                }
                Source::Flowing(body) => (ready!(body.poll_part(cx)), false),
                Source::Filtered { body, .. } => (ready!(body.poll_part(cx)), true),
            };
            let last = matches!(part, None | Some(Ok(Part::Trailers(_))));
            let mut piece = match part {
                Some(Ok(Part::Data(data))) => {
                    if let Some(live) = &mut this.live {
                        live.upstream_bytes += data.len() as u64;
                    }
                    data
                }
                Some(Ok(Part::Trailers(found))) => {
                    this.note_trailers(&found, true);
                    if let Source::Filtered { trailers, .. } = &mut this.source {
                        *trailers = Some(Box::new(found));
                        Bytes::new()
                    } else {
                        this.complete();
                        return Poll::Ready(Some(Ok(Frame::trailers(found))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(this.broken(error)))),
                None => Bytes::new(),
            };
            if filtered
                && let Some(live) = &mut this.live
                && filter(live, &mut piece, last).is_err()
            {
                return Poll::Ready(Some(Err(this.broken(io::Error::other("a plugin's body filter panicked")))));
            }
            if let (true, Source::Filtered { ended, .. }) = (last, &mut this.source) {
                *ended = true;
            }
            if last || matches!(&this.source, Source::Flowing(body) if body.ended()) {
                this.complete();
            }
            if !piece.is_empty() {
                this.sent(piece.len());
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if last && !filtered {
                return Poll::Ready(None);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Ending { piece, trailers } => piece.is_empty() && trailers.is_none(),
            Source::Broken => false,
            Source::Flowing(body) => body.ended(),
            Source::Filtered { ended, trailers, .. } => *ended && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Flowing(body) => body.remaining().map_or_else(SizeHint::new, SizeHint::with_exact),
            Source::Ending { .. } | Source::Broken | Source::Filtered { .. } => SizeHint::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn next(body: &mut OutBody) -> Option<Frame<Bytes>> {
        match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(frame) => frame.map(Result::unwrap),
            Poll::Pending => panic!("all of it is here"),
        }
    }

    #[test]
    fn the_status_of_an_ended_call_follows_the_last_piece_of_its_filters() {
        let source = Source::Ending { piece: Bytes::from_static(b"last"), trailers: Some(Box::new(unavailable())) };
        let mut body = OutBody { source, lasting: None, live: None };
        assert_eq!(next(&mut body).unwrap().into_data().unwrap(), "last");
        assert!(!body.is_end_stream());
        assert_eq!(next(&mut body).unwrap().into_trailers().unwrap()["grpc-status"], "14");
        assert!(body.is_end_stream());
        assert!(next(&mut body).is_none());
    }
}
