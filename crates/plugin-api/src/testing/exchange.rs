//! One request through the phases.

use super::Gateway;
use crate::{
    Attempt, Body, BodyNeed, ClientConn, HookPanicked, Lists, Reply, Request, RequestCx, ResponseSource, Scheme,
    TlsInfo, query,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A request, and how the upstream will answer it.
///
/// Made from text: request line (`GET /path?query`), header lines, an empty line, the body.
pub struct Ask {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Option<Bytes>,
    peer: SocketAddr,
    client_ip: Option<IpAddr>,
    version: Version,
    tls: Option<TlsInfo>,
    answer: Answer,
}

impl From<&str> for Ask {
    fn from(text: &str) -> Self {
        let (first, headers, body) = parts(text);
        let (method, target) = first.split_once(' ').expect("a request line: method, blank, target");
        Self {
            method: method.parse().expect("a method"),
            target: target.to_owned(),
            headers,
            body: (!body.is_empty()).then(|| Bytes::copy_from_slice(body.as_bytes())),
            peer: "127.0.0.1:50000".parse().expect("an address"),
            client_ip: None,
            version: Version::HTTP_11,
            tls: None,
            answer: Answer::from("200\n\nok"),
        }
    }
}

impl Ask {
    /// The request comes from this peer.
    #[must_use]
    pub fn from_peer(mut self, ip: &str) -> Self {
        self.peer.set_ip(ip.parse().expect("an address"));
        self
    }

    /// Real-IP processing has found this client.
    #[must_use]
    pub fn real_ip(mut self, ip: &str) -> Self {
        self.client_ip = Some(ip.parse().expect("an address"));
        self
    }

    /// The connection speaks TLS.
    #[must_use]
    pub fn tls(mut self, tls: TlsInfo) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The request's version.
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// The upstream's answer; `200` with the body `ok` if nothing is said.
    #[must_use]
    pub fn answered(mut self, answer: impl Into<Answer>) -> Self {
        self.answer = answer.into();
        self
    }
}

/// An upstream's answer. Made from text: status, header lines, an empty line, the body.
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    chunks: Vec<Bytes>,
    answered: bool,
}

impl From<&str> for Answer {
    fn from(text: &str) -> Self {
        let (first, headers, body) = parts(text);
        let chunks = vec![Bytes::copy_from_slice(body.as_bytes())];
        Self { status: first.parse().expect("a status"), headers, chunks, answered: true }
    }
}

impl Answer {
    /// The body in these chunks instead.
    #[must_use]
    pub fn chunks(mut self, chunks: &[&[u8]]) -> Self {
        self.chunks = chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk)).collect();
        self
    }

    /// No answer came; the gateway answers with this status.
    pub fn failed(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), chunks: Vec::new(), answered: false }
    }
}

/// What was sent upstream.
#[derive(Debug)]
pub struct Sent {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Host header, if a plugin set one or the client sent one.
    pub host: Option<HeaderValue>,
    /// All headers of the request.
    pub headers: HeaderMap,
}

/// What came of a request.
pub struct Exchange {
    /// Status sent to the client.
    pub status: u16,
    /// Headers sent to the client.
    pub headers: HeaderMap,
    /// Body sent to the client.
    pub body: Vec<u8>,
    /// What was sent upstream; `None` if the gateway answered by itself.
    pub upstream: Option<Sent>,
    /// The plugin that ended the request.
    pub ended_by: Option<&'static str>,
    /// The context after the phase `log`.
    pub cx: RequestCx,
}

impl Exchange {
    /// A header of the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// All values of a header of the answer.
    pub fn header_all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().expect("text")).collect()
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// What was sent upstream.
    ///
    /// # Panics
    /// If nothing was.
    pub fn sent(&self) -> &Sent {
        self.upstream.as_ref().expect("the request reached the upstream")
    }
}

impl Sent {
    /// A header of the request.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// All values of a header of the request.
    pub fn header_all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().expect("text")).collect()
    }
}

pub(super) fn run(gateway: &Gateway, ask: Ask) -> Exchange {
    let Ask { answer, .. } = &ask;
    let (status, answer_headers) = (answer.status, answer.headers.clone());
    let (chunks, answered, body) = (answer.chunks.clone(), answer.answered, ask.body.clone());
    let mut cx = context(gateway, ask);
    let outcome = block_on(request_phases(gateway, &mut cx, body));
    let (mut upstream, mut ended_by) = (None, None);
    let chunks = match outcome {
        Err(reply) => {
            ended_by = reply.plugin;
            let (status, headers, body) = reply.into_parts();
            (cx.response.status, cx.response.headers) = (status, headers);
            vec![body]
        }
        Ok(()) => {
            upstream = Some(sent(&cx));
            contact(&mut cx, status, answered);
            cx.response.status = status;
            cx.response.headers = answer_headers;
            cx.response.source = if answered { ResponseSource::Upstream } else { ResponseSource::Nginx };
            chunks
        }
    };
    let body = response_phases(gateway, &mut cx, chunks).unwrap_or_else(|HookPanicked| {
        cx.response.status = StatusCode::INTERNAL_SERVER_ERROR;
        Vec::new()
    });
    cx.response.body_bytes_sent = body.len() as u64;
    cx.response.bytes_sent = 100 + body.len() as u64;
    cx.timing.ended = Some(Instant::now());
    gateway.global.mask_credentials(&mut cx.request);
    if let Some(chain) = &cx.chain {
        chain.mask_credentials(&mut cx.request);
    }
    in_global(&mut cx, |cx| gateway.global.run_log(cx));
    if let Some(chain) = cx.chain.clone() {
        chain.run_log(&mut cx);
    }
    let (status, headers) = (cx.response.status.as_u16(), cx.response.headers.clone());
    Exchange { status, headers, body, upstream, ended_by, cx }
}

/// The context as the proxy has it after matching.
pub(super) fn context(gateway: &Gateway, ask: Ask) -> RequestCx {
    let host = ask.headers.get(header::HOST).map(|host| host.to_str().expect("text")).unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let uri: http::Uri = ask.target.parse().expect("a target");
    let decoded = query::decode(&uri.path().replace('+', "%2B")).into_owned();
    let normal = (decoded != uri.path()).then(|| decoded.into_boxed_str());
    let mut request = Request::new(ask.method, uri, ask.version, ask.headers, normal, host.into());
    request.head_bytes = 50;
    if let Some(body) = &ask.body {
        request.body = Body::Streaming { length: Some(body.len() as u64) };
        request.body_bytes = body.len() as u64;
    }
    let client = ClientConn {
        peer: ask.peer,
        local: "127.0.0.1:9080".parse().expect("an address"),
        scheme: if ask.tls.is_some() { Scheme::Https } else { Scheme::Http },
        proxied: None,
        tls: ask.tls,
        opened: Instant::now(),
        serial: 7,
        peer_text: ask.peer.ip().to_string().into(),
    };
    let mut cx = RequestCx::new(request, Rc::new(client), gateway.view.clone(), Lists::default(), Instant::now());
    cx.client_ip = ask.client_ip.unwrap_or(cx.client_ip);
    if gateway.info.is_some() {
        cx.route = gateway.info.clone();
        cx.chain = Some(gateway.chain.clone());
        cx.matched_uri = gateway.matched_uri.clone();
        cx.matched_host = gateway.matched_host.clone();
        cx.matched_path = gateway.matched_path.clone();
    }
    cx
}

async fn request_phases(gateway: &Gateway, cx: &mut RequestCx, body: Option<Bytes>) -> Result<(), Reply> {
    read_body(gateway, cx, body);
    cx.global_phase = true;
    gateway.global.run_rewrite(cx).await?;
    cx.global_phase = false;
    if let Some(chain) = cx.chain.clone() {
        chain.run_rewrite(cx).await?;
        if let Some(consumer) = cx.consumer.clone() {
            let merged = std::sync::Arc::new(chain.overlay(&consumer.overlay));
            cx.chain = Some(merged.clone());
            merged.run_rewrite(cx).await?;
        }
    }
    cx.global_phase = true;
    gateway.global.run_access(cx).await?;
    cx.global_phase = false;
    let Some(chain) = cx.chain.clone() else {
        return Err(Reply::error_msg(StatusCode::NOT_FOUND, "404 Route Not Found"));
    };
    chain.run_access(cx).await?;
    cx.global_phase = true;
    gateway.global.run_before_proxy(cx).await?;
    cx.global_phase = false;
    chain.run_before_proxy(cx).await
}

/// Reads as much of the body as the chains have asked for.
fn read_body(gateway: &Gateway, cx: &mut RequestCx, body: Option<Bytes>) {
    let needs = gateway.global.needs().request.max(gateway.chain.needs().request);
    if let (Some(body), BodyNeed::Whole { max_bytes }) = (body, needs) {
        cx.request.body =
            Body::Read { partial: body.len() > max_bytes, bytes: body.slice(..body.len().min(max_bytes)) };
    }
}

fn sent(cx: &RequestCx) -> Sent {
    let request = &cx.request;
    Sent {
        method: request.method.clone(),
        target: request.rewritten_target().unwrap_or_else(|| request.received_target()).to_owned(),
        host: cx.upstream_host().cloned(),
        headers: request.headers.clone(),
    }
}

fn contact(cx: &mut RequestCx, status: StatusCode, answered: bool) {
    cx.upstream.scheme = "http";
    cx.upstream.push(Attempt {
        addr: "127.0.0.1:1980".parse().expect("an address"),
        node: "127.0.0.1:1980".into(),
        began: Instant::now(),
        status: status.as_u16(),
        answered,
        connect: Duration::ZERO,
        header: answered.then_some(Duration::from_millis(3)),
        response: Duration::from_millis(4),
        response_bytes: 2,
    });
}

fn response_phases(gateway: &Gateway, cx: &mut RequestCx, chunks: Vec<Bytes>) -> Result<Vec<u8>, HookPanicked> {
    let chain = cx.chain.clone();
    in_global(cx, |cx| gateway.global.run_headers(cx))?;
    if let Some(chain) = &chain {
        chain.run_headers(cx)?;
    }
    let mut sent = Vec::new();
    let chunks = if chunks.is_empty() { vec![Bytes::new()] } else { chunks };
    let count = chunks.len();
    for (n, mut chunk) in (1..).zip(chunks) {
        let last = n == count;
        in_global(cx, |cx| gateway.global.run_body(cx, &mut chunk, last))?;
        if let Some(chain) = &chain {
            chain.run_body(cx, &mut chunk, last)?;
        }
        in_global(cx, |cx| gateway.global.run_delayed_body(cx, &mut chunk, last))?;
        if let Some(chain) = &chain {
            chain.run_delayed_body(cx, &mut chunk, last)?;
        }
        sent.extend_from_slice(&chunk);
    }
    Ok(sent)
}

fn in_global<T>(cx: &mut RequestCx, run: impl FnOnce(&mut RequestCx) -> T) -> T {
    cx.global_phase = true;
    let result = run(cx);
    cx.global_phase = false;
    result
}

/// First line, headers and body of a message.
fn parts(text: &str) -> (&str, HeaderMap, &str) {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let first = lines.next().expect("a first line");
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').expect("a header line");
        let name: HeaderName = name.parse().expect("a header name");
        headers.append(name, HeaderValue::from_bytes(value.trim_ascii().as_bytes()).expect("a header value"));
    }
    (first, headers, body)
}

/// Polls a future that needs no reactor until it is done.
///
/// # Panics
/// If it is still waiting after many polls: nothing here would ever wake it.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
    panic!("a hook waits for something that this gateway does not have");
}
