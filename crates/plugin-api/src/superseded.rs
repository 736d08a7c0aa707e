//! What becomes of a connection that lasts when what it was opened under holds no longer.

use std::time::Duration;

/// What becomes of a WebSocket, a long answer or a session once its route, its upstream node or its consumer is gone, or its
/// route has other conditions or plugins. It is chosen when the connection is opened, and stays: a route that is gone can
/// decide nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenSuperseded {
    /// It goes on until one of its sides ends it.
    Keep,
    /// It goes on for so long, and is then ended as its protocol allows.
    EndAfter(Duration),
}
