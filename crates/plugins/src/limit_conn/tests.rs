use super::STREAM;
use milecastle_plugin_api::stream::Preread;
use milecastle_plugin_api::testing::{Sessions, Setup};
use serde_json::{Value, json};
use std::time::Duration;

fn limited(members: Value) -> Sessions {
    let mut config = json!({ "conn": 1, "burst": 0, "default_conn_delay": 0.3, "key": "remote_addr" });
    config.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    Setup::new(&[&STREAM]).sessions(json!({ "limit-conn": config }))
}

const REFUSED: Preread = Preread::Closed { status: 503 };

#[test]
fn a_session_beyond_the_limit_is_refused_until_another_ends() {
    let sessions = limited(json!({}));
    let (first, passed) = sessions.begin("10.0.0.1");
    assert_eq!(passed, Preread::Passed);
    assert_eq!(sessions.begin("10.0.0.1").1, REFUSED);
    assert_eq!(sessions.begin("10.0.0.2").1, Preread::Passed, "another key");
    drop(first);
    assert_eq!(sessions.begin("10.0.0.1").1, Preread::Passed);
}

#[test]
fn those_of_the_burst_wait() {
    let sessions = limited(json!({ "conn": 2, "burst": 3 }));
    let begun: Vec<_> = (0..5).map(|_| sessions.begin("10.0.0.1")).collect();
    let waits = |factor: u32| match factor {
        0 => Preread::Passed,
        _ => Preread::Pause { time: Duration::from_millis(300) * factor, step: 1 },
    };
    let found: Vec<Preread> = begun.iter().map(|(_, passed)| *passed).collect();
    assert_eq!(found, [waits(0), waits(0), waits(1), waits(1), waits(2)]);
    assert_eq!(sessions.begin("10.0.0.1").1, REFUSED);
}

#[test]
fn keys_are_variables_or_texts_with_variables_or_the_clients_address() {
    for (members, apart) in [
        (json!({ "key": "server_port" }), false),
        (json!({ "key": "$server_port-$remote_addr", "key_type": "var_combination" }), true),
        (json!({ "key": "nothing_such" }), true),
        (json!({ "key": "${nothing_such}", "key_type": "var_combination" }), true),
    ] {
        let sessions = limited(members.clone());
        let _first = sessions.begin("10.0.0.1");
        assert_eq!(sessions.begin("10.0.0.2").1 == Preread::Passed, apart, "{members}");
    }
}

#[test]
fn what_is_open_is_remembered_across_builds_of_one_configuration_alone() {
    let setup = Setup::new(&[&STREAM]);
    let config = |conn: u64| json!({ "limit-conn": { "conn": conn, "burst": 0, "default_conn_delay": 1, "key": "remote_addr" } });
    let registry = setup.registry().clone();
    let first = setup.sessions(config(1));
    let _open = first.begin("10.0.0.1");
    let again = Setup::of(registry.clone()).sessions(config(1));
    assert_eq!(again.begin("10.0.0.1").1, REFUSED);
    assert_eq!(Setup::of(registry).sessions(config(2)).begin("10.0.0.1").1, Preread::Passed);
}

#[test]
fn faults_are_found_on_write() {
    let check = |members: Value, path: &str| {
        let mut config = json!({ "conn": 1, "burst": 0, "default_conn_delay": 0.3, "key": "remote_addr" });
        config.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let faults = Setup::new(&[&STREAM]).faults(json!({ "limit-conn": config }));
        assert!(faults.iter().any(|fault| fault.path == format!("/limit-conn{path}")), "{members}: {faults:?}");
    };
    check(json!({ "conn": 0 }), "/conn");
    check(json!({ "conn": "2" }), "/conn");
    check(json!({ "burst": -1 }), "/burst");
    check(json!({ "default_conn_delay": 0 }), "/default_conn_delay");
    check(json!({ "key_type": "constant" }), "/key_type");
    check(json!({ "key": 1 }), "/key");
}
