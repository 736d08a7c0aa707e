//! How names of nodes are looked up (§2), where the resolvers or the search list are a test's own.

use super::server;
use milecastle_testkit::raw::Raw;
use milecastle_testkit::registry::Dnsmasq;
use milecastle_testkit::{Echo, eventually};
use milecastle_tests::Up;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

/// A route of everything to the node of this name.
async fn route(up: &Up, node: &str) {
    up.put("/routes/r", json!({ "uri": "/*", "upstream": { "nodes": { node: 1 }, "retries": 0 } })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_2_1_short_names_are_searched_for_unless_that_is_switched_off() {
    const SYSTEM: &str = "nameserver 192.0.2.1\nsearch none.test inner.test\noptions ndots:2\n";
    let echo = Echo::named("searched");
    let dns = Dnsmasq::start(3600, &["host-record=web.inner.test,127.0.0.1".to_owned()]);
    let resolver = format!("['{}']", dns.address());
    for (search, status) in [("true", 200), ("false", 503)] {
        let settings = [
            ("MILECASTLE__GATEWAY__APISIX__DNS_RESOLVER", &*resolver),
            ("MILECASTLE__GATEWAY__APISIX__ENABLE_RESOLV_SEARCH_OPT", search),
        ];
        let Some(up) = Up::start_seeing("/etc/resolv.conf", SYSTEM, &settings) else { return };
        route(&up, &format!("web:{}", echo.port())).await;
        up.answers("/", status).await;
        if status == 200 {
            assert_eq!(server(&up.get("/").await), "searched");
            // A name that ends with a dot is whole.
            route(&up, &format!("web.:{}", echo.port())).await;
            up.answers("/", 503).await;
        }
    }
}

/// What a resolver says to a question.
#[derive(Clone, Copy)]
enum Say {
    Nothing,
    Failure,
    Here,
}

/// Kinds of questions (RFC 1035 §3.2.2, RFC 3596 §2.1).
const A: u16 = 1;
const AAAA: u16 = 28;

/// A resolver, and what it was asked: names and kinds.
struct Resolver {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, u16)>>>,
}

impl Resolver {
    /// One that has an answer for each time that it is asked for the IPv4 address of a name, and none beyond them.
    fn start(script: &'static [Say]) -> Self {
        let mut counts = HashMap::new();
        Self::answering(move |name, kind| {
            if kind != A {
                return Some((2, vec![]));
            }
            let times = counts.entry(name.to_owned()).or_insert(0);
            *times += 1;
            match script.get(*times - 1).unwrap_or(&Say::Nothing) {
                Say::Nothing => None,
                Say::Failure => Some((2, vec![])),
                Say::Here => Some((0, vec![127, 0, 0, 1])),
            }
        })
    }

    /// One that says a code and an address, if any, to the question for this name and kind; `None`: nothing.
    fn answering(mut answer: impl FnMut(&str, u16) -> Option<(u8, Vec<u8>)> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let noted = asked.clone();
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                // The question (RFC 1035 §4.1.2): labels up to the root, type, class.
                let question = &packet[12..length];
                let root = question.iter().position(|byte| *byte == 0).unwrap();
                let kind = u16::from_be_bytes([question[root + 1], question[root + 2]]);
                let name: Vec<u8> = question[1..root].iter().map(|b| if *b < 32 { b'.' } else { *b }).collect();
                let name = String::from_utf8(name).unwrap();
                let said = answer(&name, kind);
                noted.lock().unwrap().push((name, kind));
                let Some((code, found)) = said else { continue };
                let answers = u8::from(!found.is_empty());
                let head = [packet[0], packet[1], 0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0];
                let mut packet = [&head[..], &question[..root + 5]].concat();
                if answers == 1 {
                    // The name of the question, its kind, IN, an hour, the length of the address.
                    packet.extend([0xc0, 12, 0, kind as u8, 0, 1, 0, 0, 0x0e, 0x10, 0, found.len() as u8]);
                    packet.extend(found);
                }
                socket.send_to(&packet, from).unwrap();
            }
        });
        Self { address, asked }
    }

    /// The kinds that it was asked for of a name, in order.
    fn kinds(&self, name: &str) -> Vec<u16> {
        self.asked.lock().unwrap().iter().filter(|(asked, _)| asked == name).map(|(_, kind)| *kind).collect()
    }

    /// How often it was asked for the IPv4 address of a name.
    fn asked(&self, name: &str) -> usize {
        self.kinds(name).iter().filter(|kind| **kind == A).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_2_3_a_resolver_is_tried_five_times_whether_it_fails_or_is_silent() {
    const FIFTH: [Say; 5] = [Say::Failure, Say::Nothing, Say::Failure, Say::Nothing, Say::Here];
    const SIXTH: [Say; 6] = [Say::Failure, Say::Nothing, Say::Failure, Say::Nothing, Say::Failure, Say::Here];
    let echo = Echo::named("found");
    for (script, status) in [(&FIFTH[..], 200), (&SIXTH[..], 503)] {
        let resolver = Resolver::start(script);
        let servers = format!("['{}']", resolver.address);
        // So that a name is asked for once in this test, whatever came of it.
        let dns = json!({ "try_timeout": "200ms", "error_ttl": "1h" }).to_string();
        let settings = [
            ("MILECASTLE__GATEWAY__APISIX__DNS_RESOLVER", &*servers),
            ("MILECASTLE__GATEWAY__APISIX__ENABLE_IPV6", "false"),
            ("MILECASTLE__GATEWAY__DNS", &*dns),
        ];
        let up = Up::start_with(&settings);
        route(&up, &format!("node.five.test:{}", echo.port())).await;
        up.answers("/", status).await;
        eventually("five tries", async || resolver.asked("node.five.test") >= 5).await;
        assert_eq!(up.get("/").await.status, status);
        assert_eq!(resolver.asked("node.five.test"), 5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_2_3_tries_go_round_the_resolvers() {
    let echo = Echo::named("found");
    let (failing, good) = (Resolver::start(&[Say::Failure; 9]), Resolver::start(&[Say::Here; 9]));
    let servers = json!([failing.address.to_string(), good.address.to_string()]).to_string();
    let up = Up::start_with(&[("MILECASTLE__GATEWAY__APISIX__DNS_RESOLVER", &servers)]);
    route(&up, &format!("node.round.test:{}", echo.port())).await;
    up.answers("/", 200).await;
    let counts: Value = json!([failing.asked("node.round.test"), good.asked("node.round.test")]);
    assert_eq!(counts, json!([1, 1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_2_1_what_has_succeeded_last_is_asked_for_first() {
    let resolver = Resolver::answering(|name, kind| match (name, kind) {
        ("six.kind.test", AAAA) => Some((0, std::net::Ipv6Addr::LOCALHOST.octets().to_vec())),
        ("four.kind.test", A) => Some((0, vec![127, 0, 0, 1])),
        _ => Some((0, vec![])),
    });
    let servers = format!("['{}']", resolver.address);
    // Each request finds the answer before it too old, and has it looked up anew.
    let dns = json!({ "min_ttl": "1ms", "max_ttl": "1ms" }).to_string();
    let settings = [("MILECASTLE__GATEWAY__APISIX__DNS_RESOLVER", &*servers), ("MILECASTLE__GATEWAY__DNS", &*dns)];
    let mut up = Up::start_with(&settings);
    up.process.announce("an upstream node gave no answer");
    for (name, expected) in [("four.kind.test", [A, A, A]), ("six.kind.test", [A, AAAA, AAAA])] {
        route(&up, &format!("{name}:1")).await;
        eventually("the name was looked up twice", async || {
            up.get("/").await;
            resolver.kinds(name).len() >= expected.len()
        })
        .await;
        assert_eq!(resolver.kinds(name)[..expected.len()], expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_2_3_a_silent_resolver_holds_up_no_other_request_of_the_worker() {
    let (echo, resolver) = (Echo::named("other"), Resolver::start(&[]));
    let servers = format!("['{}']", resolver.address);
    let dns = json!({ "timeout": "1h", "try_timeout": "1h" }).to_string();
    let settings = [
        ("MILECASTLE__GATEWAY__WORKERS", "1"),
        ("MILECASTLE__GATEWAY__APISIX__DNS_RESOLVER", &*servers),
        ("MILECASTLE__GATEWAY__DNS", &*dns),
    ];
    let up = Up::start_with(&settings);
    let to = |node: String| json!({ "nodes": { node: 1 } });
    let silent = to(format!("node.silent.test:{}", echo.port()));
    up.put("/routes/silent", json!({ "uri": "/silent", "upstream": silent })).await;
    up.put("/routes/other", json!({ "uri": "/other", "upstream": to(echo.address().to_string()) })).await;
    up.answers("/other", 200).await;
    let mut waiting = Raw::connect(up.http).await.unwrap();
    waiting.send("GET /silent HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    eventually("the resolver is asked", async || resolver.asked("node.silent.test") > 0).await;
    for _ in 0..20 {
        assert_eq!(server(&up.get("/other").await), "other");
    }
    assert_eq!(resolver.asked("node.silent.test"), 1, "it is still waited for");
    drop(waiting);
    up.kill();
}
