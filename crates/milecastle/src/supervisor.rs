//! What systemd hears of this process (sd_notify(3)), and the sockets that it has opened for it (sd_listen_fds(3)).
//!
//! The process that takes over names itself the main one, as a message of a process of the same service (`NotifyAccess=all`).

use anyhow::{Context, bail};
use listenfd::ListenFd;
use milecastle_proxy::handover::{Address, Inherited, Listening, Transport};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::time::{ClockId, clock_gettime};
use socket2::{SockRef, Type};
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The process serves, and is the main one.
pub(crate) fn ready() {
    notify(&format!("MAINPID={}\nREADY=1\nSTATUS=Serving", std::process::id()));
}

/// A process was started that is to take over; `ready` follows, from it or from this one.
pub(crate) fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=Another process gets ready to take over"));
}

/// The process waits for its first configuration.
pub(crate) fn waiting() {
    notify("STATUS=Waiting for the control plane: no configuration yet");
}

/// The process was told to stop.
pub(crate) fn stopping() {
    notify("STOPPING=1\nSTATUS=Connections are ending");
}

fn notify(state: &str) {
    if let Err(error) = try_notify(state) {
        tracing::warn!(%error, "systemd cannot be told how this process is");
    }
}

/// Without a supervisor that listens there is nothing to do.
fn try_notify(state: &str) -> io::Result<()> {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match socket.as_encoded_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// The sockets that systemd has opened for this process; `None` without any.
///
/// # Errors
/// One of them is no socket that a gateway listens on.
pub(crate) fn sockets() -> anyhow::Result<Option<Inherited>> {
    let mut opened = ListenFd::from_env();
    if opened.len() == 0 {
        return Ok(None);
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut all: Vec<Listening> = Vec::with_capacity(opened.len());
    for place in 0..opened.len() {
        let name = names.next().unwrap_or_default();
        let (address, socket) = socket(&mut opened, place, name)
            .with_context(|| format!("socket {} of systemd (`{name}`) is none that a gateway listens on", place + 1))?;
        match all.iter_mut().find(|listening| listening.address == address) {
            Some(same) => same.sockets.push(socket),
            None => all.push(Listening { address, sockets: vec![socket] }),
        }
    }
    Ok(Some(Inherited::new(all)))
}

fn socket(opened: &mut ListenFd, place: usize, name: &str) -> anyhow::Result<(Address, OwnedFd)> {
    let (transport, socket) = match opened.take_tcp_listener(place) {
        Ok(Some(listener)) => (Transport::Tcp, OwnedFd::from(listener)),
        _ => match opened.take_udp_socket(place)? {
            Some(socket) => (Transport::Udp, OwnedFd::from(socket)),
            None => bail!("it is taken"),
        },
    };
    // Processes that this one starts get what they need handed over.
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    let known = SockRef::from(&socket);
    let wanted = if transport == Transport::Tcp { Type::STREAM } else { Type::DGRAM };
    let bound = known.local_addr()?.as_socket().context("it has no address of IP")?;
    if known.r#type()? != wanted {
        bail!("it is of another type than its protocol");
    }
    Ok((Address { transport, key: name.to_owned(), configured: bound, bound }, socket))
}
