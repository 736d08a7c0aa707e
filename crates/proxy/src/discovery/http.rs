//! Questions to registries over HTTP/1.1, one connection each.

use super::registry::AskError;
use crate::tls::OnDemandTls;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use milecastle_model::bracketed;
use milecastle_settings::{RegistryTimeout, RegistryUrl};
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// Asks over HTTP.
pub(super) struct Http {
    tls: Arc<OnDemandTls>,
    verify: bool,
    longest: usize,
}

/// How long a question may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Connecting, TLS included.
    pub(super) connect: Duration,
    /// Sending the question and getting the answer, head and body.
    pub(super) answer: Duration,
}

/// A question.
#[derive(Debug, Default)]
pub(super) struct Question {
    /// Path and query.
    target: String,
    headers: HeaderMap,
    /// A form that is posted.
    form: Option<String>,
}

/// An answer that is there in whole.
pub(super) struct Whole {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// An answer whose body still comes.
pub(super) struct Opened {
    pub(super) response: Response<Incoming>,
    _connection: Connection,
}

/// A connection; it ends with this.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Patience {
    pub(super) fn of(timeout: RegistryTimeout) -> Self {
        let millis = |millis: u32| Duration::from_millis(millis.into());
        Self { connect: millis(timeout.connect), answer: millis(timeout.send) + millis(timeout.read) }
    }
}

impl Question {
    /// A question for what stands at `target`, path and query.
    pub(super) fn get(target: String) -> Self {
        Self { target, ..Self::default() }
    }

    /// A form that is posted to `target`.
    pub(super) fn post(target: String, form: String) -> Self {
        Self { target, form: Some(form), ..Self::default() }
    }

    /// Adds a header with a secret in it; one that cannot be sent is left out, and the server will ask for it.
    pub(super) fn secret(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(true);
            self.headers.insert(name, value);
        }
        self
    }

    /// Adds a bearer token.
    pub(super) fn bearer(self, token: &str) -> Self {
        self.secret(AUTHORIZATION, &format!("Bearer {token}"))
    }
}

impl Http {
    /// `longest` is the length of the longest answer that is taken. Certificates are verified.
    pub(super) fn new(tls: Arc<OnDemandTls>, longest: usize) -> Self {
        Self { tls, verify: true, longest }
    }

    /// The same, without verifying certificates if `verify` says so.
    pub(super) fn verifying(self, verify: bool) -> Self {
        Self { verify, ..self }
    }

    /// Longest answer, or longest line of one that has no end.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn ask(
        &self,
        server: &RegistryUrl,
        question: Question,
        patience: Patience,
    ) -> Result<Whole, AskError> {
        let (mut sender, _connection) = self.connect(server, patience.connect).await?;
        let exchange = async {
            let response = sender.send_request(request(server, question)?).await.map_err(protocol(server))?;
            let (head, body) = response.into_parts();
            match Limited::new(body, self.longest).collect().await {
                Ok(body) => Ok(Whole { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() }),
                Err(error) if error.is::<LengthLimitError>() => Err(AskError::TooLong),
                Err(error) => Err(AskError::Protocol(server.to_string(), error.to_string())),
            }
        };
        tokio::time::timeout(patience.answer, exchange).await.map_err(|_| AskError::Late(server.to_string()))?
    }

    /// Asks, and reads the head of the answer.
    pub(super) async fn open(
        &self,
        server: &RegistryUrl,
        question: Question,
        patience: Patience,
    ) -> Result<Opened, AskError> {
        let (mut sender, connection) = self.connect(server, patience.connect).await?;
        let exchange = sender.send_request(request(server, question)?);
        let response =
            tokio::time::timeout(patience.answer, exchange).await.map_err(|_| AskError::Late(server.to_string()))?;
        Ok(Opened { response: response.map_err(protocol(server))?, _connection: connection })
    }

    async fn connect(
        &self,
        server: &RegistryUrl,
        patience: Duration,
    ) -> Result<(http1::SendRequest<Full<Bytes>>, Connection), AskError> {
        let network = |error: io::Error| AskError::Network(server.to_string(), error);
        let connect = async {
            let stream = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(network)?;
            if !server.tls {
                return shake(TokioIo::new(stream)).await.map_err(protocol(server));
            }
            let stream = self.tls.connect(stream, &server.host, self.verify, patience).await;
            let stream = stream.map_err(|error| network(io::Error::other(error.to_string())))?;
            shake(TokioIo::new(stream)).await.map_err(protocol(server))
        };
        tokio::time::timeout(patience, connect).await.map_err(|_| AskError::Late(server.to_string()))?
    }
}

/// Begins to speak HTTP/1.1 on a connection.
async fn shake<T>(stream: TokioIo<T>) -> hyper::Result<(http1::SendRequest<Full<Bytes>>, Connection)>
where
    TokioIo<T>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(stream).await?;
    // How it ends is seen by whoever waits for an answer.
    let task = tokio::spawn(async move { drop(connection.await) });
    Ok((sender, Connection(task.abort_handle())))
}

fn request(server: &RegistryUrl, question: Question) -> Result<Request<Full<Bytes>>, AskError> {
    let Question { target, headers, form } = question;
    let method = if form.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::builder().method(method).uri(target).header(HOST, authority(server));
    request = request.header(ACCEPT, "application/json").header(USER_AGENT, "Milecastle");
    if form.is_some() {
        request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    }
    let mut request = request
        .body(Full::new(form.unwrap_or_default().into()))
        .map_err(|error| AskError::Protocol(server.to_string(), error.to_string()))?;
    request.headers_mut().extend(headers);
    Ok(request)
}

fn authority(server: &RegistryUrl) -> String {
    format!("{}:{}", bracketed(&server.host), server.port)
}

fn protocol(server: &RegistryUrl) -> impl Fn(hyper::Error) -> AskError {
    move |error| AskError::Protocol(server.to_string(), error.to_string())
}

/// Text as it stands in a part of a path or a query (RFC 3986 §2).
pub(crate) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => write!(encoded, "%{byte:02X}").expect("writing to a string cannot fail"),
        }
    }
    encoded
}
