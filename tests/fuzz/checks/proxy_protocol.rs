//! The PROXY protocol: the reader of headers against an obvious one, and every beginning of a header against the whole.
//!
//! Input: the bytes that a connection begins with.

use milecastle_proxy::fuzzing::{LONGEST_PROXY_HEADER, MalformedProxyHeader, ProxyHeader, parse_proxy_header};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Panics if the input shows a fault.
pub(crate) fn try_input(data: &[u8]) {
    let found = parse_proxy_header(data);
    if let Ok(Some(header)) = found {
        assert!(header.len <= LONGEST_PROXY_HEADER && header.len <= data.len());
        // What follows does not matter, and what is cut off is incomplete: the reader takes it off the socket.
        assert_eq!(parse_proxy_header(&data[..header.len]), found);
        for end in 0..header.len {
            assert_eq!(parse_proxy_header(&data[..end]), Ok(None), "{end}");
        }
    }
    if found == Ok(None) {
        assert!(data.len() < LONGEST_PROXY_HEADER, "a header comes to an end");
    }
    let expected = if data.starts_with(b"PROXY ") { line(data) } else { binary(data) };
    match (expected, found) {
        (Slow::Header(addresses, len), Ok(Some(header))) => {
            assert_eq!(header, ProxyHeader { addresses, len });
        }
        // What is cut off may be known to be wrong already.
        (Slow::CutOff, Ok(None) | Err(MalformedProxyHeader)) | (Slow::Malformed, Err(MalformedProxyHeader)) => {}
        (slow, found) => panic!("slow: {slow:?}, parser: {found:?}"),
    }
}

#[derive(Debug)]
enum Slow {
    Header(Option<(SocketAddr, SocketAddr)>, usize),
    CutOff,
    Malformed,
}

/// Version 1 read aloud.
fn line(data: &[u8]) -> Slow {
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else {
        return if data.len() < 107 { Slow::CutOff } else { Slow::Malformed };
    };
    let text = data[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let Some(text) = text.filter(|text| end < 107 && !text.contains('\r')) else { return Slow::Malformed };
    let words: Vec<&str> = text.split(' ').collect();
    match words[1..] {
        ["UNKNOWN", ..] => Slow::Header(None, end + 1),
        [family @ ("TCP4" | "TCP6"), from, to, from_port, to_port] => {
            let address = |ip: &str, port: &str| {
                let ip: IpAddr = ip.parse().ok()?;
                let port: u16 = port.parse().ok().filter(|number: &u16| number.to_string() == port)?;
                (ip.is_ipv4() == (family == "TCP4")).then_some(SocketAddr::new(ip, port))
            };
            match (address(from, from_port), address(to, to_port)) {
                (Some(from), Some(to)) => Slow::Header(Some((from, to)), end + 1),
                _ => Slow::Malformed,
            }
        }
        _ => Slow::Malformed,
    }
}

/// Version 2 read aloud.
fn binary(data: &[u8]) -> Slow {
    let begun = data.len().min(SIGNATURE.len());
    // An empty input is the beginning of either.
    if data[..begun] != SIGNATURE[..begun] && !b"PROXY ".starts_with(data) {
        return Slow::Malformed;
    }
    let Some((head, body)) = data.split_first_chunk::<16>() else { return Slow::CutOff };
    let (command, family, size) = (head[12], head[13], usize::from(head[14]) << 8 | usize::from(head[15]));
    let room = match family {
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => return Slow::Malformed,
    };
    if ![0x20, 0x21].contains(&command) || 16 + size > LONGEST_PROXY_HEADER {
        return Slow::Malformed;
    }
    let Some(body) = body.get(..size) else { return Slow::CutOff };
    if command == 0x20 {
        return Slow::Header(None, 16 + size);
    }
    let Some((addresses, mut fields)) = body.split_at_checked(room) else { return Slow::Malformed };
    while let [kind, high, low, rest @ ..] = fields {
        let size = usize::from(*high) << 8 | usize::from(*low);
        let Some((value, rest)) = rest.split_at_checked(size) else { return Slow::Malformed };
        if *kind == 3 && !checksum_holds(&data[..16 + body.len()], value, rest.len()) {
            return Slow::Malformed;
        }
        fields = rest;
    }
    if !fields.is_empty() {
        return Slow::Malformed;
    }
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    let named = match family {
        0x11 => {
            let ip = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&addresses[at..at + 4]).expect("four bytes"));
            Some((SocketAddr::new(ip(0).into(), port(8)), SocketAddr::new(ip(4).into(), port(10))))
        }
        0x21 => {
            let ip = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&addresses[at..at + 16]).expect("sixteen bytes"));
            Some((SocketAddr::new(ip(0).into(), port(32)), SocketAddr::new(ip(16).into(), port(34))))
        }
        _ => None,
    };
    Slow::Header(named, 16 + body.len())
}

/// CRC-32C of the header with zeros in place of the value, by a table that is made for it.
fn checksum_holds(header: &[u8], value: &[u8], behind: usize) -> bool {
    let table: Vec<u32> = (0..256)
        .map(|byte: u32| (0..8).fold(byte, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 }))
        .collect();
    let Ok(told) = <[u8; 4]>::try_from(value) else { return false };
    let mut bytes = header.to_vec();
    let at = bytes.len() - behind - 4;
    bytes[at..at + 4].fill(0);
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| (crc >> 8) ^ table[((crc ^ u32::from(*byte)) & 0xFF) as usize]);
    !crc == u32::from_be_bytes(told)
}
