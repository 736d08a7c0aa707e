//! What nodes have logged, in one place.

use std::time::Duration;

use milecastle_store::{DEFAULT_GROUP, NodeWarning, Store, WarningFilter};

use crate::home::{Home, ann, nodes, office, on_both};

on_both!(
    a_line_is_one_row_however_often_it_is_written,
    filters_find_lines,
    old_lines_go,
    of_each_node_those_stay_that_were_written_last,
);

fn line(node: &str, text: &str, boot: &str, times: u64, last_at: u64) -> NodeWarning {
    NodeWarning {
        group: DEFAULT_GROUP.to_owned(),
        node: node.to_owned(),
        is_error: text.starts_with("error"),
        target: "m".to_owned(),
        text: text.to_owned(),
        boot: boot.to_owned(),
        times,
        first_at: last_at,
        last_at,
    }
}

/// What a filter finds, in short.
async fn found(store: &Store, filter: WarningFilter) -> Vec<String> {
    let lines = store.node_warning_list(&filter, 100).await.unwrap();
    lines.iter().map(|line| format!("{} {}x{}", line.node, line.text, line.times)).collect()
}

async fn a_line_is_one_row_however_often_it_is_written(home: Home) {
    let store = home.open().await;
    nodes(&store, &["a", "b"]).await;
    let all = || found(&store, WarningFilter::default());
    store
        .node_warn(&[line("a", "x", "1", 2, 10), line("b", "x", "1", 1, 11), line("gone", "x", "1", 1, 12)], 10)
        .await
        .unwrap();
    assert_eq!(all().await, ["b xx1", "a xx2"]);
    // Told again, told on, and told by the next run of the process.
    store.node_warn(&[line("a", "x", "1", 2, 10)], 10).await.unwrap();
    store.node_warn(&[line("a", "x", "1", 5, 20)], 10).await.unwrap();
    store.node_warn(&[line("a", "x", "2", 1, 30)], 10).await.unwrap();
    store.node_warn(&[line("a", "x", "2", 2, 31)], 10).await.unwrap();
    assert_eq!(all().await, ["a xx7", "b xx1"]);
    let lines = store.node_warning_list(&WarningFilter::default(), 1).await.unwrap();
    assert_eq!((lines.len(), lines[0].first_at, lines[0].last_at), (1, 10, 31));
    // It goes with its node.
    assert!(store.by(ann()).node_delete(DEFAULT_GROUP, "a").await.unwrap());
    assert_eq!(all().await, ["b xx1"]);
}

async fn filters_find_lines(home: Home) {
    let store = home.open().await;
    nodes(&store, &["a", "b"]).await;
    let lines =
        [line("a", "error: 100% full", "1", 1, 10), line("a", "slow", "1", 1, 20), line("b", "slow", "1", 1, 30)];
    store.node_warn(&lines, 10).await.unwrap();
    let check = async |filter: WarningFilter, expected: &[&str]| {
        assert_eq!(found(&store, filter.clone()).await, expected, "{filter:?}");
    };
    let none = WarningFilter::default;
    check(WarningFilter { is_error: Some(true), ..none() }, &["a error: 100% fullx1"]).await;
    check(WarningFilter { is_error: Some(false), node: Some("a".to_owned()), ..none() }, &["a slowx1"]).await;
    check(WarningFilter { since: Some(20), ..none() }, &["b slowx1", "a slowx1"]).await;
    check(WarningFilter { text: Some("0% f".to_owned()), ..none() }, &["a error: 100% fullx1"]).await;
    check(WarningFilter { text: Some("%low".to_owned()), ..none() }, &[]).await;
    check(WarningFilter { groups: Some(vec![]), ..none() }, &[]).await;
    check(WarningFilter { groups: Some(vec!["other".to_owned()]), ..none() }, &[]).await;
    let groups = Some(vec!["other".to_owned(), DEFAULT_GROUP.to_owned()]);
    check(WarningFilter { groups, since: Some(25), ..none() }, &["b slowx1"]).await;
}

async fn old_lines_go(home: Home) {
    let store = home.open().await;
    nodes(&store, &["a", "b"]).await;
    let now = store.now();
    let lines = [line("a", "old", "1", 1, 10), line("a", "1", "1", 1, now - 3), line("a", "2", "1", 1, now - 2)];
    store.node_warn(&lines, 10).await.unwrap();
    store.node_warn(&[line("b", "3", "1", 1, now - 1)], 10).await.unwrap();
    let term = office(&store).await;
    let day = Duration::from_secs(86_400);
    assert_eq!(store.node_warning_trim(term, day).await.unwrap(), 1);
    assert_eq!(found(&store, WarningFilter::default()).await, ["b 3x1", "a 2x1", "a 1x1"]);
}

async fn of_each_node_those_stay_that_were_written_last(home: Home) {
    let store = home.open().await;
    nodes(&store, &["a", "b"]).await;
    store.node_warn(&[line("b", "1", "1", 1, 1), line("b", "2", "1", 1, 2)], 2).await.unwrap();
    let lines: Vec<_> = (10..15).map(|n| line("a", &n.to_string(), "1", 1, n)).collect();
    store.node_warn(&lines, 2).await.unwrap();
    assert_eq!(found(&store, WarningFilter::default()).await, ["a 14x1", "a 13x1", "b 2x1", "b 1x1"]);
    // One that is told again is new again.
    store.node_warn(&[line("a", "13", "1", 2, 20), line("a", "20", "1", 1, 20)], 2).await.unwrap();
    assert_eq!(found(&store, WarningFilter::default()).await, ["a 13x2", "a 20x1", "b 2x1", "b 1x1"]);
}
