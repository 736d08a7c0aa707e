//! Certificates by server name.

use super::{Config, compiler, delete, put};
use crate::{ClientCertificateFault, ClientIdentity};
use milecastle_model::{Change, Kind};
use serde_json::{Value, json};

pub(super) fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["test".into()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn ssl(id: &str, snis: &[&str]) -> Change {
    let (cert, key) = pair();
    put(Kind::Ssl, id, json!({ "cert": cert, "key": key, "snis": snis }))
}

fn served(config: &Config, name: &str) -> Option<String> {
    config.now.certificate(name).map(|ssl| ssl.id.to_string())
}

#[test]
fn the_exact_name_then_the_longest_wildcard_of_one_label_then_all() {
    let mut config = Config::new();
    config.good(&[ssl("exact", &["a.test.com"]), ssl("wide", &["*.com"]), ssl("wild", &["*.Test.com."])]);
    assert_eq!(served(&config, "a.test.com").as_deref(), Some("exact"));
    assert_eq!(served(&config, "A.Test.com.").as_deref(), Some("exact"));
    assert_eq!(served(&config, "b.test.com").as_deref(), Some("wild"));
    assert_eq!(served(&config, "test.com").as_deref(), Some("wide"));
    assert_eq!(served(&config, "a.b.test.com"), None, "the most specific wildcard decides");
    assert_eq!(served(&config, "other.org"), None);
    config.good(&[ssl("any", &["*"])]);
    assert_eq!(served(&config, "other.org").as_deref(), Some("any"));
    config.good(&[delete(Kind::Ssl, "exact")]);
    assert_eq!(served(&config, "a.test.com").as_deref(), Some("wild"));
}

#[test]
fn of_two_claims_to_a_name_the_smaller_id_wins() {
    let mut config = Config::new();
    config.good(&[ssl("2", &["a.test"]), ssl("1", &["a.test"])]);
    assert_eq!(served(&config, "a.test").as_deref(), Some("1"));
    config.good(&[delete(Kind::Ssl, "1")]);
    assert_eq!(served(&config, "a.test").as_deref(), Some("2"));
}

#[test]
fn objects_that_are_off_or_for_upstreams_serve_nobody() {
    let (cert, key) = pair();
    let mut config = Config::new();
    config.good(&[put(Kind::Ssl, "1", json!({ "cert": cert, "key": key, "sni": "a.test", "status": 0 }))]);
    config.good(&[put(Kind::Ssl, "2", json!({ "cert": cert, "key": key, "type": "client" }))]);
    assert_eq!(served(&config, "a.test"), None);
}

#[test]
fn objects_that_ask_for_stapling_are_known_and_changes_of_others_leave_them_as_they_are() {
    let mut config = Config::new();
    let ssl = |id: &str, more: Value| {
        let (cert, key) = pair();
        let mut body = json!({ "cert": cert, "key": key, "sni": format!("{id}.test") });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        put(Kind::Ssl, id, body)
    };
    let on = json!({ "ocsp_stapling": { "enabled": true, "cache_ttl": 60 } });
    let stapled = |config: &Config| {
        let mut ids: Vec<_> = config.now.stapled().iter().map(|ssl| ssl.id.to_string()).collect();
        ids.sort_unstable();
        ids
    };
    config.good(&[ssl("on", on.clone()), ssl("off", json!({ "ocsp_stapling": {} })), ssl("none", json!({}))]);
    assert_eq!(stapled(&config), ["on"]);
    let before = config.now.stapled().clone();
    config.good(&[ssl("other", json!({})), ssl("off", json!({})), delete(Kind::Ssl, "none")]);
    assert!(config.now.stapled().is(&before));
    config.good(&[ssl("on", on.clone())]);
    assert!(!config.now.stapled().is(&before), "another certificate");
    config.good(&[ssl("second", on.clone()), ssl("on", json!({ "status": 0 }))]);
    assert_eq!(stapled(&config), ["second"]);
    config.good(&[delete(Kind::Ssl, "second")]);
    assert_eq!(stapled(&config), [""; 0]);
}

#[test]
fn paths_without_a_certificate_that_no_node_could_look_for_are_refused() {
    let (cert, key) = pair();
    let client = json!({ "ca": cert, "skip_mtls_uri_regex": ["a{1000}{1000}"] });
    let body = json!({ "cert": cert, "key": key, "sni": "a.test", "client": client });
    let faults = compiler().check(Kind::Ssl, "1", &body);
    assert!(faults.iter().any(|fault| fault.to_string().contains("size limit")), "{faults:?}");
}

#[test]
fn a_key_that_is_none_is_refused_and_quarantined() {
    let (cert, _) = pair();
    let body: Value = json!({ "cert": cert, "key": format!("{:64}", "-----BEGIN NOTHING-----"), "sni": "a.test" });
    let faults = compiler().check(Kind::Ssl, "1", &body);
    assert!(faults[0].to_string().starts_with("failed to parse key: "), "{}", faults[0]);
    let mut config = Config::new();
    assert_eq!(config.step(&[put(Kind::Ssl, "1", body)]).len(), 1);
}

/// What an upstream with this `tls` is to be shown.
fn shown(config: &mut Config, tls: Value) -> Result<Option<ClientIdentity>, ClientCertificateFault> {
    config.good(&[put(Kind::Upstream, "u", json!({ "nodes": { "127.0.0.1:1": 1 }, "scheme": "https", "tls": tls }))]);
    let upstream = config.now.upstream("u").unwrap();
    config.now.client_identity(upstream).map(Option::<&ClientIdentity>::cloned)
}

#[test]
fn an_upstream_is_shown_its_own_pair_if_that_is_one() {
    let (mut config, (cert, key), (_, other)) = (Config::new(), pair(), pair());
    assert_eq!(shown(&mut config, json!({})), Ok(None));
    let own = shown(&mut config, json!({ "client_cert": cert, "client_key": key })).unwrap();
    assert_eq!(own, shown(&mut config, json!({ "client_cert": cert, "client_key": key })).unwrap());
    let (another, its_key) = pair();
    assert_ne!(own, shown(&mut config, json!({ "client_cert": another, "client_key": its_key })).unwrap());
    let mismatched = shown(&mut config, json!({ "client_cert": cert, "client_key": other }));
    assert_eq!(mismatched, Err(ClientCertificateFault::Unusable));
}

#[test]
fn an_upstream_is_shown_the_ssl_object_that_it_names() {
    let (mut config, named) = (Config::new(), json!({ "client_cert_id": "c" }));
    assert_eq!(shown(&mut config, named.clone()), Err(ClientCertificateFault::Missing));
    let ssl = |(cert, key): (String, String), more: Value| {
        let mut body = json!({ "type": "client", "cert": cert, "key": key });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        put(Kind::Ssl, "c", body)
    };
    config.good(&[ssl(pair(), json!({}))]);
    let first = shown(&mut config, named.clone()).unwrap().unwrap();
    config.good(&[ssl(pair(), json!({}))]);
    assert_ne!(shown(&mut config, named.clone()).unwrap().unwrap(), first, "a change is seen at once");
    config.good(&[ssl(pair(), json!({ "status": 0 }))]);
    assert_eq!(shown(&mut config, named.clone()), Err(ClientCertificateFault::Missing));
    config.good(&[ssl(pair(), json!({ "type": "server", "sni": "a.test" }))]);
    assert_eq!(shown(&mut config, named.clone()), Err(ClientCertificateFault::Missing), "it is for clients");
    config.good(&[ssl((pair().0, pair().1), json!({}))]);
    assert_eq!(shown(&mut config, named.clone()), Err(ClientCertificateFault::Unusable), "the key is another's");
    config.good(&[delete(Kind::Ssl, "c")]);
    assert_eq!(shown(&mut config, named), Err(ClientCertificateFault::Missing));
}

#[test]
fn in_quarantine_it_is_unusable_unless_it_was_good() {
    let (mut config, named) = (Config::new(), json!({ "client_cert_id": "c" }));
    let (cert, key) = pair();
    let bad = json!({ "type": "client", "cert": cert, "key": format!("{:64}", "-----BEGIN NOTHING-----") });
    assert_eq!(config.step(&[put(Kind::Ssl, "c", bad.clone())]).len(), 1);
    assert_eq!(shown(&mut config, named.clone()), Err(ClientCertificateFault::Unusable));
    config.good(&[put(Kind::Ssl, "c", json!({ "type": "client", "cert": cert, "key": key }))]);
    assert_eq!(config.step(&[put(Kind::Ssl, "c", bad)]).len(), 1);
    assert!(shown(&mut config, named).unwrap().is_some());
}
