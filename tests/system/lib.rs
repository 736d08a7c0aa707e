//! The product as child processes, with every listener on a free port of the loopback address: whole, or role by role.
#![allow(clippy::unwrap_used)]

mod cluster;
mod network;
mod python;
mod up;

pub use cluster::{Cluster, Gateway, Place, Replica, Said, free};
pub use network::Network;
pub use python::{python, tools};
pub use up::{ADMIN_KEY, Up};

/// Whether the long forms are asked for (`cargo xtask test --full`).
pub fn full() -> bool {
    std::env::var_os("MILECASTLE_TEST_FULL").is_some()
}
