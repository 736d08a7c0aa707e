//! Pipes through which the body of an answer passes from one socket to the other without being copied (splice(2)).

use crate::counters::WorkerCounters;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Size that a pipe is asked for, in bytes: a slot for each 4 KiB. What a socket has received fills a slot for each piece of
/// memory that it lies in, which may be larger.
const SIZE: usize = 256 * 1024;
/// Smallest size that is of use. The system makes pipes very small once a user has many (pipe(7), `pipe-user-pages-soft`).
const SMALLEST: usize = 64 * 1024;
/// Most bytes that are asked for at once.
const AT_ONCE: usize = 1024 * 1024;

/// The pipes of a worker.
pub(crate) struct Pipes {
    spare: RefCell<Vec<Pipe>>,
    most: usize,
    counters: Arc<WorkerCounters>,
}

/// A pipe. It returns to its worker only while nothing is in it.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    counters: Arc<WorkerCounters>,
}

impl Pipes {
    /// No more than `most` at a time; 0: none, and all bodies are copied.
    pub(crate) fn new(most: usize, counters: Arc<WorkerCounters>) -> Self {
        Self { spare: RefCell::default(), most, counters }
    }

    /// An empty pipe; `None` if all are in use, or the system has none.
    pub(super) fn take(&self) -> Option<Pipe> {
        if let Some(pipe) = self.spare.borrow_mut().pop() {
            return Some(pipe);
        }
        if self.counters.pipes.get() >= self.most as u64 {
            if self.most > 0 {
                self.counters.pipes_short.up();
            }
            return None;
        }
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        let size = fcntl_setpipe_size(&write, SIZE).or_else(|_| fcntl_getpipe_size(&write)).ok()?;
        if size < SMALLEST {
            return None;
        }
        self.counters.pipes.up();
        Some(Pipe { read, write, held: 0, counters: self.counters.clone() })
    }

    /// Takes a pipe back.
    pub(super) fn put(&self, pipe: Pipe) {
        if pipe.held == 0 {
            self.spare.borrow_mut().push(pipe);
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.counters.pipes.down();
    }
}

impl Pipe {
    /// Bytes in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Fills the empty pipe with up to `most` bytes that have arrived; 0 is the end.
    pub(super) fn poll_fill(&mut self, from: &TcpStream, most: u64, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.held, 0, "of a pipe that is not empty nobody knows whether it is full");
        let most = usize::try_from(most).map_or(AT_ONCE, |most| most.min(AT_ONCE));
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || moved(splice(from, None, &self.write, None, most, FLAGS))) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => {
                    self.held += *filled.as_ref().unwrap_or(&0);
                    return Poll::Ready(filled);
                }
            }
        }
    }

    /// Sends what is in it, or a part.
    pub(super) fn poll_drain(&mut self, to: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || moved(splice(&self.read, None, to, None, self.held, FLAGS))) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                drained => {
                    self.held -= *drained.as_ref().unwrap_or(&0);
                    return Poll::Ready(drained);
                }
            }
        }
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

fn moved(result: Result<usize, Errno>) -> io::Result<usize> {
    Ok(result?)
}
