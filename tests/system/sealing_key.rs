//! The sealing key is replaced beside processes that run, and seals what a file should not tell (docs/security.md).

use milecastle_testkit::process::binary;
use milecastle_testkit::{Call, wait_for};
use milecastle_tests::{ADMIN_KEY, Cluster, Said, full};
use serde_json::json;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// A key that no other test has.
pub(crate) const NEXT: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=\n";

fn command(cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("sealing-key").args(args).args(["--role", "dashboard", "--config", &cluster.file("one")]);
    command
}

/// Writes credentials, which are sealed, one after the other, until it is told to stop; counts them.
pub(crate) async fn write(address: SocketAddr, stop: Arc<AtomicBool>, written: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let n = written.load(Ordering::Relaxed);
        let body = json!({ "username": format!("c{n}"), "plugins": { "key-auth": { "key": format!("k{n}") } } });
        let call = Call::put_json(&format!("/apisix/admin/consumers/c{n}"), &body).header("X-API-KEY", ADMIN_KEY);
        let answer = call.to(address).await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
        written.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_replaced_under_load_however_often_the_command_is_killed() {
    let mut cluster = Cluster::new();
    let one = cluster.dashboard("one");
    one.ready().await;
    let next = cluster.dir.write("sealing-key.next", NEXT);
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o600)).unwrap();
    let next = next.to_str().unwrap().to_owned();
    let replace = |cluster: &Cluster| command(cluster, &["replace", "--next-key-file", &next]);

    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = tokio::spawn(write(one.http, stop.clone(), written.clone()));
    for kill_after in 0..if full() { 40 } else { 8 } {
        let mut child = replace(&cluster).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = written.load(Ordering::Relaxed);
        wait_for("writes go on", LONG, async || (written.load(Ordering::Relaxed) >= begun + kill_after).then_some(()))
            .await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let said = Said::by(&mut replace(&cluster));
    assert_eq!(said.code, 0, "{}", said.text);
    assert!(said.text.contains("in place of sealing.key_file"), "{}", said.text);
    let now = written.load(Ordering::Relaxed);
    wait_for("writes go on after it", LONG, async || (written.load(Ordering::Relaxed) > now + 2).then_some(())).await;
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();

    let consumers = written.load(Ordering::Relaxed);
    let total = async |replica: &milecastle_tests::Replica| {
        replica.get("/apisix/admin/consumers").await.json().unwrap()["total"].as_u64().unwrap()
    };
    // With both keys, as while hosts are gone through, a replica starts; then with the new one alone.
    cluster.for_control.push(("MILECASTLE__SEALING__NEXT_KEY_FILE", next.clone().leak()));
    let two = cluster.dashboard("two");
    two.ready().await;
    assert_eq!(total(&two).await, consumers);
    cluster.for_control.pop();
    cluster.dir.write("sealing-key", NEXT);
    let three = cluster.dashboard("three");
    three.ready().await;
    assert_eq!((total(&one).await, total(&three).await), (consumers, consumers));
    let again = Said::by(&mut replace(&cluster));
    assert!(again.code == 0 && again.text.contains("had been sealed before"), "{}", again.text);
    tokio::task::spawn_blocking(move || [one, two, three].map(milecastle_tests::Replica::stop)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_string_may_be_sealed() {
    let mut cluster = Cluster::new();
    let one = cluster.dashboard("one");
    one.ready().await;
    let mut seal = command(&cluster, &["seal"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    seal.stdin.take().unwrap().write_all(cluster.dsn().as_bytes()).unwrap();
    let sealed = String::from_utf8(seal.wait_with_output().unwrap().stdout).unwrap();
    let sealed = sealed.trim().to_owned();
    assert!(sealed.starts_with("sealed:") && !sealed.contains("postgres"), "{sealed}");
    cluster.for_control.push(("MILECASTLE__DATABASE__DSN", sealed.clone().leak()));
    let two = cluster.dashboard("two");
    two.ready().await;
    two.put("/upstreams/1", &json!({ "nodes": {} })).await;
    assert_eq!(one.get("/apisix/admin/upstreams/1").await.status, 200);
    // Spoilt, it says what to do, and never what it holds.
    let spoilt = Said::by(
        Command::new(binary())
            .args(["key", "list", "--role", "dashboard", "--config", &cluster.file("one")])
            .env("MILECASTLE__DATABASE__DSN", format!("{}AA", sealed.split_at(sealed.len() - 8).0)),
    );
    assert!(spoilt.code == 1 && spoilt.text.contains("milecastle sealing-key seal"), "{}", spoilt.text);
    tokio::task::spawn_blocking(move || [one, two].map(milecastle_tests::Replica::stop)).await.unwrap();
}
