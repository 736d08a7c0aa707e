//! `/apisix/nginx_status`: the counters of connections, for what reads them from nginx (`docs/spec/control-api.md` §2).
//!
//! It is no route. It is looked for where no route has taken a request: so it shadows none, and the others do not pay for it.

use super::live::Live;
use crate::counters::Totals;
use http::{Method, StatusCode};
use milecastle_plugin_api::Reply;
use std::net::IpAddr;

const PATH: &str = "/apisix/nginx_status";

/// The answer to a request that no route takes, if it asks for the counters.
pub(super) fn answer(live: &Live) -> Option<Reply> {
    let (node, request) = (&live.client.worker.node, &live.cx.request);
    let asked = request.normal_path() == PATH && matches!(request.method, Method::GET | Method::HEAD);
    if !asked || !node.config.nginx_status {
        return None;
    }
    // Both the client and who brings its request: what stands in a header opens nothing.
    let local = [live.cx.client_ip, live.client.facts.peer.ip()].into_iter().all(is_local);
    Some(if local {
        Reply::text(StatusCode::OK, page(&node.counters.totals()))
    } else {
        Reply::status(StatusCode::FORBIDDEN)
    })
}

/// Whether it is in 127.0.0.0/24.
fn is_local(ip: IpAddr) -> bool {
    matches!(ip.to_canonical(), IpAddr::V4(ip) if ip.octets().starts_with(&[127, 0, 0]))
}

/// As `stub_status` of nginx words it, blanks at the ends of lines included.
fn page(totals: &Totals) -> String {
    let Totals { active, accepted, handled, requests, reading, in_flight, waiting, .. } = totals;
    format!(
        "Active connections: {active} \nserver accepts handled requests\n {accepted} {handled} {requests} \n\
         Reading: {reading} Writing: {in_flight} Waiting: {waiting} \n"
    )
}
