//! A connection after 101: bytes pass both ways, whatever they mean.
//!
//! The policy may end it before its sides do, and so may the end of the process: the frames of a WebSocket are counted along, so
//! that a close frame can be put between two of them. Of other protocols nothing is known, and both sides are told of the end alone.

use super::Worker;
use super::activity::Nature;
use super::client::Client;
use super::websocket::{Frames, going_away};
use super::wire::ClientIo;
use crate::lasting::Lasting;
use crate::request::Held;
use crate::transport::ToUpstream;
use bytes::{BufMut as _, Bytes};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes read at once.
const READ: usize = 16 * 1024;

/// The upstream's side of a tunnel.
pub(crate) struct Tunnel {
    pub(crate) upstream: ToUpstream,
    /// What the upstream sent right behind its 101.
    pub(crate) first: Bytes,
    /// What passes are frames of a WebSocket.
    pub(crate) websocket: bool,
    /// Longest silence of both sides together.
    pub(crate) idle: Duration,
    /// Present if the policy may end it.
    pub(crate) lasting: Option<Lasting>,
    /// The request that opened the tunnel; it ends with it.
    pub(crate) request: Held,
}

/// Has a tunnel counted until it is dropped.
pub(super) struct Counted(Rc<Worker>);

impl Counted {
    pub(super) fn new(client: &Client, tunnel: &Tunnel) -> Self {
        client.activity.nature.set(Nature::Tunnel);
        client.activity.route.borrow_mut().clone_from(&tunnel.request.cx.route);
        client.worker.counters.tunnels.up();
        Self(client.worker.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counters.tunnels.down();
    }
}

/// What ends a tunnel before its sides do.
struct Ends<'t> {
    worker: &'t Worker,
    /// Present if the policy may.
    lasting: Option<&'t Lasting>,
}

impl Ends<'_> {
    fn is_over(&self) -> bool {
        self.worker.farewell.is_said() || self.lasting.is_some_and(Lasting::is_over)
    }

    async fn over(&self) {
        tokio::select! {
            () = self.worker.farewell.said() => {}
            () = Lasting::over_if_watched(self.lasting) => {}
        }
    }
}

/// One direction.
struct Way<'t> {
    ends: &'t Ends<'t>,
    /// Of a WebSocket alone.
    frames: Option<Frames>,
    /// What a close frame is masked with, on the way to the server.
    mask: Option<[u8; 4]>,
    /// Bytes have passed in either direction since the last look.
    moved: &'t Cell<bool>,
}

/// Passes bytes both ways until both sides have ended, one fails, both are silent for too long, or it is over for another reason.
pub(crate) async fn run(tunnel: Tunnel, client: ClientIo) -> io::Result<()> {
    let Tunnel { upstream, first, websocket, idle, lasting, mut request } = tunnel;
    request.complete = true;
    let worker = request.client.worker.clone();
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
    let (moved, ends) = (Cell::new(true), Ends { worker: &worker, lasting: lasting.as_ref() });
    let mask = (worker.random() as u32).to_ne_bytes();
    let frames = || websocket.then(Frames::default);
    let mut up = Way { ends: &ends, frames: frames(), mask: Some(mask), moved: &moved };
    let mut down = Way { ends: &ends, frames: frames(), mask: None, moved: &moved };
    down.note(&first);
    let down = async {
        to_client.write_all(&first).await?;
        to_client.flush().await?;
        down.pass(&mut from_upstream, &mut to_client).await
    };
    let both = async { tokio::try_join!(up.pass(&mut from_client, &mut to_upstream), down) };
    let watch = async {
        while moved.replace(false) {
            tokio::time::sleep(idle).await;
        }
    };
    let overdue = async {
        ends.over().await;
        tokio::time::sleep(worker.node.config.client.lingering_timeout).await;
    };
    tokio::select! {
        passed = both => passed.map(|_| ()),
        () = watch => Err(io::ErrorKind::TimedOut.into()),
        // A side that has not closed by now will not.
        () = overdue => Ok(()),
    }
}

impl Way<'_> {
    /// Passes bytes until the end, and passes the end on.
    async fn pass(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let mut buf = Vec::with_capacity(READ);
        loop {
            buf.clear();
            let over = self.ends.is_over();
            let most = match self.frames.as_ref().map_or(0, Frames::missing) {
                0 if over => return self.take_leave(from, to, buf).await,
                missing if over => usize::try_from(missing).unwrap_or(READ).min(READ),
                _ => READ,
            };
            let mut room = (&mut buf).limit(most);
            let read = match over {
                true => from.read_buf(&mut room).await?,
                false => tokio::select! {
                    biased;
                    read = from.read_buf(&mut room) => read?,
                    () = self.ends.over() => continue,
                },
            };
            if read == 0 {
                return to.shutdown().await;
            }
            self.moved.set(true);
            self.note(&buf);
            to.write_all(&buf).await?;
            to.flush().await?;
        }
    }

    /// Takes note of bytes that pass.
    fn note(&mut self, bytes: &[u8]) {
        if let Some(frames) = &mut self.frames {
            frames.note(bytes);
        }
    }

    /// Says that the gateway goes away, between two frames where there are any, and drops what the other side still says: closing
    /// on it would be a reset, which could take the last bytes along.
    async fn take_leave(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        mut buf: Vec<u8>,
    ) -> io::Result<()> {
        if self.frames.as_ref().is_some_and(|frames| !frames.closed()) {
            to.write_all(&going_away(self.mask)).await?;
        }
        to.shutdown().await?;
        while from.read_buf(&mut buf).await? > 0 {
            buf.clear();
        }
        Ok(())
    }
}
