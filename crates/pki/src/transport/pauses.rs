//! The pauses that TCP makes while nothing comes across.

use std::io;
use std::os::fd::AsRawFd as _;

use tokio::net::TcpStream;

/// Option of Linux 6.15 and later, for which `libc` has no name yet: the longest pause before TCP sends again what was not
/// acknowledged, in milliseconds, from 1,000 (`include/uapi/linux/tcp.h`).
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// The least that Linux takes.
static LONGEST: libc::c_int = 1000;

/// Has TCP try again every second at least. By itself it doubles its pauses up to two minutes, so that a link which was away for
/// five seconds seems away for ten. Older systems keep their pauses; there a stream ends by its silence first.
pub(super) fn shorten(stream: &TcpStream) {
    if let Err(error) = set(stream) {
        tracing::debug!(%error, "TCP keeps its own pauses between two tries");
    }
}

#[expect(unsafe_code, reason = "neither tokio nor socket2 knows the option")]
fn set(stream: &TcpStream) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&LONGEST)).expect("the size of an integer");
    // SAFETY: the descriptor is that of an open socket for as long as `stream` is borrowed, and the kernel reads `size` bytes
    // of a value that lives for ever.
    let result = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, TCP_RTO_MAX_MS, (&raw const LONGEST).cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
