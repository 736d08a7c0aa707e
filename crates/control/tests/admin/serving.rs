//! The listeners themselves: pages beside the Admin API, starting and stopping.

use crate::gateway::{Gateway, KEY, bare, on_both};
use milecastle_settings::{IpPort, Size, Time};
use milecastle_testkit::raw::exchange;
use milecastle_testkit::{Call, Target, eventually, hosts_of_each_family};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};

on_both!(pages_of_the_dashboard, readiness_follows_the_database, the_compatible_listener_serves_the_admin_api_alone);

async fn pages_of_the_dashboard(gw: Gateway) {
    let get = async |path: &str| Call::get(path).to(gw.address()).await.unwrap();
    let root = get("/").await;
    assert!(root.status == 200 && root.text().contains("/apisix/admin"));
    assert_eq!((get("/healthz").await.status, get("/readyz").await.status), (200, 200));
    let version = get("/api/version").await.json().unwrap();
    assert_eq!(format!("Milecastle/{}", version["value"].as_str().unwrap()), milecastle_control::SERVER);
    gw.send("GET /nope").await;
    let page = get("/metrics").await.text();
    assert!(page.contains(r#"control_admin_requests_total{method="GET",status="404"} 1"#), "{page}");
    assert!(page.contains("control_group_revision{group=\"default\"} 0\n"), "{page}");
    assert!(page.contains("control_group_objects{group=\"default\"} 0\n"), "{page}");
    assert_eq!(get("/nothing").await.status, 404);
    assert_eq!(get("/api/openapi.json").await.status, 401);
    let document = Call::get("/api/openapi.json").header("x-api-key", KEY).to(gw.address()).await.unwrap();
    assert_eq!((document.status, &*document.text()), (200, include_str!("../../../../docs/openapi.json")));
}

async fn readiness_follows_the_database(gw: Gateway) {
    gw.store.close().await;
    let ready = Call::get("/readyz").to(gw.address()).await.unwrap();
    assert!(ready.status == 503 && ready.text().contains("database"), "{}", ready.text());
    assert_eq!(Call::get("/healthz").to(gw.address()).await.unwrap().status, 200);
}

async fn the_compatible_listener_serves_the_admin_api_alone(_: Gateway) {
    let gw = Gateway::configured(|settings| settings.admin.enable = true).await;
    let address = gw.dashboard.admin_address().unwrap();
    assert_eq!(gw.call("GET /routes").to(address).await.unwrap().status, 200);
    assert_eq!(bare("GET /routes").to(address).await.unwrap().status, 401);
    assert_eq!(Call::get("/metrics").to(address).await.unwrap().status, 404);
}

#[tokio::test]
async fn one_list_of_addresses_is_for_all_bases_of_the_dashboards_port() {
    let gw = Gateway::configured(|settings| {
        settings.admin.allow_admin_on_dashboard = vec!["192.0.2.0/24".parse().unwrap()];
    })
    .await;
    let inside = gw
        .replica_with(|settings| settings.admin.allow_admin_on_dashboard = vec!["127.0.0.0/8".parse().unwrap()])
        .await;
    for path in [
        "/api/nodes",
        "/api/session/methods",
        "/apisix/admin/routes",
        "/api7/api/version",
        "/api7/api/gateway_groups",
        "/api7/apisix/admin/routes",
    ] {
        for key in [KEY, ""] {
            let call = || Call::get(path).header("x-api-key", key);
            assert_eq!(call().to(gw.address()).await.unwrap().status, 403, "{path}: key or not");
            assert_ne!(call().to(inside.address()).await.unwrap().status, 403, "{path}");
        }
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(Call::get(path).to(gw.address()).await.unwrap().status, 200, "{path}: of probes nothing is asked");
    }
}

#[tokio::test]
async fn listeners_of_either_family_or_both() {
    // Of whom comes over IPv4 a socket for both says `::ffff:127.0.0.1`: the list means the address itself.
    for (host, from) in hosts_of_each_family("listeners at") {
        let gw = Gateway::configured(|settings| {
            (settings.server.listen.host, settings.admin.enable) = (host.parse().unwrap(), true);
            settings.admin.admin_listen = IpPort { ip: host.parse().unwrap(), port: 0 };
            settings.admin.allow_admin_on_dashboard = vec!["127.0.0.0/8".parse().unwrap()];
            settings.admin.allow_admin = vec!["127.0.0.0/8".parse().unwrap()];
        })
        .await;
        for listener in [gw.address(), gw.dashboard.admin_address().unwrap()] {
            assert_eq!(listener.ip(), host.parse::<IpAddr>().unwrap());
            for &ip in from {
                let answer = gw.call("GET /routes").to(SocketAddr::new(ip, listener.port())).await.unwrap();
                let expected = if ip.is_ipv4() { 200 } else { 403 };
                assert_eq!(answer.status, expected, "{host} from {ip}");
            }
        }
    }
}

#[tokio::test]
async fn connections_that_limits_end_are_counted() {
    let gw = Gateway::configured(|settings| {
        (settings.limits.connections, settings.limits.header_bytes) = (4, Size::kib(8));
        settings.limits.header_timeout = Time::millis(500);
    })
    .await;
    let large = bare("GET /routes").header("x-large", &"x".repeat(9 << 10)).to(gw.address()).await.unwrap();
    assert_eq!(large.status, 431);
    let silent: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(gw.address()).unwrap()).collect();
    for why in ["head_size", "place", "head_time"] {
        let line = format!("control_http_connections_ended_total{{why=\"{why}\"}} ");
        eventually(&line, async || {
            let page = Call::get("/metrics").to(gw.address()).await.unwrap().text();
            let counted = page.lines().find_map(|found| found.strip_prefix(&line)?.parse::<u64>().ok());
            counted.is_some_and(|counted| counted > 0)
        })
        .await;
    }
    drop(silent);
}

/// A plain body in the shape of `/api`; the Admin API answers in its own (§2 step 9).
#[tokio::test]
async fn bodies_that_are_too_large_or_too_slow_are_refused_in_the_shape_of_each_api() {
    let gw = Gateway::configured(|settings| {
        (settings.admin.max_body, settings.admin.body_timeout) = (Size::kib(1), Time::millis(300));
    })
    .await;
    let call = Call::post("/api/gateway_groups", vec![b' '; 2 << 20]).header("x-api-key", KEY);
    let large = call.to(gw.address()).await.unwrap();
    let body = large.json().unwrap();
    assert_eq!((large.status, &body["code"]), (413, &json!("body_too_large")));
    let message = "the body of the request is larger than the 1024 bytes that are taken (admin.max_body)";
    assert_eq!(body["message"], message);
    assert!(body["request_id"].is_string() && body["error_msg"].is_null(), "{body}");
    for (path, status, text) in [
        ("/api/gateway_groups", "408", r#""code":"body_too_slow""#),
        ("/apisix/admin/routes", "400", r#"{"error_msg":"invalid request body: it did not arrive in time"}"#),
    ] {
        let slow = format!("POST {path} HTTP/1.1\r\nHost: a\r\nX-API-KEY: {KEY}\r\nContent-Length: 10\r\n\r\n{{");
        let answer = exchange(gw.address(), slow).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(text), "{answer}");
    }
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_frees_the_port() {
    let gw = Gateway::sqlite().await;
    let address = gw.address();
    let mut kept = Target::plain(address).connect().await.unwrap();
    let answer = bare("GET /routes").header("x-api-key", KEY).send(&mut kept).await.unwrap();
    assert_eq!(answer.status, 200);
    gw.dashboard.stop().await;
    assert!(bare("GET /routes").send(&mut kept).await.is_err());
    assert!(Target::plain(address).connect().await.is_err());
}

#[tokio::test]
async fn who_waits_at_the_door_when_it_closes_is_served() {
    let gw = Gateway::sqlite().await;
    let address = gw.address();
    // The system lets them in, and nothing in this process has a turn before the end begins.
    let mut waiting: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            stream
        })
        .collect();
    gw.dashboard.stop().await;
    for stream in &mut waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let gw = Gateway::sqlite().await;
    let error = gw.start_again_on_its_port().await.err().unwrap().to_string();
    assert!(error.contains(&gw.address().to_string()) && error.contains("server.listen"), "{error}");
}
