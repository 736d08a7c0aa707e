//! A process that was replaced goes where the configuration goes, for the connections that it still has.

use super::site::{START, Site};
use crate::tunnels::{CLOSE, chat, hear, open_at, open_with, say};
use milecastle_testkit::eventually;
use milecastle_testkit::raw::Raw;
use serde_json::{Value, json};

impl Site {
    /// Puts a route of WebSockets for a host, to be cut when its ground is lost.
    async fn put_cut(&self, id: &str, uri: &str) {
        let route = json!({
            "uri": uri, "host": format!("{id}.test"), "enable_websocket": true, "upstream_id": "chat",
            "plugins": { "long-connections": { "policy": "cut" } },
        });
        self.up.put(&format!("/routes/{id}"), route).await;
    }

    async fn delete(&self, path: &str) {
        assert_eq!(self.up.admin("DELETE", path, None).await.status, 200);
    }

    /// Connections of the processes that were replaced, one after the other.
    async fn left(&self) -> Vec<Value> {
        let census = self.census().await;
        census["replaced"].as_array().unwrap().iter().map(|process| process["connections"].clone()).collect()
    }
}

/// Reads the good-bye of the policy and the end.
async fn is_cut(tunnel: &mut Raw) {
    hear(tunnel, CLOSE, &1001_u16.to_be_bytes()).await;
    tunnel.read_to_end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_policies_say_holds_for_connections_of_processes_that_were_replaced() {
    let site = Site::new("upgrade: { follow_interval: 20ms }\n").await;
    let mut processes = vec![site.first().await];
    site.up.put("/upstreams/chat", json!({ "nodes": { chat().to_string(): 1 } })).await;
    for id in ["one", "two", "three"] {
        site.put_cut(id, "/ws").await;
    }
    site.put_answer("kept", "as it was").await;
    site.put_answer("set-up", "").await;
    site.answers("/set-up", 202).await;
    let mut keeps = open_at(site.http).await;
    let mut cut = Vec::new();
    for host in ["one.test", "two.test", "three.test"] {
        cut.push(open_with(site.http, host, "").await);
    }
    let mut kept = Raw::connect(site.http).await.unwrap();
    kept.send("GET /kept HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    kept.read_until(b"as it was").await.unwrap();

    // The route of one is deleted, and with it the default goes on.
    processes.push(site.next("gateway 1"));
    say(&mut cut[0], b"still here").await;
    site.put_answer("kept", "as it is now").await;
    site.delete("/routes/one").await;
    is_cut(&mut cut[0]).await;
    kept.send("GET /kept HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    kept.read_until(b"as it is now").await.unwrap();
    // What comes next is written by another process again, and followed by both before it.
    processes.push(site.next("gateway 2"));
    say(&mut cut[1], b"still here").await;
    let mut late = open_with(site.http, "three.test", "").await;
    processes.push(site.next("gateway 3"));
    site.put_cut("two", "/elsewhere").await;
    is_cut(&mut cut[1]).await;
    // The node of the last ones goes.
    say(&mut cut[2], b"still here").await;
    say(&mut late, b"still here").await;
    site.up.put("/upstreams/chat", json!({ "nodes": { site.long.address.to_string(): 1 } })).await;
    is_cut(&mut cut[2]).await;
    is_cut(&mut late).await;
    say(&mut keeps, b"still here").await;
    eventually("the tunnel that is kept is all that is left", async || site.left().await == [json!({ "tunnel": 1 })])
        .await;
    drop(keeps);
    let last = processes.pop().unwrap();
    for mut process in processes {
        assert!(process.wait_for_end(START).success());
        assert_eq!(process.unannounced(), Vec::<String>::new());
    }
    last.stop(START);
}
