//! Health checks as they stand (`docs/spec/control-api.md` §1.1).
//!
//! An upstream with `checks` is listed from the beginning, its nodes once it has had traffic.

use super::{body_of, error, storage_key};
use crate::health::{Condition, Target, UpstreamHealth};
use crate::side_http::{Answer, answer, json};
use http::StatusCode;
use milecastle_model::{Key, Kind, Object};
use milecastle_snapshot::Snapshot;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What can have checks, in the order in which it is listed.
const KINDS: [Kind; 4] = [Kind::Route, Kind::StreamRoute, Kind::Service, Kind::Upstream];

/// All of them.
pub(super) fn list(snapshot: &Snapshot, health: &UpstreamHealth, html: bool) -> Answer {
    let objects = KINDS.into_iter().flat_map(|kind| snapshot.objects(kind));
    let checks: Vec<Value> = objects.filter_map(|object| check(object, &nodes(health, &object.key))).collect();
    if html {
        return answer(StatusCode::OK, "text/html", page(&checks));
    }
    json(StatusCode::OK, &Value::Array(checks))
}

/// The checker of one object. Faults are told in the order of the specification.
pub(super) fn one(snapshot: &Snapshot, health: &UpstreamHealth, collection: &str, id: &str) -> Answer {
    if id.is_empty() {
        return error(StatusCode::NOT_FOUND, format!("missing src id for src type {collection}"));
    }
    let Some(kind) = KINDS.into_iter().find(|kind| kind.collection() == collection) else {
        return error(StatusCode::BAD_REQUEST, format!("invalid src type {collection}"));
    };
    let key = Key::new(kind, id);
    let Some(object) = snapshot.object(&key) else {
        return error(StatusCode::NOT_FOUND, format!("{collection}[{id}] not found"));
    };
    let nodes = nodes(health, &key);
    match check(object, &nodes).filter(|_| !nodes.is_empty()) {
        Some(check) => json(StatusCode::OK, &check),
        None => error(StatusCode::NOT_FOUND, format!("no checker for {collection}[{id}]")),
    }
}

/// The nodes of the upstream that this object carries, as far as they are watched.
fn nodes(health: &UpstreamHealth, key: &Key) -> Vec<Value> {
    let checker = health.get(&key.path());
    checker.map(|checker| checker.setup().targets().iter().map(|target| node(target)).collect()).unwrap_or_default()
}

fn node(target: &Target) -> Value {
    let Condition { status, success, http_failure, tcp_failure, timeout_failure } = target.condition();
    let mut node = json!({
        "ip": target.addr.ip().to_string(),
        "port": target.addr.port(),
        "hostname": &*target.hostname,
        "status": status.as_str(),
        "counter": {
            "success": success,
            "http_failure": http_failure,
            "tcp_failure": tcp_failure,
            "timeout_failure": timeout_failure,
        },
    });
    if target.probe_host != target.hostname {
        node["hostheader"] = (*target.probe_host).into();
    }
    node
}

/// The health-check object of what has `checks`.
fn check(object: &Object, nodes: &[Value]) -> Option<Value> {
    let body = body_of(object);
    let upstream = if object.key.kind == Kind::Upstream { &body } else { body.get("upstream")? };
    let checks = upstream.get("checks")?;
    let side = checks.get("active").or_else(|| checks.get("passive"))?;
    let kind = side.get("type").and_then(Value::as_str).unwrap_or("http");
    Some(json!({ "name": storage_key(&object.key), "type": kind, "nodes": nodes }))
}

/// The list as a table, one row for each node.
fn page(checks: &[Value]) -> String {
    const COLUMNS: [&str; 9] = [
        "Index",
        "Upstream",
        "Check type",
        "Host",
        "Status",
        "Success counts",
        "TCP Failures",
        "HTTP Failures",
        "TIMEOUT Failures",
    ];
    let mut page =
        String::from("<!DOCTYPE html>\n<html>\n<head><title>Health checks</title></head>\n<body>\n<table>\n<tr>");
    COLUMNS.iter().for_each(|column| page.extend(["<th>", column, "</th>"]));
    page.push_str("</tr>\n");
    let nodes = checks.iter().flat_map(|check| {
        let nodes = check.get("nodes").and_then(Value::as_array).into_iter().flatten();
        nodes.map(move |node| (check, node))
    });
    for (index, (check, node)) in (1..).zip(nodes) {
        let counter = |name: &str| text(&node["counter"][name]);
        let cells = [
            index.to_string(),
            text(&check["name"]),
            text(&check["type"]),
            format!("{}:{}", text(&node["ip"]), text(&node["port"])),
            text(&node["status"]),
            counter("success"),
            counter("tcp_failure"),
            counter("http_failure"),
            counter("timeout_failure"),
        ];
        page.push_str("<tr>");
        for cell in cells {
            write!(page, "<td>{cell}</td>").expect("writing to a string cannot fail");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n</body>\n</html>\n");
    page
}

/// A value as it stands in a page.
fn text(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_row_for_each_node() {
        let counter = json!({"success": 1, "http_failure": 2, "tcp_failure": 3, "timeout_failure": 4});
        let node = json!({"ip": "127.0.0.1", "port": 1980, "hostname": "a", "status": "healthy", "counter": counter});
        let page = page(&[
            json!({"name": "/apisix/upstreams/1", "type": "http", "nodes": []}),
            json!({"name": "/apisix/upstreams/<2>", "type": "tcp", "nodes": [node]}),
        ]);
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("<tr><td>")).collect();
        let cells = ["1", "/apisix/upstreams/&lt;2&gt;", "tcp", "127.0.0.1:1980", "healthy", "1", "3", "2", "4"];
        assert_eq!(rows, [format!("<tr><td>{}</td></tr>", cells.join("</td><td>"))]);
    }
}
