//! Where a node stands when it says `Hello`.

use std::sync::Arc;

use milecastle_store::StoreError;
use milecastle_wire::{Digest, pb};

use super::super::feed::{Feed, Packed};
use super::super::head::{Head, Position};

/// What a stream begins with.
pub(in crate::dpm) struct Start {
    /// Where the node stands, if a delta (or nothing) can follow.
    pub(super) at: Option<Position>,
    /// Snapshots below this revision would set the node back.
    pub(super) least: u64,
    /// Why a snapshot comes first, if one does.
    pub(super) why: &'static str,
    /// A snapshot that broke off, and the chunk to go on with.
    pub(super) resume: Option<(Packed, u32)>,
    /// The group's head, if the node names a later revision of its lineage: one that the database does not know.
    pub(in crate::dpm) ahead_of: Option<u64>,
}

impl Start {
    /// Compares what the node has with what the group has. Asks the database if the node knows more than this replica.
    pub(in crate::dpm) async fn of(feed: &Feed, hello: &pb::Hello) -> Result<Self, StoreError> {
        let mut head = feed.head();
        if let Some(have) = &hello.have
            && (have.lineage != **head.lineage() || have.revision > head.revision())
        {
            feed.catch_up().await?;
            head = feed.head();
        }
        let (at, why) = match &hello.have {
            None => (None, "empty"),
            Some(have) => (position(&head, have), "digest"),
        };
        let held = hello.have.as_ref().filter(|have| have.lineage == **head.lineage());
        let least = held.map_or(0, |have| have.revision).min(head.revision());
        let ahead_of = held.filter(|have| have.revision > head.revision()).map(|_| head.revision());
        let foreign = hello
            .have
            .as_ref()
            .is_some_and(|have| have.lineage != **head.lineage() && !feed.supersedes().contains(&have.lineage));
        let resume = match &hello.resume {
            Some(resume) if !foreign && resume.revision >= least => {
                let packed = feed.snapshot_at(head, &resume.lineage, resume.revision).await;
                packed
                    .filter(|packed| resume.next_chunk < packed.frames.total())
                    .map(|packed| (packed, resume.next_chunk))
            }
            _ => None,
        };
        Ok(Self { at, least, why, resume, ahead_of })
    }

    /// What the node has in force, as far as it is what it should be.
    pub(in crate::dpm) fn held(&self) -> Option<Position> {
        self.at.clone()
    }
}

/// The node's position; `None` if it holds something else than its revision adds up to, as far as is known here.
fn position(head: &Head, have: &pb::Have) -> Option<Position> {
    let digest = Digest::try_from(&*have.digest).ok()?;
    let same = have.lineage == **head.lineage();
    if same && head.at(have.revision).is_some_and(|(_, expected)| expected != digest) {
        return None;
    }
    let lineage = if same { head.lineage().clone() } else { Arc::from(have.lineage.as_str()) };
    Some(Position { lineage, revision: have.revision, digest })
}
