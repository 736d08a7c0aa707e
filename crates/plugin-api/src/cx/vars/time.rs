//! Times as variables show them. The gateway knows no time zone but UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds with three decimals.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{}.{:03}", duration.as_secs(), duration.subsec_millis())
}

/// Time since 1970; zero for a clock before that.
pub(crate) fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A moment in the Gregorian calendar, UTC.
pub(super) struct Civil {
    pub(super) year: i64,
    pub(super) month: u64,
    pub(super) day: u64,
    pub(super) hour: u64,
    pub(super) minute: u64,
    pub(super) second: u64,
    weekday: &'static str,
}

impl Civil {
    /// Splits seconds since 1970. Years run from March, so that leap days fall at their ends.
    pub(super) fn of(seconds: i64) -> Self {
        let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400).unsigned_abs());
        let from_0000_03_01 = days + 719_468;
        let (era, day_of_era) =
            (from_0000_03_01.div_euclid(146_097), from_0000_03_01.rem_euclid(146_097).unsigned_abs());
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: era * 400 + i64::try_from(year_of_era).unwrap_or_default() + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: of_day / 3_600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            weekday: usize::try_from(days.rem_euclid(7))
                .ok()
                .and_then(|day| DAYS.get(day))
                .copied()
                .unwrap_or_default(),
        }
    }

    fn at(time: SystemTime) -> Self {
        Self::of(i64::try_from(since_epoch(time).as_secs()).unwrap_or(i64::MAX))
    }

    /// Three letters.
    pub(super) fn month_name(&self) -> &'static str {
        let index = usize::try_from(self.month).unwrap_or_default().wrapping_sub(1);
        MONTHS.get(index).copied().unwrap_or_default()
    }
}

/// `2026-11-22T17:05:09+00:00`.
pub(crate) fn iso8601(at: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second, .. } = Civil::at(at);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}+00:00")
}

/// `2026-11-22T17:05:09.250Z`, as log lines of other systems have it (RFC 3339).
pub fn timestamp(at: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second, .. } = Civil::at(at);
    let millis = since_epoch(at).subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// `22/Nov/2026:17:05:09 +0000`.
pub(crate) fn common_log(at: SystemTime) -> String {
    let now = Civil::at(at);
    let Civil { year, day, hour, minute, second, .. } = now;
    format!("{day:02}/{}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000", now.month_name())
}

/// `Sunday, 22-Nov-2026 17:05:09 GMT`.
pub(super) fn date(at: SystemTime) -> String {
    let now = Civil::at(at);
    let Civil { year, day, hour, minute, second, weekday, .. } = now;
    format!("{weekday}, {day:02}-{}-{year:04} {hour:02}:{minute:02}:{second:02} GMT", now.month_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        let check = |seconds, iso: &str, log: &str, long: &str| {
            let at = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!((iso8601(at).as_str(), common_log(at).as_str(), date(at).as_str()), (iso, log, long));
        };
        check(0, "1970-01-01T00:00:00+00:00", "01/Jan/1970:00:00:00 +0000", "Thursday, 01-Jan-1970 00:00:00 GMT");
        check(
            951_827_696,
            "2000-02-29T12:34:56+00:00",
            "29/Feb/2000:12:34:56 +0000",
            "Tuesday, 29-Feb-2000 12:34:56 GMT",
        );
        check(
            1_795_367_109,
            "2026-11-22T17:05:09+00:00",
            "22/Nov/2026:17:05:09 +0000",
            "Sunday, 22-Nov-2026 17:05:09 GMT",
        );
        assert_eq!(seconds(Duration::from_micros(1_002_900)), "1.002");
    }
}
