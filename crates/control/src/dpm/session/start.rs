//! Where a node stands when it says `Hello`.

use std::sync::Arc;

use milecastle_store::StoreError;
use milecastle_wire::{Digest, pb};

use super::super::feed::{Feed, Packed};
use super::super::head::{Head, Position};
use super::super::nodes::clip;

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
    /// The group's head, if the node holds a revision of its lineage that the database does not know: a later one, or another
    /// one of that number.
    pub(in crate::dpm) unknown_at: Option<u64>,
    /// The node's revision, if the database has another one of that number.
    pub(super) apart: Option<u64>,
}

impl Start {
    /// Compares what the node has with what the group has. Asks the database if the node knows more than this replica.
    pub(in crate::dpm) async fn of(feed: &Feed, hello: &pb::Hello) -> Result<Self, StoreError> {
        let mut head = feed.head(&hello.node_id);
        if let Some(have) = &hello.have
            && (have.lineage != **head.lineage() || have.revision > head.revision())
        {
            feed.catch_up().await?;
            head = feed.head(&hello.node_id);
        }
        let held = hello.have.as_ref().filter(|have| have.lineage == **head.lineage());
        let apart = match held.filter(|have| have.revision <= head.revision()) {
            Some(have) if feed.is_apart(&head, have).await? => Some(have.revision),
            _ => None,
        };
        let (at, why) = match &hello.have {
            None => (None, "empty"),
            Some(have) if apart.is_some() => (named(head.lineage(), have), "lineage"),
            Some(have) => (position(&head, have), "digest"),
        };
        let least = held.map_or(0, |have| have.revision).min(head.revision());
        let is_ahead = held.is_some_and(|have| have.revision > head.revision());
        let unknown_at = (is_ahead || apart.is_some()).then(|| head.revision());
        let foreign = hello
            .have
            .as_ref()
            .is_some_and(|have| have.lineage != **head.lineage() && !feed.supersedes().contains(&have.lineage));
        let resume = match &hello.resume {
            Some(resume) if !foreign && apart.is_none() && resume.revision >= least => {
                let packed = feed.snapshot_at(head, &resume.lineage, resume.revision).await;
                packed
                    .filter(|packed| resume.next_chunk < packed.frames.total())
                    .map(|packed| (packed, resume.next_chunk))
            }
            _ => None,
        };
        Ok(Self { at, least, why, resume, unknown_at, apart })
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
    if same { named(head.lineage(), have) } else { named(&clip(have.lineage.clone()).into(), have) }
}

/// The position that a node names, of this lineage.
fn named(lineage: &Arc<str>, have: &pb::Have) -> Option<Position> {
    let digest = Digest::try_from(&*have.digest).ok()?;
    Some(Position { lineage: lineage.clone(), revision: have.revision, digest })
}
