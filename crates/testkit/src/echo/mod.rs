//! An upstream that answers with what it received.
//!
//! It parses requests itself, so that what it tells is what was on the wire: the request line, the header fields in order and
//! with their letters, the body. It speaks HTTP/1.1, over TLS if asked to.
//!
//! # What the answer is
//! A JSON object: `server` (its name), `line`, `method`, `target`, `headers` (pairs), `body`, `trailers` (pairs), `connection`
//! (number of the connection, from 1), `request` (number of the request on it, from 1), `peer`, and over TLS `sni` and
//! `client`, the common name of the client's certificate. Bytes that are no UTF-8 appear as U+FFFD there; [`Received`] has them
//! all.
//!
//! # Directives
//! Path segments and query parameters change the answer; unknown ones do not matter, so that a gateway may add a prefix.
//!
//! | path | query | effect |
//! |---|---|---|
//! | `/status/503` | `status=503` | that status code |
//! | `/delay/100` | `delay=100` | waits so many milliseconds before the answer |
//! | `/large/1000` | `large=1000` | a body of so many bytes `x` instead of the JSON |
//! | `/chunked` | `chunked` | chunked transfer coding, in pieces of 1000 bytes |
//! | `/close` | `close` | `Connection: close`, and closes |
//! | `/eof` | `eof` | no length: the body ends when the connection does |
//! | `/reset` | `reset` | closes without any answer |
//! | `/cut` | `cut` | closes in the middle of the body |
//! | `/hang` | `hang` | never answers |
//! | `/header/X-A/1` | `header=X-A:1` | adds a header field; may be repeated |
//! | `/early` | `early` | answers before it reads the body |

mod directives;
mod server;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::tls::{Identity, mutual_server_config, server_config};
use server::State;

/// A request as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The whole head with its empty line, byte for byte.
    pub head: Bytes,
    /// The request line, without its line end.
    pub line: Bytes,
    /// Header fields in order: name with its letters, value without white space around it.
    pub headers: Vec<(Bytes, Bytes)>,
    /// The body, without transfer coding.
    pub body: Bytes,
    /// Fields behind a chunked body.
    pub trailers: Vec<(Bytes, Bytes)>,
    /// Number of the connection, from 1.
    pub connection: u64,
    /// Number of the request on its connection, from 1.
    pub request: u64,
}

/// A running echo upstream. Dropping it closes its listener and all connections.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Received {
    /// The method.
    pub fn method(&self) -> String {
        String::from_utf8_lossy(&self.line).split(' ').next().unwrap_or_default().to_owned()
    }

    /// The request target, as sent.
    pub fn target(&self) -> String {
        String::from_utf8_lossy(&self.line).split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// All values of a header field, in any spelling.
    pub fn header(&self, name: &str) -> Vec<String> {
        let same = |(n, _): &&(Bytes, Bytes)| n.eq_ignore_ascii_case(name.as_bytes());
        self.headers.iter().filter(same).map(|(_, v)| String::from_utf8_lossy(v).into_owned()).collect()
    }
}

impl Echo {
    /// Starts one on 127.0.0.1.
    ///
    /// # Panics
    /// If it cannot listen, as the other constructors.
    pub fn start() -> Self {
        Self::named("echo")
    }

    /// Starts one whose answers bear this name.
    pub fn named(name: &str) -> Self {
        Self::run(name, (Ipv4Addr::LOCALHOST, 0).into(), None)
    }

    /// Starts one on this address; port 0 lets the system choose.
    pub fn on(name: &str, address: SocketAddr) -> Self {
        Self::run(name, address, None)
    }

    /// Starts one that speaks TLS and shows this certificate.
    pub fn tls(name: &str, identity: &Identity) -> Self {
        Self::run(name, (Ipv4Addr::LOCALHOST, 0).into(), Some(server_config(identity, &["http/1.1"])))
    }

    /// As [`Self::tls`], for clients that show a certificate of the authority with certificate `ca`.
    pub fn mutual_tls(name: &str, identity: &Identity, ca: &str) -> Self {
        let tls = mutual_server_config(identity, &["http/1.1"], ca);
        Self::run(name, (Ipv4Addr::LOCALHOST, 0).into(), Some(tls))
    }

    fn run(name: &str, address: SocketAddr, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("cannot listen on {address}: {e}"));
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(State::new(name, tls));
        let (stop, stopped) = oneshot::channel();
        let shared = state.clone();
        // A thread of its own: it also serves tests that block theirs.
        let thread = std::thread::spawn(move || server::serve(listener, shared, stopped));
        Self { address, state, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// All requests received, in the order in which they were complete.
    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the requests received so far, and returns them.
    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.state.received.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> u64 {
        self.state.accepted.load(Ordering::Relaxed)
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> u64 {
        self.state.open.load(Ordering::Relaxed)
    }

    /// Answers every request with this status, whatever its directives say; `None` ends that.
    pub fn always(&self, status: Option<u16>) {
        self.state.always.store(status.unwrap_or(0), Ordering::Relaxed);
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Dropping the sender ends the server.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the echo upstream on {} panicked", self.address);
        }
    }
}
