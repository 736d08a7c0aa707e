//! From where one may come in, and where a key is looked for (`docs/spec/admin-api.md` §2 steps 1 and 4, §3).

use crate::admin::query::Query;
use http::{HeaderMap, header};
use milecastle_settings::Peers;
use std::net::IpAddr;

/// What an address is told that may not use an API on the dashboard's port.
pub(crate) const NOT_ON_DASHBOARD: &str = "this address may not use the API here: see admin.allow_admin_on_dashboard";

/// Whether a list of peers admits an address; an empty list admits all. Unix sockets are not served, so `unix:` never fits.
pub(crate) fn admits(list: &[Peers], peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    list.is_empty()
        || list.iter().any(|allowed| match allowed {
            Peers::Network { address, prefix } => within(*address, u32::from(*prefix), peer),
            Peers::Unix => false,
        })
}

fn within(network: IpAddr, prefix: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (network.to_bits() ^ address.to_bits()).leading_zeros() >= prefix.min(32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            (network.to_bits() ^ address.to_bits()).leading_zeros() >= prefix.min(128)
        }
        _ => false,
    }
}

/// The first key that is not empty, of: query, header, cookie.
pub(crate) fn key_of(query: &Query, headers: &HeaderMap) -> Option<String> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let places = [
        query.get("api_key").map(str::to_owned),
        header("x-api-key"),
        header("x_api_key"),
        cookie(headers, "x_api_key"),
    ];
    places.into_iter().flatten().find(|key| !key.is_empty())
}

/// The value of a cookie.
pub(crate) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allow_lists() {
        let check = |list: &[&str], peer: &str, expected: bool| {
            let list: Vec<Peers> = list.iter().map(|peers| peers.parse().unwrap()).collect();
            assert_eq!(admits(&list, peer.parse().unwrap()), expected, "{list:?} {peer}");
        };
        check(&[], "192.0.2.1", true);
        check(&["127.0.0.0/24"], "127.0.0.9", true);
        check(&["127.0.0.0/24"], "::ffff:127.0.0.9", true);
        check(&["127.0.0.0/24"], "127.0.1.9", false);
        check(&["10.0.0.0/8", "::1"], "::1", true);
        check(&["10.0.0.0/8", "unix:"], "::1", false);
        check(&["2001:db8::/33"], "2001:db8:8000::1", false);
        check(&["0.0.0.0/0"], "203.0.113.7", true);
    }

    #[test]
    fn the_first_key_that_is_not_empty_counts() {
        let check = |query: &str, headers: &[(&'static str, &'static str)], expected: Option<&str>| {
            let headers: HeaderMap = headers
                .iter()
                .map(|&(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
                .collect();
            assert_eq!(key_of(&Query::parse(query), &headers).as_deref(), expected);
        };
        check("", &[], None);
        check("api_key=q", &[("x-api-key", "h")], Some("q"));
        check("api_key=", &[("x-api-key", "h"), ("cookie", "x_api_key=c")], Some("h"));
        check("", &[("x_api_key", "u")], Some("u"));
        check("", &[("x-api-key", ""), ("cookie", "a=b; x_api_key=c")], Some("c"));
    }
}
