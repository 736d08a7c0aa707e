//! Plugins of TCP and UDP sessions: the phases `preread`, before the upstream is connected, and `log`, at the end
//! (`docs/spec/stream.md` §4).
//!
//! Hooks are synchronous: one that needs more of what the client sends says so ([`SessionFlow::More`]) and is asked again.
//!
//! Invariants:
//! - `preread` consumes nothing: what it has seen goes upstream all the same.
//! - `log` hooks run exactly once for a session that a route has matched, whatever ended it.

mod chain;
mod cx;
mod flow;
#[cfg(test)]
mod tests;
mod vars;

pub use chain::{Preread, StreamChain};
pub use cx::{ChosenUpstream, InlineUpstream, SessionEnd, StreamCx, Traffic, Transport};
pub use flow::SessionFlow;

/// Before a session is passed to an upstream.
pub trait OnPreread: Send + Sync {
    /// Runs the hook; it may choose the upstream and set variables.
    fn on_preread(&self, cx: &mut StreamCx) -> SessionFlow;
}

/// Once, when a session is over, whatever ended it.
pub trait OnSessionLog: Send + Sync {
    /// Runs the hook.
    fn on_session_log(&self, cx: &mut StreamCx);
}
