//! Buffers that all connections of a worker share.
//!
//! A head is laid out and sent, and a small answer is read and handed over, within one turn of the worker. With
//! buffers of their own, hundreds of connections would each drag cold memory through the caches for that; with these, the
//! memory is always the same and always warm, and an idle connection holds no buffer at all.

use super::{Received, answer, server};
use bytes::BytesMut;
use std::cell::RefCell;

/// Buffers of one worker.
#[derive(Default)]
pub(crate) struct Scratch {
    /// What the next head or small body of an answer is read into.
    pub(super) read: RefCell<BytesMut>,
    /// What the next piece of a large body is read into.
    pub(super) large: RefCell<BytesMut>,
    /// What the next head is laid out in.
    pub(crate) text: RefCell<Vec<u8>>,
    /// What parsing the head of an answer needs.
    pub(super) parsing: RefCell<answer::Parsing>,
    /// What the next head of a request is read into. Heads are split off its front, and live as long as their requests.
    pub(crate) heads: RefCell<BytesMut>,
    /// What parsing the head of a request needs.
    pub(crate) requests: RefCell<server::Parsing>,
    /// What frames of HTTP/2 are read into.
    pub(crate) frames: RefCell<Vec<u8>>,
    /// Empty buffers that answers over HTTP/2 are laid out in, one for each connection that has something to send.
    pub(crate) outputs: RefCell<Vec<Vec<u8>>>,
}

/// Buffers for answers that are kept, and the bytes beyond which one is not.
const MOST_OUTPUTS: usize = 32;
const LARGE_OUTPUT: usize = 128 * 1024;

impl Scratch {
    /// Takes back the room of fields that have been written.
    pub(crate) fn give_back(&self, received: Received) {
        self.parsing.borrow_mut().give_back(received);
    }

    /// Takes back an empty buffer that answers were laid out in.
    pub(crate) fn keep_output(&self, buffer: Vec<u8>) {
        let mut kept = self.outputs.borrow_mut();
        if (1..=LARGE_OUTPUT).contains(&buffer.capacity()) && kept.len() < MOST_OUTPUTS {
            kept.push(buffer);
        }
    }
}
