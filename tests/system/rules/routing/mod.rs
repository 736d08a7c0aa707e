//! `docs/spec/routing.md`.

mod conditions;
mod expressions;
mod order;
mod paths;
mod requests;
mod variables;

use super::{Shared, Site, with};
use milecastle_testkit::Call;
use serde_json::{Value, json};
use std::sync::Arc;

/// What the gateway says about objects that the tests take away from others.
const ANNOUNCED: [&str; 0] = [];

/// The gateway whose routes are found by host, path and priority, as is the default.
async fn by_host() -> Arc<Site> {
    static SITE: Shared<Site> = Shared::new();
    SITE.get(async || Site::start(&[], &[], &ANNOUNCED).await).await
}

/// The one to which a host is a condition like others.
async fn by_path() -> Arc<Site> {
    static SITE: Shared<Site> = Shared::new();
    SITE.get(async || Site::start(&[], &["--router", "radixtree_uri"], &ANNOUNCED).await).await
}

/// The one whose paths have parameters.
async fn with_parameters() -> Arc<Site> {
    static SITE: Shared<Site> = Shared::new();
    SITE.get(async || Site::start(&[], &["--router", "radixtree_uri_with_parameter"], &ANNOUNCED).await).await
}

/// A route to the echo upstream from a line `id host path priority`; `-` is no host, and the priority may be left out.
fn route(line: &str) -> (String, Value) {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let (id, host, path, priority) = (word(), word(), word(), word());
    let mut body = json!({ "uri": path, "upstream_id": "echo" });
    if host != "-" {
        body["host"] = host.into();
    }
    if !priority.is_empty() {
        body["priority"] = priority.parse::<i64>().unwrap().into();
    }
    (format!("/routes/{id}"), body)
}

/// The same with further members.
fn route_with(line: &str, more: Value) -> (String, Value) {
    let (path, body) = route(line);
    (path, with(body, more))
}

/// Asserts which route is found for each `host target`; instead of an id, the status where none is.
async fn finds(site: &Site, table: &[(&str, &str)]) {
    for (request, expected) in table {
        let (host, target) = request.split_once(' ').unwrap();
        assert_eq!(site.found(Call::get(target).header("host", host)).await, *expected, "{request}");
    }
}
