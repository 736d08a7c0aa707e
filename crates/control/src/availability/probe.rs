//! Whether an address answers.

use std::net::SocketAddr;
use std::pin::pin;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use milecastle_settings::Availability;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::admin::access;

/// What of an answer's head is read; hyper takes no less.
const HEAD: usize = 16 * 1024;

/// Where a probe connects to, and what it asks there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    host: String,
    port: u16,
    /// `None`: it only connects.
    asks: Option<Uri>,
}

/// The target of an address: `http://host:port/path`, or `tcp://host:port` for what only has to be connected.
///
/// # Errors
/// What is expected.
pub(crate) fn target(url: &str) -> Result<Target, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "expected an address such as http://host:port/path or tcp://host:port")?;
    let authority = uri.authority().ok_or("expected a host")?;
    if authority.as_str().contains('@') {
        return Err("expected no credentials: everybody who may see probes would see them");
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16();
    match (uri.scheme_str(), port) {
        (Some("http"), port) => Ok(Target { host, port: port.unwrap_or(80), asks: Some(uri) }),
        (Some("tcp"), Some(port)) if uri.path().len() <= 1 && uri.query().is_none() => {
            Ok(Target { host, port, asks: None })
        }
        (Some("tcp"), None) => Err("expected a port"),
        (Some("tcp"), _) => Err("expected nothing after the port"),
        _ => Err("expected http:// or tcp://: what TLS is spoken to is connected with tcp://"),
    }
}

/// Asks an address: how it is, as `status 200` or `connected`.
///
/// # Errors
/// Why it counts as down, in words of our own.
pub(super) async fn ask(url: &str, settings: &Availability) -> Result<String, String> {
    let target = target(url).map_err(str::to_owned)?;
    timeout(settings.timeout.get(), target.ask(settings)).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

impl Target {
    async fn ask(self, settings: &Availability) -> Result<String, String> {
        let stream = TcpStream::connect(self.address(settings).await?).await.map_err(|_| "no connection".to_owned())?;
        let Some(uri) = self.asks else { return Ok("connected".to_owned()) };
        let io = TokioIo::new(stream);
        let shaken = http1::Builder::new().max_buf_size(HEAD).handshake::<_, Empty<Bytes>>(io).await;
        let (mut requests, connection) = shaken.map_err(|_| "no HTTP/1".to_owned())?;
        let host = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let request = Request::get(path).header(header::HOST, host).header(header::USER_AGENT, "milecastle-probe");
        let request = request.body(Empty::new()).map_err(|_| "no such address".to_owned())?;
        let mut sent = pin!(requests.send_request(request));
        // The body is not read: once the head is there, both are dropped, and the connection with them.
        let answer = tokio::select! {
            biased;
            answer = &mut sent => answer,
            // With its last bytes the answer may have come.
            _ = connection => sent.await,
        };
        let status = answer.map_err(|_| "no HTTP/1 answer".to_owned())?.status();
        let detail = format!("status {}", status.as_u16());
        if status.is_success() { Ok(detail) } else { Err(detail) }
    }

    /// The first of its addresses that may be probed, which is the one that is connected: a name cannot lead elsewhere in between.
    async fn address(&self, settings: &Availability) -> Result<SocketAddr, String> {
        let found = lookup_host((&*self.host, self.port)).await.map_err(|_| "its name has no address".to_owned())?;
        let denied = |address: &SocketAddr| !settings.deny.is_empty() && access::admits(&settings.deny, address.ip());
        let mut allowed = found.filter(|address| !denied(address));
        allowed.next().ok_or_else(|| "its address may not be probed (availability.deny)".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_settings::Time;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    fn open() -> Availability {
        Availability { deny: Vec::new(), timeout: Time::millis(500), ..Availability::default() }
    }

    /// A server that answers one connection with these bytes and keeps it; its address.
    async fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _read = stream.read(&mut head).await;
            let _written = stream.write_all(answer.as_bytes()).await;
            std::future::pending::<()>().await;
        });
        address
    }

    async fn asked(answer: &'static str) -> Result<String, String> {
        ask(&format!("http://{}/readyz?x=1", server(answer).await), &open()).await
    }

    #[tokio::test]
    async fn an_answer_of_2xx_is_up_whatever_its_body() {
        let endless = "HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\nx";
        assert_eq!(asked(endless).await, Ok("status 200".to_owned()));
        assert_eq!(asked("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await, Err("status 503".to_owned()));
    }

    #[tokio::test]
    async fn a_redirection_is_not_followed() {
        let away = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(asked(away).await, Err("status 302".to_owned()));
    }

    #[tokio::test]
    async fn what_does_not_answer_is_down() {
        assert_eq!(asked("").await, Err("no answer in time".to_owned()));
        assert_eq!(asked("SSH-2.0\r\n").await, Err("no HTTP/1 answer".to_owned()));
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(ask(&format!("tcp://{gone}"), &open()).await, Err("no connection".to_owned()));
        assert_eq!(ask(&format!("tcp://{}", server("").await), &open()).await, Ok("connected".to_owned()));
    }

    #[tokio::test]
    async fn denied_networks_are_not_probed_however_they_are_written() {
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254", "[::1]", "0.0.0.0"] {
            let denied = Err("its address may not be probed (availability.deny)".to_owned());
            assert_eq!(ask(&format!("http://{host}:1/"), &Availability::default()).await, denied, "{host}");
        }
    }

    #[test]
    fn targets_are_told_from_what_is_none() {
        for wrong in
            ["", "/x", "https://a", "ftp://a", "tcp://a", "tcp://a:1/x", "http://u:p@a/", "file:///x", "http:///x"]
        {
            assert!(target(wrong).is_err(), "{wrong}");
        }
        let plain = target("http://a/x?y").unwrap();
        assert_eq!((&*plain.host, plain.port), ("a", 80));
        assert_eq!(target("tcp://[::1]:7").unwrap(), Target { host: "::1".to_owned(), port: 7, asks: None });
    }
}
