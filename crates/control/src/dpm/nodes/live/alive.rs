//! What the stream of a node makes known of it.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use milecastle_store::{Node, NodeReport};
use milecastle_wire::pb;
use tokio::sync::watch;

use super::super::super::head::Position;
use super::super::warnings::{Bounds, Origin};
use super::super::{Figures, HeldCertificate, REMOTE_LIFE, RefusedStep, RejectedObject};
use super::{Alive, Entry, clip, order};
use crate::traffic::Traffic;

/// Rejected objects of a node that are kept.
const REJECTED: usize = 100;

/// Alarms of a node that are kept.
const ALARMS: usize = 16;

/// Ends of certificates of a node that are kept.
const CERTIFICATES: usize = 32;

impl Alive {
    /// The store says of the node what it said before its stream began, unless it has said something since.
    pub(in crate::dpm) fn begin(&self, node: &Node) {
        self.update(|entry| {
            entry.maintenance.send_if_modified(|told| {
                let unknown = told.is_none();
                told.get_or_insert_with(|| order(node));
                unknown
            });
            false
        });
    }

    /// What the node is to be told of its maintenance: hears of every change.
    pub(in crate::dpm) fn maintenance(&self) -> watch::Receiver<Option<pb::Maintenance>> {
        self.maintenance.clone()
    }

    /// The node says that it runs `applied`.
    pub(in crate::dpm) fn applied(&self, position: Position, applied: pb::Applied) {
        let total = applied.rejected_total.max(u32::try_from(applied.rejected.len()).unwrap_or(u32::MAX));
        let rejected = applied.rejected.into_iter().take(REJECTED).map(|rejection| {
            let key = rejection.key.unwrap_or_default();
            RejectedObject {
                kind: clip(key.kind),
                id: clip(key.id),
                reason: clip(rejection.reason),
                serving_last_good: rejection.serving_last_good,
            }
        });
        let rejected: Vec<_> = rejected.collect();
        self.update(|entry| {
            entry.position = Some(position);
            entry.troubles.rejected = rejected;
            entry.troubles.rejected_total = total;
            entry.troubles.refused = None;
            true
        });
    }

    /// The node says whether it is in maintenance: the order that it was told last is in force.
    pub(in crate::dpm) fn maintained(&self, on: bool) {
        self.update(|entry| std::mem::replace(&mut entry.troubles.maintained, on) != on);
    }

    /// The node says where it stands, and that it stays there.
    pub(in crate::dpm) fn stays(&self, position: Position) {
        self.update(|entry| {
            let news = entry.position.as_ref() != Some(&position);
            entry.position = Some(position);
            news
        });
    }

    /// The node says that it did not take a step.
    pub(in crate::dpm) fn refused(&self, fault: &str, detail: String, revision: u64) {
        let refused = Some(RefusedStep { fault: fault.to_owned(), detail: clip(detail), revision });
        self.update(|entry| {
            let news = entry.troubles.refused != refused;
            entry.troubles.refused = refused;
            news
        });
    }

    /// When the node's certificate ends (Unix seconds), if it should have had the next one for some time.
    pub(in crate::dpm) fn certificate_ends(&self, ends: Option<u64>) {
        self.update(|entry| std::mem::replace(&mut entry.troubles.certificate_ends, ends) != ends);
    }

    /// The node says what it has logged; lines beyond the bounds are left out.
    pub(in crate::dpm) fn warned(&self, told: Vec<pb::Warning>, bounds: Bounds) {
        let groups = self.live.lock();
        let Some(entry) = groups.get(&*self.group).and_then(|nodes| nodes.get(&self.node)) else { return };
        if !told.is_empty() && entry.stream == self.stream {
            let origin = Origin { group: &self.group, node: &self.node, boot: &entry.boot };
            self.live.warnings.add(origin, told, self.live.store.now(), bounds);
        }
    }

    /// The node says what it has counted by route; `most` of a group are kept apart.
    pub(in crate::dpm) fn counted(&self, told: pb::RouteTraffic, most: u32) {
        let is_current = {
            let groups = self.live.lock();
            let entry = groups.get(&*self.group).and_then(|nodes| nodes.get(&self.node));
            entry.is_some_and(|entry| entry.stream == self.stream && !entry.rivals.gives_way)
        };
        if is_current {
            self.live.routes.add(&self.group, &self.node, told, self.live.store.now(), most as usize);
        }
    }

    /// The node goes ahead of others, or does not any more.
    pub(in crate::dpm) fn goes_ahead(&self, canary: bool) {
        let mut groups = self.live.lock();
        let entry = groups.get_mut(&*self.group).and_then(|nodes| nodes.get_mut(&self.node));
        let Some(entry) = entry.filter(|entry| entry.stream == self.stream) else { return };
        let news = std::mem::replace(&mut entry.canary, canary) != canary;
        drop(groups);
        if news {
            self.live.changed(&self.group);
        }
    }

    /// The node says how it does. `watched`: what it counts is to be written with the next round of reports. Where the node stands it
    /// does not change, so that no receipt is written, and nobody who waits for one is woken.
    pub(in crate::dpm) fn report(&self, report: pb::Report, watched: bool) {
        let mut figures = Figures {
            uptime: Duration::from_millis(report.uptime_ms),
            requests: report.requests,
            responses_5xx: report.responses_5xx,
            cpu: Duration::from_millis(report.cpu_ms),
            connections: report.connections,
            resident_bytes: report.resident_bytes,
            upstream_targets: report.upstream_targets,
            unhealthy_targets: report.unhealthy_targets,
            certificate_not_after: report.certificate_not_after,
            traffic: Traffic::told(&report),
            revision: 0,
            told_at: self.live.store.now(),
        };
        let have = report.have.unwrap_or_default();
        let alarms: Vec<String> = report.alarms.into_iter().take(ALARMS).map(clip).collect();
        let held = |end: pb::CertificateEnd| {
            let key = end.key?;
            let not_after = u64::try_from(end.not_after).unwrap_or_default();
            Some(HeldCertificate { kind: clip(key.kind), id: clip(key.id), not_after })
        };
        let certificates: Vec<_> = report.certificates.into_iter().filter_map(held).take(CERTIFICATES).collect();
        let mut counted = false;
        self.update(|entry| {
            // Of another lineage the number says nothing.
            if entry.position.as_ref().is_some_and(|position| *position.lineage == *have.lineage) {
                figures.revision = have.revision;
            }
            let differs = |known: Figures| (known.traffic, known.revision) != (figures.traffic, figures.revision);
            // Of a canary it counts that it has told again, whatever.
            counted = watched && (entry.canary || entry.figures.is_none_or(differs));
            entry.news |= counted;
            let troubles = &mut entry.troubles;
            let before = troubles.certificates.as_deref().unwrap_or_default();
            let news = troubles.alarms != alarms || before != certificates;
            (troubles.alarms, troubles.certificates) = (alarms, Some(certificates));
            entry.figures = Some(figures);
            news
        });
        if counted {
            self.live.news.notify_one();
        }
    }

    /// The node was heard.
    fn update(&self, change: impl FnOnce(&mut Entry) -> bool) {
        let mut groups = self.live.lock();
        let entry = groups.get_mut(&*self.group).and_then(|nodes| nodes.get_mut(&self.node));
        let Some(entry) = entry.filter(|entry| entry.stream == self.stream) else { return };
        entry.heard_at = self.live.store.now();
        let answered = entry.rivals.answered();
        let news = change(entry);
        entry.news |= news;
        drop(groups);
        if news || answered {
            self.live.changed(&self.group);
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let mut groups = self.live.lock();
        let Some(nodes) = groups.get_mut(&*self.group) else { return };
        if nodes.get(&self.node).is_none_or(|entry| entry.stream != self.stream) {
            return;
        }
        let Some(entry) = nodes.remove(&self.node) else { return };
        let now = self.live.store.now();
        // Where an earlier process has the node's stream, nothing ends but a mistake.
        let last = (!entry.rivals.gives_way).then(|| NodeReport { reported_at: now, ..entry.report(false, "") });
        if let Some(last) = &last {
            let mut departed = self.live.departed.lock().unwrap_or_else(PoisonError::into_inner);
            departed.retain(|_, last| now.saturating_sub(last.reported_at) <= REMOTE_LIFE.as_secs());
            // While the nodes are locked: whoever does not find it among them any more finds its last words.
            departed.insert((self.group.clone(), self.node.clone()), last.clone());
        }
        if nodes.is_empty() {
            groups.remove(&*self.group);
        }
        drop(groups);
        self.live.routes.left(&self.group, &self.node);
        if let Some(last) = last {
            let node = (self.group.to_string(), self.node.clone());
            self.live.left.lock().unwrap_or_else(PoisonError::into_inner).insert(node, last);
        }
        self.live.urgent.store(true, Ordering::Release);
        self.live.changed(&self.group);
    }
}
