//! Which objects take part, which one a name finds, and what it shows (§2 to §5).

use super::{Secure, handshake, object, site};
use crate::rules::Shared;
use milecastle_testkit::{Call, Target, TempDir, eventually};
use serde_json::json;
use std::process::Command;
use std::sync::Arc;

/// Asserts whose certificate is shown for each name; `None`: the handshake is aborted.
fn shows(site: &Secure, table: &[(&str, Option<&str>)]) {
    for (name, expected) in table {
        assert_eq!(site.shown(Some(name)).as_deref(), *expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_2_objects_that_take_part() {
    let site = site().await;
    let names = ["on.t2.test", "UPPER.t2.test", "dot.t2.test."];
    let identity = site.authority.issue(&["t2-client", "client.t2.test"]);
    site.put([
        site.ssl("t2-on", &names, json!({ "status": 1 })),
        site.ssl("t2-off", &["off.t2.test"], json!({ "status": 0 })),
        object("t2-client", &identity, json!({ "type": "client", "snis": ["client.t2.test"] })),
    ])
    .await;
    let table = [
        ("on.t2.test", Some("t2-on")),
        ("ON.T2.test", Some("t2-on")),
        ("upper.t2.test", Some("t2-on")),
        ("dot.t2.test", Some("t2-on")),
        ("off.t2.test", None),
        ("client.t2.test", None),
    ];
    shows(&site, &table);
    // New handshakes follow a change, connections that are there stay.
    let mut held = Target::tls(site.up.https, "on.t2.test", &site.authority.pem()).connect().await.unwrap();
    site.put([site.ssl("t2-off", &["off.t2.test"], json!({})), site.ssl("t2-on", &["other.t2.test"], json!({}))]).await;
    shows(&site, &[("off.t2.test", Some("t2-off")), ("on.t2.test", None), ("other.t2.test", Some("t2-on"))]);
    let answer = Call::get("/x").header("host", "on.t2.test").send(&mut held).await.unwrap();
    assert_eq!(answer.status, 200);
}

async fn with_fallback() -> Arc<Secure> {
    static SITE: Shared<Secure> = Shared::new();
    let settings = [("MILECASTLE__GATEWAY__APISIX__SSL__FALLBACK_SNI", "Fallback.t31.test")];
    SITE.get(async || Secure::start(&settings).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_3_1_without_a_name_the_fallback_counts_and_without_both_the_handshake_ends() {
    let site = site().await;
    site.put([site.ssl("t31", &["t31.test"], json!({}))]).await;
    assert_eq!(site.shown(None), None);
    let site = with_fallback().await;
    assert_eq!(site.shown(None), None, "nothing has that name yet");
    site.put([site.ssl("t31-fallback", &["fallback.t31.test"], json!({})), site.ssl("t31", &["t31.test"], json!({}))])
        .await;
    assert_eq!(site.shown(None).as_deref(), Some("t31-fallback"));
    shows(&site, &[("t31.test", Some("t31")), ("unknown.t31.test", None)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_3_2_the_exact_name_comes_first() {
    let site = site().await;
    site.put([site.ssl("t32-a-wild", &["*.t32.test"], json!({})), site.ssl("t32-exact", &["a.t32.test"], json!({}))])
        .await;
    shows(&site, &[("a.t32.test", Some("t32-exact")), ("b.t32.test", Some("t32-a-wild"))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_3_3_a_wildcard_is_one_label_and_the_most_specific_decides() {
    let site = site().await;
    site.put([site.ssl("t33-wide", &["*.t33.test"], json!({})), site.ssl("t33-narrow", &["*.b.t33.test"], json!({}))])
        .await;
    let table = [
        ("a.t33.test", Some("t33-wide")),
        ("t33.test", None),
        ("x.y.t33.test", None),
        ("a.b.t33.test", Some("t33-narrow")),
        ("b.t33.test", Some("t33-wide")),
        ("x.a.b.t33.test", None),
    ];
    shows(&site, &table);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_3_4_a_star_stands_for_every_name() {
    // It would answer for the names of other tests.
    let site = Secure::start(&[]).await;
    for (form, names) in [("t34-one", json!({ "sni": "*" })), ("t34-list", json!({ "snis": ["*"] }))] {
        let identity = site.authority.issue(&[form]);
        site.put([object("t34", &identity, names), site.ssl("t34-exact", &["exact.test"], json!({}))]).await;
        shows(&site, &[("any.name.test", Some(form)), ("dotless", Some(form)), ("exact.test", Some("t34-exact"))]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_3_5_an_unknown_name_ends_the_handshake_with_an_alert() {
    let site = site().await;
    site.put([site.ssl("t35", &["t35.test"], json!({}))]).await;
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-servername", "unknown.t35.test", "-connect", &site.up.https.to_string(), version]);
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        assert!(!output.status.success() && said.contains("alert"), "{said}");
        assert!(said.contains("no peer certificate available"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_3_6_of_two_objects_with_a_name_the_smaller_id_has_it() {
    let site = site().await;
    let names = ["t36.test", "*.t36.test"];
    site.put(["t36-b", "t36-a", "t36-c"].map(|id| site.ssl(id, &names, json!({})))).await;
    shows(&site, &[("t36.test", Some("t36-a")), ("x.t36.test", Some("t36-a"))]);
    site.delete("/ssls/t36-a").await;
    shows(&site, &[("t36.test", Some("t36-b")), ("x.t36.test", Some("t36-b"))]);
}

/// A key of a kind and a certificate for it, self-signed: `(certificate, key)`.
fn openssl_pair(name: &str, kind: &[&str]) -> (String, String) {
    let dir = TempDir::new();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-days", "2", "-subj", &format!("/CN={name}"), "-newkey"]).args(kind);
    command.args(["-keyout", &file("key.pem"), "-out", &file("cert.pem")]);
    let made = command.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    (read("cert.pem"), read("key.pem"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_4_the_key_type_decides_among_several_certificates_and_chains_are_sent() {
    let site = site().await;
    let rsa = openssl_pair("t4-rsa", &["rsa:2048"]);
    let ecdsa = openssl_pair("t4-ecdsa", &["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    let pairs = json!({ "snis": ["t4.test"], "cert": rsa.0, "key": rsa.1, "certs": [ecdsa.0], "keys": [ecdsa.1] });
    let between = site.authority.issue_authority("t4-between");
    let leaf = between.issue(&["t4-chain", "chain.t4.test"]);
    let chain = [&*leaf.cert, &between.pem()].concat();
    site.put([
        ("/ssls/t4".to_owned(), pairs),
        object("t4-chain", &leaf, json!({ "snis": ["chain.t4.test"], "cert": chain })),
    ])
    .await;
    for (algorithms, expected) in [("rsa_pss_rsae_sha256", "t4-rsa"), ("ecdsa_secp256r1_sha256", "t4-ecdsa")] {
        let said = handshake(site.up.https, Some("t4.test"), &["-sigalgs", algorithms]).expect(algorithms);
        assert!(said.contains(expected), "{algorithms}: {said}");
    }
    // The client knows the root alone.
    Target::tls(site.up.https, "chain.t4.test", &site.authority.pem()).connect().await.unwrap();
    // Whether a key belongs to its certificate is not asked when they are written.
    let stranger = site.authority.issue(&["stranger"]);
    site.put([object("t4-mixed", &leaf, json!({ "snis": ["mixed.t4.test"], "key": stranger.key }))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_5_versions_of_the_object_replace_those_of_the_server() {
    let site = site().await;
    let of = |id: &str, versions: serde_json::Value| {
        let name = format!("{id}.test");
        site.ssl(id, &[&name], json!({ "ssl_protocols": versions }))
    };
    site.put([
        of("t5-old", json!(["TLSv1.2"])),
        of("t5-new", json!(["TLSv1.3"])),
        of("t5-oldest", json!(["TLSv1.1"])),
        of("t5-mixed", json!(["TLSv1.1", "TLSv1.2"])),
        site.ssl("t5", &["t5.test"], json!({})),
    ])
    .await;
    for (name, two, three) in [
        ("t5-old.test", true, false),
        ("t5-new.test", false, true),
        ("t5.test", true, true),
        ("t5-oldest.test", false, false),
        ("t5-mixed.test", true, false),
    ] {
        let with = |version: &str| handshake(site.up.https, Some(name), &[version]).is_some();
        assert_eq!((with("-tls1_2"), with("-tls1_3")), (two, three), "{name}");
        // Nothing brings TLS 1.1 back (docs/compatibility.md).
        assert!(handshake(site.up.https, Some(name), &["-tls1_1", "-cipher", "ALL@SECLEVEL=0"]).is_none(), "{name}");
    }
    eventually("the log says what is never offered", async || {
        site.says("ERROR", &["ssls/t5-oldest", "never offered: every handshake"])
            && site.says("WARN", &["ssls/t5-mixed", "never offered: clients need"])
    })
    .await;
    assert!(!site.says("WARN", &["ssls/t5-new"]));
}
