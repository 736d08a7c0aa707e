//! Samples of what nodes have counted.

use std::time::Duration;

use milecastle_store::{DEFAULT_GROUP, NodeReport, SampleFilter, Sampling, Store};
use serde_json::json;

use crate::home::{Home, nodes, office, on_both};

on_both!(connected_nodes_are_sampled_once_a_step, samples_become_fewer_and_end);

const SAMPLING: Sampling = Sampling {
    silence: Duration::from_secs(30),
    fine: Duration::from_secs(60),
    coarse: Duration::from_secs(600),
    coarse_step: 120,
};

/// A node has said that it counted so much, at a moment.
async fn report(store: &Store, node: &str, count: u64, at: u64) {
    let report = NodeReport {
        host: String::new(),
        version: String::new(),
        boot: "b".to_owned(),
        reported_at: at,
        lineage: String::new(),
        revision: 0,
        digest: Vec::new(),
        rejected: json!({}),
        traffic: Some(json!(count)),
        connected: node != "away",
        member: String::new(),
    };
    store.node_report(&[(DEFAULT_GROUP.to_owned(), node.to_owned(), report)]).await.unwrap();
}

/// Steps, nodes and counts of all samples, page by page.
async fn seen(store: &Store, filter: &SampleFilter) -> Vec<(u64, String, u64)> {
    let (mut found, mut last) = (Vec::new(), (0, String::new(), String::new()));
    loop {
        let page = store.node_sample_list(filter, (last.0, &last.1, &last.2), 2).await.unwrap();
        let Some(end) = page.last() else { return found };
        last = (end.at, end.group.clone(), end.node.clone());
        found.extend(page.into_iter().map(|one| (one.at, one.node, one.traffic.as_u64().unwrap())));
    }
}

fn all() -> SampleFilter {
    SampleFilter { until: u64::MAX >> 1, step: 1, ..SampleFilter::default() }
}

async fn connected_nodes_are_sampled_once_a_step(home: Home) {
    let store = home.open().await;
    nodes(&store, &["a", "b", "away", "silent"]).await;
    let term = office(&store).await;
    let step = 1_000_000_020;
    for (node, at) in [("a", step), ("b", step - 30), ("away", step), ("silent", step - 31)] {
        report(&store, node, 1, at).await;
    }
    assert_eq!(store.node_sample_take(term, step, &SAMPLING).await.unwrap(), 2);
    report(&store, "a", 2, step + 1).await;
    assert_eq!(store.node_sample_take(term, step, &SAMPLING).await.unwrap(), 0);
    report(&store, "b", 3, step + 20).await;
    assert_eq!(store.node_sample_take(term, step + 30, &SAMPLING).await.unwrap(), 2);
    let one = |at: u64, node: &str, count| (at, node.to_owned(), count);
    let expected = [one(step, "a", 1), one(step, "b", 1), one(step + 30, "a", 2), one(step + 30, "b", 3)];
    assert_eq!(seen(&store, &all()).await, expected);
    assert_eq!(seen(&store, &SampleFilter { from: step + 1, ..all() }).await, expected[2..]);
    assert_eq!(seen(&store, &SampleFilter { step: 100_000_003, ..all() }).await, []);
    let of_b = SampleFilter { node: Some("b".to_owned()), groups: Some(vec![DEFAULT_GROUP.to_owned()]), ..all() };
    assert_eq!(seen(&store, &of_b).await, [one(step, "b", 1), one(step + 30, "b", 3)]);
    assert_eq!(seen(&store, &SampleFilter { groups: Some(vec!["other".to_owned()]), ..all() }).await, []);
    assert_eq!(seen(&store, &SampleFilter { groups: Some(vec![]), ..all() }).await, []);
    // Whoever leads no longer takes none.
    let over = milecastle_store::Term { epoch: term.epoch + 1, ..term };
    assert_eq!(store.node_sample_take(over, step + 60, &SAMPLING).await.unwrap(), 0);
}

async fn samples_become_fewer_and_end(home: Home) {
    let store = home.open().await;
    nodes(&store, &["a"]).await;
    let term = office(&store).await;
    let start = 1_200_000_000;
    for step in (start..=start + 900).step_by(30) {
        report(&store, "a", 1, step).await;
        assert_eq!(store.node_sample_take(term, step, &SAMPLING).await.unwrap(), 1);
    }
    let steps: Vec<u64> = seen(&store, &all()).await.iter().map(|(at, ..)| at - start).collect();
    assert_eq!(steps, [360, 480, 600, 720, 840, 870, 900]);
}
