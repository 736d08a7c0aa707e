use super::DEF;
use milecastle_plugin_api::testing::{Ask, Setup};
use serde_json::{Value, json};

fn check(config: Value, ask: Ask, status: u16, body: &str) {
    let done = Setup::new(&[&DEF]).route(json!({ "ip-restriction": config.clone() })).send(ask);
    assert_eq!((done.status, done.text()), (status, body), "{config}");
}

fn from(ip: &str) -> Ask {
    Ask::from("GET /\nX-Forwarded-For: 10.0.0.1").from_peer(ip)
}

const REFUSED: &str = "{\"message\":\"Your IP address is not allowed\"}\n";

#[test]
fn lists_decide() {
    check(json!({ "whitelist": ["10.0.0.0/8"] }), from("127.0.0.1"), 403, REFUSED);
    check(json!({ "whitelist": ["127.0.0.1"] }), from("127.0.0.1"), 200, "ok");
    check(json!({ "whitelist": ["::1", "127.0.0.0/8"] }), from("127.9.9.9"), 200, "ok");
    check(json!({ "blacklist": ["::1"] }), from("::1"), 403, REFUSED);
    check(json!({ "blacklist": ["::1"] }), from("127.0.0.1"), 200, "ok");
    check(json!({ "blacklist": ["::/0"] }), from("127.0.0.1"), 200, "ok");
    check(json!({ "blacklist": ["0.0.0.0/0"] }), from("127.0.0.1"), 403, REFUSED);
    check(json!({ "blacklist": ["10.1.2.3/8"] }), from("10.200.0.1"), 403, REFUSED);
    check(
        json!({ "blacklist": ["127.0.0.1"], "response_code": 404, "message": "gone" }),
        from("127.0.0.1"),
        404,
        "{\"message\":\"gone\"}\n",
    );
}

#[test]
fn the_address_is_the_one_after_real_ip_processing() {
    let list = json!({ "whitelist": ["10.0.0.1"] });
    check(list.clone(), from("127.0.0.1").real_ip("10.0.0.1"), 200, "ok");
    check(list, from("127.0.0.1"), 403, REFUSED);
}

#[test]
fn a_consumers_list_takes_the_place_of_the_routes() {
    let gateway = Setup::new(&[&DEF, &crate::key_auth::DEF])
        .consumer(json!({
            "username": "amy",
            "plugins": { "key-auth": { "key": "k" }, "ip-restriction": { "whitelist": ["127.0.0.1"] } },
        }))
        .consumer(json!({ "username": "bob", "plugins": { "key-auth": { "key": "b" } } }))
        .route(json!({ "key-auth": {}, "ip-restriction": { "whitelist": ["10.0.0.1"] } }));
    assert_eq!(gateway.send("GET /\napikey: k").status, 200);
    assert_eq!(gateway.send("GET /\napikey: b").status, 403);
}

#[test]
fn faults_are_found_on_write() {
    let check = |config: Value, path: &str, fault: &str| {
        let faults = Setup::new(&[&DEF]).faults(json!({ "ip-restriction": config }));
        let found =
            faults.iter().any(|found| found.path == format!("/ip-restriction{path}") && found.message.ends_with(fault));
        assert!(found, "{config}: {faults:?}");
    };
    let none = "value should match only one schema, but matches none: \
                property \"whitelist\" is required; or property \"blacklist\" is required";
    check(json!({}), "", none);
    let unknown = format!("{none} (\"whitelists\": did you mean \"whitelist\"?)");
    check(json!({ "whitelists": ["::1"] }), "", &unknown);
    check(
        json!({ "whitelist": ["::1"], "blacklist": ["::1"] }),
        "",
        "value should match only one schema, but matches both schemas 1 and 2: \
         [\"whitelist\"] and [\"blacklist\"] exclude each other",
    );
    for entry in ["10.0.0.0/33", "300.1.1.1", "abc", "::1/129"] {
        check(json!({ "whitelist": ["::1", entry] }), "/whitelist/1", &format!("invalid ip address: {entry}"));
    }
    check(json!({ "blacklist": [] }), "/blacklist", "expect array to have at least 1 items");
    check(json!({ "blacklist": ["::1"], "message": "" }), "/message", "string too short, expected at least 1, got 0");
    check(
        json!({ "blacklist": ["::1"], "message": "x".repeat(1025) }),
        "/message",
        "string too long, expected at most 1024, got 1025",
    );
    check(json!({ "blacklist": ["::1"], "response_code": 402 }), "/response_code", "expected 402 to be at least 403");
    check(json!({ "blacklist": ["::1"], "response_code": 405 }), "/response_code", "expected 405 to be at most 404");
}
