//! The database as one file: made beside writes, and brought back into an empty one (docs/backup.md).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use milecastle_testkit::process::binary;
use milecastle_testkit::wait_for;
use milecastle_tests::{Cluster, Replica, Said};
use serde_json::Value;

use crate::sealing_key::{NEXT, write};

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_meanwhile_is_in_it_up_to_one_moment_on_sqlite() {
    let (mut cluster, empty) = (Cluster::on_sqlite(), Cluster::on_sqlite());
    let backup = cluster.dir.path().join("backup");
    let seen = back_up_under_writes(&mut cluster, &backup).await;
    // A file that another key sealed does not open, and is not there then.
    let config = empty.dir.write("two.yaml", empty.common("two"));
    let key = empty.dir.path().join("sealing-key");
    let right = fs::read(&key).unwrap();
    fs::write(&key, NEXT).unwrap();
    let refused = restore(&config, &backup);
    assert!(refused.code == 1 && refused.text.contains("nothing was restored"), "{}", refused.text);
    assert!(!empty.dir.path().join("store.db").exists());
    fs::write(&key, right).unwrap();
    let other = cluster.dir.write("other", "is no database");
    is_not_restored(&config, &other);
    assert!(!empty.dir.path().join("store.db").exists());
    comes_back(&empty, &backup, seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_meanwhile_is_in_it_up_to_one_moment_on_postgresql() {
    let (mut cluster, empty) = (Cluster::new(), Cluster::new());
    let backup = cluster.dir.path().join("backup");
    let seen = back_up_under_writes(&mut cluster, &backup).await;
    // A dump, but of a database on which nothing of ours has run.
    let config = empty.dir.write("two.yaml", empty.common("two"));
    let other = cluster.dir.path().join("other");
    let said = command("backup", &config, &other);
    assert_eq!(said.code, 0, "{}", said.text);
    is_not_restored(&config, &other);
    is_not_restored(&config, &cluster.dir.write("text", "is no dump"));
    comes_back(&empty, &backup, seen).await;
}

fn is_not_restored(config: &Path, file: &Path) {
    let refused = restore(config, file);
    assert!(refused.code == 1 && refused.text.contains("is no backup that milecastle made"), "{}", refused.text);
}

fn back_up(cluster: &Cluster, backup: &Path) -> Said {
    command("backup", Path::new(&cluster.file("one")), backup)
}

fn restore(config: &Path, backup: &Path) -> Said {
    command("restore", config, backup)
}

fn command(name: &str, config: &Path, backup: &Path) -> Said {
    Said::by(Command::new(binary()).arg(name).arg(backup).args(["--role", "dashboard", "--config"]).arg(config))
}

async fn consumers(replica: &Replica) -> Vec<Value> {
    let answer = replica.get("/apisix/admin/consumers").await.json().unwrap();
    answer["list"].as_array().unwrap().iter().map(|item| item["value"].clone()).collect()
}

/// Gives how many writes had been answered when the command began and when it had ended.
async fn back_up_under_writes(cluster: &mut Cluster, backup: &Path) -> (u64, u64) {
    let one = cluster.dashboard("one");
    one.ready().await;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = tokio::spawn(write(one.http, stop.clone(), written.clone()));
    let reached = async |count: u64| {
        wait_for("writes go on", LONG, async || (written.load(Ordering::Relaxed) >= count).then_some(())).await;
        written.load(Ordering::Relaxed)
    };
    let before = reached(20).await;
    // As of one that was killed.
    fs::write(backup.with_extension("part"), "left behind").unwrap();
    let said = back_up(cluster, backup);
    assert_eq!(said.code, 0, "{}", said.text);
    let after = written.load(Ordering::Relaxed);
    reached(after + 20).await;
    assert_eq!(fs::metadata(backup).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = fs::read(backup).unwrap();
    let again = back_up(cluster, backup);
    assert!(again.code == 1 && again.text.contains("choose another name"), "{}", again.text);
    assert!(fs::read(backup).unwrap() == kept, "it stays as it is");
    assert!(!backup.with_extension("part").exists());
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();

    let refused = restore(Path::new(&cluster.file("one")), backup);
    assert!(refused.code == 1 && refused.text.contains("writes over nothing"), "{}", refused.text);
    assert_eq!(consumers(&one).await.len() as u64, written.load(Ordering::Relaxed));
    tokio::task::spawn_blocking(move || one.stop()).await.unwrap();
    (before, after)
}

/// Restores it, and finds what had been written up to some moment while it was made.
async fn comes_back(empty: &Cluster, backup: &Path, (before, after): (u64, u64)) {
    let said = restore(&empty.dir.write("two.yaml", empty.common("two")), backup);
    assert_eq!(said.code, 0, "{}", said.text);
    let two = empty.dashboard("two");
    two.ready().await;
    let found = consumers(&two).await;
    let count = found.len() as u64;
    // One more may be done that is not answered yet.
    assert!((before..=after + 1).contains(&count), "{count} of {before} to {after}");
    let names: BTreeSet<_> = found.iter().map(|consumer| consumer["username"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, (0..count).map(|n| format!("c{n}")).collect());
    let opened = found.iter().find(|consumer| consumer["username"] == "c7").unwrap();
    assert_eq!(opened["plugins"]["key-auth"]["key"], "k7");
    tokio::task::spawn_blocking(move || two.stop()).await.unwrap();
}
