//! The data plane from outside: real sockets on both sides, snapshots from the real compiler.
#![allow(clippy::unwrap_used, clippy::string_slice, reason = "tests")]

mod access_log;
mod attacks;
mod balancing;
mod bodies;
mod clients;
mod ending;
mod failures;
mod frames;
mod fuzz_seeds;
mod health;
mod http2_upstreams;
mod lifecycle;
mod lingering;
mod nginx_status;
mod plugins;
mod requests;
mod support;
mod tls;
mod trailers;
mod upgrades;
