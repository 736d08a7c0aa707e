//! Change sets of a gateway group as wholes: what the group was at a revision, what lies between two, what many edits at once come to,
//! and the way back (`docs/changes.md`).
//!
//! What must stay true:
//! - What is published is what was shown: a plan is made of one revision, and published on top of that one or not at all.
//! - Bodies are put as they were, byte for byte; nothing here writes one anew, so that none loses a member that this version does not know.
//! - An object that a change set puts is judged as any write of it, under the settings that the change set leads to.
//! - No secret is shown: differences are masked as in the audit log.

mod difference;
mod edits;
mod plan;
pub(crate) mod transfer;

pub(crate) use difference::{fate, shown};
pub(crate) use edits::{GivenEdit, Op, published_edits, stamped};
pub(crate) use plan::{Clash, Edits, Flaw, Plan};
pub(crate) use transfer::{Arrival, Existing, Selection};

use crate::efforts::{Effort, Unfinished};
use crate::state::{self, Group, Image};
use crate::terms::Unreadable;
use milecastle_snapshot::Compiler;
use milecastle_store::{Acting, PublishError, Published, Source, StoreError};
use std::sync::Arc;
use std::time::Duration;

/// Somebody who changes a group by whole change sets.
#[derive(Clone, Copy)]
pub(crate) struct Editor<'a> {
    /// The store in the editor's hands.
    pub(crate) acting: Acting<'a>,
    /// Any that this process has.
    pub(crate) compiler: &'a Arc<Compiler>,
    pub(crate) group: &'a Group,
    /// As what it is planned; without it, as a write.
    pub(crate) effort: Option<&'a Arc<Effort>>,
}

/// Why a change set was not made, or not published. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// There is no such revision yet.
    #[error("the group stands at revision {head}, {revision} is yet to come")]
    Unborn {
        /// The revision asked for.
        revision: u64,
        /// The newest one.
        head: u64,
    },
    /// The history does not reach back so far.
    #[error(
        "what the group was at revision {revision} is not known any more: its history reaches back to {floor}, and not always as far as \
         that to what a release before this one has changed; `history` in the file of the control plane says how much is kept"
    )]
    Forgotten {
        /// The revision asked for.
        revision: u64,
        /// The oldest one that the history reaches back to.
        floor: u64,
    },
    /// The group has been written to since it was planned.
    #[error("the group is at revision {current}, not {expected}, of which this was planned: look at it again")]
    Stale {
        /// What it was planned of.
        expected: u64,
        /// What is.
        current: u64,
    },
    /// Objects are not fit for it.
    #[error("{}", Flaw::told(.0))]
    Flawed(Vec<Flaw>),
    /// Objects are others than those that a draft was made of.
    #[error("{}", Clash::told(.0))]
    Clashing(Vec<Clash>),
    /// Somebody has edited, published or discarded the draft meanwhile.
    #[error("the draft `{0}` has been edited, published or discarded meanwhile: look at it again")]
    StaleDraft(String),
    /// This replica is older than the settings of the group.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It was not thought through in the time for which its group may be held.
    #[error("the group is written to while it is thought through, which takes longer than {} s: try again, or pause the writers", .0.as_secs())]
    Slow(Duration),
    /// It was only to be looked at, for which it takes too long.
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store refused it for what no change set that is made here has.
    #[error(transparent)]
    Unforeseen(PublishError),
    /// An error of our own.
    #[error("the work was not done: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

impl Editor<'_> {
    /// The group as it stood at `revision`, which shares with `head` what has not changed since.
    pub(crate) async fn at(&self, head: &Image, revision: u64) -> Result<Image, Refused> {
        if revision > head.revision() {
            return Err(Refused::Unborn { revision, head: head.revision() });
        }
        match state::past(self.acting.store(), self.group.id(), head, revision).await? {
            Some(image) => Ok(image),
            None => {
                Err(Refused::Forgotten { revision, floor: self.acting.store().group_get(self.group.id()).await?.floor })
            }
        }
    }

    /// What edits come to on top of `base`; with `force` references may dangle, and objects may be left that cannot be built. Of what
    /// rests on other objects the database says the rest ([`Self::rehearse`]).
    pub(crate) async fn plan(&self, base: Arc<Image>, edits: Edits, force: bool) -> Result<Plan, Refused> {
        let compiler = self.compiler.clone();
        // Dropped with this future once the client has left, or the time is over.
        let asker = Arc::new(());
        let effort = self.effort.cloned().unwrap_or_else(|| Arc::new(Effort::of_a_write(&asker)));
        tokio::task::spawn_blocking(move || Plan::of(&compiler, base, edits, force, &effort)).await?
    }

    /// What it takes to bring a group from `base` back to what it was at `revision`.
    pub(crate) async fn plan_rollback(&self, base: Arc<Image>, revision: u64, force: bool) -> Result<Plan, Refused> {
        let past = self.at(&base, revision).await?;
        let edits = base.differences(&past).filter_map(|difference| {
            let object = difference.before.or(difference.after)?;
            Some((object.key.clone(), difference.after.map(|object| object.body.clone())))
        });
        let edits = edits.collect();
        self.plan(base, edits, force).await
    }

    /// Adds to the flaws of a plan what the database would refuse it for, of which it tells the first.
    pub(crate) async fn rehearse(&self, plan: &mut Plan, source: Source) -> Result<(), Refused> {
        if plan.flaws().is_empty() {
            let set = plan.change_set(source, String::new());
            if let Err(error) = self.acting.rehearse(self.group.id(), set).await {
                match plan.refused(error) {
                    Refused::Flawed(flaws) => plan.add_flaws(flaws),
                    other => return Err(other),
                }
            }
        }
        Ok(())
    }

    /// Publishes what was planned, if the group still stands where it was planned of; gives it once reads show it.
    pub(crate) async fn publish(&self, plan: &Plan, source: Source, message: String) -> Result<Published, Refused> {
        if !plan.clashes().is_empty() {
            return Err(Refused::Clashing(plan.clashes().to_vec()));
        }
        if !plan.flaws().is_empty() {
            return Err(Refused::Flawed(plan.flaws().to_vec()));
        }
        let set = plan.change_set(source, message);
        let published = match self.acting.publish(self.group.id(), set).await {
            Ok(published) => published,
            Err(error) => return Err(plan.refused(error)),
        };
        let Published { revision, ref mark, .. } = published;
        if let Err(error) = self.group.reach(revision, mark).await {
            tracing::warn!(group = %self.group.id(), revision, %error, "written, but not yet read back");
        }
        Ok(published)
    }
}
