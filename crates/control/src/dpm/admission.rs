//! How many may come in at once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use milecastle_settings::Stream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// The trailer that says when to come again.
const RETRY_AFTER: &str = "retry-after-ms";

/// A token bucket that also spreads those who find it empty: each is told a later moment than the one before, at the rate
/// at which they can be let in.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Tokens a second.
    rate: f64,
    burst: f64,
    /// Whoever is sent away is told to come again within so many seconds, however many wait.
    longest_wait: f64,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    tokens: f64,
    /// How many were sent away and have not had time to come again.
    waiting: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(settings: &Stream, now: Instant) -> Self {
        let (rate, burst) = (f64::from(settings.admit_rate), f64::from(settings.admit_burst));
        let longest_wait = settings.longest_wait.get().as_secs_f64();
        Self { rate, burst, longest_wait, level: Mutex::new(Level { tokens: burst, waiting: 0.0, at: now }) }
    }

    /// Takes a token, or says how long to stay away.
    pub(super) fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now.saturating_duration_since(level.at).as_secs_f64() * self.rate;
        level.at = level.at.max(now);
        level.tokens = (level.tokens + gained).min(self.burst);
        level.waiting = (level.waiting - gained).max(0.0);
        if level.tokens >= 1.0 {
            level.tokens -= 1.0;
            return Ok(());
        }
        level.waiting = (level.waiting + 1.0).min(self.longest_wait * self.rate);
        Err(Duration::from_secs_f64(level.waiting / self.rate))
    }

    /// As [`take`](Self::take), now, as a call answers it.
    pub(super) fn admit(&self, what: &str) -> Result<(), Status> {
        self.take(Instant::now()).map_err(|wait| {
            let mut status = Status::new(Code::ResourceExhausted, format!("too many {what} at once: try again later"));
            let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
            status.metadata_mut().insert(RETRY_AFTER, MetadataValue::from(wait));
            status
        })
    }
}

#[cfg(test)]
mod tests {
    use milecastle_settings::Time;

    use super::*;

    fn bucket(admit_rate: u32, admit_burst: u32, now: Instant) -> Bucket {
        let stream = Stream { admit_rate, admit_burst, longest_wait: Time::secs(60), ..Stream::default() };
        Bucket::new(&stream, now)
    }

    #[test]
    fn a_burst_then_the_rate_and_the_rest_spread_out() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let bucket = bucket(10, 3, start);
        for _ in 0..3 {
            assert_eq!(bucket.take(at(0)), Ok(()));
        }
        assert_eq!(bucket.take(at(0)), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(at(0)), Err(Duration::from_millis(200)));
        assert_eq!(bucket.take(at(100)), Ok(()));
        // One of those who wait has had its time.
        assert_eq!(bucket.take(at(100)), Err(Duration::from_millis(200)));
        for _ in 0..3 {
            assert_eq!(bucket.take(at(60_000)), Ok(()));
        }
        assert_eq!(bucket.take(at(60_000)), Err(Duration::from_millis(100)));
    }

    #[test]
    fn nobody_is_sent_away_for_long() {
        let bucket = bucket(1, 1, Instant::now());
        let now = Instant::now();
        let longest = (0..1000).filter_map(|_| bucket.take(now).err()).max();
        assert_eq!(longest, Some(Duration::from_secs(60)));
    }

    #[test]
    fn the_trailer_says_when() {
        let bucket = bucket(1, 1, Instant::now());
        assert!(bucket.admit("joins").is_ok());
        let status = bucket.admit("joins").unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        let wait: u64 = status.metadata().get(RETRY_AFTER).unwrap().to_str().unwrap().parse().unwrap();
        assert!((1..=1000).contains(&wait));
    }
}
