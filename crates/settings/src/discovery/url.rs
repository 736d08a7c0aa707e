//! Where registries and resolvers are.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use milecastle_telemetry::Secret;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::UnitError;
use crate::units::as_text;

/// Where a registry is: `http://host:port` or `https://host:port`, with `user:password@` before the host where it asks for a
/// login (percent-encoded where they hold `:`, `@`, `/` or `%`). Shown without the login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryUrl {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Name or address, an IPv6 address without brackets.
    pub host: String,
    /// Port: 80 or 443 where the text names none.
    pub port: u16,
    /// User and password.
    pub login: Option<(String, Secret<String>)>,
}

/// A resolver of the Domain Name System: `address` or `address:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

const URL: UnitError = UnitError("an address such as `http://host:8500`, or `http://user:password@host:8500`");
const NAME_SERVER: UnitError =
    UnitError("the address of a resolver such as `192.0.2.1`, `192.0.2.1:5353` or `[2001:db8::1]:53`");

impl FromStr for RegistryUrl {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(URL),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, authority) = match rest.rsplit_once('@') {
            Some((login, authority)) => (Some(login), authority),
            None => (None, rest),
        };
        let login = match login.map(|login| login.split_once(':')) {
            None => None,
            Some(Some((user, password))) => {
                Some((decoded(user).ok_or(URL)?, Secret::new(decoded(password).ok_or(URL)?)))
            }
            Some(None) => return Err(URL),
        };
        let (host, port, good) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, port)) => (address, port, address.parse::<Ipv6Addr>().is_ok()),
            None => {
                let (host, port) = authority.find(':').map_or((authority, ""), |at| authority.split_at(at));
                (host, port, host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)))
            }
        };
        if host.is_empty() || !good {
            return Err(URL);
        }
        let port = match port.strip_prefix(':') {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().map_err(|_| URL)?,
            None if port.is_empty() => {
                if tls {
                    443
                } else {
                    80
                }
            }
            _ => return Err(URL),
        };
        if port == 0 {
            return Err(URL);
        }
        Ok(Self { tls, host: host.to_owned(), port, login })
    }
}

/// A part of a URL without its percent-encoding; `None` where that is broken.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let value = digit(rest.next())? * 16 + digit(rest.next())?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control))
}

impl fmt::Display for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl<'de> Deserialize<'de> for RegistryUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for RegistryUrl {
    fn schema_name() -> Cow<'static, str> {
        "RegistryUrl".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "registry-url", "writeOnly": true})
    }
}

impl FromStr for NameServer {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        let address = bare.or_else(|_| text.parse()).map_err(|_| NAME_SERVER)?;
        if address.port() == 0 { Err(NAME_SERVER) } else { Ok(Self(address)) }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(NameServer, "name-server", "string", String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let check = |text: &str, shown: Option<&str>| {
            assert_eq!(text.parse::<RegistryUrl>().ok().map(|url| url.to_string()).as_deref(), shown, "{text}");
        };
        check("http://consul", Some("http://consul:80"));
        check("https://consul/", Some("https://consul:443"));
        check("http://127.0.0.1:8500", Some("http://127.0.0.1:8500"));
        check("http://[::1]:8500", Some("http://[::1]:8500"));
        check("http://nacos:se%40cret@host:8848", Some("http://host:8848"));
        for text in [
            "",
            "consul:8500",
            "ftp://consul",
            "http://",
            "http://:80",
            "http://a:0",
            "http://a:70000",
            "http://a:+1",
            "http://user@host",
            "http://a/path",
            "http://a b",
            "http://[::1",
            "http://[x]:1",
            "http://u:%4@h",
            "http://u:%0a@h",
            "http://a:80:81",
        ] {
            check(text, None);
        }
        let url: RegistryUrl = "http://n%3A:a:b%25@[::1]:1".parse().unwrap();
        let (user, password) = url.login.clone().unwrap();
        assert_eq!((user.as_str(), password.reveal().as_str()), ("n:", "a:b%"));
        assert!(!format!("{url:?}").contains("a:b"));
    }

    #[test]
    fn name_servers() {
        let check = |text: &str, shown: Option<&str>| {
            assert_eq!(text.parse::<NameServer>().ok().map(|at| at.to_string()).as_deref(), shown, "{text}");
        };
        check("192.0.2.1", Some("192.0.2.1:53"));
        check("192.0.2.1:5353", Some("192.0.2.1:5353"));
        check("2001:db8::1", Some("[2001:db8::1]:53"));
        check("[2001:db8::1]:54", Some("[2001:db8::1]:54"));
        for text in ["", "dns.test", "192.0.2.1:0", "192.0.2.1:", "192.0.2"] {
            check(text, None);
        }
    }
}
