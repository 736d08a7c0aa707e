//! The head of a request, as each protocol hands it over.

use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, Version};

/// A request's head, well-formed by the rules of its protocol.
#[derive(Debug)]
pub struct Head {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: HeaderMap,
    pub(crate) seen: Seen,
    /// What is answered if the request goes no further: 400 if it breaks a rule of its protocol and yet has a place on the
    /// connection, 431 if it has too many fields.
    pub fault: Option<StatusCode>,
}

impl Head {
    /// In place of one that could not be read, and is answered with this.
    pub(super) fn unread(status: StatusCode) -> Self {
        Self {
            method: Method::default(),
            uri: Uri::default(),
            version: Version::default(),
            headers: HeaderMap::new(),
            seen: Seen::default(),
            fault: Some(status),
        }
    }
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
    /// The client may not use it ([`is_reserved`]).
    Reserved,
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
            9 | 14..=17 | 19 | 20 | 23 if is_reserved(name) => Self::Reserved,
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
    /// One of `Forwarded` and `X-Forwarded-*` but for `X-Forwarded-For`.
    pub(crate) forwarded: bool,
    pub(crate) forwarded_for: bool,
    pub(crate) connection: bool,
    pub(crate) reserved: bool,
    /// Bytes of the fields as HTTP/1.1 writes them.
    pub(crate) bytes: u64,
}

impl Seen {
    /// Takes note of a field.
    pub(crate) fn note(&mut self, role: Role, name: usize, value: usize) {
        self.bytes += (name + value + 4) as u64;
        match role {
            Role::Ordinary | Role::ContentLength | Role::TransferEncoding => {}
            Role::Host => self.hosts += 1,
            Role::Expect => self.expect = true,
            Role::Upgrade => self.upgrade = true,
            Role::Forwarded => self.forwarded = true,
            Role::ForwardedFor => self.forwarded_for = true,
            Role::Connection => self.connection = true,
            Role::Reserved => self.reserved = true,
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

/// Names by which the gateway tells who the consumer is.
const IDENTITY: [&str; 3] = ["x-consumer-username", "x-consumer-custom-id", "x-credential-identifier"];
/// Names that have a meaning to the gateway, and that upstreams get from it alone.
const WRITTEN_ANEW: [&str; 8] = [
    "content-length",
    "transfer-encoding",
    "http2-settings",
    "x-real-ip",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
];

/// Whether the name is one that only the gateway may set, or another spelling of one that it writes anew.
pub(super) fn is_reserved(name: &str) -> bool {
    IDENTITY.iter().any(|known| is_spelling(name, known))
        || WRITTEN_ANEW.iter().any(|known| name != *known && is_spelling(name, known))
}

/// Whether both names are one to servers that hand fields on as variables (CGI, WSGI and their like): these see no difference
/// between `-`, `_`, `.` and whatever else a name may hold beside letters and digits.
pub(super) fn is_spelling(name: &str, known: &str) -> bool {
    let same = |(a, b): (u8, u8)| a == b || !(a.is_ascii_alphanumeric() || b.is_ascii_alphanumeric());
    known.len() == name.len() && name.bytes().zip(known.bytes()).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_known_in_every_spelling() {
        let role = |name: &'static str| Role::from(&HeaderName::from_static(name));
        for name in [
            "x-consumer-username",
            "x_consumer_username",
            "x.consumer~username",
            "x-credential_identifier",
            "x_consumer-custom-id",
            "x_real_ip",
            "x-forwarded_for",
            "x_forwarded_host",
            "x_forwarded_port",
            "x.forwarded.proto",
            "content_length",
            "transfer_encoding",
            "http2_settings",
        ] {
            assert_eq!(role(name), Role::Reserved, "{name}");
        }
        for name in WRITTEN_ANEW.into_iter().chain(["x-consumer-usernames", "xconsumerxusername", "x-real0ip"]) {
            assert_ne!(role(name), Role::Reserved, "{name}");
        }
    }
}
