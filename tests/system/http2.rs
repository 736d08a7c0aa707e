//! HTTP/2 as a client of others speaks it.

use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Echo, Target, eventually};
use milecastle_tests::Up;
use serde_json::json;
use std::process::Command;

#[tokio::test]
async fn h2load_sees_no_failure() {
    const REQUESTS: usize = 5_000;
    let (up, echo) = (Up::start(), Echo::start());
    let authority = Authority::new("test");
    let identity = authority.issue(&["localhost"]);
    up.put("/routes/1", json!({ "uri": "/*", "upstream": { "nodes": { echo.address().to_string(): 1 } } })).await;
    up.put("/ssls/1", json!({ "sni": "localhost", "cert": identity.cert, "key": identity.key })).await;
    let site = Target::tls(up.https, "localhost", &authority.pem());
    eventually("the certificate is served", async || site.connect().await.is_ok()).await;
    let body = up.data.write("body", "b".repeat(2000));
    for more in [&[][..], &["--data", body.to_str().unwrap()]] {
        let mut h2load = Command::new("h2load");
        h2load
            .args(["--clients=8", "--max-concurrent-streams=32", "--npn-list=h2"])
            .arg(format!("--requests={REQUESTS}"));
        h2load.args(more).arg(format!("https://localhost:{}/large/3000", up.https.port()));
        let run = tokio::task::spawn_blocking(move || h2load.output()).await.unwrap();
        let said = run.expect("h2load is there: `cargo xtask test tools` installs it").stdout;
        let said = String::from_utf8(said).unwrap();
        let expected = format!(
            "requests: {REQUESTS} total, {REQUESTS} started, {REQUESTS} done, {REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout"
        );
        assert!(said.contains(&expected), "{said}");
        assert!(said.contains(&format!("status codes: {REQUESTS} 2xx, 0 3xx, 0 4xx, 0 5xx")), "{said}");
        assert!(said.contains("Application protocol: h2\n"), "{said}");
    }
    drop(up.stop());
}
