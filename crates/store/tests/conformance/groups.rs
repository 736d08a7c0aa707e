//! Gateway groups.

use std::collections::BTreeMap;

use milecastle_store::{DEFAULT_GROUP, GroupError, GroupUpdate, NewGroup, StoreError};
use serde_json::json;

use crate::home::{Home, delete, on_both, put, route, set};

on_both!(groups_come_change_and_go, lineages_are_superseded);

async fn groups_come_change_and_go(home: Home) {
    let store = home.open().await;
    let labels = BTreeMap::from([("env".to_owned(), "test".to_owned())]);
    let new = NewGroup { labels, ..NewGroup::named("test") };
    let made = store.group_create(&new).await.unwrap();
    assert_eq!((made.revision, made.floor, made.epoch, &made.labels), (0, 0, 0, &new.labels));
    assert!(matches!(store.group_create(&new).await.unwrap_err(), GroupError::Exists(id) if id == "test"));

    let settings = json!({"router": "radixtree_uri"}).as_object().unwrap().clone();
    let update =
        GroupUpdate { name: Some("Test".to_owned()), settings: Some(settings.clone()), ..GroupUpdate::default() };
    let updated = store.group_update("test", &update).await.unwrap();
    assert_eq!(
        (&*updated.name, &updated.labels, &updated.settings, updated.epoch),
        ("Test", &new.labels, &settings, 1)
    );
    assert_eq!(updated.lineage, made.lineage);
    let ids: Vec<String> = store.group_list().await.unwrap().into_iter().map(|group| group.id).collect();
    assert_eq!(ids, [DEFAULT_GROUP, "test"]);

    store.publish("test", set(vec![put(route("1"), "a")])).await.unwrap();
    let refused = store.group_delete("test", false).await.unwrap_err();
    assert_eq!(refused.to_string(), "gateway group `test` still has 1 objects and 0 nodes");
    store.publish("test", set(vec![delete(route("1"))])).await.unwrap();
    store.group_delete("test", false).await.unwrap();
    assert!(matches!(store.group_get("test").await.unwrap_err(), StoreError::UnknownGroup(_)));
    assert!(matches!(store.load("test").await.unwrap_err(), StoreError::UnknownGroup(_)));
    store.group_delete("test", true).await.unwrap_err();

    // A group of the same id has a history of its own.
    let again = store.group_create(&new).await.unwrap();
    assert_ne!(again.lineage, made.lineage);
    store.publish("test", set(vec![put(route("1"), "a")])).await.unwrap();
    store.group_delete("test", true).await.unwrap();
    assert_eq!(store.group_list().await.unwrap().len(), 1);
}

async fn lineages_are_superseded(home: Home) {
    let store = home.open().await;
    store.publish(DEFAULT_GROUP, set(vec![put(route("1"), "a")])).await.unwrap();
    let before = store.group_get(DEFAULT_GROUP).await.unwrap();
    assert_eq!(before.supersedes(), [""; 0]);
    // A foreign lineage is declared over; the own one goes on.
    let foreign = ["x".to_owned(), before.lineage.clone()];
    let after = store.group_supersede(DEFAULT_GROUP, &foreign, false).await.unwrap();
    assert_eq!((after.supersedes(), &after.lineage, after.revision), (vec!["x".to_owned()], &before.lineage, 1));
    assert!(after.epoch > before.epoch);
    // The own one is declared over: a new one begins where it stands.
    let anew = store.group_supersede(DEFAULT_GROUP, &[], true).await.unwrap();
    let mut over = vec![before.lineage.clone(), "x".to_owned()];
    over.sort();
    assert_eq!((anew.supersedes(), anew.revision), (over, 1));
    assert_ne!(anew.lineage, before.lineage);
    assert_eq!(store.publish(DEFAULT_GROUP, set(vec![put(route("1"), "b")])).await.unwrap().revision, 2);
    assert!(matches!(store.group_supersede("none", &[], true).await.unwrap_err(), StoreError::UnknownGroup(_)));
}
