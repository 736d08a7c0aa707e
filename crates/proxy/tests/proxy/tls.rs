//! TLS with clients and upstreams.

use crate::support::{Bed, Scripted, object, route_to};
use milecastle_model::{Kind, Object};
use milecastle_settings::{Ssl, Time};
use milecastle_testkit::tls::{Authority, Identity, client_config};
use milecastle_testkit::{Answer, Call, Echo, Target};
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

fn ssl(id: &str, identity: &Identity, more: Value) -> Object {
    let mut body = json!({ "cert": identity.cert, "key": identity.key });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object(Kind::Ssl, id, body)
}

struct Site {
    echo: Echo,
    authority: Authority,
}

impl Site {
    fn new() -> Self {
        Self { echo: Echo::start(), authority: Authority::new("authority") }
    }

    fn objects(&self, ssls: Vec<Object>) -> Vec<Object> {
        let mut objects = route_to(&[self.echo.address()], json!({}));
        objects.extend(ssls);
        objects
    }

    fn target(&self, bed: &Bed, name: &str) -> Target {
        Target::tls(bed.https, name, &self.authority.pem())
    }
}

async fn get(target: &Target) -> anyhow::Result<Answer> {
    let mut connection = target.connect().await?;
    Call::get("/large/10").send(&mut connection).await
}

#[test]
fn the_certificate_follows_the_name() {
    let site = Site::new();
    let exact = site.authority.issue(&["one.example"]);
    let wild = site.authority.issue(&["*.wild.example"]);
    let ssls = vec![
        ssl("exact", &exact, json!({ "snis": ["one.example"] })),
        ssl("wild", &wild, json!({ "snis": ["*.wild.example"] })),
    ];
    let mut bed = Bed::new(site.objects(ssls));
    bed.run(async {
        assert_eq!(get(&site.target(&bed, "one.example")).await.unwrap().status, 200);
        assert_eq!(get(&site.target(&bed, "a.wild.example")).await.unwrap().status, 200);
        for unknown in ["two.example", "a.b.wild.example", "wild.example"] {
            assert!(site.target(&bed, unknown).connect().await.is_err(), "{unknown}");
        }
        let h2 = get(&site.target(&bed, "one.example").http2()).await.unwrap();
        assert_eq!((h2.version, h2.body.len()), (http::Version::HTTP_2, 10));
    });
    assert!(bed.totals().tls_failures >= 3);
    assert_eq!(site.echo.take()[0].header("x-forwarded-proto"), ["https"]);
    // A change is live at the next handshake.
    let two = site.authority.issue(&["two.example"]);
    bed.publish(site.objects(vec![ssl("exact", &two, json!({ "snis": ["two.example"] }))]));
    bed.run(async {
        assert!(site.target(&bed, "one.example").connect().await.is_err());
        assert_eq!(get(&site.target(&bed, "two.example")).await.unwrap().status, 200);
    });
}

#[test]
fn many_answers_over_one_http2_connection() {
    let site = Site::new();
    let identity = site.authority.issue(&["one.example"]);
    let bed = Bed::new(site.objects(vec![ssl("s", &identity, json!({ "snis": ["one.example"] }))]));
    bed.run(async {
        let mut connection = site.target(&bed, "one.example").http2().connect().await.unwrap();
        for size in [0, 1, 100, 70_000, 2_000_000] {
            let answer = Call::get(&format!("/large/{size}")).send(&mut connection).await.unwrap();
            assert_eq!(answer.body.len(), size);
        }
    });
}

/// Sends a request over a connection of its own; whether its session was resumed. `None`: there is no answer.
fn resumed(bed: &Bed, client: &Arc<ClientConfig>) -> Option<bool> {
    let mut session = ClientConnection::new(client.clone(), "one.example".try_into().unwrap()).unwrap();
    let mut socket = TcpStream::connect(bed.https).unwrap();
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: one.example\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    answer.starts_with(b"HTTP/1.1 200").then(|| session.handshake_kind() == Some(HandshakeKind::Resumed))
}

#[test]
fn sessions_are_resumed_as_the_settings_say() {
    let site = Site::new();
    let identity = site.authority.issue(&["one.example"]);
    type Change = fn(&mut Ssl);
    let table: [(&str, Change, [bool; 2]); 6] = [
        ("by default", |_| {}, [true, true]),
        ("none is remembered", |ssl| ssl.ssl_session_cache = 0, [false, false]),
        ("none lasts", |ssl| ssl.ssl_session_timeout = Time::secs(0), [false, false]),
        ("TLS 1.3 has no tickets", |ssl| ssl.ssl_num_tickets = 0, [true, false]),
        ("tickets", |ssl| (ssl.ssl_session_tickets, ssl.ssl_session_cache) = (true, 0), [true, true]),
        (
            "no ticket lasts",
            |ssl| (ssl.ssl_session_tickets, ssl.ssl_session_timeout) = (true, Time::secs(0)),
            [false, false],
        ),
    ];
    for (what, change, expected) in table {
        let found = ["TLSv1.2", "TLSv1.3"].map(|version| {
            let object = json!({ "snis": ["one.example"], "ssl_protocols": [version] });
            let bed = Bed::with(site.objects(vec![ssl("s", &identity, object)]), |all| change(&mut all.apisix.ssl));
            let client = client_config(&site.authority.pem(), None, &[]);
            assert_eq!(resumed(&bed, &client), Some(false), "{what}, {version}");
            resumed(&bed, &client)
        });
        assert_eq!(found, expected.map(Some), "{what}");
    }
}

/// It would be resumed with the certificate that it began with, whatever the client shows by now.
#[test]
fn no_session_is_resumed_where_clients_are_asked_for_certificates() {
    let site = Site::new();
    let own = Authority::new("clients");
    let identity = site.authority.issue(&["one.example"]);
    let client = client_config(&site.authority.pem(), Some(&own.issue(&["client"])), &[]);
    for asked in [json!({ "ca": own.pem() }), json!({ "ca": own.pem(), "skip_mtls_uri_regex": ["^/x"] })] {
        for (version, tickets) in [("TLSv1.2", false), ("TLSv1.2", true), ("TLSv1.3", false), ("TLSv1.3", true)] {
            let object = json!({ "snis": ["one.example"], "ssl_protocols": [version], "client": asked });
            let objects = site.objects(vec![ssl("s", &identity, object)]);
            let bed = Bed::with(objects, |settings| settings.apisix.ssl.ssl_session_tickets = tickets);
            for _ in 0..2 {
                assert_eq!(resumed(&bed, &client), Some(false), "{version}, tickets: {tickets}");
            }
        }
    }
}

#[test]
fn clients_show_certificates_where_they_must() {
    let site = Site::new();
    let own = Authority::new("clients");
    let identity = site.authority.issue(&["one.example", "two.example"]);
    let ask = json!({ "snis": ["one.example", "two.example"], "client": { "ca": own.pem() } });
    let bed = Bed::new(site.objects(vec![ssl("s", &identity, ask)]));
    bed.run(async {
        let with = |identity: &Identity| site.target(&bed, "one.example").with_identity(identity);
        assert_eq!(get(&with(&own.issue(&["client"]))).await.unwrap().status, 200);
        assert!(get(&site.target(&bed, "one.example")).await.is_err());
        assert!(get(&with(&site.authority.issue(&["client"]))).await.is_err());
        // The host must be the name that the certificate was asked for under.
        let mut connection = with(&own.issue(&["client"])).connect().await.unwrap();
        let other = Call::get("/").header("host", "two.example").send(&mut connection).await.unwrap();
        assert_eq!(other.status, 400);
    });
    let skipping = json!({ "snis": ["one.example"], "client": { "ca": own.pem(), "skip_mtls_uri_regex": ["^/open"] } });
    let bed = Bed::new(site.objects(vec![ssl("s", &identity, skipping)]));
    bed.run(async {
        let mut connection = site.target(&bed, "one.example").connect().await.unwrap();
        let call = async |path: &str, connection: &mut _| {
            Call::get(path).header("host", "one.example").send(connection).await.unwrap().status
        };
        assert_eq!(call("/open/x", &mut connection).await, 200);
        assert_eq!(call("/closed", &mut connection).await, 400);
        let mut connection =
            site.target(&bed, "one.example").with_identity(&own.issue(&["client"])).connect().await.unwrap();
        assert_eq!(call("/closed", &mut connection).await, 200);
    });
}

#[test]
fn upstreams_over_tls_see_the_name_of_the_host() {
    let authority = Authority::new("unknown to the gateway");
    let echo = Echo::tls("secure", &authority.issue(&["inner.example"]));
    let scheme = json!({ "scheme": "https", "pass_host": "rewrite", "upstream_host": "inner.example:443" });
    let bed = Bed::new(route_to(&[echo.address()], json!({ "upstream": scheme })));
    for _ in 0..3 {
        let answer = bed.get("/x");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json().unwrap()["sni"], "inner.example");
    }
    assert_eq!(echo.connections(), 1);
    assert_eq!(bed.get("/large/1000000").body.len(), 1_000_000);
    let plain = Scripted::new(|stream, _| drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
    let bed = Bed::new(route_to(&[plain.addr], json!({ "upstream": { "scheme": "https" } })));
    assert_eq!(bed.get("/").status, 502);
}

#[test]
fn hosts_that_clients_choose_keep_no_other_ones_connection_out() {
    let echo = Echo::tls("secure", &Authority::new("servers").issue(&["often.test"]));
    let objects = route_to(&[echo.address()], json!({ "upstream": { "scheme": "https" } }));
    let bed = Bed::with(objects, |settings| settings.upstream_pool.idle_connections = 4);
    for host in ["1.test", "2.test", "3.test", "4.test", "often.test", "often.test", "5.test", "often.test"] {
        assert_eq!(bed.call(Call::get("/x").header("host", host)).status, 200);
    }
    assert_eq!(echo.connections(), 6);
}

/// A sixteenth of them makes room together.
#[test]
fn each_connection_that_makes_room_is_counted() {
    let echo = Echo::tls("secure", &Authority::new("servers").issue(&["any.test"]));
    let objects = route_to(&[echo.address()], json!({ "upstream": { "scheme": "https" } }));
    let bed = Bed::with(objects, |settings| settings.upstream_pool.idle_connections = 32);
    for n in 0..=32 {
        assert_eq!(bed.call(Call::get("/x").header("host", &format!("{n}.test"))).status, 200);
    }
    bed.wait_totals("two of them", |totals| totals.idle_connections_cut == 2);
}
