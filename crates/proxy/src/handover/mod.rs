//! Handing the listening sockets of a running process to the one that takes its place (`docs/upgrading.md`).
//!
//! Both talk over a Unix socket in the state directory:
//!
//! ```text
//!  successor                         running process
//!     | Take ----------------------->| is the peer of the same user? then the configuration stream rests, and with it the disk
//!     |<- Sockets, Directory --------| duplicates of every listening socket, and of the lock on the directory
//!     | loads the last good configuration, starts its workers behind a closed gate
//!     | Ready ---------------------->|
//!     |<---------------------- Yours | takes no more connections from the sockets that the successor has claimed, and drains
//!     | opens the gate               |
//! ```
//!
//! Invariants:
//! - Until `Yours` the running process serves as if nothing happened; if the successor fails, is too slow or goes away before
//!   that, the configuration stream begins again and nothing else was touched.
//! - A socket is closed by one process only while the other has it open, or after its queue was emptied: what waits in a queue
//!   is accepted by one of the two.
//! - At any time one process writes to the state directory, and one has the configuration stream. The lock on the directory is
//!   never let go in between: both hold the same one.
//!
//! Deliberately absent: connections. A connection stays with the process that accepted it, until it ends or `upgrade.drain` is
//! over.

mod channel;
mod listening;
mod offer;
mod takeover;

pub use listening::{Address, Gate, GateKeeper, Inherited, Listening, Transport};
pub use offer::{HandedOver, Offer, OfferParts};
pub(crate) use takeover::ask_census;
pub use takeover::{Takeover, TakeoverError};

use std::path::{Path, PathBuf};

/// Where the process that serves is asked for its sockets, within its state directory.
const SOCKET: &str = "upgrade.sock";

fn socket(dir: &Path) -> PathBuf {
    dir.join(SOCKET)
}
