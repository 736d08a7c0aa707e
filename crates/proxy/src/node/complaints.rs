//! What this node has logged of level WARN and ERROR, on its way to the control plane.

use std::time::{SystemTime, UNIX_EPOCH};

use milecastle_telemetry::{Warning, warnings};
use milecastle_wire::pb;

/// Lines of the log in a report at most; the others follow with the next ones.
const MOST_OF_A_REPORT: usize = 20;

/// What was reported of them on one stream. The next stream may lead to another replica, so all are reported again there.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// Number of the last line.
    last: u64,
}

impl Complaints {
    /// What was logged since the last report.
    pub(super) fn news(&mut self) -> Vec<pb::Warning> {
        let news = warnings().since(self.last, MOST_OF_A_REPORT);
        self.last = news.last().map_or(self.last, |last| last.number);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let told = |line: Warning| pb::Warning {
            is_error: line.is_error,
            target: line.target,
            text: line.text,
            times: line.times,
            first_age_s: now.saturating_sub(line.first_at),
            last_age_s: now.saturating_sub(line.last_at),
        };
        news.into_iter().map(told).collect()
    }
}
