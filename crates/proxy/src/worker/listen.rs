//! Listening sockets: one for each worker and address, shared by SO_REUSEPORT.

use crate::handover::{Inherited, Listening, Transport};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;

/// Connections that may wait to be accepted, on each socket.
const BACKLOG: i32 = 4096;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} ({key}): {source}; is another process using it? Choose another address with {key}")]
pub struct ListenError {
    /// The address.
    pub addr: SocketAddr,
    /// The configuration key that sets it.
    pub key: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// Reports an address that another socket holds.
///
/// SO_REUSEPORT would let a second process of this user share the port in silence, so the address is bound once without it,
/// and given back, before the workers bind it. Port 0 is always free.
///
/// # Errors
/// The system refuses the address.
pub fn probe(addr: SocketAddr, key: &'static str) -> Result<(), ListenError> {
    let tried = socket(addr).and_then(|socket| socket.bind(&addr.into()));
    tried.map_err(|source| ListenError { addr, key, source })
}

/// Opens `count` sockets on one address, and says which port they have got. Of an address that is inherited there may be more,
/// for what waits in their queues is not to be lost.
///
/// # Errors
/// The system refuses the address.
pub(crate) fn listen(
    addr: SocketAddr,
    key: &'static str,
    count: usize,
    inherited: &mut Inherited,
) -> Result<(SocketAddr, Vec<std::net::TcpListener>), ListenError> {
    let refused = |source| ListenError { addr, key, source };
    if let Some(Listening { address, sockets }) = inherited.claim(Transport::Tcp, key, addr) {
        let mut sockets: Vec<_> = sockets.into_iter().map(std::net::TcpListener::from).collect();
        sockets.iter().try_for_each(prepare).map_err(refused)?;
        let found = sockets.len();
        while sockets.len() < count {
            // Sockets that were opened alone take no others beside them, nor do those of another user: then workers share one.
            let another = open(address.bound).or_else(|_| sockets[sockets.len() % found].try_clone());
            sockets.push(another.map_err(refused)?);
        }
        return Ok((address.bound, sockets));
    }
    probe(addr, key)?;
    share(addr, key, count, |addr| {
        let listener = open(addr)?;
        Ok((listener.local_addr()?, listener))
    })
}

/// As [`listen`], for datagrams. Of an address that is inherited there may also be fewer: the datagrams of one client must all
/// come to one worker.
///
/// # Errors
/// The system refuses the address.
pub(crate) fn listen_udp(
    addr: SocketAddr,
    key: &'static str,
    count: usize,
    inherited: &mut Inherited,
) -> Result<(SocketAddr, Vec<std::net::UdpSocket>), ListenError> {
    if let Some(Listening { address, sockets }) = inherited.claim(Transport::Udp, key, addr) {
        let mut sockets: Vec<_> = sockets.into_iter().map(std::net::UdpSocket::from).collect();
        let prepared = sockets.iter().try_for_each(|socket| socket.set_nonblocking(true));
        prepared.map_err(|source| ListenError { addr, key, source })?;
        while sockets.len() < count
            && let Ok(another) = open_udp(address.bound)
        {
            sockets.push(another);
        }
        return Ok((address.bound, sockets));
    }
    let tried = udp_socket(addr).and_then(|socket| socket.bind(&addr.into()));
    tried.map_err(|source| ListenError { addr, key, source })?;
    share(addr, key, count, |addr| {
        let socket = open_udp(addr)?;
        Ok((socket.local_addr()?, socket))
    })
}

/// Opens sockets one after the other; the first one settles the port.
fn share<S>(
    mut addr: SocketAddr,
    key: &'static str,
    count: usize,
    open: impl Fn(SocketAddr) -> io::Result<(SocketAddr, S)>,
) -> Result<(SocketAddr, Vec<S>), ListenError> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let (got, socket) = open(addr).map_err(|source| ListenError { addr, key, source })?;
        addr = got;
        sockets.push(socket);
    }
    Ok((addr, sockets))
}

fn open_udp(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = udp_socket(addr)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Opens a socket for the datagrams between two addresses alone, of which the system prefers it to all that are bound to `local`.
///
/// # Errors
/// The system refuses it.
pub(crate) fn connected_udp(local: SocketAddr, peer: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = open_udp(local)?;
    socket.connect(peer)?;
    Ok(socket)
}

fn udp_socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn open(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket(addr)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let listener = socket.into();
    prepare(&listener)?;
    Ok(listener)
}

fn prepare(listener: &std::net::TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    // Accepted connections inherit it (tcp(7)), which saves each of them a system call.
    SockRef::from(listener).set_tcp_nodelay(true)
}

fn socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        // 0.0.0.0 and [::] are listened on separately.
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier process in TIME_WAIT do not hold the port.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::Address;
    use std::io::{Read as _, Write as _};

    const ANY: &str = "127.0.0.1:0";

    #[test]
    fn accepted_connections_send_without_delay() {
        let (addr, sockets) = listen(ANY.parse().unwrap(), "key", 1, &mut Inherited::default()).unwrap();
        let _client = std::net::TcpStream::connect(addr).unwrap();
        sockets[0].set_nonblocking(false).unwrap();
        let (accepted, _) = sockets[0].accept().unwrap();
        assert!(SockRef::from(&accepted).tcp_nodelay().unwrap());
    }
    /// What a process with so many workers makes of these sockets.
    fn inherit(sockets: &[std::net::TcpListener], count: usize) -> Vec<std::net::TcpListener> {
        let (configured, bound) = (ANY.parse().unwrap(), sockets[0].local_addr().unwrap());
        let address = Address { transport: Transport::Tcp, key: "key".into(), configured, bound };
        let mut inherited = Inherited::new(vec![Listening::of(address, sockets).unwrap()]);
        let (addr, sockets) = listen(configured, "key", count, &mut inherited).unwrap();
        assert_eq!(addr, bound);
        sockets
    }

    /// Every connection is accepted from one of these sockets, whichever process has opened it.
    fn all_are_accepted(sockets: &[std::net::TcpListener], clients: usize) {
        let mut accepted = 0;
        while accepted < clients {
            accepted += sockets.iter().filter(|socket| socket.accept().is_ok()).count();
            std::thread::yield_now();
        }
    }

    #[test]
    fn no_connection_in_a_queue_is_lost_whatever_the_number_of_workers() {
        for (before, after) in [(3, 3), (3, 1), (1, 4)] {
            let (addr, old) = listen(ANY.parse().unwrap(), "key", before, &mut Inherited::default()).unwrap();
            let early: Vec<_> = (0..50).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
            let new = inherit(&old, after);
            assert_eq!(new.len(), before.max(after));
            drop(old);
            let late: Vec<_> = (0..50).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
            all_are_accepted(&new, early.len() + late.len());
        }
    }

    #[test]
    fn workers_share_a_socket_that_takes_no_other_beside_it() {
        let alone = std::net::TcpListener::bind(ANY).unwrap();
        let addr = alone.local_addr().unwrap();
        let shared = inherit(&[alone], 3);
        assert_eq!(shared.len(), 3);
        let mut client = std::net::TcpStream::connect(addr).unwrap();
        let mut accepted = loop {
            if let Ok((accepted, _)) = shared[2].accept() {
                break accepted;
            }
        };
        client.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        accepted.set_nonblocking(false).unwrap();
        accepted.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    }
}
