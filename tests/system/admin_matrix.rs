//! The endpoints of the Admin API on the real binary, as a table (`docs/spec/admin-api.md` §4, §12–§15).

use milecastle_model::Kind;
use milecastle_model::schema::Schema;
use milecastle_testkit::Call;
use milecastle_testkit::tls::Authority;
use milecastle_tests::{ADMIN_KEY, Cluster, Replica};
use serde_json::{Value, json};

/// A collection and what it takes.
struct Row {
    collection: &'static str,
    /// The id of the object that is written; below `secrets` with its manager.
    id: &'static str,
    body: Value,
    /// A change, in PATCH's form; `None` where there is no PATCH.
    patch: Option<Value>,
    /// A path inside the object with its new value; `None` where there is no such PATCH.
    inside: Option<(&'static str, Value)>,
    post: bool,
}

fn rows() -> Vec<Row> {
    let row = |collection, id, body, post| Row { collection, id, body, patch: None, inside: None, post };
    let patched = |collection, id, body, post| Row {
        patch: Some(json!({"desc": "patched"})),
        inside: Some(("desc", json!("again"))),
        ..row(collection, id, body, post)
    };
    let identity = Authority::new("matrix").issue(&["a.example"]);
    let plugins = json!({"plugins": {"limit-count": {"count": 1, "time_window": 60}}});
    let vault = json!({"uri": "http://127.0.0.1:8200", "prefix": "kv", "token": "t"});
    vec![
        patched("routes", "m", json!({"uri": "/m", "plugins": {}}), true),
        patched("services", "m", json!({}), true),
        patched("upstreams", "m", json!({"nodes": {"127.0.0.1:80": 1}}), true),
        patched("ssls", "m", json!({"cert": identity.cert, "key": identity.key, "sni": "a.example"}), true),
        row("consumers", "matrix", json!({"username": "matrix"}), false),
        row("consumers/jack/credentials", "m", json!({"plugins": {"key-auth": {"key": "matrix"}}}), false),
        patched("consumer_groups", "m", plugins.clone(), false),
        patched("plugin_configs", "m", plugins, false),
        Row {
            patch: Some(json!({"plugins": {"request-id": {}}})),
            inside: Some(("plugins", json!({"ip-restriction": {"blacklist": ["192.0.2.1"]}}))),
            ..row("global_rules", "m", json!({"plugins": {}}), false)
        },
        row("plugin_metadata", "file-logger", json!({"log_format": {"host": "$host"}}), false),
        row("protos", "m", json!({"content": "syntax = \"proto3\";"}), true),
        row("stream_routes", "m", json!({"server_port": 9100}), true),
        patched("secrets", "vault/m", vault, false),
        Row { inside: None, ..patched("services/s/graphql_cost_decorations", "m", json!({"field_path": "a.b"}), true) },
    ]
}

impl Row {
    fn kind(&self) -> Kind {
        Kind::from_collection(self.collection.rsplit('/').next().unwrap()).unwrap()
    }
}

struct Api<'a>(&'a Replica);

impl Api<'_> {
    /// Expects a status; gives the body, which is JSON unless it is empty.
    #[track_caller]
    fn expects(&self, status: u16, method: &str, path: &str, body: Option<&Value>) -> impl Future<Output = Value> {
        let place = std::panic::Location::caller();
        let call = Call::new(method.parse().unwrap(), &format!("/apisix/admin{path}")).header("x-api-key", ADMIN_KEY);
        let call = call.header("x-digest", "matrix").body(body.map(Value::to_string).unwrap_or_default());
        let (line, to) = (format!("{method} {path}"), self.0.http);
        async move {
            let answer = call.to(to).await.unwrap();
            assert_eq!(answer.status, status, "{line}: {} ({place})", answer.text());
            answer.json().unwrap_or_default()
        }
    }

    async fn walk(&self, row: &Row) {
        let Row { collection, id, body, patch, inside, post } = row;
        let (all, one) = (format!("/{collection}"), format!("/{collection}/{id}"));
        let below_a_parent = collection.contains('/');
        let empty = self.expects(if below_a_parent { 404 } else { 200 }, "GET", &all, None).await;
        let expected =
            if below_a_parent { json!({"message": "Key not found"}) } else { json!({"list": [], "total": 0}) };
        let (total, none) = (|list: &Value| list["total"].clone(), json!({"message": "Key not found"}));
        if *collection != "services" && *collection != "consumers" {
            assert_eq!(empty, expected, "{collection}");
        }
        for method in ["GET", "DELETE"] {
            assert_eq!(self.expects(404, method, &one, None).await, none);
        }
        let written = self.expects(201, "PUT", &one, Some(body)).await;
        assert_eq!(written["key"], format!("/apisix{one}"));
        self.expects(200, "PUT", &one, Some(body)).await;
        let read = self.expects(200, "GET", &one, None).await;
        assert_eq!(read["key"], format!("/apisix{one}"));
        assert!(read["modifiedIndex"].as_u64() >= read["createdIndex"].as_u64(), "{read}");
        let listed = self.expects(200, "GET", &all, None).await;
        assert!(total(&listed).as_u64() >= Some(1));
        if row.kind() == Kind::Secret {
            // Whichever manager the path names.
            for manager in ["vault", "aws", "gcp"] {
                assert_eq!(self.expects(200, "GET", &format!("{all}/{manager}"), None).await, listed, "{manager}");
            }
        }
        self.schemas_fit(row, read["value"].clone()).await;
        match patch {
            Some(patch) => {
                let merged = self.expects(200, "PATCH", &one, Some(patch)).await;
                let (name, value) = patch.as_object().unwrap().iter().next().unwrap();
                assert_eq!(&merged["value"][name], value, "{one}");
            }
            None => self.unsupported("PATCH", &one).await,
        }
        match inside {
            Some((path, value)) => {
                let set = self.expects(200, "PATCH", &format!("{one}/{path}"), Some(value)).await;
                assert_eq!(&set["value"][*path], value, "{one}");
            }
            None if patch.is_some() => {
                drop(self.expects(404, "PATCH", &format!("{one}/desc"), Some(&json!("x"))).await)
            }
            None => {}
        }
        self.expects(200, "DELETE", &one, None).await;
        if *post {
            let made = self.expects(201, "POST", &all, Some(body)).await;
            let id = made["value"]["id"].as_str().unwrap();
            assert!(id.len() == 20 && id.bytes().all(|digit| digit.is_ascii_digit()), "{made}");
            let deleted = self.expects(200, "DELETE", &format!("{all}/{id}"), None).await;
            assert_eq!(deleted["deleted"], "1");
        } else {
            self.unsupported("POST", &all).await;
        }
    }

    /// What is stored, and each plugin in it, is what the served schema of it says.
    async fn schemas_fit(&self, row: &Row, mut stored: Value) {
        let plugins = stored["plugins"].as_object().cloned().unwrap_or_default();
        let of_plugin = if row.kind() == Kind::Credential { "?schema_type=consumer" } else { "" };
        let plugins = plugins.into_iter().map(|(plugin, config)| (format!("plugins/{plugin}{of_plugin}"), config));
        let mut all: Vec<(String, Value)> = plugins.collect();
        match row.kind() {
            // Answers do not show it.
            Kind::Ssl => stored["key"] = row.body["key"].clone(),
            Kind::Secret => all.push(("secret_vault".to_owned(), stored.clone())),
            Kind::PluginMetadata => {
                all.push((format!("plugins/{}?schema_type=metadata", row.id), row.body.clone()));
            }
            _ => {}
        }
        all.push((row.kind().name().to_owned(), stored.clone()));
        for (name, value) in all {
            let schema = compiled(&name, &self.expects(200, "GET", &format!("/schema/{name}"), None).await);
            let faults = schema.validate(&value);
            assert!(faults.is_empty(), "{name}: {faults:?} in {value}");
        }
        let collection = row.kind().collection();
        let validate = format!("/schema/validate/{collection}");
        assert_eq!(self.expects(200, "POST", &validate, Some(&stored)).await, Value::Null, "{collection}");
        let refused = self.expects(400, "POST", &validate, Some(&json!("no object"))).await;
        assert_eq!(refused["error_msg"], "wrong type: expected object, got string", "{collection}");
    }

    async fn unsupported(&self, method: &str, path: &str) {
        let refused = self.expects(405, method, path, Some(&json!({}))).await;
        let text = refused["error_msg"].as_str().unwrap();
        assert!(text.starts_with(&format!("not supported `{method}` method for ")), "{text}");
    }
}

/// A served schema, each `$ref` of which leads to a place in it, as generators of forms need it.
#[track_caller]
fn compiled(name: &str, served: &Value) -> Schema {
    let mut places = vec![served];
    while let Some(place) = places.pop() {
        match place {
            Value::Object(members) => {
                if let Some(Value::String(to)) = members.get("$ref") {
                    let found = to.strip_prefix('#').and_then(|pointer| served.pointer(pointer));
                    assert!(found.is_some(), "{name}: {to}");
                }
                places.extend(members.values());
            }
            Value::Array(items) => places.extend(items),
            _ => {}
        }
    }
    Schema::compile(served).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Schemas that are served beside those of kinds and plugins.
const SHARED: [&str; 7] = [
    "plugins",
    "upstream_hash_vars_schema",
    "upstream_hash_header_schema",
    "upstream_hash_vars_combinations_schema",
    "id_schema",
    "host_def",
    "health_checker",
];

/// Status, method and path of what is no object.
const OTHERS: [(u16, &str, &str); 26] = [
    (200, "HEAD", ""),
    (200, "OPTIONS", "/routes"),
    (404, "GET", ""),
    (404, "GET", "/nope"),
    (200, "GET", "/plugins/list"),
    (200, "GET", "/plugins/list?subsystem=stream"),
    (400, "GET", "/plugins/list?subsystem=x"),
    (404, "PUT", "/plugins/list"),
    (200, "GET", "/plugins/limit-count"),
    (200, "GET", "/plugins/key-auth?schema_type=consumer"),
    (400, "GET", "/plugins/limit-count?schema_type=consumer"),
    (400, "GET", "/plugins/limit-count?subsystem=x"),
    (404, "GET", "/plugins/nope"),
    (404, "GET", "/plugins"),
    (200, "GET", "/plugins?all=true"),
    (200, "PUT", "/plugins/reload"),
    (405, "GET", "/plugins/reload"),
    (200, "GET", "/schema/route"),
    (200, "GET", "/schema/plugins/limit-count"),
    (400, "GET", "/schema/nope"),
    (404, "PUT", "/schema/route"),
    (200, "GET", "/configs"),
    (200, "HEAD", "/configs"),
    (404, "POST", "/configs"),
    (404, "GET", "/configs/validate"),
    (404, "TRACE", "/routes"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_by_every_method() {
    for cluster in [Cluster::on_sqlite(), Cluster::new()] {
        let dashboard = cluster.dashboard("d");
        dashboard.ready().await;
        let api = Api(&dashboard);
        let stream_route = json!({"server_port": 9100});
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            for path in ["/stream_routes", "/stream_routes/1"] {
                let body = Some(&stream_route).filter(|_| !["GET", "DELETE"].contains(&method));
                let disabled = api.expects(400, method, path, body).await;
                let text = "stream mode is disabled, can not add stream routes";
                assert_eq!(disabled["error_msg"], text, "{method} {path}");
            }
        }
        let streams = json!({"proxy_mode": "http&stream"});
        let set = dashboard.call("PUT", "/api/gateway_groups/default/settings", Some(&streams)).await;
        assert_eq!(set.status, 200, "{}", set.text());
        for (status, method, path) in OTHERS {
            api.expects(status, method, path, None).await;
        }
        for name in SHARED {
            compiled(name, &api.expects(200, "GET", &format!("/schema/{name}"), None).await);
        }
        for subsystem in ["http", "stream"] {
            let plugins = api.expects(200, "GET", &format!("/plugins?all=true&subsystem={subsystem}"), None).await;
            for (plugin, described) in plugins.as_object().unwrap() {
                let schemas = ["schema", "consumer_schema", "metadata_schema"].map(|member| described.get(member));
                schemas.into_iter().flatten().for_each(|schema| drop(compiled(plugin, schema)));
            }
        }
        let route = json!({"uri": "/a", "plugins": {}});
        api.expects(404, "POST", "/schema/validate/nope", Some(&json!({}))).await;
        let mut declared = route.clone();
        declared["id"] = "declared".into();
        let whole = json!({"routes": [declared]});
        api.expects(200, "POST", "/configs/validate", Some(&whole)).await;
        api.expects(400, "POST", "/configs/validate", Some(&json!({"routes": [{"uri": 1}]}))).await;
        api.expects(202, "PUT", "/configs", Some(&whole)).await;
        api.expects(204, "PUT", "/configs", Some(&whole)).await;
        api.expects(200, "DELETE", "/routes/declared", None).await;
        api.expects(201, "PUT", "/services/s", Some(&json!({}))).await;
        api.expects(201, "PUT", "/consumers/jack", Some(&json!({"username": "jack"}))).await;
        for row in rows() {
            api.walk(&row).await;
        }
    }
}
