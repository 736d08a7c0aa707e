use super::*;
use crate::h1::{Limits, Scratch};
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, StatusCode};
use proptest::prelude::*;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const LIMITS: Limits = Limits { head_bytes: 1000, head_fields: 10 };

fn take(text: impl AsRef<[u8]>) -> Result<Option<RequestHead>, BadHead> {
    take_head(&mut BytesMut::from(text.as_ref()), &mut Parsing::default(), HeaderMap::new, LIMITS)
}

/// What a head with these fields says of its body; `None` if that can be read in two ways.
fn length(version: &str, fields: &[&str]) -> Option<Length> {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let head = take(format!("POST / HTTP/{version}\r\n{fields}\r\n")).unwrap().unwrap();
    head.head.fault.is_none().then_some(head.length)
}

#[test]
fn a_body_has_one_length_or_none() {
    for (version, fields, expected) in [
        ("1.1", &[][..], Some(Length::Bytes(0))),
        ("1.1", &["Content-Length: 7"], Some(Length::Bytes(7))),
        ("1.0", &["content-length: 7", "Content-Length:7"], Some(Length::Bytes(7))),
        ("1.1", &["Transfer-Encoding: Chunked"], Some(Length::Chunked)),
        ("1.1", &["Content-Length: 7", "Content-Length: 8"], None),
        ("1.1", &["Content-Length: 7, 7"], None),
        ("1.1", &["Content-Length: -1"], None),
        ("1.1", &["Content-Length: 0x7"], None),
        ("1.1", &["Content-Length:"], None),
        ("1.1", &["Content-Length: 99999999999999999999"], None),
        ("1.1", &["Content-Length: 7", "Transfer-Encoding: chunked"], None),
        ("1.1", &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], None),
        ("1.1", &["Transfer-Encoding: gzip, chunked"], None),
        ("1.1", &["Transfer-Encoding: xchunked"], None),
        ("1.1", &["Transfer-Encoding:"], None),
        ("1.0", &["Transfer-Encoding: chunked"], None),
    ] {
        assert_eq!(length(version, fields), expected, "{version} {fields:?}");
    }
}

#[test]
fn connections_are_kept_as_the_versions_say() {
    for (version, field, expected) in [
        ("1.1", "X: y", true),
        ("1.1", "Connection: x, CLOSE", false),
        ("1.1", "Connection: close, keep-alive", false),
        ("1.0", "X: y", false),
        ("1.0", "Connection: Keep-Alive", true),
        ("1.0", "Connection: keep-alive, close", false),
    ] {
        let head = take(format!("GET / HTTP/{version}\r\n{field}\r\n\r\n")).unwrap().unwrap();
        assert_eq!(head.keep_alive, expected, "{version} {field}");
    }
}

#[test]
fn what_is_no_head_is_refused_with_its_status() {
    let long = "a".repeat(1000);
    let many = "X: y\r\n".repeat(11);
    for (text, status) in [
        ("GET / HTTP/1.1\nHost: h\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost:\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: h\r\n\n".to_owned(), 400),
        ("\nGET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("\r\n\nGET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nX : a\r\n\r\n".to_owned(), 400),
        ("GET  / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), 400),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), 414),
        (format!("GET /{long}"), 414),
        (format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nX: {long}"), 431),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), 431),
    ] {
        assert_eq!(take(&text).unwrap_err().status().as_u16(), status, "{text:?}");
    }
    assert!(take("GET / HTTP/1.1\r\nHost: h\r\n").unwrap().is_none());
    assert!(take("\r\n\r\nGET / HTTP/1.1\r\nX: \t\r\nY: a \t\r\n\r\n").unwrap().is_some());
}

#[test]
fn a_head_is_laid_out_with_one_framing() {
    let laid_out = |status, http10, fields: &[(&'static str, &'static str)], framing, announced| {
        let mut headers: HeaderMap = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers.insert("date", HeaderValue::from_static("now"));
        let mut out = Vec::new();
        write_head(&mut out, StatusCode::from_u16(status).unwrap(), http10, Fields::from(&headers), framing, announced);
        String::from_utf8(out).unwrap()
    };
    let told = [("content-length", "9"), ("transfer-encoding", "chunked"), ("x-a", "1")];
    assert_eq!(
        laid_out(200, false, &told, Framing::Length(3), Announced::Nothing),
        "HTTP/1.1 200 OK\r\nx-a: 1\r\ndate: now\r\ncontent-length: 3\r\n\r\n"
    );
    assert_eq!(
        laid_out(404, false, &told, Framing::Chunked, Announced::Close),
        "HTTP/1.1 404 Not Found\r\nx-a: 1\r\ndate: now\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(
        laid_out(200, true, &told, Framing::UntilClose, Announced::KeepAlive),
        "HTTP/1.0 200 OK\r\nx-a: 1\r\ndate: now\r\nconnection: keep-alive\r\n\r\n"
    );
    assert_eq!(
        laid_out(304, false, &told, Framing::None, Announced::Nothing),
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\nx-a: 1\r\ndate: now\r\n\r\n"
    );
    assert_eq!(
        laid_out(204, false, &told, Framing::None, Announced::Nothing),
        "HTTP/1.1 204 No Content\r\nx-a: 1\r\ndate: now\r\n\r\n"
    );
    let mut dated = Vec::new();
    write_head(
        &mut dated,
        StatusCode::OK,
        false,
        Fields::from(&HeaderMap::new()),
        Framing::Length(0),
        Announced::Nothing,
    );
    assert!(String::from_utf8(dated).unwrap().contains(" GMT\r\n"));
}

/// A client that sends these pieces and closes, and remembers what it was sent.
struct Client {
    pieces: std::collections::VecDeque<Vec<u8>>,
    told: Vec<u8>,
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if let Some(piece) = self.pieces.front_mut() {
            let take = piece.len().min(buf.remaining());
            buf.put_slice(&piece[..take]);
            piece.drain(..take);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.told.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Targets and bodies of all requests that these pieces make up, and what the client was sent meanwhile.
fn requests(pieces: Vec<Vec<u8>>, awaited: bool) -> (Vec<(String, Vec<u8>)>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut client = Client { pieces: pieces.into(), told: Vec::new() };
    client.pieces.retain(|piece| !piece.is_empty());
    let scratch = Scratch::default();
    let mut inbound = Inbound::default();
    let mut found = Vec::new();
    runtime.block_on(async {
        while let Some(head) =
            poll_fn(|cx| inbound.poll_head(&mut client, cx, &scratch, &HeaderMap::new, LIMITS)).await.unwrap()
        {
            if awaited {
                inbound.is_awaited();
            }
            let mut body = Vec::new();
            while let Some(piece) = poll_fn(|cx| inbound.poll_body(&mut client, cx)).await {
                body.extend_from_slice(&piece.unwrap());
            }
            assert!(inbound.body_ended());
            found.push((head.head.uri.to_string(), body));
        }
    });
    (found, String::from_utf8(client.told).unwrap())
}

#[test]
fn a_client_that_waits_is_told_to_go_on() {
    let head = b"POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n".to_vec();
    let waiting = requests(vec![head.clone(), b"x".to_vec()], true);
    assert_eq!(waiting, (vec![("/a".into(), b"x".to_vec())], "HTTP/1.1 100 Continue\r\n\r\n".into()));
    let sent_at_once = requests(vec![[head, b"x".to_vec()].concat()], true);
    assert_eq!(sent_at_once, (vec![("/a".into(), b"x".to_vec())], String::new()));
}

/// A client that takes a few bytes, and no more.
struct Reluctant(usize);

impl AsyncRead for Reluctant {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Reluctant {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match std::mem::take(&mut self.0) {
            0 => Poll::Pending,
            most => Poll::Ready(Ok(most.min(buf.len()))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A request whose body is awaited, and its client, which has taken so many bytes of what it is told then.
fn awaited(taken: usize) -> (Inbound, Reluctant) {
    let head = "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
    let (mut inbound, mut client) = (Inbound::new(head.into()), Reluctant(taken));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(inbound.poll_head(&mut client, &mut cx, &Scratch::default(), &HeaderMap::new, LIMITS).is_ready());
    inbound.is_awaited();
    assert!(inbound.poll_body(&mut client, &mut cx).is_pending());
    (inbound, client)
}

#[test]
fn no_interim_answer_stands_in_the_middle_of_a_final_one() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for (taken, rest) in [(0, &b""[..]), (10, &b"00 Continue\r\n\r\n"[..]), (25, b"")] {
        let (mut inbound, mut client) = awaited(taken);
        let mut before = Vec::new();
        inbound.put_rest(&mut before);
        assert_eq!(before, rest, "{taken} bytes taken");
        client.0 = 100;
        assert!(inbound.poll_body(&mut client, &mut cx).is_pending());
        assert_eq!(client.0, 100, "nothing more is said");
    }
}

#[test]
fn interim_answers_do_not_stand_in_each_other() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for (taken, rest) in [(0, "HINT"), (10, "00 Continue\r\n\r\nHINT"), (25, "HINT")] {
        let (mut inbound, mut client) = awaited(taken);
        inbound.put_interim(|text| text.extend_from_slice(b"HINT"));
        client.0 = 3;
        assert!(inbound.poll_interim(&mut client, &mut cx).is_pending());
        // The 100 waits until what has begun is sent.
        assert!(inbound.poll_body(&mut client, &mut cx).is_pending());
        let mut left = Vec::new();
        inbound.put_rest(&mut left);
        assert_eq!(left, &rest.as_bytes()[3..], "{taken} bytes taken");
    }
}

/// A client whose transport takes everything, and has sent it only once it may.
#[derive(Default)]
struct Holding {
    held: usize,
    sends: bool,
}

impl AsyncWrite for Holding {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.held += buf.len();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if !self.sends {
            return Poll::Pending;
        }
        self.held = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn interim_answers_are_flushed_to_their_end() {
    let (mut inbound, mut client) = (Inbound::default(), Holding::default());
    let mut cx = Context::from_waker(std::task::Waker::noop());
    inbound.put_interim(|text| text.extend_from_slice(b"HINT"));
    assert!(inbound.poll_interim(&mut client, &mut cx).is_pending());
    assert!(inbound.poll_interim(&mut client, &mut cx).is_pending(), "it is still held");
    client.sends = true;
    assert!(inbound.poll_interim(&mut client, &mut cx).is_ready());
    assert_eq!(client.held, 0);
}

proptest! {
    #[test]
    fn requests_are_found_wherever_they_are_cut(
        sent in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..50), any::<bool>()), 1..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut text = Vec::new();
        for (n, (body, chunked)) in sent.iter().enumerate() {
            let framing = match chunked {
                true => "Transfer-Encoding: chunked".to_owned(),
                false => format!("Content-Length: {}", body.len()),
            };
            text.extend_from_slice(format!("POST /{n} HTTP/1.1\r\n{framing}\r\n\r\n").as_bytes());
            match chunked {
                true => {
                    for chunk in body.chunks(7) {
                        text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                        text.extend_from_slice(chunk);
                        text.extend_from_slice(b"\r\n");
                    }
                    text.extend_from_slice(b"0\r\n\r\n");
                }
                false => text.extend_from_slice(body),
            }
        }
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let pieces = at.windows(2).map(|w| text[w[0]..w[1]].to_vec()).collect();
        let expected: Vec<(String, Vec<u8>)> =
            sent.into_iter().enumerate().map(|(n, (body, _))| (format!("/{n}"), body)).collect();
        prop_assert_eq!(requests(pieces, false).0, expected);
    }
}
