//! Gateway groups.

use std::collections::BTreeMap;

use milecastle_model::Key;
use milecastle_store::{Changes, DEFAULT_GROUP, Expect, GroupError, GroupUpdate, NewGroup, PublishError, StoreError};

use crate::home::{Home, ann, delete, on_both, put, route, set};

on_both!(
    groups_come_change_and_go,
    settings_are_an_object_of_the_group,
    lineages_are_superseded,
    lineages_that_were_over_stay_so_when_the_schema_is_brought_up_to_date,
);

async fn groups_come_change_and_go(home: Home) {
    let store = home.open().await;
    let labels = BTreeMap::from([("env".to_owned(), "test".to_owned())]);
    let new = NewGroup { labels, ..NewGroup::named("test") };
    let made = store.by(ann()).group_create(&new).await.unwrap();
    assert_eq!((made.revision, made.floor, made.epoch, &made.labels), (0, 0, 0, &new.labels));
    assert!(matches!(store.by(ann()).group_create(&new).await.unwrap_err(), GroupError::Exists(id) if id == "test"));

    let update = GroupUpdate { name: Some("Test".to_owned()), ..GroupUpdate::default() };
    let updated = store.by(ann()).group_update("test", &update).await.unwrap();
    assert_eq!((&*updated.name, &updated.labels, updated.epoch), ("Test", &new.labels, 1));
    assert_eq!(updated.lineage, made.lineage);
    let ids: Vec<String> = store.group_list().await.unwrap().into_iter().map(|group| group.id).collect();
    assert_eq!(ids, [DEFAULT_GROUP, "test"]);

    store.by(ann()).publish("test", set(vec![put(route("1"), "a")])).await.unwrap();
    let refused = store.by(ann()).group_delete("test", false).await.unwrap_err();
    assert_eq!(refused.to_string(), "gateway group `test` still has 1 objects and 0 nodes");
    store.by(ann()).publish("test", set(vec![delete(route("1"))])).await.unwrap();
    // Settings alone do not keep a group.
    store.by(ann()).publish("test", set(vec![put(Key::group_settings(), "a")])).await.unwrap();
    store.by(ann()).group_delete("test", false).await.unwrap();
    assert!(matches!(store.group_get("test").await.unwrap_err(), StoreError::UnknownGroup(_)));
    assert!(matches!(store.load("test").await.unwrap_err(), StoreError::UnknownGroup(_)));
    store.by(ann()).group_delete("test", true).await.unwrap_err();

    // A group of the same id has a history of its own.
    let again = store.by(ann()).group_create(&new).await.unwrap();
    assert_ne!(again.lineage, made.lineage);
    store.by(ann()).publish("test", set(vec![put(route("1"), "a")])).await.unwrap();
    store.by(ann()).group_delete("test", true).await.unwrap();
    assert_eq!(store.group_list().await.unwrap().len(), 1);
}

async fn settings_are_an_object_of_the_group(home: Home) {
    let store = home.open().await;
    let settings = Key::group_settings();
    let judged = |expect| {
        let mut set = set(vec![put(route("1"), "a")]);
        set.require = vec![(Key::group_settings(), expect)];
        set
    };
    store.by(ann()).publish(DEFAULT_GROUP, judged(Expect::Absent)).await.unwrap();
    assert_eq!(
        store.by(ann()).publish(DEFAULT_GROUP, set(vec![put(settings.clone(), "a")])).await.unwrap().revision,
        2
    );
    // They have a revision and are of the delta and of the whole, as any object.
    let Changes::Delta { changes, .. } = store.changes_since(DEFAULT_GROUP, 1, None).await.unwrap() else {
        panic!("no delta")
    };
    assert_eq!(changes.iter().map(|change| change.key()).collect::<Vec<_>>(), [&settings]);
    let whole = store.load(DEFAULT_GROUP).await.unwrap();
    assert!(whole.objects.iter().any(|object| object.key == settings && object.modified == 2));
    assert_eq!(store.history_get(DEFAULT_GROUP, 2).await.unwrap().unwrap().changes[0].key(), &settings);
    // What was judged under others is refused, and nothing of it is stored.
    for expect in [Expect::Absent, Expect::ModifiedAt(1)] {
        let refused = store.by(ann()).publish(DEFAULT_GROUP, judged(expect)).await.unwrap_err();
        assert!(matches!(refused, PublishError::PreconditionFailed { key, .. } if key == settings));
    }
    assert_eq!(store.head(DEFAULT_GROUP).await.unwrap().revision, 2);
    let unchanged = store.by(ann()).publish(DEFAULT_GROUP, judged(Expect::ModifiedAt(2))).await.unwrap();
    assert!(!unchanged.changed);
    // Other groups have their own.
    store.by(ann()).group_create(&NewGroup::named("test")).await.unwrap();
    store.by(ann()).publish("test", judged(Expect::Absent)).await.unwrap();
}

async fn lineages_that_were_over_stay_so_when_the_schema_is_brought_up_to_date(home: Home) {
    home.open().await.close().await;
    for sql in [
        "ALTER TABLE gateway_group DROP COLUMN supersedes",
        "ALTER TABLE gateway_group ADD COLUMN settings TEXT NOT NULL DEFAULT '{}'",
        "INSERT INTO gateway_group (id, name, labels, settings, lineage, head, floor, epoch, created_at) \
         VALUES ('over', 'over', '{}', '{\"supersedes\":[\"x\",\"y\"]}', 'z', 0, 0, 0, 0)",
        "DELETE FROM schema_migration WHERE version = 5",
    ] {
        home.sql(sql).await;
    }
    let store = home.open().await;
    assert_eq!(store.group_get("over").await.unwrap().supersedes, ["x", "y"]);
    assert!(store.group_get(DEFAULT_GROUP).await.unwrap().supersedes.is_empty());
}

async fn lineages_are_superseded(home: Home) {
    let store = home.open().await;
    store.by(ann()).publish(DEFAULT_GROUP, set(vec![put(route("1"), "a")])).await.unwrap();
    let before = store.group_get(DEFAULT_GROUP).await.unwrap();
    assert!(before.supersedes.is_empty());
    // A foreign lineage is declared over; the own one goes on.
    let foreign = ["x".to_owned(), before.lineage.clone()];
    let after = store.by(ann()).group_supersede(DEFAULT_GROUP, &foreign, false).await.unwrap();
    assert_eq!((after.supersedes, &after.lineage, after.revision), (vec!["x".to_owned()], &before.lineage, 1));
    assert!(after.epoch > before.epoch);
    // The own one is declared over: a new one begins where it stands.
    let anew = store.by(ann()).group_supersede(DEFAULT_GROUP, &[], true).await.unwrap();
    let mut over = vec![before.lineage.clone(), "x".to_owned()];
    over.sort();
    assert_eq!((anew.supersedes, anew.revision), (over, 1));
    assert_ne!(anew.lineage, before.lineage);
    assert_eq!(store.by(ann()).publish(DEFAULT_GROUP, set(vec![put(route("1"), "b")])).await.unwrap().revision, 2);
    assert!(matches!(
        store.by(ann()).group_supersede("none", &[], true).await.unwrap_err(),
        StoreError::UnknownGroup(_)
    ));
}
