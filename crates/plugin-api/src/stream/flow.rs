//! What a hook of `preread` wants next.

use std::time::Duration;

/// What a hook of `preread` wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionFlow {
    /// Go on with the next hook.
    Next,
    /// Be called again once more has come of what the client sends; if nothing more comes, the session is closed.
    More,
    /// Go on with the next hook after this time.
    Pause(Duration),
    /// Close the session. The status is for logs and metrics alone: the client hears nothing.
    Close(u16),
}
