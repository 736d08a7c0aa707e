//! A request's use of a node, and what the balancer and the health checks learn of it.

use super::ewma::Average;
use super::least_conn::Counted;
use crate::health::{Checker, FailedTry};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A node in use by a request: from its pick to the end of the request, or to the pick of the next node. There is one only
/// where somebody wants to know.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    #[expect(dead_code, reason = "it counts until it is dropped")]
    pub(super) counted: Option<Counted>,
    pub(super) average: Option<Arc<Average>>,
    pub(super) reporter: Option<(Arc<Checker>, SocketAddr)>,
}

impl Lease {
    /// The try at this node has failed: how long that took says nothing about how fast the node answers.
    pub(crate) fn fail(&mut self) {
        self.average = None;
    }

    /// The try at this node has failed by the request's own doing: health hears nothing of it.
    pub(crate) fn excuse(&mut self) {
        self.reporter = None;
    }

    /// Another node is tried after this one has failed.
    pub(crate) fn retried(&self, failed: FailedTry) {
        if let Some((checker, addr)) = &self.reporter {
            checker.retried(*addr, failed);
        }
    }

    /// Takes note of the end of a TCP or UDP session. `connected` is how long connecting took, if it succeeded: how long the
    /// session was open says nothing about how fast the node is.
    pub(crate) fn end_session(self, connected: Option<Duration>, now: Instant) {
        if let Some((average, took)) = self.average.as_ref().zip(connected) {
            average.update(took, now);
        }
        if let Some((checker, addr)) = self.reporter.as_ref().filter(|_| connected.is_none()) {
            checker.session_failed(*addr);
        }
    }

    /// Takes note of the end of the request: the status that the client was answered with, and how long connecting and
    /// answering together took.
    pub(crate) fn end(self, status: u16, took: Duration, now: Instant) {
        if let Some(average) = &self.average {
            average.update(took, now);
        }
        if let Some((checker, addr)) = &self.reporter {
            checker.end(*addr, status);
        }
    }
}
