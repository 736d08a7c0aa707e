//! References to secret managers, whose values change under a configuration that stays.

use super::tls::pair;
use super::{Config, compiler_with, delete, mark, put};
use crate::ClientCertificateFault;
use milecastle_model::{Key, Kind};
use milecastle_plugin_api::Secrets;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

const KEY: &str = "$secret://vault/1/a/key";
const TEXT: &str = "$secret://vault/1/a/text";

/// What a test says that references stand for.
#[derive(Default)]
struct Values(Mutex<BTreeMap<String, String>>);

impl Values {
    fn set(&self, reference: &str, value: &str) {
        self.0.lock().unwrap().insert(reference.to_owned(), value.to_owned());
    }
}

impl Secrets for Values {
    fn resolve(&self, reference: &str) -> Option<String> {
        self.0.lock().unwrap().get(reference).cloned()
    }
}

fn config() -> (Arc<Values>, Config) {
    let values = Arc::<Values>::default();
    (values.clone(), Config::of(compiler_with(values)))
}

fn consumer(key: &str) -> Value {
    json!({ "username": "jack", "plugins": { "pass": { "key": key } } })
}

/// Builds everything again that holds a reference.
fn again(config: &mut Config) -> Vec<String> {
    let keys: BTreeSet<Key> = config.now.references().map(|(key, _)| key.clone()).collect();
    let (next, rejected) = config.now.again(keys);
    config.now = next;
    rejected.into_iter().map(|rejected| rejected.reason).collect()
}

#[test]
fn the_references_of_objects_are_known_where_they_are_resolved_and_however_they_are_written() {
    let (_, mut config) = config();
    let held = |config: &Config| -> Vec<(String, Vec<String>)> {
        let of = |(key, references): (&Key, &[Box<str>])| {
            (key.path(), references.iter().map(|reference| reference.to_string()).collect())
        };
        config.now.references().map(of).collect()
    };
    let tls = json!({ "client_cert": KEY, "client_key": KEY });
    let upstream = json!({ "nodes": { "127.0.0.1:1": 1 }, "tls": tls });
    config.good(&[
        put(Kind::Route, "1", json!({ "uri": "/a", "plugins": mark(TEXT), "upstream": upstream })),
        put(Kind::Route, "2", json!({ "uri": "/b", "plugins": mark("$env://TEXT") })),
        put(Kind::Route, "3", json!({ "uri": "/c", "plugins": mark("see $secret://vault/1/a/text") })),
        put(Kind::Route, "4", json!({ "uri": "/d", "desc": KEY, "labels": { "a": KEY } })),
        put(Kind::Secret, "vault/1", json!({ "uri": "http://a", "prefix": "p", "token": TEXT })),
        put(Kind::Consumer, "jack", consumer(KEY)),
    ]);
    let mut expected = vec![
        ("/consumers/jack".to_owned(), vec![KEY.to_owned()]),
        ("/routes/1".to_owned(), vec![KEY.to_owned(), TEXT.to_owned()]),
    ];
    let sorted = |mut found: Vec<(String, Vec<String>)>| {
        found.sort();
        found
    };
    assert_eq!(sorted(held(&config)), expected);
    // As some encoders write it.
    for body in [consumer(KEY).to_string().replace('/', "\\/"), consumer(KEY).to_string().replace('$', "\\u0024")] {
        let mut change = put(Kind::Consumer, "jack", json!({}));
        if let milecastle_model::Change::Put(object) = &mut change {
            object.body = body.into();
        }
        config.good(&[change]);
        assert_eq!(sorted(held(&config)), expected);
    }
    config.good(&[delete(Kind::Consumer, "jack")]);
    expected.remove(0);
    assert_eq!(held(&config), expected);
    config.good(&[put(Kind::Route, "1", json!({ "uri": "/a" }))]);
    assert!(held(&config).is_empty());
}

#[test]
fn certificates_that_references_stand_for_are_known_as_they_are_in_force() {
    let (values, mut config) = config();
    let (cert, key) = pair();
    values.set(TEXT, &cert);
    values.set(KEY, &key);
    let upstream = |cert: &str, key: &str| {
        let tls = json!({ "client_cert": cert, "client_key": key });
        json!({ "nodes": { "127.0.0.1:1": 1 }, "scheme": "https", "tls": tls })
    };
    let referred = upstream(TEXT, KEY);
    config.good(&[
        put(Kind::Ssl, "1", json!({ "sni": "a.test", "cert": TEXT, "key": KEY, "client": { "ca": TEXT } })),
        put(Kind::Ssl, "2", json!({ "sni": "b.test", "cert": cert, "key": KEY })),
        put(Kind::Ssl, "3", json!({ "sni": "c.test", "cert": cert, "key": key, "certs": [TEXT], "keys": [KEY] })),
        put(Kind::Ssl, "4", json!({ "type": "client", "cert": TEXT, "key": KEY })),
        put(Kind::Ssl, "5", json!({ "sni": "d.test", "cert": "$ENV://NONE", "key": KEY })),
        put(Kind::Upstream, "1", referred.clone()),
        put(Kind::Service, "1", json!({ "upstream": referred })),
        put(Kind::Route, "1", json!({ "uri": "/1", "upstream": referred })),
        put(Kind::Route, "2", json!({ "uri": "/2", "upstream": upstream(&cert, KEY), "plugins": mark(TEXT) })),
    ]);
    let held = |config: &Config| -> BTreeMap<String, usize> {
        let of = |(key, certificates): (&Key, Vec<_>)| (key.path(), certificates.len());
        config.now.referred_certificates().map(of).collect()
    };
    let mut expected = BTreeMap::from(
        [
            ("ssls/1", 2),
            ("ssls/3", 2),
            ("ssls/4", 1),
            ("ssls/5", 0),
            ("upstreams/1", 1),
            ("services/1", 1),
            ("routes/1", 1),
        ]
        .map(|(object, count)| (format!("/{object}"), count)),
    );
    assert_eq!(held(&config), expected);
    // What replaces it and is none leaves the one in force.
    values.set(TEXT, "sp0ilt");
    assert!(!again(&mut config).is_empty());
    assert_eq!(held(&config), expected);
    config.good(&[delete(Kind::Route, "1"), put(Kind::Upstream, "1", upstream(&cert, &key))]);
    expected.retain(|object, _| !["/routes/1", "/upstreams/1"].contains(&object.as_str()));
    assert_eq!(held(&config), expected);
}

#[test]
fn what_holds_a_reference_follows_its_value_and_nothing_else_is_touched() {
    let (values, mut config) = config();
    values.set(TEXT, "one");
    config.good(&[
        put(Kind::Service, "s", json!({ "plugins": mark(TEXT) })),
        put(Kind::Route, "1", json!({ "uri": "/1", "service_id": "s" })),
        put(Kind::Route, "2", json!({ "uri": "/2", "plugins": mark("own") })),
        put(Kind::Route, "3", json!({ "uri": "/3", "plugins": mark(TEXT) })),
    ]);
    assert_eq!(
        (config.plugins("/1"), config.plugins("/3")),
        (vec!["mark:one".to_owned()], vec!["mark:one".to_owned()])
    );
    let revision = config.now.revision();
    let (before, other) = (config.route("/3").unwrap(), config.route("/2").unwrap());
    // The same value: the same instances, and so their counters.
    assert_eq!(again(&mut config), [""; 0]);
    assert!(before.chain.entries()[0].same_instance(&config.route("/3").unwrap().chain.entries()[0]));
    values.set(TEXT, "two");
    assert_eq!(again(&mut config), [""; 0]);
    assert_eq!(
        (config.plugins("/1"), config.plugins("/3")),
        (vec!["mark:two".to_owned()], vec!["mark:two".to_owned()])
    );
    assert!(!before.chain.entries()[0].same_instance(&config.route("/3").unwrap().chain.entries()[0]));
    assert_eq!(before.terms, config.route("/3").unwrap().terms, "connections that last go on");
    assert!(Arc::ptr_eq(&other, &config.route("/2").unwrap()), "it holds no reference");
    assert_eq!(config.now.revision(), revision);
}

#[test]
fn what_is_no_client_certificate_leaves_the_one_before_in_force() {
    let (values, mut config) = config();
    let [(first, first_key), (second, second_key)] = [pair(), pair()];
    let set = |cert: &str, key: &str| {
        values.set(TEXT, cert);
        values.set(KEY, key);
    };
    let upstream = |key: &str| {
        let tls = json!({ "client_cert": TEXT, "client_key": key });
        json!({ "scheme": "https", "nodes": { "127.0.0.1:1": 1 }, "tls": tls })
    };
    set(&first, &first_key);
    config.good(&[
        put(Kind::Upstream, "u", upstream(KEY)),
        put(Kind::Route, "1", json!({ "uri": "/1", "upstream": upstream(KEY) })),
    ]);
    let shown = |config: &Config| {
        let own = |path: &str| {
            let upstream = config.now.upstream_at(path).unwrap();
            config.now.client_identity(upstream).unwrap().unwrap().clone()
        };
        [own("/upstreams/u"), own("/routes/1")]
    };
    let before = shown(&config);
    for (cert, key) in [(&*second, &*first_key), ("sp0ilt", &*second_key), (&*second, "sp0ilt")] {
        set(cert, key);
        let reasons = again(&mut config);
        assert!(reasons.len() == 2 && reasons.iter().all(|reason| !reason.contains("sp0ilt")), "{reasons:?}");
        assert_eq!(shown(&config), before);
    }
    set(&second, &second_key);
    assert_eq!(again(&mut config), [""; 0]);
    assert_ne!(shown(&config), before);
    // One that leads nowhere is no fault: it is not shown, and nothing goes there.
    config.good(&[put(Kind::Upstream, "u", upstream("$secret://vault/1/none/key"))]);
    let fault = |config: &Config| {
        let present = config.now.upstream("u").unwrap();
        config.now.client_identity(present).err()
    };
    assert_eq!(fault(&config), Some(ClientCertificateFault::Unusable));
    config.good(&[put(Kind::Upstream, "u", upstream(KEY))]);
    assert_eq!(fault(&config), None);
    // Nor is one that stands for itself.
    let itself = "$secret://vault/1/itself/key";
    values.set(itself, itself);
    config.good(&[put(Kind::Upstream, "u", upstream(itself))]);
    assert_eq!(fault(&config), Some(ClientCertificateFault::Unusable));
}

#[test]
fn what_holds_no_authority_leaves_those_before_in_force() {
    let (values, mut config) = config();
    let (cert, key) = pair();
    let ssl = json!({ "sni": "a.test", "cert": cert, "key": key, "client": { "ca": TEXT } });
    values.set(TEXT, &cert);
    config.good(&[put(Kind::Ssl, "1", ssl)]);
    values.set(TEXT, "there is none in here");
    let reason = again(&mut config).remove(0);
    assert!(reason.contains("failed to validate client_cert: what a reference stands for is not"), "{reason}");
    let served = config.now.certificate("a.test").unwrap();
    assert_eq!(served.client.as_ref().unwrap().authorities.len(), 1);
}

#[test]
fn auth_common_6_4_a_credential_whose_reference_leads_nowhere_is_left_out_until_it_leads_somewhere() {
    let (values, mut config) = config();
    config.good(&[put(Kind::Consumer, "jack", consumer(KEY))]);
    let found = |config: &Config, key: &str| config.now.credential("pass", key).is_some();
    assert!(!found(&config, KEY), "a literal reference lets nobody in");
    values.set(KEY, "one");
    again(&mut config);
    assert!(found(&config, "one") && !found(&config, KEY));
    values.set(KEY, "two");
    again(&mut config);
    assert!(found(&config, "two") && !found(&config, "one"));
    values.0.lock().unwrap().clear();
    again(&mut config);
    assert!(!found(&config, "two") && !found(&config, KEY));
}

#[test]
fn a_value_that_is_refused_leaves_the_former_one_and_is_in_no_fault() {
    let (values, mut config) = config();
    values.set(TEXT, "one");
    config.good(&[put(Kind::Route, "1", json!({ "uri": "/1", "plugins": mark(TEXT) }))]);
    values.set(TEXT, "bad");
    let reason = again(&mut config).remove(0);
    assert!(reason.ends_with("it does not take what a reference stands for"), "{reason}");
    assert_eq!(config.plugins("/1"), ["mark:one"]);
    // A key that has lost its line ends: readers of PEM repeat the line that they stumble over.
    values.set(KEY, "-----BEGIN PRIVATE KEY-----sesame-----END PRIVATE KEY-----");
    let ssl = put(Kind::Ssl, "1", json!({ "sni": "a.test", "cert": KEY, "key": KEY }));
    let reason = config.step(&[ssl]).remove(0).reason;
    assert!(reason.contains("what a reference stands for is not the PEM text"), "{reason}");
}
