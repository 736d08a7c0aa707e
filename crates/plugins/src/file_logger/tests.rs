use super::{DEF, reopen};
use crate::decode::encoded;
use milecastle_plugin_api::testing::{Answer, Ask, Gateway, Setup};
use milecastle_plugin_api::{NoSecrets, RouteInfo, Shared};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory for a test, removed with it.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("milecastle-file-logger-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn entries(&self) -> Vec<Value> {
        self.entries_of("log")
    }

    fn entries_of(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A gateway that logs to `log`.
    fn gateway(&self, config: Value) -> Gateway {
        Setup::new(&[&DEF]).route(json!({ "file-logger": self.config(config) }))
    }

    fn config(&self, mut config: Value) -> Value {
        config["path"] = self.path("log").into();
        config
    }

    /// The only entry of one request.
    fn entry(&self, config: Value, ask: impl Into<Ask>) -> Value {
        self.gateway(config).send(ask);
        let [entry] = self.entries().try_into().unwrap();
        fs::remove_file(self.path("log")).unwrap();
        entry
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn each_request_is_a_line() {
    let dir = Dir::new();
    let gateway = dir.gateway(json!({}));
    for _ in 0..3 {
        assert_eq!(gateway.send("GET /").status, 200);
    }
    assert_eq!(dir.entries().len(), 3);
}

#[test]
fn the_default_entry_says_what_is_known() {
    let dir = Dir::new();
    let ask =
        Ask::from("POST /a%20b?x=1&x=2&v&y=%26\nHost: A.test:81\nX-M: 1\nX-M: 2\n\nbody").answered("201\nX-R: r\n\nok");
    let mut entry = dir.entry(json!({}), ask);
    for timing in ["latency", "apisix_latency", "start_time"] {
        assert!(entry[timing].take().as_f64().unwrap() >= 0.0, "{timing}");
    }
    let expected = json!({
        "request": {
            "url": "http://a.test:9080/a b?x=1&x=2&v&y=%26",
            "uri": "/a b?x=1&x=2&v&y=%26",
            "method": "POST",
            "headers": { "host": "A.test:81", "x-m": ["1", "2"] },
            "querystring": { "x": ["1", "2"], "v": true, "y": "&" },
            "size": 54,
        },
        "response": { "status": 201, "headers": { "x-r": "r" }, "size": 102 },
        "server": { "hostname": "test-node", "version": "0.0.0-test" },
        "client_ip": "127.0.0.1",
        "route_id": "1",
        "service_id": "",
        "start_time": null,
        "latency": null,
        "apisix_latency": null,
        "upstream": "127.0.0.1:1980",
        "upstream_latency": 4.0,
    });
    assert_eq!(entry, expected);
}

#[test]
fn what_a_request_lacks_is_left_out() {
    let dir = Dir::new();
    let config = json!({ "file-logger": dir.config(json!({})) });
    Setup::new(&[&DEF]).global(config.clone()).no_route().send("GET /\nHost: h");
    let info = RouteInfo { id: "r".into(), service_id: Some("s".into()), ..RouteInfo::default() };
    Setup::new(&[&DEF, &crate::key_auth::DEF])
        .consumer(json!({ "username": "amy", "plugins": { "key-auth": { "key": "k" } } }))
        .info(info)
        .route(json!({ "key-auth": {}, "file-logger": config["file-logger"] }))
        .send("GET /\napikey: k");
    let [unmatched, matched] = dir.entries().try_into().unwrap();
    for absent in ["route_id", "upstream", "upstream_latency", "consumer"] {
        assert_eq!(unmatched.get(absent), None, "{absent}");
    }
    assert_eq!((&unmatched["service_id"], &unmatched["latency"]), (&json!("h"), &unmatched["apisix_latency"]));
    assert_eq!((&matched["route_id"], &matched["service_id"]), (&json!("r"), &json!("s")));
    assert_eq!(matched["consumer"], json!({ "username": "amy" }));
}

#[test]
fn an_entry_shows_no_key() {
    let dir = Dir::new();
    let loggers = json!({ "file-logger": dir.config(json!({ "log_format_extra": { "key": "$arg_apikey" } })) });
    // The global logger runs before the route's plugins, whose secrets it does not show either.
    let gateway = Setup::new(&[&DEF, &crate::key_auth::DEF])
        .consumer(json!({ "username": "amy", "plugins": { "key-auth": { "key": "sesame" } } }))
        .global(loggers.clone())
        .route(json!({ "key-auth": {}, "file-logger": loggers["file-logger"] }));
    assert_eq!(gateway.send("GET /?apikey=sesame&a=1\nHost: h").status, 200);
    assert_eq!(gateway.send("GET /\nHost: h\napikey: sesame").status, 200);
    let entries = dir.entries();
    assert_eq!(entries.len(), 4);
    assert!(entries.iter().all(|entry| !entry.to_string().contains("sesame")), "{entries:?}");
    let (query, header) = (&entries[1]["request"], &entries[3]["request"]);
    assert_eq!((&query["uri"], &entries[1]["key"]), (&json!("/?apikey=***&a=1"), &json!("***")));
    assert_eq!(query["querystring"], json!({ "apikey": "***", "a": "1" }));
    assert_eq!(header["headers"]["apikey"], json!("***"));
}

#[test]
fn a_custom_entry_resolves_variables() {
    let dir = Dir::new();
    let format = json!({ "log_format": {
        "a": { "b": "$arg_x" }, "n": 3, "t": true, "lit": "a-$host", "route_id": "mine", "c": "$consumer_name",
    } });
    let entry = |ask: &str| dir.entry(format.clone(), ask);
    assert_eq!(entry("GET /?x=1"), json!({ "a": { "b": "1" }, "n": 3, "t": true, "lit": "a-$host", "route_id": "1" }));
    assert_eq!(entry("GET /")["a"], json!({}));
    assert_eq!(dir.entry(json!({ "log_format": {} }), "GET /"), json!({ "route_id": "1" }));
    let deep = json!({ "log_format": { "1": { "2": { "3": { "4": { "5": { "6": 1 } } } } } } });
    assert_eq!(dir.entry(deep, "GET /")["1"], json!({ "2": { "3": { "4": { "5": {} } } } }));
}

#[test]
fn extra_members_never_replace_default_ones() {
    let dir = Dir::new();
    let entry = dir.entry(
        json!({ "log_format_extra": { "route_id": "zzz", "host": "$host", "no": "$arg_no" } }),
        "GET /\nHost: h",
    );
    assert_eq!((&entry["route_id"], &entry["host"], entry.get("no")), (&json!("1"), &json!("h"), None));
    let entry = dir.entry(json!({ "log_format": { "a": 1 }, "log_format_extra": { "b": 2 } }), "GET /");
    assert_eq!(entry, json!({ "a": 1, "route_id": "1" }));
}

#[test]
fn metadata_gives_what_the_configuration_leaves_out() {
    let dir = Dir::new();
    let logged = |metadata: Value, config: Value| {
        Setup::new(&[&DEF]).metadata("file-logger", metadata).route(json!({ "file-logger": config })).send("GET /");
        let [entry] = dir.entries().try_into().unwrap();
        fs::remove_file(dir.path("log")).unwrap();
        entry
    };
    let path = dir.path("log");
    assert_eq!(logged(json!({ "path": path, "log_format": { "m": 1 } }), json!({}))["m"], 1);
    let both = logged(
        json!({ "path": "/nowhere/x", "log_format": { "m": 1 } }),
        dir.config(json!({ "log_format": { "c": 2 } })),
    );
    assert_eq!(both, json!({ "c": 2, "route_id": "1" }));
    let empty = logged(json!({ "path": path, "log_format": {}, "log_format_extra": { "e": 3 } }), json!({}));
    assert_eq!((&empty["e"], empty.get("request").is_some()), (&json!(3), true));
    let off = logged(json!({ "path": path, "log_format_extra": { "e": 3 } }), json!({ "log_format_extra": {} }));
    assert_eq!(off.get("e"), None);
}

#[test]
fn a_path_is_needed_somewhere() {
    let faults = Setup::new(&[&DEF]).faults(json!({ "file-logger": {} }));
    assert!(faults[0].message.ends_with("property \"path\" is required"), "{faults:?}");
    let with = Setup::new(&[&DEF]).metadata("file-logger", json!({ "path": "x" }));
    assert_eq!(with.faults(json!({ "file-logger": {} })), []);
}

#[test]
fn deleted_metadata_leaves_requests_unharmed() {
    let dir = Dir::new();
    let setup = Setup::new(&[&DEF]).metadata("file-logger", json!({ "path": dir.path("log") }));
    let registry = setup.registry().clone();
    // The snapshot before keeps the instance alive.
    let before = setup.route(json!({ "file-logger": {} }));
    let after = Setup::of(registry).route(json!({ "file-logger": {} }));
    assert_eq!(after.send("GET /").status, 200);
    assert_eq!(dir.entries().len(), 0);
    before.send("GET /");
    assert_eq!(dir.entries().len(), 1);
}

#[test]
fn an_entry_is_written_if_any_match_holds() {
    let dir = Dir::new();
    let gateway = dir.gateway(json!({
        "match": [[["arg_a", "==", "1"]], [["http_b", "==", "2"], ["arg_c", "==", "3"]]], "log_format": { "u": "$request_uri" },
    }));
    for ask in ["GET /?a=1", "GET /?c=3\nB: 2", "GET /?c=3", "GET /?a=2\nB: 2"] {
        gateway.send(ask);
    }
    let logged: Vec<Value> = dir.entries().iter().map(|entry| entry["u"].clone()).collect();
    assert_eq!(logged, ["/?a=1", "/?c=3"]);
    dir.gateway(json!({ "match": [] })).send("GET /");
    assert_eq!(dir.entries().len(), 2, "an empty list matches nothing");
}

#[test]
fn bodies_are_logged_on_request() {
    let dir = Dir::new();
    let entry = |config: Value| {
        dir.entry(
            config,
            Ask::from("POST /?log=1\n\nquestion").answered(Answer::from("200\n\n").chunks(&[b"ans", b"wer"])),
        )
    };
    let none = entry(json!({}));
    assert_eq!((none["request"].get("body"), none["response"].get("body")), (None, None));
    let both = entry(json!({ "include_req_body": true, "include_resp_body": true }));
    assert_eq!((&both["request"]["body"], &both["response"]["body"]), (&json!("question"), &json!("answer")));
    let cut = entry(
        json!({ "include_req_body": true, "include_resp_body": true, "max_req_body_bytes": 3, "max_resp_body_bytes": 4 }),
    );
    assert_eq!((&cut["request"]["body"], &cut["response"]["body"]), (&json!("que"), &json!("answ")));
    let custom = entry(json!({ "include_req_body": true, "log_format": { "q": "$request_body", "r": "$resp_body" } }));
    assert_eq!(custom, json!({ "q": "question", "r": "", "route_id": "1" }));
}

#[test]
fn conditions_decide_about_bodies() {
    let dir = Dir::new();
    let config = json!({
        "include_req_body": true, "include_req_body_expr": [["arg_log", "==", "1"]],
        "include_resp_body": true, "include_resp_body_expr": [["status", "==", 500]],
    });
    let entry = |ask: &str, answer: &str| {
        let entry = dir.entry(config.clone(), Ask::from(ask).answered(answer));
        (entry["request"].get("body").is_some(), entry["response"].get("body").is_some())
    };
    assert_eq!(entry("POST /?log=1\n\nq", "200\n\na"), (true, false));
    assert_eq!(entry("POST /\n\nq", "500\n\na"), (false, true));
    let broken = json!({ "include_resp_body": true, "include_resp_body_expr": [["status", "nope", 500]] });
    assert_eq!(dir.entry(broken, "GET /")["response"].get("body"), None, "accepted on write, then no body");
}

#[test]
fn the_client_gets_all_of_a_body_that_is_cut_in_the_log() {
    let dir = Dir::new();
    let gateway = dir.gateway(json!({ "include_resp_body": true, "max_resp_body_bytes": 10 }));
    let big = vec![b'x'; 1 << 20];
    let done = gateway.send(Ask::from("GET /").answered(Answer::from("200\n\n").chunks(&[&big])));
    assert_eq!((done.body.len(), &dir.entries()[0]["response"]["body"]), (1 << 20, &json!("xxxxxxxxxx")));
}

#[test]
fn coded_answers_are_decoded() {
    let dir = Dir::new();
    let entry = |coding: &str, body: &[u8]| {
        let answer = Answer::from(format!("200\nContent-Encoding: {coding}\n\n").as_str()).chunks(&[body]);
        let entry = dir.entry(json!({ "include_resp_body": true }), Ask::from("GET /").answered(answer));
        entry["response"]["body"].as_str().unwrap().to_owned()
    };
    assert_eq!(entry("gzip", &encoded::gzip(b"hello")), "hello");
    assert_eq!(entry("br", &encoded::brotli(b"hello")), "hello");
    assert_eq!(entry("gzip", b"no gzip"), "no gzip");
    assert_eq!(entry("zstd", b"raw"), "raw");
}

#[test]
fn two_loggers_of_one_configuration_keep_their_bodies_apart() {
    let dir = Dir::new();
    let config = json!({ "file-logger": dir.config(json!({ "include_resp_body": true })) });
    Setup::new(&[&DEF]).global(config.clone()).route(config).send("GET /");
    let bodies: Vec<Value> = dir.entries().iter().map(|entry| entry["response"]["body"].clone()).collect();
    assert_eq!(bodies, ["ok", "ok"]);
}

#[test]
fn a_moved_file_is_opened_anew_on_demand() {
    let dir = Dir::new();
    let shared = Arc::new(Shared::default());
    let setup = Setup::with(&[&DEF], &Value::Null, Arc::new(NoSecrets), shared.clone());
    let gateway = setup.route(json!({ "file-logger": dir.config(json!({})) }));
    gateway.send("GET /");
    fs::rename(dir.path("log"), dir.path("old")).unwrap();
    gateway.send("GET /");
    assert_eq!((dir.entries_of("old").len(), dir.entries().len()), (2, 0));
    reopen(&shared);
    gateway.send("GET /");
    assert_eq!((dir.entries_of("old").len(), dir.entries().len()), (2, 1));
}

#[test]
fn a_file_that_cannot_be_opened_harms_nobody() {
    let dir = Dir::new();
    let gateway = Setup::new(&[&DEF]).route(json!({ "file-logger": { "path": dir.path("no/such/dir") } }));
    assert_eq!((gateway.send("GET /").status, gateway.send("GET /").status), (200, 200));
    assert!(gateway.view().panics().is_empty());
}

#[test]
fn lines_of_several_workers_do_not_mix() {
    let dir = Dir::new();
    let path = dir.path("log");
    let shared = Arc::new(Shared::default());
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (path, shared) = (path.clone(), shared.clone());
            scope.spawn(move || {
                let setup = Setup::with(&[&DEF], &Value::Null, Arc::new(NoSecrets), shared);
                let config = json!({ "path": path, "log_format": { "w": worker, "pad": "x".repeat(5000) } });
                let gateway = setup.route(json!({ "file-logger": config }));
                (0..50).for_each(|_| drop(gateway.send("GET /")));
            });
        }
    });
    assert_eq!(dir.entries().len(), 200);
}

#[test]
fn faults_are_found_on_write() {
    let check = |config: Value, fault: &str| {
        let faults = Setup::new(&[&DEF]).faults(json!({ "file-logger": config }));
        assert!(faults.iter().any(|found| found.message.contains(fault)), "{config}: {faults:?}");
    };
    check(json!({ "path": 1 }), "wrong type: expected string, got number");
    check(
        json!({ "path": "x", "match": [[["a", "nope", 1]]] }),
        "failed to validate the 'match' expression: invalid operator 'nope'",
    );
    check(json!({ "path": "x", "match": ["a"] }), "wrong type: expected array, got string");
    check(json!({ "path": "x", "match": vec![json!([["a", "b"]]); 21] }), "expect array to have at most 20 items");
    check(json!({ "path": "x", "max_req_body_bytes": 0 }), "expected 0 to be at least 1");
    for attribute in ["max_req_body_bytes", "max_resp_body_bytes"] {
        check(json!({ "path": "x", attribute: 1e30 }), "expected 1e+30 to be at most 1073741824");
    }
    check(json!({ "path": "x", "include_req_body_expr": [] }), "expect array to have at least 1 items");
    check(json!({ "path": "x", "include_req_body_expr": ["a"] }), "wrong type: expected array, got string");
    check(json!({ "path": "x", "log_format": "$a" }), "wrong type: expected");
    // Malformed conditions for bodies are accepted, but count with the rest: a node compiles them.
    let large = |n: usize| json!(["arg_a", "~~", format!(r"(a{n})\g<1>")]);
    let (matches, bodies) = (json!([[large(0), large(1)]]), json!([large(2), large(3)]));
    let together =
        json!({ "path": "x", "match": matches, "include_resp_body": true, "include_resp_body_expr": bodies });
    check(together, "spread them over several objects");
}
