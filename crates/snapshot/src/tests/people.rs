//! Consumers, credentials and groups.

use super::{Config, compiler, delete, mark, put};
use milecastle_model::Kind;
use serde_json::{Value, json};

fn consumer(name: &str, key: Option<&str>) -> milecastle_model::Change {
    let mut body = json!({ "username": name, "labels": { "custom_id": "42" } });
    if let Some(key) = key {
        body["plugins"] = json!({ "pass": { "key": key } });
    }
    put(Kind::Consumer, name, body)
}

fn credential(id: &str, key: &str) -> milecastle_model::Change {
    put(Kind::Credential, id, json!({ "plugins": { "pass": { "key": key } } }))
}

/// Consumer and credential id behind a key.
fn behind(config: &Config, key: &str) -> Option<(String, Option<String>)> {
    let found = config.now.credential("pass", key)?;
    let id = found.credential_id.map(|id| id.to_str().unwrap().to_owned());
    Some((found.consumer.name.to_string(), id))
}

#[test]
fn a_key_leads_to_its_consumer() {
    let mut config = Config::new();
    assert!(!config.now.has_credentials("pass"));
    config.good(&[consumer("amy", Some("k1")), credential("amy/credentials/c1", "k2")]);
    assert_eq!(behind(&config, "k1"), Some(("amy".into(), None)));
    assert_eq!(behind(&config, "k2"), Some(("amy".into(), Some("c1".into()))));
    assert_eq!(behind(&config, "k3"), None);
    assert!(config.now.has_credentials("pass"));
    assert_eq!(config.now.consumer("amy").unwrap().custom_id.as_ref().unwrap(), "42");
    config.good(&[credential("amy/credentials/c1", "k3")]);
    assert_eq!(behind(&config, "k2"), None);
    assert_eq!(behind(&config, "k3"), Some(("amy".into(), Some("c1".into()))));
}

#[test]
fn credentials_go_with_their_consumer_and_wait_for_it() {
    let mut config = Config::new();
    config.good(&[credential("amy/credentials/c1", "k")]);
    assert_eq!(behind(&config, "k"), None);
    config.good(&[consumer("amy", None)]);
    assert!(behind(&config, "k").is_some());
    config.good(&[delete(Kind::Consumer, "amy")]);
    assert_eq!(behind(&config, "k"), None);
}

#[test]
fn names_that_begin_alike_are_kept_apart() {
    let mut config = Config::new();
    config.good(&[consumer("am", Some("k0")), consumer("amy", None), credential("amy/credentials/c", "k")]);
    config.good(&[delete(Kind::Consumer, "am")]);
    assert_eq!(behind(&config, "k"), Some(("amy".into(), Some("c".into()))));
}

#[test]
fn of_two_holders_of_a_key_the_last_answers_and_the_other_comes_back() {
    let mut config = Config::new();
    config.good(&[consumer("bob", Some("k"))]);
    config.good(&[consumer("amy", Some("k"))]);
    assert_eq!(behind(&config, "k"), Some(("bob".into(), None)));
    config.good(&[delete(Kind::Consumer, "bob")]);
    assert_eq!(behind(&config, "k"), Some(("amy".into(), None)));
}

#[test]
fn a_credential_whose_reference_cannot_be_resolved_authenticates_nobody() {
    let mut config = Config::new();
    config.good(&[consumer("amy", Some("$env://NOPE"))]);
    assert_eq!(behind(&config, "$env://NOPE"), None);
}

#[test]
fn the_group_lies_under_the_consumer() {
    let overlay = |config: &Config| -> Vec<String> {
        let consumer = config.now.consumer("amy").unwrap();
        assert!(consumer.group_found);
        consumer.overlay.iter().map(|built| format!("{}:{}", built.name(), built.config()["text"])).collect()
    };
    let member =
        |plugins: Value| put(Kind::Consumer, "amy", json!({ "username": "amy", "group_id": "g", "plugins": plugins }));
    let mut config = Config::new();
    config.good(&[member(json!({}))]);
    assert!(!config.now.consumer("amy").unwrap().group_found);
    config.good(&[put(Kind::ConsumerGroup, "g", json!({ "plugins": mark("group") }))]);
    assert_eq!(overlay(&config), ["mark:\"group\""]);
    config.good(&[member(mark("own"))]);
    assert_eq!(overlay(&config), ["mark:\"own\""]);
}

#[test]
fn faults_are_in_the_words_of_the_admin_api() {
    let check = |kind, id, plugins: Value, expected: &str| {
        let mut body = json!({ "plugins": plugins });
        if kind == Kind::Consumer {
            body["username"] = json!("amy");
        }
        let faults = compiler().check(kind, id, &body);
        assert_eq!(faults.first().map(ToString::to_string).as_deref(), Some(expected));
    };
    check(Kind::Consumer, "amy", json!({ "nope": {} }), "invalid plugins configuration: unknown plugin [nope]");
    check(
        Kind::Consumer,
        "amy",
        json!({ "pass": {} }),
        "invalid plugins configuration: failed to check the configuration of plugin pass err: property \"key\" is required",
    );
    check(Kind::Credential, "amy/credentials/c", json!({ "nope": {} }), "unknown plugin nope");
    check(Kind::Credential, "amy/credentials/c", mark("x"), "only supports auth type plugins in consumer credential");
}
