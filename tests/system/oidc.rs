//! Logging in through a certified provider of OpenID Connect (npm: `oidc-provider`), as a browser does.

use http::Method;
use milecastle_testkit::client::Target;
use milecastle_testkit::process::binary;
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Answer, Call, Process, eventually};
use milecastle_tests::{Cluster, Replica, tools};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const SECRET: &str = "canary-of-the-client-secret";

/// Where people find the dashboards; which one of them that is, a load balancer says, here the test.
const PUBLIC: &str = "http://127.0.0.1:17080";

/// How long the provider may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Redirects and pages that a login takes at most.
const STEPS: usize = 20;

/// The provider, with a certificate of an authority of its own.
struct Provider {
    process: Process,
    issuer: String,
    ca: String,
}

impl Provider {
    /// What names somebody and his groups is told by the ID token or by the userinfo endpoint.
    fn start(cluster: &Cluster, teller: &str) -> Self {
        let authority = Authority::new("of the provider");
        let identity = authority.issue(&["localhost"]);
        let modules = tools("oidc");
        assert!(
            modules.join("node_modules").exists(),
            "{} is missing: run `cargo xtask test tools`",
            modules.display()
        );
        let mut command = Command::new("node");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc/provider.mjs")).arg(modules);
        command
            .arg(cluster.dir.write("provider.pem", identity.cert))
            .arg(cluster.dir.write("provider.key", identity.key));
        command.arg(SECRET).arg(format!("{PUBLIC}/api/session/oidc/callback")).arg(teller);
        let mut process = Process::start("provider", command);
        let issuer = process.wait_for_line("its address", START, |line| {
            line.starts_with("https://localhost:").then(|| line.to_owned())
        });
        Self { process, issuer, ca: authority.pem() }
    }

    /// Settings of a dashboard that knows it.
    fn settings(&self, cluster: &Cluster, secret: &str, userinfo: bool) -> String {
        let ca = cluster.dir.write("provider-ca.pem", &self.ca);
        let settings = json!({ "oidc": {
            "issuer": self.issuer, "public_url": PUBLIC, "client_id": "milecastle", "client_secret": secret, "ca_file": ca,
            "create_accounts": true, "roles": [{ "value": "ops", "role": "operator", "groups": ["*"] }],
            "scopes": ["openid", "profile"], "userinfo": userinfo,
        } });
        // YAML takes JSON as it is.
        format!("oidc: {}", settings["oidc"])
    }

    /// Fetches a page of it.
    async fn send(&self, call: Call) -> Answer {
        let port = self.issuer.rsplit_once(':').unwrap().1.parse().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut connection = Target::tls(address, "localhost", &self.ca).connect().await.unwrap();
        let host = self.issuer.strip_prefix("https://").unwrap();
        call.header("host", host).send(&mut connection).await.unwrap()
    }
}

/// Cookies by their names.
#[derive(Default)]
struct Cookies(BTreeMap<String, String>);

impl Cookies {
    fn take(&mut self, answer: &Answer) {
        for value in answer.headers.get_all("set-cookie") {
            let pair = value.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            match value {
                "" => self.0.remove(name),
                _ => self.0.insert(name.to_owned(), value.to_owned()),
            };
        }
    }

    fn shown(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }
}

/// What stands between two texts of a page.
fn between<'a>(page: &'a str, before: &str, after: &str) -> &'a str {
    page.split_once(before).unwrap_or_else(|| panic!("no {before} in {page}")).1.split_once(after).unwrap().0
}

/// Logs in as `name` with the provider, having been sent there: where that sends the browser back to, path and query.
async fn with_the_provider(provider: &Provider, location: &str, name: &str) -> String {
    let mut cookies = Cookies::default();
    let mut next = Call::get(location.strip_prefix(&provider.issuer).unwrap());
    for _ in 0..STEPS {
        let answer = provider.send(next.header("cookie", &cookies.shown())).await;
        cookies.take(&answer);
        let location = answer.header("location");
        if let Some(back) = location.strip_prefix(PUBLIC) {
            return back.to_owned();
        }
        if !location.is_empty() {
            next = Call::get(location.strip_prefix(&provider.issuer).unwrap_or(&location));
            continue;
        }
        let page = answer.text();
        assert_eq!(answer.status, 200, "{page}");
        let action = between(&page, "action=\"", "\"");
        let form = match between(&page, "name=\"prompt\" value=\"", "\"") {
            "login" => format!("prompt=login&login={name}&password=any"),
            prompt => format!("prompt={prompt}"),
        };
        let call = Call::new(Method::POST, action.strip_prefix(&provider.issuer).unwrap_or(action)).body(form);
        next = call.header("content-type", "application/x-www-form-urlencoded");
    }
    panic!("the provider sends nobody back");
}

/// Begins a login at one dashboard and ends it at another: the last answer.
async fn log_in(provider: &Provider, begins: &Replica, ends: &Replica) -> Answer {
    let mut cookies = Cookies::default();
    let begun = Call::get("/api/session/oidc").to(begins.http).await.unwrap();
    assert_eq!(begun.status, 303, "{}", begun.text());
    cookies.take(&begun);
    let back = with_the_provider(provider, &begun.header("location"), "ann").await;
    Call::get(&back).header("cookie", &cookies.shown()).to(ends.http).await.unwrap()
}

/// What `milecastle sealing-key seal` makes of a text.
fn sealed(cluster: &Cluster, text: &str) -> String {
    let mut command = Command::new(binary());
    command.args(["sealing-key", "seal", "--role", "dashboard", "--config", &cluster.file("plain")]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certified_provider_vouches_for_people() {
    let cluster = Cluster::new();
    let mut provider = Provider::start(&cluster, "token");
    let plain = cluster.dashboard("plain");
    let settings = provider.settings(&cluster, &sealed(&cluster, SECRET), false);
    let (one, two) = (cluster.dashboard_with("one", &settings), cluster.dashboard_with("two", &settings));
    let mut wrong = cluster.dashboard_with("wrong", &provider.settings(&cluster, "another-secret", false));
    for dashboard in [&plain, &one, &two, &wrong] {
        dashboard.ready().await;
    }
    for (begins, ends) in [(&one, &two), (&two, &one)] {
        let answer = log_in(&provider, begins, ends).await;
        assert_eq!((answer.status, answer.header("location")), (303, format!("{PUBLIC}/")), "{}", answer.text());
        let mut cookies = Cookies::default();
        cookies.take(&answer);
        let told = Call::get("/api/session").header("cookie", &cookies.shown()).to(begins.http).await.unwrap();
        let told = told.json().unwrap();
        assert_eq!((&told["name"], &told["kind"]), (&json!("ann"), &json!("account")), "{told}");
        assert_eq!(told["roles"], json!([{ "role": "operator", "groups": ["*"] }]));
    }
    let refused = log_in(&provider, &one, &wrong).await;
    assert_eq!((refused.status, &refused.json().unwrap()["code"]), (401, &json!("wrong_login")), "{}", refused.text());
    let why = "does not redeem the code: invalid_client";
    wrong.process.announce(why);
    eventually(why, async || wrong.process.log().iter().any(|line| line.contains(why))).await;
    let ann = one.get("/api/users/ann").await.json().unwrap();
    assert_eq!((&ann["issuer"], &ann["subject"]), (&Value::from(&*provider.issuer), &json!("ann")));
    // One that has been heard of before sends browsers there while it is away; one that has not says so.
    provider.process.kill();
    assert_eq!(Call::get("/api/session/oidc").to(one.http).await.unwrap().status, 303);
    let mut late = cluster.dashboard_with("late", &settings);
    for warning in
        ["the OpenID Connect provider cannot be asked", "the provider cannot be asked", "a request to /api failed"]
    {
        late.process.announce(warning);
    }
    late.ready().await;
    let away = Call::get("/api/session/oidc").to(late.http).await.unwrap();
    assert_eq!((away.status, &away.json().unwrap()["code"]), (503, &json!("provider_unavailable")), "{}", away.text());
    for dashboard in [&one, &two, &wrong, &late] {
        let log = dashboard.process.log().join("\n");
        for secret in [SECRET, "another-secret", "eyJ"] {
            assert!(!log.contains(secret), "{secret}: {log}");
        }
    }
    tokio::task::spawn_blocking(move || [plain, one, two, wrong, late].into_iter().for_each(Replica::stop))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_token_lacks_is_asked_for_and_its_user_is_logged_out_there() {
    let cluster = Cluster::new();
    let provider = Provider::start(&cluster, "userinfo");
    let dashboard = |name, userinfo| cluster.dashboard_with(name, &provider.settings(&cluster, SECRET, userinfo));
    let (mut without, with) = (dashboard("without", false), dashboard("with", true));
    for dashboard in [&without, &with] {
        dashboard.ready().await;
    }
    without.process.announce("is not let in");
    assert_eq!(log_in(&provider, &without, &without).await.status, 403);
    let answer = log_in(&provider, &with, &with).await;
    let mut cookies = Cookies::default();
    cookies.take(&answer);
    let told = Call::get("/api/session").header("cookie", &cookies.shown()).to(with.http).await.unwrap();
    let told = told.json().unwrap();
    assert_eq!((&told["name"], &told["roles"][0]["role"]), (&json!("ann"), &json!("operator")), "{told}");
    // The provider takes where the browser is led to for what it is, and asks its user.
    let led = Call::get("/api/session/oidc/logout").to(with.http).await.unwrap().header("location");
    let page = provider.send(Call::get(led.strip_prefix(&provider.issuer).unwrap())).await;
    assert!(page.status == 200 && page.text().contains("name=\"xsrf\""), "{} {}", page.status, page.text());
    tokio::task::spawn_blocking(move || [without, with].into_iter().for_each(Replica::stop)).await.unwrap();
}
