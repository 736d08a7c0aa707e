//! What a process that was replaced sees of what its successor keeps.

use super::super::Trail;
use super::{Node, State4, eager, home, origin, state_of};
use crate::node::tests::compiler;
use milecastle_settings::State;
use milecastle_testkit::eventually;
use std::fs;
use std::path::PathBuf;

/// A process that has been replaced with this configuration, and its successor.
async fn replaced(settings: &State) -> (Trail, Node) {
    let mut first = Node::start(settings).await;
    first.whole("line", 7, &[("1", "/a"), ("2", "/b")]).await;
    first.change("3", Some("/c")).await;
    let held = first.held.take().unwrap();
    assert!(first.kept.settle(&held, &origin("prod")).await);
    let trail = first.kept.into_trail(held, origin("prod")).await;
    (trail, Node::start(settings).await)
}

impl Node {
    fn state(&self) -> State4 {
        state_of(self.held.as_ref().unwrap())
    }

    /// The newest file of changes, and what stands in it.
    fn newest_changes(&self, settings: &State) -> (PathBuf, Vec<u8>) {
        let entries = fs::read_dir(settings.dir()).unwrap().map(|entry| entry.unwrap().path());
        let changes = entries.filter(|path| path.extension().is_some_and(|extension| extension == "changes"));
        let path = changes.max().unwrap();
        let bytes = fs::read(&path).unwrap();
        (path, bytes)
    }
}

/// What a look brings, without a fault.
fn look(trail: &mut Trail) -> Option<State4> {
    let look = trail.look(&compiler());
    assert_eq!(look.fault, None);
    look.news.as_ref().map(state_of)
}

#[tokio::test]
async fn changes_are_followed_as_they_are_written() {
    let (_home, settings) = home();
    let (mut trail, mut second) = replaced(&settings).await;
    assert_eq!(look(&mut trail), None, "both hold the same");
    for n in 0..3 {
        second.change("1", Some(&format!("/{n}"))).await;
        second.change("2", (n == 1).then_some("/back")).await;
        assert_eq!(look(&mut trail), Some(second.state()));
        assert_eq!(look(&mut trail), None, "a look brings what is new");
    }
    drop(second);
    // The next one writes to files of its own.
    let mut third = Node::start(&settings).await;
    third.change("4", Some("/d")).await;
    assert_eq!(look(&mut trail), Some(third.state()));
}

#[tokio::test]
async fn generations_that_come_and_go_between_two_looks_are_no_hindrance() {
    let (_home, settings) = home();
    let settings = eager(State { generations: 1, ..settings });
    let (mut trail, mut second) = replaced(&settings).await;
    for n in 0..8 {
        let before = second.figures().generation;
        second.change("1", Some(&format!("/{n}"))).await;
        second.until("a new generation", |figures| figures.generation > before).await;
        if n % 4 == 3 {
            // The generation that was listed may be gone when it is read; the next look finds the one after it.
            eventually("what was written is found", async || look(&mut trail) == Some(second.state())).await;
        }
    }
    assert_eq!(look(&mut trail), None);
}

#[tokio::test]
async fn a_configuration_that_replaces_the_one_before_is_followed() {
    let (_home, settings) = home();
    let (mut trail, mut second) = replaced(&settings).await;
    second.change("1", None).await;
    second.whole("another", 2, &[("9", "/z")]).await;
    second.change("8", Some("/y")).await;
    assert_eq!(look(&mut trail), Some(second.state()));
    second.change("7", Some("/x")).await;
    assert_eq!(look(&mut trail), Some(second.state()));
}

#[tokio::test]
async fn what_is_not_written_to_its_end_is_waited_for() {
    let (_home, settings) = home();
    let (mut trail, mut second) = replaced(&settings).await;
    second.change("1", Some("/x")).await;
    let before = second.state();
    let (path, begun) = second.newest_changes(&settings);
    second.change("2", Some("/y")).await;
    let (_, whole) = second.newest_changes(&settings);
    // At first not even the head of the file is there.
    for cut in [0, 10, begun.len() / 2] {
        fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(look(&mut trail), None);
    }
    for cut in [begun.len() + 3, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        let news = look(&mut trail);
        assert_eq!(news, (cut == begun.len() + 3).then(|| before.clone()));
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(look(&mut trail), Some(second.state()));
}

#[tokio::test]
async fn damage_is_told_and_the_next_generation_leads_on() {
    let (_home, settings) = home();
    let (mut trail, mut second) = replaced(&settings).await;
    second.change("1", Some("/x")).await;
    let (path, mut bytes) = second.newest_changes(&settings);
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    for _ in 0..2 {
        let look = trail.look(&compiler());
        assert!(look.news.is_none());
        let fault = look.fault.unwrap();
        assert!(fault.starts_with(&*path.to_string_lossy()) && fault.contains("it is damaged"), "{fault}");
    }
    second.whole("line", 20, &[("5", "/e")]).await;
    assert_eq!(look(&mut trail), Some(second.state()), "what is damaged is behind");
    second.change("6", Some("/f")).await;
    assert_eq!(look(&mut trail), Some(second.state()));
}
