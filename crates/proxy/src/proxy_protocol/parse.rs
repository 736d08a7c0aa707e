//! Reading a header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Longest header, in bytes. Version 1 has its own bound; version 2 could say 65,551, of which real ones fill some hundreds.
pub const MOST: usize = 4096;
/// Longest line of version 1, its CR LF included.
const MOST_LINE: usize = 107;
const VERSION_1: &[u8] = b"PROXY ";
pub(super) const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What of version 2 stands before the addresses.
const FIXED: usize = 16;
/// Type of the field that holds a CRC-32C over the whole header.
const TYPE_CRC32C: u8 = 3;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Client and destination; `None` if the proxy speaks for itself, or of what has no IP address.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Bytes that it takes.
    pub len: usize,
}

/// What is no header, nor the beginning of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed PROXY header")]
pub struct Malformed;

/// Reads the header that `bytes` begin with. `None`: they may be the beginning of one, and every one of them belongs to it.
///
/// # Errors
/// They are not.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let begins = |signature: &[u8]| {
        let common = bytes.len().min(signature.len());
        bytes[..common] == signature[..common]
    };
    if begins(VERSION_1) {
        line(bytes)
    } else if begins(VERSION_2) {
        binary(bytes)
    } else {
        Err(Malformed)
    }
}

/// Version 1.
fn line(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let seen = &bytes[..bytes.len().min(MOST_LINE)];
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        let whole = seen.len() == MOST_LINE;
        // A CR ends the line with the next byte, or breaks it.
        let broken = seen.iter().rev().skip(1).any(|byte| *byte == b'\r');
        return if whole || broken { Err(Malformed) } else { Ok(None) };
    };
    let text = seen[..end].strip_suffix(b"\r").filter(|line| !line.contains(&b'\r')).ok_or(Malformed)?;
    let text = text.strip_prefix(VERSION_1).and_then(|rest| std::str::from_utf8(rest).ok()).ok_or(Malformed)?;
    let len = end + 1;
    let mut words = text.split(' ');
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(Some(Header { addresses: None, len }));
    }
    let words: Vec<&str> = words.collect();
    let [from, to, from_port, to_port] = words[..] else { return Err(Malformed) };
    let address = |ip: &str, digits: &str| {
        let ip = match family {
            "TCP4" => Ipv4Addr::from_str(ip).map(IpAddr::V4).ok(),
            "TCP6" => Ipv6Addr::from_str(ip).map(IpAddr::V6).ok(),
            _ => None,
        };
        Some(SocketAddr::new(ip?, port(digits)?))
    };
    let addresses = address(from, from_port).zip(address(to, to_port)).ok_or(Malformed)?;
    Ok(Some(Header { addresses: Some(addresses), len }))
}

/// A port in decimal, without leading zeros.
fn port(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    plain.then(|| digits.parse().ok()).flatten()
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let command = bytes.get(12).copied();
    if command.is_some_and(|command| !matches!(command, 0x20 | 0x21)) {
        return Err(Malformed);
    }
    let family = bytes.get(13).copied();
    // None, TCP over IPv4 and IPv6, a Unix stream: datagrams do not come over a connection.
    if family.is_some_and(|family| !matches!(family, 0x00 | 0x11 | 0x21 | 0x31)) {
        return Err(Malformed);
    }
    let Some(&[high, low]) = bytes.get(14..FIXED) else { return Ok(None) };
    let len = FIXED + usize::from(u16::from_be_bytes([high, low]));
    let taken = match family {
        Some(0x11) => 12,
        Some(0x21) => 36,
        Some(0x31) => 216,
        _ => 0,
    };
    // A proxy that speaks for itself may say nothing of addresses, whatever family it names.
    let local = command == Some(0x20);
    if len > MOST || (len < FIXED + taken && !local) {
        return Err(Malformed);
    }
    let Some(whole) = bytes.get(..len) else { return Ok(None) };
    let body = &whole[FIXED..];
    let (addresses, fields) = body.split_at(taken.min(body.len()));
    if !local {
        check_fields(whole, fields)?;
    }
    let addresses = match (family, local) {
        (Some(0x11), false) => pair(addresses, |ip: [u8; 4]| Ipv4Addr::from(ip).into()),
        (Some(0x21), false) => pair(addresses, |ip: [u8; 16]| Ipv6Addr::from(ip).into()),
        _ => None,
    };
    Ok(Some(Header { addresses, len }))
}

/// Both addresses, then both ports.
fn pair<const N: usize>(bytes: &[u8], ip: impl Fn([u8; N]) -> IpAddr) -> Option<(SocketAddr, SocketAddr)> {
    let (from, rest) = bytes.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let (from_port, rest) = rest.split_first_chunk::<2>()?;
    let (to_port, _) = rest.split_first_chunk::<2>()?;
    let address = |addr: &[u8; N], port: &[u8; 2]| SocketAddr::new(ip(*addr), u16::from_be_bytes(*port));
    Some((address(from, from_port), address(to, to_port)))
}

/// The fields behind the addresses: each is whole, and where there is a checksum it is right.
fn check_fields(header: &[u8], mut fields: &[u8]) -> Result<(), Malformed> {
    while let Some((kind, rest)) = fields.split_first() {
        let (len, rest) = rest.split_first_chunk::<2>().ok_or(Malformed)?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes(*len).into()).ok_or(Malformed)?;
        if *kind == TYPE_CRC32C {
            let told: [u8; 4] = value.try_into().map_err(|_| Malformed)?;
            // It is computed with zeros in its own place.
            let at = header.len() - rest.len() - told.len();
            let others = header.iter().enumerate().map(|(n, byte)| if (at..at + 4).contains(&n) { 0 } else { *byte });
            if crc32c(others) != u32::from_be_bytes(told) {
                return Err(Malformed);
            }
        }
        fields = rest;
    }
    Ok(())
}

/// CRC-32C (RFC 9260, appendix A), bit by bit: there are few bytes, and few headers have one.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    let step = |crc: u32, _: u32| if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
    !bytes.fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses of client and destination, and how long the header is.
    type Expected<'t> = (Option<(&'t str, &'t str)>, usize);

    fn check(bytes: &[u8], expected: Result<Option<Expected<'_>>, Malformed>) {
        let found = parse(bytes);
        let pair = |(from, to): (&str, &str)| (from.parse().unwrap(), to.parse().unwrap());
        let expected = expected.map(|header| header.map(|(a, len)| Header { addresses: a.map(pair), len }));
        assert_eq!(found, expected, "{}", bytes.escape_ascii());
    }

    /// What every proper prefix of a header is: incomplete.
    fn check_whole(bytes: &[u8], addresses: Option<(&str, &str)>) {
        check(bytes, Ok(Some((addresses, bytes.len()))));
        check(&[bytes, b"GET / HTTP/1.1"].concat(), Ok(Some((addresses, bytes.len()))));
        for end in 0..bytes.len() {
            check(&bytes[..end], Ok(None));
        }
    }

    fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [VERSION_2, &[command, family], &len, body].concat()
    }

    #[test]
    fn lines() {
        check_whole(b"PROXY TCP4 10.0.0.1 10.0.0.2 40000 443\r\n", Some(("10.0.0.1:40000", "10.0.0.2:443")));
        check_whole(b"PROXY TCP6 2001:db8::1 ::1 1 0\r\n", Some(("[2001:db8::1]:1", "[::1]:0")));
        check_whole(b"PROXY UNKNOWN\r\n", None);
        check_whole(b"PROXY UNKNOWN ffff::1 whatever 0 99999\r\n", None);
    }

    #[test]
    fn lines_that_are_none() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107));
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY\tTCP4",
            b"proxy TCP4 ",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 40000 443\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 40000 443\r\r\n",
            b"PROXY TCP4 10.0.0.1\r10.0.0.2 40000 443\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 40000\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 40000 443 \r\n",
            b"PROXY TCP4  10.0.0.1 10.0.0.2 40000 443\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 040000 443\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 +1 443\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 65536 443\r\n",
            b"PROXY TCP4 10.0.0.01 10.0.0.2 1 443\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY TCP5 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY \r\n",
            b"PROXY TCP4\rx",
            long.as_bytes(),
        ] {
            check(bytes, Err(Malformed));
        }
    }

    #[test]
    fn binary_headers() {
        let v4 = [10, 0, 0, 1, 10, 0, 0, 2, 0x9C, 0x40, 1, 0xBB];
        let named = Some(("10.0.0.1:40000", "10.0.0.2:443"));
        check_whole(&version_2(0x21, 0x11, &v4), named);
        let tail = [&v4[..], &[4, 0, 2, 9, 9, 0xE0, 0, 0]].concat();
        check_whole(&version_2(0x21, 0x11, &tail), named);
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33]) = (1, 2, 7);
        check_whole(&version_2(0x21, 0x21, &v6), Some(("[::1]:7", "[::2]:0")));
        check_whole(&version_2(0x20, 0x00, &[]), None);
        check_whole(&version_2(0x20, 0x11, &v4), None);
        check_whole(&version_2(0x20, 0x11, &[]), None);
        check_whole(&version_2(0x21, 0x00, &[]), None);
        check_whole(&version_2(0x21, 0x31, &[0; 216]), None);
    }

    #[test]
    fn binary_headers_that_are_none() {
        let v4 = [10, 0, 0, 1, 10, 0, 0, 2, 0x9C, 0x40, 1, 0xBB];
        let cut = |tail: &[u8]| version_2(0x21, 0x11, &[&v4[..], tail].concat());
        for bytes in [
            version_2(0x11, 0x11, &v4),
            version_2(0x22, 0x11, &v4),
            version_2(0x21, 0x12, &v4),
            version_2(0x21, 0x41, &v4),
            version_2(0x21, 0x11, &v4[..11]),
            version_2(0x21, 0x21, &[0; 35]),
            version_2(0x21, 0x11, &vec![0; MOST]),
            cut(&[4]),
            cut(&[4, 0]),
            cut(&[4, 0, 1]),
            cut(&[3, 0, 3, 0, 0, 0]),
            cut(&[3, 0, 4, 0, 0, 0, 0]),
            [&VERSION_2[..11], b"\r"].concat(),
        ] {
            check(&bytes, Err(Malformed));
        }
    }

    #[test]
    fn checksums_are_checked() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xE306_9283);
        let body = [10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2, 3, 0, 4, 0, 0, 0, 0];
        let mut bytes = version_2(0x21, 0x11, &body);
        let sum = crc32c(bytes.iter().copied());
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&sum.to_be_bytes());
        check(&bytes, Ok(Some((Some(("10.0.0.1:1", "10.0.0.2:2")), bytes.len()))));
        bytes[16] ^= 1;
        check(&bytes, Err(Malformed));
    }
}
