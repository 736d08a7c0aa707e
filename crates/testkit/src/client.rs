//! An HTTP client for tests. It never retries, never follows a redirect, never decodes, and opens a connection only when told.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::tls::{Identity, client_config};

/// How long a call may take, unless told otherwise.
const CALL: Duration = Duration::from_secs(20);

/// How to reach a server.
#[derive(Clone, Debug)]
pub struct Target {
    address: SocketAddr,
    http2: bool,
    tls: Option<TlsTarget>,
    /// What is said before anything else.
    preamble: Vec<u8>,
}

#[derive(Clone, Debug)]
struct TlsTarget {
    ca: String,
    /// The name to ask for and to verify; an address is not sent as SNI.
    name: String,
    identity: Option<Identity>,
}

/// An open connection. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    scheme: &'static str,
    address: SocketAddr,
    /// The certificate the server showed, DER; `None` without TLS.
    pub server_certificate: Option<Vec<u8>>,
    /// The protocol agreed on by ALPN.
    pub alpn: Option<String>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A request in the making.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
    within: Duration,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The protocol version of the answer.
    pub version: Version,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body, not decoded.
    pub body: Bytes,
    /// The trailer fields.
    pub trailers: HeaderMap,
}

impl Target {
    /// A server of plain HTTP/1.1.
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, http2: false, tls: None, preamble: Vec::new() }
    }

    /// A server of TLS whose certificate for `name` was signed by the authority with the PEM certificate `ca`.
    pub fn tls(address: SocketAddr, name: &str, ca: &str) -> Self {
        let tls = TlsTarget { ca: ca.to_owned(), name: name.to_owned(), identity: None };
        Self { address, http2: false, tls: Some(tls), preamble: Vec::new() }
    }

    /// Speaks HTTP/2: by ALPN over TLS, by prior knowledge otherwise.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Shows a client certificate if the server asks for one.
    #[must_use]
    pub fn with_identity(mut self, identity: &Identity) -> Self {
        if let Some(tls) = &mut self.tls {
            tls.identity = Some(identity.clone());
        }
        self
    }

    /// Begins each connection with these bytes, before TLS: a PROXY header.
    #[must_use]
    pub fn behind(mut self, header: &[u8]) -> Self {
        self.preamble = header.to_vec();
        self
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Result<Connection> {
        timeout(CALL, Box::pin(self.open()))
            .await
            .with_context(|| format!("connecting to {} took too long", self.address))?
    }

    async fn open(&self) -> Result<Connection> {
        let mut stream =
            TcpStream::connect(self.address).await.with_context(|| format!("connecting to {}", self.address))?;
        stream.set_nodelay(true)?;
        stream.write_all(&self.preamble).await?;
        let Some(tls) = &self.tls else {
            let sender = self.handshake(stream).await?;
            return Ok(Connection {
                sender,
                scheme: "http",
                address: self.address,
                server_certificate: None,
                alpn: None,
            });
        };
        let offer: &[&str] = if self.http2 { &["h2"] } else { &["http/1.1"] };
        let connector = TlsConnector::from(client_config(&tls.ca, tls.identity.as_ref(), offer));
        let stream =
            connector.connect(ServerName::try_from(tls.name.clone())?, stream).await.context("TLS handshake")?;
        let (_, session) = stream.get_ref();
        let server_certificate = session.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec());
        let alpn = session.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
        let sender = self.handshake(stream).await?;
        Ok(Connection { sender, scheme: "https", address: self.address, server_certificate, alpn })
    }

    async fn handshake<S>(&self, stream: S) -> Result<Sender>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        // How a connection ends is told by the requests on it.
        Ok(if self.http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(async move { drop(connection.await) });
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::Builder::new().preserve_header_case(true).handshake(io).await?;
            tokio::spawn(async move { drop(connection.await) });
            Sender::Http1(sender)
        })
    }
}

impl Connection {
    /// Whether another request can be sent on it.
    pub fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }
}

impl Call {
    /// A call of `method` on `target`, a path with a query.
    pub fn new(method: Method, target: &str) -> Self {
        Self { method, target: target.to_owned(), headers: HeaderMap::new(), body: Bytes::new(), within: CALL }
    }

    /// A GET.
    pub fn get(target: &str) -> Self {
        Self::new(Method::GET, target)
    }

    /// What a line such as `PUT /routes/1 {"uri":"/a"}` asks of the Admin API, without a key.
    ///
    /// # Panics
    /// If it is none.
    pub fn admin(line: &str) -> Self {
        let mut parts = line.splitn(3, ' ');
        let method = parts.next().and_then(|method| method.parse().ok()).expect("a method");
        let path = format!("/apisix/admin{}", parts.next().expect("a path"));
        Self::new(method, &path).body(parts.next().unwrap_or_default().to_owned())
    }

    /// A PUT with a JSON body.
    pub fn put_json(target: &str, body: &serde_json::Value) -> Self {
        Self::new(Method::PUT, target).header("content-type", "application/json").body(body.to_string())
    }

    /// A POST with a body.
    pub fn post(target: &str, body: impl Into<Bytes>) -> Self {
        Self::new(Method::POST, target).body(body)
    }

    /// Adds a header field; several of one name are sent in order. `Host` is the server's address unless given.
    ///
    /// # Panics
    /// If name or value is none of HTTP; send those with [`crate::raw`].
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        self.headers.append(name, value.parse().expect("a header value"));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// How long the call may take.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Sends it on a connection of its own, plain HTTP/1.1.
    pub async fn to(self, address: SocketAddr) -> Result<Answer> {
        self.send(&mut Target::plain(address).connect().await?).await
    }

    /// Sends it on an open connection.
    pub async fn send(self, connection: &mut Connection) -> Result<Answer> {
        let about = format!("{} {} to {}", self.method, self.target, connection.address);
        timeout(self.within, Box::pin(self.exchange(connection)))
            .await
            .with_context(|| format!("{about} took too long"))?
            .with_context(|| about.clone())
    }

    async fn exchange(self, connection: &mut Connection) -> Result<Answer> {
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.headers_mut() = self.headers;
        let response = match &mut connection.sender {
            Sender::Http1(sender) => {
                *request.uri_mut() = self.target.parse()?;
                if !request.headers().contains_key(http::header::HOST) {
                    let host = connection.address.to_string().parse().context("an address is a header value")?;
                    request.headers_mut().insert(http::header::HOST, host);
                }
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                let host = request.headers_mut().remove(http::header::HOST);
                let authority = match &host {
                    Some(host) => host.to_str()?.to_owned(),
                    None => connection.address.to_string(),
                };
                *request.uri_mut() = Uri::builder()
                    .scheme(connection.scheme)
                    .authority(authority)
                    .path_and_query(self.target)
                    .build()?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        Answer::read(response).await
    }
}

/// Whether a call failed because the server had said before that the connection ends: nothing of it was sent, or the server's
/// GOAWAY names an earlier stream as the last that counts (RFC 9113 §6.8).
pub fn came_too_late(error: &anyhow::Error) -> bool {
    let unsent = |cause: &hyper::Error| cause.is_canceled() || cause.is_closed();
    let told = |cause: &h2::Error| cause.is_go_away() && cause.is_remote();
    error.chain().any(|cause| {
        cause.downcast_ref::<hyper::Error>().is_some_and(unsent) || cause.downcast_ref::<h2::Error>().is_some_and(told)
    })
}

impl Answer {
    async fn read(response: Response<hyper::body::Incoming>) -> Result<Self> {
        let (head, body) = response.into_parts();
        let collected = body.collect().await.context("reading the body")?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Self {
            status: head.status.as_u16(),
            version: head.version,
            headers: head.headers,
            body: collected.to_bytes(),
            trailers,
        })
    }

    /// A header field's value; several are joined by `, `. Empty if there is none.
    pub fn header(&self, name: &str) -> String {
        let values: Vec<_> =
            self.headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect();
        values.join(", ")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{} answered {:?}", self.status, self.text()))
    }
}
