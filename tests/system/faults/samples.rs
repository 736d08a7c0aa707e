//! The sample of `deploy/nginx` with the real nginx. That of `deploy/haproxy` carries the load of `cluster_run`.

use milecastle_testkit::{Call, Echo, Process, TempDir, eventually};
use milecastle_tests::{Up, free};
use serde_json::json;
use std::net::SocketAddr;
use std::process::Command;

const SAMPLE: &str = include_str!("../../../deploy/nginx/nginx.conf");

/// nginx with the sample, of which only addresses differ, and where it listens.
fn nginx(dir: &TempDir, gateways: [&Up; 2]) -> (Process, SocketAddr) {
    let address = free();
    let home = dir.path().display();
    // What packages of nginx say at compile time belongs to the system.
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let files: String = kinds.iter().map(|kind| format!("{kind}_temp_path {home}/{kind};\n")).collect();
    let mut config = SAMPLE.replace("listen 80;", &format!("listen {address};"));
    config = config.replace("http {\n", &format!("http {{\naccess_log off;\n{files}"));
    for (n, up) in gateways.iter().enumerate() {
        let host = format!("192.0.2.1{}", n + 1);
        config = config.replace(&format!("{host}:80 "), &format!("{} ", up.http));
        config = config.replace(&format!("{host}:7085"), &up.status.to_string());
    }
    assert!(!config.contains("192.0.2."), "{config}");
    let file = dir.write("nginx.conf", config);
    let mut command = Command::new("nginx");
    // Without a master: a worker outlives one that is killed.
    let one = format!("daemon off; master_process off; pid {home}/nginx.pid;");
    command.args(["-e", "stderr", "-c"]).arg(file).args(["-g", &one]);
    (Process::start("nginx", command), address)
}

#[tokio::test]
async fn nginx_passes_on_to_the_node_that_is_left() {
    let (dir, echo, ups) = (TempDir::new(), Echo::start(), [Up::start(), Up::start()]);
    for up in &ups {
        up.put("/routes/1", json!({ "uri": "/*", "upstream": { "nodes": { echo.address().to_string(): 1 } } })).await;
        up.answers("/", 200).await;
    }
    let (_nginx, address) = nginx(&dir, [&ups[0], &ups[1]]);
    eventually("nginx answers", async || {
        Call::get("/hello").to(address).await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let told = echo.take().pop().unwrap();
    assert_eq!(
        (told.header("host"), told.header("x-forwarded-proto")),
        (vec![address.to_string()], vec!["http".to_owned()])
    );
    for n in 1..=2 {
        assert_eq!(Call::get(&format!("/gateways/{n}/status")).to(address).await.unwrap().status, 200);
    }
    let [gone, _left] = ups;
    drop(gone);
    for _ in 0..20 {
        assert_eq!(Call::get("/hello").to(address).await.unwrap().status, 200);
    }
    assert_eq!(Call::get("/gateways/1/status").to(address).await.unwrap().status, 502);
}
