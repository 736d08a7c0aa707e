//! Ports and directories that nobody else has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::net::TcpSocket;

/// Below the range from which the system takes ports for outgoing connections, so that a free port stays free until the
/// process under test binds it.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// A port on which nothing listens now, different at each call in this process. Prefer port 0 where the server can tell which
/// port it got.
///
/// # Panics
/// If no port of 20,000 is free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        // Processes start far apart, and step in the same order.
        let start = std::process::id().wrapping_mul(7919) % COUNT;
        let port = u16::try_from(FIRST + (start + n) % COUNT).expect("below 32,000");
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST} to {} is free", FIRST + COUNT - 1);
}

/// An address of the loopback at which nothing listens, for as long as this process lives: the port is taken, so nobody else can
/// get it.
///
/// # Panics
/// If the system has no free port.
pub fn nowhere() -> SocketAddr {
    static TAKEN: Mutex<Vec<TcpSocket>> = Mutex::new(Vec::new());
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let address = socket.local_addr().expect("a bound socket has an address");
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
    address
}

/// Hosts to listen at, of either family and of both, and the addresses of the loopback that lead to each. Where this machine has no
/// `::1`, as in many a container, those of IPv6 are left out, and standard error names them behind `what`.
pub fn hosts_of_each_family(what: &str) -> impl Iterator<Item = (&'static str, &'static [IpAddr])> {
    const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
    const HOSTS: [(&str, &[IpAddr]); 3] = [("0.0.0.0", &[V4]), ("::1", &[V6]), ("::", &[V4, V6])];
    HOSTS.into_iter().filter(move |(host, from)| !from.contains(&V6) || has_ipv6(&format!("{what} {host}")))
}

fn has_ipv6(what: &str) -> bool {
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("left out, since ::1 cannot be bound ({error}): {what}");
            false
        }
    }
}

/// A new directory, removed when dropped; kept, and named on standard error, if the test failed.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes the directory under the system's temporary directory.
    ///
    /// # Panics
    /// If that is not possible.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("milecastle-test-{}-{n}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => return Self(path),
                // Left behind by an earlier process with the same id.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => panic!("cannot make {}: {e}", path.display()),
            }
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it and returns the file's path.
    ///
    /// # Panics
    /// If that is not possible.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path
    }
}

impl Default for TempDir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept {}", self.0.display());
        } else if let Err(e) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {e}", self.0.display());
        }
    }
}
