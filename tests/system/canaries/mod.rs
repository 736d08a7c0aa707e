//! A secret in every place that can hold one, at the level `debug` of all logs: no log, metric, audit entry, list, dump, file or error
//! shows any of them.

mod objects;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use http::Method;
use milecastle_model::{Key, Kind};
use milecastle_testkit::postgres::Database;
use milecastle_testkit::process::binary;
use milecastle_testkit::tls::{Authority, Identity};
use milecastle_testkit::{Answer, Call, Process, Target, eventually, nowhere};
use milecastle_tests::{ADMIN_KEY, Cluster, Up, free};
use serde_json::{Value, json};

use objects::{assert_all_places, objects, refused_objects, secret, settings, spoilt};

/// What every secret begins with that is a text of ours.
const MARK: &str = "c4n4ry";
/// The one that the database holds in clear, in the address of a probe; it is shown nowhere either.
const OF_A_PROBE: &str = "can4ry-of-a-probe";
/// How long the process may take to end, with all that it says.
const LONG: Duration = Duration::from_secs(60);

/// The secrets, as they are looked for.
struct Secrets {
    texts: Vec<String>,
    /// Where one of them was found, and what stands around it.
    shown: RefCell<BTreeMap<String, String>>,
}

/// An object that is written, with where.
type Object = (Kind, &'static str, Value);

impl Secrets {
    fn new() -> Self {
        Self { texts: [MARK, ADMIN_KEY, OF_A_PROBE].map(str::to_owned).into(), shown: RefCell::default() }
    }

    /// A certificate whose private key is one of them.
    fn pair(&mut self, authority: &Authority) -> Identity {
        let identity = authority.issue(&["canary.example"]);
        // A line of its own in PEM, and within JSON.
        self.texts.push(identity.key.lines().nth(1).unwrap().to_owned());
        identity
    }

    fn add(&mut self, secret: &Value) {
        self.texts.push(secret.as_str().unwrap().to_owned());
    }

    fn within(&self, text: &str) -> Option<usize> {
        self.texts.iter().find_map(|secret| text.find(secret.as_str()))
    }

    /// Takes note if one of them is in a text.
    fn are_not_in(&self, place: &str, text: &str) {
        if let Some(at) = self.within(text) {
            let (before, after) = text.split_at(at);
            let before: Vec<char> = before.chars().rev().take(200).collect();
            let around: String = before.into_iter().rev().chain(after.chars().take(200)).collect();
            self.shown.borrow_mut().entry(place.to_owned()).or_insert(around);
        }
    }

    /// Takes note if one of them is in a dump of PostgreSQL, where bytes stand in hexadecimal.
    fn are_not_in_dump(&self, dump: &str) {
        self.are_not_in("the dump", dump);
        for text in &self.texts {
            let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            if dump.contains(&digits) {
                self.shown.borrow_mut().insert("the dump, in hexadecimal".to_owned(), text.clone());
            }
        }
    }

    /// Fails if one was anywhere, and tells all places.
    fn showed_nowhere(self) {
        let shown = self.shown.into_inner();
        let told: Vec<_> = shown.iter().map(|(place, around)| format!("{place}: …{around}…")).collect();
        assert!(told.is_empty(), "secrets show in {} places:\n{}", told.len(), told.join("\n"));
    }
}

async fn call(at: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let call = Call::new(method.parse().unwrap(), path).header("x-api-key", ADMIN_KEY);
    let call = call.header("content-type", "application/json").within(LONG);
    call.body(body.map(Value::to_string).unwrap_or_default()).to(at).await.unwrap()
}

/// Looks through every file below a directory.
fn sweep_files(directory: &Path, secrets: &Secrets) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            sweep_files(&entry.path(), secrets);
        } else if let Ok(bytes) = fs::read(entry.path()) {
            secrets.are_not_in(&entry.path().display().to_string(), &String::from_utf8_lossy(&bytes));
        }
    }
}

/// Accounts, sessions and tokens: what is shown once is looked for from then on.
async fn mint(api: SocketAddr, secrets: &mut Secrets) {
    let roles = json!([{ "role": "viewer", "groups": ["*"] }]);
    let token = call(api, "POST", "/api/tokens", Some(&json!({ "name": "t", "roles": roles }))).await.json().unwrap();
    secrets.add(&token["token"]);
    let group = "/api/gateway_groups/default/tokens";
    let join = call(api, "POST", group, Some(&json!({ "name": "j", "expires_in": "1d" }))).await.json().unwrap();
    secrets.add(&join["token"]);
    let made = call(api, "POST", "/api/users", Some(&json!({ "name": "bob", "roles": roles }))).await.json().unwrap();
    secrets.add(&made["password"]);
    let password = secret("Password!1");
    let login = json!({ "name": "bob", "password": made["password"] });
    let session = call(api, "POST", "/api/session", Some(&login)).await;
    assert_eq!(session.status, 201, "{}", session.text());
    let cookie = session.header("set-cookie").split(';').next().unwrap().to_owned();
    let csrf = session.json().unwrap()["csrf_token"].clone();
    secrets.add(&cookie.split_once('=').unwrap().1.into());
    secrets.add(&csrf);
    let change = Call::new(Method::PUT, "/api/session/password").header("cookie", &cookie);
    let change = change.header("x-csrf-token", csrf.as_str().unwrap());
    let body = json!({ "old": made["password"], "new": password }).to_string();
    assert_eq!(change.body(body).to(api).await.unwrap().status, 204);
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    let used = Call::get("/api/nodes").header("authorization", &bearer).to(api).await.unwrap();
    assert_eq!(used.status, 200);
    // Who is none: whatever was tried is as secret.
    for (path, body) in [
        ("/api/session", json!({ "name": "bob", "password": secret("wrong") })),
        ("/api/session", json!({ "name": secret("in-the-wrong-field"), "password": "x" })),
        ("/api/users", json!({ "name": "eve", "roles": roles, "password": MARK })),
        ("/api/users", json!({ "name": "eve", "roles": [secret("role")], "password": [secret("p")] })),
    ] {
        let refused = call(api, "POST", path, Some(&body)).await;
        assert!(matches!(refused.status, 400 | 401 | 429), "{path} {body}: {}", refused.status);
        // What a client put into the wrong field it may read again.
        if !body.to_string().contains("role\"") {
            secrets.are_not_in(path, &refused.text());
        }
    }
}

/// Requests with secrets, good and wrong ones, of which all fail on the way.
async fn traffic(up: &Up, authority: &Authority) {
    for name in ["jack", "credential"] {
        let key = secret(name);
        let key = key.as_str().unwrap();
        eventually("the key opens, and nobody is there", async || {
            Call::get("/kept").header("apikey", key).to(up.http).await.unwrap().status == 502
        })
        .await;
        assert_eq!(up.get(&format!("/kept?apikey={key}")).await.status, 502);
    }
    eventually("so does the one of the environment", async || {
        up.get(&format!("/kept?apikey={MARK}-environment")).await.status == 502
    })
    .await;
    let wrong = Call::get(&format!("/kept?apikey={MARK}-wrong")).to(up.http).await.unwrap();
    assert_eq!(wrong.status, 401);
    let target = Target::tls(up.https, "canary.example", &authority.pem());
    let mut connection = target.connect().await.unwrap();
    assert_eq!(Call::get("/none").send(&mut connection).await.unwrap().status, 404);
    for registry in ["consul", "consul_kv", "nacos", "eureka", "kubernetes"] {
        let upstream = json!({ "discovery_type": registry, "service_name": "default/web:http" });
        up.put(&format!("/routes/{registry}"), json!({ "uri": format!("/{registry}"), "upstream": upstream })).await;
        up.answers(&format!("/{registry}"), 503).await;
    }
}

/// The paths of all that can be read, with what is there in place of their parameters.
async fn readable(api: SocketAddr) -> Vec<String> {
    let read = async |path: &str| call(api, "GET", path, None).await.json().unwrap();
    let (nodes, entries) = (read("/api/nodes").await, read("/api/audit?limit=1").await);
    // Each endpoint has its operation in it (`milecastle-control`, `openapi`).
    let document = read("/api/openapi.json").await;
    let operations = document["paths"].as_object().unwrap().iter();
    let gets = operations.filter(|(path, methods)| methods.get("get").is_some() && !is_with_secrets(path));
    let fill = |path: &String| {
        let words = path.split('/').map(|word| match word {
            "{group}" => "default".to_owned(),
            "{node}" => nodes["list"][0]["id"].as_str().unwrap().to_owned(),
            "{entry}" => entries["list"][0]["id"].to_string().trim_matches('"').to_owned(),
            "{kind}" => "route".to_owned(),
            "{other}" | "{draft}" => "0".to_owned(),
            "{link}" | "{probe}" => "canary".to_owned(),
            "{name}" if path.starts_with("/api/users") => "bob".to_owned(),
            "{name}" if path.starts_with("/api/roles") => "viewer".to_owned(),
            "{name}" => "key-auth".to_owned(),
            _ if word.starts_with('{') => "1".to_owned(),
            _ => word.to_owned(),
        });
        words.collect::<Vec<_>>().join("/")
    };
    gets.map(|(path, _)| fill(path)).collect()
}

/// Whether whoever may read this is shown secrets: plugins' own, as the reference does, and whole configurations with them.
fn is_with_secrets(path: &str) -> bool {
    let shown =
        ["/apisix/admin/consumers", "/apisix/admin/plugin_metadata", "/apisix/admin/secrets", "/apisix/admin/configs"];
    // One of them has a plugin with a key.
    path == "/apisix/admin/stream_routes"
        || shown.iter().any(|start| path.starts_with(start))
        || path.ends_with("/export") && !path.contains("audit")
}

/// What there is nothing of here: sessions, a provider to log in with, and objects of kinds that hold no secret.
fn is_of_nothing(path: &str) -> bool {
    let none = ["consumer_groups/1", "global_rules/1", "plugin_configs/1", "protos/1"];
    path.starts_with("/api/session")
        || path.contains("graphql_cost_decorations")
        || none.iter().any(|object| path.ends_with(object))
        || path == "/apisix/admin/plugins"
}

/// Everything that the API shows.
async fn sweep_api(api: SocketAddr, secrets: &Secrets) {
    let group = "/api/gateway_groups/default";
    let head = call(api, "GET", &format!("{group}/revisions"), None).await.json().unwrap();
    let mut paths = readable(api).await;
    paths.extend(
        [
            "/metrics",
            "/api/audit?limit=500",
            "/api/audit/export?format=csv",
            "/api/gateway_groups/default/revisions?limit=500",
            "/apisix/admin/plugins?all=true",
            // What has other secrets than private keys is exported with them.
            "/api/gateway_groups/default/export?kinds=ssl,upstream,service,route,group_settings",
            "/api/gateway_groups/default/revisions/head/objects",
            "/api/changes?limit=500",
            "/api/events?limit=500",
            "/api/warnings?limit=500",
        ]
        .map(str::to_owned),
    );
    paths.extend((1..=head["head"].as_u64().unwrap()).flat_map(|revision| {
        let path = format!("{group}/revisions/{revision}");
        [format!("{path}/diff/{}", revision - 1), path]
    }));
    for path in paths {
        let answer = call(api, "GET", &path, None).await;
        assert!(answer.status == 200 || is_of_nothing(&path), "{path}: {} {}", answer.status, answer.text());
        secrets.are_not_in(&path, &answer.text());
    }
}

/// What is written beside the configuration: a link, and a probe whose address has a secret in its query.
async fn write_beside(api: SocketAddr, secrets: &Secrets) {
    let link = json!({ "name": "Runbook", "url": "https://wiki.test" });
    let url = format!("http://{}/?token={OF_A_PROBE}", nowhere());
    for (path, body) in [("/api/links/canary", link), ("/api/probes/canary", json!({ "name": "p", "url": url }))] {
        let answer = call(api, "PUT", path, Some(&body)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        secrets.are_not_in(path, &answer.text());
    }
}

/// The stream of events, as an operator follows it.
fn follow(api: SocketAddr) -> Process {
    let mut command = Command::new(binary());
    command.args(["events", "--follow", "--json"]);
    command.env("MILECASTLE_SERVER", format!("http://{api}")).env("MILECASTLE_ADMIN_KEY", ADMIN_KEY);
    Process::start("followed events", command)
}

/// Ends the following; none of its lines shows anything.
async fn sweep_followed(mut followed: Process, secrets: &Secrets) {
    eventually("events are told", async || !followed.log().is_empty()).await;
    followed.kill();
    for line in followed.log() {
        secrets.are_not_in("the stream of events", &line);
    }
}

/// Everything that is shown or kept, to whoever asks.
async fn sweep(up: &Up, api: SocketAddr, secrets: &Secrets) {
    sweep_api(api, secrets).await;
    for path in [
        "/v1/schema",
        "/v1/routes",
        "/v1/services",
        "/v1/upstreams",
        "/v1/plugin_metadatas",
        "/v1/healthcheck",
        "/v1/drain",
        "/v1/discovery/consul/dump",
        "/v1/discovery/consul_kv/dump",
        "/v1/discovery/nacos/dump",
        "/v1/discovery/eureka/dump",
        "/v1/discovery/kubernetes/dump",
    ] {
        let answer = Call::get(path).to(up.control).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        secrets.are_not_in(path, &answer.text());
    }
    for (at, path) in
        [(up.prometheus, "/apisix/prometheus/metrics"), (up.status, "/status"), (up.status, "/status/ready")]
    {
        secrets.are_not_in(path, &Call::get(path).to(at).await.unwrap().text());
    }
}

/// Settings of the group, good and wrong ones.
async fn write_settings(api: SocketAddr, secrets: &Secrets) {
    let path = "/api/gateway_groups/default/settings";
    for (wrong, body) in spoilt(&settings(), secrets).iter().map(|body| (true, body)).chain([(false, &settings())]) {
        let answer = call(api, "PUT", path, Some(body)).await;
        assert!(wrong || answer.status == 200, "{}", answer.text());
        secrets.are_not_in(path, &answer.text());
    }
}

/// Writes that are taken, each of them changed, and repeated under a key.
async fn write(api: SocketAddr, good: &[Object]) {
    let mut replayed = 0;
    for (_, path, body) in good {
        let target = format!("/apisix/admin{path}");
        let made = call(api, "PUT", &target, Some(body)).await;
        assert_eq!(made.status, 201, "{path}: {}", made.text());
        // What changes makes an entry with what was there before.
        let mut changed = body.clone();
        changed["labels"] = json!({ "a": "b" });
        call(api, "PUT", &target, Some(&changed)).await;
        for _ in 0..2 {
            let call = Call::put_json(&target, body).header("x-api-key", ADMIN_KEY).header("idempotency-key", path);
            let answer = call.to(api).await.unwrap();
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            replayed += usize::from(answer.header("idempotency-replayed") == "true");
        }
    }
    assert!(replayed > 0, "answers are kept");
}

/// Writes that are refused, and some that are taken all the same.
async fn write_wrongly(api: SocketAddr, all: &[Object], secrets: &Secrets) {
    let mut refusals = 0;
    for (_, path, body) in all {
        for wrong in spoilt(body, secrets) {
            for (method, path) in [("PUT", format!("{path}-spoilt")), ("PATCH", (*path).to_owned())] {
                let answer = call(api, method, &format!("/apisix/admin{path}"), Some(&wrong)).await;
                if answer.status >= 400 {
                    refusals += 1;
                    secrets.are_not_in(&format!("{method} {path}"), &answer.text());
                }
            }
        }
        // The answer gives such a body back to whoever sent it.
        let broken = format!("{body},");
        let call = Call::new(Method::PUT, &format!("/apisix/admin{path}")).header("x-api-key", ADMIN_KEY);
        assert_eq!(call.body(broken).to(api).await.unwrap().status, 400);
    }
    assert!(refusals > all.len() * 2, "{refusals} refusals");
    for key in ["c4n4ry-wrong", ADMIN_KEY] {
        let wrong = if key == ADMIN_KEY { 200 } else { 401 };
        let target = format!("/apisix/admin/routes?api_key={key}");
        assert_eq!(Call::get(&target).to(api).await.unwrap().status, wrong);
    }
}

/// The same objects as change sets: what they would do, what stands against them, and as drafts.
async fn write_together(api: SocketAddr, all: &[Object], secrets: &Secrets) {
    let edit = |(kind, path, body): &Object| {
        let key = Key::from_path(path).unwrap();
        json!({ "op": "put", "kind": kind.name(), "id": &*key.id, "body": body })
    };
    let group = "/api/gateway_groups/default";
    for (n, object) in all.iter().enumerate() {
        let mut edits = vec![edit(object)];
        for (status, path) in [(201, "drafts".to_owned()), (200, format!("drafts/{n}")), (200, "changes".to_owned())] {
            let body = match &*path {
                "drafts" => json!({ "id": n.to_string(), "edits": edits }),
                _ => json!({ "edits": edits }),
            };
            let method = if path.starts_with("drafts/") { "PATCH" } else { "POST" };
            let path = format!("{group}/{path}");
            let answer = call(api, method, &format!("{path}?dry_run=true"), Some(&body)).await;
            secrets.are_not_in(&path, &answer.text());
            assert!(answer.status == status || answer.status == 409, "{path}: {}", answer.text());
            edits[0]["body"]["desc"] = "another".into();
        }
        for wrong in spoilt(&object.2, secrets) {
            let mut edit = edits[0].clone();
            edit["body"] = wrong;
            let (path, body) = (format!("{group}/changes?dry_run=true"), json!({ "edits": [edit] }));
            secrets.are_not_in("a refused change set", &call(api, "POST", &path, Some(&body)).await.text());
        }
        for path in [format!("{group}/drafts/{n}"), format!("{group}/drafts")] {
            secrets.are_not_in(&path, &call(api, "GET", &path, None).await.text());
        }
    }
    let rollback = format!("{group}/revisions/1/rollback?dry_run=true");
    secrets.are_not_in(&rollback, &call(api, "POST", &rollback, None).await.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_show_nowhere() {
    let mut up = Up::start_with(&[
        ("MILECASTLE_LOG", "debug"),
        ("CANARY_KEY", "c4n4ry-environment"),
        ("CANARY_PEM", "c4n4ry-that-is-no-pem"),
    ]);
    let (api, authority) = (up.dashboard(), Authority::new("canaries"));
    let mut secrets = Secrets::new();
    let good = objects(&mut secrets, &authority);
    let all = [good.clone(), refused_objects()].concat();
    assert_all_places(&all, &secrets);
    let followed = follow(api);

    write_beside(api, &secrets).await;
    write_settings(api, &secrets).await;
    write(api, &good).await;
    write_wrongly(api, &all, &secrets).await;
    write_together(api, &all, &secrets).await;
    for (_, path, body) in &good {
        up.put(path, body.clone()).await;
    }
    mint(api, &mut secrets).await;
    traffic(&up, &authority).await;
    sweep(&up, api, &secrets).await;
    sweep_followed(followed, &secrets).await;

    let Up { mut process, data, .. } = up;
    process.signal(15);
    process.wait_for_end(LONG);
    for line in process.log() {
        secrets.are_not_in("the log", &line);
    }
    sweep_files(&data.path().join("data"), &secrets);
    secrets.showed_nowhere();
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_a_cluster_on_postgresql_show_nowhere() {
    let database = Database::create().unwrap();
    // The server asks for no password, and so takes any.
    let (scheme, rest) = database.dsn().split_once("://").unwrap();
    let (_, at) = rest.split_once('@').unwrap();
    let mut cluster = Cluster::at(&format!("{scheme}://postgres:{MARK}-dsn@{at}"));
    for variables in [&mut cluster.for_control, &mut cluster.for_gateways] {
        variables.push(("MILECASTLE_LOG", "debug"));
    }
    cluster.for_gateways.extend([("CANARY_KEY", "c4n4ry-environment"), ("CANARY_PEM", "c4n4ry-that-is-no-pem")]);
    let oidc = json!({
        "issuer": format!("https://{}", nowhere()), "public_url": "http://127.0.0.1:17080",
        "client_id": "milecastle", "client_secret": secret("oidc"),
    });
    let dashboard = cluster.dashboard_with("d", &format!("oidc: {oidc}"));
    dashboard.ready().await;
    let manager = cluster.dp_manager("m", free());
    cluster.token(&dashboard);
    let gateway = cluster.gateway("g", &[manager.dp_manager]);
    let (api, authority) = (dashboard.http, Authority::new("canaries"));
    let mut secrets = Secrets::new();
    for file in ["sealing-key", "token"] {
        secrets.texts.push(fs::read_to_string(cluster.dir.path().join(file)).unwrap().trim().to_owned());
    }
    let good = objects(&mut secrets, &authority);
    let all = [good.clone(), refused_objects()].concat();
    let followed = follow(api);

    write_beside(api, &secrets).await;
    write_settings(api, &secrets).await;
    write(api, &good).await;
    gateway.ready().await;
    write_wrongly(api, &all, &secrets).await;
    write_together(api, &all, &secrets).await;
    mint(api, &mut secrets).await;
    // The provider cannot be asked: what is said of that has no secret in it either.
    let login = Call::get("/api/session/oidc").within(LONG).to(api).await.unwrap();
    secrets.are_not_in("a login that fails", &login.text());
    sweep_api(api, &secrets).await;
    sweep_followed(followed, &secrets).await;
    let metrics = Call::get("/metrics").to(manager.http).await.unwrap();
    secrets.are_not_in("the metrics of the DP manager", &metrics.text());

    for (name, mut process) in
        [("gateway", gateway.process), ("DP manager", manager.process), ("dashboard", dashboard.process)]
    {
        process.signal(15);
        process.wait_for_end(LONG);
        for line in process.log() {
            secrets.are_not_in(&format!("the log of the {name}"), &line);
        }
    }
    sweep_files(&cluster.dir.path().join("g"), &secrets);
    secrets.are_not_in_dump(&database.dump().unwrap());
    secrets.showed_nowhere();
}
