//! The body of an answer, read from its stream, and what is still sent of the request's meanwhile.

use super::pool::Taken;
use super::sender::Sender;
use crate::deadline::Deadline;
use crate::h1::{Outgoing, Part, Patience, PumpError};
use h2::{Reason, RecvStream};
use http::{HeaderMap, header};
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::task::JoinHandle;

/// How the stream broke. An HTTP/2 client's stream ends with the same reason.
#[derive(Debug, thiserror::Error)]
#[error("the upstream's stream broke: {0}")]
struct Broken(#[source] h2::Error);

/// The reason that an upstream has given for breaking an answer off (RFC 9113 §7).
pub(crate) fn reason(error: &io::Error) -> Option<u32> {
    error.get_ref()?.downcast_ref::<Broken>()?.0.reason().map(u32::from)
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Data,
    Trailers,
    Nothing,
}

/// A request's body that is still being sent.
enum Uploading {
    /// By the task that reads the answer: over HTTP/1.1 only one task at a time may look at the client's connection.
    Here(Box<(Sender, Outgoing)>),
    /// By a task of its own, so that a client that does not read can still send.
    Apart(JoinHandle<()>),
}

impl Drop for Uploading {
    fn drop(&mut self) {
        if let Self::Apart(task) = self {
            task.abort();
        }
    }
}

/// The body of an answer that is still being read. Dropping it ends the stream, and the request with it.
pub(crate) struct AnswerBody {
    recv: RecvStream,
    next: Next,
    uploading: Option<Uploading>,
    /// Gone once the body has ended.
    taken: Option<Taken>,
    /// Bytes still to come, where that is known.
    remaining: Option<u64>,
    deadline: Deadline,
    patience: Patience,
    waiting: bool,
}

impl AnswerBody {
    pub(super) fn new(
        taken: Taken,
        recv: RecvStream,
        headers: &HeaderMap,
        upload: Option<(Sender, Outgoing)>,
        upload_apart: bool,
        mut deadline: Deadline,
        patience: Patience,
    ) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let ended = recv.is_end_stream();
        let uploading = upload.filter(|_| !ended).map(|upload| {
            if upload_apart {
                Uploading::Apart(tokio::task::spawn_local(send_apart(upload, patience)))
            } else {
                Uploading::Here(Box::new(upload))
            }
        });
        deadline.change_task();
        Self {
            recv,
            next: if ended { Next::Nothing } else { Next::Data },
            uploading,
            taken: Some(taken).filter(|_| !ended),
            remaining: if ended { Some(0) } else { length },
            deadline,
            patience,
            waiting: false,
        }
    }

    /// Bytes that are still to come, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    /// Whether the last part has been handed out.
    pub(crate) fn ended(&self) -> bool {
        self.next == Next::Nothing
    }

    /// The next part of the body.
    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Part>>> {
        self.send_on(cx);
        loop {
            let part = match self.next {
                Next::Nothing => return Poll::Ready(None),
                Next::Data => match self.recv.poll_data(cx) {
                    Poll::Ready(Some(Ok(data))) => {
                        // The client takes it from here. A stream that has ended meanwhile has no window to give back.
                        drop(self.recv.flow_control().release_capacity(data.len()));
                        self.remaining = self.remaining.map(|left| left.saturating_sub(data.len() as u64));
                        if self.recv.is_end_stream() {
                            self.end();
                        }
                        (!data.is_empty()).then_some(Ok(Part::Data(data)))
                    }
                    Poll::Ready(Some(Err(error))) => Some(Err(self.fail(error))),
                    Poll::Ready(None) => {
                        self.next = Next::Trailers;
                        None
                    }
                    Poll::Pending => Some(Err(ready!(self.poll_limit(cx)))),
                },
                Next::Trailers => match self.recv.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        self.end();
                        trailers.map(|trailers| Ok(Part::Trailers(trailers)))
                    }
                    Poll::Ready(Err(error)) => Some(Err(self.fail(error))),
                    Poll::Pending => Some(Err(ready!(self.poll_limit(cx)))),
                },
            };
            self.waiting = false;
            if let Some(part) = part {
                return Poll::Ready(Some(part));
            }
        }
    }

    /// Ready when the upstream has been silent for too long.
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.waiting {
            self.waiting = true;
            self.deadline.set(Instant::now() + self.patience.read);
        }
        ready!(self.deadline.poll(cx));
        self.end();
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Goes on sending the request, if that is done here. What fails there shows in the answer.
    fn send_on(&mut self, cx: &mut Context<'_>) {
        if let Some(Uploading::Here(upload)) = &mut self.uploading {
            let (sender, outgoing) = &mut **upload;
            match sender.poll(outgoing, cx) {
                Poll::Pending => return,
                Poll::Ready(Err(PumpError::Client(_))) => sender.reset(Reason::CANCEL),
                Poll::Ready(_) => {}
            }
            self.uploading = None;
        }
    }

    fn end(&mut self) {
        self.next = Next::Nothing;
        self.uploading = None;
        self.taken = None;
    }

    fn fail(&mut self, error: h2::Error) -> io::Error {
        self.end();
        io::Error::other(Broken(error))
    }
}

/// Sends the rest of a request while its answer is on the way. What fails shows in the answer.
async fn send_apart((mut sender, mut outgoing): (Sender, Outgoing), patience: Patience) {
    let mut deadline = Deadline::new(Instant::now() + patience.send);
    let mut blocked_at = None;
    poll_fn(|cx| {
        match sender.poll(&mut outgoing, cx) {
            Poll::Ready(Ok(()) | Err(PumpError::Upstream(_))) => return Poll::Ready(()),
            Poll::Ready(Err(PumpError::Client(_))) => {}
            // How long the client takes is its own affair now: an answer is on the way.
            Poll::Pending if !sender.is_blocked() => {
                blocked_at = None;
                return Poll::Pending;
            }
            Poll::Pending => {
                if blocked_at.replace(sender.sent()) != Some(sender.sent()) {
                    deadline.set(Instant::now() + patience.send);
                }
                ready!(deadline.poll(cx));
            }
        }
        sender.reset(Reason::CANCEL);
        Poll::Ready(())
    })
    .await;
}
