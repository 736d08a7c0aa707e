//! The conformance examples of `docs/spec/admin-api.md` §18 as they stand there, on the real binary.

use std::path::Path;

use milecastle_testkit::{Answer, Call};
use milecastle_tests::{ADMIN_KEY, Cluster};
use serde_json::Value;

/// How many examples there are.
const EXAMPLES: usize = 24;

/// A row of the table.
struct Example<'a> {
    number: &'a str,
    request: &'a str,
    status: u16,
    /// The body, in JSON or in words.
    body: &'a str,
}

/// The rows of §18.
fn examples(spec: &str) -> Vec<Example<'_>> {
    let (_, section) = spec.split_once("\n## 18. ").expect("a section of examples");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = cells.map(|line| line.split(" | ").collect::<Vec<_>>());
    rows.filter_map(|row| match row[..] {
        [number, request, status, body] => Some(Example { number, request, status: status.parse().ok()?, body }),
        _ => None,
    })
    .collect()
}

/// What stands in a cell from the first to the last of these.
fn between(cell: &str, first: char, last: char) -> Option<&str> {
    cell.get(cell.find(first)?..=cell.rfind(last)?)
}

/// The call that a cell means: method and path, then perhaps a body, each in back-ticks.
fn call(cell: &str) -> Call {
    let (method, path) = cell.split('`').nth(1).and_then(|line| line.split_once(' ')).expect("a method and a path");
    let body = cell.split_once("` `").map(|(_, body)| body.trim_end_matches('`')).unwrap_or_default();
    let call = Call::new(method.parse().unwrap(), &format!("/apisix/admin{path}")).body(body.to_owned());
    if cell.contains("without key") { call } else { call.header("x-api-key", ADMIN_KEY) }
}

/// JSON in which all timestamps are alike.
fn timeless(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        for (name, member) in members {
            let is_time = ["create_time", "update_time"].contains(&name.as_str());
            *member = if is_time && member.is_u64() { 0.into() } else { timeless(member.take()) };
        }
    }
    value
}

fn assert_is(answer: &Answer, example: &Example<'_>) {
    let Example { number, request, status, body } = example;
    assert_eq!(answer.status, *status, "{number}: {request}: {}", answer.text());
    if let Some(json) = between(body, '{', '}') {
        let expected: Value = serde_json::from_str(&json.replace("_time\":T", "_time\":0")).expect(number);
        assert_eq!(timeless(answer.json().unwrap()), expected, "{number}: {request}");
    } else if let Some(text) = body.strip_prefix("plain text ") {
        assert_eq!(answer.text(), text.trim_matches('`'), "{number}: {request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_example_is_answered_as_it_says() {
    let spec = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/spec/admin-api.md");
    let spec = std::fs::read_to_string(spec).unwrap();
    let examples = examples(&spec);
    assert_eq!(examples.len(), EXAMPLES);
    for cluster in [Cluster::on_sqlite(), Cluster::new()] {
        let dashboard = cluster.dashboard("d");
        dashboard.ready().await;
        let mut last = "";
        for example in &examples {
            last = if example.request == "same again" { last } else { example.request };
            assert_is(&call(last).to(dashboard.http).await.unwrap(), example);
        }
    }
}
