//! One configuration stream, from `Hello` to its end.

mod opening;
mod renewal;

use super::complaints::Complaints;
use super::holdings::{Holdings, Position, Refusal, SnapshotHead};
use super::last_good::{Origin, Step};
use super::{Alarm, Member, TrafficFigures};
use milecastle_pki::NodeKeys;
use milecastle_wire::{DeltaAssembler, Limits, MAX_MESSAGE_BYTES, Reader, encode_delta, pb};
use pb::control_message::Message as Control;
use pb::node_message::Message;
use pb::refused::Fault;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::Streaming;
use tonic::transport::Channel;

/// How a session ended.
pub(super) enum Ended {
    /// The node wants a new one at once: its certificate is fresh.
    Renewed,
    /// No stream came about. `barred`: none does before somebody acts on this host.
    NotOpened { reason: String, retry_after: Option<Duration>, barred: bool },
    /// The replica drains or is in maintenance.
    Goaway { retry_after: Duration },
    /// The stream broke, after it had kept the node up to date for so long.
    Lost { reason: String, served: Duration },
}

/// A snapshot that has not come whole yet.
pub(super) struct Partial {
    head: SnapshotHead,
    reader: Reader<pb::Object>,
    objects: Vec<pb::Object>,
}

/// The shortest interval of reports that the control plane can ask for.
const SHORTEST_REPORT: Duration = Duration::from_millis(100);

/// Opens a stream to `endpoint`, within `patience`, and follows it to its end.
pub(super) async fn run(member: &mut Member, endpoint: &str, patience: Duration) -> Ended {
    match opening::open(member, endpoint, patience).await {
        Ok((session, inbox)) => session.follow(inbox).await,
        Err(ended) => ended,
    }
}

impl Member {
    /// What the node holds, as far as it concerns the control plane there: one of another cluster or group cannot build on it.
    fn have(&self, origin: &Origin) -> Option<pb::Have> {
        self.in_force.held().filter(|_| self.origin.as_ref() == Some(origin)).as_ref().map(Holdings::have)
    }
}

/// Why what a node of `group` holds stays, although the control plane has something else of the same lineage.
fn was_set_back(held: &Position, revision: u64, group: &str) -> Refusal {
    let Position { lineage, revision: reached, .. } = held;
    let detail = format!(
        "the control plane stands at {revision}, this node at {reached} of the same lineage {lineage}, from before its database \
         was set back; this node keeps what it has until an operator confirms: milecastle group lineage {group} --confirm"
    );
    Refusal { fault: Fault::Backwards, detail }
}

struct Session<'a> {
    member: &'a mut Member,
    outbox: mpsc::Sender<pb::NodeMessage>,
    channel: Channel,
    keys: Arc<NodeKeys>,
    /// Whose configuration the stream brings.
    origin: Origin,
    delta: DeltaAssembler,
    /// Lineages that the control plane declared over.
    supersedes: Vec<String>,
    report_every: Duration,
    /// When the first beat came.
    served_since: Option<Instant>,
    /// The head that the first beat named, or a later one if that is lower. What is older does not become the first of its lineage
    /// to be in force: it may open what has long been closed.
    opens_at: Option<u64>,
    /// Lineage, head and digest that the last beat named.
    named: Option<(String, u64, bytes::Bytes)>,
    /// What was built and is too old for that; the step that leads on is under way.
    withheld: Option<(Holdings, Duration)>,
    /// What was told of the node's log.
    complaints: Complaints,
}

impl<'a> Session<'a> {
    fn new(
        member: &'a mut Member,
        outbox: mpsc::Sender<pb::NodeMessage>,
        channel: Channel,
        keys: Arc<NodeKeys>,
    ) -> Self {
        let delta = DeltaAssembler::new(Limits::default());
        let report_every = member.config.control_plane.report_interval.get();
        let origin = Origin::of(&keys);
        Self {
            member,
            outbox,
            channel,
            keys,
            origin,
            delta,
            supersedes: Vec::new(),
            report_every,
            served_since: None,
            opens_at: None,
            named: None,
            withheld: None,
            complaints: Complaints::default(),
        }
    }

    async fn send(&self, message: Message) {
        // A closed outbox means that the stream is over; the inbox will say why.
        let _sent = self.outbox.send(pb::NodeMessage { message: Some(message) }).await;
    }

    async fn follow(mut self, mut inbox: Streaming<pb::ControlMessage>) -> Ended {
        let silence = self.member.config.control_plane.silence.get();
        let mut reported = Instant::now();
        let first = self.report();
        self.send(Message::Report(first)).await;
        loop {
            let heard_by = Instant::now() + silence;
            let message = loop {
                // What may not be told yet waits, also from one stream to the next.
                let may_tell = self.is_at_head();
                tokio::select! {
                    message = inbox.message() => break message,
                    Ok(()) = self.member.regraded.changed(), if may_tell => self.tell_regraded().await,
                    () = sleep_until(heard_by) => return self.lost("nothing was heard for too long"),
                    () = sleep_until(reported + self.report_every) => {
                        if self.is_to_renew() && self.renew().await {
                            return Ended::Renewed;
                        }
                        let report = self.report();
                        self.send(Message::Report(report)).await;
                        reported = Instant::now();
                    }
                }
            };
            let message = match message {
                Ok(Some(message)) => message.message,
                Ok(None) => return self.lost("the DP manager closed it"),
                Err(status) => return self.lost(status.message()),
            };
            if let Some(ended) = self.receive(message).await {
                return ended;
            }
        }
    }

    fn lost(&self, reason: &str) -> Ended {
        let served = self.served_since.map_or(Duration::ZERO, |since| since.elapsed());
        Ended::Lost { reason: reason.to_owned(), served }
    }

    async fn receive(&mut self, message: Option<Control>) -> Option<Ended> {
        match message? {
            Control::Beat(beat) => {
                self.served_since.get_or_insert_with(Instant::now);
                self.beat(beat).await;
            }
            Control::Snapshot(snapshot) => self.snapshot(snapshot).await,
            Control::Delta(delta) => self.delta(delta).await,
            Control::Maintenance(order) => {
                self.member.maintain(order.clone());
                self.send(Message::Maintenance(order)).await;
            }
            Control::Goaway(goaway) => {
                tracing::info!(reason = goaway.reason, "the DP manager sends this node away");
                return Some(Ended::Goaway { retry_after: Duration::from_millis(goaway.retry_after_ms.into()) });
            }
        }
        None
    }

    async fn beat(&mut self, beat: pb::Beat) {
        self.note_divergence(&beat);
        self.named = Some((beat.lineage.clone(), beat.head, beat.digest.clone()));
        self.opens_at = Some(self.opens_at.unwrap_or(beat.head).min(beat.head));
        self.supersedes = beat.supersedes;
        self.report_every = match Duration::from_millis(beat.report_every_ms.into()) {
            Duration::ZERO => self.member.config.control_plane.report_interval.get(),
            asked => asked.max(SHORTEST_REPORT),
        };
        self.member.tell(|status| status.head = beat.head);
        let refusal = self.refusal_of(&beat.lineage, beat.head, &beat.digest);
        if let Err(refusal) = refusal {
            if refusal.fault == Fault::Backwards {
                self.member.set_back.happened(&beat.lineage);
            }
            if self.member.lineage_refused.as_ref() != Some(&beat.lineage) {
                self.member.lineage_refused = Some(beat.lineage.clone());
                self.refuse(refusal, &beat.lineage, beat.head).await;
            }
        } else {
            self.member.set_back.settle();
            if self.member.lineage_refused.take().is_some() {
                self.member.settle(Alarm::Lineage);
            }
        }
        // What it waits for may have been lost with a database.
        if let Some((holdings, took)) = self.withheld.clone().filter(|(held, _)| !self.is_to_withhold(held.position()))
        {
            self.put_in_force(holdings, Step::Whole, took).await;
        }
    }

    /// Takes note if the database has another revision of the number that is held: it was set back and went on past that while
    /// this node saw nothing of it.
    fn note_divergence(&mut self, beat: &pb::Beat) {
        let Some(held) = self.member.in_force.held() else { return };
        let held = held.position();
        if beat.apart != 0 && beat.apart == held.revision && *beat.lineage == *held.lineage {
            self.member.set_back.happened(&beat.lineage);
        }
    }

    /// Whether what is held may be replaced by something of this lineage, revision and digest.
    fn refusal_of(&self, lineage: &str, revision: u64, digest: &[u8]) -> Result<(), Refusal> {
        let Some(held) = self.member.in_force.held() else { return Ok(()) };
        let refuse = |fault, detail: String| Err(Refusal { fault, detail });
        let Position { lineage: own, revision: reached, digest: of_own } = held.position();
        if lineage != &**own {
            if self.member.origin.as_ref() != Some(&self.origin) {
                // The node's token is of another cluster or group, so the change is intended.
                return Ok(());
            }
            if self.supersedes.iter().any(|over| **over == **own) {
                return Ok(());
            }
            let detail = format!(
                "the control plane's lineage is {lineage}, this node holds {own}: its database was replaced or restored; this \
                 node keeps what it has until an operator confirms: milecastle group lineage {} --confirm",
                self.origin.group
            );
            return refuse(Fault::Lineage, detail);
        }
        // Once it was set back, a number proves nothing: only the very configuration that is held does.
        let same = revision == *reached && *digest == of_own.to_bytes();
        if revision < *reached || (self.member.set_back.is(own) && !same) {
            return Err(was_set_back(held.position(), revision, &self.origin.group));
        }
        Ok(())
    }

    async fn snapshot(&mut self, message: pb::Snapshot) {
        let pb::Snapshot { lineage, revision, digest, chunk, mark } = message;
        let head = SnapshotHead { lineage, revision, digest, mark };
        let Some(chunk) = chunk else {
            return self.malformed("snapshot without chunk", &head).await;
        };
        // One that begins again does so from its first chunk, whatever was left of it.
        let goes_on = |open: &Partial| open.head == head && (chunk.index > 0 || open.reader.next_chunk() == 0);
        let mut open = match self.member.partial.take().filter(goes_on) {
            Some(open) => open,
            None => match Reader::new(Limits::default()) {
                Ok(reader) => Partial { head: head.clone(), reader, objects: Vec::new() },
                Err(error) => return self.malformed(&error.to_string(), &head).await,
            },
        };
        match open.reader.push(&chunk) {
            Ok(mut more) => open.objects.append(&mut more),
            Err(error) => return self.malformed(&error.to_string(), &head).await,
        }
        if !open.reader.is_complete() {
            self.member.partial = Some(open);
            return;
        }
        let objects = open.objects;
        if let Err(refusal) = self.refusal_of(&head.lineage, head.revision, &head.digest) {
            return self.refuse(refusal, &head.lineage, head.revision).await;
        }
        let (compiler, previous) = (self.member.compiler.clone(), self.member.in_force.held());
        let (lineage, revision) = (head.lineage.clone(), head.revision);
        let build = move || Ok((Holdings::from_objects(&compiler, previous.as_ref(), &head, &objects)?, Step::Whole));
        self.build(lineage, revision, build).await;
    }

    async fn delta(&mut self, message: pb::Delta) {
        let head = SnapshotHead {
            lineage: message.lineage.clone(),
            revision: message.to,
            digest: message.digest.clone(),
            mark: message.mark.clone(),
        };
        self.member.partial = None;
        let delta = match self.delta.push(message) {
            Ok(Some(delta)) => delta,
            Ok(None) => return,
            Err(error) => return self.malformed(&error.to_string(), &head).await,
        };
        let Some(held) = self.withheld.as_ref().map(|(held, _)| held.clone()).or_else(|| self.member.in_force.held())
        else {
            let refusal = Refusal { fault: Fault::Gap, detail: "this node holds no configuration yet".into() };
            return self.refuse(refusal, &head.lineage, head.revision).await;
        };
        let compiler = self.member.compiler.clone();
        let set_back = self.member.set_back.is(&head.lineage);
        let group = self.origin.group.clone();
        let build = move || {
            let next = held.after(&compiler, &delta).map_err(|refusal| match refusal.fault {
                // It follows on what another history has under that number.
                Fault::Digest if set_back => was_set_back(held.position(), delta.to, &group),
                _ => refusal,
            })?;
            Ok((next, Step::Delta { from: held.position().clone(), bytes: encode_delta(&delta) }))
        };
        self.build(head.lineage, head.revision, build).await;
    }

    /// Whether something older than the head of the stream's beginning would be the first of its lineage to be in force.
    fn is_to_withhold(&self, next: &Position) -> bool {
        let held = self.member.in_force.held();
        let is_first = held.is_none_or(|held| held.position().lineage != next.lineage);
        is_first && self.opens_at.is_some_and(|head| next.revision < head)
    }

    /// Builds off the runtime's threads, and puts the result in force unless something newer is to come first.
    async fn build(
        &mut self,
        lineage: String,
        revision: u64,
        build: impl FnOnce() -> Result<(Holdings, Step), Refusal> + Send + 'static,
    ) {
        let began = Instant::now();
        let built = tokio::task::spawn_blocking(build).await.unwrap_or_else(|error| {
            Err(Refusal { fault: Fault::Malformed, detail: format!("building failed: {error}") })
        });
        let took = began.elapsed();
        match built {
            Ok((holdings, _)) if self.is_to_withhold(holdings.position()) => {
                tracing::info!(
                    revision,
                    head = self.opens_at,
                    "configuration built; what has changed since comes first"
                );
                self.withheld = Some((holdings, took));
            }
            Ok((holdings, step)) => self.put_in_force(holdings, step, took).await,
            Err(refusal) => self.refuse(refusal, &lineage, revision).await,
        }
    }

    /// Puts in force what was built in so long a time at first, has it written to disk and says so.
    async fn put_in_force(&mut self, holdings: Holdings, step: Step, took: Duration) {
        // What was withheld is not on the disk: nothing can follow on it there.
        let step = if self.withheld.take().is_some() { Step::Whole } else { step };
        let holdings = self.member.take(holdings, self.origin.clone()).await;
        // It adds up with what was held before, or an operator or the very same configuration has settled it.
        self.member.set_back.settle();
        self.member.settle(Alarm::Settings);
        let build_ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        self.member.keep(step).await;
        let (revision, quarantined) = (holdings.position().revision, holdings.rejected().len());
        tracing::info!(revision, build_ms, quarantined, "configuration in force");
        self.send_applied(&holdings, build_ms).await;
    }

    /// Whether what is in force is the very head that the control plane named last on this stream. One that is behind says what is in
    /// quarantine with what it gets next, and of what the control plane may not remember there is nothing to say.
    fn is_at_head(&self) -> bool {
        let (Some(held), Some((lineage, head, digest))) = (self.member.in_force.held(), &self.named) else {
            return false;
        };
        let held = held.position();
        self.member.origin.as_ref() == Some(&self.origin)
            && **lineage == *held.lineage
            && *head == held.revision
            && **digest == held.digest.to_bytes()
    }

    /// Says once more what is in force, since other objects of it are in quarantine now.
    async fn tell_regraded(&mut self) {
        if let Some(held) = self.member.in_force.held() {
            self.send_applied(&held, 0).await;
        }
    }

    async fn send_applied(&mut self, holdings: &Holdings, build_ms: u32) {
        let pb::Have { lineage, revision, digest, .. } = holdings.have();
        let mut applied = pb::Applied { lineage, revision, digest, build_ms, ..pb::Applied::default() };
        applied.set_rejected(holdings.rejected(), MAX_MESSAGE_BYTES / 2);
        self.send(Message::Applied(applied)).await;
        if self.outbox.is_closed() {
            // The stream is over: it is said on the next one.
            self.member.regraded.mark_changed();
        }
    }

    async fn malformed(&mut self, detail: &str, head: &SnapshotHead) {
        let refusal = Refusal { fault: Fault::Malformed, detail: detail.to_owned() };
        self.refuse(refusal, &head.lineage, head.revision).await;
    }

    async fn refuse(&mut self, refusal: Refusal, lineage: &str, revision: u64) {
        tracing::error!(lineage, revision, reason = refusal.detail, "configuration refused; what is in force stays");
        let alarm = match refusal.fault {
            Fault::Lineage | Fault::Backwards => Some(Alarm::Lineage),
            Fault::Settings => Some(Alarm::Settings),
            _ => None,
        };
        if let Some(alarm) = alarm {
            self.member.raise(alarm, refusal.detail.clone());
        }
        self.send(Message::Refused(pb::Refused {
            fault: refusal.fault.into(),
            detail: refusal.detail,
            lineage: lineage.to_owned(),
            revision,
            have: self.member.have(&self.origin),
        }))
        .await;
    }

    fn report(&mut self) -> pb::Report {
        let traffic: TrafficFigures = (self.member.figures)();
        let (cpu_ms, resident_bytes) = crate::process::usage();
        let not_after = self.keys.certificate().not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        let status = self.member.status.read();
        // Where what is in force is of another group, its objects are none that this control plane has.
        let ours = self.member.in_force.held().filter(|_| self.member.origin.as_ref() == Some(&self.origin));
        let certificates = ours.map(|held| self.member.certificates.of(held.snapshot())).unwrap_or_default();
        pb::Report {
            have: self.member.have(&self.origin),
            uptime_ms: u64::try_from(self.member.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            requests: traffic.requests,
            responses_5xx: traffic.responses[4],
            cpu_ms,
            connections: traffic.connections,
            resident_bytes,
            quarantined: u32::try_from(status.quarantined).unwrap_or(u32::MAX),
            certificate_not_after: i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX),
            alarms: status.alarms.into_values().collect(),
            upstream_targets: traffic.upstreams.targets,
            unhealthy_targets: traffic.upstreams.unhealthy,
            responses: traffic.responses.into(),
            responses_5xx_upstream: traffic.responses_5xx_upstream,
            request_times: traffic.request_times.into(),
            warnings: self.complaints.news(),
            route_traffic: traffic.routes,
            requests_waiting: traffic.requests_waiting,
            certificates,
        }
    }
}
