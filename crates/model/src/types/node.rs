//! Nodes of an upstream, in both forms (`docs/spec/resources.md` §3.1).

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::de::{int, object, some_int};

/// One node.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Node {
    /// Name or address; an IPv6 address without brackets.
    #[serde(deserialize_with = "host")]
    pub host: String,
    /// Port; absent means the default of the upstream's scheme.
    #[serde(default, deserialize_with = "some_int")]
    pub port: Option<u16>,
    /// Share of the traffic; 0 means none while others have more.
    #[serde(deserialize_with = "int")]
    pub weight: u32,
    /// Tier: higher first. Default 0.
    #[serde(default, deserialize_with = "int")]
    pub priority: i32,
    /// Free for use by plugins and discovery.
    #[serde(default, deserialize_with = "object")]
    pub metadata: Map<String, Value>,
}

/// A host as it stands in a `Host` header or before a port: an IPv6 address in brackets.
pub fn bracketed(host: &str) -> Cow<'_, str> {
    if host.contains(':') { Cow::Owned(format!("[{host}]")) } else { Cow::Borrowed(host) }
}

/// The port of a map-form node is none (`docs/spec/admin-api.md` §11.1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid port {0}")]
pub struct AddressError(String);

/// Splits `host[:port]`. A bare IPv6 address is a host; one with a port must be bracketed.
pub(crate) fn parse_address(address: &str) -> Result<(&str, Option<u16>), AddressError> {
    if address.parse::<Ipv6Addr>().is_ok() {
        return Ok((address, None));
    }
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or(rest))),
        None => match address.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let Some(port) = port else { return Ok((host, None)) };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(number) if digits && number > 0 => Ok((host, Some(number))),
        _ => Err(AddressError(port.to_owned())),
    }
}

fn host<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let host = String::deserialize(deserializer)?;
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    Ok(inner.map(str::to_owned).unwrap_or(host))
}

/// The `nodes` attribute, either form, as a list in the order written.
pub(super) fn nodes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Node>>, D::Error> {
    struct NodesVisitor;

    impl<'de> Visitor<'de> for NodesVisitor {
        type Value = Vec<Node>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("nodes as an object or an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Node>, A::Error> {
            let mut nodes = Vec::new();
            while let Some(node) = seq.next_element()? {
                nodes.push(node);
            }
            Ok(nodes)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Node>, A::Error> {
            let mut nodes = Vec::new();
            while let Some((address, Weight(weight))) = map.next_entry::<String, Weight>()? {
                let (host, port) = parse_address(&address).map_err(de::Error::custom)?;
                nodes.push(Node { host: host.to_owned(), port, weight, priority: 0, metadata: Map::new() });
            }
            Ok(nodes)
        }
    }

    #[derive(Deserialize)]
    struct Weight(#[serde(deserialize_with = "int")] u32);

    deserializer.deserialize_any(NodesVisitor).map(Some)
}
