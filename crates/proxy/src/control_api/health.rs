//! Health checks as they stand (`docs/spec/control-api.md` §1.1).
//!
//! Upstreams are not probed yet, so no upstream has a checker: those with `checks` are listed without nodes, as the
//! specification has it for an upstream without traffic.

use super::{body_of, error, storage_key};
use crate::side_http::{Answer, answer, json};
use http::StatusCode;
use milecastle_model::{Key, Kind, Object};
use milecastle_snapshot::Snapshot;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What can have checks, in the order in which it is listed.
const KINDS: [Kind; 4] = [Kind::Route, Kind::StreamRoute, Kind::Service, Kind::Upstream];

/// All of them.
pub(super) fn list(snapshot: &Snapshot, html: bool) -> Answer {
    let objects = KINDS.into_iter().flat_map(|kind| snapshot.objects(kind));
    let checks: Vec<Value> = objects.filter_map(check).collect();
    if html {
        return answer(StatusCode::OK, "text/html", page(&checks));
    }
    json(StatusCode::OK, &Value::Array(checks))
}

/// The checker of one object. Faults are told in the order of the specification.
pub(super) fn one(snapshot: &Snapshot, collection: &str, id: &str) -> Answer {
    if id.is_empty() {
        return error(StatusCode::NOT_FOUND, format!("missing src id for src type {collection}"));
    }
    let Some(kind) = KINDS.into_iter().find(|kind| kind.collection() == collection) else {
        return error(StatusCode::BAD_REQUEST, format!("invalid src type {collection}"));
    };
    let why = match snapshot.object(&Key::new(kind, id)) {
        None => format!("{collection}[{id}] not found"),
        Some(_) => format!("no checker for {collection}[{id}]"),
    };
    error(StatusCode::NOT_FOUND, why)
}

/// The health-check object of what has `checks`.
fn check(object: &Object) -> Option<Value> {
    let body = body_of(object);
    let upstream = if object.key.kind == Kind::Upstream { &body } else { body.get("upstream")? };
    let checks = upstream.get("checks")?;
    let side = checks.get("active").or_else(|| checks.get("passive"))?;
    let kind = side.get("type").and_then(Value::as_str).unwrap_or("http");
    Some(json!({ "name": storage_key(&object.key), "type": kind, "nodes": [] }))
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
