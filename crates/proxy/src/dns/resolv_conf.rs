//! The file `/etc/resolv.conf` (resolv.conf(5)).

use std::net::{IpAddr, SocketAddr};

/// Most resolvers that are used, as in the C library.
const MOST_SERVERS: usize = 3;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    /// The resolvers; the one on this machine if it names none.
    pub(crate) servers: Vec<SocketAddr>,
    /// What is appended to short names, in order.
    pub(crate) search: Vec<String>,
    /// A name with at least so many dots is tried as it is first.
    pub(crate) ndots: usize,
}

impl ResolvConf {
    /// Reads the text of the file. What is not understood is passed over, as by the C library.
    pub(crate) fn parse(text: &str) -> Self {
        let mut read = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // An IPv6 address may name its interface, which a resolver at a global address does not need.
                    let address = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
                    read.servers.extend(address.map(|ip| SocketAddr::new(ip, 53)));
                }
                // The last line of both counts.
                Some("search" | "domain") => {
                    read.search = words.map(|name| name.trim_end_matches('.').to_owned()).collect()
                }
                Some("options") => {
                    let ndots = words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok()).next_back();
                    read.ndots = ndots.unwrap_or(read.ndots).min(15);
                }
                _ => {}
            }
        }
        read.servers.truncate(MOST_SERVERS);
        if read.servers.is_empty() {
            read.servers.push(([127, 0, 0, 1], 53).into());
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let check = |text: &str, servers: &[&str], search: &[&str], ndots: usize| {
            let read = ResolvConf::parse(text);
            let shown: Vec<String> = read.servers.iter().map(ToString::to_string).collect();
            assert_eq!(
                (shown, read.search, read.ndots),
                (
                    servers.iter().map(|s| (*s).to_owned()).collect(),
                    search.iter().map(|s| (*s).to_owned()).collect(),
                    ndots
                ),
                "{text}"
            );
        };
        check("", &["127.0.0.1:53"], &[], 1);
        check(
            "nameserver 192.0.2.1 # one\nnameserver ::1%lo\n; nameserver 192.0.2.9\n",
            &["192.0.2.1:53", "[::1]:53"],
            &[],
            1,
        );
        check(
            "domain a.test\nsearch b.test. c.test\noptions rotate ndots:5 ndots:2",
            &["127.0.0.1:53"],
            &["b.test", "c.test"],
            2,
        );
        check(
            "nameserver x\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\noptions ndots:x",
            &["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"],
            &[],
            1,
        );
    }
}
