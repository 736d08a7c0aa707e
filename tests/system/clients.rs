//! Clients of others, as their registries have them, on the Admin API of the real binary (`docs/spec/clients.md`).

use milecastle_tests::{ADMIN_KEY, Cluster, Said, python};
use std::path::Path;
use std::time::Duration;

/// How long a client may take, with the load of other tests beside it.
const CLIENT: Duration = Duration::from_secs(120);

/// Runs `tests/clients/<name>/client.py` on either database.
async fn all_well(name: &'static str) {
    for cluster in [Cluster::on_sqlite(), Cluster::new()] {
        let dashboard = cluster.dashboard("d");
        dashboard.ready().await;
        let mut client = python(&format!("client-{name}"), "python");
        client.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name).join("client.py"));
        client.arg(format!("http://{}", dashboard.http)).arg(ADMIN_KEY);
        let run = tokio::task::spawn_blocking(move || Said::by(&mut client));
        let said = tokio::time::timeout(CLIENT, run).await.expect("the client ends").unwrap();
        assert!(said.code == 0 && said.text.ends_with("all well"), "{name}: {}", said.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apisix_client() {
    all_well("apisix-client").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apisix_python_client() {
    all_well("apisix-python-client").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mcp_apisix() {
    all_well("mcp-apisix").await;
}
