//! What this node holds: the objects, their digest, and the snapshot built from them.
//!
//! A pure state machine: messages in, a new snapshot or a refusal out. A step is taken as a whole or not at all, and
//! the digest is always computed from what is held, never copied from a message. Settings of the group that cannot be
//! read refuse the step: no revision is built under other settings than it was judged with.

use crate::secrets::Changed;
use milecastle_model::{Change, Fault, Key, Object};
use milecastle_snapshot::{Compiler, Snapshot};
use milecastle_wire::{ConvertError, Digest, DigestKey, pb};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A step that was not taken, and why; what is held stays as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub fault: pb::refused::Fault,
    pub detail: String,
}

impl Refusal {
    fn new(fault: pb::refused::Fault, detail: impl Into<String>) -> Self {
        Self { fault, detail: detail.into() }
    }
}

/// Kind and id of an object as they travel.
type ForeignKey = (String, String);

/// Names a configuration: equal positions are equal configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    pub lineage: Arc<str>,
    pub revision: u64,
    pub digest: Digest,
}

/// The objects of one revision. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Holdings {
    position: Position,
    /// What came with the revision to tell it from another one of its number; empty if nothing did.
    mark: Arc<str>,
    snapshot: Arc<Snapshot>,
    /// Objects of kinds that this version does not know: held for the digest, reported as rejected.
    foreign: Arc<BTreeMap<ForeignKey, pb::Object>>,
    /// The generation of the secrets' values that the oldest form was built with, or an earlier one.
    built_with: u64,
}

impl Holdings {
    /// A whole configuration. Objects equal to those of `previous` are shared with it, and objects that cannot be built
    /// keep the form they have there.
    pub(crate) fn from_objects(
        compiler: &Compiler,
        previous: Option<&Self>,
        head: &SnapshotHead,
        objects: &[pb::Object],
    ) -> Result<Self, Refusal> {
        let key = DigestKey::of_lineage(&head.lineage);
        let digest = objects.iter().map(|object| key.wire_object(object)).sum();
        check_digest(digest, &head.digest)?;
        let position = Position { lineage: head.lineage.as_str().into(), revision: head.revision, digest };
        Self::build(compiler, previous, position, &head.mark, objects.iter())
    }

    /// A whole configuration of objects that are known to add up to the digest of `position`, whose revision has this `mark`.
    pub(crate) fn build<'a>(
        compiler: &Compiler,
        previous: Option<&Self>,
        position: Position,
        mark: &str,
        objects: impl Iterator<Item = &'a pb::Object>,
    ) -> Result<Self, Refusal> {
        let (mut known, mut foreign) = (Vec::with_capacity(objects.size_hint().0), BTreeMap::new());
        for object in objects {
            match Object::try_from(object) {
                Ok(object) => {
                    check_settings(compiler, &object)?;
                    known.push(object);
                }
                Err(ConvertError::UnknownKind { kind, id }) => drop(foreign.insert((kind, id), object.clone())),
                Err(error) => return Err(malformed(&error)),
            }
        }
        let (lineage, revision) = (&*position.lineage, position.revision);
        let (snapshot, _) = match previous {
            Some(held) => compiler.build_over(&held.snapshot, lineage, revision, known),
            None => compiler.build(lineage, revision, known),
        };
        let built_with = previous.map_or(0, |held| held.built_with);
        let (snapshot, foreign) = (Arc::new(snapshot), Arc::new(foreign));
        Ok(Self { position, mark: mark.into(), snapshot, foreign, built_with })
    }

    /// The configuration after a delta that has all of its changes.
    pub(crate) fn after(&self, compiler: &Compiler, delta: &pb::Delta) -> Result<Self, Refusal> {
        use pb::refused::Fault;
        let Position { lineage, revision, mut digest } = self.position.clone();
        if delta.lineage != *lineage {
            let detail = format!("delta of lineage {}, this node holds {lineage}", delta.lineage);
            return Err(Refusal::new(Fault::Lineage, detail));
        }
        if delta.from != revision || delta.to <= delta.from {
            let detail = format!("delta from {} to {}, this node stands at {revision}", delta.from, delta.to);
            return Err(Refusal::new(Fault::Gap, detail));
        }
        let key = DigestKey::of_lineage(&lineage);
        let mut foreign = Arc::clone(&self.foreign);
        let mut changes = Vec::with_capacity(delta.changes.len());
        for wire in &delta.changes {
            match Change::try_from(wire) {
                Ok(change) => {
                    if let Some(old) = self.snapshot.object(change.key()) {
                        digest -= key.object(old);
                    }
                    if let Change::Put(new) = &change {
                        digest += key.object(new);
                    }
                    changes.push(change);
                }
                Err(ConvertError::UnknownKind { kind, id }) => {
                    let foreign = Arc::make_mut(&mut foreign);
                    if let Some(old) = foreign.remove(&(kind.clone(), id.clone())) {
                        digest -= key.wire_object(&old);
                    }
                    if let Some(pb::change::Change::Put(new)) = &wire.change {
                        digest += key.wire_object(new);
                        foreign.insert((kind, id), new.clone());
                    }
                }
                Err(error) => return Err(malformed(&error)),
            }
        }
        check_digest(digest, &delta.digest)?;
        for change in &changes {
            if let Change::Put(new) = change {
                check_settings(compiler, new)?;
            }
        }
        let (snapshot, _) = compiler.apply(&self.snapshot, delta.to, &changes);
        let position = Position { lineage, revision: delta.to, digest };
        let (mark, snapshot, built_with) = (delta.mark.as_str().into(), Arc::new(snapshot), self.built_with);
        Ok(Self { position, mark, snapshot, foreign, built_with })
    }

    /// The same configuration, with the forms that `held` has of objects that are the same there.
    pub(crate) fn over(&self, held: &Self) -> Self {
        let Position { lineage, revision, .. } = &self.position;
        let objects = self.snapshot.all_objects().cloned().collect();
        let (snapshot, _) = self.snapshot.compiler().build_over(&held.snapshot, lineage, *revision, objects);
        Self { snapshot: Arc::new(snapshot), built_with: held.built_with, ..self.clone() }
    }

    /// The same without what was built of it: what is written to disk holds no value of a secret, nor a plugin's state.
    pub(crate) fn as_received(&self) -> Self {
        Self { snapshot: Arc::new(self.snapshot.as_received()), ..self.clone() }
    }

    /// The generation of the secrets' values that all of it is built with at least.
    pub(crate) fn built_with(&self) -> u64 {
        self.built_with
    }

    /// The same configuration with the values that secrets have now, if any that it names has changed.
    pub(crate) fn renewed(&self, changed: &Changed) -> Option<Self> {
        let concerned = |(key, references): (&Key, &[Box<str>])| {
            references.iter().any(|reference| changed.has(reference)).then(|| key.clone())
        };
        let keys: BTreeSet<Key> = self.snapshot.references().filter_map(concerned).collect();
        if keys.is_empty() {
            return None;
        }
        let (snapshot, _) = self.snapshot.again(keys);
        Some(Self { snapshot: Arc::new(snapshot), built_with: changed.until, ..self.clone() })
    }

    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    pub(crate) fn have(&self) -> pb::Have {
        let Position { lineage, revision, digest } = self.position.clone();
        pb::Have { lineage: lineage.to_string(), revision, digest: digest.into(), mark: self.mark.to_string() }
    }

    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// Every object as it came, in no particular order, of unknown kinds too.
    pub(crate) fn objects(&self) -> impl Iterator<Item = pb::Object> {
        self.snapshot.all_objects().map(Into::into).chain(self.foreign.values().cloned())
    }

    /// Everything that is in quarantine now.
    pub(crate) fn rejected(&self) -> Vec<pb::Rejection> {
        let known = self.snapshot.quarantined().map(|(key, reason, serving)| rejection(key, reason, serving));
        let unknown = self.foreign.keys().map(|(kind, id)| pb::Rejection {
            key: Some(pb::ObjectKey { kind: kind.clone(), id: id.clone() }),
            reason: format!("objects of kind {kind:?} are not known to this version: upgrade this node"),
            serving_last_good: false,
        });
        known.chain(unknown).collect()
    }
}

fn rejection(key: &Key, reason: &str, serving_last_good: bool) -> pb::Rejection {
    pb::Rejection { key: Some(key.into()), reason: reason.to_owned(), serving_last_good }
}

/// What the messages of a snapshot have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotHead {
    pub lineage: String,
    pub revision: u64,
    pub digest: bytes::Bytes,
    pub mark: String,
}

fn check_settings(compiler: &Compiler, object: &Object) -> Result<(), Refusal> {
    if object.key != Key::group_settings() {
        return Ok(());
    }
    let refusal = |faults: Vec<Fault>| {
        let faults = faults.iter().map(Fault::placed).collect::<Vec<_>>().join("; ");
        let detail = format!("settings of the group that this version does not know: {faults}; upgrade this node");
        Refusal::new(pb::refused::Fault::Settings, detail)
    };
    compiler.of_group(Some(object)).map(drop).map_err(refusal)
}

fn malformed(error: &ConvertError) -> Refusal {
    Refusal::new(pb::refused::Fault::Malformed, error.to_string())
}

fn check_digest(computed: Digest, named: &[u8]) -> Result<(), Refusal> {
    if Digest::try_from(named) == Ok(computed) {
        return Ok(());
    }
    Err(Refusal::new(pb::refused::Fault::Digest, format!("what came adds up to {computed}")))
}
