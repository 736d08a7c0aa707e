//! Certificates of clients (§6).

use super::{Secure, handshake, site};
use crate::openssl::s_client;
use milecastle_testkit::tls::Identity;
use milecastle_testkit::{Answer, Call, Target, TempDir, eventually};
use serde_json::{Value, json};

/// A GET over TLS under a name, with another host if one is given, and a certificate if there is one.
/// `None`: there is no answer, nor a handshake.
async fn get(site: &Secure, name: &str, host: &str, path: &str, shown: Option<&Identity>) -> Option<Answer> {
    let target = Target::tls(site.up.https, name, &site.authority.pem());
    let target = if let Some(identity) = shown { target.with_identity(identity) } else { target };
    Call::get(path).header("host", host).send(&mut target.connect().await.ok()?).await.ok()
}

/// How many lines of the log have a text.
fn said(site: &Secure, text: &str) -> usize {
    site.up.process.log().iter().filter(|line| line.contains(text)).count()
}

fn asks(site: &Secure, more: Value) -> Value {
    json!({ "client": super::with(json!({ "ca": site.clients.pem() }), more) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_6_1_certificates_are_judged_by_the_authority_and_the_depth() {
    let site = site().await;
    site.put([
        site.ssl("t61", &["t61.test"], asks(&site, json!({}))),
        site.ssl("t61-deep", &["deep.t61.test"], asks(&site, json!({ "depth": 2 }))),
    ])
    .await;
    let direct = site.clients.issue(&["direct"]);
    let between = site.clients.issue_authority("between");
    let leaf = between.issue(&["indirect"]);
    let indirect = Identity { cert: [&*leaf.cert, &between.pem()].concat(), key: leaf.key };
    let stranger = site.authority.issue(&["stranger"]);
    for (name, shown, good) in [
        ("t61.test", &direct, true),
        ("t61.test", &indirect, false),
        ("t61.test", &stranger, false),
        ("deep.t61.test", &direct, true),
        ("deep.t61.test", &indirect, true),
    ] {
        let answer = get(&site, name, name, "/x", Some(shown)).await;
        assert_eq!(answer.is_some_and(|answer| answer.status == 200), good, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_6_2_without_exceptions_the_handshake_fails() {
    let site = site().await;
    site.put([site.ssl("t62", &["t62.test"], asks(&site, json!({})))]).await;
    let before = site.echo.received().len();
    assert!(get(&site, "t62.test", "t62.test", "/x", None).await.is_none());
    assert!(get(&site, "t62.test", "t62.test", "/x", Some(&site.authority.issue(&["stranger"]))).await.is_none());
    assert!(handshake(site.up.https, Some("t62.test"), &["-tls1_2"]).is_none());
    let good = site.clients.issue(&["good"]);
    assert_eq!(get(&site, "t62.test", "t62.test", "/x", Some(&good)).await.unwrap().status, 200);
    let targets: Vec<_> = site.echo.received()[before..]
        .iter()
        .filter(|got| got.header("host") == ["t62.test"])
        .map(|got| got.target())
        .collect();
    assert_eq!(targets, ["/x"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_6_3_with_exceptions_each_path_is_judged() {
    let site = site().await;
    let open = json!({ "skip_mtls_uri_regex": ["^/open/", "/also$"] });
    site.put([site.ssl("t63", &["t63.test"], asks(&site, open))]).await;
    let (good, stranger) = (site.clients.issue(&["good"]), site.authority.issue(&["stranger"]));
    for (path, without) in [
        ("/open/x", 200),
        ("/it/also", 200),
        ("/x", 400),
        // What counts is the path that routes are found by.
        ("/open/../x", 400),
        ("/%6fpen/x", 200),
        ("/x?/open/", 400),
    ] {
        let status = async |shown| get(&site, "t63.test", "t63.test", path, shown).await.unwrap().status;
        assert_eq!(status(None).await, without, "{path}");
        assert_eq!(status(Some(&stranger)).await, without, "{path}");
        assert_eq!(status(Some(&good)).await, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_6_4_the_host_is_the_name_of_the_handshake_where_certificates_are_asked_for() {
    let site = site().await;
    let authority = site.authority.issue(&["t64-wild", "*.t64.test"]);
    let wild =
        super::object("t64-wild", &authority, super::with(asks(&site, json!({})), json!({ "sni": "*.t64.test" })));
    site.put([
        site.ssl("t64-open", &["open64.test", "other64.test"], json!({})),
        site.ssl("t64-closed", &["closed64.test"], asks(&site, json!({}))),
        wild,
    ])
    .await;
    let good = site.clients.issue(&["good"]);
    for (name, host, status) in [
        ("open64.test", "open64.test", 200),
        ("open64.test", "other64.test", 200),
        ("open64.test", "unknown64.test", 200),
        ("open64.test", "closed64.test", 400),
        ("open64.test", "CLOSED64.test:443", 400),
        ("open64.test", "closed64.test.", 400),
        ("closed64.test", "closed64.test", 200),
        ("closed64.test", "Closed64.TEST:9443", 200),
        ("closed64.test", "open64.test", 200),
        ("a.t64.test", "a.t64.test", 200),
        ("a.t64.test", "b.t64.test", 400),
        ("open64.test", "a.t64.test", 400),
    ] {
        assert_eq!(get(&site, name, host, "/x", Some(&good)).await.unwrap().status, status, "{name} {host}");
    }
    // On one connection each request is judged.
    let target = Target::tls(site.up.https, "open64.test", &site.authority.pem());
    let mut connection = target.http2().connect().await.unwrap();
    for (host, status) in [("open64.test", 200), ("closed64.test", 400), ("open64.test", 200), ("closed64.test", 400)] {
        let answer = Call::get("/x").header("host", host).send(&mut connection).await.unwrap();
        assert_eq!(answer.status, status, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_6_5_a_session_is_resumed_under_its_own_name_only() {
    let site = site().await;
    let names = ["a.t65.test", "b.t65.test"];
    let dir = TempDir::new();
    let file = dir.path().join("session").to_str().unwrap().to_owned();
    site.put([site.ssl("t65", &names, json!({}))]).await;
    // A session of TLS 1.3 comes after the handshake, so that the answer is waited for.
    let request = "GET /x HTTP/1.1\r\nHost: t65.test\r\nConnection: close\r\n\r\n";
    let with = |name: &str, options: &[&str]| {
        s_client(site.up.https, Some(name), &[&["-ign_eof"][..], options].concat(), request)
    };
    for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let (new, reused) = (format!("New, {version}"), format!("Reused, {version}"));
        let first = |name: &str| {
            let said = with(name, &[option, "-sess_out", &file]).unwrap();
            assert!(said.contains(&new), "{said}");
        };
        first(names[0]);
        assert!(with(names[1], &[option, "-sess_in", &file]).is_none_or(|said| said.contains(&new)));
        first(names[0]);
        let same = with(names[0], &[option, "-sess_in", &file]).unwrap();
        assert!(same.contains(&reused), "{same}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_6_6_what_is_refused_is_told_of() {
    let site = site().await;
    let open = json!({ "skip_mtls_uri_regex": ["^/open/"] });
    site.put([site.ssl("t66", &["t66.test"], asks(&site, open)), site.ssl("t66-open", &["open66.test"], json!({}))])
        .await;
    let stranger = site.authority.issue(&["stranger"]);
    for (name, shown, text) in [
        ("t66.test", None, "client certificate was not present"),
        ("t66.test", Some(&stranger), "client certificate verification is not passed: FAILED:"),
        ("open66.test", None, "client certificate verified with SNI open66.test, but the host is t66.test"),
    ] {
        let before = said(&site, text);
        let answer = get(&site, name, "t66.test", "/x", shown).await.unwrap();
        assert_eq!(answer.status, 400, "{text}");
        assert!(answer.text().contains("<center><h1>400 Bad Request</h1></center>"), "{}", answer.text());
        eventually(text, async || said(&site, text) > before).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_6_7_variables_tell_of_the_session_and_plain_requests_are_not_concerned() {
    let site = site().await;
    let open = json!({ "skip_mtls_uri_regex": ["^/open/"] });
    site.put([site.ssl("t67", &["t67.test"], asks(&site, open))]).await;
    let (good, stranger) = (site.clients.issue(&["good"]), site.authority.issue(&["stranger"]));
    for (shown, expected) in [
        (None, "t67.test|NONE|none|TLSv1.3"),
        (Some(&good), "t67.test|SUCCESS|CN=good|TLSv1.3"),
        (Some(&stranger), "t67.test|FAILED:"),
    ] {
        let seen = get(&site, "t67.test", "t67.test", "/open/x", shown).await.unwrap().header("x-seen");
        assert!(seen.starts_with(expected), "{seen}");
    }
    let plain = Call::get("/x").header("host", "t67.test").to(site.up.http).await.unwrap();
    assert_eq!((plain.status, &*plain.header("x-seen")), (200, "none|none|none|none"));
}
