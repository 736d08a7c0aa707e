//! Requests to a dashboard.

use super::Refused;
use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, IF_MATCH};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Largest answer that is read.
const LARGEST: usize = 256 << 20;

/// An answer is larger: another server would give no other one.
#[derive(Debug, thiserror::Error)]
#[error("the answer has more than {} MiB, and no more are read: ask for less", LARGEST >> 20)]
struct TooLarge;

/// How long connecting to one server may take before the next one is tried.
const CONNECT: Duration = Duration::from_secs(5);

/// What a dashboard says that has yet to start: it did nothing of what was asked.
const STARTING: &str = "starting";

/// Speaks to the first of several dashboards that can be reached and can answer.
#[derive(Clone)]
pub(super) struct Client {
    servers: Vec<Uri>,
    key: Option<HeaderValue>,
    tls: TlsConnector,
    timeout: Duration,
}

/// What a request brings along.
#[derive(Clone)]
pub(super) struct Payload {
    media: &'static str,
    bytes: Bytes,
}

impl Payload {
    /// A JSON value.
    pub(super) fn json(value: &Value) -> Self {
        Self { media: "application/json", bytes: value.to_string().into() }
    }

    /// A file, as it is: JSON if it begins like an object of it, else YAML.
    pub(super) fn file(text: String) -> Self {
        let media = if text.trim_start().starts_with('{') { "application/json" } else { "application/yaml" };
        Self { media, bytes: text.into() }
    }
}

/// What is asked of whichever server answers.
struct Asked<'a> {
    method: Method,
    path: &'a str,
    body: Option<Payload>,
    /// The entity tag that what is to be changed must have.
    tag: Option<String>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Client {
    pub(super) fn new(
        servers: &[String],
        key: Option<String>,
        tls: TlsConnector,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        let server = |text: &String| {
            let uri: Uri = text.parse().ok().filter(|uri: &Uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.path().len() <= 1
            })?;
            Some(uri)
        };
        let parsed =
            |text| server(text).with_context(|| format!("--server: expected http://HOST:PORT, found `{text}`"));
        let servers = servers.iter().map(parsed).collect::<anyhow::Result<Vec<_>>>()?;
        let key = key.map(|key| {
            let mut value = HeaderValue::try_from(key).context("the Admin key holds what no header can")?;
            value.set_sensitive(true);
            Ok::<_, anyhow::Error>(value)
        });
        Ok(Self { servers, key: key.transpose()?, tls, timeout })
    }

    /// The same with more patience: a server that is told to wait so long for nodes answers no sooner.
    pub(super) fn waiting(&self, wait: Duration) -> Self {
        Self { timeout: self.timeout.saturating_add(wait), ..self.clone() }
    }

    /// GET.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// GET of what need not be JSON.
    pub(super) async fn get_text(&self, path: &str) -> anyhow::Result<Bytes> {
        self.send(&Asked { method: Method::GET, path, body: None, tag: None }).await
    }

    /// As [`Self::call`], if what is to be changed has this entity tag; of any without one.
    pub(super) async fn call_if_match(
        &self,
        method: Method,
        path: &str,
        tag: Option<String>,
        body: Option<Payload>,
    ) -> anyhow::Result<Value> {
        self.send(&Asked { method, path, body, tag }).await.map(parsed)
    }

    /// Sends a request; gives the body of an answer of success, `null` if it has none.
    ///
    /// # Errors
    /// [`Refused`] with what the server says; no server that can be reached.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let body = body.as_ref().map(Payload::json);
        self.send(&Asked { method, path, body, tag: None }).await.map(parsed)
    }

    /// GET of an answer that lasts, after the event with this id, from the first server that answers of those from this place on, then
    /// of those before it.
    ///
    /// # Errors
    /// [`Refused`] with what the server says; no server that can be reached.
    pub(super) async fn follow(&self, path: &str, after: Option<u64>, from: usize) -> anyhow::Result<Followed> {
        let asked = Asked { method: Method::GET, path, body: None, tag: None };
        let mut failures = Vec::new();
        let servers = self.servers.iter().enumerate().cycle().skip(from).take(self.servers.len());
        for (place, server) in servers {
            let answered = tokio::time::timeout(self.timeout, self.follow_one(server, &asked, after)).await;
            match answered.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", self.timeout.as_secs()))) {
                Ok(body) => return Ok(Followed { body, read: Vec::new(), next: place + 1 }),
                Err(error) => match error.downcast_ref::<Refused>() {
                    Some(refused) if refused.status != 503 => return Err(error),
                    _ => failures.push(format!("{server}: {error:#}")),
                },
            }
        }
        bail!("no dashboard can be reached (--server, MILECASTLE_SERVER):\n  {}", failures.join("\n  "))
    }

    async fn follow_one(&self, server: &Uri, asked: &Asked<'_>, after: Option<u64>) -> anyhow::Result<Incoming> {
        let stream = tokio::time::timeout(CONNECT, self.open(server)).await.context("it takes no connection")??;
        let mut request = self.request(server, asked)?;
        if let Some(after) = after {
            request.headers_mut().insert("last-event-id", after.into());
        }
        let answer = sent(stream, request).await?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let (status, text) = read(answer).await?;
        bail!(Refused { status, message: reason(status, &parsed(text.clone()), &text) })
    }

    async fn send(&self, asked: &Asked<'_>) -> anyhow::Result<Bytes> {
        tokio::time::timeout(self.timeout, Box::pin(self.first_answer(asked)))
            .await
            .with_context(|| format!("no answer within {} s (--timeout)", self.timeout.as_secs()))?
    }

    /// Asks one server after the other, until one answers. One that is not ready has the next one asked, if that cannot do
    /// twice what is asked.
    async fn first_answer(&self, asked: &Asked<'_>) -> anyhow::Result<Bytes> {
        let mut failures = Vec::new();
        let (mut unready, mut broken) = (None, None);
        for server in &self.servers {
            let stream = match tokio::time::timeout(CONNECT, self.open(server)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    failures.push(format!("{server}: {error:#}"));
                    continue;
                }
                Err(_) => {
                    failures.push(format!("{server}: no answer within {} s", CONNECT.as_secs()));
                    continue;
                }
            };
            let (status, text) = match self.exchange(server, stream, asked).await {
                Ok(answered) => answered,
                Err(error) if asked.method == Method::GET && !error.is::<TooLarge>() => {
                    failures.push(format!("{error:#}"));
                    broken = Some(error);
                    continue;
                }
                // It may have been done; or its answer is too large wherever it is asked for.
                Err(error) => return Err(error),
            };
            if (200..300).contains(&status) {
                return Ok(text);
            }
            let answer = parsed(text.clone());
            let message = reason(status, &answer, &text);
            let undone = asked.method == Method::GET || answer.get("code").and_then(Value::as_str) == Some(STARTING);
            if status != 503 || !undone {
                bail!(Refused { status, message });
            }
            failures.push(format!("{server}: {message}"));
            unready = Some(message);
        }
        let (is_alone, failures) = (failures.len() == 1, failures.join("\n  "));
        match (unready, broken) {
            (Some(message), _) if is_alone => bail!(Refused { status: 503, message }),
            (Some(_), _) => bail!(Refused { status: 503, message: format!("no dashboard is ready:\n  {failures}") }),
            (None, Some(error)) if is_alone => Err(error),
            (None, Some(_)) => bail!("no dashboard gives a whole answer:\n  {failures}"),
            (None, None) => bail!("no dashboard can be reached (--server, MILECASTLE_SERVER):\n  {failures}"),
        }
    }

    /// Sends a request on `stream` and reads its answer: status and body.
    async fn exchange(&self, server: &Uri, stream: Box<dyn Stream>, asked: &Asked<'_>) -> anyhow::Result<(u16, Bytes)> {
        let request = self.request(server, asked)?;
        let answered = async { read(sent(stream, request).await?).await };
        match answered.await {
            Err(error) if !error.is::<TooLarge>() => Err(error.context(format!("{server} broke off its answer"))),
            answered => answered,
        }
    }

    fn request(&self, server: &Uri, asked: &Asked<'_>) -> anyhow::Result<Request<Full<Bytes>>> {
        let host = server.authority().context("a server has an address")?.as_str();
        let Payload { media, bytes } =
            asked.body.clone().unwrap_or(Payload { media: "application/json", bytes: Bytes::new() });
        let mut request = Request::builder().method(&asked.method).uri(asked.path).header(HOST, host);
        request = request.header(CONTENT_TYPE, media);
        if let Some(tag) = &asked.tag {
            request = request.header(IF_MATCH, tag);
        }
        if let Some(key) = &self.key {
            request = request.header("x-api-key", key);
        }
        Ok(request.body(Full::from(bytes))?)
    }

    async fn open(&self, server: &Uri) -> anyhow::Result<Box<dyn Stream>> {
        let secure = server.scheme_str() == Some("https");
        let host = server.host().context("a server has an address")?.trim_matches(['[', ']']).to_owned();
        let port = server.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        if !secure {
            return Ok(Box::new(stream));
        }
        Ok(Box::new(self.tls.connect(ServerName::try_from(host)?, stream).await?))
    }
}

/// An answer that lasts, line by line.
pub(super) struct Followed {
    body: Incoming,
    /// What has come of the next line.
    read: Vec<u8>,
    next: usize,
}

impl Followed {
    /// The place of the server after the one whose answer it is.
    pub(super) fn next(&self) -> usize {
        self.next
    }

    /// The next line without its end; `None` once the server has ended or broken off its answer, or said nothing for `silence`.
    pub(super) async fn line(&mut self, silence: Duration) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            let frame = tokio::time::timeout(silence, self.body.frame()).await.ok()?;
            match frame?.ok()?.into_data() {
                Ok(data) if self.read.len() + data.len() <= LARGEST => self.read.extend_from_slice(&data),
                Ok(_) => return None,
                Err(_trailers) => {}
            }
        }
    }
}

/// Sends a request on a connection of its own.
async fn sent(stream: Box<dyn Stream>, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // How the connection ends is told by the request on it.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender.send_request(request).await?)
}

async fn read(answer: Response<Incoming>) -> anyhow::Result<(u16, Bytes)> {
    let (head, body) = answer.into_parts();
    match Limited::new(body, LARGEST).collect().await {
        Ok(body) => Ok((head.status.as_u16(), body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Err(TooLarge.into()),
        Err(error) => Err(anyhow::Error::from_boxed(error)),
    }
}

/// The JSON of a body, `null` if it has none.
fn parsed(body: Bytes) -> Value {
    serde_json::from_slice(&body).unwrap_or_default()
}

/// What an answer that is no success says.
fn reason(status: u16, body: &Value, text: &Bytes) -> String {
    let said = ["message", "error_msg"].iter().find_map(|member| body.get(*member)?.as_str());
    let more = body.get("description").and_then(Value::as_str).map(|more| format!(": {more}")).unwrap_or_default();
    match (said, status) {
        (Some(said), 401) => format!("{said}{more} (MILECASTLE_ADMIN_KEY, --admin-key-file)"),
        (Some(said), _) => format!("{said}{more}"),
        (None, _) => format!("the server answered {status}: {}", String::from_utf8_lossy(text).trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Ended;
    use crate::client::changes::publish_by;
    use crate::client::cli::{Output, Publish};
    use milecastle_settings::Time;
    use milecastle_testkit::SOON;
    use rustls::{ClientConfig, RootCertStore};
    use serde_json::json;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// A server that answers the first request of each connection with these bytes, and closes it; its address.
    async fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _read = stream.read(&mut [0; 4096]).await;
                let _written = stream.write_all(answer.as_bytes()).await;
            }
        });
        format!("http://{address}")
    }

    fn client(servers: &[String]) -> Client {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        Client::new(servers, None, Arc::new(config).into(), Duration::from_secs(20)).unwrap()
    }

    #[tokio::test]
    async fn where_a_server_breaks_off_the_next_one_is_asked_what_only_reads() {
        let client = client(&[server("").await, server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await]);
        assert_eq!(client.get("/api/nodes").await.unwrap(), json!({}));
        let refused = client.call(Method::DELETE, "/api/gateway_groups/g", None).await.unwrap_err();
        assert!(refused.downcast_ref::<Refused>().is_none(), "{refused:#}");
    }

    #[tokio::test]
    async fn what_was_broken_off_is_not_called_out_of_reach() {
        let (silent, half) = (server("").await, server("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}").await);
        for servers in [vec![silent.clone()], vec![half.clone()], vec![silent, half]] {
            let said = format!("{:#}", client(&servers).get("/api/nodes").await.unwrap_err());
            assert!(servers.iter().all(|server| said.contains(&format!("{server}/ broke off its answer"))), "{said}");
            assert!(!said.contains("can be reached"), "{said}");
        }
    }

    #[tokio::test]
    async fn a_server_that_falls_silent_has_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = server("HTTP/1.1 200 OK\r\n\r\n: other\n").await;
        let client = client(&[format!("http://{}", listener.local_addr().unwrap()), other]);
        let begun = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n: beat\n").await.unwrap();
            stream
        };
        let (_open, followed) = tokio::join!(begun, client.follow("/api/events?follow=true", None, 0));
        let mut followed = followed.unwrap();
        assert_eq!(followed.line(SOON).await.as_deref(), Some(": beat"));
        assert_eq!(followed.line(Duration::from_millis(100)).await, None);
        // Though the first one would answer again.
        let mut followed = client.follow("/api/events?follow=true", None, followed.next()).await.unwrap();
        assert_eq!(followed.line(SOON).await.as_deref(), Some(": other"));
    }

    #[tokio::test]
    async fn an_answer_after_a_wait_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(&[format!("http://{}", listener.local_addr().unwrap())]);
        let client = Client { timeout: Duration::from_millis(100), ..client };
        let publish = async |wait: Option<Time>| {
            let how = Publish { yes: true, expected_revision: Some(1), message: String::new(), force: false, wait };
            publish_by(&client, Output::Json, "/api/publish", "", None, &how).await
        };
        let answered = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            // Whoever asks only now, and does not wait, gives up after `--timeout`: so long the first one has waited by then.
            let given_up = publish(None).await.unwrap_err();
            assert!(given_up.to_string().contains("--timeout"), "{given_up:#}");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        };
        let (done, ()) = tokio::join!(publish(Some(Time::secs(20))), answered);
        assert_eq!(done.unwrap(), Ended::Done);
    }
}
