//! The real binary from outside.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod changes;
mod first_steps;
mod life_cycle;
mod on_the_wire;
mod recovery;
mod start_up;
