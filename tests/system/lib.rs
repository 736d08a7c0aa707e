//! The whole product as one child process, with every listener on a free port of the loopback address.
#![allow(clippy::unwrap_used)]

mod up;

pub use up::{ADMIN_KEY, Up};
