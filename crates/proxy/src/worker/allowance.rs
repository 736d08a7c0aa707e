//! What a client may do only so often.

use std::cell::Cell;
use std::time::Instant;

/// A number that what the client does takes from, and that time and useful work give back to. Nothing looks at the clock while
/// there is enough.
#[derive(Debug)]
pub(super) struct Allowance {
    /// What one second gives back; time alone never makes it more.
    per_second: u32,
    /// What useful work makes of it at most.
    most: u64,
    left: Cell<u64>,
    refilled: Cell<Instant>,
}

impl Allowance {
    /// The whole of a second's worth at the beginning.
    pub(super) fn new(per_second: u32, most: u64, now: Instant) -> Self {
        Self { per_second, most, left: Cell::new(per_second.into()), refilled: Cell::new(now) }
    }

    /// Gives something back.
    pub(super) fn earn(&self, number: u64) {
        self.left.set(self.left.get().saturating_add(number).min(self.most));
    }

    /// Takes so much. Whether it was there; if not, nothing is left.
    pub(super) fn take(&self, number: u64, now: impl FnOnce() -> Instant) -> bool {
        if self.left.get() < number {
            self.refill(now());
        }
        let left = self.left.get().checked_sub(number);
        self.left.set(left.unwrap_or_default());
        left.is_some()
    }

    fn refill(&self, now: Instant) {
        let full = u64::from(self.per_second);
        let passed = now.saturating_duration_since(self.refilled.replace(now));
        let given = (passed.as_secs_f64() * f64::from(self.per_second)) as u64;
        let left = self.left.get();
        self.left.set(left.max(left.saturating_add(given).min(full)));
    }
}

/// Requests of one connection that its client cancels, weighed against the others.
#[derive(Debug)]
pub(super) struct Cancels {
    allowance: Allowance,
    /// Requests that had been cancelled, and begun, when that was looked at last.
    looked: Cell<(u64, u64)>,
}

impl Cancels {
    /// So many may be cancelled in a second, beyond as many as are not.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { allowance: Allowance::new(per_second, per_second.into(), now), looked: Cell::new((0, 0)) }
    }

    /// Whether the client has by now cancelled too many of the requests that have begun.
    pub(super) fn are_too_many(&self, cancelled: u64, begun: u64) -> bool {
        let (cancelled_before, begun_before) = self.looked.get();
        if cancelled == cancelled_before {
            return false;
        }
        self.looked.set((cancelled, begun));
        let newly = cancelled - cancelled_before;
        // Those that were not cancelled were answered, or are in work, of which there are only so many.
        let others = (begun - begun_before).saturating_sub(newly);
        self.allowance.earn(others.saturating_sub(newly));
        !self.allowance.take(newly.saturating_sub(others), Instant::now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_gives_back_a_seconds_worth_at_most() {
        let start = Instant::now();
        let after = |seconds| move || start + Duration::from_secs_f32(seconds);
        let allowance = Allowance::new(10, u64::MAX, start);
        assert!(allowance.take(10, after(0.0)));
        assert!(!allowance.take(1, after(0.05)));
        assert!(allowance.take(5, after(0.6)));
        assert!(!allowance.take(11, after(100.0)));
        assert!(allowance.take(10, after(200.0)));
    }

    #[test]
    fn work_gives_back_up_to_the_most() {
        let start = Instant::now();
        let allowance = Allowance::new(10, 30, start);
        allowance.earn(1000);
        assert!(allowance.take(30, || start));
        assert!(!allowance.take(1, || start));
    }

    #[test]
    fn cancelled_requests_are_weighed_against_the_others() {
        let cancels = Cancels::new(10, Instant::now());
        assert!(!cancels.are_too_many(10, 10));
        // As many others as were cancelled.
        assert!(!cancels.are_too_many(20, 30));
        assert!(!cancels.are_too_many(20, 1030));
        // What was earned is no more than a second's worth.
        assert!(!cancels.are_too_many(21, 1031));
        assert!(cancels.are_too_many(1031, 2041));
    }
}
