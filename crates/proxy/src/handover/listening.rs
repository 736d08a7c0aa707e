//! Listening sockets that change hands, and the gate before which they wait.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use tokio::sync::watch;

/// What is spoken on a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// An address that is listened on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// What is spoken there.
    pub transport: Transport,
    /// The key of the file that sets it, or the name that systemd has given it.
    pub key: String,
    /// As the file says it: the port may be 0.
    pub configured: SocketAddr,
    /// As the system knows it.
    pub bound: SocketAddr,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        };
        write!(f, "{transport} {} ({})", self.bound, self.key)
    }
}

/// The sockets of one address, in the order in which the system counts them.
#[derive(Debug)]
pub struct Listening {
    /// The address.
    pub address: Address,
    /// One for each worker, or one alone.
    pub sockets: Vec<OwnedFd>,
}

impl Listening {
    /// Duplicates of these sockets.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn of<S: AsFd>(address: Address, sockets: &[S]) -> io::Result<Self> {
        let sockets = sockets.iter().map(|socket| socket.as_fd().try_clone_to_owned());
        Ok(Self { address, sockets: sockets.collect::<io::Result<_>>()? })
    }
}

/// Sockets that another process has opened, until a listener claims them.
#[derive(Debug, Default)]
pub struct Inherited {
    free: Vec<Listening>,
    claimed: Vec<Address>,
}

impl Inherited {
    /// These, all free.
    pub fn new(free: Vec<Listening>) -> Self {
        Self { free, claimed: Vec::new() }
    }

    /// Whether there are sockets for the listener that `key` sets to this address.
    pub fn has(&self, transport: Transport, key: &str, configured: SocketAddr) -> bool {
        self.find(transport, key, configured).is_some()
    }

    /// Takes the sockets for a listener.
    pub(crate) fn claim(&mut self, transport: Transport, key: &str, configured: SocketAddr) -> Option<Listening> {
        let found = self.free.remove(self.find(transport, key, configured)?);
        self.claimed.push(found.address.clone());
        Some(found)
    }

    /// What listeners have claimed, as it was called by whom it came from.
    pub fn claimed(&self) -> &[Address] {
        &self.claimed
    }

    /// What no listener has claimed.
    pub fn unclaimed(&self) -> impl Iterator<Item = &Address> {
        self.free.iter().map(|listening| &listening.address)
    }

    /// The same listener as before; else the same address, whatever was served there; else, of systemd's sockets, the one of
    /// that name and port, which may be bound to another address of the same meaning (`[::]` for both families).
    fn find(&self, transport: Transport, key: &str, configured: SocketAddr) -> Option<usize> {
        let place = |fits: &dyn Fn(&Address) -> bool| {
            self.free.iter().position(|Listening { address, .. }| address.transport == transport && fits(address))
        };
        place(&|address| address.key == key && address.configured == configured)
            .or_else(|| place(&|address| address.bound == configured))
            .or_else(|| place(&|address| address.key == key && address.bound.port() == configured.port()))
    }
}

/// Before it opens, nothing is taken from a listening socket.
#[derive(Debug, Clone)]
pub struct Gate(watch::Receiver<bool>);

/// Opens a [`Gate`].
#[derive(Debug)]
pub struct GateKeeper(watch::Sender<bool>);

impl Gate {
    /// One that is open.
    pub fn open() -> Self {
        Self(watch::channel(true).1)
    }

    /// One that is closed, and what opens it.
    pub fn closed() -> (Self, GateKeeper) {
        let (opens, gate) = watch::channel(false);
        (Self(gate), GateKeeper(opens))
    }

    /// Waits until it is open; for ever, if nobody is left to open it.
    pub(crate) async fn passed(&mut self) {
        if self.0.wait_for(|open| *open).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl GateKeeper {
    /// Opens the gate for good.
    pub fn open(self) {
        self.0.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(key: &str, configured: &str, bound: &str) -> Listening {
        let (configured, bound) = (configured.parse().unwrap(), bound.parse().unwrap());
        let address = Address { transport: Transport::Tcp, key: key.into(), configured, bound };
        Listening { address, sockets: Vec::new() }
    }

    fn claim(inherited: &mut Inherited, key: &str, configured: &str) -> Option<String> {
        let found = inherited.claim(Transport::Tcp, key, configured.parse().unwrap())?;
        Some(found.address.bound.to_string())
    }

    #[test]
    fn sockets_are_found_by_listener_then_by_address_then_by_name_and_port() {
        let mut inherited = Inherited::new(vec![
            listening("a", "127.0.0.1:0", "127.0.0.1:1001"),
            listening("b", "127.0.0.1:0", "127.0.0.1:1002"),
            listening("b", "127.0.0.1:0", "127.0.0.1:1003"),
            listening("c", "0.0.0.0:9080", "0.0.0.0:9080"),
            listening("d", "[::]:9443", "[::]:9443"),
        ]);
        assert_eq!(claim(&mut inherited, "b", "127.0.0.1:0").unwrap(), "127.0.0.1:1002");
        assert_eq!(claim(&mut inherited, "b", "127.0.0.1:0").unwrap(), "127.0.0.1:1003");
        assert_eq!(claim(&mut inherited, "b", "127.0.0.1:0"), None);
        assert_eq!(claim(&mut inherited, "e", "0.0.0.0:9080").unwrap(), "0.0.0.0:9080");
        assert_eq!(claim(&mut inherited, "e", "0.0.0.0:9443"), None);
        assert_eq!(claim(&mut inherited, "d", "0.0.0.0:9443").unwrap(), "[::]:9443");
        assert!(!inherited.has(Transport::Udp, "a", "127.0.0.1:0".parse().unwrap()));
        assert_eq!(inherited.unclaimed().map(|address| address.key.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(inherited.claimed().len(), 4);
    }
}
