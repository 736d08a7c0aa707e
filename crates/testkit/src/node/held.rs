//! What a node has in force.

use std::collections::BTreeMap;

use milecastle_wire::{Digest, DigestKey, pb};

/// A configuration; by default none at all, which an empty one is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// `None`: no configuration at all.
    pub lineage: Option<String>,
    /// The revision within the lineage.
    pub revision: u64,
    /// What came with it to tell it from another one of its number.
    pub mark: String,
    /// Bodies by kind and id.
    pub objects: BTreeMap<(String, String), Vec<u8>>,
}

impl Held {
    /// The digest, computed anew from all objects.
    pub fn digest(&self) -> Digest {
        let key = self.key();
        self.objects.iter().map(|((kind, id), body)| key.item(kind, id, body)).sum()
    }

    /// As a node says where it stands.
    pub fn have(&self) -> Option<pb::Have> {
        let lineage = self.lineage.clone()?;
        Some(pb::Have { lineage, revision: self.revision, digest: self.digest().into(), mark: self.mark.clone() })
    }

    /// What its objects are hashed with.
    pub(super) fn key(&self) -> DigestKey {
        DigestKey::of_lineage(self.lineage.as_deref().unwrap_or_default())
    }

    pub(super) fn put(&mut self, object: pb::Object) -> Option<Vec<u8>> {
        let key = object.key.expect("an object has a key");
        self.objects.insert((key.kind, key.id), object.body.to_vec())
    }
}
