//! Lines of the log about what others can cause as often as they like.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets a line into the log once in a while, however often what it tells of happens.
#[derive(Debug)]
pub struct Paced {
    every: Duration,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// When the last line was written.
    last: Option<Instant>,
    /// How often it has happened since.
    times: u64,
}

impl Paced {
    /// At most one line in `every`. The first one is written at once.
    pub const fn new(every: Duration) -> Self {
        Self { every, kept: Mutex::new(Kept { last: None, times: 0 }) }
    }

    /// It has happened so often more by `now`. Says how often since the last line, those included, if it is time for another one.
    pub fn happened(&self, times: u64, now: Instant) -> Option<u64> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.times += times;
        if kept.last.is_some_and(|last| now.saturating_duration_since(last) < self.every) {
            return None;
        }
        kept.last = Some(now);
        Some(std::mem::take(&mut kept.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_of_all_since_the_last_one() {
        let (paced, start) = (Paced::new(Duration::from_secs(10)), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(paced.happened(1, at(0)), Some(1));
        assert_eq!([paced.happened(2, at(0)), paced.happened(3, at(9))], [None, None]);
        assert_eq!(paced.happened(1, at(10)), Some(6));
        assert_eq!(paced.happened(1, at(11)), None);
    }
}
