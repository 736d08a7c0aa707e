//! What a client sends, frame by frame (RFC 9113 §6).
//!
//! Frames are read where they were received. Kept is only one that has not come whole, and the block of a head that has not. Data is
//! passed on as it comes.

use super::heads::Block;
use super::streams::Streams;
use super::uploads::Data;
use crate::config::ClientLimits;
use crate::h2::frame::{HEAD, LARGEST_WINDOW, LONGEST, PREFACE, flag, kind, number, setting, settings};
use crate::h2::{Code, Decoder, FrameHead, frame};
use crate::request::Head;
use crate::worker::spare::Spare;
use bytes::BytesMut;
use http::StatusCode;
use std::rc::Rc;

/// Frames that a head may always have.
const HEAD_FRAMES: usize = 5;
/// What we ask with whether the client has heard of the end (RFC 9113 §6.8), and whether it is still there.
pub(super) const HEARD: [u8; 8] = *b"goodbye?";
pub(super) const ALIVE: [u8; 8] = *b"still on";

/// A request that has come, and has not begun.
pub(super) struct Arrived {
    pub(super) key: usize,
    pub(super) id: u32,
    /// The status is answered where the head cannot be taken.
    pub(super) head: Result<Head, StatusCode>,
    /// Its answer has no body, whatever the head comes to (RFC 9110 §9.3.2).
    pub(super) to_head: bool,
}

/// What a connection is held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) header_bytes: usize,
    pub(super) header_count: usize,
    pub(super) streams: usize,
    pub(super) pending_resets: usize,
    pub(super) cancels: u32,
    pub(super) control_frames: u32,
    pub(super) empty_data: u32,
    pub(super) send_buffer: usize,
    pub(super) stream_window: u32,
    pub(super) shared_window: u32,
}

/// The receiving side of a connection.
pub(super) struct Receiver {
    pub(super) streams: Rc<Streams>,
    pub(super) terms: Terms,
    /// Bytes of the preface that have come.
    greeted: usize,
    /// SETTINGS have come, which are the first frame.
    settled: bool,
    /// The beginning of a frame.
    pub(super) rest: Vec<u8>,
    pub(super) data: Option<Data>,
    pub(super) block: Option<Block>,
    pub(super) decoder: Decoder,
    /// Data frames without data that have come, beside those that end a body.
    pub(super) empty_data: u32,
    /// Streams that had to be reset for what the client did.
    resets: usize,
    /// Requests that were given up among those that have arrived.
    pub(super) given_up: usize,
    pub(super) arrived: Vec<Arrived>,
    /// Streams beyond this one are not taken any more.
    pub(super) most: Option<u32>,
    /// The client has said that it knows of the end.
    pub(super) heard: bool,
}

/// Where values are put that belong to one request, and the maps of their fields.
pub(super) struct Room<'a> {
    pub(super) values: &'a mut BytesMut,
    pub(super) spare: &'a Spare,
}

impl From<&ClientLimits> for Terms {
    fn from(limits: &ClientLimits) -> Self {
        Self {
            header_bytes: limits.header_bytes,
            header_count: limits.header_count,
            streams: limits.streams as usize,
            pending_resets: limits.pending_resets,
            cancels: limits.cancels,
            control_frames: limits.control_frames,
            empty_data: limits.empty_data,
            send_buffer: limits.send_buffer,
            stream_window: limits.stream_window,
            shared_window: limits.shared_window,
        }
    }
}

impl Terms {
    /// Frames that a head may have, and one more with which it ends: a quarter more than it could need, for those that are not full.
    pub(super) fn head_frames(&self) -> usize {
        let full = self.header_bytes / LONGEST;
        HEAD_FRAMES.max(full + full / 4)
    }
}

impl Receiver {
    pub(super) fn new(streams: Rc<Streams>, terms: Terms) -> Self {
        Self {
            streams,
            terms,
            greeted: 0,
            settled: false,
            rest: Vec::new(),
            data: None,
            block: None,
            decoder: Decoder::default(),
            empty_data: 0,
            resets: 0,
            given_up: 0,
            arrived: Vec::new(),
            most: None,
            heard: false,
        }
    }

    /// Reads what has come, up to a frame that is not whole, which is kept.
    ///
    /// # Errors
    /// The connection ends for this reason.
    pub(super) fn read(&mut self, bytes: &[u8], room: &mut Room<'_>) -> Result<(), Code> {
        let mut rest = bytes;
        if self.greeted < PREFACE.len() {
            let (said, behind) = rest.split_at(rest.len().min(PREFACE.len() - self.greeted));
            if !PREFACE[self.greeted..].starts_with(said) {
                return Err(Code::PROTOCOL_ERROR);
            }
            self.greeted += said.len();
            rest = behind;
        }
        let mut within_head = false;
        loop {
            rest = self.take_data(rest)?;
            if self.data.is_some() {
                break;
            }
            let Some(head) = FrameHead::read(rest) else { break };
            self.check(head)?;
            let payload = &rest[HEAD..];
            if head.kind == kind::DATA {
                let padding = match (head.has(flag::PADDED), payload.first()) {
                    (false, _) => None,
                    (true, _) if head.length == 0 => return Err(Code::FRAME_SIZE_ERROR),
                    (true, None) => break,
                    (true, Some(padding)) => Some(usize::from(*padding)),
                };
                self.begin_data(head, padding)?;
                rest = &payload[usize::from(padding.is_some())..];
            } else {
                let Some((payload, behind)) = payload.split_at_checked(head.length) else {
                    within_head = matches!(head.kind, kind::HEADERS | kind::CONTINUATION);
                    break;
                };
                self.frame(head, payload, room)?;
                rest = behind;
            }
        }
        self.streams.within_head.set(within_head || self.block.is_some());
        self.rest = rest.to_vec();
        Ok(())
    }

    /// Whether a frame may come here.
    fn check(&self, head: FrameHead) -> Result<(), Code> {
        if head.length > LONGEST {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        let goes_on = self.block.as_ref().map(|block| block.id);
        if (head.kind == kind::CONTINUATION) != goes_on.is_some() || goes_on.is_some_and(|id| id != head.stream) {
            return Err(Code::PROTOCOL_ERROR);
        }
        if !self.settled && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(Code::PROTOCOL_ERROR);
        }
        Ok(())
    }

    /// Counts a frame that carries nothing of a request.
    pub(super) fn count(&self, head: FrameHead) -> Result<(), Code> {
        let carries = matches!(head.kind, kind::DATA | kind::HEADERS | kind::CONTINUATION) && head.length > 0;
        if carries || self.streams.take_control_frame() { Ok(()) } else { Err(Code::ENHANCE_YOUR_CALM) }
    }

    /// The client has done too much of what costs it nothing.
    pub(super) fn excess(&self) -> Code {
        self.streams.counters.http2_excess.up();
        Code::ENHANCE_YOUR_CALM
    }

    /// Resets a stream for what the client did, which it may not do often.
    pub(super) fn reset(&mut self, id: u32, code: Code) -> Result<(), Code> {
        self.resets += 1;
        if self.resets > self.terms.pending_resets {
            return Err(self.excess());
        }
        let state = &mut *self.streams.state.borrow_mut();
        match state.by_id.get(&id).copied() {
            Some(key) => state.reset(key, code),
            None => state.refuse(id, code),
        }
        Ok(())
    }

    fn frame(&mut self, head: FrameHead, payload: &[u8], room: &mut Room<'_>) -> Result<(), Code> {
        match head.kind {
            kind::HEADERS => self.headers(head, payload, room)?,
            kind::CONTINUATION => self.continuation(head, payload, room)?,
            kind::PRIORITY if head.stream == 0 => return Err(Code::PROTOCOL_ERROR),
            kind::PRIORITY if head.length != 5 => return Err(Code::FRAME_SIZE_ERROR),
            kind::RST_STREAM => self.rst_stream(head)?,
            kind::SETTINGS => self.settings(head, payload)?,
            kind::PUSH_PROMISE => return Err(Code::PROTOCOL_ERROR),
            kind::PING => self.ping(head, payload)?,
            kind::GOAWAY if head.stream != 0 => return Err(Code::PROTOCOL_ERROR),
            kind::GOAWAY if head.length < 8 => return Err(Code::FRAME_SIZE_ERROR),
            kind::WINDOW_UPDATE => self.window_update(head, payload)?,
            // PRIORITY, GOAWAY and what is not known change nothing.
            _ => {}
        }
        self.count(head)
    }

    /// Whether a stream has been opened, as a frame of its own takes for granted.
    pub(super) fn must_be_known(&self, id: u32) -> Result<(), Code> {
        let known = id % 2 == 1 && id <= self.streams.state.borrow().last;
        if known { Ok(()) } else { Err(Code::PROTOCOL_ERROR) }
    }

    fn rst_stream(&mut self, head: FrameHead) -> Result<(), Code> {
        self.must_be_known(head.stream)?;
        if head.length != 4 {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        let state = &mut *self.streams.state.borrow_mut();
        let Some(key) = state.by_id.get(&head.stream).copied() else { return Ok(()) };
        let begun = state.open[key].begun;
        state.ended_by_client(key);
        if begun {
            return Ok(());
        }
        self.streams.waste();
        self.given_up += 1;
        if self.given_up > self.terms.pending_resets { Err(self.excess()) } else { Ok(()) }
    }

    fn settings(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Code> {
        if head.stream != 0 {
            return Err(Code::PROTOCOL_ERROR);
        }
        if !head.length.is_multiple_of(6) || (head.has(flag::ACK) && head.length > 0) {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        self.settled = true;
        if head.has(flag::ACK) {
            return Ok(());
        }
        let state = &mut *self.streams.state.borrow_mut();
        // The last one counts: each would be a walk past all streams.
        let mut first_window = None;
        for (name, value) in settings(payload) {
            match name {
                // We have none; the client is told so (RFC 7541 §4.2).
                setting::HEADER_TABLE_SIZE => state.forget = true,
                setting::ENABLE_PUSH if value > 1 => return Err(Code::PROTOCOL_ERROR),
                setting::INITIAL_WINDOW_SIZE if i64::from(value) > LARGEST_WINDOW => {
                    return Err(Code::FLOW_CONTROL_ERROR);
                }
                setting::INITIAL_WINDOW_SIZE => first_window = Some(value),
                setting::MAX_FRAME_SIZE if !(LONGEST..1 << 24).contains(&(value as usize)) => {
                    return Err(Code::PROTOCOL_ERROR);
                }
                _ => {}
            }
        }
        if let Some(first_window) = first_window {
            state.resize(first_window.into())?;
        }
        frame::put(state.out(), kind::SETTINGS, flag::ACK, 0, b"");
        Ok(())
    }

    fn ping(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Code> {
        if head.stream != 0 {
            return Err(Code::PROTOCOL_ERROR);
        }
        if head.length != 8 {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        if !head.has(flag::ACK) {
            frame::put(self.streams.state.borrow_mut().out(), kind::PING, flag::ACK, 0, payload);
        } else if payload == HEARD {
            self.heard = true;
        } else if payload == ALIVE {
            self.streams.pulse.asked.set(None);
        }
        Ok(())
    }

    fn window_update(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Code> {
        if head.length != 4 {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        // The highest bit is reserved.
        let increment = i64::from(number(payload).unwrap_or_default() & (u32::MAX >> 1));
        if head.stream == 0 {
            return self.streams.state.borrow_mut().widen_all(increment);
        }
        self.must_be_known(head.stream)?;
        let widened = self.streams.state.borrow_mut().widen(head.stream, increment);
        widened.or_else(|code| self.reset(head.stream, code))
    }
}
