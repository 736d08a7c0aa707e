//! How OCSP responders are asked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::Checks;
use crate::{Size, Time};

/// How OCSP responders are asked for what is stapled to the certificates of ssl objects with `ocsp_stapling`. Nothing is asked
/// while there is no such object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Ocsp {
    /// How long one question may take: looking up the responder's name, connecting, and the whole answer.
    pub timeout: Time,
    /// Longest answer of a responder; a longer one counts as a failure.
    pub answer_bytes: Size,
    /// Questions under way at once; further ones wait for their turn.
    #[schemars(range(min = 1, max = 1024), extend("x-unit" = "questions"))]
    pub concurrency: u32,
    /// Shortest pause after a failure, doubled at each further one, with jitter; and shortest time between two questions for one
    /// certificate.
    pub retry_min: Time,
    /// Longest pause after failures.
    pub retry_max: Time,
    /// How far the clock of a responder may be ahead of this node's.
    pub clock_skew: Time,
}

impl Ocsp {
    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        checks.above_zero(&[("timeout", self.timeout)]);
        if self.retry_min.is_zero() || self.retry_min > self.retry_max {
            checks.fault("retry_min", "expected more than 0 and no more than `retry_max`");
        }
        if self.answer_bytes < Size::kib(4) {
            checks.fault("answer_bytes", "expected at least 4k: a response may carry its signer's certificate");
        }
    }
}

impl Default for Ocsp {
    fn default() -> Self {
        Self {
            timeout: Time::secs(10),
            answer_bytes: Size::kib(64),
            concurrency: 8,
            retry_min: Time::secs(5),
            retry_max: Time::secs(600),
            clock_skew: Time::secs(300),
        }
    }
}
