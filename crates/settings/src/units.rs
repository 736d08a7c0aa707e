//! Values that carry their unit, and addresses: one spelling for every file.
//!
//! Each type reads and writes the text an operator types, and tells the schema so by a `format`; `check` parses by that
//! format with the same `FromStr`, so that a bad value is reported with its place in the file.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time: `500ms`, `30s`, `5m`, `12h`, `7d`, sums such as `1h30m`, or a bare whole number of seconds.
///
/// At most 100 years, so that adding one to a clock cannot overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(Duration);

/// A number of bytes: `512`, `64k`, `10m`, `2g` (powers of 1024; an ending `b`, `ib` or `iB` is allowed, as in `64KiB`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

/// A peer or a network of peers: `10.0.0.0/8`, `fd00::/8`, a single address, or `unix:` for every peer on a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Addresses whose first `prefix` bits are those of `address`.
    Network {
        /// Any address in the network; the bits after the prefix do not matter.
        address: IpAddr,
        /// Number of leading bits that count: 0–32, or 0–128 for IPv6.
        prefix: u8,
    },
    /// Peers that came over a Unix socket.
    Unix,
}

/// One TCP or UDP port or several in a row, on one interface: `9100`, `127.0.0.1:9100`, `2000-2100`, `[::1]:2000-2100`.
/// Without an address, on every IPv4 interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    ip: IpAddr,
    first: u16,
    last: u16,
}

/// A switch: `true`/`false`, or `"on"`/`"off"` as nginx writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switch(pub bool);

/// What is wrong with a value; the text says what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct UnitError(pub(crate) &'static str);

const TIME: UnitError =
    UnitError("a length of time such as `500ms`, `30s`, `5m` or `1h30m` (a bare number is seconds)");
const SIZE: UnitError = UnitError("a number of bytes such as `512`, `64k`, `10m` or `2g`");
const PEERS: UnitError = UnitError("an address, a network such as `10.0.0.0/8`, or `unix:`");
const PORTS: UnitError = UnitError("a port, `ip:port`, or a range of ports such as `2000-2100`");
const SWITCH: UnitError = UnitError("`true`, `false`, `\"on\"` or `\"off\"`");

const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Time {
    /// From whole seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// From milliseconds.
    pub const fn millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// As the standard library's type.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whether it is zero; keys say what zero means where it is allowed.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl Size {
    /// From bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// From units of 1024 bytes.
    pub const fn kib(kib: u64) -> Self {
        Self(kib * 1024)
    }

    /// Bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Bytes as a length in memory; more than this machine can address becomes `usize::MAX`.
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Time {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(TIME);
        }
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| TIME)?;
            let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let unit_ms = match unit {
                "ms" => 1,
                "s" => 1_000,
                "" if total.is_zero() && tail.is_empty() => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(TIME),
            };
            let part = number.checked_mul(unit_ms).map(Duration::from_millis).ok_or(TIME)?;
            total = total.checked_add(part).filter(|t| *t <= LONGEST).ok_or(TIME)?;
            rest = tail;
        }
        Ok(Self(total))
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| SIZE)?;
        let unit = unit.trim_start().to_ascii_lowercase();
        let shift = match unit.as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            _ => return Err(SIZE),
        };
        number.checked_mul(1 << shift).map(Self).ok_or(SIZE)
    }
}

impl FromStr for Peers {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text == "unix:" {
            return Ok(Self::Unix);
        }
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| PEERS)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(p) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) => p.parse().map_err(|_| PEERS)?,
            Some(_) => return Err(PEERS),
            None => bits,
        };
        if prefix > bits {
            return Err(PEERS);
        }
        Ok(Self::Network { address, prefix })
    }
}

impl PortRange {
    /// Every address of it.
    pub fn sockets(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        let ip = self.ip;
        (self.first..=self.last).map(move |port| SocketAddr::new(ip, port))
    }
}

impl FromStr for PortRange {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (ip, ports) = match text.rsplit_once(':') {
            None => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), text),
            Some((ip, ports)) => {
                let bracketed = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
                let ip = match bracketed {
                    Some(ip) => ip.parse().map(IpAddr::V6).map_err(|_| PORTS)?,
                    None => ip.parse().map(IpAddr::V4).map_err(|_| PORTS)?,
                };
                (ip, ports)
            }
        };
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u16>().ok()).flatten().ok_or(PORTS)
        };
        match ports.split_once('-') {
            None => port(ports).map(|port| Self { ip, first: port, last: port }),
            Some((first, last)) => match (port(first)?, port(last)?) {
                (first, last) if (1..=last).contains(&first) => Ok(Self { ip, first, last }),
                _ => Err(PORTS),
            },
        }
    }
}

impl FromStr for Switch {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match text {
            "on" | "true" => Ok(Self(true)),
            "off" | "false" => Ok(Self(false)),
            _ => Err(SWITCH),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        match units.iter().find(|(unit, _)| ms.is_multiple_of(*unit)) {
            _ if ms == 0 => f.write_str("0s"),
            Some((unit, name)) => write!(f, "{}{name}", ms / unit),
            None => write!(f, "{ms}ms"),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            n if n.is_multiple_of(1 << 30) => write!(f, "{}g", n >> 30),
            n if n.is_multiple_of(1 << 20) => write!(f, "{}m", n >> 20),
            n if n.is_multiple_of(1 << 10) => write!(f, "{}k", n >> 10),
            n => write!(f, "{n}"),
        }
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix => f.write_str("unix:"),
            Self::Network { address, prefix } if *prefix == if address.is_ipv4() { 32 } else { 128 } => {
                write!(f, "{address}")
            }
            Self::Network { address, prefix } => write!(f, "{address}/{prefix}"),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) if ip.is_unspecified() => {}
            IpAddr::V4(ip) => write!(f, "{ip}:")?,
            IpAddr::V6(ip) => write!(f, "[{ip}]:")?,
        }
        match (self.first, self.last) {
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "on" } else { "off" })
    }
}

/// Text that serde, schemars and the checker treat alike.
macro_rules! as_text {
    ($type:ident, $format:literal, $json_type:expr, $read:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <$read>::deserialize(deserializer)?.to_string().parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": $json_type, "format": $format})
            }
        }
    };
}

pub(crate) use as_text;

as_text!(Time, "duration", ["string", "integer"], Scalar);
as_text!(Size, "size", ["string", "integer"], Scalar);
as_text!(Peers, "peers", "string", String);
as_text!(PortRange, "ports", ["integer", "string"], Scalar);
as_text!(Switch, "switch", ["boolean", "string"], Scalar);

/// What a value with a unit may be in a file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(u64),
    Bool(bool),
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Bool(b) => b.fmt(f),
            Self::Text(t) => t.fmt(f),
        }
    }
}

/// Writes a time as a number of seconds where it is a whole one: what plugins expect of their `plugin_attr`.
pub(crate) fn as_seconds<S: Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    match time.0.subsec_nanos() {
        0 => serializer.serialize_u64(time.0.as_secs()),
        _ => time.serialize(serializer),
    }
}

/// Checks `text` against a `format` of the schema. Formats that nobody here defines are not checked.
pub(crate) fn check_format(format: &str, text: &str) -> Result<(), UnitError> {
    match format {
        "duration" => text.parse::<Time>().map(drop),
        "size" => text.parse::<Size>().map(drop),
        "peers" => text.parse::<Peers>().map(drop),
        "switch" => text.parse::<Switch>().map(drop),
        "registry-url" => text.parse::<crate::RegistryUrl>().map(drop),
        "name-server" => text.parse::<crate::NameServer>().map(drop),
        "ports" => text.parse::<PortRange>().map(drop),
        "tls-versions" => crate::TlsVersions::try_from(text.to_owned()).map(drop),
        "ip" => text.parse::<IpAddr>().map(drop).map_err(|_| UnitError("an IPv4 or IPv6 address")),
        _ => Ok(()),
    }
}

/// The words for a `format` in the reference page.
pub(crate) fn format_words(format: &str) -> Option<&'static str> {
    Some(match format {
        "duration" => "time",
        "size" => "bytes",
        "peers" => "network",
        "switch" => "on or off",
        "ports" => "port, `ip:port` or range",
        "ip" => "IP address",
        "registry-url" => "URL",
        "name-server" => "address of a resolver",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str, ms: Option<u64>) {
        assert_eq!(text.parse::<Time>().ok(), ms.map(Time::millis), "{text:?}");
    }

    #[test]
    fn times() {
        for (text, ms) in [
            ("0", 0),
            ("30", 30_000),
            ("250ms", 250),
            ("60s", 60_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("1s500ms", 1_500),
        ] {
            time(text, Some(ms));
        }
        for text in ["", "s", "1.5s", "-1s", "10 s", "5x", "99999999999999999999", "200000d", "1h30"] {
            time(text, None);
        }
    }

    #[test]
    fn what_is_displayed_reads_back() {
        for ms in [0, 1, 999, 1_000, 59_000, 60_000, 61_000, 120_000, 3_600_000, 86_400_000, 90_000_000] {
            time(&Time::millis(ms).to_string(), Some(ms));
        }
        for bytes in [0, 1, 1023, 1024, 65_536, 1_572_864, 1 << 30] {
            assert_eq!(Size::bytes(bytes).to_string().parse(), Ok(Size::bytes(bytes)));
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("10", 10), ("1k", 1024), ("1.5m", 0), ("64KiB", 65_536), ("2g", 2 << 30), ("10m", 10 << 20)]
        {
            assert_eq!(text.parse().ok(), (bytes > 0).then_some(Size::bytes(bytes)), "{text}");
        }
        assert!("18446744073709551615k".parse::<Size>().is_err());
    }

    #[test]
    fn port_ranges() {
        for text in ["9100", "0", "127.0.0.1:9100", "2000-2100", "[::1]:2000-2001", "10.0.0.1:1-65535", "7-7"] {
            let parsed: PortRange = text.parse().expect(text);
            assert_eq!(parsed.to_string().parse(), Ok(parsed), "{text}");
        }
        let range: PortRange = "[::1]:2000-2002".parse().expect("a range");
        let all: Vec<String> = range.sockets().map(|addr| addr.to_string()).collect();
        assert_eq!(all, ["[::1]:2000", "[::1]:2001", "[::1]:2002"]);
        let all: Vec<String> = "9100".parse::<PortRange>().expect("a port").sockets().map(|a| a.to_string()).collect();
        assert_eq!(all, ["0.0.0.0:9100"]);
        for text in [
            "",
            "65536",
            "-1",
            "1-",
            "2100-2000",
            "0-5",
            "::1:80",
            "[127.0.0.1]:80",
            "localhost:80",
            "a",
            "1:2:3",
            "+1",
        ] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn peers() {
        for text in ["127.0.0.1", "10.0.0.0/8", "::1", "fd00::/8", "unix:", "0.0.0.0/0"] {
            assert_eq!(text.parse::<Peers>().expect(text).to_string(), text);
        }
        for text in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/129", "host", "10.0.0"] {
            assert!(text.parse::<Peers>().is_err(), "{text}");
        }
    }
}
