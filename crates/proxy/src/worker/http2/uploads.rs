//! Data of requests, from the frames that it comes in to whoever reads it.

use super::receive::Receiver;
use super::streams::Incoming;
use crate::h2::frame::flag;
use crate::h2::{Code, FrameHead};

/// Data frames without data that a client may send on one connection, beside those that end a body.
const EMPTY_DATA: u32 = 100;

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
            if self.empty_data > EMPTY_DATA {
                return Err(self.excess());
            }
        }
        let (key, fault) = self.admit(head, left, own + padding)?;
        self.data = Some(Data { id: head.stream, key, left, padding, last });
        if own > 0 || key.is_none() {
            // Nobody else will.
            let dropped = if key.is_none() { head.length } else { own + padding };
            self.streams.state.borrow_mut().credit(dropped as u32);
        }
        fault.map_or(Ok(()), |code| self.reset(head.stream, code))
    }

    /// Where data goes, if anywhere, and what its stream is reset for.
    fn admit(&self, head: FrameHead, data: usize, besides: usize) -> Result<(Option<usize>, Option<Code>), Code> {
        let state = &mut *self.streams.state.borrow_mut();
        // Padding counts too (RFC 9113 §6.9.1).
        let length = head.length as i64;
        state.left -= length;
        if state.left < 0 {
            return Err(Code::FLOW_CONTROL_ERROR);
        }
        let Some(key) = state.by_id.get(&head.stream).copied() else {
            let closed = state.closed_by_client.contains(&head.stream);
            return Ok((None, closed.then_some(Code::STREAM_CLOSED)));
        };
        let incoming = &mut state.open[key].incoming;
        if incoming.ended {
            return Ok((None, Some(Code::STREAM_CLOSED)));
        }
        incoming.left -= length;
        if incoming.left < 0 {
            return Ok((None, Some(Code::FLOW_CONTROL_ERROR)));
        }
        incoming.read += besides as u32;
        if let Some(announced) = &mut incoming.length {
            match announced.checked_sub(data as u64) {
                Some(left) => *announced = left,
                None => return Ok((None, Some(Code::PROTOCOL_ERROR))),
            }
        }
        incoming.coming = data;
        Ok((Some(key), None))
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
        {
            let state = &mut *self.streams.state.borrow_mut();
            let taken = match state.get(key, id) {
                Some(stream) => {
                    let taken = stream.incoming.take(piece);
                    if last {
                        fault = stream.incoming.end().err();
                    }
                    taken
                }
                None => false,
            };
            if !taken {
                state.credit(piece.len() as u32);
            }
        }
        match fault {
            Some(code) => self.reset(id, code).map(|()| rest),
            None => Ok(rest),
        }
    }
}

impl Incoming {
    /// Keeps a piece for whoever reads the body. `false`: nobody does.
    fn take(&mut self, piece: &[u8]) -> bool {
        self.coming -= piece.len();
        if !self.unwanted && !piece.is_empty() {
            self.bytes.extend_from_slice(piece);
            self.expects = false;
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
        !self.unwanted
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
