//! What happened to a gateway group while it was disturbed, and whether that may happen.
//!
//! A [`History`] is what was seen from outside: what writers were told, what the database holds in the end, and what was seen
//! of each node. [`History::check`] is a pure function over it; it knows nothing of how the cluster works, only what it
//! promises (`docs/architecture.md`).
//!
//! What makes it work:
//! - Writers give every write a version that no other write has, so that a version names one write wherever it appears.
//! - Each sighting of a node bounds the revision that it had in force at some moment between the beginning and the end of
//!   the sighting. Revisions grow; so of two sightings, one after the other, the later must not lie wholly below the earlier.
//! - Only what surely came one after the other is compared: a span that overlaps another says nothing about their order.

mod bounds;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bounds::Forms;

/// From the moment before something was begun to the moment after it had ended, both since the beginning of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Before it.
    pub begun: Duration,
    /// After it.
    pub ended: Duration,
}

/// What a write does to an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Names the object, as in `routes/7`.
    pub object: String,
    /// The form it gets, which no other write of the history gives to any object; `None`: it is deleted.
    pub version: Option<u64>,
}

/// What the writer was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It is not done, and will not be.
    Refused,
    /// Nothing: the answer was lost, or says that nobody knows.
    Unknown,
}

/// A write, as its writer saw it.
#[derive(Clone, Debug)]
pub struct Write {
    /// From before it was sent until after its answer.
    pub span: Span,
    /// What it does: all of it as one revision, or nothing.
    pub changes: Vec<Change>,
    /// What the writer was told.
    pub outcome: Outcome,
    /// Whether the writer was told too that every node of the history has it in force.
    pub applied_by_all: bool,
}

/// A revision, as the database holds it in the end.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Its number.
    pub revision: u64,
    /// What the whole configuration adds up to there, in hexadecimal.
    pub digest: String,
    /// What it changed.
    pub changes: Vec<Change>,
}

/// Something that shows what a node has in force.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// Which node.
    pub node: String,
    /// Which process of it, in the order in which they were started.
    pub process: u64,
    /// When.
    pub span: Span,
    /// What was seen.
    pub sight: Sight,
}

/// What one process of a node says that it put in force.
#[derive(Clone, Debug)]
pub struct Journal {
    /// Which node.
    pub node: String,
    /// Revisions in their order.
    pub revisions: Vec<u64>,
}

/// What was seen of a node.
#[derive(Clone, Debug)]
pub enum Sight {
    /// The control plane said that the node has acknowledged this revision with this digest; by now it may be further. What is
    /// acknowledged is on the node's disk, and so holds for its later processes too.
    Acknowledged(u64, String),
    /// The node answered a request from this form of an object; `None`: as if there were no such object.
    Served(Change),
}

/// All that was seen of one gateway group. The end of it must have been seen at rest: every node acknowledged the last
/// revision.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// All writes, in any order.
    pub writes: Vec<Write>,
    /// All revisions, in their order.
    pub commits: Vec<Commit>,
    /// All sightings, in any order.
    pub sightings: Vec<Sighting>,
    /// One of each process of each node.
    pub journals: Vec<Journal>,
}

/// Something that must not happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// Revisions are not numbered one after the other.
    Gap { after: u64, next: u64 },
    /// The writer was told that it was done, and no revision has it.
    Lost(Change),
    /// There are more revisions with this change than writes of it that may have been done.
    Doubled(Change),
    /// Changes of one write stand in different revisions.
    HalfCommitted(Vec<Change>),
    /// It was done after another write had been done, and has the lower revision.
    Reordered { revision: u64, after: u64 },
    /// The node acknowledged, or put in force, what was never committed.
    Uncommitted { node: String, revision: u64 },
    /// The node has something else in force than what was committed under this revision: of a step it took a part, or more.
    OtherContent { node: String, revision: u64 },
    /// The node served a form of an object that was never committed.
    ServedUncommitted { node: String, change: Change },
    /// The node was at revision `reached` or later, and then at `then` at the latest.
    WentBack { node: String, reached: u64, then: u64 },
    /// The last that the node acknowledged is not the last revision.
    NotConverged { node: String, acknowledged: u64, head: u64 },
}

impl History {
    /// All that must not have happened, each once.
    pub fn check(&self) -> BTreeSet<Violation> {
        let mut found = BTreeSet::new();
        self.check_numbers(&mut found);
        self.check_writes(&mut found);
        self.check_content(&mut found);
        self.check_order(&mut found);
        self.check_end(&mut found);
        found
    }

    fn head(&self) -> u64 {
        self.commits.last().map_or(0, |commit| commit.revision)
    }

    fn check_numbers(&self, found: &mut BTreeSet<Violation>) {
        for pair in self.commits.windows(2) {
            if let [before, next] = pair
                && next.revision != before.revision + 1
            {
                found.insert(Violation::Gap { after: before.revision, next: next.revision });
            }
        }
    }

    /// Every write that was done stands in one revision, whole and once; those that may have been done, in one at most.
    fn check_writes(&self, found: &mut BTreeSet<Violation>) {
        let (mut done, mut possible, mut committed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut places: BTreeMap<&Change, BTreeSet<u64>> = BTreeMap::new();
        for write in &self.writes {
            for change in &write.changes {
                *done.entry(change).or_insert(0) += u32::from(write.outcome == Outcome::Done);
                *possible.entry(change).or_insert(0) += u32::from(write.outcome != Outcome::Refused);
            }
        }
        for commit in &self.commits {
            for change in &commit.changes {
                *committed.entry(change).or_insert(0) += 1;
                places.entry(change).or_default().insert(commit.revision);
            }
        }
        for (change, times) in &done {
            if committed.get(change).unwrap_or(&0) < times {
                found.insert(Violation::Lost((*change).clone()));
            }
        }
        for (change, times) in &committed {
            if possible.get(change).unwrap_or(&0) < times {
                found.insert(Violation::Doubled((*change).clone()));
            }
        }
        for write in self.writes.iter().filter(|write| write.changes.len() > 1) {
            let mut all = write.changes.iter().map(|change| places.get(change).cloned().unwrap_or_default());
            let first = all.next().unwrap_or_default();
            if all.any(|revisions| revisions != first) {
                found.insert(Violation::HalfCommitted(write.changes.clone()));
            }
        }
    }

    /// Nodes run what was committed.
    fn check_content(&self, found: &mut BTreeSet<Violation>) {
        let digests: BTreeMap<u64, &str> =
            self.commits.iter().map(|commit| (commit.revision, commit.digest.as_str())).collect();
        for Sighting { node, sight, .. } in &self.sightings {
            let Sight::Acknowledged(revision, digest) = sight else { continue };
            if digests.get(revision).is_some_and(|committed| committed != digest) {
                found.insert(Violation::OtherContent { node: node.clone(), revision: *revision });
            }
        }
        let acknowledged = self.sightings.iter().filter_map(|Sighting { node, sight, .. }| match sight {
            Sight::Acknowledged(revision, _) => Some((node, *revision)),
            Sight::Served(_) => None,
        });
        let in_force =
            self.journals.iter().flat_map(|Journal { node, revisions }| revisions.iter().map(move |r| (node, *r)));
        // Revision 0 is the empty configuration before the first.
        for (node, revision) in acknowledged.chain(in_force) {
            if revision > 0 && !digests.contains_key(&revision) {
                found.insert(Violation::Uncommitted { node: node.clone(), revision });
            }
        }
    }

    /// Nothing goes back: neither the database nor any process of a node, nor what a node has acknowledged.
    fn check_order(&self, found: &mut BTreeSet<Violation>) {
        for Journal { node, revisions } in &self.journals {
            for pair in revisions.windows(2) {
                if let [reached, then] = *pair
                    && then <= reached
                {
                    found.insert(Violation::WentBack { node: node.clone(), reached, then });
                }
            }
        }
        let forms = Forms::of(&self.commits);
        let written = self.writes.iter().filter(|write| write.outcome == Outcome::Done);
        let written = written.filter_map(|write| {
            let revision = write.changes.iter().find_map(|change| forms.revision_of(change))?;
            Some(bounds::Seen { span: write.span, low: revision, high: revision })
        });
        for (after, revision) in bounds::steps_back(written.collect()) {
            found.insert(Violation::Reordered { revision, after });
        }
        let mut lives: BTreeMap<(&str, u64), Vec<bounds::Seen>> = BTreeMap::new();
        let mut acknowledged: BTreeMap<&str, Vec<bounds::Seen>> = BTreeMap::new();
        for Sighting { node, process, span, sight } in &self.sightings {
            let (low, high) = match sight {
                Sight::Acknowledged(revision, _) => (*revision, u64::MAX),
                Sight::Served(change) => match forms.bounds(change) {
                    Some(bounds) => bounds,
                    None => {
                        let (node, change) = (node.clone(), change.clone());
                        found.insert(Violation::ServedUncommitted { node, change });
                        continue;
                    }
                },
            };
            let seen = bounds::Seen { span: *span, low, high };
            if let Sight::Acknowledged(..) = sight {
                acknowledged.entry(node).or_default().push(seen);
            } else {
                lives.entry((node, *process)).or_default().push(seen);
            }
        }
        // A receipt for all nodes is an acknowledgement of each.
        let receipts: Vec<bounds::Seen> = self
            .writes
            .iter()
            .filter_map(|write| {
                let revision = write.changes.iter().find_map(|change| forms.revision_of(change))?;
                write.applied_by_all.then_some(bounds::Seen { span: write.span, low: revision, high: u64::MAX })
            })
            .collect();
        for ((node, _), mut seen) in lives {
            seen.extend(&receipts);
            seen.extend(acknowledged.get(node).into_iter().flatten());
            for (reached, then) in bounds::steps_back(seen) {
                found.insert(Violation::WentBack { node: node.to_owned(), reached, then });
            }
        }
    }

    fn check_end(&self, found: &mut BTreeSet<Violation>) {
        let mut last: BTreeMap<&str, (Duration, u64)> = BTreeMap::new();
        for Sighting { node, span, sight, .. } in &self.sightings {
            let known = last.entry(node).or_default();
            if let Sight::Acknowledged(revision, _) = sight
                && span.begun >= known.0
            {
                *known = (span.begun, *revision);
            }
        }
        let head = self.head();
        for (node, (_, acknowledged)) in last.into_iter().filter(|(_, (_, revision))| *revision != head) {
            found.insert(Violation::NotConverged { node: node.to_owned(), acknowledged, head });
        }
    }
}
