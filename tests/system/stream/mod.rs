//! The TCP and UDP proxy through the real binary (`docs/stream.md`).

mod access_log;
mod changes;
mod discovery;
mod families;
mod plugins;
mod proxy_protocol;
mod servers;
mod tcp;
mod tls;
mod udp;

use milecastle_testkit::{TempDir, eventually};
use milecastle_tests::Up;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// How long a test waits for what should come at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A gateway that serves TCP and UDP beside HTTP.
pub(crate) struct Gateway {
    pub(crate) up: Up,
    listening: Vec<(String, SocketAddr)>,
}

impl Gateway {
    /// With these entries of `apisix.stream_proxy`, and further settings.
    pub(crate) fn start(tcp: &[Value], udp: &[Value], settings: &[(&str, &str)]) -> Self {
        Self::start_in(&["--proxy-mode", "http&stream"], tcp, udp, settings)
    }

    /// As [`Self::start`], in a gateway group with these settings.
    fn start_in(group: &[&str], tcp: &[Value], udp: &[Value], settings: &[(&str, &str)]) -> Self {
        let proxy = json!({ "tcp": tcp, "udp": udp }).to_string();
        let own = [("MILECASTLE__GATEWAY__APISIX__STREAM_PROXY", &*proxy)];
        let mut up = Up::start_with(&[&own, settings].concat());
        up.set_group(group);
        let said = up.process.log();
        let address = |line: &String| {
            let (what, address) = line.trim().split_once(char::is_whitespace)?;
            Some((what.to_owned(), address.trim().parse().ok()?))
        };
        let listening = said.iter().filter_map(address).collect();
        Self { up, listening }
    }

    /// With one plain TCP listener.
    pub(crate) fn plain() -> Self {
        Self::start(&[json!("127.0.0.1:0")], &[], &[])
    }

    /// The first listener of a kind, as the banner calls it.
    pub(crate) fn at(&self, what: &str) -> SocketAddr {
        self.all(what)[0]
    }

    /// All listeners of a kind, in the order of the configuration.
    pub(crate) fn all(&self, what: &str) -> Vec<SocketAddr> {
        self.listening.iter().filter(|(name, _)| name == what).map(|(_, address)| *address).collect()
    }

    /// Puts a stream route with these members and one node.
    pub(crate) async fn route(&self, id: &str, node: SocketAddr, members: Value) {
        let mut body = json!({ "upstream": { "nodes": { node.to_string(): 1 } } });
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        self.up.put(&format!("/stream_routes/{id}"), body).await;
    }

    /// As [`Up::metric`].
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        self.up.metric(series).await
    }

    /// Waits until a session gets so far.
    async fn eventually_passes(&self, at: SocketAddr) {
        eventually(
            "sessions are passed on",
            async || matches!(talk(at, b"are you there?"), Ok(said) if !said.is_empty()),
        )
        .await;
    }
}

/// A connection whose reads end.
pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    try_connect(to).unwrap()
}

fn try_connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

/// Sends all, says that it is all, and reads to the end.
pub(crate) fn talk(to: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = try_connect(to)?;
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said)?;
    Ok(said)
}

/// A server that runs `serve` on each connection in a thread of its own.
pub(crate) fn server(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A server that sends back what it gets, as it gets it, behind its name.
pub(crate) fn echo(name: &'static str) -> SocketAddr {
    server(move |mut stream| {
        let mut buffer = [0; 16 * 1024];
        let mut named = false;
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            if !named && stream.write_all(name.as_bytes()).is_err() {
                return;
            }
            named = true;
            if stream.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
    })
}

/// A directory with a file, for programs that want one.
fn with_file(name: &str, content: &str) -> (TempDir, String) {
    let dir = TempDir::new();
    let path = dir.write(name, content).to_str().unwrap().to_owned();
    (dir, path)
}
