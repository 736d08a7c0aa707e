//! `docs/spec/stream.md`, as far as it is not tested in `stream`, with what speaks TCP and UDP in earnest.

use super::upstream::ring;
use super::{Shared, in_force, with};
use crate::openssl::s_client;
use crate::stream::{Gateway, SOON, connect, echo, server, talk};
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Call, TempDir, eventually, nowhere};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpSocket;

/// A gateway with a listener for each test, which its routes name by `server_port`, and a log of all sessions.
pub(super) struct Sessions {
    gateway: Gateway,
    log: PathBuf,
    _dir: TempDir,
}

impl Deref for Sessions {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

/// Every variable of §6, in JSON.
const VARIABLES: [&str; 40] = [
    "remote_addr",
    "remote_port",
    "realip_remote_addr",
    "realip_remote_port",
    "server_addr",
    "server_port",
    "protocol",
    "connection",
    "status",
    "bytes_received",
    "bytes_sent",
    "session_time",
    "upstream_addr",
    "upstream_bytes_sent",
    "upstream_bytes_received",
    "upstream_connect_time",
    "upstream_first_byte_time",
    "upstream_session_time",
    "stream_listen_addr",
    "upstream_unresolved_host",
    "balancer_ip",
    "balancer_port",
    "route_id",
    "route_name",
    "service_id",
    "service_name",
    "hostname",
    "pid",
    "msec",
    "time_iso8601",
    "time_local",
    "proxy_protocol_addr",
    "proxy_protocol_server_port",
    "ssl_protocol",
    "ssl_cipher",
    "ssl_curve",
    "ssl_server_name",
    "ssl_session_reused",
    "ssl_client_verify",
    "mqtt_client_id",
];

async fn sessions() -> Arc<Sessions> {
    static SESSIONS: Shared<Sessions> = Shared::new();
    SESSIONS
        .get(async || {
            let dir = TempDir::new();
            let log = dir.path().join("sessions.log");
            let members = VARIABLES.map(|name| format!("\"{name}\":\"${name}\""));
            let format = format!("{{{}}}", members.join(","));
            let own = [
                ("MILECASTLE__GATEWAY__NGINX_CONFIG__STREAM__ENABLE_ACCESS_LOG", "true"),
                ("MILECASTLE__GATEWAY__NGINX_CONFIG__STREAM__ACCESS_LOG", log.to_str().unwrap()),
                ("MILECASTLE__GATEWAY__NGINX_CONFIG__STREAM__ACCESS_LOG_FORMAT", &*format),
                ("MILECASTLE__GATEWAY__NGINX_CONFIG__STREAM__ACCESS_LOG_FORMAT_ESCAPE", "json"),
            ];
            let tcp = (0..16).map(|_| json!("127.0.0.1:0")).chain([json!("0.0.0.0:0"), json!("127.0.0.1:0")]);
            let tls = json!({ "addr": "127.0.0.1:0", "tls": true });
            let proxied = json!({ "addr": "127.0.0.1:0", "proxy_protocol": true });
            let tcp: Vec<Value> = tcp.chain([tls, proxied]).collect();
            let mut gateway = Gateway::start(&tcp, &[json!("127.0.0.1:0")], &own);
            for announced in
                ["could not be connected", "is unhealthy", "no node of this upstream", "protocol", "A TCP session"]
            {
                gateway.up.process.announce(announced);
            }
            Sessions { gateway, log, _dir: dir }
        })
        .await
}

impl Sessions {
    /// The listener of a test.
    fn port(&self, number: usize) -> SocketAddr {
        self.all("TCP")[number]
    }

    /// Writes objects, and waits until they are in force.
    async fn put(&self, objects: impl IntoIterator<Item = (String, Value)>) {
        for (path, body) in objects {
            self.up.put(&path, body).await;
        }
        in_force(&self.up).await;
    }

    /// Waits for the first line of the log that fits.
    async fn logged(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let found = || {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).find(|line| fits(line))
        };
        eventually(what, async || found().is_some()).await;
        found().unwrap()
    }
}

/// A stream route on a listener.
fn route(id: &str, at: SocketAddr, more: Value) -> (String, Value) {
    (format!("/stream_routes/{id}"), with(json!({ "server_port": at.port() }), more))
}

fn to(node: SocketAddr) -> Value {
    json!({ "upstream": { "nodes": { node.to_string(): 1 } } })
}

/// What is said to a client that says `x`.
fn said(at: SocketAddr) -> String {
    String::from_utf8(talk(at, b"x").unwrap_or_default()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_2_1_a_route_of_a_superior_is_no_entry() {
    let sessions = sessions().await;
    let (at, elsewhere) = (sessions.port(0), sessions.port(15));
    sessions
        .put([route("21-superior", elsewhere, with(to(nowhere()), json!({ "protocol": { "name": "redis" } })))])
        .await;
    let below = json!({ "protocol": { "name": "redis", "superior_id": "21-superior" } });
    sessions.put([route("21-a", at, with(to(echo("below:")), below)), route("21-b", at, to(echo("entry:")))]).await;
    assert_eq!(said(at), "entry:x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_2_3_routes_are_looked_through_in_their_order_and_nothing_is_more_specific() {
    let sessions = sessions().await;
    let at = sessions.port(1);
    let specific = json!({ "remote_addr": "127.0.0.1", "server_addr": "127.0.0.1" });
    // Of those that fit the smaller id wins, whenever it was written (docs/compatibility.md).
    sessions.put([route("23-b", at, with(to(echo("b:")), specific)), route("23-a", at, to(echo("a:")))]).await;
    assert_eq!(said(at), "a:x");
    // One with a name is for TLS alone.
    sessions.put([route("23-a", at, with(to(echo("a:")), json!({ "sni": "a.test" })))]).await;
    assert_eq!(said(at), "b:x");
}

/// What a client of an address of this machine hears.
async fn heard(from: [u8; 4], at: SocketAddr) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = socket.connect(at).await.unwrap().into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    let ask = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(SOON)).unwrap();
        drop(stream.write_all(b"x"));
        drop(stream.shutdown(std::net::Shutdown::Write));
        let mut all = String::new();
        drop(stream.read_to_string(&mut all));
        all
    };
    ask(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_2_4_all_conditions_that_are_given_must_hold() {
    let sessions = sessions().await;
    let at = sessions.port(16);
    let on = |id: &str, name: &'static str, more: Value| route(id, at, with(to(echo(name)), more));
    sessions
        .put([
            on("24-a", "both:", json!({ "remote_addr": "127.24.0.0/16", "server_addr": "127.0.0.24" })),
            on("24-b", "client:", json!({ "remote_addr": "127.24.0.1" })),
            on("24-c", "local:", json!({ "server_addr": "127.0.0.0/27" })),
            (
                "/stream_routes/24-0".to_owned(),
                with(to(echo("port:")), json!({ "server_port": 1, "remote_addr": "127.24.0.1" })),
            ),
        ])
        .await;
    let local = |last: u8| SocketAddr::from(([127, 0, 0, last], at.port()));
    for (from, local, expected) in [
        ([127, 24, 0, 1], local(24), "both:x"),
        ([127, 24, 0, 1], local(25), "client:x"),
        ([127, 24, 0, 2], local(25), "local:x"),
        ([127, 24, 0, 2], local(24), "both:x"),
        ([127, 25, 0, 1], local(24), "local:x"),
        ([127, 25, 0, 1], local(32), ""),
    ] {
        assert_eq!(heard(from, local).await, expected, "{from:?} at {local}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_2_5_without_a_route_nothing_is_said() {
    let sessions = sessions().await;
    let at = sessions.port(2);
    let mut stream = connect(at);
    drop(stream.write_all(b"x"));
    let mut all = Vec::new();
    drop(stream.read_to_end(&mut all));
    assert_eq!(all, b"");
    // A datagram is dropped: no answer comes, and the metric says why.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let unrouted = async || sessions.metric("apisix_stream_unrouted_total").await.unwrap_or_default();
    let before = unrouted().await;
    socket.send_to(b"x", sessions.at("UDP")).unwrap();
    eventually("it is counted", async || unrouted().await > before).await;
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 8]).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_3_1_where_a_route_has_its_upstream_from() {
    let sessions = sessions().await;
    let at = [3, 4, 5, 6, 7].map(|number| sessions.port(number));
    let object = |name: &'static str| json!({ "nodes": { echo(name).to_string(): 1 } });
    let closes = json!({ "ip-restriction": { "blacklist": ["127.0.0.1"] } });
    let opens = json!({ "ip-restriction": { "whitelist": ["127.0.0.1"] } });
    let put = |path: &str, body: Value| (path.to_owned(), body);
    sessions
        .put([
            put("/upstreams/s31", object("object:")),
            put("/upstreams/s31-gone", object("gone:")),
            put("/services/s31", json!({ "upstream": object("service:"), "plugins": closes })),
            put("/services/s31-id", json!({ "upstream_id": "s31" })),
        ])
        .await;
    sessions
        .put([
            route("31-id", at[0], with(to(echo("inline:")), json!({ "upstream_id": "s31" }))),
            route("31-gone", at[1], with(to(echo("inline:")), json!({ "upstream_id": "s31-gone" }))),
            // Its plugin counts before that of the service, and its own upstream too.
            route("31-service", at[2], json!({ "service_id": "s31", "plugins": opens })),
            route("31-closed", at[3], json!({ "service_id": "s31" })),
            route("31-own", at[4], with(to(echo("own:")), json!({ "service_id": "s31-id" }))),
        ])
        .await;
    assert_eq!(sessions.up.admin("DELETE", "/upstreams/s31-gone?force=true", None).await.status, 200);
    in_force(&sessions.up).await;
    assert_eq!(at.map(said), ["object:x", "", "service:x", "", "own:x"]);
    sessions.put([route("31-own", at[4], json!({ "service_id": "s31-id" }))]).await;
    assert_eq!(said(at[4]), "object:x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_3_2_a_plugin_chooses_another_upstream() {
    let sessions = sessions().await;
    let at = sessions.port(8);
    let split = |port: u16| {
        let chosen = json!({ "upstream": { "nodes": { echo("chosen:").to_string(): 1 } }, "weight": 1 });
        let vars = json!([["server_port", "==", port.to_string()]]);
        json!({ "traffic-split": { "rules": [{ "match": [{ "vars": vars }], "weighted_upstreams": [chosen] }] } })
    };
    sessions.put([route("32", at, with(to(echo("own:")), json!({ "plugins": split(at.port()) })))]).await;
    assert_eq!(said(at), "chosen:x");
    sessions.put([route("32", at, with(to(echo("own:")), json!({ "plugins": split(1) })))]).await;
    assert_eq!(said(at), "own:x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_3_4_the_same_key_has_the_same_nodes_in_the_same_order() {
    let sessions = sessions().await;
    // The addresses are none that other tests have on this listener.
    let (port, client) = (sessions.port(16).port(), |n: usize| [127, 34, 0, u8::try_from(n).unwrap() + 1]);
    let own = port.to_string();
    // `None`: the client's address.
    let table = [
        (json!({ "key": "remote_addr" }), None),
        (json!({ "key": "server_addr" }), Some("127.0.0.34".to_owned())),
        (json!({ "hash_on": "vars_combinations", "key": "$server_port" }), Some(own.clone())),
        (
            json!({ "hash_on": "vars_combinations", "key": "$server_addr:${server_port}" }),
            Some(format!("127.0.0.34:{own}")),
        ),
        (json!({ "key": "mqtt_client_id" }), None),
        (json!({ "hash_on": "header", "key": "X-Key" }), None),
        (json!({ "hash_on": "consumer" }), None),
    ];
    // Nobody is there, so that a session tries all of them in the order of the ring.
    let nodes = ["127.77.34.1:1", "127.77.34.1:2", "127.77.34.1:3", "127.77.34.1:4"];
    let weights: serde_json::Map<String, Value> = nodes.map(|node| (node.to_owned(), json!(1))).into_iter().collect();
    let of_client = |(n, (key, _)): (usize, &(Value, Option<String>))| {
        let upstream = with(json!({ "type": "chash", "nodes": weights }), key.clone());
        let from = client(n).map(|part| part.to_string()).join(".");
        let route = json!({ "server_port": port, "remote_addr": from, "upstream": upstream });
        (format!("/stream_routes/34-{n}"), route)
    };
    sessions.put(table.iter().enumerate().map(of_client)).await;
    for (n, (upstream, key)) in table.iter().enumerate() {
        assert_eq!(heard(client(n), ([127, 0, 0, 34], port).into()).await, "");
        let line = sessions.logged("a line", |line| line["route_id"] == format!("34-{n}")).await;
        let key = key.clone().unwrap_or_else(|| line["remote_addr"].as_str().unwrap().to_owned());
        let tried: Vec<&str> = line["upstream_addr"].as_str().unwrap().split(", ").collect();
        assert_eq!(tried, ring(&nodes.map(|node| (node, 1)), &key), "{upstream} of {key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_3_6_a_session_that_fails_is_a_failure_of_its_node() {
    let sessions = sessions().await;
    let (at, dead, good) = (sessions.port(9), nowhere(), echo("good:"));
    let passive = json!({ "type": "tcp", "unhealthy": { "tcp_failures": 1 } });
    let checks = json!({ "active": { "type": "tcp" }, "passive": passive });
    let nodes = json!({ dead.to_string(): 1, good.to_string(): 1 });
    let upstream = json!({ "upstream": { "nodes": nodes, "retries": 0, "scheme": "tcp", "checks": checks } });
    sessions.put([route("36", at, upstream)]).await;
    let status = async |port: u16| {
        let shown =
            Call::get("/v1/healthcheck/stream_routes/36").to(sessions.up.control).await.unwrap().json().unwrap();
        let nodes = shown["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().find(|node| node["port"] == port).map(|node| node["status"].clone())
    };
    eventually("the dead node is out", async || {
        said(at);
        status(dead.port()).await == Some(json!("unhealthy"))
    })
    .await;
    assert_eq!(status(good.port()).await, Some(json!("healthy")));
    assert!((0..8).all(|_| said(at) == "good:x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_4_plugins_of_sessions() {
    let sessions = sessions().await;
    let at = sessions.port(10);
    let restricted =
        |meta: Value| json!({ "plugins": { "ip-restriction": with(json!({ "blacklist": ["127.0.0.1"] }), meta) } });
    sessions.put([route("4", at, with(to(echo("in:")), restricted(json!({}))))]).await;
    assert_eq!(said(at), "", "a plugin closes the session before the upstream hears of it");
    sessions.put([route("4", at, with(to(echo("in:")), restricted(json!({ "_meta": { "disable": true } }))))]).await;
    assert_eq!(said(at), "in:x");
    let unknown = with(to(nowhere()), json!({ "plugins": { "limit-count": {} } }));
    let answer = sessions.up.admin("PUT", "/stream_routes/4-unknown", Some(&unknown)).await;
    let said = answer.json().unwrap()["error_msg"].as_str().unwrap().to_owned();
    assert!(answer.status == 400 && said.starts_with("unknown plugin [limit-count]"), "{said}");
    // In the order of their priorities.
    let listed = sessions.up.admin("GET", "/plugins/list?subsystem=stream", None).await.json().unwrap();
    let expected = ["ip-restriction", "limit-conn", "mqtt-proxy", "long-connections", "traffic-split", "syslog"];
    assert_eq!(listed, json!(expected));
}

/// Its rules are kept, and what it asks for is not done: such a session is closed (docs/compatibility.md).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_5_a_protocol_is_not_spoken_so_the_session_is_closed() {
    let sessions = sessions().await;
    let at = sessions.port(11);
    for protocol in ["redis", "dubbo"] {
        let more = json!({ "protocol": { "name": protocol } });
        sessions.put([route("5", at, with(to(echo("never:")), more))]).await;
        assert_eq!(said(at), "", "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_6_2_variables_of_the_log() {
    let sessions = sessions().await;
    let (at, node) = (sessions.port(12), echo("n:"));
    let service = json!({ "name": "of s62" });
    sessions.put([("/services/s62".to_owned(), service)]).await;
    let more = json!({ "name": "named", "service_id": "s62",
        "upstream": { "nodes": { format!("localhost:{}", node.port()): 1 } } });
    sessions.put([route("62", at, more)]).await;
    assert_eq!(said(at), "n:x");
    let line = sessions.logged("a line", |line| line["route_id"] == "62").await;
    let port = at.port().to_string();
    for (name, expected) in [
        ("remote_addr", "127.0.0.1"),
        ("realip_remote_addr", "127.0.0.1"),
        ("server_addr", "127.0.0.1"),
        ("server_port", &*port),
        ("protocol", "TCP"),
        ("status", "200"),
        ("bytes_received", "1"),
        ("bytes_sent", "3"),
        ("upstream_addr", &*node.to_string()),
        ("upstream_bytes_sent", "1"),
        ("upstream_bytes_received", "3"),
        ("stream_listen_addr", &*at.to_string()),
        ("upstream_unresolved_host", "localhost"),
        ("balancer_ip", "127.0.0.1"),
        ("balancer_port", &*node.port().to_string()),
        ("route_name", "named"),
        ("service_id", "s62"),
        ("service_name", "of s62"),
        ("pid", &*sessions.up.process.id().to_string()),
    ] {
        assert_eq!(line[name], expected, "{name}: {line}");
    }
    assert_eq!(line["remote_port"], line["realip_remote_port"]);
    for number in [
        "remote_port",
        "connection",
        "session_time",
        "upstream_connect_time",
        "upstream_first_byte_time",
        "upstream_session_time",
        "msec",
    ] {
        assert!(line[number].as_str().unwrap().parse::<f64>().is_ok_and(|figure| figure >= 0.0), "{number}: {line}");
    }
    for text in ["hostname", "time_iso8601", "time_local"] {
        assert!(!line[text].as_str().unwrap().is_empty(), "{text}: {line}");
    }
    for none in ["proxy_protocol_addr", "ssl_protocol", "ssl_server_name", "mqtt_client_id"] {
        assert_eq!(line[none], "", "{none}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_6_2_variables_of_tls_of_the_proxy_header_and_of_plugins() {
    let sessions = sessions().await;
    let (tls, proxied, plain) = (sessions.at("TLS"), sessions.at("PROXY+TCP"), sessions.port(17));
    let identity = Authority::new("s62").issue(&["s62.test"]);
    let mqtt = json!({ "plugins": { "mqtt-proxy": { "protocol_level": 4 } } });
    let served = server(|mut stream| {
        if stream.read_exact(&mut [0; 6]).is_ok() {
            drop(stream.write_all(b"served"));
        }
    });
    sessions
        .put([
            ("/ssls/s62".to_owned(), json!({ "cert": identity.cert, "key": identity.key, "sni": "s62.test" })),
            route("62-tls", tls, to(served)),
            route("62-proxied", proxied, to(echo("p:"))),
            route("62-mqtt", plain, with(to(echo("m:")), mqtt)),
        ])
        .await;
    let options = ["-quiet", "-tls1_3", "-groups", "P-256"];
    assert_eq!(s_client(tls, Some("s62.test"), &options, "hello\n").as_deref(), Some("served"));
    let header = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\nx";
    assert_eq!(talk(proxied, header.as_bytes()).unwrap(), b"p:x");
    // CONNECT of MQTT 3.1.1 whose client calls itself `sensor`.
    let connect = b"\x10\x12\0\x04MQTT\x04\x02\0\x3c\0\x06sensor";
    assert_eq!(talk(plain, connect).unwrap(), [&b"m:"[..], connect].concat());
    for (id, expected) in [
        (
            "62-tls",
            &[
                ("ssl_protocol", "TLSv1.3"),
                ("ssl_curve", "prime256v1"),
                ("ssl_server_name", "s62.test"),
                ("ssl_session_reused", "."),
                ("ssl_client_verify", "NONE"),
            ][..],
        ),
        ("62-proxied", &[("proxy_protocol_addr", "192.0.2.7"), ("proxy_protocol_server_port", "80")]),
        ("62-mqtt", &[("mqtt_client_id", "sensor")]),
    ] {
        let line = sessions.logged(id, |line| line["route_id"] == id).await;
        for (name, value) in expected {
            assert_eq!(line[name], *value, "{name}: {line}");
        }
        assert_eq!(line["ssl_cipher"].as_str().unwrap().is_empty(), id != "62-tls", "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_6_3_statuses_of_sessions() {
    let sessions = sessions().await;
    let (at, unrouted) = (sessions.port(13), sessions.port(14));
    let mqtt = json!({ "plugins": { "mqtt-proxy": { "protocol_level": 4 } } });
    let refused = json!({ "plugins": { "ip-restriction": { "blacklist": ["127.0.0.1"] } } });
    let good = server(|mut stream| drop(stream.write_all(b"good")));
    for (id, members, status) in [
        ("63-good", to(good), "200"),
        ("63-client", with(to(good), mqtt), "400"),
        ("63-refused", with(to(good), refused), "403"),
        ("63-unspoken", with(to(good), json!({ "protocol": { "name": "redis" } })), "500"),
        ("63-dead", to(nowhere()), "502"),
        ("63-none", json!({ "upstream": { "nodes": {} } }), "503"),
    ] {
        // One at a time on the listener.
        sessions.put([route(id, at, members)]).await;
        said(at);
        let line = sessions.logged(id, |line| line["route_id"] == id).await;
        assert_eq!(line["status"], status, "{id}: {line}");
        assert_eq!(sessions.up.admin("DELETE", &format!("/stream_routes/{id}"), None).await.status, 200);
        in_force(&sessions.up).await;
    }
    said(unrouted);
    let port = unrouted.port().to_string();
    let line = sessions.logged("a session without a route", |line| line["server_port"] == *port).await;
    assert_eq!((&line["status"], &line["route_id"]), (&json!("403"), &json!("")));
}
