//! Requests over HTTP/1.1, on a connection that is kept.

use crate::{Background, Endpoint, Tls};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Most interim answers to a request (RFC 9110 §15.2): servers send one or two.
const MOST_INTERIM: usize = 32;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The server.
    pub endpoint: Endpoint,
    /// Path and query.
    pub path: String,
    host: HeaderValue,
}

/// A text that names no server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address to send to: {reason}")]
pub struct TargetError {
    text: String,
    reason: &'static str,
}

impl Target {
    /// Reads `http://host[:port][/path]` or the same with `https`, whose certificate is verified if `verify` says so.
    ///
    /// # Errors
    /// It is not of this form. A login before the host is none of it, and is sent to nobody ([`without_login`]).
    pub fn parse(text: &str, verify: bool) -> Result<Self, TargetError> {
        // Somebody may have put a password where none belongs: it is shown to nobody.
        let shown = || text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, rest)| format!("…@{rest}"));
        let fault = |reason| TargetError { text: shown(), reason };
        let uri: Uri = text.parse().map_err(|_| fault("expected http://host:port/path"))?;
        let (tls, default) = match uri.scheme_str() {
            Some("http") => (Tls::None, 80),
            Some("https") if verify => (Tls::Verified, 443),
            Some("https") => (Tls::Unverified, 443),
            _ => return Err(fault("it must begin with http:// or https://")),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| fault("it names no host"))?;
        let port = uri.port_u16().unwrap_or(default);
        let written = if port == default { host.to_owned() } else { format!("{host}:{port}") };
        Ok(Self {
            endpoint: Endpoint { host: host.trim_matches(['[', ']']).to_owned(), port, tls },
            path: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
            host: HeaderValue::try_from(written).map_err(|_| fault("its host is no text for a header"))?,
        })
    }

    /// The value of its `Host` header, for those who sign what they send.
    pub fn host(&self) -> &HeaderValue {
        &self.host
    }
}

/// An address without the login before its host (`user:password@`); `None` if it has none.
pub fn without_login(address: &str) -> Option<String> {
    let start = address.find("://").map_or(0, |at| at + "://".len());
    let (scheme, rest) = address.split_at(start);
    let authority = rest.split(['/', '?', '#']).next()?;
    let at = authority.rfind('@')?;
    Some(format!("{scheme}{}", rest.get(at + 1..)?))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.endpoint.tls == Tls::None { "http" } else { "https" };
        write!(f, "{scheme}://{}:{}", self.endpoint.host, self.endpoint.port)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The server cannot be reached.
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    /// It does not speak HTTP/1.1, or the connection broke.
    #[error("the exchange failed: {0}")]
    Exchange(#[from] hyper::Error),
    /// It sends interim answers without coming to the final one.
    #[error("more than {most} interim answers, or too long ones", most = MOST_INTERIM)]
    Interim,
    /// It took too long.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// A header or the path cannot be sent.
    #[error("the request cannot be put together: {0}")]
    Request(#[from] http::Error),
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Its body; empty if it was longer than [`Background::new`] was told.
    pub body: Bytes,
}

/// Asks one server, one request after the other.
pub struct HttpClient {
    background: Arc<Background>,
    target: Target,
    kept: Option<SendRequest<Full<Bytes>>>,
}

impl HttpClient {
    /// A client that has no connection yet.
    pub fn new(background: Arc<Background>, target: Target) -> Self {
        Self { background, target, kept: None }
    }

    /// The server.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Posts a body; connecting and the answer have `patience` together. A kept connection that turns out to be closed is
    /// replaced by a new one.
    ///
    /// # Errors
    /// There was no answer. The server may have acted all the same.
    pub async fn post(&mut self, headers: HeaderMap, body: Bytes, patience: Duration) -> Result<Answer, HttpError> {
        let sent = self.send(Method::POST, headers, body);
        tokio::time::timeout(patience, sent).await.unwrap_or(Err(HttpError::Late(patience)))
    }

    /// Sends a request, without a time limit of its own; dropped before its end, it has closed the connection. Interim answers are
    /// passed over: up to 32, whose fields are together no longer than the longest answer.
    ///
    /// # Errors
    /// As for [`HttpClient::post`].
    pub async fn send(&mut self, method: Method, headers: HeaderMap, body: Bytes) -> Result<Answer, HttpError> {
        let mut request = self.request(method, headers, body)?;
        let flooded = watch_interim(&mut request, self.background.longest_answer());
        tokio::select! {
            biased;
            () = flooded.notified() => Err(HttpError::Interim),
            answer = self.exchange(request) => answer,
        }
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, HttpError> {
        let kept = match self.kept.take() {
            Some(mut kept) => kept.ready().await.ok().map(|()| kept),
            None => None,
        };
        let (mut sender, request) = match kept {
            None => (self.open().await?, request),
            Some(mut kept) => match kept.try_send_request(request).await {
                Ok(answer) => return self.read(kept, answer).await,
                // Given back: nothing of it was sent.
                Err(mut error) => match error.take_message() {
                    Some(request) => (self.open().await?, request),
                    None => return Err(error.into_error().into()),
                },
            },
        };
        let answer = sender.send_request(request).await?;
        self.read(sender, answer).await
    }

    async fn read(
        &mut self,
        sender: SendRequest<Full<Bytes>>,
        answer: http::Response<hyper::body::Incoming>,
    ) -> Result<Answer, HttpError> {
        let status = answer.status().as_u16();
        let whole = Limited::new(answer.into_body(), self.background.longest_answer()).collect().await;
        if whole.as_ref().is_err_and(|error| error.is::<LengthLimitError>()) {
            self.background.note_long_answer();
        }
        let body = whole.map(|whole| whole.to_bytes()).ok();
        self.kept = body.is_some().then_some(sender);
        Ok(Answer { status, body: body.unwrap_or_default() })
    }

    fn request(&self, method: Method, mut headers: HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, HttpError> {
        headers.entry(HOST).or_insert_with(|| self.target.host.clone());
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static("Milecastle"));
        if method != Method::GET {
            headers.insert(CONTENT_LENGTH, body.len().into());
        }
        let mut request = Request::builder().method(method).uri(&self.target.path).body(Full::new(body))?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        let stream = self.background.connect(&self.target.endpoint).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the sender; how it ended is seen by whoever waits for an answer.
        drop(tokio::spawn(async move { drop(connection.await) }));
        Ok(sender)
    }
}

/// Has the interim answers to a request counted. What it gives is notified of one more than [`MOST_INTERIM`], and of fields that are
/// together longer than `longest`.
fn watch_interim(request: &mut Request<Full<Bytes>>, longest: usize) -> Arc<Notify> {
    let flooded = Arc::new(Notify::new());
    let (told, count, bytes) = (flooded.clone(), AtomicUsize::new(0), AtomicUsize::new(0));
    hyper::ext::on_informational(request, move |answer| {
        let length: usize = answer.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let count = 1 + count.fetch_add(1, Ordering::Relaxed);
        let bytes = length + bytes.fetch_add(length, Ordering::Relaxed);
        if count > MOST_INTERIM || bytes > longest {
            told.notify_one();
        }
    });
    flooded
}
