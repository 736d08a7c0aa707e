//! TCP and UDP: sessions are matched, looked at by plugins, and passed to an upstream byte for byte (`docs/spec/stream.md`).
//!
//! A session belongs to the worker that accepted it. [`tcp`] and [`udp`] tell its life, [`connect`] how an upstream is
//! reached, [`relay`] how bytes pass.
//!
//! Invariants:
//! - A session is matched once, by the snapshot in force at its beginning; changes do not cut it. It keeps no snapshot while
//!   bytes pass.
//! - The end of sending on one side is passed on to the other, which may go on sending. A side that fails is told to the
//!   other by a reset: what was sent must not pass for all there was.
//! - Bytes wait in a bounded buffer for the slower side, and the faster one waits with them.
//! - The log hooks of a session that has met a route run exactly once.
//!
//! Deliberately absent: what the bytes mean. A plugin may look at the first ones.

mod connect;
mod relay;
mod session;
mod tcp;
mod udp;

pub(crate) use connect::InlineUpstreams;
pub(crate) use relay::ReadRoom;
pub(crate) use tcp::spawn;
pub(crate) use udp::{UdpDoor, UdpListener};

use crate::counters::StreamListener;
use milecastle_settings::ProxyVersion;
use std::sync::Arc;

/// What a listener of TCP sessions is told apart by from one of HTTP.
#[derive(Debug, Clone)]
pub(crate) struct StreamListen {
    /// The version of the PROXY protocol that is sent in front of what goes upstream.
    pub(crate) proxy_protocol_to_upstream: Option<ProxyVersion>,
    pub(crate) counters: Arc<StreamListener>,
}
