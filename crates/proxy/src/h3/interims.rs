//! Interim answers that have yet to be sent on a stream.

use http::{HeaderMap, StatusCode};
use std::cell::RefCell;
use std::collections::VecDeque;
use tokio::sync::Notify;

/// Interim answers, in their order.
#[derive(Debug, Default)]
pub(crate) struct Interims {
    waiting: RefCell<VecDeque<(StatusCode, HeaderMap)>>,
    arrived: Notify,
}

impl Interims {
    pub(crate) fn put(&self, status: StatusCode, fields: HeaderMap) {
        self.waiting.borrow_mut().push_back((status, fields));
        self.arrived.notify_one();
    }

    /// The next one that has arrived.
    pub(crate) fn take(&self) -> Option<(StatusCode, HeaderMap)> {
        self.waiting.borrow_mut().pop_front()
    }

    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&self) -> (StatusCode, HeaderMap) {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.arrived.notified().await;
        }
    }
}
