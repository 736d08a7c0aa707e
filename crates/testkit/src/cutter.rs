//! A TCP proxy whose connections break off, in the middle of whatever is said over them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// Passes connections on to one address. While it cuts, each new one is reset on both sides after a number of bytes, counted over
/// both directions and different for each. Dropped, it takes no more connections.
pub struct Cutter {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    lives: Mutex<Option<Range<u64>>>,
    cuts: AtomicU64,
    /// Whether answers are kept back.
    held: watch::Sender<bool>,
    all: Notify,
}

impl Cutter {
    /// Starts one that cuts nothing yet.
    ///
    /// # Panics
    /// If the system has no port for it.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::<Shared>::default();
        let task = tokio::spawn(accept(listener, to, shared.clone()));
        Self { address, shared, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on new connections live for a number of bytes out of `lives`.
    pub fn cut_after(&self, lives: Range<u64>) {
        *self.shared.lives() = Some(lives);
    }

    /// From now on new connections live for ever.
    pub fn mend(&self) {
        *self.shared.lives() = None;
    }

    /// From now on what servers say is kept back, as if it were still on its way, until all connections are cut.
    pub fn hold_answers(&self) {
        self.shared.held.send_replace(true);
    }

    /// Cuts all connections that there are, wherever they are, with what is kept back.
    pub fn cut_all(&self) {
        self.shared.all.notify_waiters();
        self.shared.held.send_replace(false);
    }

    /// How many connections it has cut.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lives(&self) -> std::sync::MutexGuard<'_, Option<Range<u64>>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how many bytes a new connection lives.
    fn life(&self) -> u64 {
        self.lives().clone().map_or(u64::MAX, fastrand::u64)
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            // Where nobody listens, the client sees a connection that ends at once.
            let Ok(server) = TcpStream::connect(to).await else { return };
            if let Err(error) = pass(client, server, &shared).await {
                eprintln!("a connection through the cutter: {error}");
            }
        });
    }
}

/// Passes bytes both ways until one side has ended, or the connection's life has.
async fn pass(mut client: TcpStream, mut server: TcpStream, shared: &Shared) -> io::Result<()> {
    let left = AtomicU64::new(shared.life());
    let cut = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        tokio::select! {
            // Before anything that was kept back could pass.
            biased;
            () = shared.all.notified() => true,
            cut = copy(from_client, to_server, &left, None) => cut,
            cut = copy(from_server, to_client, &left, Some(shared.held.subscribe())) => cut,
        }
    };
    if cut {
        shared.cuts.fetch_add(1, Ordering::Relaxed);
        // Closing resets then, as a machine that has forgotten the connection would.
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    Ok(())
}

/// Copies until the end, or until no life is left; whether it was that. Nothing passes while it is `held`, not even the end.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    left: &AtomicU64,
    mut held: Option<watch::Receiver<bool>>,
) -> bool {
    let mut buffer = vec![0; 8192];
    loop {
        let read = from.read(&mut buffer).await;
        if let Some(held) = &mut held {
            // The sender lives as long as any connection.
            held.wait_for(|held| !held).await.map(drop).ok();
        }
        let Ok(read @ 1..) = read else { return false };
        let before = left.load(Ordering::Relaxed);
        let pass = read.min(usize::try_from(before).unwrap_or(usize::MAX));
        left.store(before - pass as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..pass]).await.is_err() {
            return false;
        }
        if pass < read || before == pass as u64 {
            return true;
        }
    }
}
