//! The streams of an HTTP/2 connection: what their client may do at no cost to itself, and for how long it may keep an answer
//! from being sent.
//!
//! The library waits for ever for a client that opens no window, and tells nobody: it just does not ask for the next piece of
//! a body. So each stream notes when it has a piece to hand over, and the worker's look finds those that have waited for
//! too long. Their tasks are dropped, which resets the streams.

use super::allowance::{Allowance, Cancels};
use crate::config::ClientLimits;
use crate::counters::WorkerCounters;
use crate::request::{OutBody, Response};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// Control frames that a client may send for each piece of an answer, beside one for each KiB of it: windows are opened for
/// streams and for the connection, by some clients for every 4 KiB.
const FRAMES_A_PIECE: u64 = 4;

/// The streams of one connection.
#[derive(Debug)]
pub(super) struct Streams {
    counters: Arc<WorkerCounters>,
    began: Instant,
    open: RefCell<Slab<Sending>>,
    /// That of the request taken in last, until its task begins.
    newest: Cell<Option<usize>>,
    /// The highest number that the client has used.
    last: Cell<u32>,
    control_frames: Allowance,
    cancels: Cancels,
    /// A head has begun to come, and not ended.
    within_head: Cell<bool>,
    calmed: Cell<bool>,
}

/// What is known of one stream.
#[derive(Debug)]
struct Sending {
    task: Option<AbortHandle>,
    /// Something could be sent, and the library does not ask for it.
    waits: bool,
    /// Pieces that were asked for.
    asked: u64,
    /// As it was found last: whether it waited, pieces, and since when.
    found: (bool, u64, Instant),
}

/// One stream of a connection, from its request to the end of its answer.
pub(super) struct Stream {
    streams: Rc<Streams>,
    key: usize,
}

impl Streams {
    pub(super) fn new(limits: &ClientLimits, counters: Arc<WorkerCounters>, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            counters,
            began: now,
            open: RefCell::default(),
            newest: Cell::new(None),
            last: Cell::new(0),
            control_frames: Allowance::new(limits.control_frames, u64::MAX, now),
            cancels: Cancels::new(limits.cancels, now),
            within_head: Cell::new(false),
            calmed: Cell::new(false),
        })
    }

    /// A request has come.
    pub(super) fn begin(self: &Rc<Self>) -> Stream {
        let sending = Sending { task: None, waits: false, asked: 0, found: (false, 0, self.began) };
        let key = self.open.borrow_mut().insert(sending);
        self.newest.set(Some(key));
        Stream { streams: self.clone(), key }
    }

    /// The client has used a stream.
    pub(super) fn seen(&self, stream: u32) {
        self.last.set(self.last.get().max(stream));
    }

    /// Whether the client has begun a head and not ended it.
    pub(super) fn is_within_head(&self) -> bool {
        self.within_head.get()
    }

    pub(super) fn set_within_head(&self, within: bool) {
        self.within_head.set(within);
    }

    /// The highest number that the client has used.
    pub(super) fn last(&self) -> u32 {
        self.last.get()
    }

    /// Counts frames that carry nothing of a request; whether there may be so many.
    pub(super) fn take_control_frames(&self, number: u64) -> bool {
        let enough = self.control_frames.take(number, Instant::now);
        if !enough && !self.calmed.replace(true) {
            self.counters.http2_control_frames_cut.up();
        }
        enough
    }

    /// Whether the client is to be told to calm down: it sends too much that carries nothing, or has by now cancelled too many of
    /// the requests that have begun.
    pub(super) fn must_calm(&self, cancelled: u64, begun: u64) -> bool {
        if self.cancels.are_too_many(cancelled, begun) && !self.calmed.replace(true) {
            self.counters.http2_cancels_cut.up();
        }
        self.calmed.get()
    }

    /// The worker's look: resets the streams that have waited for their client to open a window for `longest`.
    pub(super) fn look(&self, now: Instant, longest: Duration) {
        let mut stuck = Vec::new();
        for (_, sending) in &mut *self.open.borrow_mut() {
            let (waited, asked, since) = sending.found;
            if !sending.waits || !waited || asked != sending.asked {
                sending.found = (sending.waits, sending.asked, now);
            } else if now.saturating_duration_since(since) >= longest {
                stuck.extend(sending.task.take());
            }
        }
        for task in stuck {
            self.counters.http2_stuck_streams.up();
            task.abort();
        }
    }

    fn with(&self, key: usize, change: impl FnOnce(&mut Sending)) {
        if let Some(sending) = self.open.borrow_mut().get_mut(key) {
            change(sending);
        }
    }
}

impl Stream {
    /// The answer is there, and with it the request's stream goes.
    pub(super) fn answer(self, response: Response) -> http::Response<Paced> {
        self.streams.control_frames.earn(FRAMES_A_PIECE);
        let response = response.into_http();
        let waits = !response.body().is_end_stream();
        self.streams.with(self.key, |sending| sending.waits = waits);
        response.map(|body| Paced { body, stream: self })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.streams.open.borrow_mut().try_remove(self.key));
    }
}

/// The body of an answer, which notes when it is asked for more.
pub(super) struct Paced {
    body: OutBody,
    stream: Stream,
}

impl Body for Paced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let piece = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map(Bytes::len),
            _ => None,
        };
        if let Some(length) = piece {
            this.stream.streams.control_frames.earn(FRAMES_A_PIECE + length as u64 / 1024);
        }
        this.stream.streams.with(this.stream.key, |sending| {
            sending.asked += 1;
            sending.waits = piece.is_some();
        });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs the futures of a connection's streams on the worker.
#[derive(Clone)]
pub(super) struct OnWorker(pub(super) Rc<Streams>);

impl<F: Future + 'static> hyper::rt::Executor<F> for OnWorker {
    /// The library takes a request in and begins its task in one go, so the newest stream is the future's.
    fn execute(&self, future: F) {
        let task = tokio::task::spawn_local(async move {
            drop(future.await);
        });
        if let Some(key) = self.0.newest.take() {
            self.0.with(key, |sending| sending.task = Some(task.abort_handle()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::activity::tests::limits;

    const SECOND: Duration = Duration::from_secs(1);

    fn streams(control_frames: u32, cancels: u32, now: Instant) -> Rc<Streams> {
        let limits = ClientLimits { control_frames, cancels, ..limits() };
        Streams::new(&limits, Arc::default(), now)
    }

    fn stuck(streams: &Streams) -> u64 {
        streams.counters.http2_stuck_streams.get()
    }

    #[test]
    fn only_streams_that_make_no_progress_are_stuck() {
        let runtime = tokio::runtime::Builder::new_current_thread().build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let start = Instant::now();
            let streams = streams(10, 10, start);
            let on_worker = OnWorker(streams.clone());
            let [asks, working, waiting] = [(); 3].map(|()| {
                let stream = streams.begin();
                hyper::rt::Executor::execute(&on_worker, std::future::pending::<()>());
                stream
            });
            let waits = |stream: &Stream| streams.with(stream.key, |sending| sending.waits = true);
            waits(&asks);
            waits(&waiting);
            for second in 0..10 {
                streams.look(start + second * SECOND, 5 * SECOND);
                streams.with(asks.key, |sending| sending.asked += 1);
                assert_eq!(stuck(&streams), u64::from(second >= 5), "second {second}");
            }
            let has_task = |stream: &Stream| streams.open.borrow()[stream.key].task.is_some();
            assert!(has_task(&asks) && has_task(&working) && !has_task(&waiting));
            drop((asks, working, waiting));
            assert!(streams.open.borrow().is_empty());
        });
    }

    #[test]
    fn who_cancels_too_much_is_to_calm_down() {
        let streams = streams(10, 10, Instant::now());
        assert!(!streams.must_calm(10, 10));
        assert!(streams.must_calm(1010, 1020));
        assert_eq!(streams.counters.http2_cancels_cut.get(), 1);
        assert!(streams.must_calm(1010, 1020), "it stays so");
    }

    #[test]
    fn control_frames_have_their_number() {
        let streams = streams(10, 10, Instant::now());
        assert!(streams.take_control_frames(10));
        assert!(!streams.must_calm(0, 0));
        assert!(!streams.take_control_frames(100_000));
        assert!(streams.must_calm(0, 0));
        assert_eq!(streams.counters.http2_control_frames_cut.get(), 1);
    }
}
