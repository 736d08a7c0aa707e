//! TLS that ends at the gateway, and TLS towards upstreams.

use super::{Gateway, with_file};
use crate::openssl;
use milecastle_testkit::tls::{Authority, Identity};
use milecastle_testkit::{Call, Echo, eventually, raw};
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

/// What `openssl s_client` gets to read after it has sent `text`; `None` if there is no handshake.
pub(super) fn s_client(at: SocketAddr, name: &str, text: &str, more: &[&str]) -> Option<String> {
    openssl::s_client(at, Some(name), &[&["-quiet"][..], more].concat(), text)
}

pub(super) fn ssl(identity: &Identity, snis: &[&str]) -> Value {
    json!({ "cert": identity.cert, "key": identity.key, "snis": snis })
}

/// A server that answers one line, and then ends.
pub(super) fn liner(name: &'static str) -> SocketAddr {
    use std::io::{BufRead as _, BufReader};
    super::server(move |stream| {
        let mut line = String::new();
        drop(BufReader::new(&stream).read_line(&mut line));
        drop((&stream).write_all(format!("{name}:{line}").as_bytes()));
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_2_2_sessions_are_told_apart_by_server_name() {
    let gateway = Gateway::start(&[json!({ "addr": "127.0.0.1:0", "tls": true })], &[], &[]);
    let at = gateway.at("TLS");
    let authority = Authority::new("tests");
    let identity = authority.issue(&["a.test", "*.a.test", "*.b.a.test", "*.w.a.test", "other.test"]);
    gateway.up.put("/ssls/1", ssl(&identity, &["a.test", "*.a.test", "*.b.a.test", "*.w.a.test", "other.test"])).await;
    for (id, sni, name) in [("1", "*.a.test", "wide"), ("2", "*.b.a.test", "narrow"), ("3", "x.b.a.test", "exact")] {
        gateway.route(id, liner(name), json!({ "sni": sni })).await;
    }
    // One whose other conditions do not hold is passed over, for the next of its name, and for the next name.
    let elsewhere = |sni: &str| json!({ "sni": sni, "remote_addr": "192.0.2.1" });
    gateway.route("00", liner("elsewhere"), elsewhere("x.b.a.test")).await;
    gateway.route("01", liner("elsewhere"), elsewhere("z.b.a.test")).await;
    gateway.route("0", liner("any"), json!({})).await;
    let ask = |name: &str| s_client(at, name, "hello\n", &[]).unwrap_or_default();
    eventually("the exact name", async || ask("x.b.a.test") == "exact:hello\n").await;
    assert_eq!(ask("y.b.a.test"), "narrow:hello\n");
    assert_eq!(ask("z.b.a.test"), "narrow:hello\n");
    assert_eq!(ask("v.w.a.test"), "wide:hello\n", "several labels");
    assert_eq!(ask("y.a.test"), "wide:hello\n");
    assert_eq!(ask("other.test"), "any:hello\n", "routes without a name come last");
    assert_eq!(s_client(at, "other.test", "hello\n", &["-alpn", "mqtt"]).unwrap_or_default(), "any:hello\n");
    assert_eq!(s_client(at, "unknown.test", "hello\n", &[]), None, "there is no certificate");
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_6_2_a_client_certificate_is_part_of_the_handshake_of_sessions() {
    let gateway = Gateway::start(&[json!({ "addr": "127.0.0.1:0", "tls": true })], &[], &[]);
    let at = gateway.at("TLS");
    let (authority, stranger) = (Authority::new("tests"), Authority::new("others"));
    let identity = authority.issue(&["a.test", "open.test"]);
    // Exceptions are for paths, of which sessions have none.
    let asked = json!({ "ca": authority.pem() });
    let excepted = json!({ "ca": authority.pem(), "skip_mtls_uri_regex": ["^/open/"] });
    for (id, name, client) in [("1", "a.test", asked), ("2", "open.test", excepted)] {
        let mut object = ssl(&identity, &[name]);
        object["client"] = client;
        gateway.up.put(&format!("/ssls/{id}"), object).await;
    }
    gateway.route("1", liner("in"), json!({})).await;
    let with = |name: &str, identity: Identity| {
        let (cert_dir, cert) = with_file("cert.pem", &identity.cert);
        let (key_dir, key) = with_file("key.pem", &identity.key);
        let said = s_client(at, name, "hello\n", &["-cert", &cert, "-key", &key]).unwrap_or_default();
        drop((cert_dir, key_dir));
        said
    };
    for name in ["a.test", "open.test"] {
        eventually("the right certificate", async || with(name, authority.issue(&["client"])) == "in:hello\n").await;
        assert_eq!(with(name, stranger.issue(&["client"])), "", "{name}");
        assert_eq!(s_client(at, name, "hello\n", &[]).unwrap_or_default(), "", "{name}");
    }
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_takes_too_long_is_counted() {
    let timeout = ("MILECASTLE__GATEWAY__TIMEOUTS__TLS_HANDSHAKE", "100ms");
    let gateway = Gateway::start(&[json!({ "addr": "127.0.0.1:0", "tls": true })], &[], &[timeout]);
    let silent = TcpStream::connect(gateway.at("TLS")).unwrap();
    let hits = "apisix_limit_hits_total{limit=\"timeouts.tls_handshake\"}";
    eventually("it is counted", async || gateway.metric(hits).await.is_some_and(|hits| hits >= 1.0)).await;
    drop(silent);
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_3_3_tls_towards_an_upstream_carries_the_clients_name_or_the_stock_one() {
    let entries = [json!("127.0.0.1:0"), json!({ "addr": "127.0.0.1:0", "tls": true })];
    let gateway = Gateway::start(&entries, &[], &[]);
    let (plain, tls) = (gateway.at("TCP"), gateway.at("TLS"));
    let authority = Authority::new("tests");
    let identity = authority.issue(&["a.test"]);
    gateway.up.put("/ssls/1", ssl(&identity, &["a.test"])).await;
    // A second gateway's listener shows which name came, by its routes.
    let behind = Gateway::start(&[json!({ "addr": "127.0.0.1:0", "tls": true })], &[], &[]);
    let names = ["a.test", "apisix_backend"];
    behind.up.put("/ssls/1", ssl(&authority.issue(&names), &names)).await;
    behind.route("1", liner("named"), json!({ "sni": "a.test" })).await;
    behind.route("2", liner("stock"), json!({ "sni": "apisix_backend" })).await;
    let upstream = json!({ "nodes": { behind.at("TLS").to_string(): 1 }, "scheme": "tls" });
    gateway.up.put("/stream_routes/1", json!({ "upstream": upstream })).await;
    eventually("the stock name", async || super::talk(plain, b"hello").is_ok_and(|said| said == b"stock:hello")).await;
    assert_eq!(s_client(tls, "a.test", "hello\n", &[]).unwrap_or_default(), "named:hello\n");
    gateway.up.stop();
    behind.up.stop();
}

/// The node ends each handshake, as some servers do under a name that they do not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_handshakes_count_where_the_name_is_not_the_clients() {
    let entries = [json!("127.0.0.1:0"), json!({ "addr": "127.0.0.1:0", "tls": true })];
    let mut gateway = Gateway::start(&entries, &[], &[]);
    for told in ["could not be connected", "is unhealthy", "no node of this upstream is healthy"] {
        gateway.up.process.announce(told);
    }
    let (plain, tls) = (gateway.at("TCP"), gateway.at("TLS"));
    gateway.up.put("/ssls/1", ssl(&Authority::new("tests").issue(&["a.test"]), &["a.test"])).await;
    let checks =
        json!({ "active": {}, "passive": { "type": "tcp", "unhealthy": { "tcp_failures": 1, "fail_timeout": 3600 } } });
    let node = super::server(drop);
    let upstream = json!({ "nodes": { node.to_string(): 1 }, "scheme": "tls", "checks": checks });
    gateway.up.put("/stream_routes/1", json!({ "upstream": upstream })).await;
    let is = async |status: &str| {
        let call = Call::get("/v1/healthcheck/stream_routes/1").to(gateway.up.control);
        call.await.unwrap().json().unwrap()["nodes"][0]["status"] == status
    };
    let ask = || s_client(tls, "a.test", "hello\n", &[]).unwrap_or_default();
    eventually("the node is asked", async || ask().is_empty() && is("healthy").await).await;
    assert_eq!([ask(), ask()], ["", ""]);
    assert!(is("healthy").await);
    drop(super::talk(plain, b"hello"));
    eventually("the node is taken out", async || is("unhealthy").await).await;
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_upstreams_of_sessions_are_verified_where_that_is_asked_for() {
    let (known, stranger) = (Authority::new("known"), Authority::new("stranger"));
    let (_dir, file) = with_file("ca.pem", &known.pem());
    let trusted = ("MILECASTLE__GATEWAY__APISIX__SSL__SSL_TRUSTED_CERTIFICATE", &*file);
    let mut gateway = Gateway::start(&[json!("127.0.0.1:0")], &[], &[trusted]);
    gateway.up.process.announce("a node of a stream route's upstream could not be connected");
    let at = gateway.at("TCP");
    let answers = async || {
        let said = raw::exchange(at, "GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        said.is_ok_and(|said| said.starts_with("HTTP/1.1 200"))
    };
    for (authority, is_known) in [(&known, true), (&stranger, false)] {
        let echo = Echo::tls("secure", &authority.issue(&["apisix_backend"]));
        let upstream = json!({ "nodes": { echo.address().to_string(): 1 }, "scheme": "tls" });
        gateway.up.set_group(&["--verify-upstreams", "off"]);
        gateway.up.put("/stream_routes/1", json!({ "upstream": upstream })).await;
        eventually("the node answers", async || answers().await).await;
        gateway.up.set_group(&["--verify-upstreams", "required"]);
        assert_eq!(answers().await, is_known);
    }
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_show_an_upstream_the_certificate_that_is_meant_for_it() {
    let mut gateway = Gateway::plain();
    gateway.up.process.announce("a node of a stream route's upstream could not be connected");
    let at = gateway.at("TCP");
    let clients = Authority::new("clients");
    let [own, named] = ["own", "named"].map(|name| clients.issue(&[name]));
    let secure = Echo::mutual_tls("secure", &Authority::new("tests").issue(&["apisix_backend"]), &clients.pem());
    gateway.up.put("/ssls/named", json!({ "type": "client", "cert": named.cert, "key": named.key })).await;
    let ask = async || {
        let said = raw::exchange(at, "GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        said.unwrap_or_default()
    };
    // Whose certificate the upstream has seen.
    let shown = async || {
        let said = ask().await;
        let told: Value = serde_json::from_str(said.split_once("\r\n\r\n")?.1).ok()?;
        told["client"].as_str().map(str::to_owned)
    };
    let upstream = json!({ "nodes": { secure.address().to_string(): 1 }, "scheme": "tls" });
    for (tls, client) in [
        (json!({ "client_cert": own.cert, "client_key": own.key }), "own"),
        (json!({ "client_cert_id": "named" }), "named"),
    ] {
        let mut upstream = upstream.clone();
        upstream["tls"] = tls;
        gateway.up.put("/stream_routes/1", json!({ "upstream": upstream })).await;
        eventually(client, async || shown().await.as_deref() == Some(client)).await;
    }
    gateway.up.put("/stream_routes/1", json!({ "upstream": upstream })).await;
    eventually("without one the session is closed", async || ask().await.is_empty()).await;
    gateway.up.stop();
}
