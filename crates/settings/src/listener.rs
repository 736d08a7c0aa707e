//! What a process listens on.

use std::net::SocketAddr;

/// An address that a process listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The key that sets it, with the sections that it is in.
    pub key: String,
    /// Where it listens. Port 0 is a new port for each.
    pub address: SocketAddr,
    /// Whether `::` takes IPv4 as well.
    pub both: bool,
}

impl Listener {
    /// The only one of its key: nothing else could take IPv4 where it is at `::`.
    pub(crate) fn alone(key: &str, address: SocketAddr) -> Self {
        Self { key: key.to_owned(), address, both: true }
    }

    /// One of a list, in which each is of one family.
    pub(crate) fn listed(key: &str, address: SocketAddr) -> Self {
        Self { key: key.to_owned(), address, both: false }
    }

    /// Whether the two get in each other's way.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.address, other.address);
        a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || self.covers(b) || other.covers(a))
    }

    /// Whether it is at every interface, and so at this one.
    fn covers(&self, one: SocketAddr) -> bool {
        let all = self.address;
        all.ip().is_unspecified() && (all.is_ipv4() == one.is_ipv4() || (all.is_ipv6() && self.both))
    }
}
