//! Listening sockets: one for each worker and address, shared by SO_REUSEPORT.

use socket2::{Domain, Protocol, Socket, Type};
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

/// Opens `count` sockets on one address, and says which port they have got.
///
/// # Errors
/// The system refuses the address.
pub(crate) fn listen(
    addr: SocketAddr,
    key: &'static str,
    count: usize,
) -> Result<(SocketAddr, Vec<std::net::TcpListener>), ListenError> {
    probe(addr, key)?;
    share(addr, key, count, |addr| {
        let listener = open(addr)?;
        Ok((listener.local_addr()?, listener))
    })
}

/// As [`listen`], for datagrams.
///
/// # Errors
/// The system refuses the address.
pub(crate) fn listen_udp(
    addr: SocketAddr,
    key: &'static str,
    count: usize,
) -> Result<(SocketAddr, Vec<std::net::UdpSocket>), ListenError> {
    let tried = udp_socket(addr).and_then(|socket| socket.bind(&addr.into()));
    tried.map_err(|source| ListenError { addr, key, source })?;
    share(addr, key, count, |addr| {
        let socket = udp_socket(addr)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        let socket = std::net::UdpSocket::from(socket);
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
    socket.set_nonblocking(true)?;
    // Accepted connections inherit it (tcp(7)), which saves each of them a system call.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
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
    use socket2::SockRef;

    #[test]
    fn accepted_connections_send_without_delay() {
        let (addr, sockets) = listen("127.0.0.1:0".parse().unwrap(), "key", 1).unwrap();
        let _client = std::net::TcpStream::connect(addr).unwrap();
        sockets[0].set_nonblocking(false).unwrap();
        let (accepted, _) = sockets[0].accept().unwrap();
        assert!(SockRef::from(&accepted).tcp_nodelay().unwrap());
    }
}
