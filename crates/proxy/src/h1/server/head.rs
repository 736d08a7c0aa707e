//! The head of a request.
#![allow(unsafe_code, reason = "field values that the parser has checked are not checked a second time")]

use crate::h1::Limits;
use crate::h1::names::Names;
use crate::request::{Head, Role, Seen};
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use std::mem::MaybeUninit;

/// Fields that are parsed without touching the heap; a head with more costs one allocation.
const FIELDS_ON_STACK: usize = 64;
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
    spans: Vec<Field>,
    names: Names<Role>,
}

/// Where something stands in the buffer.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// Where name and value of a field stand.
#[derive(Debug, Clone, Copy)]
struct Field {
    name: Span,
    value: Span,
}

/// Takes a head off the front of `buf`. `None`: more is needed.
///
/// `map` is empty; its room becomes that of the fields.
pub fn take_head(
    buf: &mut BytesMut,
    parsing: &mut Parsing,
    map: &mut HeaderMap,
    limits: Limits,
) -> Result<Option<RequestHead>, BadHead> {
    let line = match request_line(buf, &mut parsing.spans, limits.head_fields) {
        Ok(Some(line)) if line.bytes <= limits.head_bytes => line,
        Ok(None) if buf.len() < limits.head_bytes => return Ok(None),
        Ok(_) if !buf.iter().take(limits.head_bytes).any(|byte| *byte == b'\n') => return Err(BadHead::TargetTooLong),
        Ok(_) => return Err(BadHead::TooLong),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooManyFields),
        Err(error) => return Err(BadHead::Syntax(error)),
    };
    check_line_ends(&buf[..line.bytes], &line, &parsing.spans)?;
    if line.target.len as usize > LONGEST_TARGET {
        return Err(BadHead::TargetTooLong);
    }
    let text = buf.split_to(line.bytes).freeze();
    let method = Method::from_bytes(&text[line.method.range()]).map_err(|_| BadHead::Method)?;
    let uri = Uri::from_maybe_shared(text.slice(line.target.range())).map_err(|_| BadHead::Target)?;
    let version = if line.minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };

    let Parsing { spans, names } = parsing;
    let mut headers = std::mem::take(map);
    headers.reserve(spans.len());
    let mut seen = Seen::default();
    let mut said = Said::default();
    for (place, field) in spans.iter().enumerate() {
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
    let head = Head { method, uri, version, headers, seen, ambiguous_length: length.is_none() };
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
fn request_line(buf: &[u8], spans: &mut Vec<Field>, max_fields: usize) -> Result<Option<RequestLine>, httparse::Error> {
    let mut on_stack = [const { MaybeUninit::uninit() }; FIELDS_ON_STACK];
    let few = max_fields.min(FIELDS_ON_STACK);
    match parse(buf, spans, &mut on_stack[..few]) {
        Err(httparse::Error::TooManyHeaders) if max_fields > FIELDS_ON_STACK => {
            let mut on_heap = vec![MaybeUninit::uninit(); max_fields];
            parse(buf, spans, &mut on_heap)
        }
        other => other,
    }
}

fn parse<'b>(
    buf: &'b [u8],
    spans: &mut Vec<Field>,
    fields: &mut [MaybeUninit<httparse::Header<'b>>],
) -> Result<Option<RequestLine>, httparse::Error> {
    let mut request = httparse::Request::new(&mut []);
    let config = httparse::ParserConfig::default();
    let httparse::Status::Complete(bytes) = config.parse_request_with_uninit_headers(&mut request, buf, fields)? else {
        return Ok(None);
    };
    let base = buf.as_ptr() as usize;
    // A head is far shorter than 4 GiB: its cap is checked before anything is made of the spans.
    let span = |part: &[u8]| Span { start: (part.as_ptr() as usize - base) as u32, len: part.len() as u32 };
    spans.clear();
    spans.extend(
        request.headers.iter().map(|field| Field { name: span(field.name.as_bytes()), value: span(field.value) }),
    );
    Ok(Some(RequestLine {
        method: span(request.method.unwrap_or_default().as_bytes()),
        target: span(request.path.unwrap_or_default().as_bytes()),
        minor: request.version.unwrap_or_default(),
        bytes,
    }))
}

/// httparse takes a bare LF for the end of a line. Whoever stands before us may take it for a part of a value, and so read
/// other fields than we do: it is refused (RFC 9112 §2.2).
fn check_line_ends(text: &[u8], line: &RequestLine, fields: &[Field]) -> Result<(), BadHead> {
    let ends_well = |at: usize| {
        let blanks = text[at..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        text.get(at + blanks) == Some(&b'\r')
    };
    let version_end = line.target.range().end + " HTTP/1.1".len();
    let empty_lines = &text[..line.method.start as usize];
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
