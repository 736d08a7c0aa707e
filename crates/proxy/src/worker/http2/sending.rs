//! How answers get their share of what may be sent.

use super::streams::{State, Stream, Streams};
use crate::h2::Code;
use crate::h2::encode::{AnswerHead, Length, put_answer, put_trailers};
use crate::h2::frame::{LARGEST_WINDOW, LONGEST, flag, kind, put_head};
use bytes::{Buf as _, Bytes};
use http::{HeaderMap, StatusCode};
use std::task::{Context, Poll};

/// Control frames that a client may send for each piece of an answer, beside one for each KiB of it: windows are opened for
/// streams and for the connection, by some clients for every 4 KiB.
const FRAMES_A_PIECE: u64 = 4;

/// The stream has been closed meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed;

impl State {
    pub(super) fn has_room(&self) -> bool {
        self.out.len() < self.room
    }

    /// Gives the next stream its turn that waits for the connection, if it could send something.
    pub(super) fn pass_on(&mut self) {
        if self.turn.is_some() || !self.has_room() || self.window <= 0 {
            return;
        }
        while let Some(id) = self.queue.pop_front() {
            let Some(stream) = self.by_id.get(&id).and_then(|key| self.open.get_mut(*key)) else { continue };
            stream.queued = false;
            // Who has been woken by something else looks by itself.
            if let Some(sender) = stream.sender.take() {
                self.turn = Some(id);
                sender.wake();
                return;
            }
        }
    }

    /// The client opens the connection's window (RFC 9113 §6.9).
    pub(super) fn widen_all(&mut self, increment: i64) -> Result<(), Code> {
        widen(&mut self.window, increment)?;
        self.pass_on();
        Ok(())
    }

    /// The client opens the window of a stream, if that is still open.
    pub(super) fn widen(&mut self, id: u32, increment: i64) -> Result<(), Code> {
        let Some(stream) = self.by_id.get(&id).and_then(|key| self.open.get_mut(*key)) else { return Ok(()) };
        widen(&mut stream.window, increment)?;
        stream.try_again();
        Ok(())
    }

    /// The client gives all streams another window to begin with (RFC 9113 §6.9.2). That of some may be below zero then.
    pub(super) fn resize(&mut self, first_window: i64) -> Result<(), Code> {
        let change = first_window - std::mem::replace(&mut self.first_window, first_window);
        for (_, stream) in &mut self.open {
            stream.window += change;
            if stream.window > LARGEST_WINDOW {
                return Err(Code::FLOW_CONTROL_ERROR);
            }
            stream.try_again();
        }
        Ok(())
    }

    /// The client has taken some of what was laid out.
    pub(super) fn made_room(&mut self) {
        if self.has_room() {
            self.for_room.drain(..).for_each(|(_, waiting)| waiting.wake());
            self.pass_on();
        }
    }

    /// Sends what may be sent of a piece, with which the answer ends if it is the `last`.
    fn poll_data(
        &mut self,
        key: usize,
        id: u32,
        data: &mut Bytes,
        last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Closed>> {
        let has_turn = self.turn == Some(id);
        if has_turn {
            self.turn = None;
        }
        if data.is_empty() {
            return self.poll_end(key, id, last, cx);
        }
        let mut must_wait = !has_turn && !self.queue.is_empty();
        loop {
            let (room, window) = (self.has_room(), self.window);
            let Some(stream) = self.get(key, id) else { return Poll::Ready(Err(Closed)) };
            let most = LONGEST.min(data.len());
            let length = most.min(usize::try_from(stream.window.min(window)).unwrap_or(0));
            let blocked = length == 0;
            if must_wait || !room || blocked {
                stream.waits = true;
                stream.sender = Some(cx.waker().clone());
                // Who waits for the stream's own window is woken by that.
                if (!blocked || stream.window > 0) && !std::mem::replace(&mut stream.queued, true) {
                    self.queue.push_back(id);
                }
                self.pass_on();
                return Poll::Pending;
            }
            let end = last && length == data.len();
            stream.window -= length as i64;
            stream.sent += length as u64 + 1;
            stream.waits = false;
            self.window -= length as i64;
            self.sent += length as u64;
            let out = self.out();
            put_head(out, length, kind::DATA, if end { flag::END_STREAM } else { 0 }, id);
            out.extend_from_slice(&data[..length]);
            data.advance(length);
            if data.is_empty() {
                if end {
                    self.answered(key);
                }
                self.pass_on();
                return Poll::Ready(Ok(()));
            }
            // The others have their turn first.
            must_wait = !self.queue.is_empty();
        }
    }
}

impl State {
    /// Sends a frame without data, which takes nothing of any window (RFC 9113 §6.9.1), and so nobody's turn.
    fn poll_end(&mut self, key: usize, id: u32, last: bool, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let has_room = self.has_room();
        let Some(stream) = self.get(key, id) else { return Poll::Ready(Err(Closed)) };
        stream.waits = !has_room;
        if !has_room {
            self.for_room.push((id, cx.waker().clone()));
            return Poll::Pending;
        }
        put_head(self.out(), 0, kind::DATA, if last { flag::END_STREAM } else { 0 }, id);
        if last {
            self.answered(key);
        }
        self.pass_on();
        Poll::Ready(Ok(()))
    }
}

impl Stream {
    /// Has it look again whether it may send.
    fn try_again(&mut self) {
        if self.window > 0
            && let Some(sender) = self.sender.take()
        {
            sender.wake();
        }
    }
}

fn widen(window: &mut i64, increment: i64) -> Result<(), Code> {
    *window += increment;
    match *window {
        _ if increment == 0 => Err(Code::PROTOCOL_ERROR),
        beyond if beyond > LARGEST_WINDOW => Err(Code::FLOW_CONTROL_ERROR),
        _ => Ok(()),
    }
}

impl Streams {
    /// Waits until there is room for the head or the trailers of this stream.
    pub(super) fn poll_room(&self, id: u32, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        if state.has_room() {
            return Poll::Ready(());
        }
        state.for_room.push((id, cx.waker().clone()));
        Poll::Pending
    }

    /// Lays the head of an answer out, which is all of it if it is the `last`.
    pub(super) fn put_answer(&self, key: usize, id: u32, head: &AnswerHead<'_>, last: bool) -> Result<(), Closed> {
        self.control_frames.earn(FRAMES_A_PIECE);
        let state = &mut *self.state.borrow_mut();
        // Nobody is told to go on behind the answer.
        state.get(key, id).ok_or(Closed)?.incoming.expects = false;
        let forget = std::mem::take(&mut state.forget);
        put_answer(state.out(), id, head, last, forget);
        if last {
            state.answered(key);
        }
        Ok(())
    }

    /// Lays an interim answer out, if there is room: a client that does not take what it is sent is told nothing in advance.
    pub(super) fn put_interim(&self, key: usize, id: u32, status: StatusCode, fields: &HeaderMap) {
        let state = &mut *self.state.borrow_mut();
        if state.get(key, id).is_none() || !state.has_room() {
            return;
        }
        let forget = std::mem::take(&mut state.forget);
        let head = AnswerHead { status, fields, received: None, length: Length::Unsaid };
        put_answer(state.out(), id, &head, false, forget);
    }

    /// Lays trailers out, with which the answer ends.
    pub(super) fn put_trailers(&self, key: usize, id: u32, fields: &HeaderMap) -> Result<(), Closed> {
        let state = &mut *self.state.borrow_mut();
        state.get(key, id).ok_or(Closed)?;
        let forget = std::mem::take(&mut state.forget);
        put_trailers(state.out(), id, fields, forget);
        state.answered(key);
        Ok(())
    }

    /// Sends a piece of an answer as fast as the client takes it.
    pub(super) fn poll_data(
        &self,
        key: usize,
        id: u32,
        data: &mut Bytes,
        last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Closed>> {
        let before = data.len();
        let sent = self.state.borrow_mut().poll_data(key, id, data, last, cx);
        self.control_frames.earn((before - data.len()) as u64 / 1024);
        sent.map_ok(|()| self.control_frames.earn(FRAMES_A_PIECE))
    }
}

#[cfg(test)]
mod tests {
    use super::super::receive::Terms;
    use super::super::trial::TERMS;
    use super::*;
    use crate::h2::frame::FrameHead;
    use crate::h2::frame::HEAD;
    use std::rc::Rc;
    use std::task::Waker;
    use std::time::{Duration, Instant};

    const SECOND: Duration = Duration::from_secs(1);

    fn streams(now: Instant) -> Rc<Streams> {
        let terms = Terms { cancels: 10, control_frames: 10, send_buffer: 2 * LONGEST, ..TERMS };
        Streams::new(terms, Default::default(), Rc::default(), now)
    }

    fn send(streams: &Streams, key: usize, id: u32, data: &mut Bytes) -> Poll<Result<(), Closed>> {
        streams.poll_data(key, id, data, true, &mut Context::from_waker(Waker::noop()))
    }

    /// The client takes all that is laid out. Streams and lengths of its data.
    fn take(streams: &Streams) -> Vec<(u32, usize)> {
        let state = &mut *streams.state.borrow_mut();
        let out = std::mem::take(&mut state.out);
        let (mut rest, mut found) = (&out[..], Vec::new());
        while let Some(head) = FrameHead::read(rest) {
            if head.kind == kind::DATA {
                found.push((head.stream, head.length));
            }
            rest = &rest[HEAD + head.length..];
        }
        state.made_room();
        found
    }

    #[test]
    fn streams_have_their_turns_one_after_the_other() {
        let now = Instant::now();
        let streams = streams(now);
        streams.state.borrow_mut().window = LARGEST_WINDOW;
        let mut open: Vec<_> = [1, 3, 5]
            .map(|id| {
                let key = streams.state.borrow_mut().begin(id, None, true, now);
                streams.state.borrow_mut().get(key, id).unwrap().window = LARGEST_WINDOW;
                (key, id, Bytes::from(vec![b'x'; 3 * LONGEST]))
            })
            .into();
        let mut taken = Vec::new();
        for (key, id, data) in &mut open {
            assert!(send(&streams, *key, *id, data).is_pending());
        }
        let turn = || streams.state.borrow().turn;
        while !open.is_empty() {
            taken.extend(take(&streams).iter().map(|(id, _)| *id));
            // Whoever has its turn is woken, and passes it on.
            while let Some(turn) = turn() {
                let place = open.iter().position(|(_, id, _)| *id == turn).unwrap();
                let (key, id, data) = &mut open[place];
                if send(&streams, *key, *id, data).is_ready() {
                    open.remove(place);
                }
            }
        }
        taken.extend(take(&streams).iter().map(|(id, _)| *id));
        assert_eq!(taken, [1, 1, 1, 3, 5, 3, 5, 3, 5]);
        assert!(streams.state.borrow().open.is_empty());
    }

    #[test]
    fn a_turn_that_is_not_taken_goes_to_the_next() {
        let now = Instant::now();
        let streams = streams(now);
        streams.state.borrow_mut().window = 0;
        let [one, two] = [1, 3].map(|id| {
            let key = streams.state.borrow_mut().begin(id, None, true, now);
            assert!(send(&streams, key, id, &mut Bytes::from_static(b"data")).is_pending());
            key
        });
        streams.state.borrow_mut().widen_all(100).unwrap();
        assert_eq!(streams.state.borrow().turn, Some(1));
        streams.state.borrow_mut().reset(one, Code::CANCEL);
        assert_eq!(streams.state.borrow().turn, Some(3));
        assert!(send(&streams, two, 3, &mut Bytes::from_static(b"data")).is_ready());
        assert_eq!(take(&streams), [(3, 4)]);
    }

    #[test]
    fn an_end_without_data_waits_for_no_window() {
        let now = Instant::now();
        let streams = streams(now);
        streams.state.borrow_mut().window = 0;
        let [waits, ends] = [1, 3].map(|id| streams.state.borrow_mut().begin(id, None, true, now));
        assert!(send(&streams, waits, 1, &mut Bytes::from_static(b"data")).is_pending());
        assert!(send(&streams, ends, 3, &mut Bytes::new()).is_ready());
        assert_eq!(take(&streams), [(3, 0)]);
    }

    #[test]
    fn a_stream_that_is_closed_has_no_place_anywhere() {
        let now = Instant::now();
        let streams = streams(now);
        streams.state.borrow_mut().out.resize(2 * LONGEST, 0);
        for id in [1, 3] {
            let key = streams.state.borrow_mut().begin(id, None, true, now);
            assert!(streams.poll_room(id, &mut Context::from_waker(Waker::noop())).is_pending());
            assert!(send(&streams, key, id, &mut Bytes::from_static(b"data")).is_pending());
            streams.state.borrow_mut().ended_by_client(key);
        }
        let state = streams.state.borrow();
        assert!(state.queue.is_empty() && state.for_room.is_empty());
    }

    #[test]
    fn a_connection_that_rests_holds_no_buffer() {
        let now = Instant::now();
        let streams = streams(now);
        streams.state.borrow_mut().window = 0;
        let open = (1..100).step_by(2).map(|id| (id, streams.state.borrow_mut().begin(id, None, true, now)));
        let open: Vec<_> = open.collect();
        for (id, key) in &open {
            assert!(send(&streams, *key, *id, &mut Bytes::from_static(b"data")).is_pending());
        }
        streams.state.borrow_mut().out().resize(2 * LONGEST, 0);
        for (id, _) in &open {
            assert!(streams.poll_room(*id, &mut Context::from_waker(Waker::noop())).is_pending());
        }
        let held = || {
            let state = streams.state.borrow();
            let (open, by_id) = (state.open.capacity(), state.by_id.capacity());
            [open, by_id, state.queue.capacity(), state.for_room.capacity(), state.out.capacity()]
        };
        open.iter().for_each(|(_, key)| streams.state.borrow_mut().ended_by_client(*key));
        assert!(held().iter().all(|room| *room > 0), "{:?}", held());
        streams.state.borrow_mut().give_back();
        streams.look(now, SECOND, Duration::ZERO);
        assert_eq!(held(), [0; 5]);
    }

    #[test]
    fn who_waits_for_its_turn_is_stuck_only_if_nobody_has_one() {
        let start = Instant::now();
        let streams = streams(start);
        streams.state.borrow_mut().window = 0;
        let key = streams.state.borrow_mut().begin(1, None, true, start);
        assert!(send(&streams, key, 1, &mut Bytes::from_static(b"data")).is_pending());
        for second in 0..20 {
            // After ten seconds others get less than a frame.
            streams.state.borrow_mut().sent += if second < 10 { LONGEST as u64 } else { 1 };
            streams.look(start + second * SECOND, 5 * SECOND, Duration::ZERO);
            assert_eq!(streams.counters.http2_stuck_streams.get(), u64::from(second >= 14), "second {second}");
        }
    }

    #[test]
    fn only_streams_that_make_no_progress_are_stuck() {
        let start = Instant::now();
        let streams = streams(start);
        let [moves, works, waits] = [1, 3, 5].map(|id| {
            let key = streams.state.borrow_mut().begin(id, None, true, start);
            streams.state.borrow_mut().get(key, id).unwrap().window = 0;
            (key, id)
        });
        let mut much = Bytes::from(vec![b'x'; 100]);
        let mut data = Bytes::from_static(b"data");
        assert!(send(&streams, waits.0, waits.1, &mut data).is_pending());
        for second in 0..10 {
            streams.look(start + second * SECOND, 5 * SECOND, Duration::ZERO);
            streams.state.borrow_mut().widen(moves.1, 1).unwrap();
            assert!(send(&streams, moves.0, moves.1, &mut much).is_pending());
            assert_eq!(streams.counters.http2_stuck_streams.get(), u64::from(second >= 5), "second {second}");
        }
        let state = &mut *streams.state.borrow_mut();
        let mut is_open = |(key, id): (usize, u32)| state.get(key, id).is_some();
        assert!(is_open(moves) && is_open(works) && !is_open(waits));
    }

    #[test]
    fn who_cancels_too_much_is_to_calm_down() {
        let streams = streams(Instant::now());
        assert!(!streams.cancels_too_much(10, 10));
        assert!(streams.cancels_too_much(1010, 1020));
        assert_eq!(streams.counters.http2_cancels_cut.get(), 1);
    }

    #[test]
    fn control_frames_have_their_number() {
        let streams = streams(Instant::now());
        assert!((0..10).all(|_| streams.take_control_frame()));
        assert!((0..100_000).any(|_| !streams.take_control_frame()));
        assert_eq!(streams.counters.http2_control_frames_cut.get(), 1);
    }

    #[test]
    fn a_client_that_says_nothing_is_asked_once_and_given_its_time() {
        let start = Instant::now();
        let streams = streams(start);
        let look = |seconds| streams.look(start + seconds * SECOND, 100 * SECOND, 10 * SECOND);
        let pulse = &streams.pulse;
        look(9);
        assert!(!pulse.due.get());
        look(10);
        assert!(pulse.due.take() && !pulse.silent.get());
        look(19);
        assert!(!pulse.due.get() && !pulse.silent.get());
        // It answers, which is a sign of life as well.
        pulse.heard.set(true);
        pulse.asked.set(None);
        look(20);
        look(29);
        assert!(!pulse.due.get());
        look(30);
        look(40);
        assert!(pulse.silent.get());
    }
}
