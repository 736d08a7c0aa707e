//! What happened, as events that can be followed (docs/events.md).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Time;
use crate::load::Checks;

/// What is told as events, and how long they are kept. The same on all replicas, since whichever leads sees to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Events {
    /// Events older than this are forgotten.
    pub keep: Time,
    /// Events kept at most; the oldest are forgotten first.
    #[schemars(range(min = 1), extend("x-unit" = "events"))]
    pub most: u64,
    /// How often nodes, replicas and receipts are looked at. What comes and goes in between is not told; changes all are.
    pub look: Time,
    /// Shortest time between two looks at what was published, each of which is a transaction if there was anything.
    pub pace: Time,
    /// How long a connected node may be behind the newest revision before that is told.
    pub behind_after: Time,
    /// How often certificates of objects are looked at.
    pub certificates: Time,
    /// Days before the end of a certificate at which that is told, in any order. Certificates of nodes, which are renewed
    /// without anybody's doing, count only once that is overdue.
    #[schemars(extend("x-unit" = "days"))]
    pub certificate_days: Vec<u64>,
}

/// Streams of events with clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EventStreams {
    /// Streams at a time; never more than a quarter of `limits.connections`. One more is refused with 503.
    #[schemars(range(min = 1), extend("x-unit" = "streams"))]
    pub most: u32,
    /// Streams of one key, token or account at a time, 1 to `most`; one more is refused with 429.
    #[schemars(range(min = 1), extend("x-unit" = "streams"))]
    pub most_of_a_caller: u32,
    /// How often a stream says that it lives, and where it stands; at most 30s: `milecastle events --follow` goes on elsewhere after 60 s of
    /// silence.
    pub beat: Time,
    /// How old the answer may be that a client may still see a stream when something is sent to it; one that may not has its
    /// stream ended, at the latest with the next beat.
    pub recheck: Time,
    /// How long a client may take nothing of what it is sent before its stream ends; and then not even that, before its connection is
    /// cut (`why="unread"` in `http_connections_ended_total`).
    pub stall: Time,
    /// Newest events that a replica keeps in memory for its streams; what is older is read from the database.
    #[schemars(range(min = 1), extend("x-unit" = "events"))]
    pub memory: u32,
}

impl Events {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        checks.at("events").above_zero(&[
            ("keep", self.keep),
            ("look", self.look),
            ("certificates", self.certificates),
        ]);
    }
}

impl EventStreams {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        let mut checks = checks.at("event_streams");
        checks.above_zero(&[("stall", self.stall)]);
        if self.beat.is_zero() || self.beat > Time::secs(30) {
            checks.fault("beat", "expected more than 0 and at most 30s: clients count on it");
        }
        if self.most_of_a_caller > self.most {
            checks.fault("most_of_a_caller", "expected at most `event_streams.most`");
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self {
            keep: Time::secs(7 * 86_400),
            most: 100_000,
            look: Time::secs(1),
            pace: Time::millis(100),
            behind_after: Time::secs(30),
            certificates: Time::secs(60),
            certificate_days: vec![30, 7, 1],
        }
    }
}

impl Default for EventStreams {
    fn default() -> Self {
        Self {
            most: 256,
            most_of_a_caller: 32,
            beat: Time::secs(10),
            recheck: Time::secs(1),
            stall: Time::secs(30),
            memory: 4096,
        }
    }
}
