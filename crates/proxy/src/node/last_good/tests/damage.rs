//! Damaged, moved and foreign files: an older good configuration or none, never a wrong one, never a panic.

use super::super::directory;
use super::super::file::{Kind, Reader, StateKey, Writer};
use super::super::generation::{self, find};
use super::{Node, State4, eager, home, origin, state_of};
use crate::node::tests::compiler;
use milecastle_settings::State;
use milecastle_testkit::TempDir;
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Cases of a run; with `cargo xtask test --full` 10,000.
fn cases() -> u32 {
    if std::env::var_os("MILECASTLE_TEST_FULL").is_some() { 10_000 } else { 300 }
}

/// Files by name.
type Files = BTreeMap<String, Vec<u8>>;

fn files(dir: &Path) -> Files {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    fs::read_dir(dir).unwrap().map(read).collect()
}

/// A directory with three generations and changes after each, in two lineages, and every state that the node was in.
struct Past {
    settings: State,
    files: Files,
    states: Vec<State4>,
    /// The same of another group under the same key, and of the same group under another key.
    foreign: [Files; 2],
    _home: TempDir,
}

impl Past {
    async fn new() -> Self {
        let (_home, settings) = home();
        let mut states = Vec::new();
        let mut node = Node::start(&settings).await;
        for (lineage, base) in [("old", 40), ("new", 3), ("new", 9)] {
            node.whole(lineage, base, &[("1", "/a"), ("2", "/b"), (lineage, "/l")]).await;
            states.push(state_of(node.held.as_ref().unwrap()));
            for n in 0..4 {
                node.change(&n.to_string(), (n != 1).then_some("/changed")).await;
                states.push(state_of(node.held.as_ref().unwrap()));
            }
        }
        node.until("three generations", |figures| figures.generations == 3).await;
        drop(node);
        let key = StateKey::read(&settings).unwrap().unwrap();
        let foreign = [Self::foreign("test", &key).await, Self::foreign("prod", &StateKey([9; 32])).await];
        Self { files: files(settings.dir()), settings, states, foreign, _home }
    }

    /// Generations of the same numbers with objects that this node never had.
    async fn foreign(group: &str, key: &StateKey) -> Files {
        let (home, settings) = home();
        let mut node = Node::start(&settings).await;
        node.whole("new", 11, &[("1", "/foreign")]).await;
        let held = node.held.take().unwrap();
        for number in 1..=3 {
            let place = |kind| home.path().join(directory::path(Path::new(""), kind, number));
            let file = directory::create(&place(Kind::Checkpoint)).unwrap();
            generation::write_checkpoint(&file, key, number, &origin(group), &held).unwrap();
            let file = directory::create(&place(Kind::Changes)).unwrap();
            generation::begin_changes(&file, key, number, &origin(group), held.position()).unwrap();
        }
        fs::remove_dir_all(settings.dir()).unwrap();
        files(home.path())
    }

    /// What a start on these files finds.
    fn load(&self, files: &Files) -> Option<State4> {
        let home = TempDir::new();
        files.iter().for_each(|(name, content)| drop(home.write(name, content)));
        let settings = State { dir: Some(home.path().to_owned()), ..self.settings.clone() };
        let key = StateKey::read(&settings).ok().flatten()?;
        let listing = directory::list(home.path()).unwrap();
        let found = find(&listing, &key, Some(&origin("prod")), &compiler(), |_, _| ())?;
        assert_eq!(found.origin, origin("prod"));
        Some(state_of(&found.holdings))
    }
}

/// What happens to the files.
#[derive(Debug, Clone)]
enum Damage {
    Flip {
        file: Index,
        at: Index,
        bit: u8,
    },
    Overwrite {
        file: Index,
        at: Index,
        with: Vec<u8>,
    },
    Truncate {
        file: Index,
        at: Index,
    },
    Append {
        file: Index,
        bytes: Vec<u8>,
    },
    Remove {
        file: Index,
    },
    /// Two files change places.
    Swap {
        one: Index,
        other: Index,
    },
    /// A file is found under another number too, one that may be in use.
    Copy {
        file: Index,
        number: u64,
    },
    /// A stretch of a file comes twice, or is moved: records too, for these are stretches.
    Repeat {
        file: Index,
        from: Index,
        to: Index,
    },
    Move {
        file: Index,
        from: Index,
        to: Index,
        behind: Index,
    },
    /// Whole records come twice, change places, or come from another file.
    Records {
        file: Index,
        order: Vec<Index>,
        other: Index,
    },
    /// A file of another group or key takes its place.
    Foreign {
        which: usize,
        file: Index,
    },
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<Index>;
    let bytes = || prop::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        6 => (index(), index(), 0..8_u8).prop_map(|(file, at, bit)| Damage::Flip { file, at, bit }),
        2 => (index(), index(), bytes()).prop_map(|(file, at, with)| Damage::Overwrite { file, at, with }),
        4 => (index(), index()).prop_map(|(file, at)| Damage::Truncate { file, at }),
        1 => (index(), bytes()).prop_map(|(file, bytes)| Damage::Append { file, bytes }),
        2 => index().prop_map(|file| Damage::Remove { file }),
        2 => (index(), index()).prop_map(|(one, other)| Damage::Swap { one, other }),
        2 => (index(), 0..9_u64).prop_map(|(file, number)| Damage::Copy { file, number }),
        2 => (index(), index(), index()).prop_map(|(file, from, to)| Damage::Repeat { file, from, to }),
        1 => (index(), index(), index(), index())
            .prop_map(|(file, from, to, behind)| Damage::Move { file, from, to, behind }),
        4 => (index(), prop::collection::vec(index(), 1..6), index())
            .prop_map(|(file, order, other)| Damage::Records { file, order, other }),
        2 => (0..2_usize, index()).prop_map(|(which, file)| Damage::Foreign { which, file }),
    ]
}

/// The header, and the records one by one.
fn records(file: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let Some((header, mut rest)) = file.split_at_checked(56) else { return (file, Vec::new()) };
    let mut records = Vec::new();
    while let Some(length) = rest.first_chunk::<4>() {
        let Some((record, after)) = rest.split_at_checked(16 + u32::from_le_bytes(*length) as usize) else { break };
        records.push(record);
        rest = after;
    }
    (header, records)
}

impl Damage {
    fn does(&self, files: &mut Files, foreign: &[Files; 2]) {
        let names: Vec<String> = files.keys().cloned().collect();
        let name = |index: &Index| names[index.index(names.len())].clone();
        match self {
            _ if names.is_empty() => {}
            Self::Flip { file, at, bit } => {
                let file = files.get_mut(&name(file)).unwrap();
                if !file.is_empty() {
                    let at = at.index(file.len());
                    file[at] ^= 1 << bit;
                }
            }
            Self::Overwrite { file, at, with } => {
                let file = files.get_mut(&name(file)).unwrap();
                let at = at.index(file.len() + 1);
                let end = (at + with.len()).min(file.len());
                file.splice(at..end, with.iter().copied());
            }
            Self::Truncate { file, at } => {
                let file = files.get_mut(&name(file)).unwrap();
                file.truncate(at.index(file.len() + 1));
            }
            Self::Append { file, bytes } => files.get_mut(&name(file)).unwrap().extend(bytes),
            Self::Remove { file } => drop(files.remove(&name(file))),
            Self::Swap { one, other } => {
                let (one, other) = (name(one), name(other));
                if let Some(content) = files.insert(one.clone(), files[&other].clone()) {
                    files.insert(other, content);
                }
            }
            Self::Copy { file, number } => {
                let from = name(file);
                let kind = if from.ends_with("changes") { Kind::Changes } else { Kind::Checkpoint };
                let to = directory::path(Path::new(""), kind, *number).display().to_string();
                files.insert(to, files[&from].clone());
            }
            Self::Repeat { file, from, to } => {
                let file = files.get_mut(&name(file)).unwrap();
                let (from, to) = (from.index(file.len() + 1), to.index(file.len() + 1));
                let stretch = file[from.min(to)..from.max(to)].to_vec();
                file.splice(from.max(to)..from.max(to), stretch);
            }
            Self::Move { file, from, to, behind } => {
                let file = files.get_mut(&name(file)).unwrap();
                let (from, to) = (from.index(file.len() + 1), to.index(file.len() + 1));
                let stretch: Vec<u8> = file.drain(from.min(to)..from.max(to)).collect();
                let behind = behind.index(file.len() + 1);
                file.splice(behind..behind, stretch);
            }
            Self::Records { file, order, other } => {
                let (name, other) = (name(file), files[&name(other)].clone());
                let file = files[&name].clone();
                let (header, mut all) = records(&file);
                all.extend(records(&other).1);
                if !all.is_empty() {
                    let new = order.iter().map(|index| all[index.index(all.len())]);
                    let new = std::iter::once(header).chain(new).collect::<Vec<_>>().concat();
                    files.insert(name, new);
                }
            }
            Self::Foreign { which, file } => {
                let names: Vec<&String> = foreign[*which].keys().collect();
                let name = names[file.index(names.len())];
                files.insert(name.clone(), foreign[*which][name].clone());
            }
        }
    }
}

/// What an operator finds who goes back to this version from a later one.
#[tokio::test]
async fn a_later_version_s_members_are_overlooked_and_its_layout_costs_a_generation_at_most() {
    const NEWEST: u64 = 3;
    let past = Past::new().await;
    let key = StateKey::read(&past.settings).unwrap().unwrap();
    let checkpoint = directory::path(Path::new(""), Kind::Checkpoint, NEWEST).display().to_string();
    let file = &past.files[&checkpoint];

    let mut reader = Reader::open(&file[..], file.len() as u64, &key, Kind::Checkpoint, NEWEST).unwrap();
    let mut head: serde_json::Value = serde_json::from_slice(&reader.next().unwrap().unwrap()).unwrap();
    let objects = reader.next().unwrap().unwrap();
    head["of_a_later_version"] = serde_json::json!({ "a": 1 });
    let head = serde_json::to_vec(&head).unwrap();
    let writer = Writer::begin(Vec::new(), &key, Kind::Checkpoint, NEWEST, head).unwrap().push(objects).unwrap();
    let mut files = past.files.clone();
    files.insert(checkpoint.clone(), writer.sink().clone());
    assert_eq!(past.load(&files), past.states.last().cloned());

    let file = files.get_mut(&checkpoint).unwrap();
    file[8] += 1;
    let sum = crc32fast::hash(&file[..52]);
    file[52..56].copy_from_slice(&sum.to_le_bytes());
    // The generation before it and what leads on from there: how far that is depends on when the newest one was written.
    let found = past.load(&files).expect("the generation before it is whole");
    assert!(past.states.contains(&found), "never in force: {} of {}", found.1, found.0);
}

#[tokio::test]
async fn damaged_files_never_give_a_wrong_configuration() {
    let past = Past::new().await;
    let newest = past.states.last().cloned();
    assert_eq!(past.load(&past.files), newest);
    let config = ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
    let several = prop::collection::vec(damage(), 1..6);
    let run = proptest::test_runner::TestRunner::new(config).run(&several, |damages| {
        let mut files = past.files.clone();
        damages.iter().for_each(|damage| damage.does(&mut files, &past.foreign));
        let state = past.load(&files);
        if let Some(state) = &state {
            prop_assert!(past.states.contains(state), "never in force: {:?} at {}", state.0, state.1);
        }
        let key_stands = files.get("state-key") == past.files.get("state-key");
        if damages.len() == 1 && key_stands {
            // One damage leaves at least one generation whole.
            prop_assert!(state.is_some(), "a whole generation was not found");
        }
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}

#[tokio::test]
async fn a_spoilt_checkpoint_costs_nothing_while_the_one_before_is_whole() {
    let past = Past::new().await;
    let mut files = past.files.clone();
    let newest = directory::path(Path::new(""), Kind::Checkpoint, 5).display().to_string();
    assert!(files.remove(&newest).is_some(), "{:?}", past.files.keys());
    // The third generation was a whole configuration, to which no change leads: the end of the second is the best.
    assert_eq!(past.load(&files).as_ref(), past.states.get(9));
}

#[tokio::test]
async fn the_generation_before_leads_to_the_same_end() {
    let (_home, settings) = home();
    let settings = eager(settings);
    let mut node = Node::start(&settings).await;
    node.whole("line", 1, &[("1", "/a")]).await;
    for round in 0..3 {
        let before = node.figures().generation;
        node.change("2", Some(&format!("/{round}"))).await;
        node.until("a new generation", |figures| figures.generation > before && figures.generations > 1).await;
    }
    let newest = node.figures().generation;
    let last = node.end();
    let path = directory::path(settings.dir(), Kind::Checkpoint, newest);
    let mut content = fs::read(&path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&path, content).unwrap();
    let node = Node::start(&settings).await;
    assert_eq!(node.held.as_ref().map(state_of).as_ref(), Some(&last));
    assert_eq!(node.figures().damaged, 1);
    // It does not rest on the old one: a new generation is written at once.
    node.until("a new generation", |figures| figures.generation > newest).await;
    assert_eq!(node.end(), last);
}

#[tokio::test]
async fn changes_behind_a_damaged_one_are_not_taken() {
    let (_home, settings) = home();
    let mut node = Node::start(&settings).await;
    node.whole("line", 1, &[("1", "/a")]).await;
    let mut states = vec![state_of(node.held.as_ref().unwrap())];
    for n in 0..3 {
        node.change("2", Some(&format!("/{n}"))).await;
        states.push(state_of(node.held.as_ref().unwrap()));
    }
    drop(node);
    let path = directory::path(settings.dir(), Kind::Changes, 2);
    let whole = fs::read(&path).unwrap();
    let (header, records) = records(&whole);
    assert_eq!(records.len(), 4);
    // Without the second change.
    let cut = [&[header], &records[..2], &records[3..]].concat().concat();
    fs::write(&path, cut).unwrap();
    let mut node = Node::start(&settings).await;
    assert_eq!(node.held.as_ref().map(state_of).as_ref(), states.get(1));
    // What it goes on with is found, and not mistaken for a way on from the damaged file.
    node.change("3", Some("/other")).await;
    let last = node.end();
    assert_eq!(super::found(&settings).await, Some(last));
}
