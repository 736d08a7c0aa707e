//! One configuration stream, from `Hello` to its end.

use super::holdings::{Holdings, Refusal, SnapshotHead};
use super::identity::IdentityError;
use super::{Member, TrafficFigures};
use milecastle_model::Kind;
use milecastle_pki::NodeKeys;
use milecastle_pki::transport::connect;
use milecastle_wire::{DeltaAssembler, Limits, MAX_MESSAGE_BYTES, PROTOCOL, Reader, pb};
use pb::config_client::ConfigClient;
use pb::control_message::Message as Control;
use pb::node_message::Message;
use pb::refused::Fault;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

/// How a session ended.
pub(super) enum Ended {
    /// The node wants a new one at once: its certificate is fresh.
    Reconnect,
    /// The replica drains.
    Goaway { retry_after: Duration },
    /// The stream broke. `served`: it had brought the node up to date.
    Lost { reason: String, served: bool },
}

/// Messages of ours that may wait to be sent.
const OUTBOX: usize = 64;

/// Opens a stream to `endpoint` and follows it to its end.
pub(super) async fn run(member: &mut Member, endpoint: &str) -> Result<Ended, IdentityError> {
    let address = endpoint.trim_start_matches("https://").trim_end_matches('/');
    let facts = member.facts();
    let keys = member.identity.keys(address, facts).await?;
    let channel = connect(address, Arc::new(keys.client_config()?)).await?;
    let (outbox, messages) = mpsc::channel(OUTBOX);
    let session = Session::new(member, outbox, channel.clone(), keys.clone());
    session.send(Message::Hello(session.hello())).await;
    let mut client = ConfigClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let inbox = match client.stream(ReceiverStream::new(messages)).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            if status.code() == Code::Unauthenticated {
                // Expired in the meantime, or of a CA that is no more: the token decides.
                session.member.identity.forget();
                let facts = session.member.facts();
                session.member.identity.join(address, facts).await?;
                return Ok(Ended::Reconnect);
            }
            return Err(IdentityError::Refused(Box::new(status)));
        }
    };
    session.member.tell(|status| {
        status.connected_to = Some(endpoint.to_owned());
        status.node_id = Some(keys.certificate().identity.node_id().to_owned());
    });
    Ok(session.follow(inbox).await)
}

struct Session<'a> {
    member: &'a mut Member,
    outbox: mpsc::Sender<pb::NodeMessage>,
    channel: Channel,
    keys: Arc<NodeKeys>,
    delta: DeltaAssembler,
    snapshot: Option<(SnapshotHead, Reader<pb::Object>, Vec<pb::Object>)>,
    /// Lineages that the control plane declared over.
    supersedes: Vec<String>,
    served: bool,
}

impl<'a> Session<'a> {
    fn new(
        member: &'a mut Member,
        outbox: mpsc::Sender<pb::NodeMessage>,
        channel: Channel,
        keys: Arc<NodeKeys>,
    ) -> Self {
        let delta = DeltaAssembler::new(Limits::default());
        Self { member, outbox, channel, keys, delta, snapshot: None, supersedes: Vec::new(), served: false }
    }

    fn hello(&self) -> pb::Hello {
        let identity = &self.keys.certificate().identity;
        pb::Hello {
            node_id: identity.node_id().to_owned(),
            group: identity.group().to_owned(),
            facts: Some(self.member.facts()),
            protocols: vec![PROTOCOL],
            kinds: Kind::ALL.iter().map(|kind| kind.name().to_owned()).collect(),
            have: self.member.holdings.as_ref().map(Holdings::have),
            resume: None,
        }
    }

    async fn send(&self, message: Message) {
        // A closed outbox means that the stream is over; the inbox will say why.
        let _sent = self.outbox.send(pb::NodeMessage { message: Some(message) }).await;
    }

    async fn follow(mut self, mut inbox: Streaming<pb::ControlMessage>) -> Ended {
        let silence = self.member.config.control_plane.silence.get();
        let mut report = tokio::time::interval(self.member.config.control_plane.report_interval.get());
        report.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                received = tokio::time::timeout(silence, inbox.message()) => {
                    let message = match received {
                        Ok(Ok(Some(message))) => message.message,
                        Ok(Ok(None)) => return self.lost("the DP manager closed it"),
                        Ok(Err(status)) => return self.lost(status.message()),
                        Err(_) => return self.lost("nothing was heard for too long"),
                    };
                    if let Some(ended) = self.receive(message).await {
                        return ended;
                    }
                }
                _ = report.tick() => {
                    if self.keys.needs_renewal(SystemTime::now()) {
                        match self.member.identity.renew(self.channel.clone()).await {
                            Ok(_) => return Ended::Reconnect,
                            Err(error) => tracing::warn!(%error, "certificate not renewed yet"),
                        }
                    }
                    self.send(Message::Report(self.report())).await;
                }
            }
        }
    }

    fn lost(&self, reason: &str) -> Ended {
        Ended::Lost { reason: reason.to_owned(), served: self.served }
    }

    async fn receive(&mut self, message: Option<Control>) -> Option<Ended> {
        match message? {
            Control::Beat(beat) => {
                self.served = true;
                self.beat(beat).await;
            }
            Control::Snapshot(snapshot) => self.snapshot(snapshot).await,
            Control::Delta(delta) => self.delta(delta).await,
            Control::Goaway(goaway) => {
                tracing::info!(reason = goaway.reason, "the DP manager drains");
                return Some(Ended::Goaway { retry_after: Duration::from_millis(goaway.retry_after_ms.into()) });
            }
        }
        None
    }

    async fn beat(&mut self, beat: pb::Beat) {
        self.supersedes = beat.supersedes;
        self.member.tell(|status| status.head = beat.head);
        let refusal = self.refusal_of(&beat.lineage, beat.head);
        if let Err(refusal) = refusal {
            if self.member.lineage_refused.as_ref() != Some(&beat.lineage) {
                self.member.lineage_refused = Some(beat.lineage.clone());
                self.refuse(refusal, &beat.lineage, beat.head).await;
            }
        } else if self.member.lineage_refused.take().is_some() {
            self.member.tell(|status| status.alarms.clear());
        }
    }

    /// Whether what is held may be replaced by something of this lineage and revision.
    fn refusal_of(&self, lineage: &str, revision: u64) -> Result<(), Refusal> {
        let Some(held) = &self.member.holdings else { return Ok(()) };
        let refuse = |fault, detail: String| Err(Refusal { fault, detail });
        if lineage != held.lineage() {
            if self.supersedes.iter().any(|over| over == held.lineage()) {
                return Ok(());
            }
            let detail = format!(
                "the control plane's lineage is {lineage}, this node holds {}: its database was replaced or restored; \
                 this node keeps what it has until an operator confirms",
                held.lineage()
            );
            return refuse(Fault::Lineage, detail);
        }
        if revision < held.revision() {
            let detail = format!("the control plane stands at {revision}, this node at {}", held.revision());
            return refuse(Fault::Backwards, detail);
        }
        Ok(())
    }

    async fn snapshot(&mut self, message: pb::Snapshot) {
        let head = SnapshotHead { lineage: message.lineage, revision: message.revision, digest: message.digest };
        let Some(chunk) = message.chunk else {
            return self.malformed("snapshot without chunk", &head).await;
        };
        if self.snapshot.as_ref().is_none_or(|(open, ..)| *open != head) {
            match Reader::new(Limits::default()) {
                Ok(reader) => self.snapshot = Some((head.clone(), reader, Vec::new())),
                Err(error) => return self.malformed(&error.to_string(), &head).await,
            }
        }
        let Some((_, reader, objects)) = &mut self.snapshot else { return };
        match reader.push(&chunk) {
            Ok(mut more) => objects.append(&mut more),
            Err(error) => {
                self.snapshot = None;
                return self.malformed(&error.to_string(), &head).await;
            }
        }
        if !reader.is_complete() {
            return;
        }
        let objects = self.snapshot.take().map(|(_, _, objects)| objects).unwrap_or_default();
        if let Err(refusal) = self.refusal_of(&head.lineage, head.revision) {
            return self.refuse(refusal, &head.lineage, head.revision).await;
        }
        let (compiler, previous) = (self.member.compiler.clone(), self.member.holdings.clone());
        let (lineage, revision) = (head.lineage.clone(), head.revision);
        self.build(lineage, revision, move || Holdings::from_objects(&compiler, previous.as_ref(), &head, &objects))
            .await;
    }

    async fn delta(&mut self, message: pb::Delta) {
        let head =
            SnapshotHead { lineage: message.lineage.clone(), revision: message.to, digest: message.digest.clone() };
        let delta = match self.delta.push(message) {
            Ok(Some(delta)) => delta,
            Ok(None) => return,
            Err(error) => return self.malformed(&error.to_string(), &head).await,
        };
        let Some(held) = self.member.holdings.clone() else {
            let refusal = Refusal { fault: Fault::Gap, detail: "this node holds no configuration yet".into() };
            return self.refuse(refusal, &head.lineage, head.revision).await;
        };
        let compiler = self.member.compiler.clone();
        self.build(head.lineage, head.revision, move || held.after(&compiler, &delta)).await;
    }

    /// Builds off the runtime's threads, puts the result in force and says so.
    async fn build(
        &mut self,
        lineage: String,
        revision: u64,
        build: impl FnOnce() -> Result<Holdings, Refusal> + Send + 'static,
    ) {
        let began = std::time::Instant::now();
        let built = tokio::task::spawn_blocking(build).await.unwrap_or_else(|error| {
            Err(Refusal { fault: Fault::Malformed, detail: format!("building failed: {error}") })
        });
        match built {
            Ok(holdings) => {
                let rejected = holdings.rejected();
                let have = holdings.have();
                self.member.take(holdings);
                let build_ms = u32::try_from(began.elapsed().as_millis()).unwrap_or(u32::MAX);
                tracing::info!(revision, build_ms, quarantined = rejected.len(), "configuration in force");
                let mut applied = pb::Applied {
                    lineage: have.lineage,
                    revision: have.revision,
                    digest: have.digest,
                    build_ms,
                    ..pb::Applied::default()
                };
                applied.set_rejected(rejected, MAX_MESSAGE_BYTES / 2);
                self.send(Message::Applied(applied)).await;
            }
            Err(refusal) => self.refuse(refusal, &lineage, revision).await,
        }
    }

    async fn malformed(&mut self, detail: &str, head: &SnapshotHead) {
        let refusal = Refusal { fault: Fault::Malformed, detail: detail.to_owned() };
        self.refuse(refusal, &head.lineage, head.revision).await;
    }

    async fn refuse(&mut self, refusal: Refusal, lineage: &str, revision: u64) {
        tracing::error!(lineage, revision, reason = refusal.detail, "configuration refused; what is in force stays");
        if matches!(refusal.fault, Fault::Lineage | Fault::Backwards) {
            let alarm = refusal.detail.clone();
            self.member.tell(|status| status.alarms = vec![alarm]);
        }
        self.send(Message::Refused(pb::Refused {
            fault: refusal.fault.into(),
            detail: refusal.detail,
            lineage: lineage.to_owned(),
            revision,
            have: self.member.holdings.as_ref().map(Holdings::have),
        }))
        .await;
    }

    fn report(&self) -> pb::Report {
        let TrafficFigures { requests, responses_5xx, connections } = (self.member.figures)();
        let (cpu_ms, resident_bytes) = crate::process::usage();
        let not_after = self.keys.certificate().not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        let status = self.member.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        pb::Report {
            have: self.member.holdings.as_ref().map(Holdings::have),
            uptime_ms: u64::try_from(self.member.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            requests,
            responses_5xx,
            cpu_ms,
            connections,
            resident_bytes,
            quarantined: u32::try_from(status.quarantined).unwrap_or(u32::MAX),
            certificate_not_after: i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX),
            alarms: status.alarms,
        }
    }
}
