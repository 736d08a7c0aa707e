//! The body of a request.

use super::frames::{Frames, StreamFault};
use super::qpack::{self, BlockFault};
use super::room::Share;
use super::{code, frame};
use crate::fields::is_of_a_connection;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::sync::Notify;

/// Why a body cannot be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error(transparent)]
    Stream(#[from] StreamFault),
    /// It has another length than was said, or trailers that are none.
    #[error("the body is malformed")]
    Malformed,
}

/// What a client waits for that sends its body only if it is told to go on (`Expect: 100-continue`).
#[derive(Debug, Default)]
pub(crate) struct Expectation {
    told: Cell<bool>,
    wanted: Notify,
}

impl Expectation {
    /// Waits until somebody reads the body. Cancel safe.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    fn want(&self) {
        if !self.told.replace(true) {
            self.wanted.notify_one();
        }
    }
}

/// How far a body has come.
#[derive(Debug)]
enum At {
    /// Before the head of a frame.
    Frames,
    /// Within a frame of data.
    Data(u64),
    /// Within a frame that means nothing.
    Unknown(u64),
    /// Within the trailers.
    Trailers {
        left: u64,
        gathered: Vec<u8>,
    },
    /// Behind the trailers: no frame that means anything may follow.
    Behind,
    End,
    /// Found so before anybody read it.
    Broken(BodyFault),
}

/// The body of a request, while it comes.
pub(crate) struct Body {
    frames: Frames,
    at: At,
    /// Bytes that are to come, where the client has said so.
    left: Option<u64>,
    /// Bytes that trailers may have.
    most_trailers: usize,
    trailers: Option<HeaderMap>,
    expectation: Option<Rc<Expectation>>,
    /// What of its connection's room it may hold, until it has ended.
    share: Option<Share>,
}

impl Body {
    /// What follows a head that has said this `length`.
    pub(crate) fn new(frames: Frames, length: Option<u64>, most_trailers: usize) -> Self {
        Self { frames, at: At::Frames, left: length, most_trailers, trailers: None, expectation: None, share: None }
    }

    /// What it may hold.
    pub(crate) fn hold(&mut self, share: Share) {
        self.share = Some(share);
    }

    /// Tells the client that nothing was done with it, so that all may be sent again (RFC 9114 §4.1.1).
    pub(crate) fn reject(mut self) {
        self.frames.stop(code::REQUEST_REJECTED);
    }

    /// The client waits for being told to go on; who does that waits for the answer of this.
    pub(crate) fn expect(&mut self) -> Rc<Expectation> {
        self.expectation.get_or_insert_default().clone()
    }

    /// Whether there is nothing of it; ready once a frame that means something or the end has come.
    pub(crate) fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            match &mut self.at {
                At::Unknown(0) => self.at = At::Frames,
                At::Unknown(left) => {
                    if let Err(fault) = ready!(self.frames.poll_skip(left, cx)) {
                        self.at = At::Broken(fault.into());
                    }
                }
                At::Frames => match ready!(self.frames.poll_head(cx)) {
                    Ok(None) if self.left.unwrap_or(0) == 0 => self.at = At::End,
                    // The end comes too early, as the one who reads it is told.
                    Ok(None) | Err(_) => return Poll::Ready(false),
                    Ok(Some(head)) => match self.check(head) {
                        Ok(()) => self.begin(head),
                        Err(fault) => self.at = At::Broken(fault),
                    },
                },
                _ => return Poll::Ready(self.is_ended()),
            }
        }
    }

    /// Bytes that are to come, where the client has said so.
    pub(crate) fn length(&self) -> Option<u64> {
        self.left
    }

    /// Whether it has been read to its end.
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.at, At::End)
    }

    /// The trailers, once.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// The next piece, never empty; `None` at the end.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyFault>> {
        if let Some(expectation) = &self.expectation {
            expectation.want();
        }
        loop {
            match &mut self.at {
                At::End => return Poll::Ready(Ok(None)),
                At::Broken(fault) => return Poll::Ready(Err(*fault)),
                At::Data(0) | At::Unknown(0) => self.at = if self.trailers.is_some() { At::Behind } else { At::Frames },
                At::Data(left) => {
                    let piece = ready!(self.frames.poll_payload(left, cx))?;
                    return Poll::Ready(self.count(piece.len()).map(|()| Some(piece)));
                }
                At::Unknown(left) => ready!(self.frames.poll_skip(left, cx))?,
                At::Trailers { left, gathered } => {
                    ready!(self.frames.poll_gather(left, gathered, cx))?;
                    let gathered = std::mem::take(gathered);
                    self.trailers = Some(self.read_trailers(&gathered)?);
                    self.at = At::Behind;
                }
                At::Frames | At::Behind => match ready!(self.frames.poll_head(cx))? {
                    None => return Poll::Ready(self.end()),
                    Some(head) => {
                        self.check(head)?;
                        self.begin(head);
                    }
                },
            }
        }
    }

    /// A frame has begun.
    fn begin(&mut self, (kind, length): (u64, u64)) {
        self.at = match kind {
            frame::DATA => At::Data(length),
            frame::HEADERS => At::Trailers { left: length, gathered: Vec::new() },
            _ => At::Unknown(length),
        };
    }

    /// Whether a frame may come here, and have this length.
    fn check(&self, (kind, length): (u64, u64)) -> Result<(), BodyFault> {
        let expected = match kind {
            frame::DATA | frame::HEADERS => matches!(self.at, At::Frames),
            _ => !frame::is_known(kind),
        };
        if !expected {
            return Err(self.frames.refuse(code::FRAME_UNEXPECTED, "a frame out of its place").into());
        }
        let most = if kind == frame::HEADERS { self.most_trailers as u64 } else { u64::MAX };
        if length > most { Err(BodyFault::Malformed) } else { Ok(()) }
    }

    fn count(&mut self, bytes: usize) -> Result<(), BodyFault> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(bytes as u64).ok_or(BodyFault::Malformed)?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Option<Bytes>, BodyFault> {
        self.at = At::End;
        self.share = None;
        if self.left.unwrap_or(0) > 0 { Err(BodyFault::Malformed) } else { Ok(None) }
    }

    fn read_trailers(&self, block: &[u8]) -> Result<HeaderMap, BodyFault> {
        let mut fields = HeaderMap::new();
        let mut sound = true;
        let decoded = qpack::decode(block, self.most_trailers as u64, |name, value| {
            match (HeaderName::from_lowercase(name), HeaderValue::from_bytes(value)) {
                (Ok(name), Ok(value)) => {
                    sound &= !is_of_a_connection(&name, &value) && fields.try_append(name, value).is_ok();
                }
                // A pseudo-header field among them (RFC 9114 §4.3).
                _ => sound = false,
            }
        });
        match decoded {
            Ok(()) if sound => Ok(fields),
            Ok(()) | Err(BlockFault::TooLarge) => Err(BodyFault::Malformed),
            Err(BlockFault::Malformed) => {
                Err(self.frames.refuse(code::DECOMPRESSION_FAILED, "trailers cannot be decoded").into())
            }
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.is_ended() {
            // What is not wanted need not be sent (RFC 9114 §4.1.1).
            self.frames.stop(code::NO_ERROR);
        }
    }
}
