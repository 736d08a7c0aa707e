//! What tests of more than one crate need: an upstream that tells what it received, a client that never retries, the real
//! binary as a child process, nodes without traffic, registries of services, a secret manager, an OCSP responder, throw-away PostgreSQL and
//! Redis, certificates, ports, directories, waiting for conditions, a proxy that cuts connections, and a checker of histories.
//!
//! Invariants:
//! - Nothing here hides a failure: the client does not retry, steps that take too long end with an error that says what was
//!   awaited, and a process's output is shown when its test fails.
//! - All that is started ends with the value that stands for it.
//!
//! A dependency of tests alone; it panics where a test could not go on.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bad_input;
pub mod client;
mod cutter;
pub mod echo;
pub mod frames;
pub mod history;
pub mod node;
pub mod ocsp;
mod ports;
pub mod postgres;
pub mod process;
pub mod raw;
mod redis;
pub mod registry;
pub mod tls;
mod vault;
mod wait;

#[cfg(test)]
mod tests;

pub use client::{Answer, Call, Connection, Target, came_too_late};
pub use cutter::Cutter;
pub use echo::Echo;
pub use ports::{TempDir, free_port, hosts_of_each_family, nowhere};
pub use process::Process;
pub use redis::Redis;
pub use vault::Vault;
pub use wait::{SOON, eventually, wait_for, wait_for_blocking};
