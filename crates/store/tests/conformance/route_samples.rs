//! Samples of what nodes have told of their routes.

use std::time::Duration;

use milecastle_store::{RouteSample, RouteSampleFilter, Store, Term};
use serde_json::json;

use crate::home::{Home, office, on_both};

on_both!(samples_of_routes_are_written_once_and_read_in_order, samples_of_routes_end);

fn sample(span: u64, at: u64, group: &str, member: &str, nodes: u64) -> RouteSample {
    let (group, member) = (group.to_owned(), member.to_owned());
    RouteSample { span, at, group, member, nodes, covered_ms: nodes * 1000, routes: json!({ "r": nodes }) }
}

/// All of one length, page by page.
async fn seen(store: &Store, filter: &RouteSampleFilter) -> Vec<RouteSample> {
    let (mut found, mut last) = (Vec::new(), (0, String::new(), String::new()));
    loop {
        let page = store.route_sample_list(filter, (last.0, &last.1, &last.2), 2).await.unwrap();
        let Some(end) = page.last() else { return found };
        last = (end.at, end.group.clone(), end.member.clone());
        found.extend(page);
    }
}

fn of(span: u64) -> RouteSampleFilter {
    RouteSampleFilter { span, until: u64::MAX >> 1, ..RouteSampleFilter::default() }
}

async fn samples_of_routes_are_written_once_and_read_in_order(home: Home) {
    let store = home.open().await;
    let first = sample(30, 60, "a", "m1", 1);
    let others = [sample(30, 60, "a", "m2", 2), sample(30, 60, "b", "m1", 3), sample(30, 90, "a", "m1", 4)];
    let longer = sample(300, 300, "a", "m1", 5);
    store.route_sample_put(&[]).await.unwrap();
    store.route_sample_put(&[others[2].clone(), longer.clone(), first.clone()]).await.unwrap();
    store.route_sample_put(&others).await.unwrap();
    let all = [std::slice::from_ref(&first), &others[..]].concat();
    assert_eq!(seen(&store, &of(30)).await, all);
    assert_eq!(seen(&store, &of(300)).await, [longer]);
    assert_eq!(seen(&store, &RouteSampleFilter { after: 60, ..of(30) }).await, all[3..]);
    assert_eq!(seen(&store, &RouteSampleFilter { until: 60, ..of(30) }).await, all[..3]);
    let groups = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(seen(&store, &RouteSampleFilter { groups: groups(&["b"]), ..of(30) }).await, [others[1].clone()]);
    assert_eq!(seen(&store, &RouteSampleFilter { groups: groups(&[]), ..of(30) }).await, []);
    // Whoever does not know whether it was written writes it again.
    let more = RouteSample { nodes: 9, covered_ms: 9, routes: json!({}), ..first };
    store.route_sample_put(std::slice::from_ref(&more)).await.unwrap();
    assert_eq!(seen(&store, &of(30)).await, [&[more], &all[1..]].concat());
}

async fn samples_of_routes_end(home: Home) {
    let store = home.open().await;
    let term = office(&store).await;
    let now = store.now();
    let ago = |seconds: u64, span| sample(span, now - seconds, "a", "m", 1);
    store.route_sample_put(&[ago(100, 30), ago(500, 30), ago(500, 300), ago(5000, 300)]).await.unwrap();
    let (fine, coarse) = ((30, Duration::from_secs(300)), Duration::from_secs(3000));
    let over = Term { epoch: term.epoch + 1, ..term };
    assert_eq!(store.route_sample_trim(over, fine, coarse).await.unwrap(), 0);
    assert_eq!(store.route_sample_trim(term, fine, coarse).await.unwrap(), 2);
    assert_eq!(seen(&store, &of(30)).await, [ago(100, 30)]);
    assert_eq!(seen(&store, &of(300)).await, [ago(500, 300)]);
}
