//! The thread that writes.

use super::lanes::Lanes;
use super::sink::Sink;
use std::thread;
use std::time::{Duration, Instant};

/// How long lines may gather before they are written.
const GATHER: Duration = Duration::from_millis(200);

/// Writes what the workers log until it is asked to stop and all is written.
pub(super) fn run(lanes: &Lanes, mut sink: Sink) {
    let mut spare = String::new();
    let mut failing = false;
    loop {
        wait(lanes);
        let (stop, reopen) = lanes.begin_round();
        lanes.drain(&mut spare, |lines| {
            let written = sink.write(lines);
            // Once for each time that it begins to fail, not for each round.
            if let (Err(error), false) = (&written, failing) {
                tracing::error!(%error, "the access log cannot be written; lines are lost until it can");
            }
            failing = written.is_err();
            !failing
        });
        if reopen {
            sink.reopen();
        }
        if stop {
            return;
        }
    }
}

/// Waits until there is something to do, and then a while for more of it.
fn wait(lanes: &Lanes) {
    while !lanes.is_asked() {
        thread::park();
    }
    let until = Instant::now() + GATHER;
    while !lanes.is_urgent() {
        let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { return };
        thread::park_timeout(left);
    }
}
