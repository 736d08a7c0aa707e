//! Taking a candidate back: a change set that restores what it changed, as it was at the base.
//!
//! What was written since the candidate is kept, and is the next candidate; unless the group cannot be without what is taken back, as
//! where a later object refers to it. Then all that was written since the base is taken back. What is gone because its lifetime ended stays
//! gone: brought back it would have none, and nobody has decided that.

use milecastle_model::Key;
use milecastle_store::{Advance, ChangeSet, Gate, HeldRollout, PublishError, Published, Source, Step, Term};
use std::collections::BTreeSet;

use super::course::{End, Situation, Stage};
use crate::revisions::{Editor, Edits, Plan, Refused};
use crate::state::Difference;

/// Longest message of a change set, in bytes.
const LONGEST: usize = 500;

/// Somebody who takes a candidate back, and why.
pub(crate) struct Back<'a> {
    pub(crate) editor: Editor<'a>,
    /// His name.
    pub(crate) by: &'a str,
    pub(crate) reason: &'a str,
    /// The leader's term of office, if it is the leader's doing.
    pub(crate) term: Option<Term<'a>>,
}

impl Back<'_> {
    /// Takes back the candidate of the rollout that is held, which is on. `None`, and nothing done: the term of office is over.
    pub(crate) async fn take(
        &self,
        mut held: HeldRollout<'_>,
        situation: &Situation<'_>,
    ) -> Result<Option<Published>, Refused> {
        let Some(gate) = situation.gate else { return Ok(None) };
        // Nobody writes meanwhile: this is the head until the end.
        let head = self.editor.group.current().await?;
        let base = self.editor.at(&head, gate.base).await?;
        let candidate = self.editor.at(&head, gate.candidate).await?;
        let expired = self.editor.acting.store().history_expired(self.editor.group.id(), gate.base).await?;
        let returns =
            |one: &Difference<'_>| one.after.is_some() || key_of(one).is_some_and(|key| !expired.contains(key));
        let queued: BTreeSet<&Key> =
            candidate.differences(&head).filter_map(|difference| key_of(&difference)).collect();
        let settings = [&base, &candidate, &*head].map(|image| image.get(&Key::group_settings()));
        let mut alone = None;
        if !queued.is_empty() && settings.iter().all(|one| *one == settings[0]) {
            let undone = base.differences(&candidate).filter(&returns);
            let undone = undone.filter(|one| key_of(one).is_some_and(|key| !queued.contains(key)));
            let plan = self.editor.plan(head.clone(), edits(undone), true).await?;
            alone = self.publish(&mut held, gate, &plan).await?;
        }
        let (published, advance) = match alone {
            Some(published) => (published, Advance::Next),
            None => {
                // Whatever stands against it, this is what the group was.
                let plan = self.editor.plan(head.clone(), edits(base.differences(&head).filter(returns)), true).await?;
                let published = held.publish(self.change_set(gate, &plan)).await;
                (published.map_err(|error| plan.refused(error))?, Advance::Head)
            }
        };
        Ok(held.step(&self.step(situation, gate, advance)).await?.then_some(published))
    }

    /// Publishes what takes back the candidate alone; `None`, and it is logged why, where what was written since rests on it.
    async fn publish(&self, held: &mut HeldRollout<'_>, gate: Gate, plan: &Plan) -> Result<Option<Published>, Refused> {
        let reason = match plan.flaws().is_empty() {
            true => match held.publish(self.change_set(gate, plan)).await {
                Ok(published) => return Ok(Some(published)),
                Err(PublishError::Store(error)) => return Err(error.into()),
                Err(error) => error.to_string(),
            },
            false => Refused::Flawed(plan.flaws().to_vec()).to_string(),
        };
        let group = self.editor.group.id();
        tracing::warn!(%group, reason, "what was written since the candidate rests on it, and is taken back with it");
        Ok(None)
    }

    fn change_set(&self, gate: Gate, plan: &Plan) -> ChangeSet {
        plan.change_set(Source::Rollback, message(gate.candidate, self.reason))
    }

    /// The step that follows: the rollout ends so, and with [`Advance::Next`] its canaries go on with what was written since.
    fn step(&self, situation: &Situation<'_>, gate: Gate, advance: Advance) -> Step<'_> {
        let none = Stage::default();
        let stage = situation.stage.as_ref();
        let end = if self.term.is_some() { End::RolledBack } else { End::Aborted };
        let record = situation.ended(gate, stage.unwrap_or(&none), end, self.by, self.reason);
        let anew = stage.map(Stage::anew).filter(|_| advance == Advance::Next);
        let (stage, record) = (anew.map(super::written), super::written(record));
        Step { name: "take back", term: self.term, stage, record, advance }
    }
}

fn message(candidate: u64, reason: &str) -> String {
    let mut message = format!("rollout of revision {candidate} taken back: {reason}");
    message.truncate(message.floor_char_boundary(LONGEST));
    message
}

/// What brings objects back to what they were before.
fn edits<'a>(differences: impl Iterator<Item = Difference<'a>>) -> Edits {
    let edit = |difference: Difference<'a>| {
        let key = key_of(&difference)?.clone();
        Some((key, difference.before.map(|object| object.body.clone())))
    };
    differences.filter_map(edit).collect()
}

fn key_of<'a>(difference: &Difference<'a>) -> Option<&'a Key> {
    Some(&difference.before.or(difference.after)?.key)
}
