//! Table D, and the gateway's own names that begin with `upstream_` and `balancer_`.

use super::{header as header_of, text, time};
use crate::cx::{Attempt, RequestCx, ResponseSource};
use http::header::SET_COOKIE;
use milecastle_matching::Var;
use std::fmt::{Display, Write};

pub(super) fn var<'a>(cx: &'a RequestCx, name: &str) -> Option<Var<'a>> {
    let upstream = &cx.upstream;
    Some(match name {
        "upstream_addr" => return list(cx, |attempt| attempt.node.clone()),
        "upstream_status" => return list(cx, |attempt| attempt.status),
        "upstream_response_time" => return list(cx, |attempt| time::seconds(attempt.response)),
        "upstream_connect_time" => return list(cx, |attempt| time::seconds(attempt.connect)),
        "upstream_header_time" => {
            return list(cx, |attempt| attempt.header.map_or_else(|| "-".to_owned(), time::seconds));
        }
        "upstream_response_length" => return list(cx, |attempt| attempt.response_bytes),
        "balancer_ip" => upstream.last()?.addr.ip().to_string().into(),
        "balancer_port" => upstream.last()?.addr.port().to_string().into(),
        "upstream_unresolved_host" => Var::from(&**upstream.unresolved_host()?),
        "upstream_scheme" => if upstream.scheme.is_empty() { "http" } else { upstream.scheme }.into(),
        "upstream_host" => Var::Str(text(cx.upstream_host()?)),
        "upstream_uri" => match cx.request.rewritten_target() {
            Some(target) => target.into(),
            None => Var::Str(cx.request.normal_target()),
        },
        "upstream_upgrade" => Var::from(upstream.upgrade.as_deref()?),
        "upstream_connection" => upstream.upgrade.as_ref().map(|_| "Upgrade")?.into(),
        _ => return None,
    })
}

/// One item for each try, in order; no value if there was none.
fn list<T: Display>(cx: &RequestCx, item: impl Fn(&Attempt) -> T) -> Option<Var<'static>> {
    let mut joined = String::new();
    for attempt in cx.upstream.attempts() {
        let comma = if joined.is_empty() { "" } else { ", " };
        write!(joined, "{comma}{}", item(attempt)).expect("writing to a string cannot fail");
    }
    (!joined.is_empty()).then(|| joined.into())
}

/// A header of the upstream's answer, as response filters have left it.
pub(super) fn header<'a>(cx: &'a RequestCx, key: &str) -> Option<Var<'a>> {
    let answered = cx.response.source == ResponseSource::Upstream;
    answered.then(|| header_of(&cx.response.headers, key))?.map(Var::Str)
}

/// A cookie that the upstream's answer sets.
pub(super) fn cookie<'a>(cx: &'a RequestCx, name: &str) -> Option<Var<'a>> {
    let lines = cx.response.headers.get_all(SET_COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = lines.filter_map(|line| line.split(';').next()?.trim_ascii().split_once('='));
    let answered = cx.response.source == ResponseSource::Upstream;
    answered.then(|| pairs.find(|(known, _)| *known == name))?.map(|(_, value)| Var::from(value))
}
