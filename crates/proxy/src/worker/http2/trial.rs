//! What a client's bytes come to, for the fuzz target and for tests.

use super::body::Body;
use super::receive::{Receiver, Room, Terms};
use super::streams::Streams;
use crate::request::Head;
use crate::worker::spare::Spare;
use bytes::BytesMut;
use http::StatusCode;
use std::rc::Rc;
use std::time::Instant;

/// What has been read.
#[derive(Debug, Default)]
pub struct Read {
    /// Streams, and the heads of their requests or what is answered instead.
    pub requests: Vec<(u32, Result<Head, StatusCode>)>,
    /// Streams whose answers have no body.
    pub to_head: Vec<u32>,
    /// Streams that are open, and what nobody has read of their bodies.
    pub bodies: Vec<(u32, Vec<u8>)>,
    /// What upstreams would be told of the lengths of these bodies.
    pub lengths: Vec<(u32, Option<u64>)>,
    /// What is sent without any request having begun.
    pub said: Vec<u8>,
    /// Why the connection ends (RFC 9113 §7).
    pub code: Option<u32>,
}

/// Whatever a test does not set.
pub(super) const TERMS: Terms = Terms {
    header_bytes: 4096,
    header_count: 100,
    streams: 100,
    pending_resets: 20,
    cancels: u32::MAX,
    control_frames: u32::MAX,
    empty_data: 100,
    send_buffer: usize::MAX,
    stream_window: 64 * 1024,
    shared_window: 0,
};

/// Reads what comes in these pieces on one connection. A head may come to `header_bytes`, and no more than `streams` are open.
pub fn read(pieces: &[&[u8]], header_bytes: usize, streams: usize) -> Read {
    let terms = Terms { header_bytes, streams, ..TERMS };
    let (values, spare) = (&mut BytesMut::new(), &Spare::default());
    let shared = Streams::new(terms, Default::default(), Rc::default(), Instant::now());
    let mut receiver = Receiver::new(shared.clone(), terms);
    let mut read = Read::default();
    for piece in pieces {
        let bytes = [&receiver.rest, *piece].concat();
        if let Err(code) = receiver.read(&bytes, &mut Room { values, spare }) {
            read.code = Some(code.0);
            break;
        }
    }
    read.to_head = receiver.arrived.iter().filter(|arrived| arrived.to_head).map(|arrived| arrived.id).collect();
    read.requests = receiver.arrived.drain(..).map(|arrived| (arrived.id, arrived.head)).collect();
    let state = shared.state.borrow();
    read.bodies = state.open.iter().map(|(_, stream)| (stream.id, stream.incoming.bytes.to_vec())).collect();
    read.bodies.sort_unstable();
    read.said.extend_from_slice(&state.out);
    let open: Vec<_> = state.open.iter().map(|(key, stream)| (key, stream.id)).collect();
    drop(state);
    read.lengths = open.into_iter().map(|(key, id)| (id, Body::new(shared.clone(), key, id).length())).collect();
    read.lengths.sort_unstable();
    read
}
