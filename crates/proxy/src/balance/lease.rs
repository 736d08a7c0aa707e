//! A request's use of a node, and what the balancer and the health checks learn of it.

use super::ewma::Average;
use super::least_conn::InFlight;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A node in use by a request: from its pick to the end of the request, or to the pick of the next node. There is one only
/// where somebody wants to know.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(super) in_flight: Option<InFlight>,
    pub(super) average: Option<Arc<Average>>,
}

impl Lease {
    /// The try at this node has failed: how long that took says nothing about how fast the node answers.
    pub(crate) fn fail(&mut self) {
        self.average = None;
    }

    /// Takes note of the end of the request, which took so long with the node: connecting and answering together.
    pub(crate) fn end(self, took: Duration, now: Instant) {
        if let Some(average) = &self.average {
            average.update(took, now);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(count) = &self.in_flight {
            count.update(|count| count - 1);
        }
    }
}
