//! The addresses of hosts, as this machine knows them (`docs/spec/upstream-balancing.md` §2).

use super::client::{Client, DnsError};
use super::hosts;
use super::message::{Data, Kind};
use super::name::Name;
use super::resolv_conf::ResolvConf;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long what the machine itself knows holds: both files are read again for each look-up.
const LOCAL_TTL: Duration = Duration::from_secs(10);

/// How hosts are looked up.
#[derive(Debug, Clone)]
pub(crate) struct HostLookup {
    /// Resolvers; `None`: those of the system.
    pub(crate) servers: Option<Vec<SocketAddr>>,
    /// Whether the system's search list is used.
    pub(crate) search: bool,
    /// Whether IPv6 addresses are of use.
    pub(crate) ipv6: bool,
    /// For one try at one resolver.
    pub(crate) timeout: Duration,
    /// Over all resolvers.
    pub(crate) tries: u32,
}

/// The addresses of a host, all of one kind, and how long they hold if somebody says.
pub(crate) type Addresses = (Vec<IpAddr>, Option<Duration>);

impl HostLookup {
    /// Looks a host up: in `/etc/hosts`, then by asking resolvers. `last` is the kind of addresses that it had the last time, which
    /// is asked for first. No addresses: there is no such host.
    ///
    /// # Errors
    /// No resolver could tell.
    pub(crate) async fn find(&self, host: &str, last: Option<Kind>) -> Result<Addresses, DnsError> {
        let read = tokio::task::spawn_blocking(|| {
            let read = |path| std::fs::read_to_string(path).unwrap_or_default();
            (read(HOSTS), ResolvConf::parse(&read(RESOLV_CONF)))
        });
        let (hosts, system) = read.await.unwrap_or_else(|_| (String::new(), ResolvConf::parse("")));
        let local = self.local(&hosts, host);
        if !local.is_empty() {
            return Ok((local, Some(LOCAL_TTL)));
        }
        let servers = self.servers.clone().unwrap_or_else(|| system.servers.clone());
        let client = Client::new(servers, self.timeout, self.tries);
        let mut holds = None;
        for name in candidates(host, if self.search { &system.search } else { &[] }, system.ndots) {
            let Some(name) = Name::parse(&name) else { continue };
            let kinds = if last == Some(Kind::Aaaa) { [Kind::Aaaa, Kind::A] } else { [Kind::A, Kind::Aaaa] };
            for kind in kinds.into_iter().filter(|kind| self.ipv6 || *kind == Kind::A) {
                let found = client.find(&name, kind).await?;
                let addresses = found.records.iter().filter_map(|record| match record.data {
                    Data::Address(ip) => Some(ip),
                    _ => None,
                });
                let addresses: Vec<IpAddr> = addresses.collect();
                if !addresses.is_empty() {
                    return Ok((addresses, found.ttl));
                }
                holds = holds.into_iter().chain(found.ttl).min();
            }
        }
        Ok((Vec::new(), holds))
    }

    /// What this machine knows by itself: IPv4 if there is such, else IPv6.
    fn local(&self, hosts: &str, host: &str) -> Vec<IpAddr> {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = hosts::addresses(hosts, host).into_iter().partition(IpAddr::is_ipv4);
        let known = if v4.is_empty() && self.ipv6 { v6 } else { v4 };
        // Nobody else is asked for this one (RFC 6761 §6.3).
        let is_own = host.trim_end_matches('.').eq_ignore_ascii_case("localhost");
        if known.is_empty() && is_own { vec![Ipv4Addr::LOCALHOST.into()] } else { known }
    }
}

/// The names to ask for, in order: the host as it is, and with each of the search list behind it.
fn candidates(host: &str, search: &[String], ndots: usize) -> Vec<String> {
    let searched = search.iter().map(|domain| format!("{host}.{domain}"));
    let own = std::iter::once(host.to_owned());
    if host.ends_with('.') {
        own.collect()
    } else if host.matches('.').count() >= ndots {
        own.chain(searched).collect()
    } else {
        searched.chain(own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_searched_first() {
        let search = ["a.test".to_owned(), "b.test".to_owned()];
        let check = |host: &str, ndots: usize, expected: &[&str]| {
            assert_eq!(candidates(host, &search, ndots), expected, "{host} {ndots}");
        };
        check("web", 1, &["web.a.test", "web.b.test", "web"]);
        check("web.shop", 1, &["web.shop", "web.shop.a.test", "web.shop.b.test"]);
        check("web.shop", 5, &["web.shop.a.test", "web.shop.b.test", "web.shop"]);
        check("web.", 1, &["web."]);
        assert_eq!(candidates("web", &[], 1), ["web"]);
    }

    #[test]
    fn what_the_machine_knows_comes_first() {
        let lookup = |ipv6| HostLookup { servers: None, search: false, ipv6, timeout: Duration::ZERO, tries: 0 };
        let check = |hosts: &str, host: &str, ipv6: bool, expected: &[&str]| {
            let shown: Vec<String> = lookup(ipv6).local(hosts, host).iter().map(ToString::to_string).collect();
            assert_eq!(shown, expected, "{hosts} {host} {ipv6}");
        };
        let both = "::1 a\n127.0.0.2 a\n::2 b";
        check(both, "a", true, &["127.0.0.2"]);
        check(both, "b", true, &["::2"]);
        check(both, "b", false, &[]);
        check("", "localhost", true, &["127.0.0.1"]);
        check("::1 localhost", "localhost", true, &["::1"]);
        check("", "c", true, &[]);
    }
}
