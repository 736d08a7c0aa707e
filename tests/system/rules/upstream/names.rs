//! How names of nodes are looked up (§2), where the resolvers or the search list are a test's own.

use super::server;
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

/// A resolver that has an answer for each time that it is asked for the address of a name, and none beyond them.
struct Resolver {
    address: SocketAddr,
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

impl Resolver {
    fn start(script: &'static [Say]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::<Mutex<HashMap<_, _>>>::default());
        let counts = asked.clone();
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                // The question (RFC 1035 §4.1.2): labels up to the root, type, class.
                let question = &packet[12..length];
                let root = question.iter().position(|byte| *byte == 0).unwrap();
                let of_address = question[root + 1..root + 3] == [0, 1];
                let name: Vec<u8> = question[1..root].iter().map(|b| if *b < 32 { b'.' } else { *b }).collect();
                let mut counts = counts.lock().unwrap();
                let times = counts.entry(String::from_utf8(name).unwrap()).or_insert(0);
                *times += usize::from(of_address);
                let say = if of_address { script.get(*times - 1) } else { Some(&Say::Failure) };
                let (code, answers) = match say.unwrap_or(&Say::Nothing) {
                    Say::Nothing => continue,
                    Say::Failure => (2, 0),
                    Say::Here => (0, 1),
                };
                let head = [packet[0], packet[1], 0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0];
                let mut answer = [&head[..], &question[..root + 5]].concat();
                if answers == 1 {
                    // The name of the question, A, IN, an hour, four bytes.
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 127, 0, 0, 1]);
                }
                socket.send_to(&answer, from).unwrap();
            }
        });
        Self { address, asked }
    }

    /// How often it was asked for the address of a name.
    fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or_default()
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
