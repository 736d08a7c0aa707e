//! A socket that datagrams of many clients come to. On one that is bound to every interface the system tells each
//! datagram's own destination, and answers leave from there: else a host with several addresses would answer from another one.

use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// See the head of the module.
pub(super) struct DatagramSocket {
    socket: UdpSocket,
    /// The address that the socket is bound to.
    bound: SocketAddr,
}

/// A datagram that has come; its bytes are in the buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    pub(super) len: usize,
    pub(super) peer: SocketAddr,
    /// Where the peer has sent it.
    pub(super) local: SocketAddr,
}

impl DatagramSocket {
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let bound = socket.local_addr()?;
        match bound.ip() {
            ip if !ip.is_unspecified() => {}
            IpAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
        Ok(Self { socket: UdpSocket::from_std(socket)?, bound })
    }

    /// Waits for a datagram.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Takes a datagram off the socket, if one is there; what does not fit into `room` is lost.
    pub(super) fn try_recv(&self, room: &mut [u8]) -> io::Result<Arrived> {
        self.socket.try_io(Interest::READABLE, || self.take(room))
    }

    fn take(&self, room: &mut [u8]) -> io::Result<Arrived> {
        let mut space = cmsg_space!(libc::in6_pktinfo);
        let mut parts = [IoSliceMut::new(room)];
        let fd = self.socket.as_raw_fd();
        let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), MsgFlags::empty())?;
        let to = message.cmsgs()?.find_map(|part| match part {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::V6(info.ipi6_addr.s6_addr.into())),
            _ => None,
        });
        let peer = message.address.as_ref().and_then(address).ok_or(io::ErrorKind::InvalidData)?;
        let local = SocketAddr::new(to.unwrap_or(self.bound.ip()), self.bound.port());
        Ok(Arrived { len: message.bytes, peer, local })
    }

    /// Sends a datagram to `peer`, from the address that it has spoken to. Waits for nothing.
    pub(super) fn try_send(&self, bytes: &[u8], peer: SocketAddr, local: SocketAddr) -> io::Result<usize> {
        let parts = [IoSlice::new(bytes)];
        let to = SockaddrStorage::from(peer);
        let send = |from: &[ControlMessage<'_>]| {
            let fd = self.socket.as_raw_fd();
            sendmsg(fd, &parts, from, MsgFlags::empty(), Some(&to)).map_err(io::Error::from)
        };
        self.socket.try_io(Interest::WRITABLE, || match local.ip() {
            _ if !self.bound.ip().is_unspecified() => send(&[]),
            IpAddr::V4(ip) => {
                let own = libc::in_addr { s_addr: u32::from(ip).to_be() };
                let none = libc::in_addr { s_addr: 0 };
                send(&[ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: own,
                    ipi_addr: none,
                })])
            }
            IpAddr::V6(ip) => {
                let own = libc::in6_addr { s6_addr: ip.octets() };
                send(&[ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo { ipi6_addr: own, ipi6_ifindex: 0 })])
            }
        })
    }
}

fn address(addr: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = addr.as_sockaddr_in().map(|addr| SocketAddr::from(*addr));
    v4.or_else(|| addr.as_sockaddr_in6().map(|addr| SocketAddr::from(*addr)))
}
