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
}
