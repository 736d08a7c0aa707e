//! One probe (`docs/spec/resources.md` §4.4).

use super::rules::Rules;
use super::state::Report;
use super::target::Target;
use crate::failure::Failure;
use crate::h1::connect_tcp;
use crate::tls::OnDemandTls;
use milecastle_model::{ActiveCheck, ProbeKind};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest status line that is read.
const STATUS_LINE: usize = 4096;

/// Probes a target once; `None`: what was seen says nothing.
pub(super) async fn probe(target: &Target, check: &ActiveCheck, rules: &Rules, tls: &OnDemandTls) -> Option<Report> {
    match exchange(target, check, tls).await {
        Ok(None) => Some(Report::Success),
        Ok(Some(line)) => status_of(&line).map_or(Some(Report::HttpFailure), |status| rules.judge(status)),
        Err(Broken::Connection) => Some(Report::TcpFailure),
        Err(Broken::Patience) => Some(Report::Timeout),
    }
}

/// Why no status line came.
enum Broken {
    Connection,
    Patience,
}

impl From<std::io::Error> for Broken {
    fn from(_: std::io::Error) -> Self {
        Self::Connection
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        if matches!(failure, Failure::ConnectTimeout) { Self::Patience } else { Self::Connection }
    }
}

/// Connects, and asks where the kind of check says so; gives the beginning of the answer.
async fn exchange(target: &Target, check: &ActiveCheck, tls: &OnDemandTls) -> Result<Option<Vec<u8>>, Broken> {
    let stream = connect_tcp(TcpStream::connect(target.addr), check.timeout).await?;
    let request = || request(check, &target.probe_host);
    match check.kind {
        ProbeKind::Tcp => Ok(None),
        ProbeKind::Http => ask(stream, &request(), check.timeout).await.map(Some),
        ProbeKind::Https => {
            let verify = check.https_verify_certificate;
            let stream = tls.connect(stream, &target.probe_host, verify, check.timeout).await?;
            ask(stream, &request(), check.timeout).await.map(Some)
        }
    }
}

/// Sends a request and reads the first line of the answer.
async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
    patience: Duration,
) -> Result<Vec<u8>, Broken> {
    let late = |_| Broken::Patience;
    tokio::time::timeout(patience, stream.write_all(request)).await.map_err(late)??;
    tokio::time::timeout(patience, stream.flush()).await.map_err(late)??;
    let mut line = Vec::with_capacity(256);
    while !line.contains(&b'\n') && line.len() < STATUS_LINE {
        if tokio::time::timeout(patience, stream.read_buf(&mut line)).await.map_err(late)?? == 0 {
            return Err(Broken::Connection);
        }
    }
    Ok(line)
}

/// The status of a status line.
fn status_of(line: &[u8]) -> Option<u16> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let (version, rest) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let digits = rest.trim_start().get(..3)?;
    let known = version.starts_with("HTTP/") && digits.bytes().all(|byte| byte.is_ascii_digit());
    known.then(|| digits.parse().ok()).flatten()
}

/// The request of a probe. Nothing of the configuration adds a line of its own to it.
fn request(check: &ActiveCheck, host: &str) -> Vec<u8> {
    let mut path = String::with_capacity(check.http_path.len());
    for byte in check.http_path.bytes() {
        match byte {
            b'!'..=b'~' => path.push(byte.into()),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    let is_host = |line: &str| line.split(':').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("host"));
    let lines = || check.req_headers.iter().filter(|line| !line.contains(['\r', '\n']));
    let mut text = format!("{} {path} HTTP/1.1\r\nConnection: close\r\n", check.http_method);
    lines().for_each(|line| text.extend([line, "\r\n"]));
    if !lines().any(|line| is_host(line)) {
        text.extend(["Host: ", host, "\r\n"]);
    }
    let body = &check.http_req_body;
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.extend(["\r\n", body]);
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_specified() {
        let check = ActiveCheck { http_path: "/ping".into(), ..ActiveCheck::default() };
        let text = |check: &ActiveCheck| String::from_utf8(request(check, "a.test")).unwrap();
        assert_eq!(text(&check), "GET /ping HTTP/1.1\r\nConnection: close\r\nHost: a.test\r\n\r\n");
        let full = ActiveCheck {
            http_method: "POST".into(),
            http_path: "/a b\r\nX: ü".into(),
            http_req_body: "{}".into(),
            req_headers: vec!["X-Probe: 1".into(), "Bad: 1\r\nInjected: 2".into(), "HOST : own".into()],
            ..ActiveCheck::default()
        };
        assert_eq!(
            text(&full),
            "POST /a%20b%0D%0AX:%20%C3%BC HTTP/1.1\r\nConnection: close\r\nX-Probe: 1\r\nHOST : own\r\nContent-Length: \
             2\r\n\r\n{}"
        );
    }

    #[test]
    fn status_lines_are_read() {
        #[rustfmt::skip]
        let table: [(&[u8], Option<u16>); 8] = [
            (b"HTTP/1.1 200 OK\r\n", Some(200)), (b"HTTP/1.0 503\r\nX: y\r\n", Some(503)), (b"HTTP/1.1  404\n", Some(404)),
            (b"HTTP/1.1 20\r\n", None), (b"HTTP/1.1 abc\r\n", None), (b"SSH-2.0-x 200\r\n", None), (b"\r\n", None),
            (b"HTTP/1.1 2\xff0\r\n", None),
        ];
        for (line, status) in table {
            assert_eq!(status_of(line), status, "{:?}", String::from_utf8_lossy(line));
        }
    }
}
