//! Equal objects give an equal snapshot, whatever the order of the changes that led there.

use super::{compiler, delete, find, mark, put};
use crate::Snapshot;
use milecastle_model::{Change, Kind};
use proptest::prelude::*;
use serde_json::{Value, json};

/// What the outside can tell of a snapshot.
fn observe(snapshot: &Snapshot) -> Vec<String> {
    let mut seen = Vec::new();
    for host in ["", "h0", "h1"] {
        for path in ["/p0", "/p1", "/p2", "/other"] {
            let route = find(snapshot, host, path).map(|route| {
                let plugins: Vec<Value> = route.chain.entries().iter().map(|built| built.config().clone()).collect();
                format!("{:?} {:?} {plugins:?} {:?}", route.info, route.outcome, route.upstream)
            });
            seen.push(format!("{host}{path} {route:?}"));
        }
    }
    for key in ["k0", "k1", "k2"] {
        let found = snapshot.credential("pass", key);
        seen.push(format!("{key} {:?}", found.map(|found| (found.consumer.name.clone(), found.credential_id))));
    }
    for name in ["c0", "c1"] {
        let overlay =
            snapshot.consumer(name).map(|found| found.overlay.iter().map(|b| b.config().clone()).collect::<Vec<_>>());
        seen.push(format!("{name} {overlay:?}"));
    }
    seen.push(format!("{:?} {}", snapshot.global(), snapshot.has_credentials("pass")));
    seen.push(format!("{:?}", snapshot.upstream("u").map(|upstream| upstream.nodes.clone())));
    seen
}

fn change() -> impl Strategy<Value = Change> {
    let n = 0..3u8;
    prop_oneof![
        4 => (n.clone(), n.clone(), any::<Option<bool>>(), any::<bool>(), -1..2i8).prop_map(|(id, path, service, config, priority)| {
            let mut body = json!({ "uri": format!("/p{path}*"), "priority": priority, "upstream_id": "u" });
            if let Some(own) = service {
                body["service_id"] = json!(if own { "s0" } else { "s1" });
            }
            if config {
                body["plugin_config_id"] = json!("p");
            }
            put(Kind::Route, &format!("r{id}"), body)
        }),
        1 => n.clone().prop_map(|id| delete(Kind::Route, &format!("r{id}"))),
        2 => (0..2u8, n.clone()).prop_map(|(id, host)| {
            put(Kind::Service, &format!("s{id}"), json!({ "hosts": [format!("h{host}")], "plugins": mark(&format!("s{host}")) }))
        }),
        1 => (0..2u8).prop_map(|id| delete(Kind::Service, &format!("s{id}"))),
        1 => n.clone().prop_map(|text| put(Kind::PluginConfig, "p", json!({ "plugins": mark(&format!("p{text}")) }))),
        1 => Just(delete(Kind::PluginConfig, "p")),
        2 => (0..2u8, n.clone(), any::<bool>()).prop_map(|(id, key, group)| {
            let mut body = json!({ "username": format!("c{id}"), "plugins": { "pass": { "key": format!("k{key}") } } });
            if group {
                body["group_id"] = json!("g");
            }
            put(Kind::Consumer, &format!("c{id}"), body)
        }),
        1 => (0..2u8).prop_map(|id| delete(Kind::Consumer, &format!("c{id}"))),
        1 => (0..2u8, n.clone()).prop_map(|(id, key)| {
            put(Kind::Credential, &format!("c{id}/credentials/x"), json!({ "plugins": { "pass": { "key": format!("k{key}") } } }))
        }),
        1 => (0..2u8).prop_map(|id| delete(Kind::Credential, &format!("c{id}/credentials/x"))),
        1 => n.clone().prop_map(|text| put(Kind::ConsumerGroup, "g", json!({ "plugins": mark(&format!("g{text}")) }))),
        1 => Just(delete(Kind::ConsumerGroup, "g")),
        1 => (0..2u8, n).prop_map(|(id, text)| put(Kind::GlobalRule, &format!("{id}"), json!({ "plugins": mark(&format!("{text}")) }))),
        1 => (0..2u8).prop_map(|id| delete(Kind::GlobalRule, &format!("{id}"))),
        1 => Just(put(Kind::Upstream, "u", json!({ "nodes": { "127.0.0.1:80": 1 } }))),
        1 => Just(delete(Kind::Upstream, "u")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn step_by_step_and_at_once_are_the_same(steps in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..12)) {
        let compiler = compiler();
        let mut stepwise = compiler.build("line", 0, Vec::new()).0;
        for (revision, changes) in (1..).zip(&steps) {
            stepwise = compiler.apply(&stepwise, revision, changes).0;
        }
        let objects = stepwise.all_objects().cloned().collect();
        let (at_once, rejected) = compiler.build("line", stepwise.revision(), objects);
        prop_assert!(rejected.is_empty(), "{rejected:?}");
        prop_assert_eq!(observe(&stepwise), observe(&at_once));
    }
}
