//! What goes on between a client and us, and how long it may.
//!
//! The request path only sets flags. The worker looks at all its connections at every tick, notes since when each has been in
//! its phase, and signals those whose time is up: no timer is kept, moved or asked for a request. The limits are therefore
//! exact to a tick.

use super::http2::Streams;
use super::newcomers::Introduction;
use crate::config::ClientLimits;
use crate::drain::{Count, Use};
use crate::upload::Progress;
use milecastle_plugin_api::RouteInfo;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Longest and shortest time between two looks.
const TICKS: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));

/// What a connection is doing, and so which limit is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No request is in work.
    Idle,
    /// A request's head is coming; also before the first byte of a connection.
    Head,
    /// A request is in work: the upstream's limits are running. Or the rest of its body is being dropped, which has limits
    /// of its own.
    Busy,
    /// The client takes no more bytes for the moment.
    Blocked,
}

/// What the connection's task is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    None,
    /// End after the present requests.
    Drain,
    /// End: the limit of this phase has been reached.
    Over(Phase),
}

/// What a connection is, beyond HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    Http1,
    Http2,
    Http3,
    Tunnel,
    Tcp,
}

/// What is going on on one connection.
#[derive(Debug)]
pub(crate) struct Activity {
    pub(super) opened: Instant,
    pub(crate) nature: Cell<Nature>,
    /// The route of a tunnel or a session.
    pub(crate) route: RefCell<Option<Arc<RouteInfo>>>,
    /// Requests whose answer is not complete.
    pub(crate) in_flight: Cell<u32>,
    /// Requests whose head was read.
    pub(crate) begun: Cell<u64>,
    /// Requests whose client left before their answer was complete.
    pub(crate) cancelled: Cell<u64>,
    /// The streams of an HTTP/2 connection.
    pub(super) streams: OnceCell<Rc<Streams>>,
    /// Bytes have come since the last request began or ended.
    pub(crate) reading: Cell<bool>,
    /// The last write has found no room.
    pub(crate) blocked: Cell<bool>,
    /// Bytes were written since the worker looked.
    pub(crate) written: Cell<bool>,
    /// When the last answer was complete, or the connection ready for its first request; of a session whose client has said nothing,
    /// since when it has been waited for, or when bytes have passed last.
    pub(crate) idle_since: Cell<Instant>,
    /// How far the body of the present request has come.
    pub(crate) upload: Cell<Progress>,
    /// The answer that is being sent announces the end of the connection.
    pub(crate) closing: Cell<bool>,
    /// Another connection is to have its place.
    pub(crate) evicted: Cell<bool>,
    /// Nothing has come yet from the client of a session of TCP.
    silent: Cell<bool>,
    /// A step is under way that waits for the client.
    awaited: Cell<bool>,
    /// The answer was cut short, and its end is the end of the connection: only a reset tells it from a whole one.
    pub(crate) cut: Cell<bool>,
    /// The request in work wants its task woken if it lasts: it has left a limit unarmed.
    pub(crate) later: Cell<bool>,
    /// How it stands with the worker's newcomers.
    pub(super) introduction: Cell<Introduction>,
    signal: Cell<Signal>,
    waker: RefCell<Option<Waker>>,
    /// As it was found last: the phase, since when, and how many requests had begun.
    seen: Cell<(Phase, Instant, u64)>,
}

impl Activity {
    pub(crate) fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self {
            opened: now,
            nature: Cell::new(Nature::Http1),
            route: RefCell::new(None),
            in_flight: Cell::new(0),
            begun: Cell::new(0),
            cancelled: Cell::new(0),
            streams: OnceCell::new(),
            reading: Cell::new(false),
            blocked: Cell::new(false),
            written: Cell::new(false),
            idle_since: Cell::new(now),
            upload: Cell::new(Progress::Ended),
            closing: Cell::new(false),
            evicted: Cell::new(false),
            silent: Cell::new(true),
            awaited: Cell::new(false),
            cut: Cell::new(false),
            later: Cell::new(false),
            introduction: Cell::new(Introduction::None),
            signal: Cell::new(Signal::None),
            waker: RefCell::new(None),
            seen: Cell::new((Phase::Head, now, 0)),
        })
    }

    /// A request's head has been read.
    pub(crate) fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.begun.set(self.begun.get() + 1);
        self.reading.set(false);
        self.evicted.set(false);
    }

    /// A request's client has left before the answer was complete.
    pub(crate) fn cancel(&self) {
        self.cancelled.set(self.cancelled.get() + 1);
    }

    /// A request is over.
    pub(crate) fn end(&self, now: Instant) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        self.reading.set(false);
        self.idle_since.set(now);
    }

    /// Leaves the waker of the connection's task.
    pub(crate) fn set_waker(&self, cx: &Context<'_>) {
        let mut left = self.waker.borrow_mut();
        if !left.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *left = Some(cx.waker().clone());
        }
    }

    pub(super) fn signal(&self) -> Signal {
        self.signal.get()
    }

    /// The signal has been dealt with.
    pub(super) fn clear_signal(&self) {
        self.signal.set(Signal::None);
    }

    pub(super) fn send(&self, signal: Signal) {
        self.signal.set(signal);
        self.wake();
    }

    /// A session of TCP has passed bytes, some of its client if `spoken`.
    pub(crate) fn pass(&self, spoken: bool) {
        if !self.silent.get() {
            return;
        }
        self.evicted.set(false);
        if spoken {
            self.silent.set(false);
        } else {
            self.idle_since.set(Instant::now());
        }
    }

    /// What a step comes to that waits for the client. What has come from the client comes first: then it stays.
    ///
    /// # Errors
    /// `ConnectionAborted`: another connection is to have the place of this one. `evicted` says so from then on.
    pub(crate) async fn unless_evicted<T>(&self, mut step: impl Future<Output = T> + Unpin) -> io::Result<T> {
        self.idle_since.set(Instant::now());
        self.awaited.set(true);
        let done = poll_fn(|cx| {
            self.set_waker(cx);
            match Pin::new(&mut step).poll(cx) {
                Poll::Pending if self.evicted.get() => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                polled => polled.map(Ok),
            }
        })
        .await;
        self.awaited.set(false);
        if done.is_ok() {
            self.evicted.set(false);
        }
        done
    }

    /// How long it has waited for a request, or for the rest of one's head; of a session, how long nothing has passed, while its client
    /// has said nothing and is waited for. `None` while one is in work, or the session is held up by us or its upstream.
    pub(super) fn waits_for(&self, now: Instant) -> Option<Duration> {
        let waits = match self.nature.get() {
            Nature::Tcp => self.silent.get() && self.awaited.get(),
            _ => matches!(self.phase(), Phase::Idle | Phase::Head),
        };
        waits.then(|| now.saturating_duration_since(self.idle_since.get()))
    }

    /// Has it end as if its time were up, for another connection to have its place.
    pub(super) fn evict(&self) {
        self.evicted.set(true);
        self.send(Signal::Over(self.phase()));
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Whether the client of an HTTP/2 connection has begun a head and not ended it.
    fn is_within_head(&self) -> bool {
        self.streams.get().is_some_and(|streams| streams.is_within_head())
    }

    pub(super) fn phase(&self) -> Phase {
        match (self.blocked.get(), self.in_flight.get(), self.reading.get()) {
            (true, ..) => Phase::Blocked,
            (false, 1.., _) => Phase::Busy,
            (false, 0, _) if self.upload.get() == Progress::Coming => Phase::Busy,
            (false, 0, true) => Phase::Head,
            (false, 0, false) if self.begun.get() == 0 || self.is_within_head() => Phase::Head,
            (false, 0, false) => Phase::Idle,
        }
    }

    /// Adds the connection to what the worker has open.
    pub(super) fn count(&self, count: &mut Count) {
        let in_flight = self.in_flight.get();
        let used = match self.nature.get() {
            Nature::Tunnel => Use::Tunnel,
            Nature::Tcp => Use::Tcp,
            _ if in_flight == 0 => Use::Idle,
            Nature::Http1 => Use::Request,
            Nature::Http2 => {
                count.http2_streams += u64::from(in_flight);
                Use::Http2
            }
            Nature::Http3 => {
                count.http3_streams += u64::from(in_flight);
                Use::Http3
            }
        };
        count.add(self.opened, used, self.route.borrow().as_ref().map(|route| route.id.clone()));
    }

    /// The worker's look at every tick: signals the task if the time of its phase is up. `leaving` is since when the node has
    /// been ending: connections that wait for a request then have a last call.
    pub(super) fn look(&self, now: Instant, limits: &ClientLimits, leaving: Option<Instant>) -> Phase {
        let (phase, begun) = (self.phase(), self.begun.get());
        let (last, mut since, last_begun) = self.seen.get();
        if let Some(streams) = self.streams.get() {
            streams.look(now, limits.send_timeout, limits.ping_timeout);
        }
        let progressed = phase == Phase::Blocked && self.written.replace(false);
        if phase == Phase::Busy && last == phase && begun == last_begun && self.later.take() {
            self.wake();
        }
        if phase != last || begun != last_begun || progressed {
            since = now;
        }
        if phase == Phase::Idle {
            since = self.idle_since.get();
        }
        self.seen.set((phase, since, begun));
        let mut limit = match phase {
            Phase::Busy => return phase,
            Phase::Idle => limits.keepalive_timeout,
            Phase::Head => limits.header_timeout,
            Phase::Blocked => limits.send_timeout,
        };
        let waits = phase == Phase::Idle || (phase == Phase::Head && !self.reading.get());
        if let Some(leaving) = leaving.filter(|_| waits) {
            since = self.idle_since.get().max(leaving);
            limit = limit.min(limits.last_call);
        }
        if now.saturating_duration_since(since) >= limit {
            self.seen.set((phase, now, begun));
            self.send(Signal::Over(phase));
        }
        phase
    }
}

/// How often connections are looked at, for limits to be kept within a quarter of the shortest that is in force.
pub(super) fn tick(limits: &ClientLimits, leaving: bool) -> Duration {
    let always = [limits.keepalive_timeout, limits.header_timeout, limits.send_timeout, limits.ping_timeout];
    let all = always.into_iter().chain(leaving.then_some(limits.last_call));
    let shortest = all.filter(|limit| !limit.is_zero()).min().unwrap_or(TICKS.1);
    (shortest / 4).clamp(TICKS.0, TICKS.1)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Limits of which most are never reached.
    pub(in crate::worker) fn limits() -> ClientLimits {
        let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
        ClientLimits {
            header_bytes: 1,
            header_count: 1,
            body_bytes: None,
            header_timeout: minute,
            body_timeout: minute,
            send_timeout: minute,
            half_close: false,
            keepalive_timeout: minute,
            handshake_timeout: minute,
            proxy_protocol_timeout: minute,
            ping_timeout: minute,
            lingering_time: minute,
            lingering_timeout: minute,
            lingering_bytes: 1,
            last_call: second,
            streams: 1,
            pending_resets: 1,
            cancels: 1,
            control_frames: 1,
            empty_data: 1,
            send_buffer: 1,
            stream_window: 1,
            shared_window: 1,
            connection_place: minute,
            farewell: second,
            deferred_accept: second,
        }
    }

    /// Whether a connection is told that its time is up, so many seconds after it was made; the node has been ending since
    /// second 10.
    fn is_over(seconds: f32, prepare: impl Fn(&Activity)) -> bool {
        let start = Instant::now();
        let activity = Activity::new(start);
        prepare(&activity);
        let leaving = start + Duration::from_secs(10);
        activity.look(start + Duration::from_secs_f32(seconds), &limits(), Some(leaving));
        activity.signal() != Signal::None
    }

    #[test]
    fn the_last_call_begins_when_the_node_is_ending() {
        let new = |_: &Activity| {};
        let idle = |activity: &Activity| {
            activity.begin();
            activity.end(activity.idle_since.get());
        };
        assert!(!is_over(10.9, new) && is_over(11.1, new));
        assert!(!is_over(10.9, idle) && is_over(11.1, idle));
        // A connection that was answered since then has as long again.
        let answered = |activity: &Activity| {
            activity.begin();
            activity.end(activity.idle_since.get() + Duration::from_secs(15));
        };
        assert!(!is_over(15.9, answered) && is_over(16.1, answered));
        // What is being sent, answered or dropped has the limits of always.
        assert!(!is_over(30.0, |activity| activity.reading.set(true)));
        assert!(!is_over(30.0, Activity::begin));
        assert!(!is_over(30.0, |activity| {
            idle(activity);
            activity.upload.set(Progress::Coming);
        }));
    }

    #[test]
    fn looks_are_as_frequent_as_the_limits_in_force_need() {
        assert_eq!(tick(&limits(), false), TICKS.1);
        assert_eq!(tick(&limits(), true), Duration::from_millis(250));
    }
}
