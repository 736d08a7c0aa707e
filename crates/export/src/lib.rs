//! The way out for what a process tells about itself: log entries, spans, metrics.
//!
//! [`Background`] is where exporters run and how they reach their servers; [`Batches`] is a bounded queue that is sent
//! batch by batch; [`HttpClient`] asks over a connection that it keeps, [`SocketClient`] sends bytes as they are.
//!
//! Invariants:
//! - Who adds an entry never waits: there is room for it, or it is dropped and counted.
//! - Everything waits in bounded room, and each wait for a server has an end.
//! - What still waits when the process ends is sent then, for as long as [`Background::end`] gives it.
//!
//! Deliberately absent: TLS (each plane hands [`Background`] its own), and any knowledge of plugins and planes.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod background;
mod batches;
mod client;
pub mod otlp;
mod socket;
#[cfg(test)]
mod tests;

pub use background::{Background, Connect, Connecting, Duplex, Endpoint, Plain, Resolving, Tls};
pub use batches::{Backlog, BatchSettings, Batches, Deliver, Outcome, Undelivered};
pub use client::{Answer, HttpClient, HttpError, Target, TargetError, without_login};
pub use socket::{Carrier, SocketClient};
