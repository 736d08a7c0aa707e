//! Data of requests, from the frames that it comes in to whoever reads it.
//!
//! Only its own stream holds a client back: each has a window of its own, however much of the others nobody reads. The windows of
//! bodies that are read grow, out of what the connection has for all of them, so that a long way to the client makes no upload slow.

use super::receive::Receiver;
use super::streams::{Incoming, State, Stream};
use crate::h2::frame::{self, LARGEST_WINDOW, flag};
use crate::h2::{Code, FrameHead};

/// A data frame while it comes.
pub(super) struct Data {
    id: u32,
    /// Where its stream is, unless what comes is dropped.
    key: Option<usize>,
    left: usize,
    padding: usize,
    last: bool,
}

impl Receiver {
    /// The head of a data frame has come, and what says how long its padding is.
    pub(super) fn begin_data(&mut self, head: FrameHead, padding: Option<usize>) -> Result<(), Code> {
        self.must_be_known(head.stream)?;
        self.count(head)?;
        let own = usize::from(padding.is_some());
        let padding = padding.unwrap_or_default();
        let left = (head.length - own).checked_sub(padding).ok_or(Code::PROTOCOL_ERROR)?;
        let last = head.has(flag::END_STREAM);
        if left == 0 && !last {
            self.empty_data += 1;
            if self.empty_data > self.terms.empty_data {
                return Err(self.excess());
            }
        }
        let (key, fault) = self.admit(head, left, own + padding);
        self.data = Some(Data { id: head.stream, key, left, padding, last });
        fault.map_or(Ok(()), |code| self.reset(head.stream, code))
    }

    /// Where data goes, if anywhere, and what its stream is reset for.
    fn admit(&self, head: FrameHead, data: usize, besides: usize) -> (Option<usize>, Option<Code>) {
        let state = &mut *self.streams.state.borrow_mut();
        // Padding counts too (RFC 9113 §6.9.1).
        state.came(head.length as u32);
        let Some(key) = state.by_id.get(&head.stream).copied() else {
            let closed = state.closed_by_client.contains(&head.stream);
            return (None, closed.then_some(Code::STREAM_CLOSED));
        };
        let incoming = &mut state.open[key].incoming;
        if incoming.ended {
            return (None, Some(Code::STREAM_CLOSED));
        }
        incoming.left -= head.length as i64;
        if incoming.left < 0 {
            return (None, Some(Code::FLOW_CONTROL_ERROR));
        }
        incoming.read += besides as u32;
        if let Some(announced) = &mut incoming.length {
            match announced.checked_sub(data as u64) {
                Some(left) => *announced = left,
                None => return (None, Some(Code::PROTOCOL_ERROR)),
            }
        }
        incoming.coming = data;
        (Some(key), None)
    }

    /// Takes what has come of the present data frame, and gives back what is behind it.
    pub(super) fn take_data<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Code> {
        let Some(data) = &mut self.data else { return Ok(bytes) };
        let (piece, rest) = bytes.split_at(bytes.len().min(data.left));
        data.left -= piece.len();
        let (padding, rest) = rest.split_at(rest.len().min(data.padding));
        data.padding -= padding.len();
        let ended = data.left == 0 && data.padding == 0;
        let (id, last) = (data.id, data.last && ended);
        let key = data.key;
        if ended {
            self.data = None;
        }
        let Some(key) = key else { return Ok(rest) };
        let mut fault = None;
        if let Some(stream) = self.streams.state.borrow_mut().get(key, id) {
            stream.incoming.take(piece);
            if last {
                fault = stream.incoming.end().err();
            }
        }
        match fault {
            Some(code) => self.reset(id, code).map(|()| rest),
            None => Ok(rest),
        }
    }
}

impl State {
    /// So much has come on the connection, whose window is opened again long before it is used up.
    fn came(&mut self, bytes: u32) {
        self.came += bytes;
        if self.came > LARGEST_WINDOW as u32 / 2 {
            let came = std::mem::take(&mut self.came);
            frame::put_window(self.out(), 0, came);
        }
    }

    /// So much of a body was read, and is held by nobody. The client is told once that is half the window, which doubles as long as
    /// there is enough to share.
    pub(super) fn was_read(&mut self, key: usize, id: u32, bytes: usize) {
        let Some(Stream { incoming, .. }) = self.open.get_mut(key).filter(|stream| stream.id == id) else { return };
        incoming.read += bytes as u32;
        if incoming.ended || incoming.read < incoming.window / 2 {
            return;
        }
        let grown = if incoming.window <= self.shared_window { incoming.window } else { 0 };
        self.shared_window -= grown;
        incoming.window += grown;
        let more = std::mem::take(&mut incoming.read) + grown;
        incoming.left += i64::from(more);
        frame::put_window(self.out(), id, more);
    }
}

impl Incoming {
    /// Keeps a piece for whoever reads the body, unless nobody does.
    fn take(&mut self, piece: &[u8]) {
        self.coming -= piece.len();
        if !self.unwanted && !piece.is_empty() {
            self.bytes.extend_from_slice(piece);
            self.expects = false;
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }

    /// Nothing more comes. The error: it is less than was announced.
    pub(super) fn end(&mut self) -> Result<(), Code> {
        if self.length.unwrap_or_default() > 0 {
            return Err(Code::PROTOCOL_ERROR);
        }
        self.ended = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::Body;
    use super::super::receive::Terms;
    use super::super::streams::Streams;
    use super::super::trial::TERMS;
    use super::*;
    use crate::h2::frame::{HEAD, LONGEST, kind, number};
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};
    use std::time::Instant;

    const WINDOW: usize = 4 * LONGEST;

    /// A connection on which so many bodies are to come.
    struct Uploads {
        streams: Rc<Streams>,
        receiver: Receiver,
        bodies: Vec<Body>,
    }

    impl Uploads {
        fn new(count: u32, shared_window: usize) -> Self {
            let terms = Terms { stream_window: WINDOW as u32, shared_window: shared_window as u32, ..TERMS };
            let streams = Streams::new(terms, Default::default(), Rc::default(), Instant::now());
            let bodies = (0..count).map(|place| {
                let id = 2 * place + 1;
                let state = &mut *streams.state.borrow_mut();
                state.last = id;
                Body::new(streams.clone(), state.begin(id, None, false, Instant::now()), id)
            });
            Self { bodies: bodies.collect(), receiver: Receiver::new(streams.clone(), terms), streams }
        }

        /// The client sends a full frame of the body in this place.
        fn send(&mut self, place: u32) {
            let head = FrameHead { length: LONGEST, kind: kind::DATA, flags: 0, stream: 2 * place + 1 };
            self.receiver.begin_data(head, None).unwrap();
            assert!(self.receiver.take_data(&[b'x'; LONGEST]).unwrap().is_empty());
        }

        /// What the reader of the body in this place gets, if there is something.
        fn poll(&mut self, place: u32) -> Option<usize> {
            match self.bodies[place as usize].poll_piece(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(piece) => Some(piece.unwrap().unwrap().len()),
                Poll::Pending => None,
            }
        }

        /// So many frames are sent, each of which is read at once, and more asked for. By what the client was told to send more.
        fn pass(&mut self, place: u32, frames: usize) -> usize {
            for _ in 0..frames {
                self.send(place);
                assert_eq!((self.poll(place), self.poll(place)), (Some(LONGEST), None));
            }
            self.told(2 * place + 1)
        }

        /// By what windows of this stream were opened since this was asked last.
        fn told(&self, stream: u32) -> usize {
            let out = std::mem::take(&mut self.streams.state.borrow_mut().out);
            let (mut rest, mut sum) = (&out[..], 0);
            while let Some(head) = FrameHead::read(rest) {
                let (payload, behind) = rest[HEAD..].split_at(head.length);
                if head.kind == kind::WINDOW_UPDATE && head.stream == stream {
                    sum += number(payload).unwrap() as usize;
                }
                rest = behind;
            }
            sum
        }
    }

    #[test]
    fn bodies_that_nobody_reads_hold_up_no_other() {
        let mut uploads = Uploads::new(50, 0);
        for stuck in 1..50 {
            (0..WINDOW / LONGEST).for_each(|_| uploads.send(stuck));
        }
        let mut may = WINDOW;
        for _ in 0..1000 {
            may = (may - LONGEST) + uploads.pass(0, 1);
        }
        assert!(may > WINDOW / 2, "{may}");
    }

    #[test]
    fn what_was_handed_out_counts_until_more_is_asked_for() {
        let mut uploads = Uploads::new(1, 0);
        (0..2).for_each(|_| uploads.send(0));
        assert_eq!((uploads.poll(0), uploads.told(1)), (Some(2 * LONGEST), 0));
        assert_eq!((uploads.poll(0), uploads.told(1)), (None, WINDOW / 2));
    }

    #[test]
    fn windows_grow_by_what_is_shared_and_give_it_back() {
        let mut uploads = Uploads::new(2, 3 * WINDOW);
        assert_eq!(uploads.pass(0, 2), WINDOW / 2 + WINDOW);
        assert_eq!(uploads.pass(0, 4), WINDOW + 2 * WINDOW);
        assert_eq!(uploads.pass(0, 8), 2 * WINDOW, "nothing is left to share");
        assert_eq!(uploads.pass(1, 2), WINDOW / 2);
        let first = uploads.streams.state.borrow().by_id[&1];
        uploads.streams.state.borrow_mut().reset(first, Code::CANCEL);
        assert_eq!(uploads.pass(1, 2), WINDOW / 2 + WINDOW);
    }

    #[test]
    fn the_window_of_the_connection_is_opened_before_it_is_used_up() {
        let uploads = Uploads::new(0, 0);
        let half = LARGEST_WINDOW as u32 / 2;
        uploads.streams.state.borrow_mut().came(half);
        assert_eq!(uploads.told(0), 0);
        uploads.streams.state.borrow_mut().came(1);
        assert_eq!(uploads.told(0), half as usize + 1);
    }
}
