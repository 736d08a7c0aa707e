//! How a rollout goes on: what follows from the policy, from how far it has come, and from what nodes say. Pure; the clock is an
//! argument.
//!
//! What must stay true:
//! - Canaries are chosen once for each rollout, and nobody ceases to be one before its end: no node is set back.
//! - A candidate is open to all only once the canaries have served with it for the whole soak time, none of them lost meanwhile, and none
//!   of them gives reason to take it back; or when there is no node that could be harmed; or when an operator says so.
//! - Nor is it open to all as long as so many requests wait for an answer at the canaries that it would be bad if they failed, or, but for
//!   an operator, as long as canaries have lost the traffic that they had.
//! - What is remembered of the time before is never of a time in which a candidate was taken back.
//! - A canary is judged by what it counts from the moment on at which it has told with the candidate in force: what it counted before, and
//!   tells late, is not the candidate's doing. As long as one that is connected has not told so, and then once more, nothing is open to all.

use milecastle_store::{Advance, Gate, Rollout};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use super::policy::{Policy, WithoutTraffic};
use super::verdict::Compared;
use super::wait::Wait;
use crate::traffic::Traffic;

/// Notes kept: canaries are compared with the time since the first.
const NOTES: usize = 2;

/// Ends of rollouts that are remembered.
const OUTCOMES: usize = 20;

/// A node as it is seen from here.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) host: String,
    /// It has a stream to some replica.
    pub(crate) connected: bool,
    /// It was heard of so lately that it may still serve.
    pub(crate) present: bool,
    /// It is in maintenance.
    pub(crate) maintained: bool,
    /// Names the run of its process.
    pub(crate) boot: String,
    /// What it has in force of the group's lineage; 0 if nothing.
    pub(crate) revision: u64,
    /// Objects that it has in quarantine.
    pub(crate) rejected: u32,
    /// The revision whose settings it does not know.
    pub(crate) refused: Option<u64>,
    /// What it has counted since its start.
    pub(crate) traffic: Option<Traffic>,
    /// What it had in force when it told that, of the group's lineage; `None`: the replica to which it tells does not say.
    pub(crate) counted_with: Option<u64>,
    /// When it told that, Unix time in seconds; `None` as well.
    pub(crate) told_at: Option<u64>,
}

/// A node at some moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) boot: String,
    pub(crate) rejected: u32,
    /// `None` if it has not told.
    pub(crate) traffic: Option<Traffic>,
    /// As in [`Seen::counted_with`].
    #[serde(default)]
    pub(crate) with: Option<u64>,
    /// As in [`Seen::told_at`].
    #[serde(default)]
    pub(crate) at: Option<u64>,
}

/// All connected nodes at some moment, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// Unix time in seconds.
    pub(crate) at: u64,
    pub(crate) nodes: BTreeMap<String, Mark>,
}

/// How far a rollout has come at which somebody has looked: [`Rollout::stage`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stage {
    pub(crate) canaries: BTreeSet<String>,
    /// Since when all canaries that are connected serve with the candidate, Unix time in seconds.
    pub(crate) soaking_since: Option<u64>,
    /// The runs of their processes since then, by id: with another one they serve anew, and nothing goes on that brings down its nodes.
    #[serde(default)]
    pub(crate) boots: BTreeMap<String, String>,
    /// Who wants it to stay here.
    pub(crate) paused_by: Option<String>,
    /// The nodes when the canaries were chosen.
    pub(crate) note: Note,
    /// What the canaries had counted in the minutes before.
    pub(crate) before: Traffic,
    /// How long these were in seconds; 0 if that is not known, as where a version that does not tell chose the canaries.
    #[serde(default)]
    pub(crate) before_lasted: u64,
    /// It goes on with what was written since a candidate that was taken back: what is counted meanwhile says nothing.
    pub(crate) settling: bool,
    /// From when on the soak time should have been enough, Unix time in seconds; `None`: it does not count as yet.
    #[serde(default)]
    pub(crate) due_from: Option<u64>,
}

impl Stage {
    /// The stage of the same canaries with what was written since the candidate, which was taken back.
    pub(crate) fn anew(&self) -> Self {
        Self { soaking_since: None, settling: true, due_from: None, ..self.clone() }
    }

    /// The mark from which a node is counted by now. Of a canary that has the candidate in force, and had told nothing before, nobody
    /// knows how much of what waits for an answer was usual: nothing of it.
    fn begun(&self, node: &Seen, gate: Gate) -> Mark {
        let known = self.note.nodes.get(&node.id);
        let mut mark = known.map_or_else(|| node.mark(), |known| known.anew(node));
        let is_known = known.is_some_and(|known| known.traffic.is_some());
        if let Some(traffic) = &mut mark.traffic
            && !is_known
            && self.canaries.contains(&node.id)
            && node.told_with() >= gate.candidate
        {
            traffic.waiting = 0;
        }
        mark
    }

    /// The stage once `by` wants it to stay here, or, without him, to go on from `now` on (Unix seconds).
    pub(crate) fn paused(self, by: Option<String>, now: u64) -> Self {
        Self { due_from: self.due_from.map(|from| if by.is_none() { now } else { from }), paused_by: by, ..self }
    }
}

/// How a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RolloutEnd")]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// Every node may have the candidate.
    Promoted,
    /// The cluster took it back.
    RolledBack,
    /// An operator took it back.
    Aborted,
}

impl End {
    /// Stable name for interfaces.
    pub(crate) fn name(self) -> &'static str {
        match self {
            End::Promoted => "promoted",
            End::RolledBack => "rolled_back",
            End::Aborted => "aborted",
        }
    }
}

/// A rollout that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RolloutOutcome")]
pub(crate) struct Outcome {
    /// Unix time in seconds.
    pub(crate) at: u64,
    pub(crate) base: u64,
    pub(crate) candidate: u64,
    pub(crate) end: End,
    /// Who ended it: an operator, or the cluster itself.
    pub(crate) by: String,
    /// Why, for people.
    pub(crate) reason: String,
    pub(crate) canaries: BTreeSet<String>,
    /// Requests to the canaries since each has first reported with the candidate in force, and those of them answered with 5xx.
    pub(crate) requests: u64,
    pub(crate) responses_5xx: u64,
}

/// What is remembered beyond one rollout: [`Rollout::record`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// Oldest first.
    pub(crate) notes: Vec<Note>,
    /// Newest first.
    pub(crate) outcomes: Vec<Outcome>,
    /// Since when the rollout that is on has waited for its canaries to serve with it, Unix time in seconds.
    pub(crate) waiting_since: Option<u64>,
}

/// All that the course depends on.
#[derive(Debug)]
pub(crate) struct Situation<'a> {
    /// Unix time in seconds, by the database's clock.
    pub(crate) now: u64,
    pub(crate) policy: &'a Policy,
    /// The group's head.
    pub(crate) head: u64,
    pub(crate) gate: Option<Gate>,
    pub(crate) stage: Option<Stage>,
    pub(crate) record: Record,
    pub(crate) nodes: &'a [Seen],
}

/// How it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Course {
    /// Not at all before something changes.
    Wait(Wait),
    /// By this step, of that name.
    Step { name: &'static str, stage: Option<Box<Stage>>, record: Record, advance: Advance },
    /// The candidate is taken back, for this reason.
    Back(String),
}

/// What is stored of a rollout, as far as this version can read it.
pub(crate) fn stored(rollout: &Rollout) -> (Option<Stage>, Record) {
    let stage = rollout.stage.as_ref().and_then(|stage| Stage::deserialize(stage).ok());
    (stage, Record::deserialize(&rollout.record).unwrap_or_default())
}

impl Record {
    /// Whether it is time to note what nodes have counted, at `now` (Unix seconds).
    pub(crate) fn is_note_due(&self, policy: &Policy, now: u64) -> bool {
        self.notes.last().is_none_or(|last| now.saturating_sub(last.at) >= policy.baseline.get().as_secs())
    }
}

impl Situation<'_> {
    /// How it goes on.
    pub(crate) fn course(&self) -> Course {
        let course = match (self.gate, &self.stage) {
            (None, _) => self.at_rest(),
            (Some(gate), None) => self.begin(gate),
            (Some(gate), Some(stage)) => self.go_on(gate, stage),
        };
        let Course::Wait(wait) = &course else { return course };
        // What an operator wants to wait is not given up.
        if wait.advice().is_none() || self.is_paused() {
            return course;
        }
        if self.is_soaking() || self.record.waiting_since.is_some() {
            return match self.policy.give_up_after.filter(|limit| self.waited() >= limit.get().as_secs()) {
                Some(limit) => Course::Back(format!("it could not go on for {limit}: {}", wait.what())),
                None => course,
            };
        }
        let record = Record { waiting_since: Some(self.now), ..self.record.clone() };
        Course::Step { name: "wait", stage: self.stage.clone().map(Box::new), record, advance: Advance::Stay }
    }

    /// Whether it has waited for longer than the policy takes for usual.
    pub(crate) fn is_stalled(&self) -> bool {
        self.waited() >= self.policy.stalled_after.get().as_secs()
    }

    /// For how many seconds it has waited for canaries that serve with it, or for what should have come with the soak time. A pause
    /// counts for nothing.
    fn waited(&self) -> u64 {
        if self.is_paused() {
            return 0;
        }
        let since = |at: u64| self.now.saturating_sub(at);
        let due_from = self.stage.as_ref().and_then(|stage| stage.due_from);
        let overdue = due_from.map_or(0, |from| since(from).saturating_sub(self.policy.soak.get().as_secs()));
        self.record.waiting_since.map_or(0, since).max(overdue)
    }

    fn is_paused(&self) -> bool {
        self.stage.as_ref().is_some_and(|stage| stage.paused_by.is_some())
    }

    fn is_soaking(&self) -> bool {
        self.stage.as_ref().is_some_and(|stage| stage.soaking_since.is_some())
    }

    /// No rollout is on: it is noted what nodes have counted, for the next one to be compared with. Only of those that have what led back
    /// from each candidate that was taken back; one that lags keeps nothing of the others from being noted.
    fn at_rest(&self) -> Course {
        let taken_back = self.record.outcomes.iter().filter(|outcome| outcome.end != End::Promoted);
        let last = taken_back.map(|outcome| outcome.candidate).max();
        let settled = |node: &&Seen| node.told_with() >= self.head || last.is_none_or(|last| node.told_with() > last);
        let nodes: BTreeMap<_, _> =
            self.connected().filter(settled).map(|node| (node.id.clone(), node.mark())).collect();
        let is_nothing = nodes.is_empty() && self.connected().next().is_some();
        if !self.record.is_note_due(self.policy, self.now) || is_nothing {
            return Course::Wait(Wait::Revision);
        }
        let mut record = self.record.clone();
        record.notes.push(Note { at: self.now, nodes });
        record.notes.drain(..record.notes.len().saturating_sub(NOTES));
        Course::Step { name: "note", stage: None, record, advance: Advance::Stay }
    }

    /// Nobody has looked at it yet.
    fn begin(&self, gate: Gate) -> Course {
        if !self.nodes.iter().any(|node| node.present) {
            return self.promote(gate, &Stage::default(), "there is no node that could be harmed");
        }
        let taken_back = self.record.outcomes.first().filter(|last| last.end != End::Promoted);
        if taken_back.is_some_and(|last| self.now.saturating_sub(last.at) < self.settling()) {
            return Course::Wait(Wait::Settling);
        }
        let canaries: BTreeSet<String> = self.policy.choose(self.nodes).into_iter().collect();
        if canaries.is_empty() {
            return Course::Wait(Wait::Canaries);
        }
        let note = self.note();
        let earlier = self.record.notes.first();
        let before = earlier.map(|earlier| {
            let marks = canaries.iter().filter_map(|id| Some((note.nodes.get(id)?, earlier.nodes.get(id)?)));
            sum(marks.filter_map(|(now, then)| now.since(then)))
        });
        let (before, due_from) = (before.unwrap_or_default(), Some(self.now));
        let before_lasted = earlier.map_or(0, |earlier| self.now.saturating_sub(earlier.at));
        let stage = Stage { canaries, note, before, before_lasted, due_from, ..Stage::default() };
        self.stay("choose", stage)
    }

    fn go_on(&self, gate: Gate, stage: &Stage) -> Course {
        if let Some(stage) = self.completed(stage, gate) {
            return self.stay("count", stage);
        }
        let canaries = || self.nodes.iter().filter(|node| stage.canaries.contains(&node.id));
        if let Some(reason) = canaries().find_map(|node| rejection(node, stage, gate)) {
            return Course::Back(reason);
        }
        let compared = self.compared(stage);
        if let Some(reason) = compared.verdict(self.policy) {
            return Course::Back(reason);
        }
        let serving = canaries().any(|node| node.connected);
        let lost = canaries().any(|node| node.present && !node.connected);
        let settled = canaries().filter(|node| node.connected).all(|node| node.revision >= gate.candidate);
        let Some(since) = stage.soaking_since else {
            return match (serving, lost, settled) {
                (false, ..) => Course::Wait(Wait::AnyCanary),
                (true, true, _) => Course::Wait(Wait::LostCanary),
                (true, false, false) => Course::Wait(Wait::Force),
                (true, false, true) => {
                    let boots = canaries().filter(|node| node.connected);
                    let boots = boots.map(|node| (node.id.clone(), node.boot.clone())).collect();
                    self.stay("soak", Stage { soaking_since: Some(self.now), boots, ..stage.clone() })
                }
            };
        };
        let is_another_run = |node: &Seen| stage.boots.get(&node.id).is_some_and(|boot| *boot != node.boot);
        if !serving || lost || !settled || canaries().any(is_another_run) {
            // It begins anew once they serve again.
            return self.stay("lose", Stage { soaking_since: None, ..stage.clone() });
        }
        let (lasted, soak) = (self.now.saturating_sub(since), self.policy.soak.get().as_secs());
        if stage.settling && lasted >= self.settling() {
            // What the candidate that was taken back left hanging fails by and by, which is not the doing of what follows.
            let came = self.compared(&Stage { settling: false, ..stage.clone() });
            if came.hangs(self.policy) && lasted < self.settling().saturating_add(soak) {
                return Course::Wait(Wait::Answers { waiting: came.canaries.waiting });
            }
            // What hangs by now may hang because of the candidate.
            let marks = self.connected().map(|node| (node.id.clone(), stage.begun(node, gate)));
            let (note, now) = (Note { at: self.now, nodes: marks.collect() }, Some(self.now));
            let stage = Stage { settling: false, soaking_since: now, due_from: now, note, ..stage.clone() };
            return self.stay("judge", stage);
        }
        let left = soak.saturating_sub(lasted);
        if left > 0 || stage.settling {
            return Course::Wait(Wait::Soak { left });
        }
        if let Some(by) = stage.paused_by.clone() {
            return Course::Wait(Wait::Pause { by });
        }
        if canaries().filter(|node| node.connected).any(|node| !node.is_judged(stage, gate, since)) {
            return Course::Wait(Wait::Report);
        }
        if compared.is_in_doubt(self.policy) {
            return Course::Wait(Wait::Answers { waiting: compared.canaries.waiting });
        }
        let needs_traffic = || self.policy.without_traffic == WithoutTraffic::Hold || self.is_missed(stage, &compared);
        if !compared.is_enough(self.policy) && needs_traffic() {
            let (has, needs) = (compared.canaries.requests(), self.policy.min_requests);
            return Course::Wait(Wait::Traffic { has, needs });
        }
        self.promote(gate, stage, "canaries have served with it for the soak time")
    }

    /// Whether canaries without traffic should have some: so much came before that enough would come within the soak time, and it has
    /// not ceased at the other nodes.
    fn is_missed(&self, stage: &Stage, compared: &Compared) -> bool {
        if stage.before_lasted == 0 {
            return false;
        }
        let (least, soak) = (self.policy.min_requests.max(1), self.policy.soak.get().as_secs());
        let usual = compared.before.requests().saturating_mul(soak) / stage.before_lasted;
        let are_alone = self.connected().all(|node| node.maintained || stage.canaries.contains(&node.id));
        usual >= least && (are_alone || compared.others.requests() >= least)
    }

    fn stay(&self, name: &'static str, stage: Stage) -> Course {
        let waiting_since = match (stage.soaking_since, &self.stage) {
            (Some(_), _) => None,
            (None, None) => Some(self.now),
            (None, Some(_)) => self.record.waiting_since.or(Some(self.now)),
        };
        let record = Record { waiting_since, ..self.record.clone() };
        Course::Step { name, stage: Some(Box::new(stage)), record, advance: Advance::Stay }
    }

    fn promote(&self, gate: Gate, stage: &Stage, reason: &str) -> Course {
        let record = self.ended(gate, stage, End::Promoted, super::NAME, reason);
        Course::Step { name: "promote", stage: None, record, advance: Advance::Candidate }
    }

    /// Seconds after which what nodes counted with a candidate that was taken back has been told.
    fn settling(&self) -> u64 {
        self.policy.settle.get().as_secs()
    }

    /// The stage with what has been counted where counting begins by now: that of nodes that had told nothing when the canaries were
    /// chosen, as of one that had just opened another stream; and that of canaries that have told with the candidate in force, with which
    /// that of the others begins anew. What was counted before is not laid at anybody's door.
    fn completed(&self, stage: &Stage, gate: Gate) -> Option<Stage> {
        let mark = |node: &Seen| stage.note.nodes.get(&node.id);
        let is_canary = |node: &Seen| stage.canaries.contains(&node.id);
        let is_new = |node: &Seen| mark(node).is_none_or(|mark| mark.traffic.is_none() && mark.boot == node.boot);
        let has_come = |node: &Seen| {
            is_canary(node) && node.told_with() >= gate.candidate && mark(node).is_some_and(|mark| mark.is_before(gate))
        };
        let told = || self.connected().filter(|node| node.traffic.is_some());
        let anew = told().any(has_come);
        let begins = |node: &&Seen| is_new(node) || has_come(node) || (anew && !is_canary(node));
        let mut beginning = told().filter(begins).peekable();
        beginning.peek()?;
        let mut note = stage.note.clone();
        for node in beginning {
            note.nodes.insert(node.id.clone(), stage.begun(node, gate));
        }
        Some(Stage { note, ..stage.clone() })
    }

    /// The record with this end.
    pub(crate) fn ended(&self, gate: Gate, stage: &Stage, end: End, by: &str, reason: &str) -> Record {
        let mut record = Record { waiting_since: None, ..self.record.clone() };
        let canaries = self.compared(stage).canaries;
        let outcome = Outcome {
            at: self.now,
            base: gate.base,
            candidate: gate.candidate,
            end,
            by: by.to_owned(),
            reason: reason.to_owned(),
            canaries: stage.canaries.clone(),
            requests: canaries.requests(),
            responses_5xx: canaries.responses[4],
        };
        record.outcomes.insert(0, outcome);
        record.outcomes.truncate(OUTCOMES);
        if end != End::Promoted {
            record.notes.clear();
        }
        record
    }

    /// What the canaries have answered so far, and what it is compared with.
    pub(crate) fn compared(&self, stage: &Stage) -> Compared {
        if stage.settling {
            return Compared { before: stage.before, ..Compared::default() };
        }
        let came = |ahead: bool| {
            let nodes = self.nodes.iter().filter(move |node| stage.canaries.contains(&node.id) == ahead);
            let begun = |mark: &&Mark| !(ahead && self.gate.is_some_and(|gate| mark.is_before(gate)));
            sum(nodes.filter_map(|node| node.mark().since(stage.note.nodes.get(&node.id).filter(begun)?)))
        };
        Compared { canaries: came(true), others: came(false), before: stage.before }
    }

    fn connected(&self) -> impl Iterator<Item = &Seen> {
        self.nodes.iter().filter(|node| node.connected)
    }

    fn note(&self) -> Note {
        let nodes = self.connected().map(|node| (node.id.clone(), node.mark())).collect();
        Note { at: self.now, nodes }
    }
}

impl Seen {
    fn mark(&self) -> Mark {
        Mark {
            boot: self.boot.clone(),
            rejected: self.rejected,
            traffic: self.traffic,
            with: self.counted_with,
            at: self.told_at,
        }
    }

    /// Whether this canary has told what came of the candidate: once more since its counting began, and since the canaries `soak` (Unix
    /// seconds). One of which nothing has ever been told is of a version that does not; one that has just opened another stream will.
    fn is_judged(&self, stage: &Stage, gate: Gate, soak: u64) -> bool {
        let begun = stage.note.nodes.get(&self.id);
        if self.traffic.is_none() {
            return begun.is_none_or(|mark| mark.traffic.is_none());
        }
        let last = begun.and_then(|mark| mark.at).map_or(soak, |at| at.max(soak));
        self.told_with() >= gate.candidate && self.told_at.is_none_or(|at| at > last)
    }

    /// What it had in force when it told what it has counted, as far as that is known.
    fn told_with(&self) -> u64 {
        self.counted_with.unwrap_or(self.revision)
    }
}

impl Mark {
    /// Whether it is of a time in which the candidate was not in force there.
    fn is_before(&self, gate: Gate) -> bool {
        self.with.is_some_and(|with| with < gate.candidate)
    }

    /// The node by now. What is in quarantine and what waits for an answer is compared with what was when the canaries were chosen.
    fn anew(&self, node: &Seen) -> Self {
        let waiting = self.traffic.map(|then| then.waiting);
        let traffic = node.traffic.map(|now| Traffic { waiting: waiting.unwrap_or(now.waiting), ..now });
        Self { rejected: self.rejected, traffic, ..node.mark() }
    }

    /// What was counted since then, if that is known. A process that started since then has counted from nothing.
    fn since(&self, then: &Self) -> Option<Traffic> {
        if self.boot == then.boot { Some(self.traffic?.since(&then.traffic?)) } else { self.traffic }
    }
}

fn sum(traffic: impl Iterator<Item = Traffic>) -> Traffic {
    traffic.fold(Traffic::default(), |sum, one| sum.and(&one))
}

/// Why a canary does not take the candidate as it should, if it does not.
fn rejection(node: &Seen, stage: &Stage, gate: Gate) -> Option<String> {
    let Seen { id, host, .. } = node;
    if node.refused.is_some_and(|revision| revision > gate.base && revision <= gate.candidate) {
        return Some(format!("the canary {id} ({host}) does not know the settings of the group that it comes with"));
    }
    let before = stage.note.nodes.get(id).map_or(0, |mark| mark.rejected);
    (node.revision >= gate.candidate && node.rejected > before)
        .then(|| format!("the canary {id} ({host}) has {} objects in quarantine, {before} before", node.rejected))
}

#[cfg(test)]
mod tests;
