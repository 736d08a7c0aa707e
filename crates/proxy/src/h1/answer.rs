//! The head of an answer.
#![allow(unsafe_code, reason = "field values that the parser has checked are not checked a second time")]

use super::Limits;
use super::names::{Names, Role};
use super::received::{Gathering, Received};
use super::spans::{self, Field};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// How long the body of an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none, whatever the fields say.
    None,
    /// So many bytes.
    Length(u64),
    /// `chunked`.
    Chunked,
    /// All until the connection is closed.
    UntilClose,
}

/// The head of a final answer, or of a 101.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    /// End-to-end fields; of a 101 also `Upgrade`.
    pub headers: HeaderMap,
    /// The fields, in place of those in `headers`, without `Server` and `Content-Length`; if it was asked for.
    pub received: Option<Received>,
    pub framing: Framing,
    /// Whether the upstream keeps the connection open after this answer.
    pub keep: bool,
}

/// What makes a head unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("no HTTP/1 answer ({0})")]
    Syntax(httparse::Error),
    #[error("its head is longer than limits.upstream_header_bytes allows")]
    TooLong,
    #[error("its interim answers together are longer than limits.upstream_header_bytes allows")]
    Interim,
    #[error("its head has more fields than limits.upstream_header_count allows")]
    TooManyFields,
    #[error("a status, field name or value is not valid")]
    Field,
    #[error("several Content-Length fields that differ, or one that is no number")]
    Length,
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    #[error("a transfer coding other than chunked, or one in HTTP/1.0")]
    Coding,
    #[error(
        "a 101 that was not asked for, or that does not say over HTTP/1.1, with `Connection: upgrade`, that it changes to one of \
         the protocols asked for"
    )]
    Upgrade,
    #[error("an upgrade before the request had been sent whole")]
    EarlyUpgrade,
}

/// What of the request decides how its answer is read.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The method was HEAD.
    pub head: bool,
    /// The protocols that the request asked to change to, as its `Upgrade` lists them.
    pub upgrade: Option<&'a str>,
    /// Nobody looks at the fields of an ordinary answer but who writes them out over HTTP/1, if it brings none of those for which
    /// this is true.
    pub as_received: Option<&'a dyn Fn(&HeaderName) -> bool>,
    /// Who is told of interim answers other than 100, with their end-to-end fields; they are passed over if there is nobody.
    pub interim: Option<&'a dyn Fn(StatusCode, HeaderMap)>,
}

impl Asked<'_> {
    /// Whether nothing has to be known of the fields of an answer with this status but how its body ends.
    fn passes_by(self, status: StatusCode) -> bool {
        self.as_received.is_some() && !self.head && !matches!(status.as_u16(), 101 | 204 | 304 | 500..)
    }
}

/// What parsing heads needs again and again.
#[derive(Debug, Default)]
pub struct Parsing {
    /// The fields of the head at hand.
    fields: Vec<Field>,
    names: Names<Role>,
    gathering: Gathering,
}

impl Parsing {
    /// Takes back the room of fields that have been written.
    pub(crate) fn give_back(&mut self, received: Received) {
        self.gathering.give_back(received);
    }
}

/// Takes the head of the next final answer off the front of `buf`, and tells of interim ones or passes over them. `None`: more
/// is needed.
///
/// The bytes of interim answers are added to `interim`. All of one exchange together may be as long as one head: an upstream
/// that sends them without end must not keep a request for ever.
///
/// `map` gives an empty map, whose room becomes that of the answer's fields.
pub fn take_head(
    buf: &mut BytesMut,
    parsing: &mut Parsing,
    map: impl FnOnce() -> HeaderMap,
    asked: Asked<'_>,
    limits: Limits,
    interim: &mut usize,
) -> Result<Option<Head>, Malformed> {
    loop {
        let line = match status_line(buf, &mut parsing.fields, limits.head_fields) {
            Ok(Some(line)) if line.bytes <= limits.head_bytes => line,
            Ok(None) if buf.len() < limits.head_bytes => return Ok(None),
            Ok(_) => return Err(Malformed::TooLong),
            Err(httparse::Error::TooManyHeaders) => return Err(Malformed::TooManyFields),
            Err(error) => return Err(Malformed::Syntax(error)),
        };
        let status = StatusCode::from_u16(line.code).map_err(|_| Malformed::Field)?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            if asked.upgrade.is_none() {
                return Err(Malformed::Upgrade);
            }
        } else if status.is_informational() {
            *interim += line.bytes;
            if *interim > limits.head_bytes {
                return Err(Malformed::Interim);
            }
            let text = buf.split_to(line.bytes).freeze();
            if let Some(tell) = asked.interim.filter(|_| status != StatusCode::CONTINUE) {
                tell(status, head(&text, parsing, HeaderMap::new(), status, line.minor, asked)?.headers);
            }
            continue;
        }
        let text = buf.split_to(line.bytes).freeze();
        if asked.passes_by(status)
            && let Some((framing, keep)) = pass_by(&text, parsing, status, line.minor, asked)?
        {
            let received = Some(parsing.gathering.finish(text));
            return Ok(Some(Head { status, headers: HeaderMap::new(), received, framing, keep }));
        }
        return head(&text, parsing, map(), status, line.minor, asked).map(Some);
    }
}

struct StatusLine {
    code: u16,
    minor: u8,
    /// Length of the whole head.
    bytes: usize,
}

/// Parses the head and notes where its fields stand.
fn status_line(buf: &[u8], fields: &mut Vec<Field>, most: usize) -> Result<Option<StatusLine>, httparse::Error> {
    spans::parse(most, |room| {
        let mut answer = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let httparse::Status::Complete(bytes) = config.parse_response_with_uninit_headers(&mut answer, buf, room)?
        else {
            return Ok(None);
        };
        spans::note(fields, answer.headers, buf);
        let (code, minor) = (answer.code.unwrap_or_default(), answer.version.unwrap_or_default());
        Ok(Some(StatusLine { code, minor, bytes }))
    })
}

/// What the fields say about framing and the connection.
#[derive(Default)]
struct Facts {
    length: Option<u64>,
    /// The length stands in a list.
    listed: bool,
    chunked: bool,
    coded: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    /// `Connection` names fields of its own.
    names_fields: bool,
}

/// Gathers the fields as they came; says how long the body is, and whether the connection is kept. `None`: not all of them can
/// pass like that.
fn pass_by(
    text: &[u8],
    Parsing { fields, names, gathering }: &mut Parsing,
    status: StatusCode,
    minor: u8,
    asked: Asked<'_>,
) -> Result<Option<(Framing, bool)>, Malformed> {
    gathering.clear();
    let stops = |name: &HeaderName| asked.as_received.is_some_and(|stops| stops(name));
    let mut facts = Facts::default();
    for (place, field) in fields.iter().enumerate() {
        let (name, role) = names.parse(place, &text[field.name.range()])?;
        facts.note(role, &text[field.value.range()])?;
        gathering.dated |= role == Role::Date;
        if matches!(role, Role::EndToEnd | Role::Date) {
            let Some(line) = field.line(text).filter(|_| !stops(name)) else { return Ok(None) };
            gathering.add(line);
        }
    }
    if facts.names_fields {
        return Ok(None);
    }
    let framing = facts.framing(status, minor, asked)?;
    Ok(Some((framing, facts.keeps(minor, framing))))
}

fn head(
    text: &Bytes,
    Parsing { fields, names, .. }: &mut Parsing,
    mut headers: HeaderMap,
    status: StatusCode,
    minor: u8,
    asked: Asked<'_>,
) -> Result<Head, Malformed> {
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    headers.reserve(fields.len() + 4);
    let mut facts = Facts::default();
    let mut named = Vec::new();
    for (place, field) in fields.iter().enumerate() {
        let (name, role) = names.parse(place, &text[field.name.range()])?;
        if switching && matches!(role, Role::ContentLength | Role::TransferEncoding) {
            // A 101 ends with its head whatever it says of a body (RFC 9112 §6.3).
            continue;
        }
        let value = field.value.range();
        let again = facts.length.is_some();
        facts.note(role, &text[value.clone()])?;
        let kept = match role {
            Role::EndToEnd | Role::Date | Role::Server => true,
            Role::HopByHop | Role::TransferEncoding | Role::Connection => false,
            Role::Upgrade => switching,
            Role::ContentLength => !again,
        };
        if role == Role::Connection && facts.names_fields {
            let words = text[value.clone()].split(|byte| *byte == b',');
            named.extend(words.map(|word| word.trim_ascii().to_ascii_lowercase()));
        }
        if kept {
            // SAFETY: httparse takes a value only if it consists of HTAB, visible ASCII, SP and 0x80 to 0xFF, which are the
            // bytes that a `HeaderValue` may hold; the buffer has not changed since.
            let value = unsafe { HeaderValue::from_maybe_shared_unchecked(text.slice(value)) };
            headers.append(name.clone(), value);
        }
    }
    let well_said = || minor == 1 && facts.upgrade && asked.upgrade.is_some_and(|list| is_one_of(list, &headers));
    if switching && !well_said() {
        return Err(Malformed::Upgrade);
    }
    if let Some(length) = facts.length.filter(|_| facts.listed) {
        // It goes on as one number (RFC 9110 §8.6).
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    for name in &named {
        if !matches!(name.as_slice(), b"content-length" | b"content-type" | b"upgrade")
            && let Ok(name) = HeaderName::from_bytes(name)
        {
            headers.remove(name);
        }
    }
    let framing = facts.framing(status, minor, asked)?;
    if status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
    let keep = facts.keeps(minor, framing) && !switching;
    Ok(Head { status, headers, received: None, framing, keep })
}

/// A number as it may stand in `Content-Length`.
fn number(word: &[u8]) -> Option<u64> {
    let digits = (1..=19).contains(&word.len()) && word.iter().all(u8::is_ascii_digit);
    digits.then(|| word.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Whether a 101 names one protocol, and that of the list which was asked for.
fn is_one_of(list: &str, headers: &HeaderMap) -> bool {
    let mut named = headers.get_all(header::UPGRADE).iter();
    let asked_for = |value: &HeaderValue| {
        let name = value.as_bytes().trim_ascii();
        list.split(", ").any(|asked| asked.as_bytes().eq_ignore_ascii_case(name))
    };
    named.next().is_some_and(asked_for) && named.next().is_none()
}

impl Facts {
    /// Takes note of a field.
    fn note(&mut self, role: Role, value: &[u8]) -> Result<(), Malformed> {
        match role {
            Role::ContentLength => self.add_length(value),
            Role::TransferEncoding => self.add_coding(value),
            Role::Connection => {
                self.add_connection(value);
                Ok(())
            }
            Role::EndToEnd | Role::Date | Role::Server | Role::HopByHop | Role::Upgrade => Ok(()),
        }
    }

    /// Whether the upstream keeps the connection open.
    fn keeps(&self, minor: u8, framing: Framing) -> bool {
        !self.close && (minor == 1 || self.keep_alive) && framing != Framing::UntilClose
    }

    /// The same length may be said several times, as two fields or as a list (RFC 9110 §8.6).
    fn add_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if let Some(length) = number(value) {
            return self.set_length(length);
        }
        self.listed |= value.contains(&b',');
        let mut words = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        words.try_for_each(|word| self.set_length(number(word).ok_or(Malformed::Length)?))
    }

    fn set_length(&mut self, length: u64) -> Result<(), Malformed> {
        let differs = self.length.is_some_and(|known| known != length);
        self.length = Some(length);
        if differs { Err(Malformed::Length) } else { Ok(()) }
    }

    fn add_coding(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.coded || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed::Coding);
        }
        (self.coded, self.chunked) = (true, true);
        Ok(())
    }

    fn add_connection(&mut self, value: &[u8]) {
        // What most upstreams say with each answer.
        if value == b"keep-alive" {
            self.keep_alive = true;
            return;
        }
        for word in value.split(|byte| *byte == b',') {
            match word.trim_ascii() {
                word if word.eq_ignore_ascii_case(b"close") => self.close = true,
                word if word.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                word if word.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                b"" => {}
                _ => self.names_fields = true,
            }
        }
    }

    fn framing(&self, status: StatusCode, minor: u8, asked: Asked<'_>) -> Result<Framing, Malformed> {
        if self.coded && self.length.is_some() {
            return Err(Malformed::LengthAndCoding);
        }
        if self.coded && minor == 0 {
            return Err(Malformed::Coding);
        }
        let bodiless = asked.head
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS);
        Ok(match self.length {
            _ if bodiless => Framing::None,
            _ if self.chunked => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        })
    }
}

#[cfg(test)]
mod tests;
