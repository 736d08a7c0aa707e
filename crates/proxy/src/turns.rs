//! The turns of a worker: whenever its runtime has asked the system what has happened to sockets, a new one begins.
//!
//! What happened to a socket in the present turn is known to the system alone.

use std::cell::Cell;

thread_local! {
    static TURN: Cell<u64> = const { Cell::new(0) };
}

/// Begins the next one. The runtime calls it whenever it has asked the system because it had nothing else to do.
pub(crate) fn begin() {
    TURN.set(TURN.get().wrapping_add(1));
}

/// The number of the present one of this thread's worker.
pub(crate) fn present() -> u64 {
    TURN.get()
}
