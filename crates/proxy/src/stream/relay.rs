//! Passing bytes between two connections.
//!
//! Reading goes into a buffer that the worker's sessions share, and from there at once into the other connection; only what
//! that does not take is kept by the session. A session at rest holds no buffer.

use crate::deadline::Deadline;
use crate::lasting::Lasting;
use bytes::{Buf as _, BytesMut};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read at once, and so the most that wait for one side of a session.
const READ: usize = 64 * 1024;

/// The buffer that the sessions of a worker read into.
pub(crate) struct ReadRoom(RefCell<Box<[u8]>>);

impl Default for ReadRoom {
    fn default() -> Self {
        Self(RefCell::new(vec![0; READ].into_boxed_slice()))
    }
}

impl ReadRoom {
    /// Lends the room out. It is for now alone: nobody else has it meanwhile.
    pub(super) fn with<T>(&self, read: impl FnOnce(&mut [u8]) -> T) -> T {
        read(&mut self.0.borrow_mut())
    }
}

/// How passing bytes has ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Both sides have said all.
    Complete,
    /// Neither side has said anything for too long.
    Silent,
    /// Both sides were told that it is over, because its policy ends it.
    Superseded,
    /// The side that `left` or `right` names has failed.
    Left(io::Error),
    Right(io::Error),
}

/// Bytes that have passed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passed {
    pub(super) read: u64,
    pub(super) written: u64,
}

/// One direction.
pub(super) struct Pipe {
    /// What was read and could not be written yet.
    pending: BytesMut,
    passed: Passed,
    state: PipeState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PipeState {
    Open,
    /// Nothing more comes.
    Ending,
    /// The end has been passed on.
    Ended,
}

/// Which side of a direction has failed.
enum Fault {
    Read(io::Error),
    Write(io::Error),
}

impl Pipe {
    /// `first` has been read already and goes first.
    pub(super) fn new(first: BytesMut) -> Self {
        Self { pending: first, passed: Passed::default(), state: PipeState::Open }
    }

    /// Nothing more is taken; what was is passed on, and the end behind it.
    fn end(&mut self) {
        if self.state == PipeState::Open {
            self.state = PipeState::Ending;
        }
    }

    /// Ready once the end has been passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        room: &ReadRoom,
    ) -> Poll<Result<(), Fault>> {
        loop {
            while !self.pending.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending)).map_err(Fault::Write)?;
                self.note_written(written)?;
                self.pending.advance(written);
            }
            match self.state {
                PipeState::Ended => return Poll::Ready(Ok(())),
                PipeState::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Fault::Write)?;
                    self.state = PipeState::Ended;
                    return Poll::Ready(Ok(()));
                }
                PipeState::Open => {}
            }
            // The room is for now alone: what is left goes into a buffer of our own.
            let mut room = room.0.borrow_mut();
            let mut buf = ReadBuf::new(&mut room);
            match Pin::new(&mut *from).poll_read(cx, &mut buf) {
                Poll::Pending => {
                    // TLS may hold back what it was given.
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Fault::Write)?;
                    return Poll::Pending;
                }
                Poll::Ready(read) => read.map_err(Fault::Read)?,
            }
            let read = buf.filled();
            self.passed.read += read.len() as u64;
            if read.is_empty() {
                self.state = PipeState::Ending;
                continue;
            }
            match Pin::new(&mut *to).poll_write(cx, read) {
                Poll::Ready(written) => {
                    let written = written.map_err(Fault::Write)?;
                    self.note_written(written)?;
                    self.pending.extend_from_slice(&read[written..]);
                }
                Poll::Pending => self.pending.extend_from_slice(read),
            }
        }
    }

    fn note_written(&mut self, written: usize) -> Result<(), Fault> {
        self.passed.written += written as u64;
        if written == 0 { Err(Fault::Write(io::ErrorKind::WriteZero.into())) } else { Ok(()) }
    }
}

/// Two connections between which bytes pass both ways.
pub(super) struct Relay<'r, L, R> {
    pub(super) left: &'r mut L,
    pub(super) right: &'r mut R,
    pub(super) to_right: Pipe,
    pub(super) to_left: Pipe,
    /// Longest silence of both sides together.
    pub(super) idle: Duration,
    /// Present if the policy may end it.
    pub(super) lasting: Option<&'r Lasting>,
    /// How long both sides may take to take what they were sent once it does.
    pub(super) farewell: Duration,
}

impl<L: AsyncRead + AsyncWrite + Unpin, R: AsyncRead + AsyncWrite + Unpin> Relay<'_, L, R> {
    /// Passes bytes until both sides have ended, one fails, both are silent for too long, or the policy ends it. `told` hears,
    /// whenever some have passed, how many have in all: to the right, and to the left.
    pub(super) async fn run(mut self, room: &ReadRoom, mut told: impl FnMut(Passed, Passed)) -> Ended {
        let mut deadline = Deadline::new(Instant::now() + self.idle);
        let mut before = (0, 0);
        let mut over = false;
        std::future::poll_fn(|cx| {
            if !over && self.lasting.is_some_and(|lasting| lasting.poll_over(cx).is_ready()) {
                over = true;
                self.to_right.end();
                self.to_left.end();
                deadline.set(Instant::now() + self.farewell);
            }
            let right = self.to_right.poll(cx, self.left, self.right, room);
            let left = self.to_left.poll(cx, self.right, self.left, room);
            let (right_passed, left_passed) = (self.to_right.passed, self.to_left.passed);
            let now = (right_passed.read + right_passed.written, left_passed.read + left_passed.written);
            if now != before {
                before = now;
                told(right_passed, left_passed);
                if !over {
                    deadline.set(Instant::now() + self.idle);
                }
            }
            let failed = match (right, left) {
                (Poll::Ready(Err(Fault::Read(error))), _) | (_, Poll::Ready(Err(Fault::Write(error)))) => {
                    Ended::Left(error)
                }
                (Poll::Ready(Err(Fault::Write(error))), _) | (_, Poll::Ready(Err(Fault::Read(error)))) => {
                    Ended::Right(error)
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) if over => Ended::Superseded,
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Ended::Complete,
                _ if over => return deadline.poll(cx).map(|()| Ended::Superseded),
                _ => return deadline.poll(cx).map(|()| Ended::Silent),
            };
            Poll::Ready(failed)
        })
        .await
    }
}
