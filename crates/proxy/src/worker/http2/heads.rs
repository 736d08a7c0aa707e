//! Heads and trailers, from the frames that they come in to what they say.

use super::body::Trailers;
use super::receive::{Arrived, Receiver, Room};
use crate::fields::Line;
use crate::h2::frame::{flag, without_padding};
use crate::h2::{BlockFault, Code, FrameHead};
use crate::worker::stream_head::{Fault, Reading};
use http::{StatusCode, Version};
use std::ops::ControlFlow;
use std::time::Instant;

/// A head that comes to so many times what one may come to ends the connection: it is no mistake.
const ABUSE: usize = 4;

/// The beginning of a block of fields.
pub(super) struct Block {
    pub(super) id: u32,
    last: bool,
    bytes: Vec<u8>,
    frames: usize,
}

/// What a block of fields belongs to.
enum Place {
    /// A request that has gone before.
    Trailers(usize),
    /// A new request.
    Request,
    /// A new request that is not taken.
    Refused,
    /// A stream that we have closed, before the client knew.
    Late,
}

impl Receiver {
    pub(super) fn headers(&mut self, head: FrameHead, payload: &[u8], room: &mut Room<'_>) -> Result<(), Code> {
        if head.stream.is_multiple_of(2) {
            return Err(Code::PROTOCOL_ERROR);
        }
        let block = without_padding(payload, head.has(flag::PADDED)).ok_or(Code::PROTOCOL_ERROR)?;
        // Priorities mean nothing here (RFC 9113 §5.3.2).
        let priority = if head.has(flag::PRIORITY) { 5 } else { 0 };
        let block = block.get(priority..).ok_or(Code::FRAME_SIZE_ERROR)?;
        let last = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block_ended(head.stream, last, block, room);
        }
        self.block = Some(Block { id: head.stream, last, bytes: block.to_vec(), frames: 1 });
        Ok(())
    }

    pub(super) fn continuation(&mut self, head: FrameHead, payload: &[u8], room: &mut Room<'_>) -> Result<(), Code> {
        let Some(mut block) = self.block.take() else { return Err(Code::PROTOCOL_ERROR) };
        block.bytes.extend_from_slice(payload);
        block.frames += 1;
        if head.has(flag::END_HEADERS) {
            return self.block_ended(block.id, block.last, &block.bytes, room);
        }
        if block.frames > self.terms.head_frames() {
            return Err(self.excess());
        }
        self.block = Some(block);
        Ok(())
    }

    /// Reads a block of fields, whatever it belongs to: those behind it may name what stands in it.
    fn block_ended(&mut self, id: u32, last: bool, block: &[u8], room: &mut Room<'_>) -> Result<(), Code> {
        match self.place(id)? {
            Place::Trailers(key) => self.trailers(key, id, last, block, room),
            Place::Request => self.request(id, last, block, room),
            Place::Refused | Place::Late => self.decode(block, room, |_| {}).map(drop),
        }
    }

    fn place(&self, id: u32) -> Result<Place, Code> {
        let state = &mut *self.streams.state.borrow_mut();
        if let Some(key) = state.by_id.get(&id) {
            return Ok(Place::Trailers(*key));
        }
        if id > state.last {
            let is_late = self.most.is_some_and(|most| id > most);
            if is_late || state.open.len() >= self.terms.streams {
                if !is_late {
                    self.streams.counters.http2_streams_refused.up();
                }
                state.last = id;
                // It may be sent again (RFC 9113 §8.7).
                state.refuse(id, Code::REFUSED_STREAM);
                return Ok(Place::Refused);
            }
            state.last = id;
            return Ok(Place::Request);
        }
        match () {
            () if state.closed_by_us.contains(&id) => Ok(Place::Late),
            () if state.closed_by_client.contains(&id) => Err(Code::STREAM_CLOSED),
            () => Err(Code::PROTOCOL_ERROR),
        }
    }

    /// Hands over the fields of a block. Whether they come to no more than they may.
    fn decode(&mut self, block: &[u8], room: &mut Room<'_>, mut each: impl FnMut(Line)) -> Result<bool, Code> {
        let (mut size, most) = (0, self.terms.header_bytes);
        let decoded = self.decoder.decode(block, room.values, |line, counts| {
            size += counts;
            if size <= most {
                each(line);
            }
            if size > most.saturating_mul(ABUSE) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        decoded.map(|()| size <= most).map_err(|fault| match fault {
            BlockFault::Malformed => Code::COMPRESSION_ERROR,
            BlockFault::Stopped => self.excess(),
        })
    }

    fn request(&mut self, id: u32, last: bool, block: &[u8], room: &mut Room<'_>) -> Result<(), Code> {
        let mut reading = Reading::new(room.spare.take_map(), self.terms.header_count);
        let fits = self.decode(block, room, |line| reading.take(line))?;
        let to_head = reading.is_head();
        let (head, length) = match reading.finish(Version::HTTP_2) {
            _ if !fits => (Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), None),
            // Less comes than was announced.
            Ok((_, Some(1..))) if last => return self.malformed(id),
            Ok((head, length)) => (Ok(head), length),
            Err(Fault::Unsound) => (Err(StatusCode::BAD_REQUEST), None),
            Err(Fault::Malformed) => return self.malformed(id),
        };
        let fault = head.as_ref().map_or_else(|status| Some(*status), |head| head.fault);
        if let Some(status) = fault {
            self.streams.counters.bad_heads.up();
            tracing::debug!(stream = id, %status, "the head of an HTTP/2 request was refused");
        }
        let key = self.streams.state.borrow_mut().begin(id, length, last, Instant::now());
        self.arrived.push(Arrived { key, id, head, to_head });
        Ok(())
    }

    fn malformed(&mut self, id: u32) -> Result<(), Code> {
        self.streams.counters.bad_heads.up();
        tracing::debug!(stream = id, "the head of an HTTP/2 request is malformed");
        self.reset(id, Code::PROTOCOL_ERROR)
    }

    fn trailers(&mut self, key: usize, id: u32, last: bool, block: &[u8], room: &mut Room<'_>) -> Result<(), Code> {
        let (mut trailers, most) = (Trailers::default(), self.terms.header_count);
        let fits = self.decode(block, room, |line| trailers.take(line, most))?;
        let fault = match self.streams.state.borrow_mut().get(key, id) {
            None => None,
            Some(stream) if stream.incoming.ended => Some(Code::STREAM_CLOSED),
            Some(_) if !fits || !last || trailers.malformed => Some(Code::PROTOCOL_ERROR),
            Some(stream) => {
                stream.incoming.trailers = Some(trailers.fields);
                stream.incoming.end().err()
            }
        };
        fault.map_or(Ok(()), |code| self.reset(id, code))
    }
}
