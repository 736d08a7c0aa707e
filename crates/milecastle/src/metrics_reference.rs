//! The table of a gateway's metrics, `docs/metrics.md`, is made of what the code registers.

use milecastle_plugin_api::{NoSecrets, Owner, Placement, PluginDef, Registry as Plugins, Shared};
use milecastle_settings::Gateway;
use milecastle_telemetry::metrics::{FamilySnapshot, Registry};
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

const HEAD: &str = "# Metrics of a gateway node

Made of the code by `cargo xtask codegen`. How to get at them: [observability.md](observability.md).
Every name begins with `plugin_attr.prometheus.metric_prefix`, `apisix_` by default.

Metrics of requests and sessions (`http_status`, `http_latency`, `bandwidth`, `stream_connection_total`, `stream_status`) are
there where the plugin [prometheus](plugins/prometheus.md) is on; all others always.

| name | kind | labels | meaning |
|---|---|---|---|
";

/// All families, those of the plugins included.
fn families() -> Vec<FamilySnapshot> {
    let registry = Arc::new(Registry::new("", 1));
    milecastle_proxy::register_metrics(&registry, &Gateway::default().plugin_attr.prometheus).unwrap();
    let shared = Arc::new(Shared::default());
    shared.put(registry.clone());
    for list in [milecastle_plugins::ALL, milecastle_plugins::STREAM] {
        register(list, &shared);
    }
    registry.snapshot()
}

/// Builds an instance of each plugin, for plugins register their metrics then.
fn register(list: &[&'static PluginDef], shared: &Arc<Shared>) {
    let plugins = Plugins::new(list, Map::new(), shared.clone(), Arc::new(NoSecrets));
    for def in list {
        let Some(example) = def.examples.iter().find(|example| !example.credential) else { continue };
        let config: Value = serde_json::from_str(example.json).unwrap();
        let config = Map::from_iter([(def.name.to_owned(), config)]);
        let (_, faults) = plugins.build_all(&config, Placement::Object, &Owner("/routes/1".into()), &|_| None);
        assert_eq!(faults, [], "{}", def.name);
    }
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for FamilySnapshot { name, help, kind, labels, .. } in families() {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(page, "| `{name}` | {kind} | {} | {} |", labels.join(", "), help.trim_end_matches('.')).unwrap();
    }
    page
}

/// With `MILECASTLE_UPDATE` set, as `cargo xtask codegen` does, writes the page instead.
#[test]
fn metrics_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    if std::env::var_os("MILECASTLE_UPDATE").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    assert!(std::fs::read_to_string(&path).unwrap_or_default() == page(), "run `cargo xtask codegen`");
}
