//! The OpenAPI document against the real binary, by schemathesis: it sends what the document allows and what it does not, and
//! compares each answer with it (docs/openapi.json, docs/api.md).

use milecastle_tests::{ADMIN_KEY, Cluster, Said, full, python};
use std::path::Path;
use std::time::Duration;

/// How long it may take, with the load of other tests beside it.
const RUN: Duration = Duration::from_secs(1800);

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi");
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    for cluster in [Cluster::on_sqlite(), Cluster::new()] {
        let mut dashboard = cluster.dashboard("d");
        dashboard.process.announce("an Admin API request was answered with 503");
        dashboard.ready().await;
        let mut run = python("openapi", "schemathesis");
        run.env("SCHEMATHESIS_HOOKS", "hooks").env("PYTHONPATH", &config).current_dir(cluster.dir.path());
        run.arg("--config-file").arg(config.join("schemathesis.toml")).arg("run").arg(&document);
        run.args(["--url", &format!("http://{}", dashboard.http), "--header", &format!("X-API-KEY: {ADMIN_KEY}")]);
        run.args(["--max-examples", if full() { "100" } else { "4" }]);
        let ended = tokio::task::spawn_blocking(move || Said::by(&mut run));
        let said = tokio::time::timeout(RUN, ended).await.expect("it ends").unwrap();
        assert_eq!(said.code, 0, "{}", said.text);
        eprintln!("{}", said.text);
        tokio::task::spawn_blocking(move || dashboard.stop()).await.unwrap();
    }
}
