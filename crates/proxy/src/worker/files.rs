//! What happens where the process has no file left for a connection.

use super::Worker;
use rustix::io::Errno;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// What those are given that were asked to close for want of files: a turn of their tasks, and their last bytes.
const CLOSING: Duration = Duration::from_millis(5);

/// What helps if the system had nothing left for one more file or socket: none may be open, or there is no memory for it. `None`
/// for other errors.
pub(super) fn remedy(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error)? {
        Errno::MFILE => Some("raise the process's limit of open files (LimitNOFILE), or lower limits.connections"),
        Errno::NFILE => Some("the system has no file left: raise fs.file-max, or see which process holds so many"),
        Errno::NOBUFS | Errno::NOMEM => {
            Some("the system has no memory left for sockets: give it more, or lower limits.connections")
        }
        _ => None,
    }
}

impl Worker {
    /// Has some of the worker's connections close, those used longest ago: idle ones to upstreams, which costs nobody more than
    /// the next one's handshake, and clients' that only wait. Both, for what rests on one side alone may be used again before its
    /// turn comes. Says whether there were any; what their tasks hold closes once these run.
    pub(super) fn free_files(&self) -> bool {
        let closed = self.pool.close_oldest() + self.http2.close_oldest();
        self.counters.idle_connections_given_up.add(closed as u64);
        self.make_room(Instant::now()) > 0 || closed > 0
    }

    /// Connects to an upstream. Where no file is left, others give theirs, and it is tried once more.
    pub(crate) async fn connect(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        match TcpStream::connect(addr).await {
            Err(error) if remedy(&error).is_some() => {
                self.free_files();
                // Also where there was none to close: those that were told a moment ago may be about to.
                tokio::time::sleep(CLOSING).await;
                TcpStream::connect(addr).await
            }
            connected => connected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_goes_by_what_the_system_has_too_little_of() {
        let told = [
            (Errno::MFILE, "LimitNOFILE"),
            (Errno::NFILE, "fs.file-max"),
            (Errno::NOBUFS, "memory"),
            (Errno::NOMEM, "memory"),
        ];
        for (errno, what) in told {
            assert!(remedy(&errno.into()).unwrap().contains(what), "{errno}");
        }
        // accept(2): what a firewall forbids, and what was wrong with the network.
        for errno in [Errno::PERM, Errno::PROTO, Errno::NETDOWN, Errno::HOSTUNREACH, Errno::CONNABORTED] {
            assert_eq!(remedy(&errno.into()), None, "{errno}");
        }
        assert_eq!(remedy(&io::ErrorKind::TimedOut.into()), None);
    }
}
