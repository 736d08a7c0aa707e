//! Each policy, each way in which a ground is lost, each kind of connection.

use super::{ended, events, listen, plugins, settled};
use crate::stream::{Gateway, connect, echo};
use crate::tunnels::{CLOSE, chat, hear, open_with, say};
use milecastle_testkit::eventually;
use milecastle_testkit::raw::Raw;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What drains at last does so after this.
const DRAIN: Duration = Duration::from_secs(1);

/// The policies: what is said, and after how long the end comes, if it does.
fn policies() -> [(&'static str, Value, Option<Duration>); 4] {
    [
        ("keep", json!({ "policy": "keep" }), None),
        ("later", json!({ "policy": "drain", "drain": 3600 }), None),
        ("drain", json!({ "policy": "drain", "drain": DRAIN.as_secs() }), Some(DRAIN)),
        ("cut", json!({ "policy": "cut" }), Some(Duration::ZERO)),
    ]
}

/// A gateway with upstreams and routes of each policy, and what they lead to.
struct Site {
    gateway: Gateway,
    chat: SocketAddr,
    events: SocketAddr,
    echo: SocketAddr,
}

/// What is open on the routes of one policy.
struct Open {
    chat: Raw,
    events: Raw,
    session: TcpStream,
    ends: Option<Duration>,
}

impl Site {
    async fn start() -> Self {
        let tcp = vec![json!("127.0.0.1:0"); policies().len()];
        let site = Self { gateway: Gateway::start(&tcp, &[], &[]), chat: chat(), events: events(), echo: echo("") };
        site.all_upstreams(&[]).await;
        for ((name, policy, _), at) in policies().into_iter().zip(site.gateway.all("TCP")) {
            for (kind, uri) in [("chat", "/ws"), ("events", "/events")] {
                let route = json!({
                    "uri": uri, "host": format!("{name}.test"), "enable_websocket": kind == "chat",
                    "upstream_id": format!("{kind}-{name}"), "plugins": plugins(&policy),
                });
                site.gateway.up.put(&format!("/routes/{kind}-{name}"), route).await;
            }
            let route = json!({
                "server_port": at.port(), "upstream_id": format!("echo-{name}"), "plugins": plugins(&policy),
            });
            site.gateway.up.put(&format!("/stream_routes/{name}"), route).await;
        }
        settled(&site.gateway).await;
        site
    }

    /// Gives each upstream its node, and these further ones.
    async fn all_upstreams(&self, more: &[SocketAddr]) {
        for (kind, node) in [("chat", self.chat), ("events", self.events), ("echo", self.echo)] {
            self.upstreams(kind, &[&[node], more].concat()).await;
        }
    }

    async fn upstreams(&self, kind: &str, nodes: &[SocketAddr]) {
        // The nodes that are new come after the known ones, which have all the weight.
        let nodes: Vec<Value> = nodes
            .iter()
            .enumerate()
            .map(|(n, node)| json!({ "host": node.ip(), "port": node.port(), "weight": 1, "priority": -(n as i64) }))
            .collect();
        for (name, ..) in policies() {
            self.gateway.up.put(&format!("/upstreams/{kind}-{name}"), json!({ "nodes": nodes })).await;
        }
    }

    async fn open(&self) -> Vec<Open> {
        let http = self.gateway.up.http;
        let mut all = Vec::new();
        for ((name, _, ends), at) in policies().into_iter().zip(self.gateway.all("TCP")) {
            let host = format!("{name}.test");
            let mut open = Open {
                chat: open_with(http, &host, "").await,
                events: listen(http, &host).await,
                session: connect(at),
                ends,
            };
            open.goes_on().await;
            all.push(open);
        }
        all
    }

    /// Sees what is open go on or end as the policies say, after a change that began then.
    async fn follows_policies(&self, all: Vec<Open>, began: Instant) {
        let mut kept = Vec::new();
        for mut open in all {
            match open.ends {
                Some(after) => {
                    open.end().await;
                    let took = began.elapsed();
                    assert!(took >= after, "ended after {took:?} instead of {after:?}");
                }
                None => kept.push(open),
            }
        }
        for open in &mut kept {
            open.goes_on().await;
        }
        eventually("each kind is counted", async || {
            let kinds = ["websocket", "answer", "session"];
            let ending = policies().iter().filter(|(.., ends)| ends.is_some()).count() as f64;
            let mut all = true;
            for kind in kinds {
                all &= ended(&self.gateway, kind).await == ending;
            }
            all
        })
        .await;
    }
}

impl Open {
    async fn goes_on(&mut self) {
        say(&mut self.chat, b"still here").await;
        for _ in 0..3 {
            self.events.read_until(b"data: x\n\n").await.unwrap();
        }
        self.session.write_all(b"ping").unwrap();
        let mut said = [0; 4];
        self.session.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"ping");
    }

    /// Waits for the good-bye of each.
    async fn end(&mut self) {
        hear(&mut self.chat, CLOSE, &1001_u16.to_be_bytes()).await;
        assert!(self.chat.read_to_end().await.unwrap().is_empty(), "nothing follows a close frame");
        self.events.read_until(b"\r\n0\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        self.session.read_to_end(&mut rest).expect("an end, and no reset");
        assert!(rest.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_is_deleted() {
    let site = Site::start().await;
    let all = site.open().await;
    let began = Instant::now();
    for (name, ..) in policies() {
        for path in [format!("/routes/chat-{name}"), format!("/routes/events-{name}"), format!("/stream_routes/{name}")]
        {
            assert_eq!(site.gateway.up.admin("DELETE", &path, None).await.status, 200);
        }
    }
    site.follows_policies(all, began).await;
    site.gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_is_replaced() {
    let site = Site::start().await;
    let all = site.open().await;
    let began = Instant::now();
    let node = milecastle_testkit::nowhere().to_string();
    for ((name, policy, _), at) in policies().into_iter().zip(site.gateway.all("TCP")) {
        let upstream = json!({ "nodes": { &node: 1 } });
        for (kind, uri) in [("chat", "/ws"), ("events", "/events")] {
            let route = json!({
                "uri": uri, "host": format!("{name}.test"), "enable_websocket": kind == "chat",
                "upstream": upstream, "plugins": plugins(&policy),
            });
            site.gateway.up.put(&format!("/routes/{kind}-{name}"), route).await;
        }
        let route = json!({ "server_port": at.port(), "upstream": upstream, "plugins": plugins(&policy) });
        site.gateway.up.put(&format!("/stream_routes/{name}"), route).await;
    }
    site.follows_policies(all, began).await;
    site.gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_removed() {
    let site = Site::start().await;
    let mut all = site.open().await;
    // What changes without touching them ends none: names, further nodes, other routes.
    site.all_upstreams(&[milecastle_testkit::nowhere()]).await;
    for (name, ..) in policies() {
        let renamed = json!({ "name": "renamed", "desc": "another", "labels": { "a": "b" } });
        let path = format!("/routes/chat-{name}");
        assert_eq!(site.gateway.up.admin("PATCH", &path, Some(&renamed)).await.status, 200);
    }
    settled(&site.gateway).await;
    for open in &mut all {
        open.goes_on().await;
    }
    let began = Instant::now();
    for kind in ["chat", "events", "echo"] {
        site.upstreams(kind, &[milecastle_testkit::nowhere()]).await;
    }
    site.follows_policies(all, began).await;
    site.gateway.up.kill();
}
