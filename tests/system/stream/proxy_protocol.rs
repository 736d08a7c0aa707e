//! The PROXY protocol, in front of us and behind us, with the servers that speak it.

use super::tls::ssl;
use super::{Gateway, echo, server, talk, with_file};
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Call, Echo, Process, SOON, Target, TempDir, eventually, free_port};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;

/// A server that gives back all it gets.
fn recorder() -> SocketAddr {
    server(|mut stream| {
        let mut all = Vec::new();
        drop(stream.read_to_end(&mut all));
        drop(stream.write_all(&all));
    })
}

/// Listeners of all four kinds, whose peers are believed.
fn entries() -> Vec<Value> {
    let entry = |accept: bool, send: bool| json!({ "addr": "127.0.0.1:0", "proxy_protocol": accept, "proxy_protocol_to_upstream": send });
    vec![entry(false, false), entry(true, false), entry(false, true), entry(true, true)]
}

const TRUST: (&str, &str) = ("MILECASTLE__GATEWAY__NGINX_CONFIG__STREAM__REAL_IP_FROM", "[127.0.0.1]");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_1_accepting_and_sending_the_proxy_protocol_in_all_four_ways() {
    let gateway = Gateway::start(&entries(), &[], &[TRUST]);
    let (plain, proxied) = (gateway.all("TCP"), gateway.all("PROXY+TCP"));
    let (neither, accepts, sends, both) = (plain[0], proxied[0], plain[1], proxied[1]);
    gateway.route("1", recorder(), json!({})).await;
    gateway.eventually_passes(neither).await;
    let header = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n";
    let text = |at: SocketAddr, bytes: String| String::from_utf8(talk(at, bytes.as_bytes()).unwrap()).unwrap();
    assert_eq!(text(neither, format!("{header}hello")), format!("{header}hello"));
    assert_eq!(text(accepts, format!("{header}hello")), "hello");
    let sent = text(sends, "hello".into());
    let port = sends.port();
    assert!(
        sent.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && sent.ends_with(&format!(" {port}\r\nhello")),
        "{sent}"
    );
    let named = format!("PROXY TCP4 192.0.2.7 127.0.0.1 4711 {}\r\nhello", both.port());
    assert_eq!(text(both, format!("{header}hello")), named);
    // In pieces, and in version 2.
    let mut stream = super::connect(both);
    for byte in header.bytes().chain(*b"hello") {
        stream.write_all(&[byte]).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, named);
    let version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x12\x67\0\x50hello";
    assert_eq!(talk(both, version_2).unwrap(), named.as_bytes());
    // Whoever has to send a header and does not is not served, and hears nothing.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4 192.0.2.7\r\n", b"PROXY", b""] {
        assert_eq!(talk(both, bytes).unwrap_or_default(), b"", "{}", bytes.escape_ascii());
    }
    eventually("they are counted", async || {
        gateway.metric("apisix_bad_proxy_headers_total").await.is_some_and(|count| count >= 4.0)
    })
    .await;
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_2_goes_upstream_where_it_is_asked_for() {
    let entry = |more: Value| {
        let mut entry = json!({ "addr": "127.0.0.1:0", "proxy_protocol": true, "proxy_protocol_to_upstream": true });
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry
    };
    let version = ("MILECASTLE__GATEWAY__APISIX__PROXY_PROTOCOL__TCP_PP_TO_UPSTREAM_VERSION", "v2");
    let entries = [entry(json!({})), entry(json!({ "proxy_protocol_to_upstream_version": "v1" }))];
    let gateway = Gateway::start(&entries, &[], &[TRUST, version]);
    let proxied = gateway.all("PROXY+TCP");
    gateway.route("1", recorder(), json!({})).await;
    let header = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\nhello";
    let said = |at: SocketAddr| talk(at, header.as_bytes()).unwrap_or_default();
    eventually("the route", async || !said(proxied[0]).is_empty()).await;
    let port = proxied[0].port().to_be_bytes();
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x12\x67";
    assert_eq!(said(proxied[0]), [&binary[..], &port, b"hello"].concat());
    assert!(said(proxied[1]).starts_with(b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 "));
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_header_of_a_stranger_is_taken_off_and_not_believed() {
    let gateway = Gateway::start(&entries(), &[], &[]);
    let both = gateway.all("PROXY+TCP")[1];
    gateway.route("1", recorder(), json!({})).await;
    let header = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\nhello";
    eventually("the route", async || talk(both, header.as_bytes()).is_ok_and(|said| !said.is_empty())).await;
    let said = String::from_utf8(talk(both, header.as_bytes()).unwrap()).unwrap();
    assert!(said.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && said.ends_with("\r\nhello"), "{said}");
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_believed_header_decides_about_the_route_and_for_plugins() {
    let gateway = Gateway::start(&entries(), &[], &[TRUST]);
    let accepts = gateway.all("PROXY+TCP")[0];
    gateway.route("1", echo("near:"), json!({ "remote_addr": "192.0.2.0/24" })).await;
    let plugins = json!({ "ip-restriction": { "blacklist": ["203.0.113.9"] } });
    gateway.route("2", echo("far:"), json!({ "plugins": plugins })).await;
    let from = |ip: &str| {
        let said = talk(accepts, format!("PROXY TCP4 {ip} 198.51.100.1 4711 80\r\nx").as_bytes());
        String::from_utf8(said.unwrap_or_default()).unwrap()
    };
    eventually("the routes", async || from("192.0.2.7") == "near:x" && from("203.0.113.8") == "far:x").await;
    assert_eq!(from("203.0.113.9"), "");
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_in_front_and_nginx_behind() {
    let gateway = Gateway::start(&entries(), &[], &[TRUST]);
    let both = gateway.all("PROXY+TCP")[1];
    let (front, behind) = (free_port(), free_port());
    let dir = TempDir::new();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n  access_log off;\n  \
         client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; \
         scgi_temp_path {dir}/s;\n  server {{ listen 127.0.0.1:{behind} proxy_protocol; location / {{ return 200 \
         \"$proxy_protocol_addr $proxy_protocol_server_port\"; }} }}\n}}\n",
        dir = dir.path().display(),
    );
    let file = dir.write("nginx.conf", config);
    let mut nginx = Command::new("nginx");
    nginx.arg("-p").arg(dir.path()).arg("-c").arg(file).args(["-e", "stderr"]);
    let _nginx = Process::start("nginx", nginx);
    let (_config, file) = with_file(
        "haproxy.cfg",
        &format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\nfrontend f\n  bind \
             127.0.0.1:{front}\n  default_backend b\nbackend b\n  source 127.0.0.5\n  server s {both} send-proxy-v2\n",
        ),
    );
    let mut haproxy = Command::new("haproxy");
    haproxy.args(["-db", "-f", &file]);
    let _haproxy = Process::start("haproxy", haproxy);
    gateway.route("1", ([127, 0, 0, 1], behind).into(), json!({})).await;
    // The gateway's peer is 127.0.0.5 and not believed: nginx hears of HAProxy, unless that is trusted too.
    let ask = || talk(([127, 0, 0, 1], front).into(), b"GET / HTTP/1.0\r\n\r\n");
    eventually("an answer through all three", async || {
        ask().is_ok_and(|said| String::from_utf8_lossy(&said).ends_with(&format!("127.0.0.5 {}", both.port())))
    })
    .await;
    gateway.up.stop();
    let trusted = ("MILECASTLE__GATEWAY__NGINX_CONFIG__STREAM__REAL_IP_FROM", "[127.0.0.0/8]");
    // nginx reads either version.
    for version in ["v1", "v2"] {
        let entry = json!({
            "addr": both.to_string(), "proxy_protocol": true, "proxy_protocol_to_upstream": true,
            "proxy_protocol_to_upstream_version": version,
        });
        let gateway = Gateway::start(&[entry], &[], &[trusted]);
        gateway.route("1", ([127, 0, 0, 1], behind).into(), json!({})).await;
        eventually("nginx hears of the client", async || {
            ask().is_ok_and(|said| String::from_utf8_lossy(&said).ends_with(&format!("127.0.0.1 {}", both.port())))
        })
        .await;
        gateway.up.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_behind_the_proxy_protocol() {
    let upstream = Echo::start();
    let mut gateway = Gateway::start(
        &[json!("127.0.0.1:0")],
        &[],
        &[("MILECASTLE__GATEWAY__APISIX__PROXY_PROTOCOL__LISTEN_HTTP_PORT", "0")],
    );
    let proxied: SocketAddr = ([127, 0, 0, 1], gateway.at("PROXY+HTTP").port()).into();
    let body = json!({ "uri": "/*", "upstream": { "nodes": { upstream.address().to_string(): 1 } } });
    gateway.up.put("/routes/1", body).await;
    gateway.up.answers("/", 200).await;
    upstream.take();
    let request = "GET /who HTTP/1.1\r\nHost: h\r\nX-Real-IP: 10.9.9.9\r\nConnection: close\r\n\r\n";
    let mut stream = super::connect(proxied);
    stream.write_all(format!("PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n{request}").as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let received = upstream.take();
    // What a believed proxy says of its client counts, and what that client says of itself does not.
    assert_eq!(received[0].header("x-real-ip"), ["192.0.2.7"]);
    assert_eq!(received[0].header("x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(talk(proxied, request.as_bytes()).unwrap_or_default(), b"");
    assert!(upstream.take().is_empty());
    gateway.up.process.wait_for_line("the banner", SOON, |line| line.contains("PROXY+HTTP").then_some(()));
    gateway.up.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_begins_behind_the_header() {
    let upstream = Echo::start();
    let entry = json!({ "addr": "127.0.0.1:0", "tls": true, "proxy_protocol": true });
    let https = ("MILECASTLE__GATEWAY__APISIX__PROXY_PROTOCOL__LISTEN_HTTPS_PORT", "0");
    let gateway = Gateway::start(&[entry], &[], &[https, TRUST]);
    let requests: SocketAddr = ([127, 0, 0, 1], gateway.at("PROXY+HTTPS").port()).into();
    let sessions = gateway.at("PROXY+TLS");
    let authority = Authority::new("tests");
    gateway.up.put("/ssls/1", ssl(&authority.issue(&["a.test"]), &["a.test"])).await;
    gateway.route("1", upstream.address(), json!({ "remote_addr": "192.0.2.0/24" })).await;
    let seen = "$remote_addr $proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port $server_protocol";
    let shows = json!({ "response-rewrite": { "headers": { "set": { "X-Seen": seen } } } });
    let nodes = json!({ "nodes": { upstream.address().to_string(): 1 } });
    gateway.up.put("/routes/1", json!({ "uri": "/*", "upstream": nodes, "plugins": shows })).await;
    gateway.up.answers("/", 200).await;
    let version_1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n";
    let version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x12\x67\0\x50";
    let to = |at: SocketAddr| Target::tls(at, "a.test", &authority.pem());
    let ask = async |target: Target| {
        let mut connection = target.connect().await.unwrap();
        Call::get("/x").header("host", "a.test").send(&mut connection).await.unwrap()
    };
    for header in [&version_1[..], version_2] {
        let target = to(requests).behind(header);
        for (target, protocol) in [(target.clone(), "HTTP/1.1"), (target.http2(), "HTTP/2.0")] {
            let answer = ask(target).await;
            let expected = format!("192.0.2.7 192.0.2.7:4711 198.51.100.1:80 {protocol}");
            assert_eq!((answer.status, answer.header("x-seen")), (200, expected));
        }
        assert_eq!(ask(to(sessions).behind(header)).await.status, 200);
    }
    for at in [requests, sessions] {
        assert!(to(at).connect().await.is_err(), "without a header nothing is served");
    }
    gateway.up.stop();
}
