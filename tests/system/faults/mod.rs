//! A cluster whose parts die, end and come back under load, and what its clients, writers and nodes see meanwhile.

mod at_scale;
mod balancer;
mod cluster_run;
mod cut_connections;
mod dropped_change;
mod fleet;
mod load;
mod random_kills;
mod record;
mod samples;
mod wire_tap;
mod writer;

use std::time::Duration;
use tokio::sync::Mutex;

/// Held by whoever needs the machine for a whole cluster and its load: two at once would see little but each other.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Whether the long forms are asked for: `cargo xtask test --full`.
fn full() -> bool {
    std::env::var_os("MILECASTLE_TEST_FULL").is_some()
}

/// The long form of a duration if that is asked for, else the short one.
fn either(short: Duration, long: Duration) -> Duration {
    if full() { long } else { short }
}
