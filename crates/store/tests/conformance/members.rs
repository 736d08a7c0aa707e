//! The replicas of the control plane.

use std::time::Duration;

use milecastle_store::{
    DEFAULT_GROUP, Forgotten, Maintenance, NewMember, NewNode, NewToken, Op, Put, Retention, Store, StoreError, Term,
};
use milecastle_testkit::{eventually, wait_for};
use serde_json::json;
use sqlx::{Connection as _, Executor as _};

use crate::home::{Home, ann, body, office, on_both, route, set};

on_both!(
    members_come_and_go,
    one_leads_at_a_time,
    no_term_comes_back_with_a_database_that_lost_commits,
    a_leader_out_of_office_does_nothing,
    receipts_are_of_the_living,
    maintenance_lasts_until_it_is_ended,
);

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(50);

fn member(id: &str) -> NewMember {
    let roles = vec!["dashboard".to_owned(), "dp-manager".to_owned()];
    NewMember { id: id.to_owned(), roles, host: format!("h-{id}"), version: "1".to_owned(), address: String::new() }
}

/// A node joins the default group, with the group's only token.
async fn join(store: &Store, id: &str) {
    let token = NewToken {
        id: "t".to_owned(),
        group: DEFAULT_GROUP.to_owned(),
        name: String::new(),
        hash: [1; 32],
        expires_at: None,
    };
    if store.token_list(DEFAULT_GROUP).await.unwrap().is_empty() {
        store.by(ann()).token_create(&token).await.unwrap();
    }
    let node = NewNode {
        group: DEFAULT_GROUP.to_owned(),
        id: id.to_owned(),
        token: "t".to_owned(),
        certificate: "0a".to_owned(),
        host: "h".to_owned(),
        version: "1".to_owned(),
    };
    assert!(store.node_join(&node).await.unwrap());
}

fn term(holder: &str, epoch: u64) -> Term<'_> {
    Term { lease: "l", holder, epoch }
}

async fn ids(store: &Store) -> Vec<String> {
    store.member_list().await.unwrap().into_iter().map(|member| member.told.id).collect()
}

async fn members_come_and_go(home: Home) {
    let store = home.open().await;
    store.member_beat(&member("a")).await.unwrap();
    store.member_beat(&member("b")).await.unwrap();
    let known = store.member_list().await.unwrap();
    assert_eq!(known[0].told, member("a"));
    assert!(known[0].started_at > 1_000_000_000 && known[0].silence < LONG);
    eventually("silence grows", async || store.member_list().await.unwrap()[0].silence >= SHORT).await;
    let before = store.member_list().await.unwrap()[1].silence;
    let renamed = NewMember { host: "z".to_owned(), ..member("b") };
    store.member_beat(&renamed).await.unwrap();
    let known = store.member_list().await.unwrap();
    assert_eq!(known[1].told, renamed);
    assert!(known[1].silence < before);
    store.member_leave("a").await.unwrap();
    assert_eq!(ids(&store).await, ["b"]);
}

async fn one_leads_at_a_time(home: Home) {
    let (one, two) = (home.open().await, home.open().await);
    assert_eq!(one.lease_get("l").await.unwrap(), None);
    let first = one.lease_take("l", "a", LONG).await.unwrap().unwrap();
    assert_eq!(two.lease_take("l", "b", LONG).await.unwrap(), None);
    assert_eq!(one.lease_take("l", "a", SHORT).await.unwrap(), Some(first), "prolonged, the term is the same");
    let second = wait_for("the end of the term", LONG, async || two.lease_take("l", "b", LONG).await.unwrap()).await;
    assert!(second > first);
    assert_eq!(one.lease_take("l", "a", LONG).await.unwrap(), None);
    let lease = one.lease_get("l").await.unwrap().unwrap();
    assert_eq!((&*lease.holder, lease.epoch), ("b", second));
    assert!(lease.left > SHORT && lease.left <= LONG);
    // Whoever leaves lets go of it at once, and who comes back later begins a term of its own.
    two.member_leave("b").await.unwrap();
    assert_eq!(one.lease_get("l").await.unwrap().unwrap().left, Duration::ZERO);
    let third = two.lease_take("l", "b", LONG).await.unwrap().unwrap();
    assert!(third > second);
    // So does who only lets go of it; of what another one has nobody does.
    one.lease_release("l", "a").await.unwrap();
    assert_eq!(one.lease_take("l", "a", LONG).await.unwrap(), None);
    two.lease_release("l", "b").await.unwrap();
    assert!(one.lease_take("l", "a", LONG).await.unwrap().unwrap() > third);
    assert!(one.lease_take("other", "a", LONG).await.unwrap().is_some());
    // Of many who ask at once one gets it.
    let asked = (0..8).map(|n| (if n % 2 == 0 { &one } else { &two }, format!("m{n}")));
    let tasks = asked.map(|(store, id)| {
        let store = store.clone();
        tokio::spawn(async move { store.lease_take("rush", &id, LONG).await.unwrap() })
    });
    let mut won = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        won.extend(task.await.unwrap());
    }
    assert_eq!(won.len(), 1);
}

async fn no_term_comes_back_with_a_database_that_lost_commits(home: Home) {
    let store = home.open().await;
    let lost = store.lease_take("l", "a", LONG).await.unwrap().unwrap();
    let passing = Put { expires_at: Some(1), ..Put::new(route("passing"), body("a")) };
    store.by(ann()).publish(DEFAULT_GROUP, set(vec![Op::Put(passing)])).await.unwrap();
    // A standby that did not have this takes over: there another term was the last one.
    home.sql("UPDATE lease SET holder = 'z', epoch = 1, ends_at = 0 WHERE name = 'l'").await;
    let next = store.lease_take("l", "b", LONG).await.unwrap().unwrap();
    assert!(next > lost);
    assert!(store.expire_due(term("a", lost), 2).await.unwrap().is_empty());
    // Even if the clock of its machine made the number come back, it is another term.
    assert!(store.expire_due(term("a", next), 2).await.unwrap().is_empty());
    assert_eq!(store.expire_due(term("b", next), 2).await.unwrap().len(), 1);
}

async fn maintenance_lasts_until_it_is_ended(home: Home) {
    let store = home.open().await;
    let because = |reason: &str| Maintenance { reason: reason.to_owned(), by: "ann".to_owned(), since: 7 };
    // Members are in it by name, before, while and after a process of that name runs.
    assert_eq!(store.member_maintenance("h-a").await.unwrap(), None);
    store.by(ann()).member_maintain("h-a", Some(&because("first"))).await.unwrap();
    store.by(ann()).member_maintain("h-a", Some(&because("second"))).await.unwrap();
    store.member_beat(&member("a")).await.unwrap();
    store.member_leave("a").await.unwrap();
    let store = home.open().await;
    assert_eq!(store.member_maintenance("h-a").await.unwrap(), Some(because("second")));
    assert_eq!(store.member_maintenance_list().await.unwrap(), [("h-a".to_owned(), because("second"))]);
    store.by(ann()).member_maintain("h-a", None).await.unwrap();
    store.by(ann()).member_maintain("h-a", None).await.unwrap();
    assert_eq!(store.member_maintenance_list().await.unwrap(), []);

    // Nodes and groups are, and replicas hear of it.
    join(&store, "n").await;
    let epoch = async || store.head(DEFAULT_GROUP).await.unwrap().epoch;
    let before = epoch().await;
    assert!(store.by(ann()).node_maintain(DEFAULT_GROUP, "n", Some(&because("disk"))).await.unwrap());
    assert!(!store.by(ann()).node_maintain(DEFAULT_GROUP, "none", Some(&because("disk"))).await.unwrap());
    store.by(ann()).group_maintain(DEFAULT_GROUP, Some(&because("rack"))).await.unwrap();
    assert_eq!(epoch().await, before + 2);
    assert!(matches!(store.by(ann()).group_maintain("none", None).await.unwrap_err(), StoreError::UnknownGroup(_)));
    // It joins again, and falls silent for long: its maintenance lasts.
    join(&store, "n").await;
    let term = office(&store).await;
    store.forget_lost(term, LONG, u64::MAX >> 1).await.unwrap().unwrap();
    let node = store.node_get(DEFAULT_GROUP, "n").await.unwrap().unwrap();
    assert_eq!((node.maintenance, node.group_maintenance), (Some(because("disk")), Some(because("rack"))));
    assert_eq!(store.group_get(DEFAULT_GROUP).await.unwrap().maintenance, Some(because("rack")));
    assert!(store.by(ann()).node_maintain(DEFAULT_GROUP, "n", None).await.unwrap());
    store.by(ann()).group_maintain(DEFAULT_GROUP, None).await.unwrap();
    let node = store.node_get(DEFAULT_GROUP, "n").await.unwrap().unwrap();
    assert_eq!((node.maintenance, node.group_maintenance), (None, None));
    let forgotten = store.forget_lost(term, LONG, u64::MAX >> 1).await.unwrap();
    assert_eq!(forgotten, Some(Forgotten { members: 0, nodes: 1 }));
}

async fn a_leader_out_of_office_does_nothing(home: Home) {
    let store = home.open().await;
    join(&store, "n").await;
    store.member_beat(&member("a")).await.unwrap();
    let passing = Put { expires_at: Some(1), ..Put::new(route("passing"), body("a")) };
    store.by(ann()).publish(DEFAULT_GROUP, set(vec![Op::Put(passing)])).await.unwrap();
    let nothing = Retention { most: 0, max_age: Duration::ZERO, least: 0 };
    let future = u64::MAX >> 1;
    assert_eq!(store.forget_lost(term("a", 1), LONG, future).await.unwrap(), None);
    let first = store.lease_take("l", "a", SHORT).await.unwrap().unwrap();
    let second = wait_for("another leader", LONG, async || store.lease_take("l", "b", LONG).await.unwrap()).await;
    assert_eq!(store.forget_lost(term("a", first), Duration::ZERO, future).await.unwrap(), None);
    assert_eq!(store.expire_due(term("a", first), future).await.unwrap(), []);
    assert_eq!(store.history_retain(term("a", first), &nothing, future).await.unwrap(), 0);
    assert_eq!(ids(&store).await, ["a"]);
    assert_eq!(store.load(DEFAULT_GROUP).await.unwrap().objects.len(), 1);
    assert_eq!(store.group_get(DEFAULT_GROUP).await.unwrap().floor, 0);
    assert_eq!(store.expire_due(term("b", second), future).await.unwrap(), [(DEFAULT_GROUP.to_owned(), 2)]);
    assert_eq!(store.history_retain(term("b", second), &nothing, future).await.unwrap(), 2);
    let epoch = store.head(DEFAULT_GROUP).await.unwrap().epoch;
    assert_eq!(store.forget_lost(term("b", second), LONG, 1).await.unwrap(), Some(Forgotten::default()));
    assert_eq!(store.head(DEFAULT_GROUP).await.unwrap().epoch, epoch);
    eventually("the silent are forgotten", async || {
        store.forget_lost(term("b", second), Duration::ZERO, 1).await.unwrap().unwrap().members == 1
    })
    .await;
    let forgotten = store.forget_lost(term("b", second), LONG, future).await.unwrap();
    assert_eq!(forgotten, Some(Forgotten { members: 0, nodes: 1 }));
    assert_eq!(store.node_list(DEFAULT_GROUP).await.unwrap(), []);
    assert!(store.head(DEFAULT_GROUP).await.unwrap().epoch > epoch, "replicas hear of it");
}

/// A group that somebody holds must not keep the leader from prolonging its lease.
#[tokio::test]
async fn the_lease_is_not_held_while_the_group_of_lost_nodes_is_waited_for() {
    let home = Home::postgres("conformance::members");
    let store = home.open().await;
    join(&store, "n").await;
    let term = office(&store).await;
    let mut holder = sqlx::PgConnection::connect(&home.dsn).await.unwrap();
    holder.execute("BEGIN; SELECT 1 FROM gateway_group FOR UPDATE").await.unwrap();
    let forgetting = tokio::spawn({
        let store = store.clone();
        async move { store.forget_lost(term, LONG, u64::MAX >> 1).await }
    });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("it waits for the group", async || home.database().unwrap().query(waiting).unwrap().trim() != "0").await;
    assert!(store.lease_take(term.lease, term.holder, LONG).await.unwrap().is_some());
    assert!(!forgetting.is_finished(), "the lease was waited for");
    holder.close().await.unwrap();
    assert_eq!(forgetting.await.unwrap().unwrap(), Some(Forgotten { members: 0, nodes: 1 }));
}

async fn receipts_are_of_the_living(home: Home) {
    let store = home.open().await;
    store.receipt_put(DEFAULT_GROUP, "a", &json!([1])).await.unwrap();
    assert_eq!(store.receipt_list(DEFAULT_GROUP, LONG).await.unwrap(), []);
    for id in ["a", "b"] {
        store.member_beat(&member(id)).await.unwrap();
        store.receipt_put(DEFAULT_GROUP, id, &json!([id])).await.unwrap();
    }
    store.receipt_put(DEFAULT_GROUP, "a", &json!(["again"])).await.unwrap();
    store.receipt_put("none", "a", &json!([])).await.unwrap();
    let all = [("a".to_owned(), json!(["again"])), ("b".to_owned(), json!(["b"]))];
    assert_eq!(store.receipt_list(DEFAULT_GROUP, LONG).await.unwrap(), all);
    eventually("the silent do not count", async || {
        store.member_beat(&member("b")).await.unwrap();
        let living = store.receipt_list(DEFAULT_GROUP, SHORT).await.unwrap();
        living.len() == 1 && living[0] == all[1]
    })
    .await;
    store.member_leave("b").await.unwrap();
    assert_eq!(store.receipt_list(DEFAULT_GROUP, LONG).await.unwrap().len(), 1);
}
