//! What the patterns of one object may come to together.

use super::{Config, compiler, put};
use milecastle_model::Kind;
use serde_json::{Value, json};

/// A condition whose pattern is one of those of which an object may have three: each call of a group counts as it may be written out.
fn condition(name: &str) -> Value {
    json!(["arg_a", "~~", format!(r"({name})\g<1>")])
}

fn route(plugin: Value) -> Value {
    json!({ "uri": "/a", "vars": [condition("a"), condition("b")], "plugins": { "mark": plugin } })
}

/// Where a route is refused.
fn places(plugin: Value) -> Vec<String> {
    let faults = compiler().check(Kind::Route, "1", &route(plugin));
    assert!(faults.iter().all(|fault| fault.message.contains("spread them over several objects")), "{faults:?}");
    faults.into_iter().map(|fault| fault.path).collect()
}

#[test]
fn the_patterns_of_an_object_count_together_wherever_they_stand() {
    assert!(places(json!({ "text": "x", "_meta": { "filter": [condition("c")] } })).is_empty());
    let beyond = json!({ "filter": [condition("c"), condition("d")] });
    assert_eq!(places(json!({ "text": "x", "_meta": beyond })), ["/plugins/mark/_meta/filter"]);
    // A node compiles those of a plugin that is switched off too.
    let off = json!({ "filter": [condition("c"), condition("d")], "disable": true });
    assert_eq!(places(json!({ "text": "x", "_meta": off })), ["/plugins/mark/_meta/filter"]);
}

#[test]
fn what_was_accepted_is_built() {
    let mut config = Config::new();
    let meta = json!({ "filter": [condition("c"), condition("d")] });
    config.good(&[put(Kind::Route, "1", route(json!({ "text": "x", "_meta": meta })))]);
}
