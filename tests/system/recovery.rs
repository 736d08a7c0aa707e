//! What a node makes of a data directory in which something is missing, spoilt or from elsewhere.

use milecastle_testkit::{Call, Echo, TempDir, eventually, wait_for};
use milecastle_tests::Up;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn gateway(data: &TempDir) -> PathBuf {
    data.path().join("data/gateway")
}

fn remove_database(data: &TempDir) {
    for file in ["milecastle.db", "milecastle.db-wal", "milecastle.db-shm"] {
        match fs::remove_file(data.path().join("data").join(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{file}: {error}"),
            _ => {}
        }
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The files of last good configurations that a node has kept.
fn kept(data: &TempDir) -> BTreeSet<PathBuf> {
    let files = fs::read_dir(gateway(data)).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "checkpoint")).collect()
}

/// The line of the log that has all these words.
fn line(up: &Up, words: &[&str]) -> Option<String> {
    up.process.log().into_iter().find(|line| words.iter().all(|word| line.contains(word)))
}

#[tokio::test]
async fn a_node_joins_the_cluster_that_took_the_place_of_its_own() {
    let data = Up::start().stop();
    let (before, of_before) = (fs::read(gateway(&data).join("node.pem")).unwrap(), kept(&data));
    remove_database(&data);
    let mut up = Up::start_in(data);
    up.process.announce("the group token is of another cluster than this node's certificate: joining anew");
    let told = || line(&up, &["WARN", "another cluster", "joining anew"]).is_some();
    let joined = || fs::read(gateway(&up.data).join("node.pem")).is_ok_and(|now| now != before);
    eventually("it joins anew", async || told() && joined()).await;
    assert_eq!(Call::get("/status").to(up.status).await.unwrap().status, 200);
    assert_eq!(up.get("/").await.status, 404);
    // Until then it may still start with what it has of the cluster before, and say that it does not.
    eventually("a last good configuration of this cluster", async || !kept(&up.data).is_subset(&of_before)).await;
    let up = Up::start_in(up.stop());
    assert_eq!(up.process.unannounced(), Vec::<String>::new(), "from then on it is a node like any other");
}

#[tokio::test]
async fn spoilt_keys_are_put_aside_and_the_node_joins_anew() {
    let mut data = Up::start().stop();
    let (pem, other) = (gateway(&data).join("node.pem"), gateway(&data).join("node.pem.bad"));
    let whole = fs::read_to_string(&pem).unwrap();
    let foreign = Up::start().stop();
    let foreign = fs::read_to_string(gateway(&foreign).join("node.pem")).unwrap();
    let certificates = |text: &str| text.find("-----BEGIN CERTIFICATE").unwrap();
    let (key, _) = foreign.split_at(certificates(&foreign));
    let (_, chain) = whole.split_at(certificates(&whole));
    let (half, _) = whole.split_at(whole.len() / 2);
    for spoilt in ["", "not a key", half, &format!("{key}{chain}")] {
        fs::write(&pem, spoilt).unwrap();
        let mut up = Up::start_in(data);
        up.process.announce("put aside, joining anew");
        let path = pem.display().to_string();
        let told = || line(&up, &["ERROR", "put aside, joining anew", &path, "node.pem.bad"]).is_some();
        eventually("it joins anew", async || told() && fs::read_to_string(&pem).is_ok_and(|now| now != spoilt)).await;
        assert_eq!(fs::read_to_string(&other).unwrap(), spoilt);
        assert_eq!(up.get("/").await.status, 404);
        data = up.stop();
    }
}

#[tokio::test]
async fn secrets_that_others_can_read_are_named_with_what_to_do() {
    let data = Up::start().stop();
    let (pem, token) = (gateway(&data).join("node.pem"), data.path().join("data/group-token"));
    chmod(&token, 0o644);
    let mut up = Up::start_in(data);
    let advice = format!("chmod 600 {}", token.display());
    eventually("the warning", async || line(&up, &["WARN", "group token", &advice]).is_some()).await;
    up.process.announce(&advice);
    let data = up.stop();
    chmod(&token, 0o600);
    chmod(&pem, 0o644);
    let mut process = Up::process_in(&data, &[]);
    let refusal = format!("{}: holds a private key and is open to others (mode 644): chmod 600", pem.display());
    wait_for("the refusal", Duration::from_secs(60), async || {
        assert!(process.is_running());
        process.log().iter().any(|line| line.contains(&refusal)).then_some(())
    })
    .await;
    chmod(&pem, 0o600);
    let open = |line: &String| line.contains("configuration stream open");
    eventually("it goes on", async || process.log().iter().any(open)).await;
}

#[tokio::test]
async fn nothing_is_acknowledged_once_the_database_file_is_gone() {
    let (mut up, echo) = (Up::start(), Echo::start());
    let route = |uri: &str| json!({ "uri": uri, "upstream": { "nodes": { echo.address().to_string(): 1 } } });
    up.put("/routes/1", route("/a")).await;
    up.answers("/a", 200).await;
    let (file, aside) = (up.data.path().join("data/milecastle.db"), up.data.path().join("aside.db"));
    for words in ["was deleted or replaced while it was open", "database"] {
        up.process.announce(words);
    }
    fs::rename(&file, &aside).unwrap();
    let refused = up.admin("PUT", "/routes/2", Some(&route("/b"))).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("milecastle.db was deleted or replaced while it was open"), "{}", refused.text());
    eventually("the log says so", async || {
        line(&up, &["WARN", "was deleted or replaced", "put that very file back"]).is_some()
    })
    .await;
    assert_eq!(up.get("/a").await.status, 200, "traffic does not need the database");
    fs::rename(&aside, &file).unwrap();
    up.put("/routes/2", route("/b")).await;
    up.answers("/b", 200).await;
}
