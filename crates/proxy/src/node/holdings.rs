//! What this node holds: the objects, their digest, and the snapshot built from them.
//!
//! A pure state machine: messages in, a new snapshot or a refusal out. A step is taken as a whole or not at all, and
//! the digest is always computed from what is held, never copied from a message.

use milecastle_model::{Change, Key, Object};
use milecastle_snapshot::{Compiler, Snapshot};
use milecastle_wire::{ConvertError, Digest, DigestKey, pb};
use std::collections::BTreeMap;
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

/// The objects of one revision. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Holdings {
    lineage: Arc<str>,
    revision: u64,
    digest: Digest,
    snapshot: Arc<Snapshot>,
    /// Objects of kinds that this version does not know: held for the digest, reported as rejected.
    foreign: Arc<BTreeMap<ForeignKey, pb::Object>>,
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
        let mut digest = Digest::default();
        let (mut known, mut foreign) = (Vec::with_capacity(objects.len()), BTreeMap::new());
        for object in objects {
            digest += key.wire_object(object);
            match Object::try_from(object) {
                Ok(object) => known.push(object),
                Err(ConvertError::UnknownKind { kind, id }) => drop(foreign.insert((kind, id), object.clone())),
                Err(error) => return Err(malformed(&error)),
            }
        }
        check_digest(digest, &head.digest)?;
        let (snapshot, _) = match previous {
            Some(held) => compiler.build_over(&held.snapshot, &head.lineage, head.revision, known),
            None => compiler.build(&head.lineage, head.revision, known),
        };
        let (lineage, revision) = (head.lineage.as_str().into(), head.revision);
        Ok(Self { lineage, revision, digest, snapshot: Arc::new(snapshot), foreign: Arc::new(foreign) })
    }

    /// The configuration after a delta that has all of its changes.
    pub(crate) fn after(&self, compiler: &Compiler, delta: &pb::Delta) -> Result<Self, Refusal> {
        use pb::refused::Fault;
        if delta.lineage != *self.lineage {
            let detail = format!("delta of lineage {}, this node holds {}", delta.lineage, self.lineage);
            return Err(Refusal::new(Fault::Lineage, detail));
        }
        if delta.from != self.revision || delta.to <= delta.from {
            let detail = format!("delta from {} to {}, this node stands at {}", delta.from, delta.to, self.revision);
            return Err(Refusal::new(Fault::Gap, detail));
        }
        let key = DigestKey::of_lineage(&self.lineage);
        let mut digest = self.digest;
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
        let (snapshot, _) = compiler.apply(&self.snapshot, delta.to, &changes);
        let lineage = self.lineage.clone();
        Ok(Self { lineage, revision: delta.to, digest, snapshot: Arc::new(snapshot), foreign })
    }

    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(crate) fn lineage(&self) -> &str {
        &self.lineage
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn have(&self) -> pb::Have {
        pb::Have { lineage: self.lineage.to_string(), revision: self.revision, digest: self.digest.into() }
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
