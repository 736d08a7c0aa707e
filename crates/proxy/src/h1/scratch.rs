//! Buffers that all upstream connections of a worker share.
//!
//! A request's head is laid out and sent, and a small answer is read and handed over, within one turn of the worker. With
//! buffers of their own, hundreds of connections would each drag cold memory through the caches for that; with these, the
//! memory is always the same and always warm, and an idle connection holds no buffer at all.

use super::answer::Parsing;
use bytes::BytesMut;
use std::cell::RefCell;

/// Buffers of one worker.
#[derive(Default)]
pub(crate) struct Scratch {
    /// What the next answer is read into.
    pub(super) read: RefCell<BytesMut>,
    /// What the next request's head is laid out in.
    pub(super) text: RefCell<Vec<u8>>,
    /// What parsing the head of an answer needs.
    pub(super) parsing: RefCell<Parsing>,
}
