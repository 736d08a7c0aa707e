//! A disk that does not take what it should: the node goes on, says so, and catches up.

use super::{Node, eager, found, home};
use std::fs;

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_no_reason_to_stop() {
    let (home, settings) = home();
    home.write("state", "a file where the directory should be");
    let mut node = Node::start(&settings).await;
    assert!(node.figures().fault.unwrap().contains("state"));
    node.whole("line", 1, &[("1", "/a")]).await;
    node.change("2", Some("/b")).await;
    let figures = node.figures();
    assert!(figures.fault.is_some() && figures.failures > 0);
    assert_eq!((figures.revision, figures.generation), (None, 0));
    fs::remove_file(settings.dir()).unwrap();
    node.until("it is kept", |figures| figures.fault.is_none() && figures.revision == Some(2)).await;
    node.change("3", Some("/c")).await;
    let last = node.end();
    assert_eq!(found(&settings).await, Some(last));
}

#[tokio::test]
async fn a_directory_that_is_removed_is_made_again() {
    let (home, settings) = home();
    let mut node = Node::start(&settings).await;
    node.whole("line", 1, &[("1", "/a")]).await;
    node.change("2", Some("/b")).await;
    node.until("the first are kept", |figures| figures.revision == Some(2) && figures.generations == 1).await;
    // What is still to be forced to the disk would find the key gone, and have all made again before a record fails.
    node.kept.keeper.handle().at_rest().await;
    // Moved away first: what is put back while files are being removed would be in the way.
    let away = home.path().join("away");
    fs::rename(settings.dir(), &away).unwrap();
    fs::remove_dir_all(&away).unwrap();
    // A record into a file that is gone, which nobody would ever find.
    node.change("3", Some("/c")).await;
    node.until("a generation in the new directory", |figures| figures.generation > 1 && figures.fault.is_none()).await;
    assert!(node.figures().failures > 0);
    node.change("4", Some("/d")).await;
    let last = node.end();
    assert_eq!(found(&settings).await, Some(last));
}

#[tokio::test]
async fn checkpoints_that_cannot_be_written_are_tried_again_while_changes_are_kept() {
    let (_home, settings) = home();
    let settings = eager(settings);
    let mut node = Node::start(&settings).await;
    node.whole("line", 1, &[("1", "/a")]).await;
    node.until("the first generation", |figures| figures.generations == 1).await;
    // In the way of the next ones, whatever their numbers.
    let obstacles: Vec<_> =
        (2..400).map(|n| settings.dir().join(format!("generation-{n:012}.checkpoint.new"))).collect();
    obstacles.iter().for_each(|path| fs::create_dir(path).unwrap());
    for round in 0..4 {
        node.change("2", Some(&format!("/{round}"))).await;
    }
    node.until("the fault", |figures| figures.fault.is_some()).await;
    assert_eq!((node.figures().generation, node.figures().revision), (1, Some(5)));
    obstacles.iter().for_each(|path| fs::remove_dir(path).unwrap());
    node.until("the next generation", |figures| figures.generation > 1 && figures.fault.is_none()).await;
    node.change("3", None).await;
    let last = node.end();
    assert_eq!(found(&settings).await, Some(last));
}

#[tokio::test]
async fn changes_that_cannot_be_written_lead_to_a_checkpoint() {
    let (_home, settings) = home();
    let mut node = Node::start(&settings).await;
    node.whole("line", 1, &[("1", "/a")]).await;
    node.until("the first generation", |figures| figures.generations == 1).await;
    let obstacle = settings.dir().join("generation-000000000002.changes");
    fs::create_dir(&obstacle).unwrap();
    node.change("2", Some("/b")).await;
    node.until("a checkpoint instead", |figures| figures.revision == Some(2) && figures.fault.is_none()).await;
    let figures = node.figures();
    assert!(figures.failures > 0 && figures.generation > 1, "{figures:?}");
    let last = node.end();
    assert_eq!(found(&settings).await, Some(last));
}

#[tokio::test]
async fn a_key_that_is_none_is_told_and_let_be() {
    let (_home, settings) = home();
    fs::create_dir(settings.dir()).unwrap();
    fs::write(settings.key_path(), "no key").unwrap();
    let mut node = Node::start(&settings).await;
    node.whole("line", 1, &[("1", "/a")]).await;
    assert!(node.figures().fault.unwrap().contains("base64"));
    assert_eq!(fs::read_to_string(settings.key_path()).unwrap(), "no key");
    fs::remove_file(settings.key_path()).unwrap();
    node.until("it is kept", |figures| figures.fault.is_none() && figures.revision == Some(1)).await;
    let last = node.end();
    assert_eq!(found(&settings).await, Some(last));
}
