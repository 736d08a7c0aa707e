//! The OpenAPI document against the real binary, by schemathesis: it sends what the document allows and what it does not, and
//! compares each answer with it (docs/openapi.json, docs/api.md).

use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

use milecastle_tests::{ADMIN_KEY, Cluster, Said, full, python};

/// How long a run may take, with the load of other tests beside it.
const RUN: Duration = Duration::from_secs(1800);

/// Cases of an endpoint that are made by chance, beside those that follow from the document (`tests/openapi/hooks.py`).
const CASES: &str = "1";
const CASES_OF_THE_LONG_FORM: &str = "100";

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_on_sqlite() {
    nothing_is_found(&Cluster::on_sqlite(), "all").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_on_postgresql() {
    // What is refused for its form reaches no database: the short form leaves it to the other one.
    nothing_is_found(&Cluster::new(), if full() { "all" } else { "positive" }).await;
}

async fn nothing_is_found(cluster: &Cluster, mode: &str) {
    let mut dashboard = cluster.dashboard("d");
    // It is sent there too.
    dashboard.process.announce("this replica is in maintenance");
    // And the group is told to take over what the database holds.
    dashboard.process.announce("the nodes take over what the database holds");
    dashboard.ready().await;
    // Without it every request about routes of TCP and UDP is refused.
    let settings = json!({ "proxy_mode": "http&stream" });
    let set = dashboard.call("PUT", "/api/gateway_groups/default/settings", Some(&settings)).await;
    assert_eq!(set.status, 200, "{}", set.text());
    // In this order, because the second one changes the settings.
    for paths in ["^/apisix/admin", "^/api/"] {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut run = python("openapi", "schemathesis");
        run.env("SCHEMATHESIS_HOOKS", "hooks").env("PYTHONPATH", tests.join("openapi")).current_dir(cluster.dir.path());
        run.arg("--config-file").arg(tests.join("openapi/schemathesis.toml"));
        run.arg("run").arg(tests.join("../docs/openapi.json"));
        run.args(["--url", &format!("http://{}", dashboard.http), "--header", &format!("X-API-KEY: {ADMIN_KEY}")]);
        run.args(["--include-path-regex", paths, "--mode", mode]);
        run.args(["--max-examples", if full() { CASES_OF_THE_LONG_FORM } else { CASES }]);
        let begun = Instant::now();
        let ended = tokio::task::spawn_blocking(move || Said::by(&mut run));
        let said = tokio::time::timeout(RUN, ended).await.expect("it ends").unwrap();
        assert_eq!(said.code, 0, "{}", said.text);
        eprintln!("{paths}: nothing found in {:.0} s", begun.elapsed().as_secs_f64());
    }
    tokio::task::spawn_blocking(move || dashboard.stop()).await.unwrap();
}
