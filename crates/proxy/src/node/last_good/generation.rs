//! What stands in the files: heads, objects, changes; and how a configuration is put together from them again.
//!
//! A checkpoint is two records: its head, and the objects. A file of changes is a head, which says where the first change
//! starts from, and then one delta a record, as it came from the control plane.

use super::directory::Listing;
use super::file::{Kind, ReadError, Reader, StateKey, Writer};
use crate::node::holdings::{Holdings, Position, Refusal};
use milecastle_snapshot::Compiler;
use milecastle_wire::{Digest, DigestKey, Limits, decode_delta, decode_objects, encode_objects, pb};
use pb::change::Change;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;

/// Whose configuration it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::node) struct Origin {
    /// The fingerprint of the cluster's CA.
    pub(in crate::node) cluster: String,
    /// The gateway group.
    pub(in crate::node) group: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the gateway group {} of the cluster whose CA is {}", self.group, self.cluster)
    }
}

/// The first record of each file: whose configuration, and at which position.
///
/// Members that this version does not know are overlooked, so that an operator can go back to it from a later one. What must
/// not be overlooked takes another version of the layout (`file`).
#[derive(Serialize, Deserialize)]
pub(super) struct Head {
    origin: Origin,
    lineage: String,
    revision: u64,
    digest: String,
    /// As in [`Holdings::mark`]; none in files of changes, and in those that are old.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    mark: String,
}

impl Head {
    fn encode(origin: &Origin, at: &Position, mark: &str) -> Vec<u8> {
        let (lineage, digest) = (at.lineage.to_string(), at.digest.to_string());
        let head = Self { origin: origin.clone(), lineage, revision: at.revision, digest, mark: mark.to_owned() };
        serde_json::to_vec(&head).expect("texts and a number have a JSON form")
    }

    /// Reads it: whose configuration, at which position, with which mark.
    pub(super) fn read(reader: &mut Reader<impl io::Read>) -> Result<(Origin, Position, String), ReadError> {
        let record = reader.next()?.ok_or(ReadError::Torn)?;
        let head: Self = serde_json::from_slice(&record).map_err(|error| content(format!("its head: {error}")))?;
        let digest = head.digest.parse::<Digest>().map_err(content)?;
        let position = Position { lineage: head.lineage.into(), revision: head.revision, digest };
        Ok((head.origin, position, head.mark))
    }
}

/// What makes no sense in a file that opens.
pub(super) fn content(why: impl ToString) -> ReadError {
    ReadError::Content(why.to_string())
}

/// Writes a checkpoint of what is held.
pub(super) fn write_checkpoint(
    file: impl Write,
    key: &StateKey,
    number: u64,
    origin: &Origin,
    held: &Holdings,
) -> io::Result<u64> {
    let objects = encode_objects(held.objects()).map_err(io::Error::other)?;
    let writer =
        Writer::begin(file, key, Kind::Checkpoint, number, Head::encode(origin, held.position(), held.mark()))?;
    Ok(writer.push(objects)?.bytes())
}

/// Begins a file of changes that start from `at`.
pub(super) fn begin_changes<W: Write>(
    file: W,
    key: &StateKey,
    number: u64,
    origin: &Origin,
    at: &Position,
) -> io::Result<Writer<W>> {
    Writer::begin(file, key, Kind::Changes, number, Head::encode(origin, at, ""))
}

/// Kind and id of an object.
type ObjectKey = (String, String);

/// A configuration as it was read: what a checkpoint holds, and what changed since.
pub(super) struct Read {
    origin: Origin,
    position: Position,
    mark: String,
    hash: DigestKey,
    /// In ascending order of their keys.
    base: Vec<pb::Object>,
    /// `None` is an object that is gone.
    changed: BTreeMap<ObjectKey, Option<pb::Object>>,
}

impl Read {
    /// The checkpoint in a file; its objects add up to its digest.
    pub(super) fn checkpoint(path: &Path, number: u64, key: &StateKey) -> Result<Self, ReadError> {
        let mut reader = open(path, key, Kind::Checkpoint, number)?;
        let (origin, position, mark) = Head::read(&mut reader)?;
        let objects = reader.next()?.ok_or(ReadError::Torn)?;
        if reader.next()?.is_some() {
            return Err(content("it goes on after its end"));
        }
        let base = decode_objects(&objects, Limits::default()).map_err(content)?;
        let hash = DigestKey::of_lineage(&position.lineage);
        let digest: Digest = base.iter().map(|object| hash.wire_object(object)).sum();
        if digest != position.digest {
            return Err(content(format!("its objects add up to {digest}, its head says {}", position.digest)));
        }
        Ok(Self { origin, position, mark, hash, base, changed: BTreeMap::new() })
    }

    /// Takes the changes in a file as far as they lead on from here. Gives how many bytes of them there were, and what ended
    /// them before their end.
    fn replay(&mut self, path: &Path, number: u64, key: &StateKey) -> (u64, Option<ReadError>) {
        let mut taken = 0;
        let mut read = || {
            let mut reader = open(path, key, Kind::Changes, number)?;
            let (origin, from, _) = Head::read(&mut reader)?;
            if origin != self.origin || from != self.position {
                // Of a way that was not gone on with: from a position that this checkpoint is past, or never came to.
                return Ok(());
            }
            while let Some(record) = reader.next()? {
                let bytes = record.len() as u64;
                self.apply(decode_delta(&record).map_err(content)?)?;
                taken += bytes;
            }
            Ok(())
        };
        let ended = read().err();
        (taken, ended)
    }

    /// Takes a delta as a whole, or leaves everything as it is.
    fn apply(&mut self, delta: pb::Delta) -> Result<(), ReadError> {
        let Position { lineage, revision, digest } = &self.position;
        if delta.lineage != **lineage || delta.from != *revision || delta.to <= delta.from {
            return Err(content(format!("a change from {} to {}, {revision} was due", delta.from, delta.to)));
        }
        let mut digest = *digest;
        let mut changes = Vec::with_capacity(delta.changes.len());
        for change in delta.changes {
            let (key, new) = match change.change {
                Some(Change::Put(object)) => (object.key.clone(), Some(object)),
                Some(Change::Delete(delete)) => (delete.key, None),
                None => (None, None),
            };
            let key = key.map(|key| (key.kind, key.id)).ok_or_else(|| content("a change without a key"))?;
            if let Some(old) = self.object(&key) {
                digest -= self.hash.wire_object(old);
            }
            if let Some(new) = &new {
                digest += self.hash.wire_object(new);
            }
            changes.push((key, new));
        }
        if Digest::try_from(&*delta.digest) != Ok(digest) {
            return Err(content(format!("a change to {} adds up to {digest}", delta.to)));
        }
        self.changed.extend(changes);
        (self.position.revision, self.position.digest, self.mark) = (delta.to, digest, delta.mark);
        Ok(())
    }

    fn object(&self, key: &ObjectKey) -> Option<&pb::Object> {
        if let Some(changed) = self.changed.get(key) {
            return changed.as_ref();
        }
        let found = self.base.binary_search_by(|object| order(object).cmp(&(&*key.0, &*key.1)));
        found.ok().and_then(|at| self.base.get(at))
    }

    /// Builds it, sharing with `previous` what is equal.
    pub(super) fn build(&self, compiler: &Compiler, previous: Option<&Holdings>) -> Result<Holdings, Refusal> {
        let replaced: BTreeSet<(&str, &str)> = self.changed.keys().map(|(kind, id)| (&**kind, &**id)).collect();
        let kept = self.base.iter().filter(|object| !replaced.contains(&order(object)));
        let objects = kept.chain(self.changed.values().flatten());
        Holdings::build(compiler, previous, self.position.clone(), &self.mark, objects)
    }
}

fn order(object: &pb::Object) -> (&str, &str) {
    object.key.as_ref().map_or(("", ""), |key| (&key.kind, &key.id))
}

/// Opens a file that should be of this kind and number.
pub(super) fn open(path: &Path, key: &StateKey, kind: Kind, number: u64) -> Result<Reader<BufReader<File>>, ReadError> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Reader::open(BufReader::new(file), bytes, key, kind, number)
}

/// The newest good configuration of a directory.
pub(super) struct Found {
    pub(super) origin: Origin,
    pub(super) holdings: Holdings,
    /// Number of the checkpoint that it begins with.
    pub(super) generation: u64,
    /// Bytes of the changes that were taken after it.
    pub(super) changes_bytes: u64,
    /// Files that the changes stand in.
    pub(super) changes_files: usize,
}

/// Looks for the newest checkpoint that is whole, of `origin` if that is known, and takes all changes that follow it. `spoilt`
/// hears of each file that is of no use, in whole or from some record on.
pub(super) fn find(
    listing: &Listing,
    key: &StateKey,
    origin: Option<&Origin>,
    compiler: &Compiler,
    mut spoilt: impl FnMut(&Path, &ReadError),
) -> Option<Found> {
    let mut told = BTreeSet::new();
    for (&generation, path) in listing.checkpoints.iter().rev() {
        let whole = Read::checkpoint(path, generation, key).and_then(|read| match origin {
            Some(origin) if read.origin != *origin => {
                Err(content(format!("it is of {}, this node of {origin}", read.origin)))
            }
            _ => Ok(read),
        });
        let mut read = match whole {
            Ok(read) => read,
            Err(error) => {
                spoilt(path, &error);
                continue;
            }
        };
        let (mut changes_bytes, mut changes_files) = (0, 0);
        for (&number, path) in listing.changes.range(generation..) {
            let (bytes, error) = read.replay(path, number, key);
            changes_bytes += bytes;
            changes_files += usize::from(bytes > 0);
            if let Some(error) = error.filter(|_| told.insert(number)) {
                spoilt(path, &error);
            }
        }
        match read.build(compiler, None) {
            Ok(holdings) => {
                return Some(Found { origin: read.origin, holdings, generation, changes_bytes, changes_files });
            }
            Err(refusal) => spoilt(path, &content(refusal.detail)),
        }
    }
    None
}
