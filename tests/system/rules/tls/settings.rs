//! Listeners, keys at rest, and the Admin API (§1, §8, §9). OCSP stapling (§7) is tested in `ocsp`.

use super::{Secure, handshake, object, site};
use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Call, Target, TempDir, eventually};
use milecastle_tests::Up;
use serde_json::json;
use std::path::Path;

/// The cipher and the version that a handshake agreed on.
fn agreed(said: &str) -> &str {
    said.lines().find(|line| line.starts_with("New, ")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_what_is_offered_by_default() {
    let site = site().await;
    site.put([site.ssl("t1", &["t1.test"], json!({}))]).await;
    let with = |options: &[&str]| handshake(site.up.https, Some("t1.test"), options);
    // Versions, and of TLS 1.2 the suites of the list; which one, the server says.
    assert!(agreed(&with(&["-tls1_3"]).unwrap()).starts_with("New, TLSv1.3"));
    let backwards = "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256";
    let said = with(&["-tls1_2", "-cipher", backwards]).unwrap();
    assert!(agreed(&said).ends_with("Cipher is ECDHE-ECDSA-AES128-GCM-SHA256"), "{said}");
    for refused in ["ECDHE-ECDSA-AES128-SHA256", "DHE-RSA-AES128-GCM-SHA256", "AES128-GCM-SHA256"] {
        assert!(with(&["-tls1_2", "-cipher", refused]).is_none(), "{refused}");
    }
    // No tickets, as `ssl_session_tickets` is off.
    assert!(!with(&["-tls1_2"]).unwrap().contains("TLS session ticket:"));
    // HTTP/2 by ALPN, and by prior knowledge in clear text.
    for (offered, chosen) in [("h2,http/1.1", "ALPN protocol: h2"), ("http/1.1", "ALPN protocol: http/1.1")] {
        let said = with(&["-alpn", offered]).unwrap();
        assert!(said.contains(chosen), "{offered}: {said}");
    }
    for target in [Target::plain(site.up.http), Target::tls(site.up.https, "t1.test", &site.authority.pem())] {
        let mut connection = target.http2().connect().await.unwrap();
        let answer = Call::get("/x").header("host", "t1.test").send(&mut connection).await.unwrap();
        assert_eq!((answer.status, answer.version), (200, http::Version::HTTP_2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_what_the_settings_change() {
    let site = Secure::start(&[
        ("MILECASTLE__GATEWAY__APISIX__SSL__SSL_PROTOCOLS", "TLSv1.1 TLSv1.2"),
        ("MILECASTLE__GATEWAY__APISIX__SSL__SSL_CIPHERS", "ECDHE-ECDSA-AES256-GCM-SHA384:DHE-RSA-AES128-GCM-SHA256"),
        ("MILECASTLE__GATEWAY__APISIX__SSL__SSL_SESSION_TICKETS", "true"),
        ("MILECASTLE__GATEWAY__APISIX__ENABLE_HTTP2", "false"),
    ])
    .await;
    site.put([site.ssl("t1", &["t1.test"], json!({}))]).await;
    eventually("the log says what is never offered", async || {
        site.says("WARN", &["apisix.ssl.ssl_protocols names TLSv1 or TLSv1.1"])
    })
    .await;
    let with = |options: &[&str]| handshake(site.up.https, Some("t1.test"), options);
    assert!(with(&["-tls1_3"]).is_none());
    let said = with(&["-tls1_2"]).unwrap();
    assert!(agreed(&said).ends_with("Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"), "{said}");
    assert!(said.contains("TLS session ticket:"), "{said}");
    assert!(with(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]).is_none());
    let said = with(&["-alpn", "h2,http/1.1"]).unwrap();
    assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
    assert!(Call::get("/x").send(&mut Target::plain(site.up.http).http2().connect().await.unwrap()).await.is_err());
}

/// Whether a file below a directory has a text.
fn is_written(directory: &Path, text: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_written(&path, text);
        }
        // Files come and go while the process runs.
        std::fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text))
    })
}

/// Keys are sealed with a key of the cluster's own, so that ciphertext of other gateways is refused (docs/compatibility.md).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_8_keys_are_at_rest_in_no_readable_form() {
    let site = site().await;
    let identity = site.authority.issue(&["t8", "t8.test"]);
    let secret: String = identity.key.lines().nth(1).unwrap().to_owned();
    let beside = ("/routes/t8".to_owned(), json!({ "uri": "/beside/t8", "upstream_id": "echo" }));
    let (path, ssl) = object("t8", &identity, json!({ "snis": ["t8.test"] }));
    let shown = site.up.put(&path, ssl).await.json().unwrap()["value"].clone();
    site.put([beside]).await;
    assert_eq!(site.shown(Some("t8.test")).as_deref(), Some("t8"));
    assert!(is_written(site.up.data.path(), b"/beside/t8"), "this is where objects are");
    assert!(!is_written(site.up.data.path(), secret.as_bytes()));
    assert!(shown["key"].as_str().unwrap().starts_with("sealed:sha256:"), "{shown}");
    // What was shown stands for the stored key.
    let again = json!({ "cert": identity.cert, "key": shown["key"], "snis": ["again.t8.test"] });
    site.put([("/ssls/t8", again)]).await;
    assert_eq!(site.shown(Some("again.t8.test")).as_deref(), Some("t8"));
    let foreign = json!({ "cert": identity.cert, "key": "k".repeat(128), "snis": ["t8.test"] });
    let said = site.refusal("/ssls/t8-foreign", foreign).await;
    assert!(said.contains("failed to parse key"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_9_the_admin_api_is_served_over_tls_with_the_same_versions() {
    let authority = Authority::new("servers");
    let identity = authority.issue(&["admin.test"]);
    let dir = TempDir::new();
    let [cert, key] = [("cert.pem", &identity.cert), ("key.pem", &identity.key)]
        .map(|(name, text)| dir.write(name, text).to_str().unwrap().to_owned());
    let up = Up::start_with(&[
        ("MILECASTLE__DASHBOARD__TLS__CERT_FILE", &cert),
        ("MILECASTLE__DASHBOARD__TLS__KEY_FILE", &key),
    ]);
    let with = |options: &[&str]| handshake(up.admin, Some("admin.test"), options);
    assert!(agreed(&with(&["-tls1_3"]).unwrap()).starts_with("New, TLSv1.3"));
    let said = with(&["-tls1_2"]).unwrap();
    assert!(agreed(&said).contains("Cipher is ECDHE-ECDSA-AES"), "{said}");
    for refused in [&["-tls1_1", "-cipher", "ALL@SECLEVEL=0"][..], &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"]]
    {
        assert!(with(refused).is_none(), "{refused:?}");
    }
    let mut connection = Target::tls(up.admin, "admin.test", &authority.pem()).connect().await.unwrap();
    let call = Call::get("/apisix/admin/routes").header("X-API-KEY", milecastle_tests::ADMIN_KEY);
    assert_eq!(call.send(&mut connection).await.unwrap().status, 200);
    up.stop();
}
