//! gRPC upstreams (`docs/spec/upstream-balancing.md` §10) and client certificates towards upstreams (§11), with grpcio as
//! client and server. What grpcio never does is in the tests of the crate `proxy`.

pub(crate) mod peers;

use milecastle_testkit::tls::{Authority, Identity};
use milecastle_testkit::{Call, Echo, Target, eventually, free_port};
use milecastle_tests::Up;
use peers::{Server, ServerTls, call};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// A route of everything to one node of scheme `grpc`, with more attributes of the upstream.
async fn route(up: &Up, node: SocketAddr, more: Value) {
    let mut upstream = json!({ "scheme": "grpc", "nodes": { node.to_string(): 1 } });
    upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    up.put("/routes/r", json!({ "uri": "/*", "upstream": upstream })).await;
    let stored = up.admin("GET", "/routes/r", None).await.json().unwrap();
    let revision = stored["modifiedIndex"].as_u64().unwrap();
    eventually("the route is in force", async || {
        up.metric("apisix_config_revision").await.is_some_and(|now| now >= revision as f64)
    })
    .await;
}

/// A gateway before a gRPC server.
async fn echo() -> (Up, Server) {
    let (up, server) = (Up::start(), Server::start(&[]));
    route(&up, server.address, json!({})).await;
    (up, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unary_calls_carry_metadata_both_ways() {
    let (up, server) = echo().await;
    let asked = json!({ "metadata": [["x-one", "1"], ["x-two", "2"]], "timeout": 30 });
    let ended = call(up.http, "unary", asked).await;
    assert_eq!((&ended["code"], &ended["same"]), (&json!("OK"), &json!(true)), "{ended}");
    assert_eq!((&ended["first"]["x-first"], &ended["last"]["x-last"]), (&json!("1"), &json!("2")), "{ended}");
    let seen = server.says("Unary", |_| true).await;
    assert_eq!((&seen["fields"]["x-one"], &seen["bytes"]), (&json!("1"), &json!(256)), "{seen}");
    assert_eq!(seen["timed"], true, "grpc-timeout passes");
    drop(up.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_ten_thousand_messages_pass_in_every_direction() {
    const COUNT: u64 = 10_000;
    let (up, _server) = echo().await;
    let ended = call(up.http, "server_stream", json!({ "count": COUNT, "size": 100 })).await;
    assert_eq!([&ended["code"], &ended["count"], &ended["in_order"]], [&json!("OK"), &json!(COUNT), &json!(true)]);
    let ended = call(up.http, "client_stream", json!({ "count": COUNT, "size": 100 })).await;
    assert_eq!([&ended["code"], &ended["count"], &ended["bytes"]], [&json!("OK"), &json!(COUNT), &json!(COUNT * 100)]);
    let ended = call(up.http, "bidi", json!({ "count": COUNT, "size": 100 })).await;
    assert_eq!([&ended["code"], &ended["count"], &ended["same"]], [&json!("OK"), &json!(COUNT), &json!(true)]);
    let ended = call(up.http, "bidi", json!({ "count": 1000, "size": 100, "in_turns": true })).await;
    assert_eq!([&ended["code"], &ended["count"], &ended["same"]], [&json!("OK"), &json!(1000), &json!(true)]);
    drop(up.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_sixteen_mebibytes_pass_in_bounded_memory() {
    const SIZE: usize = 16 << 20;
    let (up, _server) = echo().await;
    let ended = call(up.http, "unary", json!({ "size": SIZE })).await;
    assert_eq!((&ended["code"], &ended["same"]), (&json!("OK"), &json!(true)), "{ended}");
    let before = up.process.resident_bytes();
    let ended = call(up.http, "bidi", json!({ "count": 16, "size": SIZE })).await;
    assert_eq!([&ended["code"], &ended["count"], &ended["same"]], [&json!("OK"), &json!(16), &json!(true)]);
    let grown = up.process.resident_bytes().saturating_sub(before);
    eprintln!("256 MiB both ways: resident memory grew by {grown} bytes");
    assert!(grown < 64 << 20, "{grown} bytes");
    drop(up.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_without_a_message_and_half_way_reach_the_client() {
    let (up, _server) = echo().await;
    let ended = call(up.http, "unary", json!({ "method": "Fail" })).await;
    assert_eq!((&ended["code"], &ended["details"]), (&json!("PERMISSION_DENIED"), &json!("not you")), "{ended}");
    let ended = call(up.http, "server_stream", json!({ "count": 3, "size": 10, "code": "ABORTED" })).await;
    assert_eq!(
        [&ended["code"], &ended["details"], &ended["count"]],
        [&json!("ABORTED"), &json!("half-way"), &json!(3)]
    );
    let ended = call(up.http, "unary", json!({ "method": "Missing" })).await;
    assert_eq!(ended["code"], "UNIMPLEMENTED", "{ended}");
    drop(up.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_its_call_along() {
    // Before the head of the answer: its deadline ends the stream.
    let (up, server) = echo().await;
    let ended = call(up.http, "unary", json!({ "method": "Hang", "timeout": 0.5 })).await;
    assert_eq!(ended["code"], "DEADLINE_EXCEEDED", "{ended}");
    server.sees_cancellation().await;
    drop(up.stop());
    // And after it.
    let (up, server) = echo().await;
    assert_eq!(call(up.http, "cancel", json!({})).await["cancelled"], true);
    server.sees_cancellation().await;
    drop(up.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_10_2_the_head_is_written_by_the_rules() {
    let (up, server) = echo().await;
    let asked = json!({ "metadata": [
        ["x-real-ip", "1.2.3.4"], ["x-consumer-username", "admin"], ["x-kept", "1"], ["x-forwarded-for", "9.9.9.9"],
    ] });
    assert_eq!(call(up.http, "unary", asked).await["code"], "OK");
    let fields = server.says("Unary", |_| true).await["fields"].clone();
    assert_eq!([&fields["x-kept"], &fields["x-forwarded-for"]], [&json!("1"), &json!("9.9.9.9")], "{fields}");
    assert_eq!(fields["x-forwarded-proto"], "http", "{fields}");
    assert_eq!(fields["x-forwarded-host"], up.http.to_string(), "{fields}");
    assert_eq!(fields["x-forwarded-port"], up.http.port().to_string(), "{fields}");
    for absent in ["x-real-ip", "x-consumer-username"] {
        assert_eq!(fields[absent], Value::Null, "{fields}");
    }
    drop(up.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_10_3_the_clients_address_is_not_added() {
    let (up, server) = echo().await;
    assert_eq!(call(up.http, "unary", json!({})).await["code"], "OK");
    let fields = server.says("Unary", |_| true).await["fields"].clone();
    assert_eq!([&fields["x-real-ip"], &fields["x-forwarded-for"]], [&Value::Null, &Value::Null], "{fields}");
    let port = up.http.port().to_string();
    let said = ["x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"].map(|name| fields[name].clone());
    assert_eq!(said, [json!("http"), json!(up.http.to_string()), json!(port)], "{fields}");
    drop(up.stop());
}

/// And in clear text in all other tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_10_1_tls_on_both_sides() {
    let authority = Authority::new("test");
    let identity = authority.issue(&["localhost", "inner.test"]);
    let (up, server) = (Up::start(), Server::tls(&ServerTls { identity: &identity, client_ca: None }));
    let host = json!({ "scheme": "grpcs", "pass_host": "rewrite", "upstream_host": "inner.test" });
    route(&up, server.address, host).await;
    up.put("/ssls/1", json!({ "sni": "localhost", "cert": identity.cert, "key": identity.key })).await;
    assert_eq!(call(up.http, "unary", json!({})).await["code"], "OK");
    let site = Target::tls(up.https, "localhost", &authority.pem()).http2();
    eventually("the certificate is served", async || site.connect().await.is_ok()).await;
    let mut connection = site.connect().await.unwrap();
    let answer = message("/test.Echo/Unary").send(&mut connection).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &MESSAGE[..]));
    assert_eq!([&answer.trailers["grpc-status"], &answer.trailers["x-last"]], ["0", "2"]);
    server.says("Unary", |seen| seen["fields"]["x-forwarded-proto"] == "https").await;
    drop(up.stop());
}

/// One gRPC message of three bytes.
const MESSAGE: [u8; 8] = [0, 0, 0, 0, 3, b'a', b'b', b'c'];

fn message(method: &str) -> Call {
    Call::post(method, MESSAGE.to_vec()).header("content-type", "application/grpc").header("te", "trailers")
}

/// Clients of HTTP/1.1 are served as well, and read trailers if they ask for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http1_clients_get_the_trailers_that_they_ask_for() {
    let (up, _server) = echo().await;
    let answer = message("/test.Echo/Unary").to(up.http).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &MESSAGE[..]));
    assert_eq!(answer.trailers["grpc-status"], "0");
    let silent = Call::post("/test.Echo/Unary", MESSAGE.to_vec()).to(up.http).await.unwrap();
    assert_eq!((silent.status, silent.body.len(), silent.trailers.len()), (200, MESSAGE.len(), 0));
    // The content type is set whatever the client says: the server has taken the call.
    let failed = message("/test.Echo/Fail").to(up.http).await.unwrap();
    assert_eq!((failed.status, failed.header("grpc-message")), (200, "not you".to_owned()));
    drop(up.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_10_4_failures_of_the_connection_are_answers_of_http() {
    let (mut up, server) = (Up::start(), Server::start(&[]));
    up.process.announce("an upstream node gave no answer");
    let status = async |method: &str| message(method).to(up.http).await.unwrap().status;
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    route(&up, nobody, json!({})).await;
    assert_eq!(status("/test.Echo/Unary").await, 502, "refused");
    let plain = Echo::start();
    route(&up, plain.address(), json!({})).await;
    assert_eq!(status("/test.Echo/Unary").await, 502, "no HTTP/2");
    route(&up, server.address, json!({ "scheme": "grpcs" })).await;
    assert_eq!(status("/test.Echo/Unary").await, 502, "no TLS");
    route(&up, server.address, json!({ "timeout": { "connect": 1, "send": 1, "read": 0.3 } })).await;
    assert_eq!(status("/test.Echo/Hang").await, 504, "silent");
    server.sees_cancellation().await;
    drop(up.stop());
}

/// Calls go on while the server ends its connections again and again: what it has not looked at is sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_when_the_server_ends_connections() {
    let up = Up::start();
    let server = Server::start(&["grpc.max_connection_age_ms=200", "grpc.max_connection_age_grace_ms=5000"]);
    route(&up, server.address, json!({})).await;
    let seconds = if milecastle_tests::full() { 60 } else { 6 };
    let codes = call(up.http, "load", json!({ "seconds": seconds, "threads": 16 })).await;
    eprintln!("calls in {seconds} s with connections that live 200 ms: {codes}");
    assert_eq!(codes.as_object().unwrap().keys().collect::<Vec<_>>(), ["OK"], "{codes}");
    let opened = up.metric("apisix_upstream_connects_total").await;
    assert!(opened.unwrap() >= f64::from(seconds), "connections were ended and opened anew: {opened:?}");
    drop(up.stop());
}

/// What a client certificate is in an upstream's `tls`.
fn pair(identity: &Identity) -> Value {
    json!({ "client_cert": identity.cert, "client_key": identity.key })
}

/// §11 and §1 as well: the certificate of the upstream's own, and the one that it names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_10_5_grpcs_upstreams_are_shown_a_certificate() {
    let (mut up, servers, clients) = (Up::start(), Authority::new("servers"), Authority::new("clients"));
    up.process.announce("an upstream node gave no answer");
    up.process.announce("the certificate to show to this upstream cannot be used");
    let ca = clients.pem();
    let server = Server::tls(&ServerTls { identity: &servers.issue(&["localhost"]), client_ca: Some(&ca) });
    let [first, second, third] = ["first", "second", "third"].map(|name| clients.issue(&[name]));
    let with = async |tls: Value| route(&up, server.address, json!({ "scheme": "grpcs", "tls": tls })).await;
    let status = async || message("/test.Echo/Unary").to(up.http).await.unwrap().status;
    let shown = async |name: &str| server.says("Unary", |seen| seen["client"] == name).await;

    route(&up, server.address, json!({ "scheme": "grpcs" })).await;
    assert_eq!(status().await, 502, "none");
    with(pair(&first)).await;
    assert_eq!(status().await, 200);
    shown("first").await;
    with(pair(&second)).await;
    // A change counts at once: for the next call.
    assert_eq!(status().await, 200);
    shown("second").await;
    with(pair(&servers.issue(&["stranger"]))).await;
    assert_eq!(status().await, 502, "one that the upstream does not trust");
    with(json!({ "client_cert": first.cert, "client_key": second.key })).await;
    assert_eq!(status().await, 503, "one whose key is another's");

    up.put("/ssls/c", json!({ "type": "client", "cert": first.cert, "key": first.key })).await;
    with(json!({ "client_cert_id": "c" })).await;
    assert_eq!(status().await, 200);
    shown("first").await;
    up.put("/ssls/c", json!({ "type": "client", "cert": third.cert, "key": third.key })).await;
    let is_third = || server.seen().last().is_some_and(|seen| seen["client"] == "third");
    eventually("the new certificate is shown", async || status().await == 200 && is_third()).await;
    up.put("/ssls/c", json!({ "type": "client", "cert": third.cert, "key": first.key })).await;
    eventually("an unusable one is refused", async || status().await == 503).await;
    assert_eq!(up.admin("DELETE", "/ssls/c?force=true", None).await.status, 200);
    eventually("a missing one is refused", async || status().await == 502).await;
    drop(up.stop());
}

/// §11 for `https`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_upstreams_are_shown_a_certificate() {
    let (mut up, servers, clients) = (Up::start(), Authority::new("servers"), Authority::new("clients"));
    up.process.announce("an upstream node gave no answer");
    let echo = Echo::mutual_tls("secure", &servers.issue(&["localhost"]), &clients.pem());
    let with = async |tls: Value| route(&up, echo.address(), json!({ "scheme": "https", "tls": tls })).await;
    let answer = async || Call::get("/x").to(up.http).await.unwrap();
    let client = async || answer().await.json().unwrap()["client"].clone();

    route(&up, echo.address(), json!({ "scheme": "https" })).await;
    assert_eq!(answer().await.status, 502, "none");
    with(pair(&clients.issue(&["first"]))).await;
    assert_eq!(client().await, "first");
    with(pair(&clients.issue(&["second"]))).await;
    assert_eq!(client().await, "second", "a kept connection stands for its own certificate only");
    with(pair(&servers.issue(&["stranger"]))).await;
    assert_eq!(answer().await.status, 502, "one that the upstream does not trust");
    drop(up.stop());
}

/// The switch for nodes that shall not talk to strangers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_upstreams_are_verified_where_that_is_asked_for() {
    let (known, stranger) = (Authority::new("known"), Authority::new("stranger"));
    let dir = milecastle_testkit::TempDir::new();
    let file = dir.write("ca.pem", known.pem());
    let [good, wrong_name, bad] =
        [known.issue(&["inner.test"]), known.issue(&["other.test"]), stranger.issue(&["inner.test"])]
            .map(|identity| Echo::tls("secure", &identity));
    let grpc = [&known, &stranger].map(|authority| {
        let identity = authority.issue(&["inner.test"]);
        Server::tls(&ServerTls { identity: &identity, client_ca: None })
    });
    // What a gateway group says, whether an upstream asks, and whether strangers are refused; by what the node's file says.
    type Cases = &'static [(&'static str, bool, bool)];
    let nodes: [(&str, Cases); 3] = [
        (
            "off",
            &[("off", true, false), ("upstream", false, false), ("upstream", true, true), ("required", false, true)],
        ),
        ("upstream", &[("off", false, false), ("off", true, true)]),
        ("required", &[("off", false, true)]),
    ];
    for (of_node, cases) in nodes {
        let mut up = Up::start_with(&[
            ("MILECASTLE__GATEWAY__UPSTREAM_TLS__VERIFY", of_node),
            ("MILECASTLE__GATEWAY__APISIX__SSL__SSL_TRUSTED_CERTIFICATE", file.to_str().unwrap()),
        ]);
        up.process.announce("an upstream node gave no answer");
        for &(of_group, asks, refused) in cases {
            up.set_group(&["--verify-upstreams", of_group]);
            let towards = async |node, scheme: &str| {
                let tls = json!({ "scheme": scheme, "pass_host": "rewrite", "upstream_host": "inner.test",
                    "tls": { "verify": asks } });
                route(&up, node, tls).await;
            };
            let expected = |is_good: bool| if is_good || !refused { 200 } else { 502 };
            let case = format!("node {of_node}, group {of_group}, asks: {asks}");
            for (echo, is_good) in [(&good, true), (&wrong_name, false), (&bad, false)] {
                towards(echo.address(), "https").await;
                assert_eq!(up.get("/x").await.status, expected(is_good), "{case}, good: {is_good}");
            }
            for (server, is_good) in grpc.iter().zip([true, false]) {
                towards(server.address, "grpcs").await;
                let answer = message("/test.Echo/Unary").to(up.http).await.unwrap();
                assert_eq!(answer.status, expected(is_good), "grpcs, {case}, good: {is_good}");
            }
        }
        drop(up.stop());
    }
}
