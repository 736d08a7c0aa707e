//! The streams of an HTTP/2 connection, as the connection, its requests and the worker share them.
//!
//! What is sent is laid out in one buffer, by whoever has something to say; the connection's task is woken, and sends all of it once
//! those have had their turn that were woken before it.
//!
//! Invariants:
//! - A stream that is not open has nothing left: no task, no unread body, no place in a queue.
//! - Whoever is told to wait is woken: by the window that it waits for, by room, or by the end of its stream.

use super::receive::Terms;
use crate::counters::WorkerCounters;
use crate::h1::Scratch;
use crate::h2::Code;
use crate::h2::frame::{self, FIRST_WINDOW, LONGEST};
use crate::worker::allowance::{Allowance, Cancels};
use bytes::BytesMut;
use http::HeaderMap;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// Streams of either kind that are remembered once they are closed: what comes for them may have been sent before.
const REMEMBERED: usize = 256;

/// The streams of one connection.
pub(crate) struct Streams {
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) state: RefCell<State>,
    pub(super) control_frames: Allowance,
    cancels: Cancels,
    /// Requests that were given up before they had begun.
    wasted: Cell<u64>,
    /// A head has begun to come, and not ended.
    pub(super) within_head: Cell<bool>,
    calmed: Cell<bool>,
    pub(super) pulse: Pulse,
}

/// Whether the client gives signs of life.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Something has come since the worker looked.
    pub(super) heard: Cell<bool>,
    /// When something had come last, as the worker found it.
    since: Cell<Instant>,
    /// A ping waits to be sent, or to be answered, since then.
    pub(super) asked: Cell<Option<Instant>>,
    pub(super) due: Cell<bool>,
    /// It was not answered in time.
    pub(super) silent: Cell<bool>,
}

/// What changes with every frame.
pub(super) struct State {
    scratch: Rc<Scratch>,
    pub(super) open: Slab<Stream>,
    pub(super) by_id: HashMap<u32, usize, foldhash::fast::RandomState>,
    /// The highest number that the client has used.
    pub(super) last: u32,
    pub(super) closed_by_us: VecDeque<u32>,
    pub(super) closed_by_client: VecDeque<u32>,
    /// What may still be sent on the connection, and on a new stream.
    pub(super) window: i64,
    pub(super) first_window: i64,
    /// Bytes of answers that were sent on the connection.
    pub(super) sent: u64,
    /// Bytes that have come on the connection since its window was opened last.
    pub(super) came: u32,
    /// The window that bodies of requests begin with, and by what theirs may still grow, together.
    stream_window: u32,
    pub(super) shared_window: u32,
    /// What is to be sent.
    pub(super) out: Vec<u8>,
    /// Bytes of that beyond which answers wait.
    pub(super) room: usize,
    /// Streams that wait for the connection's window, or with data for room; one at a time has its turn.
    pub(super) queue: VecDeque<u32>,
    pub(super) turn: Option<u32>,
    /// Streams that wait for room alone.
    pub(super) for_room: Vec<(u32, Waker)>,
    /// The next head says first that no table is used (RFC 7541 §4.2).
    pub(super) forget: bool,
    /// The connection's task, and whether it has been woken, or runs.
    pub(super) waker: Option<Waker>,
    pub(super) woken: bool,
}

/// What is known of an open stream.
pub(super) struct Stream {
    pub(super) id: u32,
    /// It serves the request, once that has begun.
    pub(super) task: Option<AbortHandle>,
    pub(super) begun: bool,
    /// What may still be sent.
    pub(super) window: i64,
    pub(super) sender: Option<Waker>,
    /// It has a place in the queue.
    pub(super) queued: bool,
    /// Something is to be sent, and waits; bytes that were sent before; and how that was found last, with what counts as progress, and
    /// since when.
    pub(super) waits: bool,
    pub(super) sent: u64,
    found: (bool, u64, Instant),
    pub(super) incoming: Incoming,
}

/// The body of a request, as far as nobody has read it.
pub(super) struct Incoming {
    pub(super) bytes: BytesMut,
    pub(super) trailers: Option<HeaderMap>,
    /// Nothing more comes.
    pub(super) ended: bool,
    /// Nobody reads it any more.
    pub(super) unwanted: bool,
    /// The client waits for being told to go on.
    pub(super) expects: bool,
    /// Bytes that are to come in further frames, where the client has said so.
    pub(super) length: Option<u64>,
    /// Bytes that are to come of the present frame.
    pub(super) coming: usize,
    pub(super) reader: Option<Waker>,
    /// What the client may send ahead of the reader; what of that it may still send; and what was read that it has not been told of.
    pub(super) window: u32,
    pub(super) left: i64,
    pub(super) read: u32,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("pulse", &self.pulse).finish_non_exhaustive()
    }
}

impl Streams {
    pub(super) fn new(terms: Terms, counters: Arc<WorkerCounters>, scratch: Rc<Scratch>, now: Instant) -> Rc<Self> {
        let state = State {
            scratch,
            open: Slab::new(),
            by_id: HashMap::default(),
            last: 0,
            closed_by_us: VecDeque::new(),
            closed_by_client: VecDeque::new(),
            window: FIRST_WINDOW,
            first_window: FIRST_WINDOW,
            sent: 0,
            came: 0,
            stream_window: terms.stream_window,
            shared_window: terms.shared_window,
            out: Vec::new(),
            room: terms.send_buffer,
            queue: VecDeque::new(),
            turn: None,
            for_room: Vec::new(),
            forget: false,
            waker: None,
            woken: false,
        };
        Rc::new(Self {
            counters,
            state: state.into(),
            control_frames: Allowance::new(terms.control_frames, u64::MAX, now),
            cancels: Cancels::new(terms.cancels, now),
            wasted: Cell::new(0),
            within_head: Cell::new(false),
            calmed: Cell::new(false),
            pulse: Pulse {
                heard: Cell::new(false),
                since: Cell::new(now),
                asked: Cell::new(None),
                due: Cell::new(false),
                silent: Cell::new(false),
            },
        })
    }

    /// Whether the client has begun a head and not ended it.
    pub(crate) fn is_within_head(&self) -> bool {
        self.within_head.get()
    }

    /// Counts a frame that carries nothing of a request; whether there may be so many.
    pub(super) fn take_control_frame(&self) -> bool {
        let enough = self.control_frames.take(1, Instant::now);
        if !enough && !self.calmed.replace(true) {
            self.counters.http2_control_frames_cut.up();
        }
        enough
    }

    /// A request was given up before it had begun.
    pub(super) fn waste(&self) {
        self.wasted.set(self.wasted.get() + 1);
    }

    /// Whether the client has by now cancelled too many of the requests that have begun.
    pub(super) fn cancels_too_much(&self, cancelled: u64, begun: u64) -> bool {
        let wasted = self.wasted.get();
        let too_many = self.cancels.are_too_many(cancelled + wasted, begun + wasted);
        if too_many && !self.calmed.replace(true) {
            self.counters.http2_cancels_cut.up();
        }
        too_many
    }

    /// The worker's look: resets the streams that have waited for their client to open a window for `longest`, and asks clients for a
    /// sign of life of which nothing was heard for `silence`; zero: never. One that waits for its turn waits for no window as long as
    /// others have theirs.
    pub(crate) fn look(&self, now: Instant, longest: Duration, silence: Duration) {
        let state = &mut *self.state.borrow_mut();
        let mut stuck = Vec::new();
        // A turn is a frame: less than that is no turn of anybody.
        let turns = state.sent / LONGEST as u64;
        for (key, stream) in &mut state.open {
            let (waited, before, since) = stream.found;
            let progress = if stream.window > 0 { turns } else { stream.sent };
            if !stream.waits || !waited || before != progress {
                stream.found = (stream.waits, progress, now);
            } else if now.saturating_duration_since(since) >= longest {
                stuck.push(key);
            }
        }
        for key in stuck {
            self.counters.http2_stuck_streams.up();
            state.reset(key, Code::CANCEL);
        }
        if state.open.is_empty() {
            state.open.shrink_to_fit();
            state.by_id.shrink_to_fit();
            state.queue.shrink_to_fit();
            state.for_room.shrink_to_fit();
        }
        if !silence.is_zero() && self.pulse.look(now, silence) {
            state.wake();
        }
    }

    /// The connection is at its end: requests in work end with it.
    pub(super) fn end(&self) {
        let state = &mut *self.state.borrow_mut();
        for stream in state.open.drain() {
            stream.end();
        }
        state.by_id.clear();
        state.for_room.drain(..).for_each(|(_, waiting)| waiting.wake());
    }
}

impl Pulse {
    /// Whether the connection's task has something to do.
    fn look(&self, now: Instant, silence: Duration) -> bool {
        if self.heard.take() {
            self.since.set(now);
        }
        match self.asked.get() {
            Some(asked) => self.silent.set(now.saturating_duration_since(asked) >= silence),
            None if now.saturating_duration_since(self.since.get()) >= silence => {
                self.asked.set(Some(now));
                self.due.set(true);
            }
            None => {}
        }
        self.due.get() || self.silent.get()
    }
}

impl Stream {
    fn end(self) {
        if let Some(task) = self.task {
            task.abort();
        }
        self.sender.into_iter().chain(self.incoming.reader).for_each(Waker::wake);
    }
}

impl State {
    /// Opens a stream whose request announces a body of this `length`, or has none.
    pub(super) fn begin(&mut self, id: u32, length: Option<u64>, ended: bool, now: Instant) -> usize {
        let incoming = Incoming {
            bytes: BytesMut::new(),
            trailers: None,
            ended,
            unwanted: false,
            expects: false,
            length,
            coming: 0,
            reader: None,
            window: self.stream_window,
            left: self.stream_window.into(),
            read: 0,
        };
        let key = self.open.insert(Stream {
            id,
            task: None,
            begun: false,
            window: self.first_window,
            sender: None,
            queued: false,
            waits: false,
            sent: 0,
            found: (false, 0, now),
            incoming,
        });
        self.by_id.insert(id, key);
        key
    }

    /// The stream in this place, if it is still the one of this number.
    pub(super) fn get(&mut self, key: usize, id: u32) -> Option<&mut Stream> {
        self.open.get_mut(key).filter(|stream| stream.id == id)
    }

    /// Wakes the connection's task, once.
    pub(super) fn wake(&mut self) {
        if !std::mem::replace(&mut self.woken, true)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }

    /// The buffer of what is to be sent. It is borrowed from the worker, and the connection's task is woken to send it.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        self.wake();
        if self.out.capacity() == 0 {
            self.out = self.scratch.outputs.borrow_mut().pop().unwrap_or_default();
        }
        &mut self.out
    }

    /// Gives the buffer back once all has been sent.
    pub(super) fn give_back(&mut self) {
        self.out.clear();
        self.scratch.keep_output(std::mem::take(&mut self.out));
    }

    /// Ends a stream with a reset.
    pub(super) fn reset(&mut self, key: usize, code: Code) {
        if let Some(id) = self.open.get(key).map(|stream| stream.id) {
            frame::put_reset(self.out(), id, code);
            remember(&mut self.closed_by_us, id);
            self.remove(key);
        }
    }

    /// The client has ended a stream.
    pub(super) fn ended_by_client(&mut self, key: usize) {
        if let Some(stream) = self.open.get(key) {
            remember(&mut self.closed_by_client, stream.id);
            self.remove(key);
        }
    }

    /// Refuses a stream that was never opened (RFC 9113 §8.7).
    pub(super) fn refuse(&mut self, id: u32, code: Code) {
        frame::put_reset(self.out(), id, code);
        remember(&mut self.closed_by_us, id);
    }

    /// The answer has been laid out whole, by the stream's own task.
    pub(super) fn answered(&mut self, key: usize) {
        let Some(stream) = self.open.get_mut(key) else { return };
        stream.task = None;
        if stream.incoming.ended {
            self.ended_by_client(key);
        } else {
            // What is left of the request need not be sent (RFC 9113 §8.1).
            self.reset(key, Code::NO_ERROR);
        }
    }

    fn remove(&mut self, key: usize) {
        let stream = self.open.remove(key);
        self.by_id.remove(&stream.id);
        self.shared_window += stream.incoming.window - self.stream_window;
        if stream.queued {
            self.queue.retain(|id| *id != stream.id);
        }
        self.for_room.retain(|(id, _)| *id != stream.id);
        let had_turn = self.turn == Some(stream.id);
        stream.end();
        if had_turn {
            self.turn = None;
            self.pass_on();
        }
        self.wake();
    }
}

fn remember(closed: &mut VecDeque<u32>, id: u32) {
    if closed.len() == REMEMBERED {
        closed.pop_front();
    }
    closed.push_back(id);
}
