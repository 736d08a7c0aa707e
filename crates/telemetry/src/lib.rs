//! What every process tells about itself: log lines and metrics, and the wrapper that keeps secrets out of both.
//!
//! Invariants:
//! - One log format for each role and each crate ([`log::init`]); libraries only use `tracing` and never set a subscriber.
//! - A [`Secret`] has no way into a log line, an error or a metric but an explicit [`Secret::reveal`].
//! - Updating a metric through its handle takes no lock and never loses an increment; only the first use of a label set
//!   and the rendering of the page take a lock.
//!
//! Deliberately absent: listeners (each plane serves [`metrics::Registry::render`] itself), clocks other than the monotonic
//! one, and any knowledge of what is counted, but for the family that the data plane and its plugins share
//! ([`metrics::Registry::limit_hits`]).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod log;
pub mod metrics;
mod paced;
mod secret;
mod warnings;

pub use paced::Paced;
pub use secret::Secret;
pub use warnings::{Warning, Warnings, warnings};
