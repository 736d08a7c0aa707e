//! What is written, what is read again, and what becomes of damaged files and of a disk that does not take any.

mod damage;
mod disk;
mod life;
mod trail;

use super::{LastGood, LastGoodFigures, Origin, Step};
use crate::node::holdings::{Holdings, SnapshotHead};
use crate::node::tests::{compiler, delete, put, route};
use milecastle_settings::{Size, State, Time};
use milecastle_testkit::{TempDir, eventually};
use milecastle_wire::{Digest, DigestKey, encode_delta, pb};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn origin(group: &str) -> Origin {
    Origin { cluster: "ca".to_owned(), group: group.to_owned() }
}

/// Settings that do not let a test wait.
fn settings(dir: PathBuf) -> State {
    State {
        dir: Some(dir),
        sync_delay: Time::millis(1),
        retry_interval: Time::millis(5),
        write_timeout: Time::secs(60),
        ..State::default()
    }
}

/// A node as far as this module is concerned: what it holds, and where it keeps that.
struct Node {
    kept: LastGood,
    held: Option<Holdings>,
    objects: BTreeMap<String, pb::Object>,
}

impl Node {
    /// Starts on a directory, once another of this test has let go of it.
    async fn start(settings: &State) -> Self {
        Self::start_in(settings, Some(origin("prod"))).await
    }

    async fn start_in(settings: &State, of: Option<Origin>) -> Self {
        let mut open = None;
        eventually("the directory is free", async || {
            open = LastGood::open(settings.clone(), None).ok();
            open.is_some()
        })
        .await;
        let kept = open.unwrap();
        let loader = kept.loader();
        let load = move || loader.load(of.as_ref(), &compiler());
        let held = tokio::task::spawn_blocking(load).await.unwrap().map(|(held, _)| held);
        let objects = held.iter().flat_map(Holdings::objects).map(|object| (id(&object), object)).collect();
        Self { kept, held, objects }
    }

    /// A whole configuration of a lineage, with these routes.
    async fn whole(&mut self, lineage: &str, revision: u64, routes: &[(&str, &str)]) {
        self.objects = routes.iter().map(|(id, uri)| ((*id).to_owned(), route(id, uri))).collect();
        let objects: Vec<_> = self.objects.values().cloned().collect();
        let digest = digest(lineage, &objects).into();
        let head = SnapshotHead { lineage: lineage.to_owned(), revision, digest, mark: mark(revision) };
        let held = Holdings::from_objects(&compiler(), self.held.as_ref(), &head, &objects).unwrap();
        self.kept.keep(Step::Whole, &held, &origin("prod")).await;
        self.held = Some(held);
    }

    /// The next revision: a route put, or deleted.
    async fn change(&mut self, id: &str, uri: Option<&str>) {
        let held = self.held.take().unwrap();
        let from = held.position().clone();
        let change = match uri {
            Some(uri) => {
                self.objects.insert(id.to_owned(), route(id, uri));
                put(&self.objects[id])
            }
            None => {
                self.objects.remove(id);
                delete("route", id)
            }
        };
        let objects: Vec<_> = self.objects.values().cloned().collect();
        let lineage = from.lineage.to_string();
        let digest = digest(&lineage, &objects).into();
        let (from_revision, to) = (from.revision, from.revision + 1);
        let changes = vec![change];
        let delta = pb::Delta { lineage, from: from_revision, to, digest, changes, chunk: None, mark: mark(to) };
        let next = held.after(&compiler(), &delta).unwrap();
        self.kept.keep(Step::Delta { from, bytes: encode_delta(&delta) }, &next, &origin("prod")).await;
        self.held = Some(next);
    }

    fn figures(&self) -> LastGoodFigures {
        self.kept.figures().lock().unwrap().clone()
    }

    async fn until(&self, what: &str, condition: impl Fn(&LastGoodFigures) -> bool) {
        eventually(what, async || condition(&self.figures())).await;
    }

    /// Ends it; gives what it held.
    fn end(self) -> State4 {
        state_of(self.held.as_ref().unwrap())
    }
}

/// Lineage, revision, digest and objects.
type State4 = (String, u64, Digest, BTreeMap<String, bytes::Bytes>);

fn state_of(held: &Holdings) -> State4 {
    let position = held.position().clone();
    let objects = held.objects().map(|object| (id(&object), object.body)).collect();
    (position.lineage.to_string(), position.revision, position.digest, objects)
}

/// What the control plane tells a revision by.
fn mark(revision: u64) -> String {
    format!("mark of {revision}")
}

fn id(object: &pb::Object) -> String {
    object.key.as_ref().unwrap().id.clone()
}

fn digest(lineage: &str, objects: &[pb::Object]) -> Digest {
    let key = DigestKey::of_lineage(lineage);
    objects.iter().map(|object| key.wire_object(object)).sum()
}

/// What a start on these settings finds.
async fn found(settings: &State) -> Option<State4> {
    Node::start(settings).await.held.as_ref().map(state_of)
}

/// Has every change fold.
fn eager(settings: State) -> State {
    State { fold_at: Size::bytes(1), ..settings }
}

fn home() -> (TempDir, State) {
    let home = TempDir::new();
    let settings = settings(home.path().join("state"));
    (home, settings)
}
