//! The real binary from outside.
#![allow(clippy::unwrap_used)]

mod admin_matrix;
mod attacks;
mod bad_input;
mod changes;
mod clients;
mod discovery;
mod ending;
mod faults;
mod first_steps;
mod floods;
mod full_disks;
mod group_settings;
mod hostile;
mod http2;
mod joins;
mod keys;
mod killed;
mod last_good;
mod life_cycle;
mod maintenance;
mod many_nodes;
mod on_the_wire;
mod operator;
mod partitions;
mod recovery;
mod restored;
mod roles;
mod rolling;
mod start_up;
mod stream;
mod strictness;
mod tunnels;
mod unreachable;
mod upstreams;
mod upstreams_http2;
