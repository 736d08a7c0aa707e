//! The rules that hold for every algorithm, and what is hashed.

use super::method::Parts;
use super::{Averages, Balancer, Selection};
use crate::counters::WorkerCounters;
use http::HeaderValue;
use milecastle_matching::{NoVars, Var, VarName};
use milecastle_model::{Key, Kind, Object};
use milecastle_plugin_api::{NoSecrets, Registry, Shared};
use milecastle_snapshot::{CompiledNode, CompiledUpstream, Compiler};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Nodes as they are compiled, from `host:port`, weight and priority.
pub(super) fn nodes(nodes: &[(&str, u32, i32)]) -> Vec<CompiledNode> {
    let node = |(at, weight, priority): &(&str, u32, i32)| {
        let (host, port) = at.rsplit_once(':').unwrap();
        let host = host.trim_matches(['[', ']']);
        CompiledNode {
            host: host.into(),
            addr: host.parse().ok(),
            port: port.parse().unwrap(),
            weight: *weight,
            priority: *priority,
            host_header: HeaderValue::from_str(at).unwrap(),
        }
    };
    nodes.iter().map(node).collect()
}

/// An upstream of nodes on 127.0.0.1, from port, weight and priority, with more attributes.
fn upstream(nodes: &[(u16, u32, i32)], more: Value) -> Arc<CompiledUpstream> {
    let node = |(port, weight, priority): &(u16, u32, i32)| json!({ "host": "127.0.0.1", "port": port, "weight": weight, "priority": priority });
    let mut body = json!({ "nodes": nodes.iter().map(node).collect::<Vec<_>>() });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let object = Object { key: Key::new(Kind::Upstream, "u"), body: body.to_string().into(), created: 1, modified: 1 };
    let registry = Registry::new(&[], Map::new(), Arc::new(Shared::default()), Arc::new(NoSecrets));
    let (snapshot, rejected) = Compiler::new(Arc::new(registry)).build("line", 1, vec![object]);
    assert!(rejected.is_empty(), "{rejected:?}");
    snapshot.upstream("u").unwrap().clone()
}

fn balancer(upstream: &Arc<CompiledUpstream>, previous: Option<&Balancer>) -> Balancer {
    let (averages, counters) = (Averages::default(), WorkerCounters::default());
    let parts = Parts { averages: &averages, checker: None, counters: &counters, ring_points: 1 << 20, seed: 0 };
    Balancer::new(upstream, previous, parts)
}

/// All algorithms, each with what it needs.
fn algorithms() -> [Value; 4] {
    [
        json!({ "type": "roundrobin" }),
        json!({ "type": "chash", "key": "remote_addr" }),
        json!({ "type": "least_conn" }),
        json!({ "type": "ewma" }),
    ]
}

/// The places that one request is given, one after the other.
fn way(balancer: &Balancer) -> Vec<usize> {
    let mut selection = Selection::default();
    std::iter::from_fn(|| balancer.pick(&mut selection, &NoVars, || 0x8000_0000_4000_0000)).collect()
}

#[test]
fn each_node_is_tried_once_tier_by_tier() {
    let nodes = [(1, 1, -1), (2, 3, 5), (3, 1, 0), (4, 2, 5), (5, 1, 0), (6, 9, 5)];
    for algorithm in algorithms() {
        let way = way(&balancer(&upstream(&nodes, algorithm.clone()), None));
        let priorities: Vec<i32> = way.iter().map(|place| nodes[*place].2).collect();
        assert_eq!(priorities, [5, 5, 5, 0, 0, -1], "{algorithm}");
        let mut places = way;
        places.sort_unstable();
        assert_eq!(places, [0, 1, 2, 3, 4, 5], "{algorithm}");
    }
}

#[test]
fn a_picked_node_holds_no_version_of_its_upstream() {
    for (more, own_host) in [
        (json!({}), None),
        (json!({ "pass_host": "node" }), Some("127.0.0.1:8080")),
        (json!({ "pass_host": "rewrite", "upstream_host": "inner.test" }), Some("inner.test")),
    ] {
        let upstream = upstream(&[(8080, 1, 0)], more);
        let picked = balancer(&upstream, None).picked(0);
        let version = Arc::downgrade(&upstream);
        drop(upstream);
        assert_eq!(version.strong_count(), 0);
        assert_eq!(&**picked.names.host(0), "127.0.0.1");
        assert_eq!(picked.names.own_host(0).map(|host| host.to_str().unwrap()), own_host);
    }
}

#[test]
fn weight_zero_is_not_chosen_beside_others() {
    for algorithm in algorithms() {
        assert_eq!(way(&balancer(&upstream(&[(1, 0, 0), (2, 1, 0), (3, 0, 0)], algorithm), None)), [1]);
    }
}

#[test]
fn among_zeros_shares_are_equal_but_a_ring_is_empty() {
    let chosen = |algorithm: Value| way(&balancer(&upstream(&[(1, 0, 0), (2, 0, 0)], algorithm), None)).len();
    assert_eq!(algorithms().map(chosen), [2, 0, 2, 2]);
}

#[test]
fn a_single_node_is_used_whatever_its_weight() {
    for algorithm in algorithms() {
        assert_eq!(way(&balancer(&upstream(&[(1, 0, 0)], algorithm), None)), [0]);
    }
}

#[test]
fn an_unknown_algorithm_gives_no_node() {
    let upstream = upstream(&[(1, 1, 0), (2, 1, 0)], json!({ "type": "none" }));
    assert!(way(&balancer(&upstream, None)).is_empty());
}

#[test]
fn requests_in_flight_survive_a_change_of_the_nodes() {
    let least = json!({ "type": "least_conn" });
    let one = balancer(&upstream(&[(2, 1, 0)], least.clone()), None);
    // A single node is counted too.
    let addr = ([127, 0, 0, 1], 2).into();
    let leases = [one.lease(0, addr), one.lease(0, addr)];
    assert!(leases.iter().all(Option::is_some));
    let two = balancer(&upstream(&[(1, 1, 0), (2, 1, 0)], least), Some(&one));
    let pick = || two.pick(&mut Selection::default(), &NoVars, || 0).unwrap();
    assert_eq!([pick(), pick(), pick()], [0, 0, 0]);
    drop(leases);
    assert_eq!([pick(), pick()], [1, 0]);
}

/// The place of a request with these variables, among four nodes.
fn place(more: Value, variables: &[(&str, &'static str)]) -> usize {
    let nodes = [(1, 1, 0), (2, 1, 0), (3, 1, 0), (4, 1, 0)];
    let mut algorithm = json!({ "type": "chash" });
    algorithm.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let known = |name: &VarName| {
        variables.iter().find(|(known, _)| *known == name.as_str()).map(|(_, value)| Var::from(*value))
    };
    balancer(&upstream(&nodes, algorithm), None).pick(&mut Selection::default(), &known, || 0).unwrap()
}

#[test]
fn the_key_is_what_hash_on_says() {
    let by_address = |address: &'static str| place(json!({ "key": "remote_addr" }), &[("remote_addr", address)]);
    let texts = ["a", "b", "d", "/hello", "session-42"];
    assert!((0..4).all(|wanted| texts.iter().any(|text| by_address(text) == wanted)), "the texts tell keys apart");
    #[rustfmt::skip]
    let table = [
        (json!({ "key": "uri" }), "uri"), (json!({ "key": "arg_id" }), "arg_id"),
        (json!({ "hash_on": "header", "key": "X-User" }), "http_X-User"),
        (json!({ "hash_on": "cookie", "key": "sid" }), "cookie_sid"),
        (json!({ "hash_on": "consumer" }), "consumer_name"),
        (json!({ "hash_on": "vars_combinations", "key": "$arg_id" }), "arg_id"),
        (json!({ "hash_on": "vars_combinations", "key": "${arg_id}$arg_none" }), "arg_id"),
    ];
    for (more, variable) in table {
        for text in texts {
            let given = place(more.clone(), &[(variable, text), ("remote_addr", "192.0.2.1")]);
            assert_eq!(given, by_address(text), "{more}");
            // Without the value it is the client's address.
            assert_eq!(place(more.clone(), &[("remote_addr", text)]), by_address(text), "{more}");
        }
    }
    let combined = json!({ "hash_on": "vars_combinations", "key": "$host-${arg_id ?? none}" });
    assert_eq!(place(combined.clone(), &[("host", "h"), ("arg_id", "1")]), by_address("h-1"));
    assert_eq!(place(combined.clone(), &[("host", "h")]), by_address("h-none"));
    // A fall-back is a value.
    assert_eq!(place(combined, &[("remote_addr", "192.0.2.1")]), by_address("-none"));
}

#[test]
fn a_request_keeps_its_key_over_all_tries() {
    let nodes = [(1980, 1, 0), (1981, 1, 0), (1982, 2, 0)];
    let balancer = balancer(&upstream(&nodes, json!({ "type": "chash", "key": "uri" })), None);
    let uri = |text: &'static str| move |_: &VarName| Some(Var::from(text));
    let mut selection = Selection::default();
    assert_eq!(balancer.pick(&mut selection, &uri("jack"), || 0), Some(2));
    assert_eq!(balancer.pick(&mut selection, &uri("session-42"), || 0), Some(1));
    assert_eq!(balancer.pick(&mut selection, &uri("session-42"), || 0), Some(0));
    assert_eq!(balancer.pick(&mut selection, &uri("session-42"), || 0), None);
}

proptest! {
    #[test]
    fn a_way_holds_every_node_that_can_be_chosen_once(
        nodes in prop::collection::vec((0_u32..4, -1_i32..2), 2..80), algorithm in 0_usize..4,
    ) {
        let listed: Vec<(u16, u32, i32)> =
            (1..).zip(&nodes).map(|(port, (weight, priority))| (port, *weight, *priority)).collect();
        let way = way(&balancer(&upstream(&listed, algorithms()[algorithm].clone()), None));
        let tier_is_zero = |priority: i32| nodes.iter().filter(|node| node.1 == priority).all(|node| node.0 == 0);
        let expected = nodes.iter().filter(|(weight, priority)| {
            *weight > 0 || (algorithm != 1 && tier_is_zero(*priority))
        });
        prop_assert_eq!(way.len(), expected.count());
        prop_assert!(way.iter().enumerate().all(|(n, place)| !way[..n].contains(place)));
        prop_assert!(way.windows(2).all(|pair| nodes[pair[0]].1 >= nodes[pair[1]].1));
    }
}
