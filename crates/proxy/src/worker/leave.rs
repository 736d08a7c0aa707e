//! How a worker stops taking connections without losing one.
//!
//! A listening socket that is closed resets the connections in its queue, and those whose handshake is under way: their clients
//! believe them open and may have sent requests. So the socket first stops answering new handshakes, while those under way
//! complete and are accepted; when their time is up, what the queue still holds is accepted, and only then is it closed.
//!
//! What cannot be helped: a handshake whose last packet takes longer than `shutdown.last_call`, and one that completes between
//! the last look at the queue and the closing, a few microseconds later, are reset.

use super::{Entrance, Worker, accept_one, is_of_the_peer};
use socket2::{SockFilter, SockRef};
use std::io;
use std::rc::Rc;
use std::sync::Once;
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};

/// Lets a listening socket overlook SYN packets: a client that begins a handshake now tries again a second later, and is then
/// refused, or let in by another process. Packets of handshakes under way pass.
///
/// Classic BPF over the TCP header: the flags are its byte 13, SYN is 2 and ACK is 16 (RFC 9293 §3.1, bpf(4)).
fn overlook_handshakes(listener: &TcpListener) -> io::Result<()> {
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const SKIP_UNLESS_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, 0x12),
        SockFilter::new(SKIP_UNLESS_EQUAL, 0, 1, 0x02),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

/// Lets a listener begin no more handshakes. To be done before any client is told of the end: who was told finds the door
/// closed.
pub(super) fn close_door(entrance: &Entrance) {
    if let Err(error) = overlook_handshakes(&entrance.listener) {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!(
                %error,
                "this system does not let a listening socket overlook new connections (without CAP_NET_ADMIN): those that come \
                 in while it is being closed may be reset, so shutdown.grace should outlast what load balancers take to notice"
            );
        });
    }
}

/// Takes the last connections of a listener whose door is closed, and closes it. `limits.connections` holds no longer: the queue
/// is bounded.
pub(super) async fn leave(worker: Rc<Worker>, entrance: Rc<Entrance>, until: Instant) {
    let (listener, key) = (&entrance.listener, entrance.listen.key);
    let last_call = async {
        loop {
            let (stream, peer) = accept_one(&entrance).await;
            worker.welcome(stream, peer, &entrance);
        }
    };
    tokio::select! {
        () = tokio::time::sleep_until(until.into()) => {}
        () = last_call => {}
    }
    loop {
        match accept_now(listener) {
            Ok(Some((stream, peer))) => worker.welcome(stream, peer, &entrance),
            Ok(None) => return,
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                tracing::error!(%error, key, "connections are lost that could not be accepted at the end");
                return;
            }
        }
    }
}

/// The next connection in the queue; `None` if there is none. The system itself is asked: the runtime knows only what it was
/// told before.
fn accept_now(listener: &TcpListener) -> io::Result<Option<(TcpStream, std::net::SocketAddr)>> {
    match SockRef::from(listener).accept() {
        Ok((socket, peer)) => {
            socket.set_nonblocking(true)?;
            let peer = peer.as_socket().ok_or(io::ErrorKind::InvalidData)?;
            Ok(Some((TcpStream::from_std(socket.into())?, peer)))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
