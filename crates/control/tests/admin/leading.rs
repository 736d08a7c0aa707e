//! What only the leader does, by whoever leads.

use crate::gateway::{Gateway, on_both};
use milecastle_model::{Key, Kind};
use milecastle_settings::{History, Time};
use milecastle_store::{ChangeSet, DEFAULT_GROUP, NewGroup, Op, Put, Source};
use milecastle_testkit::eventually;
use serde_json::json;

on_both!(a_leader_trims_the_history, lifetimes_end_under_the_next_leader);

async fn floor(gw: &Gateway) -> u64 {
    gw.store.group_get(DEFAULT_GROUP).await.unwrap().floor
}

async fn a_leader_trims_the_history(gw: Gateway) {
    for n in 0..10 {
        gw.done(&format!(r#"PUT /upstreams/1 {{"nodes":{{}},"retries":{n}}}"#)).await;
    }
    assert_eq!((gw.revision().await, floor(&gw).await), (10, 0));
    let gw = gw.next_leader(History { changes: 3, min_changes: 1, ..History::default() }).await;
    eventually("what is too much is forgotten", async || floor(&gw).await == 7).await;
    let left = gw.store.history_list(DEFAULT_GROUP, None, 100).await.unwrap();
    assert_eq!(left.iter().map(|info| info.revision).collect::<Vec<_>>(), [10, 9, 8]);
    assert_eq!(gw.send("GET /upstreams/1").await.json().unwrap()["value"]["retries"], 9);
}

async fn lifetimes_end_under_the_next_leader(gw: Gateway) {
    gw.done(r#"PUT /upstreams/1?ttl=60 {"nodes":{}}"#).await;
    let gw = gw.next_leader(History::default()).await;
    gw.advance(61);
    eventually("the lifetime ended", async || gw.send("GET /upstreams/1").await.status == 404).await;
}

#[tokio::test]
async fn lifetimes_end_while_something_is_trimmed() {
    let gw = Gateway::postgres().await;
    gw.done(r#"PUT /upstreams/1?ttl=60 {"nodes":{}}"#).await;
    let _held = gw.database().unwrap().hold("LOCK TABLE idempotency IN SHARE MODE").unwrap();
    // A trimming that waited in vain comes again soon.
    let gw = gw.next_leader(History { interval: Time::millis(100), ..History::default() }).await;
    let waits = || {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        gw.database().unwrap().query(sql).unwrap().trim() != "0"
    };
    eventually("the trimming waits", async || waits()).await;
    gw.advance(61);
    eventually("the lifetime ended meanwhile", async || gw.send("GET /upstreams/1").await.status == 404 && waits())
        .await;
}

#[tokio::test]
async fn a_rollout_that_waits_for_its_group_keeps_no_other_one_waiting() {
    let gw = Gateway::postgres().await;
    gw.by().group_create(&NewGroup::named("other")).await.unwrap();
    for group in [DEFAULT_GROUP, "other"] {
        // What nodes count is noted every second, for which the group is held.
        let policy = json!({ "strategy": "canary", "baseline": "1s" });
        gw.by().rollout_hold(group).await.unwrap().set(&policy, true, &json!({})).await.unwrap();
    }
    let _held = gw.database().unwrap().hold("SELECT 1 FROM gateway_group WHERE id = 'default' FOR UPDATE").unwrap();
    let waits_since = || {
        let sql = "SELECT min(xact_start) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        gw.database().unwrap().query(sql).unwrap().trim().to_owned()
    };
    let mut round = 0;
    eventually("another one ends within one wait", async || {
        let since = waits_since();
        if since.is_empty() {
            return false;
        }
        round += 1;
        let put = Put::new(Key::new(Kind::Upstream, "1"), json!({ "nodes": {}, "retries": round }).to_string());
        let set = ChangeSet::new(Source::Api, vec![Op::Put(put)]);
        gw.by().publish("other", set).await.unwrap();
        // There is no node that it could harm.
        eventually("it ends", async || gw.store.rollout_get("other").await.unwrap().head.gate.is_none()).await;
        waits_since() == since
    })
    .await;
}
