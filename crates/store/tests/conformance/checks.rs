//! References, sub-resources and lookup keys, also while others write.

use milecastle_model::{Key, Kind};
use milecastle_store::{DEFAULT_GROUP, Delete, Holder, Op, PublishError, Put, Reference, Store, UniqueKey};

use crate::home::{Home, body, delete, on_both, publish, put, revision, route, short, upstream};

on_both!(
    a_missing_reference_is_refused,
    what_is_used_is_not_deleted_unless_forced,
    references_follow_the_body,
    sub_resources_need_and_follow_their_parent,
    lookup_keys_have_one_owner,
    deleting_and_referring_at_once_never_dangles,
    two_owners_of_a_key_at_once_become_one,
);

fn consumer(name: &str) -> Key {
    Key::new(Kind::Consumer, name)
}

/// A route that needs `to`, and hinders its deletion.
fn using(id: &str, word: &str, to: Key) -> Op {
    let reference = Reference { to, plugin: None, must_exist: true, hinders: true };
    Op::Put(Put { references: vec![reference], ..Put::new(route(id), body(word)) })
}

fn holding(key: Key, word: &str, plugin: &str, value: &str) -> Op {
    let lookup = UniqueKey { plugin: plugin.to_owned(), value: value.into() };
    Op::Put(Put { keys: vec![lookup], sealed: true, ..Put::new(key, body(word)) })
}

async fn users(store: &Store, key: Key) -> Vec<Holder> {
    match publish(store, vec![delete(key.clone())]).await.unwrap_err() {
        PublishError::StillReferenced { key: used, by } if used == key => by,
        other => panic!("{other}"),
    }
}

async fn a_missing_reference_is_refused(home: Home) {
    let store = home.open().await;
    let refused = publish(&store, vec![put(route("9"), "x"), using("1", "a", upstream("1"))]).await.unwrap_err();
    assert_eq!(refused.to_string(), "/routes/1 refers to /upstreams/1, which does not exist");
    // Within a set the order does not matter.
    revision(&store, vec![using("1", "a", upstream("1")), put(upstream("1"), "u")]).await;
    publish(&store, vec![using("1", "b", upstream("1")), delete(upstream("1"))]).await.unwrap_err();
    // Not even a body that changes nothing may go on referring to nothing.
    revision(&store, vec![Op::Delete(Delete { force: true, ..Delete::new(upstream("1")) })]).await;
    let dangling = publish(&store, vec![using("1", "a", upstream("1"))]).await.unwrap_err();
    assert!(matches!(dangling, PublishError::MissingReference { from, .. } if from == route("1")));
    // A reference that need not lead anywhere is only recorded.
    let loose = Reference { to: upstream("7"), plugin: None, must_exist: false, hinders: false };
    revision(&store, vec![Op::Put(Put { references: vec![loose], ..Put::new(route("2"), body("a")) })]).await;
    revision(&store, vec![put(upstream("7"), "u")]).await;
    revision(&store, vec![delete(upstream("7"))]).await;
}

async fn what_is_used_is_not_deleted_unless_forced(home: Home) {
    let store = home.open().await;
    let split = |kind, id: &str| {
        let reference =
            Reference { to: upstream("1"), plugin: Some("traffic-split".to_owned()), must_exist: false, hinders: true };
        let twice = vec![reference.clone(), Reference { hinders: false, ..reference }];
        Op::Put(Put { references: twice, ..Put::new(Key::new(kind, id), body("b")) })
    };
    let ops = vec![put(upstream("1"), "u"), using("3", "a", upstream("1")), using("2", "a", upstream("1"))];
    revision(&store, ops).await;
    revision(&store, vec![split(Kind::Route, "2"), split(Kind::Service, "5"), split(Kind::GlobalRule, "1")]).await;
    let holder =
        |kind, id: &str, plugin: Option<&str>| Holder { key: Key::new(kind, id), plugin: plugin.map(str::to_owned) };
    let split = Some("traffic-split");
    let expected = [
        holder(Kind::GlobalRule, "1", split),
        holder(Kind::Route, "3", None),
        holder(Kind::Route, "2", split),
        holder(Kind::Service, "5", split),
    ];
    assert_eq!(users(&store, upstream("1")).await, expected);
    let forced = publish(&store, vec![Op::Delete(Delete { force: true, ..Delete::new(upstream("1")) })]).await.unwrap();
    assert_eq!(short(&forced.outcomes[0]), "D");
    // The references are still there; with the upstream back, they hinder again.
    revision(&store, vec![put(upstream("1"), "u")]).await;
    assert_eq!(users(&store, upstream("1")).await.len(), 4);
    // Used only by what goes with it, it may go.
    let users = [(Kind::GlobalRule, "1"), (Kind::Route, "2"), (Kind::Route, "3"), (Kind::Service, "5")];
    let all = users.map(|(kind, id)| delete(Key::new(kind, id))).into_iter().chain([delete(upstream("1"))]);
    revision(&store, all.collect()).await;
}

async fn references_follow_the_body(home: Home) {
    let store = home.open().await;
    revision(&store, vec![put(upstream("1"), "u"), put(upstream("2"), "u"), using("1", "a", upstream("1"))]).await;
    revision(&store, vec![using("1", "b", upstream("2"))]).await;
    revision(&store, vec![delete(upstream("1"))]).await;
    assert_eq!(users(&store, upstream("2")).await, [Holder { key: route("1"), plugin: None }]);
    revision(&store, vec![put(route("1"), "c")]).await;
    revision(&store, vec![delete(upstream("2"))]).await;
}

async fn sub_resources_need_and_follow_their_parent(home: Home) {
    let store = home.open().await;
    let credential = |consumer: &str, id: &str| Key::credential(consumer, id);
    let orphan = publish(&store, vec![put(credential("jack", "c1"), "a")]).await.unwrap_err();
    assert!(matches!(orphan, PublishError::MissingReference { from, reference }
        if from == credential("jack", "c1") && reference.to == consumer("jack")));
    let names = ["jack", "jack-", "jack0", "jac"];
    revision(&store, names.map(|name| put(consumer(name), "a")).into()).await;
    let children = names.into_iter().flat_map(|name| ["c1", "c2"].map(|id| put(credential(name, id), "a")));
    revision(&store, children.collect()).await;
    let deleted = publish(&store, vec![delete(consumer("jack")), delete(credential("jack", "c2"))]).await.unwrap();
    assert_eq!(deleted.outcomes.iter().map(short).collect::<Vec<_>>(), ["D", "D"]);
    assert_eq!(deleted.cascaded, [credential("jack", "c1")]);
    let made = store.history_get(DEFAULT_GROUP, deleted.revision).await.unwrap().unwrap();
    assert_eq!((made.info.deletes, made.changes.len()), (3, 3));
    assert_eq!(store.load(DEFAULT_GROUP).await.unwrap().objects.len(), 9);
    publish(&store, vec![delete(consumer("jac")), put(credential("jac", "c9"), "a")]).await.unwrap_err();
}

async fn lookup_keys_have_one_owner(home: Home) {
    let store = home.open().await;
    let own = Key::credential("jack", "c1");
    revision(&store, vec![holding(consumer("jack"), "a", "key-auth", "k1"), put(consumer("rose"), "a")]).await;
    revision(&store, vec![holding(own.clone(), "a", "key-auth", "k1")]).await;
    for (key, plugin, taken) in [
        (consumer("rose"), "key-auth", true),
        (Key::credential("rose", "c1"), "key-auth", true),
        (consumer("rose"), "jwt-auth", false),
    ] {
        let published = publish(&store, vec![holding(key.clone(), "b", plugin, "k1")]).await;
        match published {
            Err(PublishError::DuplicateDigest { key: mine, plugin: of, holder }) => {
                assert!(taken && mine == key && of == plugin && holder == consumer("jack"), "{mine} {of} {holder}");
            }
            other => assert!(!taken && other.unwrap().changed, "{key} {plugin}"),
        }
    }
    let holder = async |plugin, value: &str| store.key_holder(DEFAULT_GROUP, plugin, value.as_bytes()).await.unwrap();
    assert_eq!(holder("key-auth", "k1").await, Some(consumer("jack")));
    assert_eq!(holder("jwt-auth", "k1").await, Some(consumer("rose")));
    assert_eq!(holder("key-auth", "k2").await, None);
    // What an owner gives up is free for others, in the same set too.
    let swap = vec![
        holding(consumer("jack"), "c", "key-auth", "k2"),
        delete(own),
        holding(consumer("rose"), "c", "key-auth", "k1"),
    ];
    revision(&store, swap).await;
    assert_eq!(holder("key-auth", "k1").await, Some(consumer("rose")));
    assert_eq!(holder("jwt-auth", "k1").await, None);
}

async fn deleting_and_referring_at_once_never_dangles(home: Home) {
    let (one, other) = (home.open().await, home.open().await);
    for round in 0..20 {
        publish(&one, vec![delete(route("1")), put(upstream("1"), "u")]).await.unwrap();
        let word = round.to_string();
        let (gone, used) = tokio::join!(
            publish(&one, vec![delete(upstream("1"))]),
            publish(&other, vec![using("1", &word, upstream("1"))])
        );
        assert!(gone.is_ok() != used.is_ok(), "round {round}: {gone:?} {used:?}");
    }
}

async fn two_owners_of_a_key_at_once_become_one(home: Home) {
    let (one, other) = (home.open().await, home.open().await);
    for round in 0..20 {
        let key = format!("k{round}");
        let (jack, rose) = tokio::join!(
            publish(&one, vec![holding(consumer("jack"), &key, "key-auth", &key)]),
            publish(&other, vec![holding(consumer("rose"), &key, "key-auth", &key)])
        );
        assert!(jack.is_ok() != rose.is_ok(), "round {round}: {jack:?} {rose:?}");
    }
}
