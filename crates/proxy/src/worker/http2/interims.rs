//! Interim answers on a stream.

use super::streams::Streams;
use http::{HeaderMap, StatusCode};
use std::rc::Rc;

/// Where the interim answers to a request go.
pub(crate) struct Interims {
    streams: Rc<Streams>,
    key: usize,
    id: u32,
}

impl Interims {
    pub(super) fn new(streams: Rc<Streams>, key: usize, id: u32) -> Self {
        Self { streams, key, id }
    }

    /// Lays one out.
    pub(crate) fn put(&self, status: StatusCode, fields: &HeaderMap) {
        self.streams.put_interim(self.key, self.id, status, fields);
    }
}
