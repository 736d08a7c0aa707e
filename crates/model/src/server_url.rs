//! Addresses of servers that are asked over HTTP, as objects name them.

use std::net::Ipv6Addr;

use crate::types::parse_address;

/// What an address of a server has to be. The text does not show the address: there may be a login in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be of the form `https://host[:port][/path]`, or the same with `http`, without login, query and fragment")]
pub struct ServerUrlError;

/// Whether a text is the address of a server that can be asked (`docs/spec/resources.md` §13, rule 6): `http` or `https`, a host, a port
/// from 1 to 65535 if any, and a path, if any, that needs no encoding and does not lead back.
///
/// # Errors
/// It is none.
pub fn check_server_url(text: &str) -> Result<(), ServerUrlError> {
    let (scheme, rest) = text.split_once("://").ok_or(ServerUrlError)?;
    let is_http = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if is_http && is_authority(authority) && is_path(path) { Ok(()) } else { Err(ServerUrlError) }
}

fn is_authority(text: &str) -> bool {
    match parse_address(text) {
        Ok((host, _)) if text.starts_with('[') => {
            host.parse::<Ipv6Addr>().is_ok() && (text.ends_with(']') || text.contains("]:"))
        }
        Ok((host, _)) => {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
        Err(_) => false,
    }
}

/// Whether a path is written as it is sent. Those of references are added to it, so `/` at its end says nothing.
fn is_path(text: &str) -> bool {
    let text = text.trim_matches('/');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.is_empty() || text.split('/').all(|part| !matches!(part, "" | "." | "..") && part.bytes().all(is_plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_urls() {
        for good in [
            "https://vault.test",
            "HTTPS://Vault.test:8200/",
            "http://127.0.0.1:1",
            "http://[::1]",
            "http://[::1]:65535/a/b-c_d.e~f//",
            "http://vault_1",
        ] {
            assert_eq!(check_server_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "vault.test",
            "vault.test:8200",
            "ftp://vault.test",
            "://vault.test",
            " http://a",
            "http://",
            "http:///a",
            "http://:80",
            "http://a:",
            "http://a:0",
            "http://a:65536",
            "http://a:+1",
            "http://a:80:81",
            "http://::1",
            "http://[::1",
            "http://[::1]80",
            "http://[x]:1",
            "http://user@a",
            "http://user:password@a:1",
            "http://a b",
            "http://ä",
            "http://a?b",
            "http://a/?b",
            "http://a/b#c",
            "http://a#c",
            "http://a/%20",
            "http://a/b c",
            "http://a/../b",
            "http://a/./b",
            "http://a/b//c",
        ] {
            assert_eq!(check_server_url(bad), Err(ServerUrlError), "{bad}");
        }
    }
}
