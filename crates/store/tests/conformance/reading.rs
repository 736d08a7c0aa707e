//! Snapshots, deltas, history and floors.

use std::collections::BTreeMap;
use std::time::Duration;

use milecastle_model::Change;
use milecastle_store::{Changes, DEFAULT_GROUP, Fate, NewGroup, Op, Put, Retention, Store, Touched};

use crate::home::{Home, ann, body, delete, office, on_both, publish, put, revision, route, set, upstream};

on_both!(
    deltas_lead_from_any_revision_to_the_head,
    floors,
    history_ends,
    lost_commits_are_told_from_those_that_follow,
    history_is_merged,
    history_pages,
    history_tells_what_was_touched,
    a_snapshot_is_of_one_revision
);

/// The default group as paths and bodies, from a snapshot.
async fn whole(store: &Store) -> (u64, BTreeMap<String, (Vec<u8>, u64, u64)>) {
    let snapshot = store.load(DEFAULT_GROUP).await.unwrap();
    let objects = snapshot.objects.into_iter().map(|o| (o.key.path(), (o.body.to_vec(), o.created, o.modified)));
    (snapshot.revision, objects.collect())
}

async fn deltas_lead_from_any_revision_to_the_head(home: Home) {
    let store = home.open().await;
    let sealed = |word| Op::Put(Put { sealed: true, ..Put::new(upstream("s"), body(word)) });
    let mut states = vec![whole(&store).await];
    for ops in [
        vec![put(route("1"), "a"), put(route("2"), "a"), sealed("a")],
        vec![put(route("1"), "b")],
        vec![delete(route("1")), sealed("b")],
        vec![put(route("1"), "c"), put(route("3"), "c")],
        vec![delete(route("3")), delete(upstream("s"))],
    ] {
        revision(&store, ops).await;
        states.push(whole(&store).await);
    }
    let (head, last) = states.last().unwrap().clone();
    for (from, mut state) in states {
        let Changes::Delta { lineage, to, changes, .. } = store.changes_since(DEFAULT_GROUP, from, None).await.unwrap()
        else {
            panic!("no delta from {from}")
        };
        assert_eq!((to, lineage), (head, store.head(DEFAULT_GROUP).await.unwrap().lineage));
        let mut keys: Vec<String> = changes.iter().map(|change| change.key().path()).collect();
        assert!(changes.is_sorted_by_key(Change::revision), "{changes:?}");
        for change in changes {
            match change {
                Change::Put(o) => drop(state.insert(o.key.path(), (o.body.to_vec(), o.created, o.modified))),
                Change::Delete { key, .. } => drop(state.remove(&key.path())),
            }
        }
        assert_eq!(state, last, "from {from}");
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), [4, 3, 3, 3, 2, 0][usize::try_from(from).unwrap()], "each key once, from {from}");
    }
}

async fn floors(home: Home) {
    let store = home.open().await;
    for word in ["a", "b", "c", "d"] {
        revision(&store, vec![put(route("1"), word), put(route("2"), word)]).await;
    }
    let check = async |from, floor: Option<u64>| match store.changes_since(DEFAULT_GROUP, from, None).await.unwrap() {
        Changes::Delta { to, .. } => assert_eq!((floor, to), (None, 4), "from {from}"),
        Changes::Gone { floor: found, head, .. } => assert_eq!((Some(found), head), (floor, 4), "from {from}"),
    };
    check(0, None).await;
    check(5, Some(0)).await;
    check(u64::MAX, Some(0)).await;
    let term = office(&store).await;
    let keep = Retention { most: 2, max_age: Duration::MAX, least: 1 };
    assert_eq!(store.history_retain(term, &keep, 0).await.unwrap(), 2);
    assert_eq!(store.history_retain(term, &keep, 0).await.unwrap(), 0);
    check(1, Some(2)).await;
    check(2, None).await;
    check(4, None).await;
    assert!(store.history_get(DEFAULT_GROUP, 2).await.unwrap().is_none());
    assert!(store.history_get(DEFAULT_GROUP, 3).await.unwrap().is_some());
    assert_eq!(store.load(DEFAULT_GROUP).await.unwrap().objects.len(), 2);
}

async fn lost_commits_are_told_from_those_that_follow(home: Home) {
    let store = home.open().await;
    for id in ["kept", "lost"] {
        revision(&store, vec![put(route(id), "")]).await;
    }
    let read = store.load(DEFAULT_GROUP).await.unwrap();
    let kept = store.head(DEFAULT_GROUP).await.unwrap();
    assert_eq!((&read.mark, read.revision), (&kept.mark, kept.revision));
    let since = async |mark: &str| store.changes_since(DEFAULT_GROUP, 2, Some(mark)).await.unwrap();
    let diverged =
        async |revision, mark: &str| store.group_diverge(DEFAULT_GROUP, &kept.lineage, revision, mark).await.unwrap();
    assert!(matches!(since(&read.mark).await, Changes::Delta { to: 2, mark, .. } if mark == read.mark));
    assert!(!diverged(2, &read.mark).await);

    // As a standby that was promoted before it had revision 2, once it has gone on.
    home.sql("DELETE FROM change_set WHERE revision = 2").await;
    home.sql("DELETE FROM resource WHERE created = 2").await;
    home.sql("UPDATE gateway_group SET head = 1").await;
    assert!(matches!(since(&read.mark).await, Changes::Gone { head: 1, .. }));
    let published = publish(&store, vec![put(route("other"), "")]).await.unwrap();
    assert!(published.revision == 2 && published.mark != read.mark);
    assert!(matches!(since(&read.mark).await, Changes::Gone { head: 2, .. }));
    assert!(matches!(since(&published.mark).await, Changes::Delta { to: 2, .. }));
    assert!(store.holds(DEFAULT_GROUP, 2, &published.mark).await.unwrap());
    assert!(!store.holds(DEFAULT_GROUP, 2, &read.mark).await.unwrap());
    assert!(!diverged(2, &published.mark).await);
    // Of replicas that find out at once, one begins the other lineage.
    let found = futures_util::future::join_all((0..4).map(|_| diverged(2, &read.mark))).await;
    assert_eq!(found.iter().filter(|found| **found).count(), 1);
    let head = store.head(DEFAULT_GROUP).await.unwrap();
    assert!(head.lineage != kept.lineage && head.epoch > kept.epoch && head.revision == 2);
    // Of what is not kept any longer nothing can be said.
    let keep = Retention { most: 0, max_age: Duration::MAX, least: 0 };
    assert_eq!(store.history_retain(office(&store).await, &keep, 0).await.unwrap(), 2);
    assert!(!store.group_diverge(DEFAULT_GROUP, &head.lineage, 2, "another").await.unwrap());
}

async fn history_ends(home: Home) {
    let store = home.open().await;
    store.by(ann()).group_create(&NewGroup::named("quiet")).await.unwrap();
    store.by(ann()).publish("quiet", set(vec![put(route("1"), "a")])).await.unwrap();
    // More than go in one transaction.
    for n in 0..450 {
        revision(&store, vec![put(route("1"), &n.to_string())]).await;
    }
    let (term, age) = (office(&store).await, Duration::from_secs(1000));
    let made = store.history_list(DEFAULT_GROUP, None, 1).await.unwrap()[0].at;
    let check = async |keep: Retention, now: u64, forgotten: u64, floor: u64| {
        assert_eq!(store.history_retain(term, &keep, now).await.unwrap(), forgotten, "{keep:?} at {now}");
        assert_eq!(store.group_get(DEFAULT_GROUP).await.unwrap().floor, floor, "{keep:?} at {now}");
        assert_eq!(store.history_list(DEFAULT_GROUP, None, 1000).await.unwrap().len() as u64, 450 - floor);
    };
    check(Retention { most: 450, max_age: age, least: 1 }, made, 0, 0).await;
    check(Retention { most: 440, max_age: age, least: 1 }, made, 10, 10).await;
    // The oldest are all old by now; what is to stay stays.
    check(Retention { most: 440, max_age: age, least: 20 }, made + 2000, 420, 430).await;
    check(Retention { most: 5, max_age: age, least: 20 }, made, 0, 430).await;
    assert_eq!(store.group_get("quiet").await.unwrap().floor, 0);
    // Whatever is forgotten, of the other group too, the configuration stays, and so do the numbers.
    check(Retention { most: 0, max_age: Duration::ZERO, least: 0 }, made, 21, 450).await;
    assert_eq!(store.group_get("quiet").await.unwrap().floor, 1);
    assert_eq!(store.load(DEFAULT_GROUP).await.unwrap().objects[0].body, body("449"));
    assert_eq!(revision(&store, vec![put(route("1"), "next")]).await, 451);
}

async fn history_pages(home: Home) {
    let store = home.open().await;
    for word in ["a", "b", "c", "d", "e"] {
        let mut set = set(vec![put(route("1"), word), delete(route("2"))]);
        set.message = format!("made it {word}");
        store.by(ann()).publish(DEFAULT_GROUP, set).await.unwrap();
    }
    let page = async |before, limit| {
        let page = store.history_list(DEFAULT_GROUP, before, limit).await.unwrap();
        page.into_iter().map(|info| info.revision).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 2).await, [5, 4]);
    assert_eq!(page(Some(4), 2).await, [3, 2]);
    assert_eq!(page(Some(2), 9).await, [1]);
    let made = store.history_get(DEFAULT_GROUP, 3).await.unwrap().unwrap();
    assert_eq!((&*made.info.author, &*made.info.message, made.info.source.name()), ("ann", "made it c", "api"));
    assert_eq!((made.info.puts, made.info.deletes), (1, 0));
    assert!(matches!(&made.changes[..], [Change::Put(o)] if o.body == body("c") && (o.created, o.modified) == (1, 3)));
    assert!(store.history_get(DEFAULT_GROUP, u64::MAX).await.unwrap().is_none());
}

async fn history_is_merged(home: Home) {
    let store = home.open().await;
    // More groups than go in one statement.
    let groups: Vec<String> = (0..202).map(|n| format!("g{n:03}")).collect();
    for group in &groups {
        store.by(ann()).group_create(&NewGroup::named(group)).await.unwrap();
        for word in ["a", "b"] {
            store.by(ann()).publish(group, set(vec![put(route("1"), word)])).await.unwrap();
        }
    }
    // The first revisions of all groups, then the second ones.
    home.sql("UPDATE change_set SET at = revision * 1000 + CAST(SUBSTR(group_id, 2) AS INTEGER)").await;
    let of = |revision: u64| groups.iter().rev().map(move |group| (group.clone(), revision));
    let made: Vec<_> = of(2).chain(of(1)).collect();
    let merged = async |below: u64, limit| {
        let asked: Vec<_> = groups.iter().map(|group| (group.clone(), below)).collect();
        let merged = store.history_merged(&asked, limit).await.unwrap();
        merged.into_iter().map(|(group, info)| (group, info.revision)).collect::<Vec<_>>()
    };
    assert_eq!(merged(3, 1000).await, made);
    assert_eq!(merged(3, 203).await, made[..203]);
    assert_eq!(merged(2, 2).await, made[202..204]);
    assert!(merged(1, 2).await.is_empty());
    // Of one moment, by group, and the later revision first.
    home.sql("UPDATE change_set SET at = 7").await;
    let some = ["g201", "g000"].map(|group| (group.to_owned(), 3));
    let merged = store.history_merged(&some, 3).await.unwrap();
    let merged: Vec<_> = merged.iter().map(|(group, info)| (&**group, info.revision)).collect();
    assert_eq!(merged, [("g000", 2), ("g000", 1), ("g201", 2)]);
}

async fn history_tells_what_was_touched(home: Home) {
    let store = home.open().await;
    let all = |ids: &[&str], word: &str| ids.iter().map(|id| put(route(id), word)).collect::<Vec<_>>();
    revision(&store, all(&["1", "2", "3", "4"], "a")).await;
    revision(&store, vec![delete(route("1")), put(route("2"), "b"), put(upstream("u"), "b")]).await;
    revision(&store, all(&["2"], "c")).await;
    let of = |key, fate| Touched { key, fate };
    let second = vec![of(route("1"), Fate::Deleted), of(route("2"), Fate::Updated), of(upstream("u"), Fate::Created)];
    let touched = store.history_touched(DEFAULT_GROUP, 1..=2, 3).await.unwrap();
    let first = ["1", "2", "3"].map(|id| of(route(id), Fate::Created)).to_vec();
    assert_eq!(touched, BTreeMap::from([(1, first), (2, second.clone())]));
    let whole = store.history_get(DEFAULT_GROUP, 2).await.unwrap().unwrap();
    assert_eq!(whole.changes.iter().map(Touched::by).collect::<Vec<_>>(), second);
    assert_eq!(store.history_touched(DEFAULT_GROUP, 4..=u64::MAX, 3).await.unwrap(), BTreeMap::new());
}

async fn a_snapshot_is_of_one_revision(home: Home) {
    let (writer, reader) = (home.open().await, home.open().await);
    let writing = async {
        for n in 1..=60 {
            let word = n.to_string();
            publish(&writer, (0..10).map(|id| put(route(&id.to_string()), &word)).collect()).await.unwrap();
        }
    };
    let reading = async {
        let mut seen = 0;
        while seen < 60 {
            let (revision, objects) = whole(&reader).await;
            assert!(revision >= seen);
            seen = revision;
            assert!(
                objects.values().all(|(stored, _, modified)| *stored == body(&revision.to_string()).into_bytes()
                    && *modified == revision)
            );
        }
    };
    tokio::join!(writing, reading);
}
