//! One field of a head.

use super::{OVERHEAD, is_of_a_connection, is_sound};
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method};

/// The name of a field in the head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Field(HeaderName),
    /// None that a request may have, of so many bytes.
    Invalid(usize),
}

/// A field in the head of a request, read. It is kept so in tables of fields, for all the heads that name it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    Method(Method),
    Scheme(Scheme),
    Authority(Authority),
    Path(PathAndQuery),
    Field(HeaderName, HeaderValue),
    /// It has a form, but not one that is taken: what servers read in several ways.
    Unsound(Name),
    /// It has none: whatever it is in makes no sense.
    Malformed(Name),
}

impl Name {
    pub(crate) fn new(text: &[u8]) -> Self {
        match text {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            text => HeaderName::from_lowercase(text).map_or(Self::Invalid(text.len()), Self::Field),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Method | Self::Scheme => 7,
            Self::Authority => 10,
            Self::Path => 5,
            Self::Field(name) => name.as_str().len(),
            Self::Invalid(length) => *length,
        }
    }

    /// What a field of this name counts for (RFC 7541 §4.1).
    pub(crate) fn size(&self, value: &[u8]) -> usize {
        self.len() + value.len() + OVERHEAD
    }
}

impl Line {
    pub(crate) fn new(name: Name, value: Bytes) -> Self {
        let read = match name {
            Name::Method => Method::from_bytes(&value).ok().map(Self::Method),
            Name::Scheme => Scheme::try_from(&value[..]).ok().map(Self::Scheme),
            Name::Authority => Authority::from_maybe_shared(value).ok().map(Self::Authority),
            Name::Path => return Self::path(value),
            Name::Field(name) => return Self::field(name, value),
            Name::Invalid(_) => None,
        };
        read.unwrap_or(Self::Malformed(name))
    }

    /// A target begins with `/`, or is `*` alone (RFC 9113 §8.3.1).
    fn path(value: Bytes) -> Self {
        let sound = value.starts_with(b"/") || &value[..] == b"*";
        match PathAndQuery::from_maybe_shared(value) {
            Ok(path) if sound => Self::Path(path),
            Ok(_) => Self::Unsound(Name::Path),
            Err(_) => Self::Malformed(Name::Path),
        }
    }

    fn field(name: HeaderName, value: Bytes) -> Self {
        let Ok(value) = HeaderValue::from_maybe_shared(value) else { return Self::Malformed(Name::Field(name)) };
        if is_of_a_connection(&name, &value) {
            Self::Malformed(Name::Field(name))
        } else if is_sound(&name, &value) {
            Self::Field(name, value)
        } else {
            Self::Unsound(Name::Field(name))
        }
    }

    pub(crate) fn name(&self) -> Name {
        match self {
            Self::Method(_) => Name::Method,
            Self::Scheme(_) => Name::Scheme,
            Self::Authority(_) => Name::Authority,
            Self::Path(_) => Name::Path,
            Self::Field(name, _) => Name::Field(name.clone()),
            Self::Unsound(name) | Self::Malformed(name) => name.clone(),
        }
    }
}
