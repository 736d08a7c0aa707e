//! What a rollout waits for, and what an operator does where it does not come by itself.

use std::fmt;

/// What a rollout waits for. Written as it stands at this moment, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For a revision: none is on.
    Revision,
    /// What canaries counted with a candidate that was taken back is told late.
    Settling,
    /// None of the nodes that the policy means is connected.
    Canaries,
    /// The canaries were chosen, and none of them is connected.
    AnyCanary,
    /// A canary has no connection, and may still serve.
    LostCanary,
    /// Canaries are connected and run something else.
    Force,
    /// The soak time is not over.
    Soak { left: u64 },
    /// An operator's word.
    Pause { by: String },
    /// A canary has yet to tell, for the first or the second time, what it counts with the candidate in force.
    Report,
    /// The canaries have had fewer requests than they need.
    Traffic { has: u64, needs: u64 },
}

impl Wait {
    /// What it is, in words that stay the same while it lasts.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Wait::Revision => "no rollout is on",
            Wait::Settling => "what was taken back is still being told of",
            Wait::Canaries => "none of the nodes that are to be canaries is connected",
            Wait::AnyCanary => "no canary is connected",
            Wait::LostCanary => "a canary has lost its connection",
            Wait::Force => "canaries do not have it in force yet",
            Wait::Soak { .. } => "canaries serve with it",
            Wait::Pause { .. } => "paused",
            Wait::Report => "a canary has not told yet what it counts with it",
            Wait::Traffic { .. } => "canaries have had too few requests",
        }
    }

    /// What to do where it lasts; `None` where it ends by itself, or an operator wants it.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        match self {
            Wait::Revision | Wait::Settling | Wait::Pause { .. } => None,
            Wait::Canaries => Some(
                "connect one of these nodes, or name others with `milecastle rollout set`; or give the revision to all nodes with \
                 `milecastle rollout promote`, or take it back with `milecastle rollout abort`",
            ),
            Wait::AnyCanary | Wait::LostCanary => Some(
                "bring the canaries back, `milecastle nodes` says since when they are gone; or give the revision to all nodes with \
                 `milecastle rollout promote`, or take it back with `milecastle rollout abort`",
            ),
            Wait::Force => Some(
                "see with `milecastle nodes` why a canary does not take it; or give the revision to all nodes with \
                 `milecastle rollout promote`, or take it back with `milecastle rollout abort`",
            ),
            Wait::Soak { .. } => Some(
                "canaries come and go, and soak anew each time: see their logs, and if they do not bear the revision, take it back \
                 with `milecastle rollout abort`",
            ),
            Wait::Report => Some(
                "see with `milecastle nodes` whether the canaries report, and in their logs; or give the revision to all nodes with \
                 `milecastle rollout promote`, or take it back with `milecastle rollout abort`",
            ),
            Wait::Traffic { .. } => Some(
                "see whether clients reach the canaries, or lower `min_requests`; or give the revision to all nodes with \
                 `milecastle rollout promote`",
            ),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Soak { left } => write!(f, "{} for {left} s more", self.what()),
            Wait::Pause { by } => write!(f, "{} by {by}", self.what()),
            Wait::Traffic { has, needs } => write!(f, "canaries have had {has} requests, and need {needs}"),
            _ => f.write_str(self.what()),
        }
    }
}
