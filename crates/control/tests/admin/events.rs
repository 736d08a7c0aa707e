//! What happens, as clients hear of it.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use milecastle_settings::Time;
use milecastle_store::{Lease, NewEvent, NewPassword, RoleGrant, Term, Topic};
use milecastle_testkit::tls::{Authority, Identity};
use milecastle_testkit::{Answer, Call, SOON, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::gateway::{Gateway, KEY, VIEWER, on_both};

on_both!(
    every_change_is_told_once_on_every_replica,
    a_client_goes_on_where_it_stopped,
    groups_keep_to_themselves,
    a_list_for_those_who_ask_again,
    alarms_of_certificates_are_raised_and_cleared,
    certificates_are_looked_for_wherever_they_stand,
);

/// A client that follows.
struct Follower {
    lines: BufReader<TcpStream>,
    /// The id that it would send when connecting anew.
    last: u64,
}

/// One event.
#[derive(Debug)]
struct Heard {
    event: String,
    data: Value,
}

impl Follower {
    /// With these header lines.
    async fn with(address: SocketAddr, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: t\r\naccept: text/event-stream\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut follower = Self { lines: BufReader::new(stream), last: 0 };
        let status = follower.line().await.unwrap();
        assert!(status.contains(" 200 "), "{status}");
        // It is there, and knows where it stands.
        while follower.last == 0 {
            let line = follower.line().await.expect("a stream begins");
            follower.last = line.strip_prefix("id: ").and_then(|id| id.parse().ok()).unwrap_or(0);
        }
        follower
    }

    async fn of(gw: &Gateway, path: &str) -> Self {
        Self::with(gw.address(), path, &format!("x-api-key: {KEY}\r\n")).await
    }

    /// The next line; `None` at the end.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(SOON, self.lines.read_line(&mut line)).await.expect("a line comes").unwrap_or(0);
        // The last chunk is empty; the connection may go on.
        (read > 0 && line != "0\r\n").then(|| line.trim_end().to_owned())
    }

    /// The next event that is not about replicas; `None` at the end.
    async fn next(&mut self) -> Option<Heard> {
        let (mut event, mut id) = (String::new(), None);
        loop {
            let line = self.line().await?;
            match line.split_once(": ") {
                Some(("id", found)) => id = found.parse().ok(),
                Some(("event", found)) => event = found.to_owned(),
                Some(("data", data)) => {
                    self.last = id.unwrap_or(self.last);
                    if !["member", "leader"].contains(&&*event) {
                        return Some(Heard { event, data: serde_json::from_str(data).unwrap() });
                    }
                }
                _ => self.last = id.unwrap_or(self.last),
            }
        }
    }

    /// The next event of this kind, within a time that is long enough.
    async fn next_of(&mut self, kind: &str) -> Value {
        let found = async {
            loop {
                let heard = self.next().await.expect("a stream that goes on");
                if heard.event == kind {
                    return heard.data;
                }
            }
        };
        timeout(SOON, found).await.unwrap_or_else(|_| panic!("no {kind} came"))
    }

    /// The revisions that it hears of up to this one.
    async fn revisions(&mut self, up_to: u64) -> Vec<u64> {
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last| *last < up_to) {
            heard.push(self.next_of("change").await["revision"].as_u64().unwrap());
        }
        heard
    }
}

async fn write(gw: &Gateway, n: u64) {
    gw.done(&format!(r#"PUT /upstreams/1 {{"nodes":{{}},"desc":"{n}"}}"#)).await;
}

/// Waits until something was told, so that what comes is news.
async fn begun(gw: &Gateway) {
    eventually("somebody leads and tells", async || !gw.store.event_told().await.unwrap().states.is_empty()).await;
}

/// The office of whoever leads.
async fn lease(gw: &Gateway) -> Lease {
    gw.store.lease_get("leader").await.unwrap().unwrap()
}

fn term(lease: &Lease) -> Term<'_> {
    Term { lease: &lease.name, holder: &lease.holder, epoch: lease.epoch }
}

async fn get(gw: &Gateway, key: &str, path: &str) -> Answer {
    Call::get(path).header("x-api-key", key).to(gw.address()).await.unwrap()
}

async fn every_change_is_told_once_on_every_replica(gw: Gateway) {
    let other = gw.replica().await;
    begun(&gw).await;
    let (mut here, mut there) = (Follower::of(&gw, "/api/events").await, Follower::of(&other, "/api/events").await);
    for n in 1..=300 {
        write(if n % 2 == 0 { &gw } else { &other }, n).await;
    }
    let all: Vec<u64> = (1..=300).collect();
    assert_eq!((here.revisions(300).await, there.revisions(300).await), (all.clone(), all));
    assert_eq!(here.last, there.last, "ids mean the same everywhere");
    write(&gw, 301).await;
    let told = here.next_of("change").await;
    let named = ["group", "author", "source", "puts", "deletes"].map(|member| told[member].clone());
    assert_eq!(named, [json!("default"), json!("admin"), json!("api"), json!(1), json!(0)]);
    assert_eq!(told["changes"], json!([{ "op": "update", "kind": "upstream", "id": "1" }]));
    assert_eq!(told["id"].as_u64(), Some(here.last));
}

async fn a_client_goes_on_where_it_stopped(gw: Gateway) {
    let other = gw.replica().await;
    begun(&gw).await;
    let mut first = Follower::of(&gw, "/api/events?kind=change").await;
    write(&gw, 1).await;
    assert_eq!(first.revisions(1).await, [1]);
    let last = first.last;
    drop(first);
    for n in 2..=20 {
        write(&gw, n).await;
    }
    let headers = format!("x-api-key: {KEY}\r\nlast-event-id: {last}\r\n");
    // As a browser does: its old arguments, and where it stands in the header.
    let mut second = Follower::with(other.address(), "/api/events?after=1", &headers).await;
    assert_eq!(second.revisions(20).await, (2..=20).collect::<Vec<_>>());
    // Of what is not kept any more it hears that.
    let lease = lease(&gw).await;
    eventually("the log has but one event", async || {
        gw.store.event_trim(term(&lease), Duration::from_secs(600), 1).await.unwrap();
        gw.store.event_list(0, 10).await.unwrap().events.len() == 1
    })
    .await;
    let third = gw.replica().await;
    // Whoever asks for all that there is leaves nobody in the belief that nothing is missing.
    let all = Call::new(Method::GET, "/api/events?after=0").header("x-api-key", KEY).to(third.address()).await.unwrap();
    assert_eq!((all.status, &all.json().unwrap()["gap"]), (200, &Value::Null));
    let mut late = Follower::with(third.address(), "/api/events", &headers).await;
    assert_eq!(late.next_of("gap").await["after"].as_u64(), Some(last));
}

async fn groups_keep_to_themselves(gw: Gateway) {
    let call = |method, path: &str, body: Value| {
        let call = Call::new(method, path).header("x-api-key", KEY).body(body.to_string());
        call.to(gw.address())
    };
    begun(&gw).await;
    assert_eq!(call(Method::POST, "/api/gateway_groups", json!({ "id": "prod" })).await.unwrap().status, 201);
    let body = json!({ "name": "t", "roles": [{ "role": "viewer", "groups": ["prod"] }] });
    let made = call(Method::POST, "/api/tokens", body).await.unwrap().json().unwrap();
    let (token, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    let mut follower = Follower::with(gw.address(), "/api/events?after=1", &format!("x-api-key: {token}\r\n")).await;
    write(&gw, 1).await;
    gw.done(r#"PUT /upstreams/1?gateway_group_id=prod {"nodes":{}}"#).await;
    let mut heard = Vec::new();
    while heard.last().is_none_or(|kind| kind != "change") {
        let event = follower.next().await.unwrap();
        assert_eq!(event.data["group"], "prod", "{event:?}");
        heard.push(event.event);
    }
    assert_eq!(heard, ["group", "change"]);
    assert_eq!(get(&gw, token, "/api/events?group=prod").await.status, 200);
    assert_eq!(get(&gw, token, "/api/events?group=default").await.status, 403);
    // Nothing after the token is over.
    assert_eq!(call(Method::DELETE, &format!("/api/tokens/{id}"), json!("")).await.unwrap().status, 204);
    let end = loop {
        let heard = follower.next().await.unwrap();
        if heard.event == "end" {
            break heard.data;
        }
        gw.done(r#"PUT /upstreams/1?gateway_group_id=prod {"nodes":{},"desc":"again"}"#).await;
    };
    assert_eq!(end["reason"], "not_allowed");
    assert!(follower.next().await.is_none());
}

async fn a_list_for_those_who_ask_again(gw: Gateway) {
    begun(&gw).await;
    for n in 1..=3 {
        write(&gw, n).await;
    }
    let list = async |arguments: &str| {
        let answer = get(&gw, VIEWER, &format!("/api/events?{arguments}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json().unwrap()
    };
    let revisions = |page: &Value| -> Vec<u64> {
        page["list"].as_array().unwrap().iter().map(|event| event["revision"].as_u64().unwrap()).collect()
    };
    eventually("all are told", async || revisions(&list("kind=change").await) == [1, 2, 3]).await;
    let page = list("kind=change&limit=2").await;
    assert_eq!((revisions(&page), &page["gap"]), (vec![1, 2], &Value::Null));
    let rest = list(&format!("kind=change&after={}", page["next"])).await;
    assert_eq!(revisions(&rest), [3]);
    let none = list(&format!("after={}", rest["next"])).await;
    assert_eq!((none["list"].as_array().unwrap().len(), &none["next"]), (0, &rest["next"]));
    for wrong in ["limit=0", "limit=501", "after=x", "kind=nothing", "follow=perhaps", "follow=true&limit=0"] {
        assert_eq!(get(&gw, KEY, &format!("/api/events?{wrong}")).await.status, 400, "{wrong}");
    }
}

async fn alarms_of_certificates_are_raised_and_cleared(gw: Gateway) {
    begun(&gw).await;
    let mut follower = Follower::of(&gw, "/api/events?kind=alarm&after=1").await;
    let authority = Authority::new("issuer");
    let put = async |days: u64| {
        let Identity { cert, key } = authority.issue_for(&["a.test"], Duration::from_secs(days * 86_400));
        gw.done(&format!("PUT /ssls/1 {}", json!({ "sni": "a.test", "cert": cert, "key": key }))).await;
    };
    let alarms = async || get(&gw, KEY, "/api/alarms").await.json().unwrap();
    put(365).await;
    put(20).await;
    let raised = follower.next_of("alarm").await;
    let named = ["alarm", "state", "object", "days", "group"].map(|member| raised[member].clone());
    assert_eq!(named, [json!("certificate"), json!("raised"), json!("ssls/1"), json!(30), json!("default")]);
    assert_eq!(alarms().await["list"][0]["object"], "ssls/1");
    put(3).await;
    assert_eq!(follower.next_of("alarm").await["days"], 7);
    put(1).await;
    assert_eq!(follower.next_of("alarm").await["days"], 1);
    put(365).await;
    assert_eq!(follower.next_of("alarm").await["state"], "cleared");
    assert_eq!(alarms().await["total"], 0);
}

async fn certificates_are_looked_for_wherever_they_stand(gw: Gateway) {
    let gw = gw.with_streams().await;
    begun(&gw).await;
    let authority = Authority::new("issuer");
    let [soon, later] = [3, 365].map(|days: u64| authority.issue_for(&["a.test"], Duration::from_secs(days * 86_400)));
    let tls = json!({ "client_cert": soon.cert, "client_key": soon.key });
    let upstream = json!({ "scheme": "https", "nodes": { "a:1": 1 }, "tls": tls });
    let inline = json!({ "upstream": upstream });
    let split =
        json!({ "traffic-split": { "rules": [{ "weighted_upstreams": [{ "weight": 1, "upstream": upstream }] }] } });
    let ssl = |more: Value| {
        let mut ssl = json!({ "sni": "a.test", "cert": later.cert, "key": later.key });
        ssl.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ssl
    };
    let within = "/plugins/traffic-split/rules/0/weighted_upstreams/0/upstream/tls/client_cert";
    // One is there when it is looked for them first; of the others the changes are looked at.
    gw.done(&format!("PUT /upstreams/1 {upstream}")).await;
    let mut follower = Follower::of(&gw, "/api/events?kind=alarm&after=1").await;
    for (object, body, path) in [
        ("upstreams/1", upstream.clone(), "/tls/client_cert"),
        ("services/1", inline.clone(), "/upstream/tls/client_cert"),
        ("routes/1", json!({ "uri": "/", "upstream": upstream }), "/upstream/tls/client_cert"),
        ("stream_routes/1", json!({ "server_port": 9100, "upstream": upstream }), "/upstream/tls/client_cert"),
        ("plugin_configs/1", json!({ "plugins": split }), within),
        ("ssls/1", ssl(json!({ "certs": [later.cert, soon.cert], "keys": [later.key, soon.key] })), "/certs/1"),
        ("ssls/1", ssl(json!({ "client": { "ca": soon.cert } })), "/client/ca"),
    ] {
        gw.done(&format!("PUT /{object} {body}")).await;
        let raised = follower.next_of("alarm").await;
        let named = ["alarm", "state", "object", "path", "days"].map(|member| raised[member].clone());
        assert_eq!(named, [json!("certificate"), json!("raised"), json!(object), json!(path), json!(7)]);
        assert!(raised["at"].is_u64(), "when it was told: {raised}");
        gw.done(&format!("DELETE /{object}")).await;
        let cleared = follower.next_of("alarm").await;
        assert_eq!([&cleared["state"], &cleared["object"]], ["cleared", object]);
    }
}

#[tokio::test]
async fn a_stream_is_no_use_of_its_session() {
    let gw = Gateway::configured(|settings| {
        settings.access.session_idle = Time::secs(2);
        settings.event_streams.beat = Time::millis(100);
    })
    .await;
    let hash = milecastle_control::hash_password("correct-horse".to_owned().into()).await;
    let password = NewPassword { hash, must_change: false };
    assert!(gw.by().account_create("ann", &password, &[RoleGrant::everywhere("viewer")]).await.unwrap());
    let body = json!({ "name": "ann", "password": "correct-horse" }).to_string();
    let login = Call::new(Method::POST, "/api/session").header("content-type", "application/json").body(body);
    let login = login.to(gw.address()).await.unwrap();
    let cookie = login.header("set-cookie").split(';').next().unwrap().to_owned();
    let mut follower = Follower::with(gw.address(), "/api/events", &format!("cookie: {cookie}\r\n")).await;
    let end = follower.next_of("end").await;
    assert_eq!(end["reason"], "not_allowed");
}

#[tokio::test]
async fn streams_have_places() {
    let gw = Gateway::configured(|settings| {
        settings.event_streams.most = 2;
        settings.event_streams.most_of_a_caller = 1;
    })
    .await;
    let first = Follower::of(&gw, "/api/events").await;
    let refused = get(&gw, KEY, "/api/events?follow=true").await;
    assert_eq!((refused.status, refused.json().unwrap()["code"].as_str()), (429, Some("too_many_streams")));
    let _second = Follower::with(gw.address(), "/api/events", &format!("x-api-key: {VIEWER}\r\n")).await;
    drop(first);
    eventually("the place is free again", async || {
        let mut stream = TcpStream::connect(gw.address()).await.unwrap();
        let head = format!("GET /api/events?follow=true HTTP/1.1\r\nhost: t\r\nx-api-key: {KEY}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut status = String::new();
        BufReader::new(stream).read_line(&mut status).await.unwrap();
        status.contains(" 200 ")
    })
    .await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off() {
    let gw = Gateway::configured(|settings| settings.event_streams.stall = Time::millis(300)).await;
    begun(&gw).await;
    let follower = Follower::of(&gw, "/api/events").await;
    let cut = async || {
        let metrics = get(&gw, KEY, "/metrics").await;
        metrics.text().contains("http_connections_ended_total{why=\"unread\"} 1")
    };
    // Until all buffers between here and there are full, and a while longer.
    let message = "x".repeat(60_000);
    let lease = lease(&gw).await;
    eventually("the connection is cut", async || {
        let last = gw.store.event_told().await.unwrap().last;
        let topic = Topic { kind: "member".to_owned(), group: None, subject: String::new() };
        let event = NewEvent { topic, data: json!({ "member": message }) };
        gw.store.event_record(term(&lease), last, &vec![event; 20], &[]).await.unwrap();
        cut().await
    })
    .await;
    drop(follower);
}

#[tokio::test]
async fn streams_end_with_the_dashboard() {
    let gw = Gateway::sqlite().await;
    let mut follower = Follower::of(&gw, "/api/events").await;
    let (ended, end) = tokio::join!(gw.dashboard.stop(), follower.next_of("end"));
    assert_eq!((ended, end["reason"].as_str()), ((), Some("away")));
}
