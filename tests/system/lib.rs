//! The product as child processes, with every listener on a free port of the loopback address: whole, or role by role.
#![allow(clippy::unwrap_used)]

mod cluster;
mod up;

pub use cluster::{Cluster, Gateway, Replica, Said, free};
pub use up::{ADMIN_KEY, Up};
