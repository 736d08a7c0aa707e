//! Connections that go on although something moves: the client's address, or the gateway's process.

use super::Site;
use super::client::Client;
use crate::upgrades;
use milecastle_testkit::eventually;
use serde_json::{Value, json};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

/// A router that gives its clients another address whenever it is told to (NAT rebinding).
struct Router {
    port: u16,
    gateway: SocketAddr,
    inside: UdpSocket,
    outside: Arc<Mutex<UdpSocket>>,
    client: Arc<Mutex<Option<SocketAddr>>>,
}

impl Router {
    fn start(gateway: SocketAddr) -> Self {
        let inside = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = inside.local_addr().unwrap().port();
        let (client, outside) = (Arc::default(), Arc::new(Mutex::new(UdpSocket::bind("127.0.0.1:0").unwrap())));
        let router = Self { port, gateway, inside, outside, client };
        router.rebind();
        let (inside, outside) = (router.inside.try_clone().unwrap(), router.outside.clone());
        let client = router.client.clone();
        std::thread::spawn(move || {
            let mut room = [0; 2048];
            while let Ok((read, from)) = inside.recv_from(&mut room) {
                *client.lock().unwrap() = Some(from);
                // A refusal of the gateway's port shows here first.
                outside.lock().unwrap().send_to(&room[..read], gateway).ok();
            }
        });
        router
    }

    /// From here on datagrams come from another address.
    fn rebind(&self) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (inside, outside) = (self.inside.try_clone().unwrap(), socket.try_clone().unwrap());
        let (client, gateway) = (self.client.clone(), self.gateway);
        *self.outside.lock().unwrap() = socket;
        std::thread::spawn(move || {
            let mut room = [0; 2048];
            while let Ok((read, from)) = outside.recv_from(&mut room) {
                assert_eq!(from, gateway);
                let client = *client.lock().unwrap();
                inside.send_to(&room[..read], client.unwrap()).ok();
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_address_changes_keeps_its_connection() {
    let site = Site::start(&[]).await;
    let router = Router::start(site.up.https);
    let mut client = Client::connect(router.port, "localhost", &site.authority.pem(), None);
    // With two workers one address in two is another worker's.
    for change in 0..8 {
        let answer = client.request("/large/20000", json!({}));
        assert_eq!((&answer["status"], &answer["length"]), (&json!(200), &json!(20000)), "after {change} changes");
        router.rebind();
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_goes_on_in_a_process_that_was_replaced() {
    let site = upgrades::Site::new("nginx_config: { http: { keepalive_timeout: 2s } }").await;
    let mut first = site.first().await;
    let connect = || Client::connect(site.https.port(), "localhost", &site.ca, None);
    let mut open: Vec<(Client, Value)> = Vec::new();
    for _ in 0..4 {
        let mut client = connect();
        let held = client.ask(json!({ "do": "hold", "authority": "localhost", "path": "/long" }));
        assert_eq!(held["status"], 200, "{held}");
        open.push((client, held));
    }
    let second = site.next("gateway 1");
    eventually("the second is asked", async || site.census().await["process"]["pid"] == second.id()).await;
    for (client, _) in &mut open {
        assert_eq!(client.ask(json!({ "do": "goaway" }))["goaway"], true);
    }
    site.put_answer("new", "").await;
    site.answers("/new", 202).await;
    for _ in 0..8 {
        assert_eq!(connect().request("/new", json!({}))["status"], 202, "new connections come to the new process");
    }
    site.long.end();
    for (mut client, held) in open {
        let rest = client.ask(json!({ "do": "rest", "stream": held["stream"] }));
        assert!(rest["body"].as_str().unwrap().ends_with("end") && rest["reset"].is_null(), "{rest}");
        assert_eq!(client.ask(json!({ "do": "over" }))["closed"], 0x100);
    }
    assert!(first.wait_for_end(upgrades::START).success());
    assert_eq!(first.unannounced(), Vec::<String>::new());
    second.stop(upgrades::START);
}
