//! From a request target to the one canonical path that routing and authorisation see.
//!
//! Rules: `docs/spec/routing.md` §7. The path ends at `?` or `#`; percent-encoding is undone; an encoded slash counts
//! as a slash; consecutive slashes are merged and dot segments resolved. A target already in that form, which is
//! nearly every one, is borrowed and costs one pass over its bytes.
//!
//! Invariants: a canonical path starts with `/`, holds no NUL, no empty segment but a last one and no dot segment.
//! Bytes that are not UTF-8 stay percent-encoded, in upper case. Whatever could make an upstream read the original
//! target as another path than ours is told by [`Ambiguity`]; what to do about it is the caller's decision.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

/// Why a target has no canonical path; each is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UriError {
    /// The target does not start with `/`.
    #[error("the request target is no path")]
    NotAPath,
    /// A `%` without two hexadecimal digits after it.
    #[error("the path has a malformed percent-encoding")]
    BadEncoding,
    /// A NUL, encoded or not.
    #[error("the path has a NUL")]
    Nul,
    /// More `..` than segments before them.
    #[error("the path leads out of the root")]
    OutOfRoot,
    /// `.` or `..` with parameters ([`UriOptions::servlet`]).
    #[error("a dot segment of the path has parameters")]
    DotWithParameters,
    /// An empty segment with parameters that is not the last ([`UriOptions::servlet`]).
    #[error("an empty segment of the path has parameters")]
    EmptyWithParameters,
}

/// Settings of the gateway's configuration file; all off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UriOptions {
    /// `apisix.match_uri_encoded_slash`: routing sees `%2F` where the client wrote it, if nothing else was rewritten.
    pub match_encoded_slash: bool,
    /// `apisix.delete_uri_tail_slash`: one trailing `/` is removed, except from `/`.
    pub delete_tail_slash: bool,
    /// `apisix.normalize_uri_like_servlet`: what follows a `;` in a segment is dropped.
    pub servlet: bool,
}

/// Ways in which an upstream might read the original target as another path than the canonical one.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Ambiguity(u8);

impl Ambiguity {
    /// `%2F`, unless [`UriOptions::match_encoded_slash`] lets routing see it.
    pub const ENCODED_SLASH: Ambiguity = Ambiguity(1);
    /// `.` or `..` segments, encoded or not.
    pub const DOT_SEGMENT: Ambiguity = Ambiguity(2);
    /// Consecutive slashes.
    pub const MERGED_SLASHES: Ambiguity = Ambiguity(4);
    /// `\`, encoded or not, which some servers read as `/`.
    pub const BACKSLASH: Ambiguity = Ambiguity(8);
    /// Control characters, encoded or not.
    pub const CONTROL: Ambiguity = Ambiguity(16);
    /// Bytes that are not UTF-8, encoded.
    pub const NOT_UTF8: Ambiguity = Ambiguity(32);
    /// A `#`, which has no place in a request target.
    pub const FRAGMENT: Ambiguity = Ambiguity(64);

    const NAMES: [(Ambiguity, &'static str); 7] = [
        (Ambiguity::ENCODED_SLASH, "encoded slash"),
        (Ambiguity::DOT_SEGMENT, "dot segment"),
        (Ambiguity::MERGED_SLASHES, "consecutive slashes"),
        (Ambiguity::BACKSLASH, "backslash"),
        (Ambiguity::CONTROL, "control character"),
        (Ambiguity::NOT_UTF8, "bytes that are not UTF-8"),
        (Ambiguity::FRAGMENT, "fragment"),
    ];

    /// Whether there is none.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether one of `kinds` is present.
    pub fn has(self, kinds: Ambiguity) -> bool {
        self.0 & kinds.0 != 0
    }

    /// Both together.
    #[must_use]
    pub fn with(self, kinds: Ambiguity) -> Ambiguity {
        Ambiguity(self.0 | kinds.0)
    }

    /// This one less `kinds`.
    #[must_use]
    pub fn without(self, kinds: Ambiguity) -> Ambiguity {
        Ambiguity(self.0 & !kinds.0)
    }

    fn add_if(&mut self, present: bool, kinds: Ambiguity) {
        if present {
            self.0 |= kinds.0;
        }
    }
}

/// Names what is present, separated by commas.
impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (_, name) in Ambiguity::NAMES.iter().filter(|(kind, _)| self.has(*kind)) {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
        Ok(())
    }
}

impl fmt::Debug for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ambiguity({self})")
    }
}

/// The canonical path of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath<'t> {
    /// What routing matches; captures are parts of it.
    pub path: Cow<'t, str>,
    /// The `uri` variable where it differs from `path`, because that keeps encoded slashes.
    pub decoded: Option<String>,
    /// How the original target could be read otherwise.
    pub ambiguity: Ambiguity,
}

impl CanonicalPath<'_> {
    /// The `uri` variable: decoded throughout.
    pub fn uri(&self) -> &str {
        self.decoded.as_deref().unwrap_or(&self.path)
    }
}

/// The canonical path of a request target in origin form (`/path?query`).
pub fn canonical_path<'t>(target: &'t str, options: &UriOptions) -> Result<CanonicalPath<'t>, UriError> {
    if let Some(path) = plain(target, options.servlet) {
        let path = Cow::Borrowed(if options.delete_tail_slash { without_tail_slash(path) } else { path });
        return Ok(CanonicalPath { path, decoded: None, ambiguity: Ambiguity::default() });
    }
    let raw = path_of(target);
    let mut resolved = resolve(raw, options.servlet)?;
    resolved.ambiguity.add_if(target.as_bytes().get(raw.len()) == Some(&b'#'), Ambiguity::FRAGMENT);
    let mut matching = None;
    if options.match_encoded_slash && resolved.ambiguity.has(Ambiguity::ENCODED_SLASH) && resolved.only_decoded {
        // Not percent-encoded: it was just decoded without fault.
        matching = Some(text(&decode(raw.as_bytes(), true)?));
        resolved.ambiguity = resolved.ambiguity.without(Ambiguity::ENCODED_SLASH);
    }
    let (mut decoded, not_utf8) = text_of(resolved.bytes);
    resolved.ambiguity.add_if(not_utf8, Ambiguity::NOT_UTF8);
    if options.delete_tail_slash {
        for path in matching.iter_mut().chain([&mut decoded]) {
            path.truncate(without_tail_slash(path).len());
        }
    }
    let ambiguity = resolved.ambiguity;
    Ok(match matching {
        Some(path) => CanonicalPath { path: path.into(), decoded: Some(decoded), ambiguity },
        None if decoded == raw => CanonicalPath { path: raw.into(), decoded: None, ambiguity },
        None => CanonicalPath { path: decoded.into(), decoded: None, ambiguity },
    })
}

/// A target that says the canonical path in only one way, with the query of the original: what to send instead of an
/// ambiguous target. A trailing slash is kept whatever the options say. With [`UriOptions::servlet`] parameters of segments
/// are dropped, and an encoded `;` stays so: decoded, it would begin parameters upstream.
pub fn canonical_target(target: &str, options: &UriOptions) -> Result<String, UriError> {
    let raw = path_of(target);
    let path = resolve(raw, options.servlet)?.bytes;
    let rest = target.get(raw.len()..).unwrap_or_default();
    let query = rest.split_once('#').map_or(rest, |(query, _)| query);
    let mut out = String::with_capacity(path.len() + query.len());
    encode_into(&path, |b| must_encode(b) || options.servlet && b == b';', &mut out);
    out.push_str(query);
    Ok(out)
}

/// Percent-encodes a decoded path for use in a target: control characters, blanks, `%`, `?`, `#`, `\` and all bytes
/// outside ASCII.
pub fn encode_path(path: &str) -> Cow<'_, str> {
    if !path.bytes().any(must_encode) {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len() + 16);
    encode_into(path.as_bytes(), must_encode, &mut out);
    Cow::Owned(out)
}

/// The query of a target, without the `?`.
pub fn query_of(target: &str) -> Option<&str> {
    let rest = target.get(path_of(target).len()..)?.strip_prefix('?')?;
    Some(rest.split_once('#').map_or(rest, |(query, _)| query))
}

/// The part of a target before its query and fragment.
pub fn path_of(target: &str) -> &str {
    target.split_once(['?', '#']).map_or(target, |(path, _)| path)
}

fn must_encode(b: u8) -> bool {
    b <= b' ' || b >= 0x7f || matches!(b, b'%' | b'?' | b'#' | b'\\')
}

fn encode_into(bytes: &[u8], encoded: impl Fn(u8) -> bool, out: &mut String) {
    for &b in bytes {
        if encoded(b) { push_encoded(b, out) } else { out.push(char::from(b)) }
    }
}

fn push_encoded(b: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(b >> 4)]));
    out.push(char::from(DIGITS[usize::from(b & 15)]));
}

fn without_tail_slash(path: &str) -> &str {
    match path.strip_suffix('/') {
        Some("") | None => path,
        Some(rest) => rest,
    }
}

/// What a byte means to [`plain`].
const ORDINARY: u8 = 0;
const SLASH: u8 = 1;
const DOT: u8 = 2;
const END: u8 = 3;
const PARAMETERS: u8 = 4;
const SPECIAL: u8 = 5;

const CLASSES: [u8; 256] = {
    let mut classes = [ORDINARY; 256];
    let mut b = 0;
    while b < 0x20 {
        classes[b] = SPECIAL;
        b += 1;
    }
    classes[0x7f] = SPECIAL;
    classes[b'%' as usize] = SPECIAL;
    classes[b'\\' as usize] = SPECIAL;
    classes[b'#' as usize] = SPECIAL;
    classes[b';' as usize] = PARAMETERS;
    classes[b'?' as usize] = END;
    classes[b'/' as usize] = SLASH;
    classes[b'.' as usize] = DOT;
    classes
};

/// The path of a target in which nothing could be changed, or `None` if that needs a closer look.
fn plain(target: &str, servlet: bool) -> Option<&str> {
    let mut after_slash = false;
    let mut end = target.len();
    for (at, b) in target.bytes().enumerate() {
        let class = CLASSES[usize::from(b)];
        if class == ORDINARY {
            after_slash = false;
            continue;
        }
        match class {
            SLASH | DOT if after_slash => return None,
            SLASH => after_slash = true,
            DOT => after_slash = false,
            END => {
                end = at;
                break;
            }
            PARAMETERS if !servlet => after_slash = false,
            _ => return None,
        }
    }
    target.get(..end).filter(|path| path.starts_with('/'))
}

struct Resolved {
    bytes: Vec<u8>,
    /// Nothing but percent-encoding was changed.
    only_decoded: bool,
    ambiguity: Ambiguity,
}

/// Decodes a path, merges its slashes and resolves its dot segments.
fn resolve(raw: &str, servlet: bool) -> Result<Resolved, UriError> {
    if !raw.starts_with('/') {
        return Err(UriError::NotAPath);
    }
    let stripped = if servlet && raw.contains(';') { Some(without_parameters(raw)?) } else { None };
    let source = stripped.as_deref().unwrap_or(raw);
    let decoded = decode(source.as_bytes(), false)?;
    let mut ambiguity = Ambiguity::default();
    let encoded_slash = source.as_bytes().windows(3).any(|w| w.eq_ignore_ascii_case(b"%2f"));
    ambiguity.add_if(encoded_slash, Ambiguity::ENCODED_SLASH);
    ambiguity.add_if(decoded.contains(&b'\\'), Ambiguity::BACKSLASH);
    ambiguity.add_if(decoded.iter().any(u8::is_ascii_control), Ambiguity::CONTROL);

    let mut bytes = Vec::with_capacity(decoded.len());
    // The first segment is the empty one before the first slash.
    let mut segments = decoded.split(|&b| b == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"" => ambiguity.add_if(!last, Ambiguity::MERGED_SLASHES),
            b"." => ambiguity.add_if(true, Ambiguity::DOT_SEGMENT),
            b".." => {
                ambiguity.add_if(true, Ambiguity::DOT_SEGMENT);
                let parent = bytes.iter().rposition(|&b| b == b'/').ok_or(UriError::OutOfRoot)?;
                bytes.truncate(parent);
            }
            _ => {
                bytes.push(b'/');
                bytes.extend_from_slice(segment);
                continue;
            }
        }
        if last {
            bytes.push(b'/');
        }
    }
    Ok(Resolved { only_decoded: stripped.is_none() && bytes == decoded, bytes, ambiguity })
}

/// Undoes percent-encoding, but writes an encoded slash as `%2F` if `keep_slash`.
fn decode(source: &[u8], keep_slash: bool) -> Result<Vec<u8>, UriError> {
    let mut out = Vec::with_capacity(source.len());
    let mut bytes = source.iter();
    while let Some(&b) = bytes.next() {
        match b {
            0 => return Err(UriError::Nul),
            b'%' => {}
            _ => {
                out.push(b);
                continue;
            }
        }
        let mut digit = || bytes.next().and_then(|&b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(UriError::BadEncoding) };
        match u8::try_from(high << 4 | low).map_err(|_| UriError::BadEncoding)? {
            0 => return Err(UriError::Nul),
            b'/' if keep_slash => out.extend_from_slice(b"%2F"),
            b => out.push(b),
        }
    }
    Ok(out)
}

/// Drops what follows a `;` in each segment. Works on the raw path: an encoded `;` is an ordinary character.
fn without_parameters(raw: &str) -> Result<String, UriError> {
    let mut out = String::with_capacity(raw.len());
    let mut segments = raw.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        out.push('/');
        let Some((name, _)) = segment.split_once(';') else {
            out.push_str(segment);
            continue;
        };
        if name.is_empty() && segments.peek().is_some() {
            return Err(UriError::EmptyWithParameters);
        }
        if matches!(decode(name.as_bytes(), false)?.as_slice(), b"." | b"..") {
            return Err(UriError::DotWithParameters);
        }
        out.push_str(name);
    }
    Ok(out)
}

fn text(bytes: &[u8]) -> String {
    text_of(bytes.to_vec()).0
}

/// Bytes as text, those that are not UTF-8 percent-encoded, and whether there were such.
fn text_of(bytes: Vec<u8>) -> (String, bool) {
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return (text, false),
        Err(error) => error.into_bytes(),
    };
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|&b| push_encoded(b, &mut out));
    }
    (out, true)
}

#[cfg(test)]
mod tests;
