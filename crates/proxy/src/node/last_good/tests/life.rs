//! What was kept is found again.

use super::super::file::{Kind, StateKey, Writer};
use super::super::{DirectoryInUse, directory};
use super::{LastGood, Node, Origin, digest, eager, found, home, mark, origin, state_of};
use crate::node::holdings::Holdings;
use crate::node::tests::route;
use milecastle_settings::State;
use milecastle_testkit::eventually;
use milecastle_wire::encode_objects;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

#[tokio::test]
async fn a_new_node_finds_nothing() {
    let (_home, settings) = home();
    assert!(found(&settings).await.is_none());
}

#[tokio::test]
async fn a_configuration_and_its_changes_are_found_again() {
    let (_home, settings) = home();
    let mut node = Node::start(&settings).await;
    node.whole("line", 7, &[("1", "/a"), ("2", "/b")]).await;
    node.change("3", Some("/c")).await;
    node.change("1", None).await;
    node.change("2", Some("/d")).await;
    let figures = node.figures();
    assert_eq!((figures.revision, figures.generation, figures.fault), (Some(10), 1, None));
    let last = node.end();
    assert_eq!((last.1, last.3.len()), (10, 2));
    assert_eq!(found(&settings).await, Some(last));
}

#[tokio::test]
async fn the_mark_of_the_revision_is_found_again() {
    let (_home, settings) = home();
    let mut node = Node::start(&settings).await;
    node.whole("line", 7, &[("1", "/a")]).await;
    for revision in 7..10 {
        drop(node);
        node = Node::start(&settings).await;
        // The first time from a checkpoint, then from the changes after it.
        assert_eq!(node.held.as_ref().map(Holdings::mark), Some(&*mark(revision)));
        node.change("2", Some(&format!("/{revision}"))).await;
    }
}

/// As versions wrote it that knew no marks.
#[tokio::test]
async fn a_checkpoint_without_a_mark_is_one() {
    let (_home, settings) = home();
    let objects = [route("1", "/a")];
    let head = serde_json::json!({
        "origin": { "cluster": "ca", "group": "prod" },
        "lineage": "line",
        "revision": 7,
        "digest": digest("line", &objects).to_string(),
    });
    fs::create_dir(settings.dir()).unwrap();
    let key = StateKey::read_or_make(&settings, None).unwrap();
    let file = directory::create(&directory::path(settings.dir(), Kind::Checkpoint, 1)).unwrap();
    let writer = Writer::begin(file, &key, Kind::Checkpoint, 1, head.to_string().into_bytes()).unwrap();
    writer.push(encode_objects(objects).unwrap()).unwrap();
    let mut node = Node::start(&settings).await;
    let held = node.held.as_ref().unwrap();
    assert_eq!((held.position().revision, held.mark()), (7, ""));
    node.change("2", Some("/b")).await;
    assert_eq!(node.held.as_ref().map(Holdings::mark), Some(&*mark(8)));
    let last = node.end();
    assert_eq!(found(&settings).await, Some(last));
}

#[tokio::test]
async fn an_empty_configuration_is_one() {
    let (_home, settings) = home();
    let mut node = Node::start(&settings).await;
    node.whole("line", 0, &[]).await;
    let last = node.end();
    assert_eq!(found(&settings).await, Some(last));
}

#[tokio::test]
async fn every_start_goes_on_where_the_last_one_ended() {
    let (_home, settings) = home();
    let mut node = Node::start(&settings).await;
    node.whole("line", 1, &[("1", "/a")]).await;
    let mut last = node.end();
    for round in 0..5 {
        let mut node = Node::start(&settings).await;
        assert_eq!(node.held.as_ref().map(state_of), Some(last));
        node.change("2", Some(&format!("/{round}"))).await;
        node.change("3", (round % 2 == 0).then_some("/x")).await;
        last = node.end();
    }
    assert_eq!(last.1, 11);
    let node = Node::start(&settings).await;
    assert_eq!((node.figures().generation, node.figures().generations), (1, 1));
    assert_eq!(node.end(), last);
}

#[tokio::test]
async fn changes_fold_and_old_generations_go() {
    let (_home, settings) = home();
    let settings = eager(State { generations: 2, ..settings });
    let mut node = Node::start(&settings).await;
    node.whole("line", 1, &[("1", "/a")]).await;
    for round in 0..6 {
        let before = node.figures().generation;
        node.change("2", Some(&format!("/{round}"))).await;
        node.until("a new generation", |figures| figures.generation > before).await;
    }
    node.until("two are kept", |figures| figures.generations == 2).await;
    assert_eq!(node.figures().revision, Some(7));
    let last = node.end();
    assert_eq!(found(&settings).await, Some(last));
}

#[tokio::test]
async fn another_lineage_replaces_the_one_before() {
    let (_home, settings) = home();
    let mut node = Node::start(&settings).await;
    node.whole("old", 90, &[("1", "/a")]).await;
    node.change("2", Some("/b")).await;
    node.whole("new", 3, &[("9", "/z")]).await;
    node.change("8", Some("/y")).await;
    let last = node.end();
    assert_eq!((last.0.as_str(), last.1), ("new", 4));
    assert_eq!(found(&settings).await, Some(last));
}

#[tokio::test]
async fn the_files_are_for_one_group_of_one_cluster() {
    let (_home, settings) = home();
    let mut node = Node::start(&settings).await;
    node.whole("line", 1, &[("1", "/a")]).await;
    let last = node.end();
    for other in [origin("test"), Origin { cluster: "another".to_owned(), ..origin("prod") }] {
        assert!(Node::start_in(&settings, Some(other)).await.held.is_none());
    }
    // A node that has lost its certificate and has no token knows of none.
    assert_eq!(Node::start_in(&settings, None).await.held.as_ref().map(state_of), Some(last.clone()));
    assert_eq!(Node::start_in(&settings, Some(origin("prod"))).await.end(), last);
}

#[tokio::test]
async fn nothing_opens_without_the_key() {
    let (_home, settings) = home();
    let mut node = Node::start(&settings).await;
    node.whole("line", 1, &[("1", "/a")]).await;
    let last = node.end();
    let (key, away) = (settings.key_path(), settings.key_path().with_extension("away"));
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::rename(&key, &away).unwrap();
    let mut node = Node::start(&settings).await;
    assert!(node.held.is_none());
    assert_eq!(node.figures().damaged, 1);
    // It makes a key of its own, under which the former files stay closed.
    node.whole("line", 5, &[("2", "/b")]).await;
    assert_eq!(node.end().1, 5);
    fs::rename(&away, &key).unwrap();
    assert_eq!(found(&settings).await, Some(last));
}

#[tokio::test]
async fn a_key_that_is_removed_is_put_back() {
    let (_home, settings) = home();
    let mut node = Node::start(&settings).await;
    node.whole("line", 1, &[("1", "/a")]).await;
    let key = fs::read(settings.key_path()).unwrap();
    fs::remove_file(settings.key_path()).unwrap();
    node.change("2", Some("/b")).await;
    eventually("the key is back", async || fs::read(settings.key_path()).is_ok_and(|found| found == key)).await;
    let last = node.end();
    assert_eq!(found(&settings).await, Some(last));
}

#[tokio::test]
async fn a_directory_serves_one_node() {
    let (_home, settings) = home();
    let node = Node::start(&settings).await;
    let DirectoryInUse { dir } = LastGood::open(settings.clone(), None).err().expect("it is in use");
    assert_eq!(dir, settings.dir());
    drop(node);
    Node::start(&settings).await;
}

#[tokio::test]
async fn a_key_open_to_others_is_an_alarm_and_works() {
    let (_home, settings) = home();
    let mut node = Node::start(&settings).await;
    node.whole("line", 1, &[("1", "/a")]).await;
    let last = node.end();
    fs::set_permissions(settings.key_path(), fs::Permissions::from_mode(0o644)).unwrap();
    let mut node = Node::start(&settings).await;
    assert_eq!(node.held.as_ref().map(state_of), Some(last));
    assert!(node.figures().warning.unwrap().contains("chmod 600"));
    fs::set_permissions(settings.key_path(), fs::Permissions::from_mode(0o600)).unwrap();
    node.change("2", Some("/b")).await;
    node.until("no alarm", |figures| figures.warning.is_none()).await;
}
