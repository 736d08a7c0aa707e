//! How a worker stops taking connections without losing one.
//!
//! A listening socket that is closed resets the connections in its queue, and those whose handshake is under way: their clients
//! believe them open and may have sent requests. So the socket first stops answering new handshakes, while those under way
//! complete and are accepted; when their time is up, what the queue still holds is accepted, and only then is it closed.
//!
//! What cannot be helped: a handshake whose last packet takes longer than `shutdown.last_call`, and one that completes between
//! the last look at the queue and the closing, a few microseconds later, are reset.

use super::Worker;
use super::entrance::{Entrance, is_of_the_peer};
use socket2::{SockFilter, SockRef};
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Once;
use std::time::{Duration, Instant};

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

/// Lets a listener begin no more handshakes. To be called before any client is told of the end: a client that was told
/// and connects again must not come in here.
pub(super) fn close_door(entrance: &Entrance) {
    // A connection that is accepted from here on has little time to speak.
    entrance.defer(Duration::ZERO);
    if let Err(error) = overlook_handshakes(entrance.listener.socket()) {
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
            let (socket, peer) = entrance.accept_one(&worker).await;
            worker.welcome(socket, peer, &entrance);
        }
    };
    tokio::select! {
        () = tokio::time::sleep_until(until.into()) => {}
        () = last_call => {}
    }
    loop {
        match listener.accept_now() {
            Ok((socket, peer)) => worker.welcome(socket, peer, &entrance),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                tracing::error!(%error, key, "connections are lost that could not be accepted at the end");
                return;
            }
        }
    }
}
