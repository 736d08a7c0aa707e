//! HTTP/3 with a client of others (`docs/http3.md`).

pub(crate) mod client;
mod hostile;
mod limits;
mod moves;
mod requests;

use client::Client;
use milecastle_testkit::tls::{Authority, Identity};
use milecastle_testkit::{Call, Echo, Target, eventually};
use milecastle_tests::Up;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

const SIGTERM: i32 = 15;

/// A listener with HTTP/3.
const LISTEN: (&str, &str) =
    ("MILECASTLE__GATEWAY__APISIX__SSL__LISTEN", "[{ip: 127.0.0.1, port: 0, enable_http3: true}]");

/// A gateway with HTTP/3, in front of an upstream.
pub(crate) struct Site {
    pub(crate) up: Up,
    pub(crate) echo: Echo,
    authority: Authority,
}

impl Site {
    /// With a route of everything, and a certificate for `localhost`.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let (up, echo) = (Up::start_with(&[&[LISTEN], settings].concat()), Echo::start());
        let site = Self { up, echo, authority: Authority::new("test") };
        site.route("all", "/*", json!({})).await;
        site.certificate("localhost", &site.authority.issue(&["localhost"]), json!({})).await;
        site
    }

    pub(crate) async fn route(&self, id: &str, uri: &str, plugins: Value) {
        let upstream = json!({ "nodes": { self.echo.address().to_string(): 1 } });
        self.up.put(&format!("/routes/{id}"), json!({ "uri": uri, "plugins": plugins, "upstream": upstream })).await;
        let target = uri.replace('*', "");
        eventually("the route is in force", async || self.up.get(&target).await.status != 404).await;
    }

    /// Puts a certificate for a name in force.
    async fn certificate(&self, name: &str, identity: &Identity, more: Value) {
        let mut ssl = json!({ "sni": name, "cert": identity.cert, "key": identity.key });
        ssl.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let path = format!("/ssls/{}", name.trim_start_matches("*."));
        self.up.put(&path, ssl).await;
        self.in_force(&path).await;
    }

    /// Waits until an object is in force as it is stored.
    async fn in_force(&self, path: &str) {
        let stored = self.up.admin("GET", path, None).await.json().unwrap();
        let revision = stored["modifiedIndex"].as_u64().unwrap();
        eventually("the object is in force", async || self.metric("config_revision").await >= revision).await;
    }

    async fn metric(&self, name: &str) -> u64 {
        self.up.metric(&format!("apisix_{name}")).await.unwrap_or_default() as u64
    }

    /// Requests that the workers have in work.
    async fn in_work(&self) -> u64 {
        self.metric("nginx_http_current_connections{state=\"writing\"}").await
    }

    pub(crate) fn client(&self) -> Client {
        self.client_of("localhost")
    }

    fn client_of(&self, name: &str) -> Client {
        Client::connect(self.up.https.port(), name, &self.authority.pem(), None)
    }

    /// The same port over TCP.
    fn tcp(&self) -> Target {
        Target::tls(self.up.https, "localhost", &self.authority.pem())
    }

    pub(crate) async fn stop(self) {
        tokio::task::spawn_blocking(move || self.up.stop()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_take_the_way_of_all_others() {
    let mut site = Site::start(&[]).await;
    let told = json!({ "response-rewrite": { "headers": { "set": {
        "x-protocol": "$server_protocol", "x-http3": "$http3", "x-sni": "$ssl_server_name", "x-tls": "$ssl_protocol",
    } } } });
    site.route("told", "/told/*", told).await;
    let mut client = site.client();
    let answer = client
        .request("/told/here?a=b", json!({ "headers": [["x-asked", "1"], ["cookie", "a=1"], ["cookie", "b=2"]] }));
    assert_eq!(answer["status"], 200, "{answer}");
    let header = |name: &str| answer["headers"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!(["x-protocol", "x-http3", "x-sni", "x-tls"].map(header), ["HTTP/3.0", "h3", "localhost", "TLSv1.3"]);
    assert!(!header("date").is_empty() && answer["headers"]["connection"].is_null(), "{answer}");
    let seen = site.echo.received().pop().unwrap();
    assert_eq!((seen.method(), seen.target()), ("GET".into(), "/told/here?a=b".into()));
    let sent = ["host", "x-asked", "cookie", "x-forwarded-proto"].map(|name| seen.header(name).join("|"));
    assert_eq!(sent, ["localhost", "1", "a=1; b=2", "https"]);

    let answer = client.request("/large/5000", json!({ "method": "HEAD" }));
    assert_eq!((&answer["status"], &answer["length"]), (&json!(200), &json!(0)), "{answer}");
    assert_eq!(answer["headers"]["content-length"], "5000");
    let answer = client.request("/status/204", json!({}));
    assert_eq!((&answer["status"], &answer["length"]), (&json!(204), &json!(0)), "{answer}");
    let answer = client.request("/chunked", json!({}));
    assert_eq!((&answer["status"], &answer["reset"]), (&json!(200), &Value::Null), "{answer}");
    site.up.process.announce("an upstream's answer broke off");
    assert_eq!(client.request("/cut", json!({}))["reset"], 0x102, "a broken answer does not pass for a whole one");
    site.stop().await;
}

/// An upstream that says in advance what its answer is going to need.
fn hinting() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            while stream.read(&mut head).is_ok_and(|read| read > 0) {
                let answer =
                    b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                drop(stream.write_all(answer));
            }
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_hints_come_before_the_answer() {
    let site = Site::start(&[]).await;
    let upstream = json!({ "nodes": { hinting().to_string(): 1 } });
    site.up.put("/routes/hints", json!({ "uri": "/hints", "upstream": upstream })).await;
    let mut client = site.client();
    eventually("the route is in force", async || client.request("/hints", json!({}))["interim"] == json!([103])).await;
    let answer = client.request("/hints", json!({}));
    assert_eq!((&answer["interim"], &answer["status"]), (&json!([103]), &json!(200)), "{answer}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_pass_both_ways() {
    const SIZE: usize = 1 << 20;
    let site = Site::start(&[]).await;
    let mut client = site.client();
    let body: Vec<u8> = (0..=255).cycle().take(SIZE).collect();
    for headers in [json!([["content-length", SIZE.to_string()]]), json!([])] {
        let answer = client.request("/", json!({ "method": "POST", "size": SIZE, "headers": headers }));
        assert_eq!(answer["status"], 200, "{answer}");
        assert!(site.echo.received().pop().unwrap().body == body, "with {headers}");
    }
    let answer = client.request(&format!("/large/{}", 3 * SIZE), json!({}));
    assert_eq!((&answer["status"], &answer["length"]), (&json!(200), &json!(3 * SIZE)));
    let waiting = json!({ "method": "PUT", "body": "hello", "wait": true, "headers": [["expect", "100-continue"]] });
    let answer = client.request("/", waiting);
    assert_eq!((&answer["interim"], &answer["status"]), (&json!([100]), &json!(200)), "{answer}");
    assert_eq!(&site.echo.received().pop().unwrap().body[..], b"hello");
    let answer = client.request("/", json!({ "method": "PUT", "body": "hello", "trailers": [["x-last", "1"]] }));
    assert_eq!(answer["status"], 200, "{answer}");
    let answer =
        client.request("/", json!({ "method": "POST", "body": "hello", "headers": [["content-length", "6"]] }));
    assert_eq!(answer["status"], 400, "a body of another length than was said: {answer}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_requests_at_once_and_cancelled_ones_share_a_connection() {
    let site = Site::start(&[]).await;
    let mut client = site.client();
    let many = client.ask(json!({ "do": "many", "authority": "localhost", "path": "/large/20000", "count": 100 }));
    assert_eq!(many["statuses"], json!(vec![200; 100]));
    assert_eq!(many["lengths"], json!(vec![20000; 100]));
    for path in ["/hang", "/large/100000000"] {
        let started = client.ask(json!({ "do": "start", "authority": "localhost", "path": path }));
        eventually("the request is in work", async || site.in_work().await == 1).await;
        client.ask(json!({ "do": "give_up", "stream": started["stream"] }));
        eventually("the request is dropped", async || site.in_work().await == 0).await;
    }
    assert_eq!(client.request("/", json!({}))["status"], 200);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_chosen_by_name_and_change_without_a_cut() {
    let site = Site::start(&[]).await;
    site.certificate("*.wild.test", &site.authority.issue(&["*.wild.test"]), json!({})).await;
    let subject = |client: &Client| client.greeting["subject"].as_str().unwrap_or_default().to_owned();
    let mut first = site.client();
    assert_eq!(subject(&first), "CN=localhost", "{}", first.greeting);
    let mut wild = site.client_of("a.wild.test");
    assert_eq!(subject(&wild), "CN=*.wild.test", "{}", wild.greeting);
    assert_eq!(wild.request("/", json!({ "authority": "a.wild.test" }))["status"], 200);
    assert!(site.client_of("b.a.wild.test").greeting["refused"].is_string());

    let renewed = site.authority.issue(&["localhost"]);
    site.certificate("localhost", &renewed, json!({})).await;
    assert_eq!(first.request("/", json!({}))["status"], 200, "the connection goes on");
    let second = site.client();
    assert_ne!(second.greeting["serial"], first.greeting["serial"], "{}", second.greeting);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates_are_asked_for() {
    let mut site = Site::start(&[]).await;
    let clients = Authority::new("clients");
    let ask = json!({ "client": { "ca": clients.pem() } });
    site.certificate("mutual.test", &site.authority.issue(&["mutual.test"]), ask).await;
    let told = json!({ "response-rewrite": { "headers": { "set": { "x-verify": "$ssl_client_verify" } } } });
    site.route("told", "/told/*", told).await;
    let (port, ca) = (site.up.https.port(), site.authority.pem());
    let known = clients.issue(&["someone"]);
    let mut client = Client::connect(port, "mutual.test", &ca, Some(&known));
    let answer = client.request("/told/", json!({ "authority": "mutual.test" }));
    assert_eq!((&answer["status"], &answer["headers"]["x-verify"]), (&json!(200), &json!("SUCCESS")), "{answer}");
    // Under another name the certificate was shown for nobody.
    site.up.process.announce("client certificate verified with SNI");
    assert_eq!(site.client().request("/told/", json!({ "authority": "mutual.test" }))["status"], 400);
    for identity in [None, Some(&site.authority.issue(&["stranger"]))] {
        let mut client = Client::connect(port, "mutual.test", &ca, identity);
        if client.greeting["refused"].is_null() {
            // The client's part of the handshake is over before the gateway has seen its certificate.
            client.begin(&json!({ "do": "over" }));
            let over = client.hear("the refusal");
            assert!(over["closed"].as_u64().is_some_and(|code| code >> 8 == 1), "an alert of TLS: {over}");
        }
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_over_tcp_tell_of_it() {
    let site = Site::start(&[]).await;
    let expected = format!("h3=\":{}\"; ma=86400", site.up.https.port());
    for target in [site.tcp(), site.tcp().http2()] {
        let mut connection = target.connect().await.unwrap();
        let answer = Call::get("/header/Alt-Svc/clear").send(&mut connection).await.unwrap();
        assert_eq!(answer.header("alt-svc"), expected);
    }
    assert_eq!(site.up.get("/").await.header("alt-svc"), "", "not on a port without TLS");
    assert!(site.client().request("/", json!({}))["headers"]["alt-svc"].is_null());
    site.stop().await;
    let site = Site::start(&[("MILECASTLE__GATEWAY__APISIX__SSL__ALT_SVC_MAX_AGE", "0")]).await;
    let mut connection = site.tcp().connect().await.unwrap();
    assert_eq!(Call::get("/").send(&mut connection).await.unwrap().header("alt-svc"), "");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_ends_lets_answers_end() {
    let mut site = Site::start(&[("MILECASTLE__GATEWAY__SHUTDOWN__DRAIN", "60s")]).await;
    let long = crate::upgrades::Long::start();
    let upstream = json!({ "nodes": { long.address.to_string(): 1 } });
    site.up.put("/routes/long", json!({ "uri": "/long", "upstream": upstream })).await;
    let (mut busy, mut idle) = (site.client(), site.client());
    eventually("the route is in force", async || {
        let held = busy.ask(json!({ "do": "hold", "authority": "localhost", "path": "/long" }));
        held["status"] == 200
    })
    .await;
    let held = busy.ask(json!({ "do": "hold", "authority": "localhost", "path": "/long" }));
    assert_eq!(idle.request("/", json!({}))["status"], 200);
    site.up.process.signal(SIGTERM);
    assert_eq!(idle.ask(json!({ "do": "goaway" }))["goaway"], true);
    assert_eq!(idle.ask(json!({ "do": "over" }))["closed"], 0x100);
    assert_eq!(busy.ask(json!({ "do": "goaway" }))["goaway"], true);
    long.end();
    let rest = busy.ask(json!({ "do": "rest", "stream": held["stream"] }));
    assert!(rest["body"].as_str().unwrap().ends_with("end") && rest["reset"].is_null(), "{rest}");
    assert_eq!(busy.ask(json!({ "do": "over" }))["closed"], 0x100);
    assert!(site.up.process.wait_for_end(Duration::from_secs(60)).success());
}
