//! Pauses after failures of what is asked beside the workers.

use std::time::Duration;

/// Pauses that grow with each failure in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    /// After the first failure.
    pub(crate) shortest: Duration,
    pub(crate) longest: Duration,
}

impl Backoff {
    /// The pause after so many failures in a row, the first of them being number 0. `jitter`, from 0 to 255, spreads those that
    /// have failed together over the second half of it.
    pub(crate) fn pause(&self, failures: u32, jitter: u8) -> Duration {
        let whole = self.shortest.saturating_mul(1 << failures.min(16)).min(self.longest);
        whole / 2 + whole / 2 * u32::from(jitter) / 255
    }
}

/// Any byte.
pub(crate) fn jitter() -> u8 {
    let mut byte = [0];
    // Without a random number everybody asks at the same moment, which is no fault.
    let _known = aws_lc_rs::rand::fill(&mut byte).is_ok();
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let backoff = Backoff { shortest: Duration::from_millis(500), longest: Duration::from_secs(15) };
        for (failures, jitter, millis) in
            [(0, 0, 250), (0, 255, 500), (1, 255, 1000), (4, 0, 4000), (5, 255, 15_000), (1000, 0, 7500)]
        {
            assert_eq!(backoff.pause(failures, jitter), Duration::from_millis(millis), "{failures} {jitter}");
        }
    }
}
