//! Other protocols on a connection (RFC 9110 §7.8): what the client asks for, what its route allows, and what the upstream is
//! asked for in turn.
//!
//! A protocol passes by name alone: behind one that nobody has thought of (`h2c`, `TLS`) requests would pass by routes and plugins.

use super::live::Live;
use crate::h1::Outgoing;
use http::{HeaderMap, HeaderValue, Method, header};
use milecastle_snapshot::CompiledRoute;

const WEBSOCKET: &str = "websocket";

/// What the upstream is asked to change to, as `Upgrade` lists it; `None`: the request is an ordinary one.
pub(super) fn offer(live: &Live, route: &CompiledRoute, outgoing: &Outgoing) -> Option<String> {
    // What of a body is still to come would pass for bytes of the other protocol.
    if live.upgrade.is_empty() || matches!(outgoing, Outgoing::Streaming(_)) {
        return None;
    }
    let of_route = route.websocket.then_some(WEBSOCKET);
    let of_plugin = live.cx.upgrades.as_deref().unwrap_or_default().iter().map(String::as_str);
    // A WebSocket begins with a GET without a body (RFC 6455 §4.1).
    let may_be_websocket = *live.cx.request.received_method() == Method::GET && matches!(outgoing, Outgoing::None);
    let fits = |name: &&str| may_be_websocket || !name.eq_ignore_ascii_case(WEBSOCKET);
    let allowed: Vec<&str> = of_route.into_iter().chain(of_plugin).filter(fits).collect();
    choose(&live.upgrade, &allowed)
}

/// Those that are allowed of the protocols that `asked` lists, each once, in the client's order.
fn choose(asked: &[HeaderValue], allowed: &[&str]) -> Option<String> {
    let words = asked.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let mut chosen: Vec<&str> = Vec::new();
    for word in words {
        let found = allowed.iter().copied().find(|name| name.as_bytes().eq_ignore_ascii_case(word));
        chosen.extend(found.filter(|name| !chosen.contains(name)));
    }
    (!chosen.is_empty()).then(|| chosen.join(", "))
}

/// Whether a 101 changes to WebSocket.
pub(super) fn is_to_websocket(headers: &HeaderMap) -> bool {
    let named = headers.get(header::UPGRADE).map_or(&b""[..], HeaderValue::as_bytes);
    named.trim_ascii().eq_ignore_ascii_case(WEBSOCKET.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_asked_for_that_passes_which_is_allowed() {
        let chosen = |asked: &[&'static str], allowed: &[&str]| {
            choose(&asked.iter().copied().map(HeaderValue::from_static).collect::<Vec<_>>(), allowed)
        };
        let allowed = ["websocket", "SPDY/3.1", "tcp"];
        for (asked, expected) in [
            (&["WebSocket"][..], Some("websocket")),
            (&["spdy/3.1"], Some("SPDY/3.1")),
            (&["h2c, tcp ,websocket"], Some("tcp, websocket")),
            (&["h2c", "tcp", "TLS/1.0,SPDY/3.1"], Some("tcp, SPDY/3.1")),
            (&["tcp, TCP", "tcp"], Some("tcp")),
            (&["SPDY, SPDY/3, SPDY/3.10"], None),
            (&["tcp/1", "web socket", "", ",,"], None),
        ] {
            assert_eq!(chosen(asked, &allowed).as_deref(), expected, "{asked:?}");
        }
        assert_eq!(chosen(&["websocket"], &[]), None);
    }
}
