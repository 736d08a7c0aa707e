//! The arithmetic of windows. The clock is an argument.

use super::config::WindowType;
use super::counters::Now;
use std::time::Duration;

/// The limit that a request is judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) kind: WindowType,
    /// Requests; at least 1.
    pub(super) limit: u64,
    /// Length; at least 1.
    pub(super) seconds: u64,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) allowed: bool,
    /// Requests left in the window.
    pub(super) remaining: u64,
    /// Hundredths of a second until the window ends, or until a request may pass again.
    pub(super) reset: u64,
}

/// All of a quota, in the units of [`Verdict::spent`].
const WHOLE: u32 = 1_000_000;

impl Verdict {
    /// How much of a quota of `limit` requests is spent, in millionths; more than all of it once a request was turned away.
    pub(super) fn spent(&self, limit: u64) -> u32 {
        if !self.allowed {
            return WHOLE + 1;
        }
        WHOLE - (self.remaining as f64 / limit as f64 * f64::from(WHOLE)) as u32
    }
}

/// What is kept for a key.
#[derive(Debug, Default)]
pub(super) struct State {
    /// On the monotonic clock: when all this means nothing any more.
    ends: Duration,
    count: u64,
    /// Sliding windows only: requests counted in the window before.
    previous: u64,
    /// Sliding windows only: number of the window since 1970.
    number: u64,
    /// Sliding windows only: length for which `number` holds.
    seconds: u64,
}

impl State {
    /// When the state can be forgotten, on the monotonic clock.
    pub(super) fn ends(&self) -> Duration {
        self.ends
    }

    /// Counts one request.
    pub(super) fn charge(&mut self, window: Window, now: Now) -> Verdict {
        match window.kind {
            WindowType::Fixed => self.fixed(window, now.monotonic),
            WindowType::Sliding => self.sliding(window, now),
        }
    }

    /// The window begins with the first request. Each request counts, also a rejected one.
    fn fixed(&mut self, Window { limit, seconds, .. }: Window, now: Duration) -> Verdict {
        if self.ends <= now {
            *self = Self { ends: now.saturating_add(Duration::from_secs(seconds)), ..Self::default() };
        }
        self.count = self.count.saturating_add(1);
        Verdict {
            allowed: self.count <= limit,
            remaining: limit.saturating_sub(self.count),
            reset: hundredths(self.ends.saturating_sub(now).as_secs_f64()),
        }
    }

    /// Windows are aligned on multiples of their length since 1970. Only requests that pass count.
    fn sliding(&mut self, window: Window, now: Now) -> Verdict {
        let seconds = window.seconds;
        let number = now.wall.as_secs() / seconds;
        if self.seconds != seconds {
            *self = Self { number, seconds, ..Self::default() };
        } else if self.number != number {
            let previous = if self.number.checked_add(1) == Some(number) { self.count } else { 0 };
            *self = Self { number, seconds, previous, ..Self::default() };
        }
        self.ends = now.monotonic.saturating_add(Duration::from_secs(seconds.saturating_mul(2)));
        let verdict = slide(window, window.rest(number, now.wall), self.previous, self.count);
        self.count += u64::from(verdict.allowed);
        verdict
    }
}

impl Window {
    /// Seconds from `wall`, the time since 1970, to the end of the sliding window of this number.
    pub(super) fn rest(&self, number: u64, wall: Duration) -> f64 {
        let end = Duration::from_secs((number + 1).saturating_mul(self.seconds));
        end.saturating_sub(wall).as_secs_f64()
    }
}

/// The verdict on one more request, `time_left` seconds before the end of a sliding window in which `current` have passed,
/// after one in which `previous` did.
pub(super) fn slide(Window { limit, seconds, .. }: Window, time_left: f64, previous: u64, current: u64) -> Verdict {
    let ceiling = limit as f64;
    let previous_rate = previous.min(limit) as f64 / seconds as f64;
    let weighted = previous_rate * time_left;
    if current >= limit {
        return Verdict { allowed: false, remaining: 0, reset: rounded_up(time_left) };
    }
    if weighted + current as f64 >= ceiling {
        // The estimate falls by `previous_rate` each second.
        let delay = time_left - (ceiling - current as f64) / previous_rate;
        return Verdict { allowed: false, remaining: 0, reset: hundredths(delay.max(0.0)) };
    }
    let remaining = (ceiling - (current + 1) as f64 - weighted).floor().max(0.0) as u64;
    Verdict { allowed: true, remaining, reset: rounded_up(time_left) }
}

/// Whole hundredths of a second, the rest cut off.
pub(super) fn hundredths(seconds: f64) -> u64 {
    // A whole number of nanoseconds may come out a hair below what it is.
    (seconds * 100.0 + 1e-6) as u64
}

fn rounded_up(seconds: f64) -> u64 {
    (seconds * 100.0 - 1e-6).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(state: &mut State, kind: WindowType, limit: u64, seconds: u64, at: f64) -> (bool, u64, u64) {
        let at = Duration::from_secs_f64(at);
        let verdict = state.charge(Window { kind, limit, seconds }, Now { monotonic: at, wall: at });
        (verdict.allowed, verdict.remaining, verdict.reset)
    }

    #[test]
    fn a_fixed_window_begins_with_the_first_request_and_is_never_extended() {
        let mut state = State::default();
        let mut at = |seconds| charge(&mut state, WindowType::Fixed, 2, 60, seconds);
        assert_eq!(at(1000.0), (true, 1, 6000));
        assert_eq!(at(1000.127), (true, 0, 5987));
        assert_eq!(at(1030.0), (false, 0, 3000));
        assert_eq!(at(1059.999), (false, 0, 0));
        assert_eq!(at(1060.0), (true, 1, 6000));
    }

    #[test]
    fn a_sliding_window_counts_the_one_before_by_its_overlap() {
        let mut state = State::default();
        let mut at = |seconds| charge(&mut state, WindowType::Sliding, 10, 10, seconds);
        for n in 0..10 {
            assert_eq!(at(109.0), (true, 9 - n, 100));
        }
        assert_eq!(at(109.005), (false, 0, 100), "the rest of the window, rounded up");
        // Just past the border the whole of the last window still counts.
        assert_eq!(at(110.0), (false, 0, 0));
        // One second in, 9 of the 10 count: one passes.
        assert_eq!(at(111.0), (true, 0, 900));
        assert_eq!(at(111.0), (false, 0, 0));
        assert_eq!(at(111.5), (true, 0, 850));
        assert_eq!(at(112.5), (true, 0, 750));
        // Two windows later nothing is left.
        assert_eq!(at(130.0), (true, 9, 1000));
    }

    #[test]
    fn a_sliding_rejection_says_how_long_to_wait() {
        let mut state = State::default();
        let mut at = |seconds| charge(&mut state, WindowType::Sliding, 10, 10, seconds);
        for _ in 0..10 {
            at(100.0);
        }
        for _ in 0..3 {
            at(114.0);
        }
        // 10 of the last window at rate 1/s, 6 s left: 6 + 3 passes once more, then 6 + 4 = 10 does not.
        assert_eq!(at(114.0), (true, 0, 600));
        assert_eq!(at(114.0), (false, 0, 0));
        // Half a second back in time the estimate is 10.5: half a second to wait.
        assert_eq!(at(113.5), (false, 0, 50));
    }

    #[test]
    fn more_of_a_quota_is_spent_with_each_request_and_most_once_one_is_turned_away() {
        for kind in [WindowType::Fixed, WindowType::Sliding] {
            let mut state = State::default();
            let at = Duration::from_secs(100);
            let spent = [(); 5].map(|()| {
                state.charge(Window { kind, limit: 4, seconds: 10 }, Now { monotonic: at, wall: at }).spent(4)
            });
            assert_eq!(spent, [250_000, 500_000, 750_000, WHOLE, WHOLE + 1]);
        }
        let first = Verdict { allowed: true, remaining: (1 << 53) - 2, reset: 0 };
        assert!(first.spent((1 << 53) - 1) <= 1);
    }

    #[test]
    fn enormous_limits_do_not_overflow() {
        let most = (1 << 53) - 1;
        for kind in [WindowType::Fixed, WindowType::Sliding] {
            let mut state = State::default();
            assert!(charge(&mut state, kind, most, most, 1.0).0);
            assert!(charge(&mut state, kind, most, most, 2.0).0);
        }
    }

    #[test]
    fn a_limit_that_changes_between_requests_judges_each_by_its_own() {
        let mut state = State::default();
        assert!(charge(&mut state, WindowType::Sliding, 5, 10, 100.0).0);
        assert!(!charge(&mut state, WindowType::Sliding, 1, 10, 100.0).0);
        assert!(charge(&mut state, WindowType::Sliding, 1, 20, 100.0).0, "another length is another window");
    }
}
