//! The head of an answer, as it is laid out for a client.

use super::super::Received;
use super::super::text::{put, put_number};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::cell::RefCell;
use std::time::SystemTime;

/// How the end of an answer's body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none, and what the fields say of its length concerns another answer: to HEAD, or 304.
    None,
    /// So many bytes.
    Length(u64),
    /// `chunked`.
    Chunked,
    /// With the connection; for HTTP/1.0.
    UntilClose,
}

/// What `Connection` says beside the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announced {
    Nothing,
    Close,
    /// To an HTTP/1.0 client that has asked for it.
    KeepAlive,
}

/// The fields of an answer.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    pub(crate) set: &'a HeaderMap,
    /// Further ones, which go out as they came.
    pub(crate) received: Option<&'a Received>,
}

impl<'a> From<&'a HeaderMap> for Fields<'a> {
    fn from(set: &'a HeaderMap) -> Self {
        Self { set, received: None }
    }
}

/// Lays the head out at the end of `out`. `Content-Length` and `Transfer-Encoding` are written by the framing alone, but for
/// an answer without a body.
pub(crate) fn write_head(
    out: &mut Vec<u8>,
    status: StatusCode,
    http10: bool,
    fields: Fields<'_>,
    framing: Framing,
    announced: Announced,
) {
    let version: &[u8] = if http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    if status == StatusCode::OK {
        put(out, &[version, b"200 OK\r\n"]);
    } else {
        let reason = status.canonical_reason().unwrap_or_default();
        put(out, &[version, status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
    }
    let lengthless = status.is_informational() || status == StatusCode::NO_CONTENT;
    let mut dated = false;
    for (name, value) in fields.set {
        let own = match name.as_str().len() {
            4 => {
                dated |= name == header::DATE;
                false
            }
            14 => name == header::CONTENT_LENGTH && (framing != Framing::None || lengthless),
            17 => name == header::TRANSFER_ENCODING,
            _ => false,
        };
        if !own {
            put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    if let Some(received) = fields.received {
        dated |= received.is_dated();
        received.write(out);
    }
    match framing {
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            put_number(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose => {}
    }
    match announced {
        Announced::Close => out.extend_from_slice(b"connection: close\r\n"),
        Announced::KeepAlive => out.extend_from_slice(b"connection: keep-alive\r\n"),
        Announced::Nothing => {}
    }
    if !dated && !status.is_informational() {
        out.extend_from_slice(b"date: ");
        put_date(out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Puts the present time.
fn put_date(out: &mut Vec<u8>) {
    with_date(|text| out.extend_from_slice(text.as_bytes()));
}

/// The present time, as the value of a field.
pub(crate) fn date() -> Option<HeaderValue> {
    with_date(|text| HeaderValue::from_str(text).ok())
}

/// Reads the present time (RFC 9110 §5.6.7), which is written anew once a second.
pub(crate) fn with_date<T>(read: impl FnOnce(&str) -> T) -> T {
    thread_local! {
        static WRITTEN: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    WRITTEN.with_borrow_mut(|(of, text)| {
        if *of != second || text.is_empty() {
            (*of, *text) = (second, httpdate::fmt_http_date(now));
        }
        read(text)
    })
}
