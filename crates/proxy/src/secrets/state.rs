//! What is known of references, and the managers that tell it.

use super::breaker::Turn;
use super::cache::{Cache, Question};
use super::keeper::Errand;
use super::managers::Managers;
use super::order;
use super::reference::Reference;
use super::trouble::Trouble;
use milecastle_snapshot::Snapshot;
use std::time::Instant;

pub(super) struct State {
    pub(super) cache: Cache,
    pub(super) managers: Managers,
    /// See [`super::NodeSecrets::want_of_room`].
    pub(super) want_of_room: Option<String>,
    pub(super) found: u64,
    pub(super) absent: u64,
    pub(super) failed: u64,
}

impl State {
    pub(super) fn new(cache: Cache, managers: Managers) -> Self {
        Self { cache, managers, want_of_room: None, found: 0, absent: 0, failed: 0 }
    }

    /// From now on the managers and references of this configuration are in use. Nobody waits for a manager that is out of reach.
    pub(super) fn take_over(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        let Self { cache, managers, want_of_room, .. } = self;
        let holders = order::holders(snapshot);
        cache.follow(holders.iter().flat_map(|(_, references)| *references).map(|reference| &**reference), now);
        let first =
            holders.iter().find(|(_, references)| references.iter().any(|reference| cache.leaves_out(reference)));
        *want_of_room = first.map(|(key, _)| {
            let (room, left_out) = (cache.room(), cache.census().left_out);
            format!(
                "more references to secret managers than secrets.entries ({room}): {left_out} are not resolved, the first of them in {key}, \
                 the others there or in what was written later; raise it on each node of the group"
            )
        });
        let changed = managers.set(snapshot);
        if !changed.is_empty() {
            cache.flush(|place| is_of(place, |manager| changed.contains(manager)), now);
        }
        cache.release(|place| is_of(place, |manager| managers.is_lost(manager)));
    }

    /// A question with the manager that it goes to.
    ///
    /// # Errors
    /// Nobody is asked: gives it back, and says why.
    pub(super) fn errand(&self, question: Question) -> Result<Errand, (Question, Trouble)> {
        let Some(Reference { manager: id, .. }) = Reference::parse(&question.place) else {
            return Err((question, Trouble::Absent("expected `$secret://<manager>/<id>/<path>`".to_owned())));
        };
        let trouble = match self.managers.get(id) {
            None => Trouble::Absent(format!("there is no secret object `{id}`")),
            Some(Err(reason)) => Trouble::Failed(format!("secret object `{id}` cannot be used: {reason}")),
            Some(Ok(manager)) => match manager.breaker().admit(question.new) {
                Ok(probe) => return Ok(Errand { question, to: manager.clone(), probe }),
                Err(reason) => Trouble::Failed(reason),
            },
        };
        Err((question, trouble))
    }

    /// Looks whether the manager of a place has been lost or is back. Nobody waits any longer for one that is lost; one that is back
    /// is asked for all that it owes. Gives what there is to tell, with the manager's id.
    pub(super) fn turn(&mut self, place: &str, now: Instant) -> Option<(String, Turn)> {
        let Reference { manager: id, .. } = Reference::parse(place)?;
        let turn = self.managers.get(id)?.as_ref().ok()?.breaker().turn()?;
        let concerned = |place: &str| is_of(place, |manager| manager == id);
        match turn {
            Turn::Lost(_) => self.cache.release(concerned),
            Turn::Back => self.cache.retry(concerned, now),
        }
        Some((id.to_owned(), turn))
    }
}

/// Whether a place is one of such a manager.
fn is_of(place: &str, manager: impl FnOnce(&str) -> bool) -> bool {
    Reference::parse(place).is_some_and(|of| manager(of.manager))
}
