//! The state machine of a target (`docs/spec/resources.md` §4.3).

use std::sync::atomic::{AtomicU64, Ordering};

/// How a target stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Status {
    #[default]
    Healthy,
    MostlyHealthy,
    MostlyUnhealthy,
    Unhealthy,
}

impl Status {
    /// Whether requests are sent there.
    pub(crate) fn is_usable(self) -> bool {
        matches!(self, Self::Healthy | Self::MostlyHealthy)
    }

    /// As it is shown.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::MostlyHealthy => "mostly_healthy",
            Self::MostlyUnhealthy => "mostly_unhealthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What a probe or a request has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    Success,
    HttpFailure,
    TcpFailure,
    Timeout,
}

/// Reports of a kind that change the state. Zero ignores reports of that kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thresholds {
    pub(super) successes: u8,
    pub(super) http_failures: u8,
    pub(super) tcp_failures: u8,
    pub(super) timeouts: u8,
}

/// State and counters of a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) status: Status,
    pub(crate) success: u8,
    pub(crate) http_failure: u8,
    pub(crate) tcp_failure: u8,
    pub(crate) timeout_failure: u8,
}

impl Condition {
    /// The condition after a report.
    fn after(mut self, report: Report, thresholds: Thresholds) -> Self {
        let (counter, threshold) = match report {
            Report::Success => (&mut self.success, thresholds.successes),
            Report::HttpFailure => (&mut self.http_failure, thresholds.http_failures),
            Report::TcpFailure => (&mut self.tcp_failure, thresholds.tcp_failures),
            Report::Timeout => (&mut self.timeout_failure, thresholds.timeouts),
        };
        let settled = if report == Report::Success { Status::Healthy } else { Status::Unhealthy };
        if threshold == 0 || self.status == settled {
            return self;
        }
        *counter = counter.saturating_add(1);
        let reached = *counter >= threshold;
        if report == Report::Success {
            (self.http_failure, self.tcp_failure, self.timeout_failure) = (0, 0, 0);
        } else {
            self.success = 0;
        }
        self.status = match (reached, settled, self.status) {
            (true, settled, _) => settled,
            (false, Status::Healthy, Status::Unhealthy) => Status::MostlyUnhealthy,
            (false, Status::Unhealthy, Status::Healthy) => Status::MostlyHealthy,
            (false, _, unchanged) => unchanged,
        };
        self
    }

    /// The condition of a target that gets requests again without having shown that it is well: its failures still count.
    fn on_trial(mut self) -> Self {
        if !self.status.is_usable() {
            (self.status, self.success) = (Status::MostlyHealthy, 0);
        }
        self
    }

    fn pack(self) -> u64 {
        u64::from_le_bytes([
            self.status as u8,
            self.success,
            self.http_failure,
            self.tcp_failure,
            self.timeout_failure,
            0,
            0,
            0,
        ])
    }

    fn unpack(packed: u64) -> Self {
        let [status, success, http_failure, tcp_failure, timeout_failure, ..] = packed.to_le_bytes();
        let status = match status {
            0 => Status::Healthy,
            1 => Status::MostlyHealthy,
            2 => Status::MostlyUnhealthy,
            _ => Status::Unhealthy,
        };
        Self { status, success, http_failure, tcp_failure, timeout_failure }
    }
}

/// A condition that any thread may report to. It is one word: nobody waits, and nobody sees half a change.
#[derive(Debug)]
pub(super) struct ConditionCell(AtomicU64);

impl ConditionCell {
    pub(super) fn new(condition: Condition) -> Self {
        Self(AtomicU64::new(condition.pack()))
    }

    pub(super) fn load(&self) -> Condition {
        Condition::unpack(self.0.load(Ordering::Relaxed))
    }

    /// Takes a report in; gives the new condition if the target has become usable by it, or is so no longer.
    pub(super) fn report(&self, report: Report, thresholds: Thresholds) -> Option<Condition> {
        self.change(|before| before.after(report, thresholds))
    }

    /// Lets the target have requests again; says whether it had none.
    pub(super) fn try_again(&self) -> bool {
        self.change(Condition::on_trial).is_some()
    }

    fn change(&self, next: impl Fn(Condition) -> Condition) -> Option<Condition> {
        let mut known = self.0.load(Ordering::Relaxed);
        loop {
            let before = Condition::unpack(known);
            let after = next(before);
            if after == before {
                return None;
            }
            match self.0.compare_exchange_weak(known, after.pack(), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return (before.status.is_usable() != after.status.is_usable()).then_some(after),
                Err(other) => known = other,
            }
        }
    }
}

#[cfg(test)]
mod tests;
