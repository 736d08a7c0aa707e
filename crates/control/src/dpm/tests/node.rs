//! A node that does what the protocol says, and no more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use milecastle_pki::transport::connect;
use milecastle_pki::{GroupToken, KeyRequest, NodeKeys, join_client_config};
use milecastle_store::DEFAULT_GROUP;
use milecastle_wire::{DeltaAssembler, Digest, DigestKey, Limits, MAX_MESSAGE_BYTES, PROTOCOL, SnapshotReader, pb};
use pb::config_client::ConfigClient;
use pb::control_message::Message as Control;
use pb::join_client::JoinClient;
use pb::node_message::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Replica;

/// One that joined.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) keys: Arc<NodeKeys>,
}

impl Member {
    pub(super) async fn join(replica: &Replica, token: &GroupToken, id: &str) -> Result<Self, Status> {
        let request = KeyRequest::generate().unwrap();
        let message = pb::JoinRequest {
            token: token.expose(),
            csr: request.csr().to_vec().into(),
            node_id: id.to_owned(),
            facts: Some(facts()),
        };
        let answer = call_join(replica, message).await?;
        let keys = request.accept(&answer.chain, &answer.ca, &token.ca(), SystemTime::now()).unwrap();
        assert_eq!(keys.certificate().identity.node_id(), answer.node_id);
        Ok(Self { keys: Arc::new(keys) })
    }

    /// One of the default group.
    pub(super) async fn new(replica: &Replica, id: &str) -> Self {
        let token = replica.token().await;
        Self::join(replica, &token, id).await.unwrap()
    }

    pub(super) fn id(&self) -> &str {
        self.keys.certificate().identity.node_id()
    }

    pub(super) fn hello(&self) -> pb::Hello {
        pb::Hello {
            node_id: self.id().to_owned(),
            group: self.keys.certificate().identity.group().to_owned(),
            facts: Some(facts()),
            protocols: vec![PROTOCOL],
            kinds: Vec::new(),
            have: None,
            resume: None,
        }
    }

    pub(super) async fn channel(&self, replica: &Replica) -> tonic::transport::Channel {
        let config = Arc::new(self.keys.client_config().unwrap());
        connect(&replica.manager.local_addr().to_string(), config).await.unwrap()
    }

    /// Opens a stream with what it has.
    pub(super) async fn open(&self, replica: &Replica, held: Held) -> Result<Stream, Status> {
        let hello = pb::Hello { have: held.have(), ..self.hello() };
        self.open_with(replica, hello, held).await
    }

    pub(super) async fn open_with(&self, replica: &Replica, hello: pb::Hello, held: Held) -> Result<Stream, Status> {
        let mut client = ConfigClient::new(self.channel(replica).await).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (outbox, messages) = mpsc::channel(16);
        outbox.send(pb::NodeMessage { message: Some(Message::Hello(hello)) }).await.unwrap();
        let inbox = client.stream(ReceiverStream::new(messages)).await?.into_inner();
        let assembler = DeltaAssembler::new(Limits::default());
        Ok(Stream { outbox, inbox, held, assembler, reader: None, beat: None, maintenance: None, answers: true })
    }

    /// A stream of a node that has nothing, once it has the whole configuration.
    pub(super) async fn settled(&self, replica: &Replica) -> Stream {
        let mut stream = self.open(replica, Held::default()).await.unwrap();
        stream.reach(replica.store.head(DEFAULT_GROUP).await.unwrap().revision).await;
        stream
    }
}

pub(super) async fn call_join(replica: &Replica, message: pb::JoinRequest) -> Result<pb::Certificate, Status> {
    let ca = crate::dpm::cluster_ca(&replica.store).await.unwrap().fingerprint();
    let config = Arc::new(join_client_config(ca).unwrap());
    let channel = connect(&replica.manager.local_addr().to_string(), config).await.unwrap();
    Ok(JoinClient::new(channel).join(message).await?.into_inner())
}

pub(super) fn facts() -> pb::NodeFacts {
    pb::NodeFacts { hostname: "host-1".to_owned(), version: "1.2.3".to_owned(), boot_id: "boot-1".to_owned() }
}

/// What a node has in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Held {
    /// `None`: no configuration at all.
    pub(super) lineage: Option<String>,
    pub(super) revision: u64,
    pub(super) objects: BTreeMap<(String, String), Vec<u8>>,
}

impl Held {
    pub(super) fn digest(&self) -> Digest {
        let key = DigestKey::of_lineage(self.lineage.as_deref().unwrap_or_default());
        self.objects.iter().map(|((kind, id), body)| key.item(kind, id, body)).sum()
    }

    pub(super) fn have(&self) -> Option<pb::Have> {
        let lineage = self.lineage.clone()?;
        Some(pb::Have { lineage, revision: self.revision, digest: self.digest().into() })
    }

    fn put(&mut self, object: pb::Object) {
        let key = object.key.unwrap();
        self.objects.insert((key.kind, key.id), object.body.to_vec());
    }
}

/// What came of a message, or of the last of several.
#[derive(Debug, PartialEq)]
pub(super) enum Got {
    Beat,
    /// A chunk; more are due.
    Chunk(u32),
    Snapshot(u64),
    Delta {
        from: u64,
        to: u64,
        changes: usize,
    },
    Goaway,
    /// The reason, if the node is in maintenance.
    Maintenance(Option<String>),
}

/// A configuration stream.
pub(super) struct Stream {
    pub(super) outbox: mpsc::Sender<pb::NodeMessage>,
    pub(super) inbox: Streaming<pb::ControlMessage>,
    pub(super) held: Held,
    assembler: DeltaAssembler,
    pub(super) reader: Option<(SnapshotReader, Held)>,
    pub(super) beat: Option<pb::Beat>,
    /// What was said last of the node's maintenance.
    pub(super) maintenance: Option<pb::Maintenance>,
    /// Whether it says what it applied.
    pub(super) answers: bool,
}

impl Stream {
    /// Takes the next message and does what it says, checking that it adds up.
    pub(super) async fn next(&mut self) -> Result<Option<Got>, Status> {
        let message = timeout(Duration::from_secs(20), self.inbox.message()).await.expect("a message in time")?;
        let Some(message) = message else { return Ok(None) };
        Ok(Some(match message.message.expect("a message that is known") {
            Control::Beat(beat) => {
                self.beat = Some(beat);
                Got::Beat
            }
            Control::Goaway(_) => Got::Goaway,
            Control::Maintenance(order) => {
                let told = self.maintenance.replace(order.clone());
                if told.is_none() && !order.on {
                    // What every stream of a node in service begins with is worth no word.
                    return Box::pin(self.next()).await;
                }
                Got::Maintenance(order.on.then_some(order.reason))
            }
            Control::Snapshot(snapshot) => self.snapshot(snapshot).await,
            Control::Delta(delta) => match self.assembler.push(delta).unwrap() {
                None => Got::Chunk(0),
                Some(delta) => self.delta(delta).await,
            },
        }))
    }

    async fn snapshot(&mut self, snapshot: pb::Snapshot) -> Got {
        let chunk = snapshot.chunk.unwrap();
        let (mut reader, mut next) = self.reader.take().unwrap_or_else(|| {
            let next = Held { lineage: Some(snapshot.lineage), revision: snapshot.revision, ..Held::default() };
            (SnapshotReader::new(Limits::default()).unwrap(), next)
        });
        for object in reader.push(&chunk).unwrap() {
            next.put(object);
        }
        if !reader.is_complete() {
            self.reader = Some((reader, next));
            return Got::Chunk(chunk.index);
        }
        assert_eq!(next.digest().to_bytes(), *snapshot.digest);
        if next.lineage == self.held.lineage {
            assert!(next.revision >= self.held.revision, "a node was set back");
        }
        self.held = next;
        self.applied().await;
        Got::Snapshot(self.held.revision)
    }

    async fn delta(&mut self, delta: pb::Delta) -> Got {
        assert_eq!((Some(&delta.lineage), delta.from), (self.held.lineage.as_ref(), self.held.revision));
        assert!(delta.to > delta.from);
        let changes = delta.changes.len();
        for change in delta.changes {
            match change.change.unwrap() {
                pb::change::Change::Put(object) => self.held.put(object),
                pb::change::Change::Delete(delete) => {
                    let key = delete.key.unwrap();
                    self.held.objects.remove(&(key.kind, key.id));
                }
            }
        }
        self.held.revision = delta.to;
        assert_eq!(self.held.digest().to_bytes(), *delta.digest);
        self.applied().await;
        Got::Delta { from: delta.from, to: delta.to, changes }
    }

    async fn applied(&mut self) {
        if self.answers {
            self.say(Message::Applied(self.applied_message())).await;
        }
    }

    pub(super) fn applied_message(&self) -> pb::Applied {
        let pb::Have { lineage, revision, digest } = self.held.have().unwrap();
        pb::Applied { lineage, revision, digest, ..pb::Applied::default() }
    }

    pub(super) fn refused_message(&self, fault: pb::refused::Fault) -> pb::Refused {
        let have = self.held.have();
        let (lineage, revision) = have.as_ref().map(|have| (have.lineage.clone(), have.revision)).unwrap_or_default();
        pb::Refused { fault: fault.into(), detail: "as a test wants".to_owned(), lineage, revision, have }
    }

    pub(super) async fn say(&self, message: Message) {
        // A stream that the other side ended says why on its other half.
        self.outbox.send(pb::NodeMessage { message: Some(message) }).await.ok();
    }

    /// Follows the stream up to `revision`; gives what came but for beats and chunks.
    pub(super) async fn reach(&mut self, revision: u64) -> Vec<Got> {
        let mut all = Vec::new();
        while self.held.lineage.is_none() || self.held.revision < revision {
            match self.next().await.unwrap().expect("the stream goes on") {
                Got::Beat | Got::Chunk(_) => {}
                got => all.push(got),
            }
        }
        all
    }

    /// The next that is no beat.
    pub(super) async fn step(&mut self) -> Got {
        loop {
            match self.next().await.unwrap().expect("the stream goes on") {
                Got::Beat => {}
                got => return got,
            }
        }
    }

    /// Takes as many beats, and nothing else.
    pub(super) async fn only_beats(&mut self, count: usize) {
        for _ in 0..count {
            assert_eq!(self.next().await.unwrap(), Some(Got::Beat));
        }
    }

    /// Follows the stream to its end.
    pub(super) async fn end(&mut self) -> Result<(), Status> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}
