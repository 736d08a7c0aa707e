//! A gateway by itself, with what it has on its disk: `docs/last-good.md`.

use milecastle_testkit::process::binary;
use milecastle_testkit::{Call, Echo, Process, eventually};
use milecastle_tests::{Cluster, Gateway, Replica, free};
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const END: Duration = Duration::from_secs(30);

/// One replica, one node, and an upstream.
struct Bed {
    cluster: Cluster,
    echo: Echo,
    /// Of the DP manager, whichever process it is.
    address: SocketAddr,
    control: Option<Replica>,
}

impl Bed {
    async fn start() -> (Self, Gateway) {
        let (cluster, address) = (Cluster::new(), free());
        let mut bed = Self { cluster, echo: Echo::start(), address, control: None };
        bed.control_starts().await;
        bed.cluster.token(bed.control());
        let gateway = bed.gateway();
        gateway.ready().await;
        (bed, gateway)
    }

    fn control(&self) -> &Replica {
        self.control.as_ref().expect("the control plane runs")
    }

    async fn control_starts(&mut self) {
        let control = self.cluster.control_at("c1", self.address);
        control.ready().await;
        self.control = Some(control);
    }

    fn control_dies(&mut self) {
        self.control.take().expect("the control plane runs").process.kill();
    }

    fn gateway(&self) -> Gateway {
        let mut gateway = self.cluster.gateway("g1", &[self.address]);
        for words in ["no configuration stream", "configuration stream lost"] {
            gateway.process.announce(words);
        }
        gateway
    }

    /// Writes a route that the node has in force when this returns.
    async fn route(&self, id: &str) {
        let upstream = json!({ "nodes": { self.echo.address().to_string(): 1 } });
        let path = format!("/routes/{id}?wait=20s");
        let answer = self.control().put(&path, &json!({ "uri": format!("/{id}"), "upstream": upstream })).await;
        assert_eq!(answer.header("milecastle-receipt"), "applied 1/1");
    }

    /// The only node, as the control plane sees it.
    async fn node(&self) -> Value {
        self.control().get("/api/nodes").await.json().unwrap()["list"][0].clone()
    }

    /// The node's files of generations.
    fn generations(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cluster.dir.path().join("g1")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("generation-")).collect()
    }
}

#[tokio::test]
async fn a_killed_gateway_serves_without_any_control_plane() {
    let (mut bed, mut gateway) = Bed::start().await;
    for n in 0..12 {
        bed.route(&n.to_string()).await;
    }
    bed.control_dies();
    for _ in 0..3 {
        gateway.process.kill();
        gateway = bed.gateway();
        gateway.ready().await;
        assert_eq!(Call::get("/status/ready").to(gateway.status).await.unwrap().status, 200);
        for n in 0..12 {
            let answer = Call::get(&format!("/{n}")).to(gateway.http).await.unwrap();
            assert_eq!(answer.status, 200, "route {n}");
        }
        assert_eq!(Call::get("/12").to(gateway.http).await.unwrap().status, 404);
        let log = gateway.process.log();
        assert!(log.iter().any(|line| line.contains("starting with the last good configuration")), "{log:?}");
        assert!(!log.iter().any(|line| line.contains("traffic waits")), "{log:?}");
        gateway.process.wait_for_line("what it begins with", END, |line| {
            (line.contains("ready") && line.contains("revision=12")).then_some(())
        });
    }
    // When it is back, the node is a node like any other, and does not end its log with what was missing.
    bed.control_starts().await;
    eventually("the node is back", async || bed.node().await["state"] == "healthy").await;
    gateway
        .process
        .wait_for_line("that it is back", END, |line| line.contains("configuration stream open").then_some(()));
    bed.route("12").await;
    gateway.answers("/12", 200).await;
    tokio::task::spawn_blocking(move || gateway.stop()).await.unwrap();
}

#[tokio::test]
async fn files_that_are_of_no_use_keep_the_doors_closed() {
    let (mut bed, mut gateway) = Bed::start().await;
    bed.route("a").await;
    bed.control_dies();
    gateway.process.kill();
    for path in bed.generations() {
        let mut content = fs::read(&path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(path, content).unwrap();
    }
    let mut gateway = bed.gateway();
    gateway.process.announce("this file of the last good configuration is not used");
    let none = |line: &str| line.contains("no last good configuration").then_some(());
    gateway.process.wait_for_line("that there is none", END, none);
    assert_eq!(gateway.status().await, 503);
    assert_eq!(Call::get("/status/ready").to(gateway.status).await.unwrap().status, 503);
    TcpStream::connect(gateway.http).unwrap_err();
    bed.control_starts().await;
    gateway.ready().await;
    gateway.answers("/a", 200).await;
    tokio::task::spawn_blocking(move || gateway.stop()).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_takes_nothing_stops_neither_traffic_nor_updates() {
    let (mut bed, mut gateway) = Bed::start().await;
    bed.route("kept").await;
    gateway.process.kill();
    // No file may grow: every write fails as on a full disk, for whoever runs the test.
    let mut shell = Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -f 0; exec '{}' gateway -c \"$0\"", binary().display());
    shell.args(["-c", &script]).arg(bed.cluster.dir.path().join("g1.yaml")).env("MILECASTLE_LOG", "info");
    let http = gateway.http;
    let full = Process::start("gateway on a full disk", shell);
    eventually("it serves", async || Call::get("/kept").to(http).await.is_ok_and(|answer| answer.status == 200)).await;
    eventually("the node is back", async || bed.node().await["state"] == "healthy").await;
    bed.route("new").await;
    assert_eq!(Call::get("/new").to(http).await.unwrap().status, 200);
    eventually("the alarm is known", async || {
        bed.node().await["alarms"].to_string().contains("the configuration in force cannot be kept in")
    })
    .await;
    assert!(full.log().iter().any(|line| line.contains("ERROR") && line.contains("cannot be kept on disk")));
    drop(full);
    // Killed before there was room again: it starts with what was kept, and hears of the rest.
    bed.control_dies();
    let gateway = bed.gateway();
    gateway.ready().await;
    assert_eq!(Call::get("/kept").to(gateway.http).await.unwrap().status, 200);
    assert_eq!(Call::get("/new").to(gateway.http).await.unwrap().status, 404);
    bed.control_starts().await;
    gateway.answers("/new", 200).await;
    eventually("no alarm", async || bed.node().await["alarms"] == json!([])).await;
}

#[tokio::test]
async fn a_state_directory_has_one_process() {
    let (bed, mut gateway) = Bed::start().await;
    let first = bed.cluster.dir.path().join("g1.yaml");
    let port = |address: SocketAddr| format!("port: {}", address.port());
    let other = fs::read_to_string(first).unwrap().replace(&port(gateway.http), &port(free()));
    let other = bed.cluster.dir.write("g2.yaml", other);
    let mut second = Process::milecastle("a second gateway", &["gateway", "-c", other.to_str().unwrap()], &[]);
    assert_eq!(second.wait_for_end(END).code(), Some(1));
    let said = second.log().join("\n");
    assert!(said.contains("is in use by another process") && said.contains("state.dir"), "{said}");
    assert!(gateway.process.is_running());
    bed.route("a").await;
    tokio::task::spawn_blocking(move || gateway.stop()).await.unwrap();
}
