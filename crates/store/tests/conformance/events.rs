//! What happened, in an order that all replicas share.

use std::time::Duration;

use milecastle_store::{Event, NewEvent, Recorded, Store, Term, Topic};
use milecastle_testkit::SOON;
use serde_json::json;
use tokio::time::timeout;

use crate::home::{Home, office, on_both};

on_both!(
    ids_grow_with_the_clock,
    nothing_is_recorded_where_the_log_stands_elsewhere,
    only_a_term_that_lasts_records,
    what_was_told_is_remembered_and_forgotten,
    other_replicas_hear_of_events,
    old_events_go_from_the_oldest_on,
);

fn topic(group: Option<&str>, subject: &str) -> Topic {
    Topic { kind: "node".to_owned(), group: group.map(str::to_owned), subject: subject.to_owned() }
}

fn events(from: u64, count: u64) -> Vec<NewEvent> {
    (from..from + count).map(|n| NewEvent { topic: topic(Some("g"), "n"), data: json!({ "n": n }) }).collect()
}

/// Records `count` events after those that there are; gives the id of the newest one.
async fn record(store: &Store, term: Term<'_>, from: u64, count: u64) -> u64 {
    let last = store.event_told().await.unwrap().last;
    match store.event_record(term, last, &events(from, count), &[]).await.unwrap() {
        Recorded::Done(last) => last,
        other => panic!("{other:?}"),
    }
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.data["n"].as_u64().unwrap()).collect()
}

async fn ids_grow_with_the_clock(home: Home) {
    let store = home.open().await;
    let term = office(&store).await;
    let begun = store.now() * 1000;
    // More than one statement holds.
    let first = record(&store, term, 0, 450).await;
    let last = record(&store, term, 450, 1).await;
    assert!(first >= begun + 449 && last > first, "{begun} {first} {last}");
    let page = store.event_list(0, 1000).await.unwrap();
    assert_eq!((page.floor, numbers(&page.events)), (0, (0..451).collect()));
    assert!(page.events.is_sorted_by(|one, next| one.id < next.id));
    let one = &page.events[0];
    assert!(one.id >= begun && one.topic == topic(Some("g"), "n"));
    let next = store.event_list(one.id, 2).await.unwrap();
    assert_eq!(numbers(&next.events), [1, 2]);
    assert_eq!(store.event_list(last, 2).await.unwrap().events, []);
    // Ids are no less than the clock, and no less than what there is where the clock was ahead.
    home.sql("UPDATE event_log SET last = last + 1000000000").await;
    assert!(record(&store, term, 0, 1).await > last + 1_000_000_000);
}

async fn nothing_is_recorded_where_the_log_stands_elsewhere(home: Home) {
    let store = home.open().await;
    let term = office(&store).await;
    let last = record(&store, term, 0, 1).await;
    let told = [(topic(None, "x"), Some(json!(1)))];
    let elsewhere = store.event_record(term, last - 1, &events(1, 1), &told).await.unwrap();
    assert_eq!(elsewhere, Recorded::Elsewhere);
    let told = store.event_told().await.unwrap();
    assert_eq!((told.last, told.states.len()), (last, 0));
}

async fn only_a_term_that_lasts_records(home: Home) {
    let store = home.open().await;
    let term = office(&store).await;
    let other = Term { epoch: term.epoch + 1, ..term };
    assert_eq!(store.event_record(other, 0, &events(0, 1), &[]).await.unwrap(), Recorded::TermOver);
    record(&store, term, 0, 3).await;
    assert_eq!(store.event_trim(other, Duration::ZERO, 1).await.unwrap(), 0);
    assert_eq!(store.event_list(0, 10).await.unwrap().events.len(), 3);
}

async fn what_was_told_is_remembered_and_forgotten(home: Home) {
    let store = home.open().await;
    let term = office(&store).await;
    let mut alarm = topic(Some("g"), "a");
    alarm.kind = "alarm".to_owned();
    let all = [topic(Some("g"), "n"), topic(None, "n"), alarm.clone()];
    let tell = async |states: &[(Topic, Option<serde_json::Value>)]| {
        let last = store.event_told().await.unwrap().last;
        // Remembering alone is no event.
        assert_eq!(store.event_record(term, last, &[], states).await.unwrap(), Recorded::Done(last));
        store.event_told().await.unwrap().states
    };
    let states = tell(&all.clone().map(|topic| (topic, Some(json!({ "s": 1 }))))).await;
    assert_eq!(states.keys().cloned().collect::<std::collections::BTreeSet<_>>(), all.clone().into());
    let [of_a_group, of_none, _] = all;
    let states = tell(&[(of_a_group.clone(), None), (of_none.clone(), Some(json!({ "s": 2 })))]).await;
    assert_eq!((states.get(&of_a_group), &states[&of_none]), (None, &json!({ "s": 2 })));
    assert_eq!(store.event_told_of("alarm").await.unwrap(), [(alarm, json!({ "s": 1 }))].into());
}

async fn other_replicas_hear_of_events(home: Home) {
    let (one, other) = (home.open().await, home.open().await);
    let term = office(&one).await;
    let mut heard = other.event_watch();
    assert_eq!(*heard.borrow_and_update(), 0);
    let last = record(&one, term, 0, 2).await;
    timeout(SOON, heard.wait_for(|newest| *newest == last)).await.unwrap().unwrap();
    assert_eq!(other.event_list(0, 10).await.unwrap().events.len(), 2);
}

async fn old_events_go_from_the_oldest_on(home: Home) {
    let store = home.open().await;
    let term = office(&store).await;
    record(&store, term, 0, 2500).await;
    let day = Duration::from_secs(86_400);
    assert_eq!(store.event_trim(term, day, 10_000).await.unwrap(), 0);
    // More than one transaction forgets.
    assert_eq!(store.event_trim(term, day, 100).await.unwrap(), 2400);
    let page = store.event_list(0, 1000).await.unwrap();
    assert_eq!(numbers(&page.events), (2400..2500).collect::<Vec<_>>());
    assert!(page.floor > 0 && page.floor < page.events[0].id);
    // As if two of them were two days old: ids tell the time.
    let [first, second] = [0, 1].map(|n| page.events[n].id);
    for id in [first, second] {
        home.sql(&format!("UPDATE event SET id = id - 172800000 WHERE id = {id}")).await;
    }
    assert_eq!(store.event_trim(term, day, 10_000).await.unwrap(), 2);
    assert_eq!(store.event_list(0, 1000).await.unwrap().events.len(), 98);
    // The newest id is not used again, whatever is forgotten.
    assert_eq!(store.event_trim(term, day, 0).await.unwrap(), 98);
    let last = store.event_told().await.unwrap().last;
    assert!(record(&store, term, 0, 1).await > last);
}
