//! The control API over real HTTP, on snapshots of the real compiler.

use super::{ControlApi, serve};
use crate::discovery::Discovery;
use crate::drain::Drain;
use crate::node_metrics::limits;
use crate::side_http::{SideListener, SideServer};
use milecastle_model::{Key, Kind, Object};
use milecastle_plugin_api::{
    BuildCx, ConfigError, Flow, Hooks, Metadata, NoSecrets, OnAccess, Plugin, PluginDef, Registry, RequestCx, Shared,
};
use milecastle_snapshot::{Compiler, Snapshot};
use milecastle_telemetry::metrics;
use milecastle_testkit::{Answer, Call, SOON, eventually};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};

/// A plugin with a default, a secret and metadata.
struct Probe;

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only its schema is read")]
struct ProbeConfig {
    #[serde(default = "three")]
    times: u32,
    login: Option<Login>,
}

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only its schema is read")]
struct Login {
    user: String,
    password: String,
}

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only its schema is read")]
struct ProbeMetadata {
    level: Option<String>,
    login: Option<Login>,
}

fn three() -> u32 {
    3
}

impl Plugin for Probe {
    type Config = ProbeConfig;
    const NAME: &'static str = "probe";
    const PRIORITY: i32 = 10;
    const METADATA: Option<Metadata> = Some(Metadata::of::<ProbeMetadata>());
    const ENCRYPTED: &'static [&'static str] = &["login.password"];

    fn compile(_: ProbeConfig, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        Ok(Self)
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.access()
    }
}

impl OnAccess for Probe {
    fn on_access<'a>(&'a self, _: &'a mut RequestCx) -> Flow<'a> {
        Flow::Next
    }
}

static PROBE: PluginDef = PluginDef::of::<Probe>();

/// Serves the control API of a node that holds these objects; each was created at revision 3 and changed at 5.
async fn node(objects: &[(Kind, &str, Value)]) -> SideServer {
    let registry = Registry::new(&[&PROBE], Map::new(), Arc::new(Shared::default()), Arc::new(NoSecrets));
    let objects = objects.iter().map(|(kind, id, body)| {
        let body = body.to_string().into();
        Object { key: Key::new(*kind, *id), body, created: 3, modified: 5 }
    });
    let registry = Arc::new(registry);
    let compiler = Compiler::new(registry.clone()).with_sessions(registry);
    let compiler = compiler.under_settings(&json!({ "proxy_mode": "http&stream" })).unwrap();
    let (snapshot, _) = compiler.build("line", 5, objects.collect());
    let snapshot = Arc::new(snapshot);
    serving(move || snapshot.clone(), &metrics::Registry::default())
}

/// Serves the control API over this snapshot, one answer at a time; `metrics` counts those that wait.
fn serving(snapshot: impl Fn() -> Arc<Snapshot> + Send + Sync + 'static, metrics: &metrics::Registry) -> SideServer {
    let waited = limits::family(metrics).unwrap().with(&[limits::CONTROL_ANSWERS]);
    let discovery = Discovery::new(&Default::default(), tokio::runtime::Handle::current(), None, None).unwrap();
    let api = ControlApi::new(
        snapshot,
        Arc::default(),
        discovery,
        Arc::new(Drain::new("1.2.3", std::time::Duration::ZERO)),
        PathBuf::new(),
    );
    serve(SideListener::bind("127.0.0.1:0".parse().unwrap()).unwrap(), api, 1, waited)
}

async fn get(node: &SideServer, target: &str) -> Answer {
    Call::get(target).to(node.local_addr()).await.unwrap()
}

/// The answer is 200 with this JSON.
async fn shows(node: &SideServer, target: &str, value: Value) {
    let answer = get(node, target).await;
    assert_eq!((answer.status, answer.json().unwrap()), (200, value), "{target}");
    assert_eq!(answer.header("content-type"), "application/json", "{target}");
}

/// The answer is this error.
async fn refuses(node: &SideServer, target: &str, status: u16, message: &str) {
    let answer = get(node, target).await;
    assert_eq!((answer.status, answer.json().unwrap()), (status, json!({ "error_msg": message })), "{target}");
}

/// The answer is the default page of 404.
async fn knows_nothing(node: &SideServer, call: Call) {
    let answer = call.clone().to(node.local_addr()).await.unwrap();
    assert_eq!(answer.status, 404, "{call:?}");
    assert!(answer.text().contains("<h1>404 Not Found</h1>"), "{}", answer.text());
}

#[tokio::test]
async fn objects_are_shown_as_they_are_loaded() {
    #[rustfmt::skip]
    let table = [
        // Defaults, hosts, and nodes in map form.
        (Kind::Route, json!({"uri": "/a", "host": "Foo.COM", "upstream": {"nodes": {"127.0.0.1:1980": 1}}}),
            json!({"uri": "/a", "host": "foo.com", "priority": 0, "status": 1, "upstream": {
                "type": "roundrobin", "hash_on": "vars", "scheme": "http", "pass_host": "pass",
                "nodes": [{"host": "127.0.0.1", "port": 1980, "weight": 1}]}}), false),
        (Kind::Route, json!({"uri": "/a", "hosts": ["A.b", "*.C"], "upstream_id": "1", "priority": 7, "status": 0}),
            json!({"uri": "/a", "hosts": ["a.b", "*.c"], "upstream_id": "1", "priority": 7, "status": 0}), false),
        // A plugin's defaults, and its secret.
        (Kind::Route, json!({"uri": "/a", "plugins": {"probe": {"login": {"user": "u", "password": "hush"}}}}),
            json!({"uri": "/a", "priority": 0, "status": 1,
                "plugins": {"probe": {"times": 3, "login": {"user": "u", "password": "******"}}}}), false),
        (Kind::Service, json!({"hosts": ["X.y"], "upstream": {"nodes": []}}),
            json!({"hosts": ["x.y"], "upstream": {"nodes": [],
                "type": "roundrobin", "hash_on": "vars", "scheme": "http", "pass_host": "pass"}}), false),
        // Nodes in list form, names among them, and a private key.
        (Kind::Upstream, json!({"nodes": [{"host": "a.test", "weight": 1}, {"host": "[::1]", "port": 81, "weight": 2}]}),
            json!({"type": "roundrobin", "hash_on": "vars", "scheme": "http", "pass_host": "pass",
                "nodes": [{"host": "a.test", "weight": 1, "priority": 0},
                    {"host": "[::1]", "port": 81, "weight": 2, "priority": 0}],
                "dns_nodes": [{"host": "a.test", "weight": 1, "priority": 0},
                    {"host": "[::1]", "port": 81, "weight": 2, "priority": 0}]}), true),
        (Kind::Upstream, json!({"nodes": {"[::1]:80": 1, "[::2]": 2, "::3": 3, "b.test:82": 4}}),
            json!({"type": "roundrobin", "hash_on": "vars", "scheme": "http", "pass_host": "pass",
                "nodes": [{"host": "[::1]", "port": 80, "weight": 1}, {"host": "[::2]", "weight": 2},
                    {"host": "::3", "weight": 3}, {"host": "b.test", "port": 82, "weight": 4}],
                "dns_nodes": [{"host": "[::1]", "port": 80, "weight": 1}, {"host": "[::2]", "weight": 2},
                    {"host": "::3", "weight": 3}, {"host": "b.test", "port": 82, "weight": 4}]}), true),
        (Kind::Upstream, json!({"service_name": "s", "discovery_type": "dns", "keepalive_pool": {"size": 8}}),
            json!({"service_name": "s", "discovery_type": "dns", "type": "roundrobin", "hash_on": "vars",
                "scheme": "http", "pass_host": "pass",
                "keepalive_pool": {"size": 8, "idle_timeout": 60, "requests": 1000}}), false),
    ];
    for (kind, mut body, mut value, has_domain) in table {
        (body["id"], value["id"]) = ("o.1".into(), "o.1".into());
        let node = node(&[(kind, "o.1", body)]).await;
        let collection = kind.collection();
        let mut dump = json!({"key": format!("/apisix/{collection}/o.1"), "value": value,
            "createdIndex": 3, "modifiedIndex": 5, "has_domain": has_domain});
        if kind == Kind::Route {
            dump["orig_modifiedIndex"] = 5.into();
        }
        shows(&node, &format!("/v1/{}/o.1", kind.name()), dump.clone()).await;
        shows(&node, &format!("/v1/{collection}"), json!([dump])).await;
    }
}

#[tokio::test]
async fn private_keys_do_not_leave() {
    let key = "k".repeat(64);
    let tls = json!({"client_cert": "c".repeat(128), "client_key": key});
    // Of a plugin that this version does not know.
    let plugins = json!({"of-a-later-version": {"upstream": {"tls": tls}}});
    let node = node(&[
        (Kind::Upstream, "1", json!({"id": "1", "nodes": {}, "tls": tls})),
        (Kind::Service, "1", json!({"id": "1", "upstream": {"nodes": {}, "tls": tls}})),
        (Kind::Route, "1", json!({"id": "1", "uri": "/", "upstream": {"nodes": {}, "tls": tls}, "plugins": plugins})),
    ])
    .await;
    for target in ["/v1/upstream/1", "/v1/upstreams", "/v1/service/1", "/v1/services", "/v1/route/1", "/v1/routes"] {
        let text = get(&node, target).await.text();
        assert!(text.contains("\"client_key\":\"******\"") && !text.contains(&key), "{target}: {text}");
    }
}

#[tokio::test]
async fn directions_of_checks_that_are_left_out_are_not_probed() {
    let checks = json!({"active": {"http_path": "/ping", "healthy": {}}, "passive": {"unhealthy": {"timeouts": 9}}});
    let node = node(&[(Kind::Upstream, "1", json!({"id": "1", "nodes": {}, "checks": checks}))]).await;
    let dump = get(&node, "/v1/upstream/1").await.json().unwrap();
    let checks = &dump["value"]["checks"];
    assert_eq!(checks["active"]["healthy"], json!({"interval": 1, "http_statuses": [200, 302], "successes": 2}));
    assert_eq!(checks["active"]["unhealthy"]["interval"], 0);
    assert_eq!(checks["active"]["unhealthy"]["tcp_failures"], 2);
    assert_eq!(checks["active"]["concurrency"], 10);
    assert_eq!(checks["passive"]["unhealthy"]["timeouts"], 9);
    assert_eq!(checks["passive"]["healthy"]["successes"], 5);
    assert_eq!(checks["passive"]["healthy"].get("interval"), None);
}

#[tokio::test]
async fn lists_are_empty_and_objects_missing_on_an_empty_node() {
    let node = node(&[]).await;
    for target in ["/v1/routes", "/v1/services", "/v1/upstreams", "/v1/plugin_metadatas", "/v1/healthcheck"] {
        shows(&node, target, json!([])).await;
    }
    refuses(&node, "/v1/route/7", 404, "route[7] not found").await;
    refuses(&node, "/v1/service/s", 404, "service[s] not found").await;
    refuses(&node, "/v1/upstream/u", 404, "upstream[u] not found").await;
    refuses(&node, "/v1/plugin_metadata/probe", 404, "plugin metadata[probe] not found").await;
}

#[tokio::test]
async fn metadata_of_enabled_plugins_is_listed() {
    let node = node(&[
        (Kind::PluginMetadata, "probe", json!({"level": "high", "login": {"user": "u", "password": "p"}})),
        (Kind::PluginMetadata, "unknown", json!({"a": 1})),
    ])
    .await;
    let shown = json!({"level": "high", "login": {"user": "u", "password": "******"}, "id": "probe"});
    shows(&node, "/v1/plugin_metadatas", json!([shown])).await;
    shows(&node, "/v1/plugin_metadata/probe", shown).await;
}

#[tokio::test]
async fn upstreams_with_checks_are_listed_without_nodes() {
    let inline = |kind: &str| json!({"nodes": {"127.0.0.1:1": 1}, "checks": {"active": {"type": kind}}});
    let node = node(&[
        (Kind::Upstream, "u", json!({"id": "u", "nodes": {}, "checks": {"active": {}}})),
        (Kind::Upstream, "none", json!({"id": "none", "nodes": {}})),
        (Kind::Route, "r", json!({"id": "r", "uri": "/", "upstream": inline("tcp")})),
        (Kind::Service, "s", json!({"id": "s", "upstream": inline("https")})),
        (Kind::StreamRoute, "t", json!({"id": "t", "upstream": inline("tcp")})),
    ])
    .await;
    let check = |name: &str, kind: &str| json!({"name": name, "type": kind, "nodes": []});
    let all = [
        check("/apisix/routes/r", "tcp"),
        check("/apisix/stream_routes/t", "tcp"),
        check("/apisix/services/s", "https"),
        check("/apisix/upstreams/u", "http"),
    ];
    shows(&node, "/v1/healthcheck", json!(all)).await;
    let html =
        Call::get("/v1/healthcheck").header("accept", "text/html,*/*;q=0.8").to(node.local_addr()).await.unwrap();
    assert_eq!((html.status, html.header("content-type").as_str()), (200, "text/html"));
    assert!(html.text().contains("<th>TIMEOUT Failures</th>"));

    refuses(&node, "/v1/healthcheck/upstreams/u", 404, "no checker for upstreams[u]").await;
    refuses(&node, "/v1/healthcheck/upstreams/none", 404, "no checker for upstreams[none]").await;
    refuses(&node, "/v1/healthcheck/upstreams/x", 404, "upstreams[x] not found").await;
    refuses(&node, "/v1/healthcheck/routes", 404, "missing src id for src type routes").await;
    refuses(&node, "/v1/healthcheck/routes/", 404, "missing src id for src type routes").await;
    refuses(&node, "/v1/healthcheck/consumers/x", 400, "invalid src type consumers").await;
}

#[tokio::test]
async fn schemas_of_resources_and_plugins() {
    let node = node(&[]).await;
    let schema = get(&node, "/v1/schema").await.json().unwrap();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&schema), ["main", "plugins", "stream_plugins"]);
    assert_eq!(names(&schema["main"]), super::schemas::MAIN);
    assert_eq!(schema["main"]["route"]["properties"]["priority"]["default"], 0);
    assert_eq!(names(&schema["plugins"]), ["probe"]);
    assert_eq!(schema["stream_plugins"], schema["plugins"], "the fixture has the same for both");
    let probe = &schema["plugins"]["probe"];
    assert_eq!(names(probe), ["priority", "schema", "metadata_schema"]);
    assert_eq!(probe["priority"], 10);
    assert_eq!(probe["schema"]["properties"]["times"]["default"], 3);
    assert_eq!(probe["schema"]["$comment"], "this is a mark for our injected plugin schema");
}

#[tokio::test]
async fn commands_and_what_is_unknown() {
    let node = node(&[(Kind::Route, "1", json!({"id": "1", "uri": "/", "plugins": {}}))]).await;
    let gc = Call::post("/v1/gc", "").to(node.local_addr()).await.unwrap();
    assert_eq!((gc.status, gc.text().as_str()), (200, ""));
    let reload = Call::new(http::Method::PUT, "/v1/plugins/reload").to(node.local_addr()).await.unwrap();
    assert_eq!((reload.status, reload.text().as_str()), (200, "done"));
    for target in [
        "/",
        "/v1",
        "/v1/",
        "/v2/routes",
        "/v1/route",
        "/v1/routes/1",
        "/v1/route/1/x",
        "/v1/gc",
        "/v1/plugins/reload",
        "/v1/server_info",
        "/v1/discovery/dns/dump",
        "/v1/discovery/consul/show_dump_file",
    ] {
        knows_nothing(&node, Call::get(target)).await;
    }
    knows_nothing(&node, Call::post("/v1/routes", "")).await;
    knows_nothing(&node, Call::new(http::Method::DELETE, "/v1/route/1")).await;
}

#[tokio::test]
async fn answers_that_wait_for_their_turn_are_counted() {
    let registry = Registry::new(&[], Map::new(), Arc::new(Shared::default()), Arc::new(NoSecrets));
    let empty = Arc::new(Snapshot::empty("", &Compiler::new(Arc::new(registry))));
    let (go_on, held) = mpsc::channel();
    let (held, metrics) = (Mutex::new(held), metrics::Registry::default());
    let node = serving(
        move || {
            held.lock().unwrap().recv_timeout(SOON).unwrap();
            empty.clone()
        },
        &metrics,
    );
    let waited = limits::family(&metrics).unwrap().with(&[limits::CONTROL_ANSWERS]);
    let both = async { tokio::join!(get(&node, "/v1/routes"), get(&node, "/v1/routes")) };
    let released = async {
        eventually("one waits for the other", async || waited.get() == 1).await;
        go_on.send(()).unwrap();
        go_on.send(()).unwrap();
    };
    let ((one, other), ()) = tokio::join!(both, released);
    assert_eq!((one.status, other.status, waited.get()), (200, 200, 1));
}
