//! Saying who the client is.

use super::parse::VERSION_2;
use milecastle_settings::ProxyVersion;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Version 2, for a connection that somebody has made (`PROXY`).
const PROXY: u8 = 0x21;
/// TCP over IPv4, and the length of what follows.
const TCP4: [u8; 3] = [0x11, 0, 12];
/// TCP over IPv6.
const TCP6: [u8; 3] = [0x21, 0, 36];

/// The header for a client and the address that it came to. Addresses of different families are both written as IPv6.
pub(crate) fn header(version: ProxyVersion, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => line(client, local).into_bytes(),
        ProxyVersion::V2 => binary(client, local),
    }
}

fn line(client: SocketAddr, local: SocketAddr) -> String {
    let (from, to) = (client.port(), local.port());
    match (client.ip(), local.ip()) {
        (IpAddr::V4(client), IpAddr::V4(local)) => format!("PROXY TCP4 {client} {local} {from} {to}\r\n"),
        (client, local) => format!("PROXY TCP6 {} {} {from} {to}\r\n", v6(client), v6(local)),
    }
}

fn binary(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let ports = [client.port().to_be_bytes(), local.port().to_be_bytes()].concat();
    match (client.ip(), local.ip()) {
        (IpAddr::V4(client), IpAddr::V4(local)) => {
            [VERSION_2, &[PROXY], &TCP4, &client.octets(), &local.octets(), &ports[..]].concat()
        }
        (client, local) => [VERSION_2, &[PROXY], &TCP6, &v6(client).octets(), &v6(local).octets(), &ports[..]].concat(),
    }
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_protocol::parse;

    #[test]
    fn what_is_written_reads_back() {
        for (client, local) in [
            ("10.0.0.1:40000", "10.0.0.2:443"),
            ("[2001:db8::1]:1", "[::1]:65535"),
            ("[::ffff:10.0.0.1]:1", "[2001:db8::1]:2"),
        ] {
            let addresses = (client.parse().unwrap(), local.parse().unwrap());
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let written = header(version, addresses.0, addresses.1);
                let read = parse(&written).unwrap().unwrap();
                assert_eq!((read.addresses, read.len), (Some(addresses), written.len()), "{version:?}");
            }
        }
        let (client, local) = ("10.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap());
        assert_eq!(header(ProxyVersion::V1, client, local), b"PROXY TCP6 ::ffff:10.0.0.1 ::1 1 2\r\n");
        let mixed = header(ProxyVersion::V2, client, local);
        let read = parse(&mixed).unwrap().unwrap();
        assert_eq!(read.addresses, Some(("[::ffff:10.0.0.1]:1".parse().unwrap(), local)));
    }

    /// HAProxy, `doc/proxy-protocol.txt` §2.2.
    #[test]
    fn version_2_byte_by_byte() {
        let written = header(ProxyVersion::V2, "192.0.2.7:4711".parse().unwrap(), "198.51.100.1:80".parse().unwrap());
        let expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x12\x67\0\x50";
        assert_eq!(written, expected);
    }
}
