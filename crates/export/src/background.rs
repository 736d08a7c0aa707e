//! Where exporters run, and how they reach their servers.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// In the clear.
    None,
    /// Over TLS; any certificate will do.
    Unverified,
    /// Over TLS, with a certificate by an authority that the process trusts.
    Verified,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How it is spoken to.
    pub tls: Tls,
}

/// A connection on its way.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>> + Send + 'a>>;

/// Addresses of a host, on their way; none: it cannot be resolved now.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Vec<IpAddr>> + Send + 'a>>;

/// Opens connections. The plane has its own way: its trusted authorities, its library for TLS, its resolvers.
pub trait Connect: Send + Sync {
    /// Opens one, without a time limit of its own.
    fn connect<'a>(&'a self, to: &'a Endpoint) -> Connecting<'a>;

    /// The addresses that a host has now, for those who send datagrams: they ask each time.
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a>;
}

/// Opens TCP connections, without TLS, and asks the system for addresses.
pub struct Plain;

impl Connect for Plain {
    fn connect<'a>(&'a self, to: &'a Endpoint) -> Connecting<'a> {
        Box::pin(async move {
            if to.tls != Tls::None {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "this process does not speak TLS to exporters' servers",
                ));
            }
            let stream = TcpStream::connect((to.host.as_str(), to.port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Duplex>)
        })
    }

    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            let found = lookup_host((host, 0)).await;
            found.map(|addresses| addresses.map(|address| address.ip()).collect()).unwrap_or_default()
        })
    }
}

/// Where exporters run. One for each process.
pub struct Background {
    runtime: OnceLock<Handle>,
    connect: Box<dyn Connect>,
    /// Longest answer that is read, in bytes.
    longest_answer: usize,
    /// Answers that were longer.
    long_answers: AtomicU64,
    /// Whether the process ends. Each exporter holds a receiver for as long as it runs.
    ending: watch::Sender<bool>,
}

/// Without a runtime: the first exporter starts a thread with one. Connections are plain, and answers have up to 64 KiB.
impl Default for Background {
    fn default() -> Self {
        Self {
            runtime: OnceLock::new(),
            connect: Box::new(Plain),
            longest_answer: 64 << 10,
            long_answers: AtomicU64::new(0),
            ending: watch::Sender::new(false),
        }
    }
}

impl Background {
    /// Exporters run on `runtime`, and reach their servers by `connect`. Of an answer with more than `longest_answer` bytes nothing
    /// is looked at but its status.
    pub fn new(runtime: Handle, connect: impl Connect + 'static, longest_answer: usize) -> Self {
        Self { runtime: OnceLock::from(runtime), connect: Box::new(connect), longest_answer, ..Self::default() }
    }

    pub(crate) fn longest_answer(&self) -> usize {
        self.longest_answer
    }

    /// How many answers were longer than is read.
    pub fn long_answers(&self) -> u64 {
        self.long_answers.load(Ordering::Relaxed)
    }

    pub(crate) fn note_long_answer(&self) {
        self.long_answers.fetch_add(1, Ordering::Relaxed);
    }

    /// Opens a connection.
    pub async fn connect(&self, to: &Endpoint) -> io::Result<Box<dyn Duplex>> {
        self.connect.connect(to).await
    }

    /// The addresses that a host has now; none: it cannot be resolved, or not within `patience`.
    pub(crate) async fn resolve(&self, host: &str, patience: Duration) -> Vec<IpAddr> {
        tokio::time::timeout(patience, self.connect.resolve(host)).await.unwrap_or_default()
    }

    /// Turns true when the process ends: what waits is to be sent now. To be held until that is done.
    pub(crate) fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }

    /// Runs an exporter.
    pub(crate) fn spawn(&self, exporter: impl Future<Output = ()> + Send + 'static) {
        let runtime = self.runtime.get_or_init(own_runtime);
        drop(runtime.spawn(exporter));
    }

    /// Has exporters send what waits, and says whether they were done within `patience`. Nothing is sent after this.
    pub async fn end(&self, patience: Duration) -> bool {
        self.ending.send_replace(true);
        tokio::time::timeout(patience, self.ending.closed()).await.is_ok()
    }
}

/// A runtime on a thread of its own, for the life of the process.
fn own_runtime() -> Handle {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the system has a poller to give");
    let handle = runtime.handle().clone();
    let thread = std::thread::Builder::new().name("exporters".to_owned());
    let run = move || runtime.block_on(std::future::pending::<()>());
    drop(thread.spawn(run).expect("the system has a thread to give"));
    handle
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").field("exporters", &self.ending.receiver_count()).finish_non_exhaustive()
    }
}
