//! What happens where the process has no file left for a connection.

use super::Worker;
use rustix::io::Errno;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Whether the system had nothing left for one more file or socket: none may be open, or there is no memory for it.
pub(super) fn are_missing(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&errno))
}

impl Worker {
    /// Closes the worker's idle connections to upstreams, which costs nobody more than the next one's handshake. Says how many
    /// there were.
    pub(super) fn close_idle(&self) -> usize {
        let closed = self.pool.close_idle() + self.http2.close_idle();
        self.counters.idle_connections_given_up.add(closed as u64);
        closed
    }

    /// Connects to an upstream. Where no file is left, idle connections to upstreams give theirs, and it is tried once more.
    pub(crate) async fn connect(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        match TcpStream::connect(addr).await {
            Err(error) if are_missing(&error) && self.close_idle() > 0 => TcpStream::connect(addr).await,
            connected => connected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_system_has_too_few_of_counts_as_missing() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(are_missing(&errno.into()), "{errno}");
        }
        // accept(2): what a firewall forbids, and what was wrong with the network.
        for errno in [Errno::PERM, Errno::PROTO, Errno::NETDOWN, Errno::HOSTUNREACH, Errno::CONNABORTED] {
            assert!(!are_missing(&errno.into()), "{errno}");
        }
        assert!(!are_missing(&io::ErrorKind::TimedOut.into()));
    }
}
