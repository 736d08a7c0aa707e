use super::STREAM;
use milecastle_plugin_api::stream::{ChosenUpstream, Preread};
use milecastle_plugin_api::testing::{Sessions, Setup};
use serde_json::{Value, json};

fn split(rules: Value) -> Sessions {
    Setup::new(&[&STREAM]).sessions(json!({ "traffic-split": { "rules": rules } }))
}

/// What is chosen for a session: an id, the key of an inline upstream, or nothing.
fn chosen(sessions: &Sessions, client: &str) -> Option<String> {
    let (session, passed) = sessions.begin(client);
    assert_eq!(passed, Preread::Passed);
    session.cx.chosen.as_ref().map(|chosen| match chosen {
        ChosenUpstream::Id(id) => id.to_string(),
        ChosenUpstream::Inline(inline) => inline.key.to_string(),
    })
}

#[test]
fn weights_decide_and_an_empty_item_is_the_routes_own() {
    let inline = json!({ "nodes": { "127.0.0.1:1": 1 } });
    let sessions = split(json!([{ "weighted_upstreams": [
        { "upstream_id": 7, "weight": 2 }, { "upstream": inline, "weight": 1 }, { "weight": 1 }, { "upstream_id": "never", "weight": 0 },
    ] }]));
    let mut found: Vec<_> = (0..8).map(|_| chosen(&sessions, "10.0.0.1")).collect();
    found.sort();
    let key = Some("/stream_routes/1#traffic-split/rules/0/weighted_upstreams/1/upstream".to_owned());
    let seven = Some("7".to_owned());
    assert_eq!(found, [None, None, key.clone(), key, seven.clone(), seven.clone(), seven.clone(), seven]);
}

#[test]
fn the_first_rule_that_matches_chooses() {
    let from = |ip: &str| json!([["remote_addr", "==", ip]]);
    let sessions = split(json!([
        { "match": [{ "vars": from("10.0.0.1") }, { "vars": from("10.0.0.2") }], "weighted_upstreams": [{ "upstream_id": "a" }] },
        { "match": [{ "vars": [["remote_addr", "==", "10.0.0.3"], ["server_port", "==", "1"]] }],
          "weighted_upstreams": [{ "upstream_id": "b" }] },
        { "match": [{ "vars": from("10.0.0.4") }], "weighted_upstreams": [{ "upstream_id": "c" }] },
    ]));
    let of = |ip: &str| chosen(&sessions, ip);
    assert_eq!((of("10.0.0.1").as_deref(), of("10.0.0.2").as_deref()), (Some("a"), Some("a")));
    assert_eq!((of("10.0.0.3"), of("10.0.0.4").as_deref(), of("10.0.0.5")), (None, Some("c"), None));
    for always in [json!({}), json!({ "match": [] }), json!({ "match": [{}] })] {
        let mut rule = always.clone();
        rule["weighted_upstreams"] = json!([{ "upstream_id": "a" }]);
        assert_eq!(chosen(&split(json!([rule])), "10.0.0.1").as_deref(), Some("a"), "{always}");
    }
    assert_eq!(chosen(&split(json!([])), "10.0.0.1"), None);
    assert_eq!(chosen(&split(json!([{}])), "10.0.0.1"), None);
}

#[test]
fn faults_are_found_on_write() {
    let check = |rule: Value, path: &str| {
        let faults = Setup::new(&[&STREAM]).faults(json!({ "traffic-split": { "rules": [rule] } }));
        let found = faults.iter().any(|fault| fault.path == format!("/traffic-split/rules/0{path}"));
        assert!(found, "{rule}: {faults:?}");
    };
    check(json!({ "match": [{ "vars": [["a"]] }] }), "/match/0/vars");
    check(json!({ "weighted_upstreams": [{ "weight": -1 }] }), "/weighted_upstreams/0/weight");
    check(json!({ "weighted_upstreams": [] }), "/weighted_upstreams");
    check(json!({ "weighted_upstreams": vec![json!({}); 21] }), "/weighted_upstreams");
    let bad = json!({ "weighted_upstreams": [{ "upstream": { "nodes": { "127.0.0.1:99999": 1 } } }] });
    check(bad, "/weighted_upstreams/0/upstream/nodes/127.0.0.1:99999");
}
