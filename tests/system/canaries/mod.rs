//! A secret in every place that can hold one, at the level `debug` of all logs: no log, metric, audit entry, list, dump, file or error
//! shows any of them.

mod objects;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::Method;
use milecastle_model::{Key, Kind};
use milecastle_testkit::tls::{Authority, Identity};
use milecastle_testkit::{Answer, Call, Target, eventually};
use milecastle_tests::{ADMIN_KEY, Up};
use serde_json::{Value, json};

use objects::{assert_all_places, objects, refused_objects, secret, settings, spoilt};

/// What every secret begins with that is a text of ours.
const MARK: &str = "c4n4ry";
/// How long the process may take to start and to end, with all that it says.
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
        Self { texts: vec![MARK.to_owned(), ADMIN_KEY.to_owned()], shown: RefCell::default() }
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

    /// Fails if one was anywhere, and tells all places.
    fn showed_nowhere(self) {
        let shown = self.shown.into_inner();
        let told: Vec<_> = shown.iter().map(|(place, around)| format!("{place}: …{around}…")).collect();
        assert!(told.is_empty(), "secrets show in {} places:\n{}", told.len(), told.join("\n"));
    }
}

/// The dashboard's own listener, as the log tells it.
fn dashboard(up: &mut Up) -> SocketAddr {
    up.process.wait_for_line("the dashboard listens", LONG, |line| {
        let (_, rest) = line.split_once("the dashboard listens")?;
        rest.split_once("address=")?.1.split_whitespace().next()?.parse().ok()
    })
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

/// Everything that is shown or kept, to whoever asks.
async fn sweep(up: &Up, api: SocketAddr, secrets: &Secrets) {
    let head = call(api, "GET", "/api/gateway_groups/default/revisions", None).await.json().unwrap();
    let mut paths: Vec<String> = [
        "/metrics",
        "/api/audit?limit=500",
        "/api/audit/export?format=json",
        "/api/audit/export?format=csv",
        "/api/gateway_groups",
        "/api/gateway_groups/default/settings",
        "/api/gateway_groups/default/tokens",
        "/api/gateway_groups/default/lineage",
        "/api/gateway_groups/default/revisions?limit=500",
        "/api/nodes",
        "/api/members",
        "/api/tokens",
        "/api/users",
        "/apisix/admin/ssls",
        "/apisix/admin/ssls/1",
        "/apisix/admin/upstreams",
        "/apisix/admin/services/1",
        "/apisix/admin/routes/1",
        // What has other secrets than private keys is exported with them.
        "/api/gateway_groups/default/export?kinds=ssl,upstream,service,route,group_settings",
        "/api/gateway_groups/default/revisions/head/objects",
        "/api/gateway_groups/default/revisions/1/objects",
        "/api/changes?limit=500",
        "/api/events?limit=500",
        "/api/alarms",
    ]
    .map(str::to_owned)
    .into();
    let revisions = 1..=head["head"].as_u64().unwrap();
    paths.extend(revisions.flat_map(|revision| {
        let path = format!("/api/gateway_groups/default/revisions/{revision}");
        [format!("{path}/diff/{}", revision - 1), path]
    }));
    let nodes = call(api, "GET", "/api/nodes", None).await.json().unwrap();
    let node = nodes["list"][0]["id"].as_str().unwrap();
    paths.push(format!("/api/gateway_groups/default/nodes/{node}"));
    for path in paths {
        let answer = call(api, "GET", &path, None).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        secrets.are_not_in(&path, &answer.text());
    }
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
async fn write(up: &Up, good: &[Object]) {
    let mut replayed = 0;
    for (_, path, body) in good {
        assert_eq!(up.put(path, body.clone()).await.status, 201, "{path}");
        // What changes makes an entry with what was there before.
        let mut changed = body.clone();
        changed["labels"] = json!({ "a": "b" });
        up.admin("PUT", path, Some(&changed)).await;
        for _ in 0..2 {
            let target = format!("/apisix/admin{path}");
            let call = Call::put_json(&target, body).header("x-api-key", ADMIN_KEY).header("idempotency-key", path);
            let answer = call.to(up.admin).await.unwrap();
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            replayed += usize::from(answer.header("idempotency-replayed") == "true");
        }
    }
    assert!(replayed > 0, "answers are kept");
}

/// Writes that are refused, and some that are taken all the same.
async fn write_wrongly(up: &Up, all: &[Object], secrets: &Secrets) {
    let mut refusals = 0;
    for (_, path, body) in all {
        for wrong in spoilt(body, secrets) {
            for (method, path) in [("PUT", format!("{path}-spoilt")), ("PATCH", (*path).to_owned())] {
                let answer = up.admin(method, &path, Some(&wrong)).await;
                if answer.status >= 400 {
                    refusals += 1;
                    secrets.are_not_in(&format!("{method} {path}"), &answer.text());
                }
            }
        }
        // The answer gives such a body back to whoever sent it.
        let broken = format!("{body},");
        let call = Call::new(Method::PUT, &format!("/apisix/admin{path}")).header("x-api-key", ADMIN_KEY);
        assert_eq!(call.body(broken).to(up.admin).await.unwrap().status, 400);
    }
    assert!(refusals > all.len() * 2, "{refusals} refusals");
    for key in ["c4n4ry-wrong", ADMIN_KEY] {
        let wrong = if key == ADMIN_KEY { 200 } else { 401 };
        let target = format!("/apisix/admin/routes?api_key={key}");
        assert_eq!(Call::get(&target).to(up.admin).await.unwrap().status, wrong);
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
    let (api, authority) = (dashboard(&mut up), Authority::new("canaries"));
    let mut secrets = Secrets::new();
    let good = objects(&mut secrets, &authority);
    let all = [good.clone(), refused_objects()].concat();
    assert_all_places(&all, &secrets);

    write_settings(api, &secrets).await;
    write(&up, &good).await;
    write_wrongly(&up, &all, &secrets).await;
    write_together(api, &all, &secrets).await;
    for (_, path, body) in &good {
        up.put(path, body.clone()).await;
    }
    mint(api, &mut secrets).await;
    traffic(&up, &authority).await;
    sweep(&up, api, &secrets).await;

    let Up { mut process, data, .. } = up;
    process.signal(15);
    process.wait_for_end(LONG);
    for line in process.log() {
        secrets.are_not_in("the log", &line);
    }
    sweep_files(&data.path().join("data"), &secrets);
    secrets.showed_nowhere();
}
