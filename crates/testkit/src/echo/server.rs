//! The server behind [`super::Echo`].

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes, BytesMut};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::Received;
use super::directives::Directives;

/// Most header fields of a request.
const MAX_HEADERS: usize = 1000;

/// The first byte of a TLS record that holds a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What the server shares with the tests.
#[derive(Debug)]
pub(super) struct State {
    name: String,
    tls: Option<Arc<rustls::ServerConfig>>,
    pub(super) received: Mutex<Vec<Received>>,
    pub(super) accepted: AtomicU64,
    pub(super) open: AtomicU64,
    /// Status of every answer, or 0.
    pub(super) always: AtomicU16,
}

impl State {
    pub(super) fn new(name: &str, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        Self {
            name: name.to_owned(),
            tls,
            received: Mutex::default(),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            always: AtomicU16::new(0),
        }
    }
}

/// Runs until the sender of `stopped` is dropped; then listener and connections are closed.
pub(super) fn serve(listener: TcpListener, state: Arc<State>, mut stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                accepted = listener.accept() => {
                    // An error here is one client's that went away.
                    let Ok((stream, peer)) = accepted else { continue };
                    connections.spawn(connection(stream, peer, state.clone()));
                }
                Some(ended) = connections.join_next() => ended.expect("a connection of the echo upstream panicked"),
            }
        }
    });
}

/// Counts a connection as open for as long as it lives.
struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, state: Arc<State>) {
    let number = state.accepted.fetch_add(1, Ordering::Relaxed) + 1;
    state.open.fetch_add(1, Ordering::Relaxed);
    let _open = Open(state.clone());
    // A failure of the connection is the client's doing, or what the test asked for.
    drop(stream.set_nodelay(true));
    match &state.tls {
        None => drop(requests(stream, peer, Names::default(), number, &state).await),
        Some(config) => {
            let Ok(stream) = TlsAcceptor::from(config.clone()).accept(stream).await else { return };
            let session = stream.get_ref().1;
            let names = Names {
                sni: session.server_name().map(str::to_owned),
                client: session.peer_certificates().and_then(|chain| common_name(chain.first()?)),
            };
            drop(requests(stream, peer, names, number, &state).await);
        }
    }
}

/// What was said in the TLS handshake.
#[derive(Default)]
struct Names {
    sni: Option<String>,
    /// Common name of the client's certificate.
    client: Option<String>,
}

fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    certificate.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned)
}

async fn requests<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    peer: SocketAddr,
    names: Names,
    connection: u64,
    state: &State,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    for request in 1.. {
        let Some(head) = read_head(&mut stream, &mut buffer).await? else { return Ok(()) };
        let directives = Directives::of(&head.target());
        let mut received = Received { connection, request, ..head };
        if !directives.early {
            read_body(&mut stream, &mut buffer, &mut received).await?;
        }
        let body = match directives.large {
            Some(n) => Bytes::from(vec![b'x'; n]),
            None => Bytes::from(describe(&received, peer, &names, state)),
        };
        let is_head = received.method() == "HEAD";
        let close = received.header("connection").iter().any(|v| v.eq_ignore_ascii_case("close"))
            || received.line.ends_with(b"HTTP/1.0");
        state.received.lock().unwrap_or_else(PoisonError::into_inner).push(received);
        if !answer(&mut stream, &directives, body, is_head, state).await? || close {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

/// What the answer's body tells of a request.
fn describe(received: &Received, peer: SocketAddr, names: &Names, state: &State) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let pairs = |fields: &[(Bytes, Bytes)]| fields.iter().map(|(n, v)| json!([text(n), text(v)])).collect::<Vec<_>>();
    let mut body = json!({
        "server": state.name,
        "line": text(&received.line),
        "method": received.method(),
        "target": received.target(),
        "headers": pairs(&received.headers),
        "body": text(&received.body),
        "trailers": pairs(&received.trailers),
        "connection": received.connection,
        "request": received.request,
        "peer": peer.to_string(),
    });
    for (name, value) in [("sni", &names.sni), ("client", &names.client)] {
        if let Some(value) = value {
            body[name] = value.as_str().into();
        }
    }
    body.to_string()
}

/// Sends the answer; whether the connection may be used again.
async fn answer<S: AsyncWrite + Unpin>(
    stream: &mut S,
    directives: &Directives,
    body: Bytes,
    is_head: bool,
    state: &State,
) -> io::Result<bool> {
    if let Some(delay) = directives.delay {
        tokio::time::sleep(delay).await;
    }
    if directives.hang {
        std::future::pending::<()>().await;
    }
    if directives.reset {
        return Ok(false);
    }
    let status = match state.always.load(Ordering::Relaxed) {
        0 => directives.status.unwrap_or(200),
        status => status,
    };
    let bodiless = is_head || status == 204 || status == 304;
    let reason = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Unknown");
    let mut head = format!("HTTP/1.1 {status} {reason}\r\nServer: echo\r\nX-Echo: {}\r\n", state.name);
    if directives.large.is_none() {
        head.push_str("Content-Type: application/json\r\n");
    }
    for (name, value) in &directives.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let framing = match (directives.eof, directives.chunked) {
        (true, _) => "Connection: close\r\n\r\n".to_owned(),
        (_, true) => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
        _ if status == 204 => "\r\n".to_owned(),
        _ => format!("Content-Length: {}\r\n\r\n", body.len()),
    };
    if directives.close && !directives.eof {
        head.push_str("Connection: close\r\n");
    }
    head.push_str(&framing);
    stream.write_all(head.as_bytes()).await?;
    if !bodiless {
        let body = if directives.cut { body.slice(..body.len() / 2) } else { body };
        if directives.chunked && !directives.eof {
            for piece in body.chunks(1000) {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
                stream.write_all(piece).await?;
                stream.write_all(b"\r\n").await?;
            }
            if !directives.cut {
                stream.write_all(b"0\r\n\r\n").await?;
            }
        } else {
            stream.write_all(&body).await?;
        }
    }
    stream.flush().await?;
    // After an early answer the body is still to come, and nobody reads it.
    Ok(!(directives.close || directives.eof || directives.cut || directives.early))
}

/// Reads a head; `None` when the client closed between requests.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut) -> io::Result<Option<Received>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        // Who begins a TLS handshake waits for an answer, and would never end a head.
        if buffer.first() == Some(&TLS_HANDSHAKE) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    };
    let head = buffer.split_to(end).freeze();
    let line_end = head.windows(2).position(|w| w == b"\r\n").unwrap_or(head.len());
    let headers = fields(&head, line_end + 2)?;
    let line = head.slice(..line_end);
    Ok(Some(Received { head, line, headers, body: Bytes::new(), trailers: Vec::new(), connection: 0, request: 0 }))
}

/// The fields of a block that starts at `start` and ends with an empty line.
fn fields(block: &Bytes, start: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
    let mut slots = vec![httparse::EMPTY_HEADER; MAX_HEADERS];
    match httparse::parse_headers(block.get(start..).unwrap_or_default(), &mut slots) {
        Ok(httparse::Status::Complete((_, parsed))) => {
            Ok(parsed.iter().map(|h| (block.slice_ref(h.name.as_bytes()), block.slice_ref(h.value))).collect())
        }
        Ok(httparse::Status::Partial) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
    }
}

async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    received: &mut Received,
) -> io::Result<()> {
    if received.header("transfer-encoding").iter().any(|v| v.eq_ignore_ascii_case("chunked")) {
        return read_chunked(stream, buffer, received).await;
    }
    let length = received.header("content-length").first().and_then(|v| v.parse().ok()).unwrap_or(0);
    fill(stream, buffer, length).await?;
    received.body = buffer.split_to(length).freeze();
    Ok(())
}

async fn read_chunked<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    received: &mut Received,
) -> io::Result<()> {
    let mut body = BytesMut::new();
    loop {
        let line = read_line(stream, buffer).await?;
        let digits = std::str::from_utf8(&line).ok().and_then(|l| l.split(';').next()).unwrap_or_default();
        let size = usize::from_str_radix(digits.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
        if size == 0 {
            break;
        }
        fill(stream, buffer, size + 2).await?;
        body.extend_from_slice(&buffer.split_to(size));
        buffer.advance(2);
    }
    let mut block = BytesMut::new();
    loop {
        let line = read_line(stream, buffer).await?;
        block.extend_from_slice(&line);
        block.extend_from_slice(b"\r\n");
        if line.is_empty() {
            break;
        }
    }
    received.trailers = fields(&block.freeze(), 0)?;
    received.body = body.freeze();
    Ok(())
}

async fn read_line<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut) -> io::Result<Bytes> {
    loop {
        if let Some(at) = buffer.windows(2).position(|w| w == b"\r\n") {
            let line = buffer.split_to(at).freeze();
            buffer.advance(2);
            return Ok(line);
        }
        fill(stream, buffer, buffer.len() + 1).await?;
    }
}

/// Reads until the buffer holds `length` bytes.
async fn fill<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut, length: usize) -> io::Result<()> {
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
