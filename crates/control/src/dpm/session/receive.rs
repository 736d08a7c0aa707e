//! What the node says, and what follows from it.

use std::sync::Arc;

use milecastle_settings::Stream;
use milecastle_wire::{Digest, pb};
use pb::node_message::Message;
use pb::refused::Fault;
use tokio::time::Instant;
use tonic::Status;

use super::super::head::Position;
use super::super::nodes::clip;
use super::Session;

impl Session {
    /// Takes a message.
    pub(super) fn receive(&mut self, message: pb::NodeMessage) -> Result<(), Status> {
        match message.message {
            Some(Message::Applied(applied)) => self.applied(applied),
            Some(Message::Refused(refused)) => self.refused(refused),
            Some(Message::Report(report)) => self.report(report),
            Some(Message::Maintenance(order)) => self.alive.maintained(order.on),
            Some(Message::Hello(_)) => return Err(Status::invalid_argument("Hello came a second time")),
            // Of a later version of the protocol.
            None => {}
        }
        Ok(())
    }

    fn applied(&mut self, applied: pb::Applied) {
        let sent = self.answered(&applied.lineage, applied.revision);
        if sent == Some(Answered::Void) {
            return;
        }
        let head = self.head();
        let of_head = applied.lineage == **head.lineage();
        let expected = match sent {
            Some(Answered::Sent(position)) => Some(position.digest),
            _ => head.at(applied.revision).map(|(_, digest)| digest).filter(|_| of_head),
        };
        // One that names what was neither sent nor is remembered here is not believed either: it would count for revisions that
        // are not there yet.
        let digest = Digest::try_from(&*applied.digest).ok().filter(|held| expected == Some(*held));
        let Some(digest) = digest else {
            let pb::Applied { lineage, revision, digest, .. } = applied;
            let have = pb::Have { lineage, revision, digest, mark: String::new() };
            return self.mismatch(have);
        };
        // It runs what it should. Whether it is well shows in time: one that breaks whenever it was healed must not get
        // snapshots without pause.
        self.alarm = None;
        if self.healed.elapsed() >= self.shared.settings.heal_max.get() {
            self.heals = 0;
        }
        let lineage = if of_head { head.lineage().clone() } else { Arc::from(applied.lineage.as_str()) };
        self.alive.applied(Position { lineage, revision: applied.revision, digest }, applied);
    }

    fn refused(&mut self, refused: pb::Refused) {
        let fault = refused.fault();
        let answered = self.answered(&refused.lineage, refused.revision);
        let void = answered == Some(Answered::Void);
        self.shared.metrics.refusals.with(&[self.feed.group(), word(fault)]).inc();
        let (group, node) = (self.feed.group(), self.certificate.identity.node_id());
        let (revision, detail) = (refused.revision, &refused.detail);
        match fault {
            Fault::Lineage | Fault::Backwards | Fault::Settings => {
                if self.alarm.replace(fault) != Some(fault) {
                    let fault = word(fault);
                    tracing::warn!(node, %group, fault, revision, detail, "a node keeps what it has: an operator is needed");
                }
                self.alive.refused(word(fault), refused.detail, revision);
                let stays = refused.have.and_then(|have| {
                    let digest = Digest::try_from(&*have.digest).ok()?;
                    Some(Position { lineage: clip(have.lineage).into(), revision: have.revision, digest })
                });
                let Some(position) = stays else { return };
                self.alive.stays(position.clone());
                if let Some(Answered::Sent(_)) = answered {
                    // What it did not take now it may take later.
                    self.at = Some(position);
                    self.heal_at = Some(Instant::now() + self.shared.settings.heal_max.get());
                }
            }
            Fault::Unspecified | Fault::Digest | Fault::Gap | Fault::Malformed => {
                let begins = !void && self.is_to_heal();
                if begins {
                    tracing::warn!(node, %group, fault = word(fault), revision, detail, "a node refused a step");
                }
                self.alive.refused(word(fault), refused.detail, revision);
                if begins {
                    self.heal(refused.have);
                }
            }
        }
    }

    fn report(&mut self, mut report: pb::Report) {
        let head = self.head();
        let have = report.have.clone().filter(|have| {
            // While something is on its way, what it has may be older or newer than this message.
            let settled = self.unanswered.is_empty() && self.transfer.is_none() && self.at.is_some();
            // One that keeps another history than this is not healed of it.
            let settled = settled && self.alarm.is_none() && self.apart.is_none();
            let known = head.at(have.revision).filter(|_| have.lineage == **head.lineage());
            settled && known.is_some_and(|(_, digest)| *have.digest != digest.to_bytes())
        });
        self.alive.warned(std::mem::take(&mut report.warnings), (&self.shared.settings).into());
        if let Some(told) = report.route_traffic.take() {
            self.alive.counted(told, self.shared.settings.routes);
        }
        self.alive.certificate_ends(self.overdue(report.certificate_not_after));
        let watched = self.heads.borrow().is_gated();
        self.alive.report(report, watched);
        if let Some(have) = have {
            self.mismatch(have);
        }
    }

    /// When the node's newest certificate ends, which it says, if half of the time is over that it has for getting the next one.
    fn overdue(&self, not_after: i64) -> Option<u64> {
        let stream = &self.certificate;
        let spare = stream.not_after.duration_since(stream.renew_at()).unwrap_or_default() / 2;
        let ends = u64::try_from(not_after).ok().filter(|ends| *ends > 0)?;
        (ends.saturating_sub(self.shared.store.now()) < spare.as_secs()).then_some(ends)
    }

    /// The node holds something else than what the revision that it names adds up to.
    fn mismatch(&mut self, have: pb::Have) {
        let (group, node, revision) = (self.feed.group(), self.certificate.identity.node_id(), have.revision);
        self.shared.metrics.refusals.with(&[group, word(Fault::Digest)]).inc();
        self.alive.refused(word(Fault::Digest), "its digest is not that of the revision".to_owned(), revision);
        if self.is_to_heal() {
            tracing::warn!(node, %group, revision, "a node holds something else than it should; it gets a snapshot");
            self.heal(Some(have));
        }
    }

    /// Whether no snapshot is due already.
    fn is_to_heal(&self) -> bool {
        self.at.is_some() || self.transfer.is_some()
    }

    /// Sees to it that a snapshot comes next; at once if the node was well, later and later if it was not.
    fn heal(&mut self, have: Option<pb::Have>) {
        let head = self.head();
        let ahead_of = have.filter(|have| have.lineage == **head.lineage()).map_or(0, |have| have.revision);
        self.least = ahead_of.min(head.revision());
        (self.at, self.transfer, self.preparing, self.why) = (None, None, None, "healing");
        self.void = self.unanswered.len();
        if let Some(doubled) = self.heals.checked_sub(1) {
            let Stream { heal_min, heal_max, .. } = &self.shared.settings;
            let pause = heal_min.get().saturating_mul(1 << doubled.min(16)).min(heal_max.get());
            self.heal_at = Some(Instant::now() + pause);
        }
        self.healed = Instant::now();
        self.heals = self.heals.saturating_add(1);
    }

    /// Takes the step that an answer is for, and those before it, off what is on its way.
    fn answered(&mut self, lineage: &str, revision: u64) -> Option<Answered> {
        let mut steps = self.unanswered.iter();
        let found = steps.position(|step| *step.lineage == *lineage && step.revision == revision)?;
        let step = self.unanswered.drain(..=found).next_back()?;
        let void = found < self.void;
        self.void = self.void.saturating_sub(found + 1);
        Some(if void { Answered::Void } else { Answered::Sent(step) })
    }
}

/// What an answer is for.
#[derive(Debug, PartialEq, Eq)]
enum Answered {
    Sent(Position),
    /// Something that a snapshot sent since then replaces.
    Void,
}

/// The fault's name in metrics, logs and reports.
fn word(fault: Fault) -> &'static str {
    match fault {
        Fault::Unspecified => "unspecified",
        Fault::Digest => "digest",
        Fault::Gap => "gap",
        Fault::Lineage => "lineage",
        Fault::Backwards => "backwards",
        Fault::Malformed => "malformed",
        Fault::Settings => "settings",
    }
}
