//! One configuration stream, from `Hello` to its end.
//!
//! What must stay true:
//! - A stream holds one transfer at a time and few messages of it; what happens meanwhile is part of the next delta.
//! - Never more than [`UNANSWERED`] steps are on their way without the node's answer.
//! - A node of another lineage, ahead of the head, or apart from it hears beats and nothing else.

mod receive;
mod start;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use milecastle_pki::NodeCertificate;
use milecastle_wire::pb;
use pb::control_message::Message as Control;
use pb::refused::Fault;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tonic::{Status, Streaming};

use super::authority::time_of;
use super::config::{Open, Shared};
use super::feed::{Feed, Packed};
use super::head::{Head, Position, Step};
use super::line::Link;
use super::lines::Lines;
use super::nodes::{Alive, End};
use super::random;

pub(super) use start::Start;

/// Steps that may be on their way. More would queue up before a node that builds slowly, where none of them can be coalesced.
pub(super) const UNANSWERED: usize = 4;

/// How long the last words may take before the connection is cut.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Nodes that a replica sends away come back elsewhere within this time at least.
const SHORTEST_SPREAD: Duration = Duration::from_secs(1);

type Outbox = mpsc::Sender<Result<pb::ControlMessage, Status>>;

/// What is on its way in several messages.
enum Transfer {
    Snapshot { packed: Packed, next: u32, why: &'static str },
    Delta { step: Step, next: usize, to: Position },
}

/// What came of the work on the next transfer.
enum Prepared {
    Ready(Transfer),
    /// No delta leads to the head.
    NoDelta,
    /// Not even a snapshot could be made.
    Failed,
}

type Preparing = Pin<Box<dyn Future<Output = Prepared> + Send>>;

pub(super) struct Session {
    shared: Arc<Shared>,
    _open: Open,
    feed: Arc<Feed>,
    heads: watch::Receiver<Arc<Lines>>,
    alive: Alive,
    link: Link,
    certificate: NodeCertificate,
    outbox: Outbox,
    /// The group's lineage, as last seen.
    lineage: Arc<str>,
    /// Where the node stands once it has taken all that was sent; `None` if a snapshot must come next.
    at: Option<Position>,
    /// Snapshots below this revision of the head's lineage would set the node back.
    least: u64,
    /// The node's revision, while the database has another one of that number in the lineage of the node.
    apart: Option<u64>,
    /// Steps sent and not answered, oldest first.
    unanswered: VecDeque<Position>,
    /// How many of those a later snapshot made void: whatever the node says of them is of no interest.
    void: usize,
    preparing: Option<Preparing>,
    transfer: Option<Transfer>,
    beat_due: bool,
    /// What the node is to be told of its maintenance, and whether that is due.
    maintenance: watch::Receiver<Option<pb::Maintenance>>,
    maintenance_due: bool,
    /// Why the next snapshot is sent.
    why: &'static str,
    /// How often the node was healed since it was last well for a while, when last, and when it may be again.
    heals: u32,
    healed: Instant,
    heal_at: Option<Instant>,
    heard: Instant,
    /// Since when the outbox has been full.
    stuck: Option<Instant>,
    /// The last refusal that needs an operator, so that it is logged once.
    alarm: Option<Fault>,
}

/// How a stream ends.
enum Ended {
    /// The node closed it, or its connection broke.
    Left,
    /// This replica drains or is in maintenance.
    Away,
    /// We end it, saying so.
    Told(Status),
    /// The node does not take what we say.
    Deaf,
}

impl Session {
    pub(super) fn new(
        shared: Arc<Shared>,
        feed: Arc<Feed>,
        start: Start,
        alive: Alive,
        link: Link,
        certificate: NodeCertificate,
        outbox: Outbox,
    ) -> Self {
        let (heads, maintenance) = (feed.subscribe(), alive.maintenance());
        let lines = heads.borrow().clone();
        let node = certificate.identity.node_id();
        let lineage = lines.of(node).lineage().clone();
        alive.goes_ahead(lines.is_canary(node));
        Self {
            lineage,
            _open: Open::new(&shared),
            shared,
            feed,
            heads,
            alive,
            link,
            certificate,
            outbox,
            at: start.at,
            least: start.least,
            apart: start.apart,
            unanswered: VecDeque::new(),
            void: 0,
            preparing: None,
            transfer: start.resume.map(|(packed, next)| Transfer::Snapshot { packed, next, why: "resume" }),
            beat_due: true,
            maintenance,
            maintenance_due: true,
            why: start.why,
            heals: 0,
            healed: Instant::now(),
            heal_at: None,
            heard: Instant::now(),
            stuck: None,
            alarm: None,
        }
    }

    /// Serves the node to the end of the stream.
    pub(super) async fn run(mut self, inbox: Streaming<pb::NodeMessage>, ended: oneshot::Receiver<End>) {
        let (group, node) = (self.feed.group().clone(), self.certificate.identity.node_id().to_owned());
        let streams = self.shared.metrics.streams.with(&[&group]);
        streams.inc();
        tracing::info!(node, %group, address = %self.link.peer.address, "configuration stream open");
        let ended = self.serve(inbox, ended).await;
        streams.dec();
        let why = match &ended {
            Ended::Left => "the node left",
            Ended::Away => "this replica sends its nodes elsewhere",
            Ended::Told(status) => status.message(),
            Ended::Deaf => "the node does not take what it is sent",
        };
        tracing::info!(node, %group, why, "configuration stream closed");
        self.close(ended).await;
    }

    async fn serve(&mut self, mut inbox: Streaming<pb::NodeMessage>, mut ended: oneshot::Receiver<End>) -> Ended {
        let (mut away, mut maintenance) = (self.shared.away.clone(), self.maintenance.clone());
        let (mut heads, outbox) = (self.heads.clone(), self.outbox.clone());
        let mut beat = interval(self.shared.settings.beat.get());
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.plan();
            // In this order: the end; what keeps the node informed; and last what it says, so that a node that talks
            // without pause still hears.
            tokio::select! {
                biased;
                end = &mut ended => return Ended::Told(last_words(end.unwrap_or(End::Replaced))),
                () = away.begins() => return Ended::Away,
                // The end of what tells it is the end of the stream, which says so itself.
                Ok(()) = maintenance.changed() => self.maintenance_due = true,
                _ = beat.tick() => {
                    if let Some(ended) = self.look_at_the_clock() {
                        return ended;
                    }
                    self.beat_due = true;
                }
                permit = outbox.reserve(), if self.beat_due || self.maintenance_due || self.transfer.is_some() => {
                    let Ok(permit) = permit else { return Ended::Left };
                    self.stuck = None;
                    if let Some(message) = self.next_message() {
                        self.count(&message);
                        permit.send(Ok(message));
                    }
                }
                prepared = wait_for(&mut self.preparing) => {
                    self.preparing = None;
                    self.take(prepared);
                }
                changed = heads.changed() => {
                    if changed.is_err() {
                        return Ended::Told(last_words(End::NoGroup));
                    }
                    let lines = heads.borrow_and_update().clone();
                    let node = self.certificate.identity.node_id();
                    self.alive.goes_ahead(lines.is_canary(node));
                    let lineage = lines.of(node).lineage().clone();
                    if std::mem::replace(&mut self.lineage, lineage) != self.lineage || self.alarm == Some(Fault::Settings) {
                        // An operator has decided, or may have: what the node did not take before is no reason to wait.
                        self.heal_at = None;
                    }
                }
                () = sleep_until(self.heal_at.unwrap_or(self.heard)), if self.heal_at.is_some() => self.heal_at = None,
                message = inbox.message() => match message {
                    Ok(Some(message)) => {
                        self.heard = Instant::now();
                        if let Err(status) = self.receive(message) {
                            return Ended::Told(status);
                        }
                    }
                    Ok(None) => return Ended::Left,
                    // Its connection broke, or it sent what cannot be decoded.
                    Err(status) => return Ended::Told(status),
                },
            }
        }
    }

    /// As far as the node may go.
    fn head(&self) -> Arc<Head> {
        self.heads.borrow().of(self.certificate.identity.node_id()).clone()
    }

    /// Begins work on what the node lacks, if there is anything to do and nothing under way.
    fn plan(&mut self) {
        let busy = self.preparing.is_some() || self.transfer.is_some() || self.heal_at.is_some();
        if busy || self.unanswered.len() - self.void >= UNANSWERED {
            return;
        }
        let head = self.head();
        let Some(at) = &self.at else { return self.prepare_snapshot(head) };
        if at.lineage != *head.lineage() {
            if self.feed.supersedes().iter().any(|over| **over == *at.lineage) {
                // The node takes it only once it has heard that its lineage is over.
                (self.least, self.apart, self.why, self.beat_due) = (0, None, "lineage", true);
                self.prepare_snapshot(head);
            }
        } else if at.revision < head.revision() {
            // The right database may be back, at what the node holds.
            self.apart = self.apart.filter(|apart| head.at(*apart).is_none_or(|(_, digest)| digest != at.digest));
            if self.apart.is_some() {
                return;
            }
            let (feed, from, to) = (self.feed.clone(), at.revision, head.position());
            self.preparing = Some(Box::pin(async move {
                match feed.step(head, from).await {
                    Some(step) => Prepared::Ready(Transfer::Delta { step, next: 0, to }),
                    None => Prepared::NoDelta,
                }
            }));
        }
    }

    fn prepare_snapshot(&mut self, head: Arc<Head>) {
        let (feed, least, why) = (self.feed.clone(), self.least, self.why);
        if least > head.revision() {
            // The node is ahead of this replica, which will catch up or has nothing for it.
            return;
        }
        self.preparing = Some(Box::pin(async move {
            match feed.snapshot(head, least).await {
                Some(packed) => Prepared::Ready(Transfer::Snapshot { packed, next: 0, why }),
                None => Prepared::Failed,
            }
        }));
    }

    fn take(&mut self, prepared: Prepared) {
        match prepared {
            Prepared::Ready(transfer) => self.transfer = Some(transfer),
            Prepared::NoDelta => {
                self.least = self.at.take().map_or(0, |at| at.revision);
                self.why = "too_old";
            }
            Prepared::Failed => self.heal_at = Some(Instant::now() + self.shared.settings.heal_max.get()),
        }
    }

    /// What is to be sent next: a beat if one is due, else what is new of the node's maintenance, else the next message of the
    /// transfer.
    fn next_message(&mut self) -> Option<pb::ControlMessage> {
        if std::mem::take(&mut self.beat_due) {
            return Some(control(Control::Beat(self.beat())));
        }
        if std::mem::take(&mut self.maintenance_due)
            && let Some(order) = self.maintenance.borrow().clone()
        {
            return Some(control(Control::Maintenance(order)));
        }
        let group = self.feed.group();
        let (message, done) = match self.transfer.as_mut()? {
            Transfer::Snapshot { packed, next, why } => {
                let chunk = packed.frames.chunk(*next);
                *next += 1;
                let (lineage, revision, digest) = (packed.lineage.clone(), packed.revision, packed.digest);
                let done = (*next >= packed.frames.total()).then(|| {
                    self.shared.metrics.snapshots.with(&[group, why]).inc();
                    Position { lineage: lineage.clone(), revision, digest }
                });
                (
                    Control::Snapshot(pb::Snapshot {
                        lineage: lineage.to_string(),
                        revision,
                        digest: digest.into(),
                        chunk,
                        mark: packed.mark.clone(),
                    }),
                    done,
                )
            }
            Transfer::Delta { step, next, to } => {
                let message = step.get(*next).cloned()?;
                *next += 1;
                let done = (*next >= step.len()).then(|| {
                    self.shared.metrics.deltas.with(&[group]).inc();
                    to.clone()
                });
                (Control::Delta(message), done)
            }
        };
        if let Some(position) = done {
            self.transfer = None;
            self.unanswered.push_back(position.clone());
            self.at = Some(position);
        }
        Some(control(message))
    }

    fn beat(&self) -> pb::Beat {
        let head = self.head().position();
        pb::Beat {
            lineage: head.lineage.to_string(),
            head: head.revision,
            digest: head.digest.into(),
            supersedes: self.feed.supersedes().to_vec(),
            report_every_ms: u32::try_from(self.shared.settings.node_report_interval.get().as_millis())
                .unwrap_or(u32::MAX),
            apart: self.apart.unwrap_or_default(),
        }
    }

    fn count(&self, message: &pb::ControlMessage) {
        let kind = match &message.message {
            Some(Control::Snapshot(_)) => "snapshot",
            Some(Control::Delta(_)) => "delta",
            Some(Control::Beat(_)) => "beat",
            Some(Control::Maintenance(_)) => "maintenance",
            Some(Control::Goaway(_)) | None => "goaway",
        };
        let (metrics, group) = (&self.shared.metrics, self.feed.group());
        metrics.messages.with(&[group, kind]).inc();
        metrics.bytes.with(&[group]).add(message.wire_bytes() as u64);
    }

    /// Whether it is time to end.
    fn look_at_the_clock(&mut self) -> Option<Ended> {
        let silence = self.shared.settings.silence.get();
        if time_of(&self.shared.store) >= self.certificate.not_after {
            return Some(Ended::Told(Status::unauthenticated("the node's certificate has expired: join again")));
        }
        if self.heard.elapsed() > silence {
            let silent = format!("nothing was heard of the node for {} s", silence.as_secs());
            return Some(Ended::Told(Status::deadline_exceeded(silent)));
        }
        if self.outbox.capacity() == 0 {
            let since = *self.stuck.get_or_insert_with(Instant::now);
            return (since.elapsed() > silence).then_some(Ended::Deaf);
        }
        None
    }

    /// Says the last words and lets go of the node.
    async fn close(self, ended: Ended) {
        let Self { outbox, link, alive, shared, .. } = self;
        drop(alive);
        let last = match ended {
            Ended::Left => return,
            Ended::Deaf => return link.cut(),
            Ended::Away => Ok(control(Control::Goaway(goaway(&shared)))),
            Ended::Told(status) => Err(status),
        };
        let told = last.is_err();
        if timeout(LAST_WORDS, outbox.send(last)).await.is_err() {
            return link.cut();
        }
        // An error ends the stream once it is sent. The end of one sent away is the end of the outbox; whoever does not
        // take that is cut when the server stops.
        if told && timeout(LAST_WORDS, outbox.closed()).await.is_err() {
            link.cut();
        }
    }
}

/// Waits for the work; for ever if there is none.
async fn wait_for(preparing: &mut Option<Preparing>) -> Prepared {
    match preparing {
        Some(preparing) => preparing.await,
        None => std::future::pending().await,
    }
}

fn control(message: Control) -> pb::ControlMessage {
    pb::ControlMessage { message: Some(message) }
}

fn last_words(end: End) -> Status {
    match end {
        End::Unwelcome => Status::permission_denied("this node was revoked or deleted, or its group token was revoked"),
        End::NoGroup => Status::permission_denied("the gateway group was deleted"),
        End::Replaced => Status::aborted("this node opened another stream"),
        End::Later => Status::aborted("an earlier process with this node's identity has a stream to another replica"),
    }
}

/// Spreads the nodes that leave over the time that another replica needs to admit them all.
fn goaway(shared: &Shared) -> pb::Goaway {
    let streams = u32::try_from(shared.open.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
    let needed = Duration::from_secs(1) * streams / shared.settings.admit_rate.max(1);
    let spread = u64::try_from(needed.max(SHORTEST_SPREAD).as_millis()).unwrap_or(u64::MAX).max(1);
    // Without randomness they come all at once, and admission spreads them.
    let wait = random().unwrap_or_default() % spread;
    let reason = shared.away.reason().unwrap_or_default().to_owned();
    pb::Goaway { retry_after_ms: u32::try_from(wait).unwrap_or(u32::MAX), reason }
}
