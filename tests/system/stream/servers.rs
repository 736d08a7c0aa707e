//! Servers of others behind the TCP proxy.

use super::{Gateway, connect};
use milecastle_store::{Actor, ActorKind};
use milecastle_testkit::postgres::Cluster;
use milecastle_testkit::{Process, SOON, TempDir, eventually, free_port};
use serde_json::json;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_by_its_own_client() {
    let (dir, port) = (TempDir::new(), free_port());
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
    command.current_dir(dir.path());
    let _redis = Process::start("redis", command);
    let gateway = Gateway::plain();
    let at = gateway.at("TCP");
    gateway.up.process.log();
    gateway.route("1", ([127, 0, 0, 1], port).into(), json!({})).await;
    let cli = |args: &[&str]| {
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &at.port().to_string()]).args(args);
        String::from_utf8(command.output().expect("redis-cli is installed").stdout).unwrap()
    };
    eventually("Redis answers", async || cli(&["PING"]) == "PONG\n").await;
    assert_eq!(cli(&["SET", "a", "1"]), "OK\n");
    assert_eq!(cli(&["GET", "a"]), "1\n");
    // A pipeline of many commands on one connection.
    let mut stream = connect(at);
    let count = 10_000;
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all("INCR n\r\n".repeat(count).as_bytes()).unwrap());
    let mut said = String::new();
    let mut room = [0; 4096];
    while !said.ends_with(&format!(":{count}\r\n")) {
        let read = stream.read(&mut room).unwrap();
        assert!(read > 0, "the connection was closed");
        said.push_str(std::str::from_utf8(&room[..read]).unwrap());
    }
    writing.join().unwrap();
    assert_eq!(said.matches(':').count(), count);
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_by_the_stores_own_client() {
    let cluster = Cluster::start().unwrap();
    let dsn = cluster.dsn("postgres");
    let server: SocketAddr = dsn.split('@').nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    let gateway = Gateway::plain();
    let at = gateway.at("TCP");
    gateway.route("1", server, json!({})).await;
    let through = dsn.replace(&server.to_string(), &at.to_string());
    let dir = TempDir::new();
    let key = milecastle_store::KeySource::File(dir.path().join("key"));
    let mut store = None;
    eventually("the database is reached", async || {
        store = milecastle_store::open(&through, &key).await.ok();
        store.is_some()
    })
    .await;
    let store = store.unwrap();
    let ann = Actor::new(ActorKind::Machine, "ann");
    store.by(&ann).group_create(&milecastle_store::NewGroup::named("through")).await.unwrap();
    let found = cluster.query("select count(*) from gateway_group where id = 'through'").unwrap();
    assert_eq!(found.trim(), "1");
    drop(store);
    gateway.up.kill();
}

/// A broker that lets everybody in.
fn mosquitto() -> (Process, SocketAddr, TempDir) {
    let (dir, port) = (TempDir::new(), free_port());
    let file =
        dir.write("mosquitto.conf", format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"));
    let program = ["/usr/sbin/mosquitto", "mosquitto"].into_iter().find(|path| std::path::Path::new(path).exists());
    let mut command = Command::new(program.unwrap_or("mosquitto"));
    command.arg("-c").arg(file);
    let mut process = Process::start("mosquitto", command);
    process.wait_for_line("that it runs", SOON, |line| line.contains("running").then_some(()));
    (process, ([127, 0, 0, 1], port).into(), dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mqtt_clients_keep_their_broker() {
    let brokers = [mosquitto(), mosquitto(), mosquitto()];
    let gateway = Gateway::plain();
    let at = gateway.at("TCP");
    let nodes: serde_json::Map<_, _> = brokers.iter().map(|(_, address, _)| (address.to_string(), json!(1))).collect();
    let upstream = json!({ "type": "chash", "key": "mqtt_client_id", "nodes": nodes });
    let route = |level: u8| {
        let plugins = json!({ "mqtt-proxy": { "protocol_name": "MQTT", "protocol_level": level } });
        json!({ "plugins": plugins, "upstream": upstream })
    };
    gateway.up.put("/stream_routes/1", route(4)).await;
    let port = at.port().to_string();
    let publish = |client: &str, version: &str| {
        let mut command = Command::new("mosquitto_pub");
        let args = ["-h", "127.0.0.1", "-p", &port, "-i", client, "-V", version, "-t", "t", "-m", "m"];
        command.args(args).output().expect("mosquitto_pub is installed").status.success()
    };
    eventually("a broker takes a message", async || publish("first", "311")).await;
    // So many that they are not all with one broker by chance.
    let clients: Vec<String> = (0..12).map(|n| format!("client-{n}")).collect();
    for client in &clients {
        assert!((0..2).all(|_| publish(client, "311")), "{client}");
    }
    // Each client was with one broker alone, and not all with the same.
    let with = |client: &str| {
        let named = format!("as {client} ");
        let seen = |process: &Process| process.log().iter().any(|line| line.contains(&named));
        brokers.iter().enumerate().filter(|(_, (process, ..))| seen(process)).map(|(n, _)| n).collect::<Vec<_>>()
    };
    let places: Vec<Vec<usize>> = clients.iter().map(|client| with(client)).collect();
    assert!(places.iter().all(|places| places.len() == 1), "{places:?}");
    assert!(places.iter().any(|place| *place != places[0]), "{places:?}");
    assert!(!publish("a", "5"), "another version of the protocol is not let in");
    assert_eq!(super::talk(at, b"GET / HTTP/1.1\r\n\r\n").unwrap_or_default(), b"");
    // MQTT 5.0, whose first packet has properties before the client's name.
    gateway.up.put("/stream_routes/1", route(5)).await;
    eventually("a broker takes a message of MQTT 5.0", async || publish("fifth", "5")).await;
    for client in &clients {
        assert!((0..2).all(|_| publish(client, "5")), "{client}");
    }
    // The same name falls on the same broker.
    let now: Vec<Vec<usize>> = clients.iter().map(|client| with(client)).collect();
    assert_eq!(now, places);
    assert!(!publish("a", "311"), "another version of the protocol is not let in");
    gateway.up.kill();
}
