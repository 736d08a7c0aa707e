//! `docs/spec/resources.md` §13, rule 1.

use super::*;
use http::Response;
use milecastle_testkit::TempDir;
use milecastle_testkit::registry::{Asked, Body, whole};
use milecastle_testkit::tls::Authority;
use serde_json::json;
use std::pin::Pin;

const TOKEN: &str = "hvs.CAESIJ-token";

/// A Vault with an engine at `kv/` (HashiCorp, "KV secrets engine (API)", versions 1 and 2). `data` of secrets by the path as it is
/// sent; `null` is that of a version 2 that has been deleted.
struct Vault {
    token: String,
    namespace: &'static str,
    secrets: Vec<(&'static str, Value)>,
}

impl Vault {
    fn start(secrets: &[(&'static str, Value)]) -> Server<Self> {
        Server::run(Self { token: TOKEN.to_owned(), namespace: "", secrets: secrets.to_vec() })
    }

    fn read(&self, asked: &Asked) -> Response<Body> {
        let errors = |errors: &[&str]| json!({ "errors": errors }).to_string();
        let path = asked.target.path();
        if asked.method != "GET" || !asked.body.is_empty() || asked.header("x-vault-token") != self.token {
            return whole(403, errors(&["permission denied"]));
        }
        if asked.header("x-vault-namespace") != self.namespace || !path.starts_with("/v1/kv/") {
            return whole(404, errors(&["no handler for route. route entry not found."]));
        }
        let answer = |data: &Value| {
            json!({ "request_id": "r", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data, "auth": null }).to_string()
        };
        match self.secrets.iter().find(|(at, _)| *at == path) {
            Some((_, Value::Null)) => whole(
                404,
                answer(&json!({ "data": null, "metadata": { "version": 3, "deletion_time": "2026-01-01T00:00:00Z" } })),
            ),
            Some((_, data)) => whole(200, answer(data)),
            None => whole(404, errors(&[])),
        }
    }
}

impl Protocol for Vault {
    fn answer(self: Arc<Self>, asked: Asked) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(async move { self.read(&asked) })
    }
}

fn object(server: &Server<Vault>, prefix: &str) -> Value {
    json!({ "uri": server.url(), "prefix": prefix, "token": TOKEN })
}

#[tokio::test]
async fn resources_13_1_vault_the_last_part_of_the_path_is_the_key_under_the_prefix() {
    let data = json!({ "auth-key": "k-1", "port": 5432, "on": true, "list": [1, "a"], "none": null, "a b": "c" });
    let server = Vault::start(&[("/v1/kv/apisix/team/jack", data.clone()), ("/v1/kv/apisix/a%20b%2B", data)]);
    for prefix in ["kv/apisix", "/kv/apisix/"] {
        let vault = manager("vault/1", &object(&server, prefix));
        for (path, expected) in [
            ("team/jack/auth-key", found("k-1")),
            ("team/jack/port", found("5432")),
            ("team/jack/on", found("true")),
            ("team/jack/list", found(r#"[1,"a"]"#)),
            ("team/jack/none", Err(Trouble::nothing())),
            ("team/jack/nothing", Err(Trouble::nothing())),
            ("team/joe/auth-key", Err(Trouble::nothing())),
            ("a b+/a b", found("c")),
        ] {
            assert_eq!(vault.fetch_one(path).await, expected, "{prefix} {path}");
        }
    }
}

#[tokio::test]
async fn resources_13_1_vault_a_path_stays_under_the_prefix() {
    let server = Vault::start(&[("/v1/kv/a", json!({ "b": "c" }))]);
    let vault = manager("vault/1", &object(&server, "kv"));
    for path in ["", "key", "/key", "a/", "a//b", "../a/b", "x/../a/b", "./a/b"] {
        let expected = "a reference to vault ends with `/<path>/<key>`, without empty parts, `.` and `..`";
        assert_eq!(failure(vault.fetch_one(path).await), expected, "{path}");
    }
    assert!(server.asked().is_empty());
    assert_eq!(vault.fetch_one("a/b").await, found("c"));
}

#[tokio::test]
async fn resources_13_1_vault_a_namespace_is_named() {
    let secrets = vec![("/v1/kv/a", json!({ "b": "c" }))];
    let server = Server::run(Vault { token: TOKEN.to_owned(), namespace: "admin/team", secrets });
    let mut body = object(&server, "kv");
    assert!(failure(manager("vault/1", &body).fetch_one("a/b").await).ends_with("status 404"));
    body["namespace"] = "admin/team".into();
    assert_eq!(manager("vault/1", &body).fetch_one("a/b").await, found("c"));
}

#[tokio::test]
async fn resources_13_1_vault_the_token_may_be_a_reference_to_the_environment() {
    // One that every process has.
    let token = std::env::var("PATH").unwrap();
    let secrets = vec![("/v1/kv/a", json!({ "b": "c" }))];
    let server = Server::run(Vault { token, namespace: "", secrets });
    for reference in ["$ENV://PATH", "$env://PATH"] {
        let mut body = object(&server, "kv");
        body["token"] = reference.into();
        assert_eq!(manager("vault/1", &body).fetch_one("a/b").await, found("c"));
    }
}

#[tokio::test]
async fn resources_13_1_vault_version_2_of_the_engine_is_told_by_its_answers() {
    let versioned = json!({ "data": { "b": "c", "data": "d" }, "metadata": { "version": 7, "destroyed": false } });
    let server = Vault::start(&[
        ("/v1/kv/data/a", versioned),
        ("/v1/kv/data/gone", Value::Null),
        // A secret of version 1 that has a member of this name.
        ("/v1/kv/data/first", json!({ "data": { "b": "c" }, "metadata": "m" })),
    ]);
    let vault = manager("vault/1", &object(&server, "kv/data"));
    for (path, expected) in [
        ("a/b", found("c")),
        ("a/data", found("d")),
        ("a/metadata", Err(Trouble::nothing())),
        ("gone/b", Err(Trouble::nothing())),
        ("first/b", Err(Trouble::nothing())),
        ("first/data", found(r#"{"b":"c"}"#)),
        ("first/metadata", found("m")),
    ] {
        assert_eq!(vault.fetch_one(path).await, expected, "{path}");
    }
}

#[tokio::test]
async fn resources_13_1_vault_a_prefix_without_an_engine_and_a_token_without_rights_are_failures() {
    let server = Vault::start(&[("/v1/kv/a", json!({ "b": "c" }))]);
    let text = failure(manager("vault/1", &object(&server, "other")).fetch_one("a/b").await);
    assert_eq!(text, format!("{} answers with status 404", server.url()));
    let mut body = object(&server, "kv");
    body["token"] = "hvs.another".into();
    let text = failure(manager("vault/1", &body).fetch_one("a/b").await);
    assert_eq!(text, format!("{} answers with status 403", server.url()));
}

#[tokio::test]
async fn resources_13_1_vault_failures_tell_no_secret() {
    let mut server = Vault::start(&[("/v1/kv/a", json!({ "b": "value-of-b" }))]);
    let body = object(&server, "kv");
    check_failures(&mut server, ("vault/1", &body), "a/b", &[TOKEN, "value-of-b"]).await;
}

#[tokio::test]
async fn resources_13_1_vault_certificates_are_verified() {
    let (dir, ours, other) = (TempDir::new(), Authority::new("ours"), Authority::new("other"));
    let server = Vault::start(&[("/v1/kv/a", json!({ "b": "c" }))]);
    let address = encrypted(&ours.issue(&["127.0.0.1"]), server.address()).await;
    let body = json!({ "uri": format!("https://{address}"), "prefix": "kv", "token": TOKEN });
    let fetch = async |authority: &Authority| {
        let file = dir.write("trusted.pem", authority.pem());
        Manager::new("vault/1", &body, outlet(Some(&file)), patience(SOON)).unwrap().fetch_one("a/b").await
    };
    assert_eq!(fetch(&ours).await, found("c"));
    let text = failure(fetch(&other).await);
    assert!(text.starts_with(&format!("https://{address} cannot be asked")), "{text}");
}

#[tokio::test]
async fn resources_13_1_vault_faults_of_the_object_are_named_without_values() {
    let check = |name: &str, value: Value, expected: &str| {
        let mut body = json!({ "uri": "http://127.0.0.1:1", "prefix": "kv", "token": TOKEN });
        body[name] = value;
        assert_eq!(fault("vault/1", &body), expected);
    };
    let url = "`uri` must be of the form `https://host[:port][/path]`, or the same with `http`, without login, query and fragment";
    check("uri", Value::Null, "`uri` is missing");
    check("uri", "vault://user:secret@a".into(), url);
    check("uri", "http://user:secret@127.0.0.1:1/?a".into(), url);
    check("uri", "http://127.0.0.1:65536".into(), url);
    check("prefix", "kv/../sys".into(), "`prefix` must be a path without empty parts, `.` and `..`");
    check("token", json!({ "a": 1 }), "`token` must be a string");
    check("token", "se\ncret".into(), "`token` has a character that cannot be sent");
    let reference = "`token` is a reference that the environment does not resolve";
    check("token", "$ENV://MILECASTLE_HAS_NO_SUCH_VARIABLE".into(), reference);
    check("token", "$secret://vault/2/a/b".into(), reference);
    check("namespace", 7.into(), "`namespace` must be a string");
}

#[tokio::test]
async fn resources_13_1_vault_a_secret_is_read_once_for_all_of_its_keys() {
    let server = Vault::start(&[("/v1/kv/a", json!({ "cert": "c", "key": "k" }))]);
    let paths = ["a/cert", "a/key", "a/none"].map(str::to_owned);
    let fetched = manager("vault/1", &object(&server, "kv")).fetch("$secret://vault/1/a", &paths).await;
    assert_eq!(fetched, [found("c"), found("k"), Err(Trouble::nothing())]);
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_secret_that_hangs_alone_does_so_whichever_of_its_keys_are_asked_for() {
    let server = Vault::start(&[]);
    server.fail(Some(Fault::Silence));
    let patience = patience(Duration::from_millis(100));
    let manager = Manager::new("vault/1", &object(&server, "kv"), outlet(None), patience).unwrap();
    for key in ["a/cert", "a/key"] {
        for found in manager.fetch("$secret://vault/1/a", &[key.to_owned()]).await {
            failure(found);
        }
    }
    assert_eq!(manager.breaker().turn(), None);
    failure(manager.fetch("$secret://vault/1/b", &["b/key".to_owned()]).await.remove(0));
    assert!(manager.breaker().is_open());
}
