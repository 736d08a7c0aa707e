//! Several processes at one database: writers, first starts, and one that is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use bytes::Bytes;
use milecastle_model::Change;
use milecastle_store::{AuditFilter, AuditScope, Body, DEFAULT_GROUP, Op, Put, Slot, Store};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::task::JoinSet;

use crate::home::{Home, ann, body, on_both, publish, put, revision, route, state};

on_both!(
    writers_of_two_processes_lose_nothing,
    first_starts_of_several_processes_make_everything_once,
    a_killed_writer_leaves_a_consistent_store,
    a_watch_hears_another_process,
);

const WRITERS: usize = 16;
const WRITES: usize = 8;

/// What other processes say goes after this mark, apart from the test harness's own output.
const MARK: &str = "@@ ";

fn say(line: &str) {
    // Written to the real standard output, which the harness does not capture.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{MARK}{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// The next thing that the process says; `None` when it has ended.
async fn hear(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some(said) = line.strip_prefix(MARK) {
            return Some(said.to_owned());
        }
    }
    None
}

fn lines(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().unwrap()).lines()
}

/// Adds one to the number in route `counter`.
fn count() -> Op {
    let make = |slot: &Slot<'_>| {
        let stored = slot.stored.map_or(0, |object| String::from_utf8_lossy(&object.body).parse::<u64>().unwrap());
        Bytes::from((stored + 1).to_string())
    };
    Op::Put(Put { body: Body::make(make), ..Put::new(route("counter"), "") })
}

/// Writes with all writers of one process; gives for each write the revision, the writer and which of its writes it was.
async fn write_all(store: &Store, process: &str) -> Vec<(u64, String)> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (store, name) = (store.clone(), format!("{process}{writer}"));
        writers.spawn(async move {
            let mut made = Vec::new();
            for n in 0..WRITES {
                let word = format!("{name}-{n}");
                made.push((revision(&store, vec![put(route(&name), &word), count()]).await, word));
            }
            made
        });
    }
    writers.join_all().await.into_iter().flatten().collect()
}

async fn writers_of_two_processes_lose_nothing(home: Home) {
    let store = home.open().await;
    if home.role.is_some() {
        for (revision, word) in write_all(&store, "b").await {
            say(&format!("{revision} {word}"));
        }
        return;
    }
    let mut child = home.spawn("write");
    let mut theirs = lines(&mut child);
    let mut made: BTreeMap<u64, String> = BTreeMap::new();
    let total = 2 * WRITERS * WRITES;
    for (revision, word) in write_all(&store, "a").await {
        assert_eq!(made.insert(revision, word), None, "revision {revision} twice");
    }
    while let Some(said) = hear(&mut theirs).await {
        let (revision, word) = said.split_once(' ').unwrap();
        assert_eq!(made.insert(revision.parse().unwrap(), word.to_owned()), None, "revision {revision} twice");
    }
    assert!(child.wait().await.unwrap().success());
    assert!(made.keys().copied().eq(1..=total as u64), "a gap: {:?}", made.keys());
    assert_eq!(store.head(DEFAULT_GROUP).await.unwrap().revision, total as u64);
    assert!(state(&store).await.contains(&format!("/routes/counter={total}")), "a lost write");
    for (revision, word) in made {
        let history = store.history_get(DEFAULT_GROUP, revision).await.unwrap().unwrap();
        let bodies: BTreeSet<Bytes> = history.changes.into_iter().map(put_body).collect();
        assert_eq!(bodies, BTreeSet::from([revision.to_string().into(), body(&word).into()]), "revision {revision}");
    }
}

fn put_body(change: Change) -> Bytes {
    match change {
        Change::Put(object) => object.body,
        Change::Delete { key, .. } => panic!("{key} was deleted"),
    }
}

async fn first_starts_of_several_processes_make_everything_once(home: Home) {
    let start = async || {
        let store = home.open().await;
        let secret = store.secret_get_or_create("ca", || uuid().into_bytes()).await.unwrap();
        let secret = String::from_utf8_lossy(secret.expose()).into_owned();
        let first =
            store.by(ann()).admin_key_put_first("admin", milecastle_store::Role::Admin, &[1; 32]).await.unwrap();
        let groups = store.group_list().await.unwrap();
        (format!("{} {secret} {}", groups[0].lineage, groups.len()), first)
    };
    if home.role.is_some() {
        // Everybody has started when the line comes; only then does the race begin.
        say("ready");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        let (made, first) = start().await;
        return say(&format!("{first} {made}"));
    }
    let mut others: Vec<_> = (0..4).map(|_| home.spawn("start")).map(|mut child| (lines(&mut child), child)).collect();
    for (said, _) in &mut others {
        assert_eq!(hear(said).await.unwrap(), "ready");
    }
    for (_, child) in &mut others {
        child.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    }
    let (mine, first) = start().await;
    let mut firsts = usize::from(first);
    for (said, child) in &mut others {
        let heard = hear(said).await.unwrap();
        let (first, theirs) = heard.split_once(' ').unwrap();
        assert_eq!(theirs, mine);
        firsts += usize::from(first == "true");
        assert!(child.wait().await.unwrap().success());
    }
    assert_eq!(firsts, 1, "the admin key is made, and shown, once");
    assert!(mine.ends_with(" 1"), "one group: {mine}");
}

/// Something that no other process makes.
fn uuid() -> String {
    format!("{}-{:?}", std::process::id(), std::time::Instant::now()).replace(' ', "")
}

async fn a_killed_writer_leaves_a_consistent_store(home: Home) {
    let store = home.open().await;
    if home.role.is_some() {
        let mut writers = JoinSet::new();
        for writer in 0..4 {
            let store = store.clone();
            writers.spawn(async move {
                for n in 0_u64.. {
                    // Of this process alone: an equal body, left by the one killed before, would make no revision.
                    let word = format!("{}-{writer}-{n}", std::process::id());
                    let revision =
                        revision(&store, (0..5).map(|id| put(route(&id.to_string()), &word)).collect()).await;
                    say(&revision.to_string());
                }
            });
        }
        writers.join_all().await;
        return;
    }
    let mut told = 0;
    for _ in 0..5 {
        let mut child = home.spawn("write");
        let mut said = lines(&mut child);
        for _ in 0..10 {
            told = told.max(hear(&mut said).await.unwrap().parse::<u64>().unwrap());
        }
        child.kill().await.unwrap();
        while let Some(said) = hear(&mut said).await {
            told = told.max(said.parse().unwrap_or(0));
        }
        // Waits for whatever the killed process had under way, and goes on from there.
        let mine = publish(&store, vec![put(route("mine"), &told.to_string())]).await.unwrap();
        assert!(mine.revision > told, "revision {told} was told, and is lost");
    }
    let snapshot = store.load(DEFAULT_GROUP).await.unwrap();
    let bodies: BTreeSet<Bytes> =
        snapshot.objects.iter().filter(|o| &*o.key.id != "mine").map(|object| object.body.clone()).collect();
    assert_eq!(bodies.len(), 1, "half a change set: {bodies:?}");
    let all = AuditScope { groups: None, access: true };
    let entries = store.audit_list(&AuditFilter::default(), &all, u64::MAX).await.unwrap();
    let mut audited: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in entries {
        *audited.entry(entry.revision.unwrap()).or_default() += 1;
    }
    let mut folded: BTreeMap<String, Bytes> = BTreeMap::new();
    for revision in 1..=snapshot.revision {
        let made = store.history_get(DEFAULT_GROUP, revision).await.unwrap().expect("history has no gap");
        assert_eq!(made.changes.len() as u64, made.info.puts + made.info.deletes);
        assert_eq!(audited.remove(&revision), Some(made.info.puts), "entries of revision {revision}");
        folded.extend(made.changes.into_iter().map(|change| (change.key().path(), put_body(change))));
    }
    let stored = snapshot.objects.into_iter().map(|object| (object.key.path(), object.body));
    assert_eq!(stored.collect::<BTreeMap<_, _>>(), folded);
    assert!(store.history_get(DEFAULT_GROUP, snapshot.revision + 1).await.unwrap().is_none());
    assert!(audited.is_empty(), "entries of what was not done: {audited:?}");
}

async fn a_watch_hears_another_process(home: Home) {
    let store = home.open().await;
    if home.role.is_some() {
        revision(&store, vec![put(route("1"), "a")]).await;
        return;
    }
    let mut watch = store.watch();
    let mut child = home.spawn("write");
    let heads = watch.changed().await.unwrap();
    assert_eq!(heads[DEFAULT_GROUP].revision, 1);
    assert!(child.wait().await.unwrap().success());
}
