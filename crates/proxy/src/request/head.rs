//! The head of a request, as either protocol hands it over.

use http::{HeaderMap, HeaderName, Method, Uri, Version};

/// A request's head, well-formed by the rules of its protocol.
#[derive(Debug)]
pub struct Head {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: HeaderMap,
    pub(crate) seen: Seen,
    /// What it says of the body's length can be read in two ways (RFC 9112 §6.3): it is answered with 400.
    pub ambiguous_length: bool,
}

/// What a field of a request is to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Ordinary,
    Host,
    Expect,
    Upgrade,
    Connection,
    ContentLength,
    TransferEncoding,
    Forwarded,
    ForwardedFor,
    /// Only the gateway may set it, in any spelling.
    Identity,
}

impl From<&HeaderName> for Role {
    fn from(name: &HeaderName) -> Self {
        let name = name.as_str();
        match name.len() {
            4 if name == "host" => Self::Host,
            6 if name == "expect" => Self::Expect,
            7 if name == "upgrade" => Self::Upgrade,
            9 if name == "forwarded" => Self::Forwarded,
            10 if name == "connection" => Self::Connection,
            14 if name == "content-length" => Self::ContentLength,
            15 if name == "x-forwarded-for" => Self::ForwardedFor,
            16 if matches!(name, "x-forwarded-host" | "x-forwarded-port") => Self::Forwarded,
            17 if name == "x-forwarded-proto" => Self::Forwarded,
            17 if name == "transfer-encoding" => Self::TransferEncoding,
            19 | 20 | 23 if is_identity(name) => Self::Identity,
            _ => Self::Ordinary,
        }
    }
}

/// What one pass over the fields finds.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) hosts: u32,
    pub(crate) expect: bool,
    pub(crate) upgrade: bool,
    pub(crate) transfer_encoding: bool,
    /// One of `Forwarded` and `X-Forwarded-*` but for `X-Forwarded-For`.
    pub(crate) forwarded: bool,
    pub(crate) forwarded_for: bool,
    pub(crate) identity: bool,
    /// Bytes of the fields as HTTP/1.1 writes them.
    pub(crate) bytes: u64,
}

impl Seen {
    /// Takes note of a field.
    pub(crate) fn note(&mut self, role: Role, name: usize, value: usize) {
        self.bytes += (name + value + 4) as u64;
        match role {
            Role::Ordinary | Role::Connection | Role::ContentLength => {}
            Role::Host => self.hosts += 1,
            Role::Expect => self.expect = true,
            Role::Upgrade => self.upgrade = true,
            Role::TransferEncoding => self.transfer_encoding = true,
            Role::Forwarded => self.forwarded = true,
            Role::ForwardedFor => self.forwarded_for = true,
            Role::Identity => self.identity = true,
        }
    }

    /// What stands in these fields.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in headers {
            seen.note(Role::from(name), name.as_str().len(), value.len());
        }
        seen
    }
}

/// Whether the name is that of a header by which the gateway names the consumer, `_` and `-` being equal.
pub(super) fn is_identity(name: &str) -> bool {
    ["x-consumer-username", "x-consumer-custom-id", "x-credential-identifier"].iter().any(|known| {
        known.len() == name.len() && known.bytes().zip(name.bytes()).all(|(a, b)| a == b || (a == b'-' && b == b'_'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_headers_are_known_in_every_spelling() {
        assert!(is_identity("x-consumer-username") && is_identity("x_consumer_username"));
        assert!(is_identity("x-credential_identifier") && is_identity("x_consumer-custom-id"));
        assert!(!is_identity("x-consumer-usernames") && !is_identity("x-forwarded-for"));
    }
}
