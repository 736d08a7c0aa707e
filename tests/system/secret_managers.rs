//! References to secret managers (`docs/secret-managers.md`; `docs/spec/resources.md` §13, rules 4 and 5; `docs/spec/plugins/_auth-common.md`
//! §6), with a Vault of the testkit. What managers are asked, and how they may answer, is tested in the crate `proxy`.

use milecastle_testkit::registry::{Fault, Server};
use milecastle_testkit::tls::{Authority, Identity};
use milecastle_testkit::{Answer, Call, Echo, Target, TempDir, Vault, eventually};
use milecastle_tests::{ADMIN_KEY, Up};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

const TOKEN: &str = "t0ken-of-the-vault";

/// A gateway that asks again after a second, and the Vault that it asks.
struct Site {
    vault: Server<Vault>,
    echo: Echo,
    up: Up,
}

impl Site {
    fn start() -> Self {
        let vault = Vault::start(TOKEN);
        vault.set("kv/shop", json!({ "key": "sesame-1", "header": "h3ader-1", "text": "t3xt-1" }));
        Self { vault, echo: Echo::start(), up: up(TempDir::new(), "10s") }
    }

    /// One that waits no longer than this for its Vault.
    fn impatient(timeout: &str) -> Self {
        Self { vault: Vault::start(TOKEN), echo: Echo::start(), up: up(TempDir::new(), timeout) }
    }

    /// Writes an object, which is in force when this returns.
    async fn put(&self, path: &str, body: Value) {
        let answer = self.up.put(&format!("{path}?wait=20s"), body).await;
        assert_eq!(answer.header("milecastle-receipt"), "applied 1/1");
    }

    async fn delete(&self, path: &str) {
        let answer = self.up.admin("DELETE", &format!("{path}?wait=20s"), None).await;
        assert_eq!(
            (answer.status, answer.header("milecastle-receipt")),
            (200, "applied 1/1".to_owned()),
            "{}",
            answer.text()
        );
    }

    /// The secret object.
    async fn manager(&self) {
        self.put("/secrets/vault/1", json!({ "uri": self.vault.url(), "prefix": "kv", "token": TOKEN })).await;
    }

    async fn route(&self, id: &str, plugins: Value) {
        let upstream = json!({ "nodes": { self.echo.address().to_string(): 1 } });
        self.put(
            &format!("/routes/{id}"),
            json!({ "uri": format!("/{id}"), "plugins": plugins, "upstream": upstream }),
        )
        .await;
    }

    /// A route whose answers have this body.
    async fn route_saying(&self, id: &str, body: &str) {
        self.route(id, json!({ "response-rewrite": { "body": body } })).await;
    }

    /// The route `shop`, and jack who may use it.
    async fn shop(&self) {
        let plugins = json!({
            "key-auth": {},
            "proxy-rewrite": { "headers": { "set": { "X-In": "$secret://vault/1/shop/header" } } },
            "response-rewrite": { "body": "$secret://vault/1/shop/text", "headers": { "set": { "X-Out": "$secret://vault/1/shop/header" } } },
        });
        self.route("shop", plugins).await;
        let jack = json!({ "username": "jack", "plugins": { "key-auth": { "key": "$secret://vault/1/shop/key" } } });
        self.put("/consumers/jack", jack).await;
    }

    async fn buy(&self, key: &str) -> Answer {
        Call::get("/shop").header("apikey", key).to(self.up.http).await.unwrap()
    }

    /// How many references stand so.
    async fn references(&self, state: &str) -> f64 {
        self.up.metric(&format!("apisix_secret_references{{state=\"{state}\"}}")).await.expect("the figure is there")
    }

    async fn until(&self, state: &str, count: f64) {
        eventually(&format!("{count} references {state}"), async || self.references(state).await == count).await;
    }

    fn said(&self, text: &str) -> bool {
        self.up.process.log().iter().any(|line| line.contains(text))
    }

    /// None of these secrets is in the log, in metrics, in what node and control plane tell, or on the disk.
    async fn shows_nowhere(&mut self, secrets: &[&str]) {
        let (node, api) = (self.up.control, self.up.dashboard());
        let mut places = vec![("the log".to_owned(), self.up.process.log().join("\n"))];
        for (at, path) in [
            (self.up.prometheus, "/apisix/prometheus/metrics"),
            (node, "/v1/routes"),
            (node, "/v1/services"),
            (node, "/v1/upstreams"),
            (node, "/v1/schema"),
            (node, "/v1/plugin_metadatas"),
            (api, "/metrics"),
            (api, "/api/nodes"),
            (api, "/api/events?limit=500"),
            (api, "/api/warnings?limit=1000"),
            (api, "/api/audit?limit=500"),
            (api, "/api/openapi.json"),
        ] {
            let answer = Call::get(path).header("x-api-key", ADMIN_KEY).to(at).await.unwrap();
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            places.push((path.to_owned(), answer.text()));
        }
        places.extend(texts_in(self.up.data.path()));
        for (place, text) in places {
            for secret in secrets {
                assert!(!text.contains(secret), "{place} shows {secret}");
            }
        }
    }

    async fn until_said(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), async || self.said(text)).await;
    }
}

fn up(data: TempDir, timeout: &str) -> Up {
    let settings = json!({ "ttl": "1s", "negative_ttl": "1s", "timeout": timeout }).to_string();
    let environment =
        [("MILECASTLE__GATEWAY__SECRETS", &*settings), ("SHOP_TEXT", "of-env"), ("SHOP_JSON", r#"{"text":"of-json"}"#)];
    Up::start_in_with(data, &environment)
}

fn texts_in(directory: &Path) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.path() {
            path if path.is_dir() => all.extend(texts_in(&path)),
            // Some come and go.
            path => all.extend(
                fs::read(&path).map(|bytes| (path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned())),
            ),
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_13_4_values_are_there_from_the_first_request_on_and_rotate_without_a_failure() {
    let mut site = Site::start();
    site.manager().await;
    site.vault.hold(true);
    let seen = async {
        eventually("the manager is asked", async || !site.vault.asked().is_empty()).await;
        assert_eq!(site.buy("sesame-1").await.status, 404, "nothing is in force without its values");
        site.vault.hold(false);
    };
    tokio::join!(site.shop(), seen);
    let answer = site.buy("sesame-1").await;
    assert_eq!(
        (answer.status, answer.text(), answer.header("x-out")),
        (200, "t3xt-1".to_owned(), "h3ader-1".to_owned())
    );
    let seen = site.echo.received();
    assert!(
        seen[0].headers.iter().any(|(name, value)| name.eq_ignore_ascii_case(b"x-in") && &value[..] == b"h3ader-1")
    );
    assert_eq!(site.buy("sesame-2").await.status, 401);
    site.until("resolved", 3.0).await;
    assert!(site.up.metric("apisix_secret_lookups_total{result=\"found\"}").await.unwrap() >= 3.0);

    let asked = site.vault.asked().len();
    site.vault.set("kv/shop", json!({ "key": "sesame-1", "header": "h3ader-2", "text": "t3xt-2" }));
    eventually("the new values", async || {
        let answer = site.buy("sesame-1").await;
        assert_eq!(answer.status, 200, "no request fails meanwhile");
        answer.text() == "t3xt-2" && answer.header("x-out") == "h3ader-2"
    })
    .await;
    assert!(site.vault.asked().len() > asked);
    site.vault.set("kv/shop", json!({ "key": "sesame-2", "header": "h3ader-2", "text": "t3xt-2" }));
    eventually("the new key", async || {
        let former = site.buy("sesame-1").await.status;
        assert!(former == 200 || site.buy("sesame-2").await.status == 200, "one of them opens at any time");
        former == 401
    })
    .await;

    // Values and the token are nowhere but in memory and on their way.
    let shown = Call::get("/v1/route/shop").to(site.up.control).await.unwrap().text();
    assert!(shown.contains("$secret://vault/1/shop/text"), "the reference is shown");
    site.shows_nowhere(&[TOKEN, "sesame-1", "sesame-2", "h3ader-1", "h3ader-2", "t3xt-1", "t3xt-2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_13_5_what_cannot_be_resolved_stands_for_itself_and_lets_nobody_in() {
    let site = Site::start();
    // No secret object, no such secret, no such key, no form of a reference.
    for (n, reference) in [
        "$secret://vault/2/shop/text",
        "$secret://vault/1/none/text",
        "$secret://vault/1/shop/none",
        "$secret://vault",
        "$env://SHOP_NONE",
        "$ENV://SHOP_JSON/none",
    ]
    .into_iter()
    .enumerate()
    {
        if n == 1 {
            site.manager().await;
        }
        let route = format!("r{n}");
        site.route_saying(&route, reference).await;
        assert_eq!(site.up.get(&format!("/{route}")).await.text(), reference);
        let told = |line: &String| line.contains("ERROR") && line.contains(reference);
        eventually("the log names it", async || site.up.process.log().iter().any(told)).await;
    }
    site.until("unresolved", 4.0).await;
    // `auth_common_6_4`: also where another reference in the credential leads somewhere.
    let credential = json!({ "key": "$secret://vault/1/none/key", "note": "$secret://vault/1/shop/key" });
    site.route("shop", json!({ "key-auth": {} })).await;
    site.put("/consumers/jack", json!({ "username": "jack", "plugins": { "key-auth": credential } })).await;
    for key in ["$secret://vault/1/none/key", "sesame-1", ""] {
        assert_eq!(site.buy(key).await.status, 401, "{key}");
    }
    let half = json!({ "key": "$secret://vault/1/shop/key", "note": "$env://SHOP_NONE" });
    site.put("/consumers/jack", json!({ "username": "jack", "plugins": { "key-auth": half } })).await;
    assert_eq!(site.buy("sesame-1").await.status, 401, "any reference that leads nowhere drops the credential");
    // It comes into being.
    site.put("/consumers/jack", json!({ "username": "jack", "plugins": { "key-auth": credential_of("none") } })).await;
    site.vault.set("kv/none", json!({ "key": "sesame-3", "text": "t3xt-3" }));
    eventually("the key lets in", async || site.buy("sesame-3").await.status == 200).await;
    eventually("the text", async || site.up.get("/r1").await.text() == "t3xt-3").await;
    site.until_said("the secret is there again").await;
}

fn credential_of(path: &str) -> Value {
    json!({ "key": format!("$secret://vault/1/{path}/key") })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auth_common_6_1_and_6_3_all_forms_of_references_are_resolved_wherever_they_stand() {
    let site = Site::start();
    site.manager().await;
    for (n, (reference, expected)) in [
        ("$env://SHOP_TEXT", "of-env"),
        ("$ENV://SHOP_TEXT", "of-env"),
        ("$Env://SHOP_JSON/text", "of-json"),
        ("$secret://vault/1/shop/text", "t3xt-1"),
    ]
    .into_iter()
    .enumerate()
    {
        let route = format!("r{n}");
        site.route_saying(&route, reference).await;
        assert_eq!(site.up.get(&format!("/{route}")).await.text(), expected);
        let nested = json!({ "response-rewrite": { "headers": { "add": [format!("X-Out: {n}")], "set": { "X-Set": reference } } } });
        site.route(&route, nested).await;
        assert_eq!(site.up.get(&format!("/{route}")).await.header("x-set"), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auth_common_6_5_a_change_of_the_secret_object_counts_at_once() {
    let site = Site::start();
    let other = Vault::start("another-t0ken");
    other.set("kv/shop", json!({ "key": "sesame-9", "header": "h", "text": "t3xt-9" }));
    site.manager().await;
    site.shop().await;
    assert_eq!(site.buy("sesame-1").await.status, 200);
    site.put("/secrets/vault/1", json!({ "uri": other.url(), "prefix": "kv", "token": "another-t0ken" })).await;
    assert_eq!((site.buy("sesame-1").await.status, site.buy("sesame-9").await.status), (401, 200));
    assert_eq!(site.buy("sesame-9").await.text(), "t3xt-9");
    // Without the object nobody vouches for the values.
    site.delete("/secrets/vault/1").await;
    assert_eq!((site.buy("sesame-9").await.status, site.buy("$secret://vault/1/shop/key").await.status), (401, 401));
    site.until_said("there is no secret object `vault/1`").await;
    site.manager().await;
    assert_eq!(site.buy("sesame-1").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_is_away_takes_nothing_away_and_a_start_without_it_lets_nobody_in() {
    let mut site = Site::start();
    site.manager().await;
    site.shop().await;
    assert_eq!(site.buy("sesame-1").await.status, 200);
    site.vault.stop();
    site.until("stale", 3.0).await;
    site.until_said("the last one stays in use").await;
    // Neither the values nor what else is written waits for it.
    site.route_saying("other", "plain").await;
    assert_eq!(site.up.get("/other").await.text(), "plain");
    let answer = site.buy("sesame-1").await;
    assert_eq!((answer.status, answer.text()), (200, "t3xt-1".to_owned()));
    // A token that is refused is a failure too.
    site.vault.start();
    site.until("resolved", 3.0).await;
    site.put("/secrets/vault/1", json!({ "uri": site.vault.url(), "prefix": "kv", "token": "wrong" })).await;
    site.until("stale", 3.0).await;
    assert_eq!(site.buy("sesame-1").await.status, 200);
    site.manager().await;
    site.until("resolved", 3.0).await;

    site.vault.stop();
    site.up = up(site.up.kill(), "10s");
    assert_eq!(site.up.get("/other").await.text(), "plain");
    for key in ["sesame-1", "$secret://vault/1/shop/key"] {
        assert_eq!(site.buy(key).await.status, 401, "values are not on the disk");
    }
    site.until("unresolved", 3.0).await;
    site.vault.start();
    eventually("the key lets in", async || site.buy("sesame-1").await.status == 200).await;
    eventually("the text", async || site.buy("sesame-1").await.text() == "t3xt-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_does_not_answer_delays_a_change_for_a_bounded_time_and_the_next_one_not_at_all() {
    let site = Site::impatient("1s");
    site.vault.fail(Some(Fault::Silence));
    site.manager().await;
    let reference = "$secret://vault/1/shop/text";
    site.route_saying("r1", reference).await;
    assert_eq!(site.up.get("/r1").await.text(), reference);
    site.until_said("there is no answer within 1s").await;
    let waits = || site.up.process.log().iter().filter(|line| line.contains("within secrets.timeout")).count();
    let before = waits();
    site.route_saying("r2", reference).await;
    assert_eq!(site.up.get("/r2").await.text(), reference);
    assert_eq!(waits(), before, "it is known to be bad");
    site.vault.set("kv/shop", json!({ "text": "t3xt-1" }));
    site.vault.fail(None);
    eventually("the text", async || site.up.get("/r2").await.text() == "t3xt-1").await;
}

/// Whether clients that trust the authority are served with its certificate.
async fn serves(up: &Up, authority: &Authority) -> bool {
    Target::tls(up.https, "a.test", &authority.pem()).connect().await.is_ok()
}

fn pair(identity: &Identity) -> Value {
    json!({ "cert": identity.cert, "key": identity.key })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_keys_come_from_a_manager_and_are_renewed_there() {
    let mut site = Site::start();
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let soon = Duration::from_secs(3 * 86_400);
    let (former, renewed) = (first.issue(&["a.test"]), second.issue_for(&["a.test"], soon));
    site.vault.set("kv/tls", pair(&former));
    site.manager().await;
    let ssl = json!({ "snis": ["a.test"], "cert": "$secret://vault/1/tls/cert", "key": "$secret://vault/1/tls/key" });
    site.put("/ssls/1", ssl).await;
    assert!(serves(&site.up, &first).await);
    site.vault.set("kv/tls", pair(&renewed));
    eventually("the renewed certificate", async || serves(&site.up, &second).await).await;
    assert!(!serves(&site.up, &first).await);
    // What is no certificate does not replace one that is.
    site.vault.set("kv/tls", json!({ "cert": "-----BEGIN CERTIFICATE-----spoilt-----END", "key": "sp0ilt" }));
    site.until_said("object in quarantine").await;
    assert!(serves(&site.up, &second).await);
    let api = site.up.dashboard();
    for (path, word) in [
        ("/api/nodes", "not the PEM text"),
        ("/api/warnings", "object in quarantine"),
        // The one that is served ends soon.
        ("/api/alarms", "ssls/1"),
    ] {
        eventually(&format!("{path} tells of {word}"), async || {
            Call::get(path).header("x-api-key", ADMIN_KEY).to(api).await.unwrap().text().contains(word)
        })
        .await;
    }
    // A line of its own of each key, which stands in PEM and in JSON alike.
    let [former, renewed] = [&former, &renewed].map(|pair| pair.key.lines().nth(1).unwrap());
    site.shows_nowhere(&[TOKEN, former, renewed, "spoilt", "sp0ilt"]).await;
    site.delete("/secrets/vault/1").await;
    assert!(!serves(&site.up, &second).await, "without its secret the object has no certificate");
}
