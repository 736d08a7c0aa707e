//! OCSP stapling (`docs/ocsp-stapling.md`), with `openssl ocsp` as the responder and `openssl s_client` as the client.

use crate::stream;
use milecastle_testkit::eventually;
use milecastle_testkit::ocsp::{Responder, Standing};
use milecastle_testkit::registry::{Fault, Server};
use milecastle_testkit::tls::{Authority, Identity};
use milecastle_tests::{Up, full};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

const NAME: &str = "a.test";

/// A gateway that asks again soon after a failure.
fn up() -> Up {
    let settings = json!({ "retry_min": "100ms", "retry_max": "200ms", "timeout": "2s", "answer_bytes": "8k" });
    Up::start_with(&[("MILECASTLE__GATEWAY__OCSP", &settings.to_string())])
}

/// An authority, its responder, and a certificate that the responder knows as good.
fn site() -> (Authority, Server<Responder>, Identity) {
    let authority = Authority::new("tests");
    let responder = Responder::start(&authority);
    let identity = authority.issue_for_ocsp(&[NAME], &responder.url());
    responder.set(&identity, Standing::Good);
    (authority, responder, identity)
}

/// Shows a certificate with its authority under the name, with these members of `ocsp_stapling`.
async fn show(up: &Up, authority: &Authority, identity: &Identity, stapling: Value) {
    let chain = [&*identity.cert, &authority.pem()].concat();
    put(up, json!({ "cert": chain, "key": identity.key, "snis": [NAME], "ocsp_stapling": stapling })).await;
}

async fn put(up: &Up, ssl: Value) {
    up.put("/ssls/1", ssl).await;
}

fn on(cache_ttl: u32) -> Value {
    json!({ "enabled": true, "cache_ttl": cache_ttl })
}

/// What `openssl s_client` tells of a handshake under the name, which succeeds.
fn handshake(up: &Up, options: &[&str]) -> Option<String> {
    handshake_at(up.https, options)
}

fn handshake_at(address: SocketAddr, options: &[&str]) -> Option<String> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-servername", NAME, "-connect", &address.to_string()]).args(options);
    let output = command.stdin(Stdio::null()).output().expect("openssl is installed");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The status that is stapled; `None` if nothing is.
fn stapled(up: &Up, options: &[&str]) -> Option<String> {
    stapled_at(up.https, options)
}

fn stapled_at(address: SocketAddr, options: &[&str]) -> Option<String> {
    let said = handshake_at(address, &[&["-status"], options].concat()).expect("a handshake");
    if said.contains("OCSP response: no response sent") {
        return None;
    }
    assert!(said.contains("OCSP Response Status: successful"), "{said}");
    said.lines().find_map(|line| line.trim().strip_prefix("Cert Status: ").map(str::to_owned))
}

/// Waits until the status is stapled, or nothing is. Every handshake succeeds, once there is a first one.
async fn until_stapled(up: &Up, status: Option<&str>) {
    eventually("a first handshake", async || handshake(up, &[]).is_some()).await;
    eventually(&format!("{status:?} to be stapled"), async || stapled(up, &[]).as_deref() == status).await;
}

/// Waits until the log has so many lines with a text.
async fn until_said(up: &Up, text: &str, times: usize) {
    eventually(&format!("{text:?} {times} times in the log"), async || said(up, text) >= times).await;
    assert_eq!(said(up, text), times, "{text:?}");
}

fn said(up: &Up, text: &str) -> usize {
    up.process.log().iter().filter(|line| line.contains(text)).count()
}

/// Waits until so many certificates have a response, and so many should have one and have none.
async fn until_counted(up: &Up, stapled: f64, without: f64) {
    eventually(&format!("{stapled} certificates with a response, {without} without"), async || {
        up.metric("apisix_ocsp_certificates{state=\"stapled\"}").await == Some(stapled)
            && up.metric("apisix_ocsp_certificates{state=\"without\"}").await == Some(without)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_7_a_response_is_stapled_for_those_who_ask_and_follows_the_certificate() {
    let (authority, responder, identity) = site();
    let up = up();
    show(&up, &authority, &identity, json!({ "enabled": false })).await;
    until_stapled(&up, None).await;
    assert_eq!(responder.asked().len(), 0, "nothing is asked where it is off");
    show(&up, &authority, &identity, on(3600)).await;
    until_stapled(&up, Some("good")).await;
    for version in ["-tls1_2", "-tls1_3"] {
        assert_eq!(stapled(&up, &[version]).as_deref(), Some("good"), "{version}");
    }
    let message = "CertificateStatus";
    assert!(handshake(&up, &["-tls1_2", "-msg", "-status"]).unwrap().contains(message));
    assert!(!handshake(&up, &["-tls1_2", "-msg"]).unwrap().contains(message), "the client has not asked");
    assert_eq!(responder.asked().len(), 1, "a response is asked for once, not at each handshake");
    until_counted(&up, 1.0, 0.0).await;
    // Neither a change elsewhere nor another object with the same certificate asks anew.
    up.put("/routes/1", json!({ "uri": "/", "plugins": {} })).await;
    let chain = [&*identity.cert, &authority.pem()].concat();
    let other = json!({ "cert": chain, "key": identity.key, "snis": ["b.test"], "ocsp_stapling": on(3600) });
    up.put("/ssls/2", other).await;
    // The certificate is renewed: the new one has a response of its own, and the other object shows the old one.
    let renewed = authority.issue_for_ocsp(&[NAME], &responder.url());
    responder.set(&renewed, Standing::Good);
    show(&up, &authority, &renewed, on(3600)).await;
    until_counted(&up, 2.0, 0.0).await;
    until_stapled(&up, Some("good")).await;
    assert_eq!(responder.asked().len(), 2);
    for id in ["1", "2"] {
        assert_eq!(up.admin("DELETE", &format!("/ssls/{id}"), None).await.status, 200);
    }
    until_counted(&up, 0.0, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_the_tcp_proxy_begin_with_the_same_response() {
    let (authority, responder, identity) = site();
    let gateway = stream::Gateway::start(&[json!({ "addr": "127.0.0.1:0", "tls": true })], &[], &[]);
    let at = gateway.at("TLS");
    // A server that ends at once: the handshake is what is looked at.
    gateway.route("1", stream::server(drop), json!({ "server_port": at.port() })).await;
    show(&gateway.up, &authority, &identity, on(3600)).await;
    until_stapled(&gateway.up, Some("good")).await;
    for version in ["-tls1_2", "-tls1_3"] {
        assert_eq!(stapled_at(at, &[version]).as_deref(), Some("good"), "{version}");
    }
    assert!(!handshake_at(at, &["-tls1_2", "-msg"]).unwrap().contains("CertificateStatus"), "the client has not asked");
    assert_eq!(responder.asked().len(), 1, "both listeners show one response");
    responder.set(&identity, Standing::Revoked);
    show(&gateway.up, &authority, &identity, on(3601)).await;
    until_stapled(&gateway.up, None).await;
    assert_eq!(stapled_at(at, &[]), None);
    gateway.up.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_good_is_not_stapled() {
    let (authority, responder, identity) = site();
    responder.forget(&identity);
    let up = up();
    show(&up, &authority, &identity, on(3600)).await;
    until_said(&up, "the responder does not know the certificate", 1).await;
    assert_eq!(stapled(&up, &[]), None);
    responder.set(&identity, Standing::Revoked);
    until_said(&up, "the certificate is revoked", 1).await;
    until_counted(&up, 0.0, 1.0).await;
    assert_eq!(stapled(&up, &[]), None);
    responder.set(&identity, Standing::Good);
    until_stapled(&up, Some("good")).await;
    until_counted(&up, 1.0, 0.0).await;
    // Word of a revocation takes the good response away. Other terms make the gateway ask at once.
    responder.set(&identity, Standing::Revoked);
    show(&up, &authority, &identity, on(3601)).await;
    until_stapled(&up, None).await;
    until_said(&up, "the certificate is revoked", 2).await;
    // As it came, where the object says so.
    show(&up, &authority, &identity, json!({ "enabled": true, "skip_verify": true })).await;
    until_stapled(&up, Some("revoked")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_signer_must_be_the_issuer_or_have_its_certificate_for_that() {
    let (authority, responder, identity) = site();
    // One of the issuer's name, and an ordinary certificate of the issuer.
    let wrong = [Authority::new("tests").identity(), authority.issue(&["responder"])];
    let up = up();
    for (n, signer) in wrong.iter().enumerate() {
        responder.sign_with(signer);
        show(&up, &authority, &identity, on(3600 + u32::try_from(n).unwrap())).await;
        until_said(&up, "the response is not signed by", n + 1).await;
        assert_eq!(stapled(&up, &[]), None);
    }
    responder.sign_with(&authority.issue_responder());
    until_stapled(&up, Some("good")).await;
    // A response need not say how long it holds.
    responder.holds(&[]);
    let another = authority.issue_for_ocsp(&[NAME], &responder.url());
    responder.set(&another, Standing::Good);
    show(&up, &authority, &another, on(3600)).await;
    until_counted(&up, 1.0, 0.0).await;
    until_stapled(&up, Some("good")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_responder_that_is_away_costs_nobody_a_handshake() {
    let (authority, mut responder, identity) = site();
    responder.stop();
    let up = up();
    show(&up, &authority, &identity, on(3600)).await;
    until_said(&up, "no ocsp response send: the responder cannot be asked", 1).await;
    assert_eq!(stapled(&up, &[]), None);
    until_counted(&up, 0.0, 1.0).await;
    responder.start();
    until_stapled(&up, Some("good")).await;
    // The response that there is stays while no newer one can be had, however that comes. Other terms make the gateway ask.
    responder.fail(Some(Fault::Status(302)));
    show(&up, &authority, &identity, on(3601)).await;
    for (n, fault) in [Fault::Status(302), Fault::Garbage, Fault::Long(9 << 10), Fault::Silence].into_iter().enumerate()
    {
        responder.fail(Some(fault));
        until_said(&up, "no new OCSP response can be had", n + 1).await;
        assert_eq!(stapled(&up, &[]).as_deref(), Some("good"), "{fault:?}");
        until_counted(&up, 1.0, 0.0).await;
    }
    responder.fail(None);
    until_said(&up, "an OCSP response is stapled", 2).await;
    assert!(up.metric("apisix_ocsp_failures_total").await.unwrap() >= 5.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_cannot_be_asked_about_is_named_and_shown() {
    let (authority, responder, identity) = site();
    let up = up();
    let alone = json!({ "cert": identity.cert, "key": identity.key, "snis": [NAME], "ocsp_stapling": on(3600) });
    put(&up, alone).await;
    until_said(&up, "the chain has no certificate of the issuer: append it in `cert`", 1).await;
    assert_eq!(stapled(&up, &[]), None);
    show(&up, &authority, &authority.issue(&[NAME]), on(3600)).await;
    until_said(&up, "the certificate names no OCSP responder", 1).await;
    assert_eq!(stapled(&up, &[]), None);
    show(&up, &authority, &authority.issue_for_ocsp(&[NAME], "ldap://ocsp.test/a"), on(3600)).await;
    until_said(&up, "the certificate's OCSP responder cannot be asked", 1).await;
    assert_eq!(stapled(&up, &[]), None);
    until_counted(&up, 0.0, 1.0).await;
    assert_eq!(responder.asked().len(), 0);
}

/// The shortest life that `openssl ocsp` gives a response is a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_is_renewed_in_time_and_dropped_when_it_expires() {
    if !full() {
        return;
    }
    let (authority, responder, identity) = site();
    responder.holds(&["-nmin", "1"]);
    let up = up();
    show(&up, &authority, &identity, on(3600)).await;
    until_stapled(&up, Some("good")).await;
    milecastle_testkit::wait_for("a newer response", std::time::Duration::from_secs(60), async || {
        assert_eq!(stapled(&up, &[]).as_deref(), Some("good"), "there is always one");
        (responder.asked().len() >= 2).then_some(())
    })
    .await;
    responder.repeats(true);
    milecastle_testkit::wait_for("the last one to expire", std::time::Duration::from_secs(120), async || {
        stapled(&up, &[]).is_none().then_some(())
    })
    .await;
    until_said(&up, "it has expired, and no newer one could be had", 1).await;
    until_said(&up, "the responder hands out an old one", 1).await;
    assert_eq!(stapled(&up, &[]), None);
    responder.repeats(false);
    until_stapled(&up, Some("good")).await;
}
