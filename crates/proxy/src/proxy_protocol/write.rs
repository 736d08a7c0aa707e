//! Saying who the client is.

use std::net::{IpAddr, SocketAddr};

/// The line of version 1 for a client and the address that it came to. Addresses of different families are both written as
/// IPv6.
pub(crate) fn version_1(client: SocketAddr, local: SocketAddr) -> String {
    let v6 = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let (from, to) = (client.port(), local.port());
    match (client.ip(), local.ip()) {
        (IpAddr::V4(client), IpAddr::V4(local)) => format!("PROXY TCP4 {client} {local} {from} {to}\r\n"),
        (client, local) => format!("PROXY TCP6 {} {} {from} {to}\r\n", v6(client), v6(local)),
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
            let line = version_1(addresses.0, addresses.1);
            let header = parse(line.as_bytes()).unwrap().unwrap();
            assert_eq!((header.addresses, header.len), (Some(addresses), line.len()));
        }
        let mixed = version_1("10.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap());
        assert_eq!(mixed, "PROXY TCP6 ::ffff:10.0.0.1 ::1 1 2\r\n");
    }
}
