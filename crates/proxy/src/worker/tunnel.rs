//! A connection after 101: bytes pass both ways, whatever they mean.

use super::Worker;
use super::activity::Nature;
use super::client::Client;
use super::wire::ClientIo;
use crate::request::Held;
use crate::transport::ToUpstream;
use bytes::Bytes;
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
    /// Longest silence of both sides together.
    pub(crate) idle: Duration,
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

/// Passes bytes both ways until both sides have ended, one fails, or both are silent for too long.
pub(crate) async fn run(tunnel: Tunnel, client: ClientIo) -> io::Result<()> {
    let Tunnel { upstream, first, idle, mut request } = tunnel;
    request.complete = true;
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
    to_client.write_all(&first).await?;
    to_client.flush().await?;
    let moved = std::cell::Cell::new(true);
    let both = async {
        tokio::try_join!(
            pass(&mut from_client, &mut to_upstream, &moved),
            pass(&mut from_upstream, &mut to_client, &moved),
        )
    };
    let watch = async {
        while moved.replace(false) {
            tokio::time::sleep(idle).await;
        }
    };
    tokio::select! {
        passed = both => passed.map(|_| ()),
        () = watch => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Passes bytes one way until the end, and passes the end on.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    moved: &std::cell::Cell<bool>,
) -> io::Result<()> {
    let mut buf = Vec::with_capacity(READ);
    loop {
        buf.clear();
        if from.read_buf(&mut buf).await? == 0 {
            return to.shutdown().await;
        }
        moved.set(true);
        to.write_all(&buf).await?;
        to.flush().await?;
    }
}
