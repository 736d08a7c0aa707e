//! `docs/spec/upstream-balancing.md`. Its §10 is tested beside what else concerns gRPC, in `upstreams_http2`.

mod balancing;
mod choice;
mod exchange;
mod limits;
mod names;
mod retries;

pub(super) use balancing::ring;

use super::{Shared, Site, with};
use milecastle_testkit::registry::Dnsmasq;
use milecastle_testkit::{Answer, Call};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A gateway of one worker, so that turns and counts are exact, and the resolver that it asks.
pub(super) struct Balancing {
    site: Site,
    _dns: Dnsmasq,
}

impl Deref for Balancing {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

/// What the resolver knows: a name of one address, one of two, an alias, and names of which `/etc/hosts` knows better.
const RECORDS: [&str; 6] = [
    "host-record=one.node.test,127.0.0.1",
    "host-record=two.node.test,127.0.0.31",
    "host-record=two.node.test,127.0.0.32",
    "host-record=both.node.test,127.0.0.33,fd00::33",
    "host-record=six.node.test,::1",
    "cname=alias.node.test,one.node.test",
];

async fn site() -> Arc<Balancing> {
    static SITE: Shared<Balancing> = Shared::new();
    SITE.get(async || {
        let dns = Dnsmasq::start(3600, &RECORDS.map(str::to_owned));
        let resolver = format!("['{}']", dns.address());
        let discovery = json!({ "dns": { "servers": [dns.address().to_string()] } }).to_string();
        let settings = [
            ("MILECASTLE__GATEWAY__WORKERS", "1"),
            ("MILECASTLE__GATEWAY__APISIX__DNS_RESOLVER", &*resolver),
            ("MILECASTLE__GATEWAY__DISCOVERY", &*discovery),
        ];
        let announced = [
            "an upstream node gave no answer",
            "a name ",
            "an upstream's answer broke off",
            "is unhealthy",
            "no node of this upstream is healthy",
            "the certificate to show to this upstream cannot be used",
            "this way of balancing is not known",
            "discovery",
        ];
        Balancing { site: Site::start(&settings, &[], &announced).await, _dns: dns }
    })
    .await
}

/// A route `/{rule}/*` with an upstream of its own.
fn route_to(rule: &str, upstream: Value) -> (String, Value) {
    (format!("/routes/{rule}"), json!({ "uri": format!("/{rule}/*"), "upstream": upstream }))
}

/// Nodes of weight 1.
fn nodes(addresses: &[SocketAddr]) -> Value {
    addresses.iter().map(|address| (address.to_string(), json!(1))).collect::<serde_json::Map<_, _>>().into()
}

/// Nodes of weight 1 in an order that is certain: the earlier ones have a higher priority.
fn in_order(addresses: &[SocketAddr]) -> Value {
    let node = |(n, address): (i64, &SocketAddr)| json!({ "host": address.ip().to_string(), "port": address.port(), "weight": 1, "priority": -n });
    (0..).zip(addresses).map(node).collect()
}

/// The nodes that were tried for an answer.
fn tried(answer: &Answer) -> Vec<String> {
    answer.header("x-nodes").split(", ").filter(|node| !node.is_empty()).map(str::to_owned).collect()
}

/// The name of the echo that gave an answer.
fn server(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json().unwrap()["server"].as_str().unwrap().to_owned()
}

/// All values of a header as an echo upstream has received it.
fn received(answer: &Answer, name: &str) -> Vec<String> {
    let told = answer.json().unwrap();
    let fields = told["headers"].as_array().unwrap().iter();
    let named = fields.filter(|field| field[0].as_str().unwrap().eq_ignore_ascii_case(name));
    named.map(|field| field[1].as_str().unwrap().to_owned()).collect()
}

/// Reads up to the end of a request's head; `None` when the connection ends.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// An upstream that does what it is told with each connection, and counts requests.
struct Scripted {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl Scripted {
    fn new(serve: impl Fn(&mut TcpStream, &str) -> std::io::Result<()> + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicU64::new(0));
        let count = requests.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (serve, count) = (serve.clone(), count.clone());
                std::thread::spawn(move || {
                    while let Some(head) = read_head(&mut stream) {
                        count.fetch_add(1, Ordering::SeqCst);
                        if serve(&mut stream, &head).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, requests }
    }

    /// Takes requests, and closes.
    fn closing() -> Self {
        Self::new(|_, _| Err(std::io::ErrorKind::Other.into()))
    }

    /// Takes requests, and says nothing.
    fn silent() -> Self {
        Self::new(|_, _| Ok(()))
    }

    /// Answers each request with these bytes, and closes.
    fn saying(answer: &'static str) -> Self {
        Self::new(move |stream, _| {
            stream.write_all(answer.as_bytes())?;
            Err(std::io::ErrorKind::Other.into())
        })
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Site {
    async fn call(&self, call: Call) -> Answer {
        call.to(self.up.http).await.unwrap()
    }
}
