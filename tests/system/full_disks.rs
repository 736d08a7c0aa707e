//! Disks that are full, for real: small file systems under PostgreSQL, and under what a node keeps.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use milecastle_testkit::postgres::Cluster as Postgres;
use milecastle_testkit::{Call, Echo, TempDir, eventually, wait_for};
use milecastle_tests::{Cluster, Gateway, Replica};
use serde_json::{Value, json};

/// Says that tests which mount file systems are to be left out.
const LEAVE_OUT: &str = "MILECASTLE_TEST_NO_MOUNTS";
/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// Attempts to write within which a full disk must show.
const ATTEMPTS: usize = 5000;

/// A small file system in memory. Dropped, it is gone. Needs root.
pub(crate) struct SmallDisk {
    pub(crate) dir: TempDir,
}

impl SmallDisk {
    /// Mounts one of this many MiB; `None` if the environment variable `MILECASTLE_TEST_NO_MOUNTS` is set.
    pub(crate) fn mount(mebibytes: u32) -> Option<Self> {
        if std::env::var_os(LEAVE_OUT).is_some() {
            eprintln!("left out, for {LEAVE_OUT} is set: this test needs to mount a file system");
            return None;
        }
        let dir = TempDir::new();
        let size = format!("size={mebibytes}m,mode=0777");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "milecastle-test"]).arg(dir.path()));
        Some(Self { dir })
    }

    fn ballast(&self) -> PathBuf {
        self.dir.path().join("ballast")
    }

    /// Leaves no byte of it free.
    pub(crate) fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        for piece in [1 << 20, 4096, 1] {
            let piece = vec![0; piece];
            let full = loop {
                if let Err(error) = ballast.write_all(&piece) {
                    break error;
                }
            };
            assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        }
    }

    /// Makes room again.
    pub(crate) fn clear(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what a failed test left running may still use it.
        run(Command::new("umount").arg("--lazy").arg(self.dir.path()));
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

fn route(echo: &Echo, uri: &str) -> Value {
    let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
    json!({ "uri": uri, "upstream": upstream, "desc": "x".repeat(256), "labels": { "l": "y".repeat(256) } })
}

async fn stop(gateway: Gateway, control: Replica) {
    tokio::task::spawn_blocking(move || (gateway.stop(), control.stop())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_database_loses_nothing_that_was_answered() {
    let Some(disk) = SmallDisk::mount(200) else { return };
    let mut postgres = Postgres::start_in(disk.dir.path()).unwrap();
    let (cluster, echo) = (Cluster::on(&postgres), Echo::start());
    let mut control = cluster.control("one");
    for expected in ["database", "nodes run"] {
        control.process.announce(expected);
    }
    control.ready().await;
    cluster.token(&control);
    let gateway = cluster.gateway("g1", &[control.dp_manager]);
    gateway.ready().await;
    control.put("/routes/before?wait=20s", &route(&echo, "/before")).await;
    gateway.answers("/before", 200).await;

    disk.fill();
    let (mut done, mut refused) = (Vec::new(), None);
    for n in 0..ATTEMPTS {
        let uri = format!("/n{n}");
        let answer = control.call("PUT", &format!("/apisix/admin/routes/n{n}"), Some(&route(&echo, &uri))).await;
        match answer.status {
            201 => done.push(n),
            status => {
                refused = Some((status, answer.text()));
                break;
            }
        }
    }
    let (status, text) = refused.expect("a disk that is full takes no more");
    eprintln!("{} writes went onto the full disk, then: {status} {text}", done.len());
    assert_eq!(status, 503, "{text}");
    // Reads and traffic do not need it, nor does anything else end.
    assert_eq!(control.get("/apisix/admin/routes/before").await.status, 200);
    assert_eq!(Call::get("/before").to(gateway.http).await.unwrap().status, 200);
    assert!(control.process.is_running());

    disk.clear();
    // It may have given up: then the operator starts it again.
    if postgres.query("SELECT 1").is_err() {
        postgres.stop().unwrap();
        postgres.resume().unwrap();
    }
    wait_for("writes are taken again", LONG, async || {
        let answer = control.call("PUT", "/apisix/admin/routes/after", Some(&route(&echo, "/after"))).await;
        (answer.status < 300).then_some(())
    })
    .await;
    wait_for("the node has it", LONG, async || {
        Call::get("/after").to(gateway.http).await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    for n in done {
        assert_eq!(control.get(&format!("/apisix/admin/routes/n{n}")).await.status, 200, "n{n} was answered");
        gateway.answers(&format!("/n{n}"), 200).await;
    }
    stop(gateway, control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_a_node_stops_neither_traffic_nor_updates() {
    let Some(disk) = SmallDisk::mount(2) else { return };
    let (mut cluster, echo) = (Cluster::new(), Echo::start());
    let state = disk.dir.path().join("state").display().to_string();
    let state: &'static str = state.leak();
    cluster.for_gateways.extend([("MILECASTLE__STATE__DIR", state), ("MILECASTLE__STATE__FOLD_AT", "1k")]);
    cluster.for_gateways.push(("MILECASTLE__STATE__RETRY_INTERVAL", "200ms"));
    let control = cluster.control("one");
    control.ready().await;
    cluster.token(&control);
    let mut gateway = cluster.gateway("g1", &[control.dp_manager]);
    gateway.process.announce("cannot be kept on disk");
    gateway.ready().await;
    let put = async |uri: &str| {
        let answer = control.put(&format!("/routes{uri}?wait=20s"), &route(&echo, uri)).await;
        assert_eq!(answer.header("milecastle-receipt"), "applied 1/1");
        assert_eq!(Call::get(uri).to(gateway.http).await.unwrap().status, 200);
    };
    let alarms = async || control.get("/api/nodes").await.json().unwrap()["list"][0]["alarms"].to_string();
    put("/kept").await;
    disk.fill();
    for n in 0..20 {
        put(&format!("/n{n}")).await;
    }
    eventually("the alarm is known", async || alarms().await.contains("cannot be kept in")).await;
    assert!(alarms().await.contains("No space left"), "{}", alarms().await);

    // Killed with the disk full, it starts with what was kept, and hears of the rest.
    gateway.process.kill();
    let mut again = cluster.gateway_again("g1", gateway.http);
    for expected in ["cannot be kept on disk", "is not used, or only in part"] {
        again.process.announce(expected);
    }
    again.ready().await;
    again.answers("/kept", 200).await;
    again.answers("/n19", 200).await;
    disk.clear();
    eventually("there is no alarm any more", async || alarms().await == "[]").await;
    again.process.kill();
    let last = cluster.gateway_again("g1", gateway.http);
    last.ready().await;
    let log = last.process.log();
    assert!(log.iter().any(|line| line.contains("starting with the last good") && line.contains("revision=21")));
    stop(last, control).await;
}
