//! Lines to a server, by a thread of each instance: a session never waits for the network.
//!
//! Two buffers follow one another (`docs/spec/plugins/_logging-common.md`, batch queue; `syslog.md`, rule 3): lines are
//! gathered by number and age; what comes out of that is gathered by size, and then sent.

use super::config::{Config, SockType};
use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// At most one complaint in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// The way to the server. Dropped, it sends what it holds, and ends.
pub(super) struct Sender {
    shared: Arc<Shared>,
    /// The thread is started with the first line: most configurations are checked and never used.
    started: OnceLock<()>,
}

struct Shared {
    settings: Settings,
    queue: Mutex<Queue>,
    wake: Condvar,
}

struct Settings {
    name: String,
    host: String,
    port: u16,
    sock_type: SockType,
    timeout: Duration,
    flush_limit: usize,
    drop_limit: usize,
    batch_max_size: usize,
    inactive_timeout: Duration,
    buffer_duration: Duration,
    max_retry_count: u32,
    retry_delay: Duration,
}

#[derive(Default)]
struct Queue {
    /// Each with the time at which it came.
    lines: VecDeque<(Instant, String)>,
    /// Lines that the thread has taken and not dealt with yet.
    taken: usize,
    discarded: u64,
    complained: Option<Instant>,
    closed: bool,
}

impl Sender {
    pub(super) fn new(config: &Config) -> Self {
        let settings = Settings {
            name: config.name.clone(),
            host: config.host.clone(),
            port: config.port,
            sock_type: config.sock_type,
            timeout: Duration::from_millis(config.timeout),
            flush_limit: config.flush_limit,
            drop_limit: config.drop_limit,
            batch_max_size: config.batch_max_size,
            inactive_timeout: Duration::from_secs(config.inactive_timeout.into()),
            buffer_duration: Duration::from_secs(config.buffer_duration.into()),
            max_retry_count: config.max_retry_count,
            retry_delay: Duration::from_secs(config.retry_delay.into()),
        };
        let shared = Shared { settings, queue: Mutex::default(), wake: Condvar::new() };
        Self { shared: Arc::new(shared), started: OnceLock::new() }
    }

    /// Adds a line, unless `most` wait already.
    pub(super) fn push(&self, line: String, most: usize) {
        let now = Instant::now();
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = queue.lines.len() + queue.taken;
        if waiting >= most {
            queue.discarded += 1;
            if queue.complained.is_none_or(|last| now.saturating_duration_since(last) >= COMPLAIN_EVERY) {
                queue.complained = Some(now);
                let (queue_name, discarded) = (&*self.shared.settings.name, std::mem::take(&mut queue.discarded));
                tracing::error!(
                    queue = queue_name,
                    waiting,
                    discarded,
                    "log entries are discarded: is the server slow?"
                );
            }
            return;
        }
        queue.lines.push_back((now, line));
        drop(queue);
        self.shared.wake.notify_one();
        self.started.get_or_init(|| {
            let shared = self.shared.clone();
            let spawned = std::thread::Builder::new().name("syslog".into()).spawn(move || Courier::new(shared).run());
            if let Err(error) = spawned {
                tracing::error!(%error, "no thread for a syslog queue: its entries are discarded");
            }
        });
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.wake.notify_one();
    }
}

/// The thread's own.
struct Courier {
    shared: Arc<Shared>,
    buffer: Vec<u8>,
    connection: Option<Connection>,
}

enum Connection {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Courier {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, buffer: Vec::new(), connection: None }
    }

    fn run(mut self) {
        loop {
            let (lines, closed) = self.next_batch();
            self.gather(&lines);
            self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).taken = 0;
            if closed {
                if !self.buffer.is_empty() {
                    self.send();
                }
                return;
            }
        }
    }

    /// Waits until enough lines are there or they are old enough; says whether they are the last ones.
    fn next_batch(&self) -> (Vec<String>, bool) {
        let settings = &self.shared.settings;
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            let idle = queue.lines.back().map(|(last, _)| *last + settings.inactive_timeout);
            let old = queue.lines.front().map(|(first, _)| *first + settings.buffer_duration);
            let due = idle.into_iter().chain(old).min();
            let full = queue.lines.len() >= settings.batch_max_size;
            if queue.closed || full || due.is_some_and(|due| due <= now) {
                let count = queue.lines.len().min(settings.batch_max_size);
                let lines: Vec<String> = queue.lines.drain(..count).map(|(_, line)| line).collect();
                queue.taken = lines.len();
                return (lines, queue.closed && queue.lines.is_empty());
            }
            let wake = &self.shared.wake;
            queue = match due {
                None => wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let waited = wake.wait_timeout(queue, due.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Adds lines to what is to be sent, and sends it once it is enough.
    fn gather(&mut self, lines: &[String]) {
        let text: Vec<u8> = lines.iter().flat_map(|line| line.bytes()).collect();
        let settings = &self.shared.settings;
        if self.buffer.len() + text.len() > settings.drop_limit {
            tracing::error!(
                queue = &*settings.name,
                lines = lines.len(),
                "log entries are dropped: drop_limit is reached"
            );
            return;
        }
        self.buffer.extend(text);
        if self.buffer.len() >= settings.flush_limit {
            self.send();
        }
    }

    /// Sends what there is; what cannot be sent after all tries is dropped.
    fn send(&mut self) {
        let bytes = std::mem::take(&mut self.buffer);
        let shared = self.shared.clone();
        let settings = &shared.settings;
        let mut failure = None;
        for attempt in 0..=settings.max_retry_count {
            if attempt > 0 {
                std::thread::sleep(settings.retry_delay);
            }
            match self.try_send(&bytes) {
                Ok(()) => return,
                Err(error) => {
                    self.connection = None;
                    failure = Some(error);
                }
            }
        }
        if let Some(error) = failure {
            let (queue, host, port) = (&*settings.name, &*settings.host, settings.port);
            tracing::error!(queue, host, port, %error, bytes = bytes.len(), "log entries could not be sent and are dropped");
        }
    }

    fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let connection = match self.connection.take() {
            Some(kept) if !kept.is_closed() => self.connection.insert(kept),
            _ => self.connection.insert(Connection::open(&self.shared.settings)?),
        };
        match connection {
            Connection::Tcp(stream) => stream.write_all(bytes),
            Connection::Udp(socket) => socket.send(bytes).map(drop),
        }
    }
}

impl Connection {
    fn open(settings: &Settings) -> io::Result<Self> {
        let addresses: Vec<SocketAddr> = (settings.host.as_str(), settings.port).to_socket_addrs()?.collect();
        let address = addresses.first().ok_or_else(|| io::Error::other("the name has no address"))?;
        match settings.sock_type {
            SockType::Tcp => {
                let stream = TcpStream::connect_timeout(address, settings.timeout)?;
                stream.set_write_timeout(Some(settings.timeout))?;
                Ok(Self::Tcp(stream))
            }
            SockType::Udp => {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                Ok(Self::Udp(socket))
            }
        }
    }

    /// Whether the server has closed: what is written to such a connection is lost without an error.
    fn is_closed(&self) -> bool {
        let Self::Tcp(stream) = self else { return false };
        let look = || {
            stream.set_nonblocking(true)?;
            let seen = stream.peek(&mut [0; 1]);
            stream.set_nonblocking(false)?;
            seen
        };
        match look() {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}
