//! The data plane.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod node;
mod process;
mod side_http;
pub mod status;
