//! The head of a request.
#![allow(unsafe_code, reason = "field values that the parser has checked are not checked a second time")]

use crate::h1::Limits;
use crate::h1::names::Names;
use crate::h1::spans::{self, Field, Span};
use crate::request::{Head, Role, Seen};
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};

/// Longest target that [`Uri`] takes, in bytes.
const LONGEST_TARGET: usize = u16::MAX as usize - 1;

/// How long the body of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So many bytes; often none.
    Bytes(u64),
    /// `chunked`.
    Chunked,
}

/// What makes a head unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    #[error("no HTTP/1 request ({0})")]
    Syntax(httparse::Error),
    #[error("a line does not end with CR LF")]
    LineEnd,
    #[error("the method is not valid")]
    Method,
    #[error("the target is not valid")]
    Target,
    #[error("the target is too long")]
    TargetTooLong,
    #[error("a field's name is not valid")]
    Field,
    #[error("the head is longer than limits.header_bytes allows")]
    TooLong,
    #[error("the head has more fields than limits.header_count allows")]
    TooManyFields,
}

impl BadHead {
    /// What the client is answered.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooLong | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// A request's head, and what it means for the connection.
#[derive(Debug)]
pub struct RequestHead {
    pub head: Head,
    /// Of the body that follows. Nothing is taken for a body where the head says its length in two ways.
    pub length: Length,
    /// Whether the client wants to send further requests (RFC 9112 §9.3).
    pub keep_alive: bool,
}

/// What parsing heads needs again and again.
#[derive(Debug, Default)]
pub struct Parsing {
    /// The fields of the head at hand.
    fields: Vec<Field>,
    names: Names<Role>,
}

/// Takes a head off the front of `buf`. `None`: more is needed.
///
/// `map` gives an empty map, whose room becomes that of the fields.
pub fn take_head(
    buf: &mut BytesMut,
    parsing: &mut Parsing,
    map: impl FnOnce() -> HeaderMap,
    limits: Limits,
) -> Result<Option<RequestHead>, BadHead> {
    let line = match request_line(buf, &mut parsing.fields, limits.head_fields) {
        Ok(Some(line)) if line.bytes <= limits.head_bytes => line,
        Ok(None) if buf.len() < limits.head_bytes => return Ok(None),
        Ok(_) if !buf.iter().take(limits.head_bytes).any(|byte| *byte == b'\n') => return Err(BadHead::TargetTooLong),
        Ok(_) => return Err(BadHead::TooLong),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooManyFields),
        Err(error) => return Err(BadHead::Syntax(error)),
    };
    check_line_ends(&buf[..line.bytes], &line, &parsing.fields)?;
    if line.target.range().len() > LONGEST_TARGET {
        return Err(BadHead::TargetTooLong);
    }
    let text = buf.split_to(line.bytes).freeze();
    let method = Method::from_bytes(&text[line.method.range()]).map_err(|_| BadHead::Method)?;
    let uri = Uri::from_maybe_shared(text.slice(line.target.range())).map_err(|_| BadHead::Target)?;
    let version = if line.minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };

    let Parsing { fields, names } = parsing;
    let mut headers = map();
    headers.reserve(fields.len());
    let mut seen = Seen::default();
    let mut said = Said::default();
    for (place, field) in fields.iter().enumerate() {
        let (name, role) = names.parse(place, &text[field.name.range()]).map_err(|_| BadHead::Field)?;
        let value = &text[field.value.range()];
        seen.note(role, name.as_str().len(), value.len());
        match role {
            Role::ContentLength => said.length(value),
            Role::TransferEncoding => said.coding(value),
            Role::Connection => said.connection(value),
            _ => {}
        }
        // SAFETY: httparse takes a value only if it consists of HTAB, visible ASCII, SP and 0x80 to 0xFF, which are the bytes
        // that a `HeaderValue` may hold; the buffer has not changed since.
        let value = unsafe { HeaderValue::from_maybe_shared_unchecked(text.slice(field.value.range())) };
        headers.append(name.clone(), value);
    }
    let length = said.of_body(version);
    let keep_alive = !said.close && (version == Version::HTTP_11 || said.keep_alive);
    let fault = length.is_none().then_some(StatusCode::BAD_REQUEST);
    let head = Head { method, uri, version, headers, seen, fault };
    Ok(Some(RequestHead { head, length: length.unwrap_or(Length::Bytes(0)), keep_alive }))
}

struct RequestLine {
    method: Span,
    target: Span,
    minor: u8,
    /// Length of the whole head.
    bytes: usize,
}

/// Parses the head and notes where its parts stand.
fn request_line(buf: &[u8], fields: &mut Vec<Field>, most: usize) -> Result<Option<RequestLine>, httparse::Error> {
    spans::parse(most, |room| {
        let mut request = httparse::Request::new(&mut []);
        let config = httparse::ParserConfig::default();
        let httparse::Status::Complete(bytes) = config.parse_request_with_uninit_headers(&mut request, buf, room)?
        else {
            return Ok(None);
        };
        spans::note(fields, request.headers, buf);
        Ok(Some(RequestLine {
            method: Span::of(request.method.unwrap_or_default().as_bytes(), buf),
            target: Span::of(request.path.unwrap_or_default().as_bytes(), buf),
            minor: request.version.unwrap_or_default(),
            bytes,
        }))
    })
}

/// httparse takes a bare LF for the end of a line. A proxy in front of the gateway may take it for a part of a value, and so
/// read other fields: it is refused (RFC 9112 §2.2).
fn check_line_ends(text: &[u8], line: &RequestLine, fields: &[Field]) -> Result<(), BadHead> {
    let ends_well = |at: usize| {
        let blanks = text[at..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        text.get(at + blanks) == Some(&b'\r')
    };
    let version_end = line.target.range().end + " HTTP/1.1".len();
    let empty_lines = &text[..line.method.range().start];
    let well = text.ends_with(b"\r\n\r\n")
        && empty_lines.chunks(2).all(|line| line == b"\r\n")
        && ends_well(version_end)
        && fields.iter().all(|field| ends_well(field.value.range().end));
    if well { Ok(()) } else { Err(BadHead::LineEnd) }
}

/// What the fields say about the body and the connection.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    chunked: bool,
    /// The length can be read in two ways, or not at all.
    ambiguous: bool,
    close: bool,
    keep_alive: bool,
}

impl Said {
    /// The same length may be said in several fields (RFC 9110 §8.6); a list is refused.
    fn length(&mut self, value: &[u8]) {
        let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
        let length = value.iter().fold(0_u64, |sum, digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit & 15)));
        self.ambiguous |= !digits || self.length.is_some_and(|known| known != length);
        self.length = Some(length);
    }

    fn coding(&mut self, value: &[u8]) {
        self.ambiguous |= self.chunked || !value.eq_ignore_ascii_case(b"chunked");
        self.chunked = true;
    }

    fn connection(&mut self, value: &[u8]) {
        for word in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= word.eq_ignore_ascii_case(b"close");
            self.keep_alive |= word.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// `None`: it can be read in two ways.
    fn of_body(&self, version: Version) -> Option<Length> {
        match (self.chunked, self.length) {
            _ if self.ambiguous => None,
            (true, None) if version == Version::HTTP_11 => Some(Length::Chunked),
            (true, _) => None,
            (false, length) => Some(Length::Bytes(length.unwrap_or_default())),
        }
    }
}
