//! A configuration stream, message by message.

use std::time::Duration;

use milecastle_wire::{DeltaAssembler, Digest, DigestKey, Limits, SnapshotReader, pb};
use pb::control_message::Message as Control;
use pb::node_message::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::Held;

/// How long to wait for a message; a beat comes every two seconds at least.
const SILENCE: Duration = Duration::from_secs(20);

/// What came of a message, or of the last of several.
#[derive(Debug, PartialEq)]
pub enum Got {
    /// The head.
    Beat,
    /// A chunk; more are due.
    Chunk(u32),
    /// A whole configuration, of this revision.
    Snapshot(u64),
    /// A step.
    Delta {
        /// The revision before it.
        from: u64,
        /// The revision after it.
        to: u64,
        /// How many changes it had.
        changes: usize,
    },
    /// The replica drains.
    Goaway,
    /// The reason, if the node is in maintenance.
    Maintenance(Option<String>),
}

/// A configuration stream. Dropped, it ends.
pub struct Stream {
    /// What the node says; [`Self::say`] is the usual way.
    pub outbox: mpsc::Sender<pb::NodeMessage>,
    inbox: Streaming<pb::ControlMessage>,
    /// What the node has in force.
    pub held: Held,
    /// Digest of that, kept up with each change as nodes do, and what it is made with.
    digest: Digest,
    key: DigestKey,
    assembler: DeltaAssembler,
    /// A snapshot of which chunks are due.
    pub reader: Option<(SnapshotReader, Held)>,
    /// The newest beat.
    pub beat: Option<pb::Beat>,
    /// What was said last of the node's maintenance.
    pub maintenance: Option<pb::Maintenance>,
    /// Whether it says what it applied.
    pub answers: bool,
}

impl Stream {
    pub(super) fn new(outbox: mpsc::Sender<pb::NodeMessage>, inbox: Streaming<pb::ControlMessage>, held: Held) -> Self {
        let (digest, key, assembler) = (held.digest(), held.key(), DeltaAssembler::new(Limits::default()));
        Self { outbox, inbox, held, digest, key, assembler, reader: None, beat: None, maintenance: None, answers: true }
    }

    /// Digest of what the node has in force.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Takes the next message and does what it says; `None` at the end of the stream.
    ///
    /// # Errors
    /// What the stream ended with.
    ///
    /// # Panics
    /// If nothing comes for long, or what comes breaks a rule of the protocol: it does not add up to its digest, does not
    /// follow on what is held, or would set the node back.
    pub async fn next(&mut self) -> Result<Option<Got>, Status> {
        let message = timeout(SILENCE, self.inbox.message()).await.expect("a message in time")?;
        let Some(message) = message else { return Ok(None) };
        Ok(Some(match message.message.expect("a message that is known") {
            Control::Beat(beat) => {
                self.beat = Some(beat);
                Got::Beat
            }
            Control::Goaway(_) => Got::Goaway,
            Control::Maintenance(order) => {
                let told = self.maintenance.replace(order.clone());
                if told.as_ref() == Some(&order) {
                    // It is asked whether it lives.
                    if self.answers {
                        self.say(Message::Maintenance(order)).await;
                    }
                    return Box::pin(self.next()).await;
                }
                if told.is_none() && !order.on {
                    // What every stream of a node in service begins with is worth no word.
                    return Box::pin(self.next()).await;
                }
                Got::Maintenance(order.on.then_some(order.reason))
            }
            Control::Snapshot(snapshot) => self.snapshot(snapshot).await,
            Control::Delta(delta) => match self.assembler.push(delta).expect("chunks in order") {
                None => Got::Chunk(0),
                Some(delta) => self.delta(delta).await,
            },
        }))
    }

    async fn snapshot(&mut self, snapshot: pb::Snapshot) -> Got {
        let chunk = snapshot.chunk.expect("a snapshot has a chunk");
        let (mut reader, mut next) = self.reader.take().unwrap_or_else(|| {
            let (lineage, revision, mark) = (Some(snapshot.lineage), snapshot.revision, snapshot.mark);
            let next = Held { lineage, revision, mark, ..Held::default() };
            (SnapshotReader::new(Limits::default()).expect("a reader"), next)
        });
        for object in reader.push(&chunk).expect("a chunk in order") {
            next.put(object);
        }
        if !reader.is_complete() {
            self.reader = Some((reader, next));
            return Got::Chunk(chunk.index);
        }
        (self.digest, self.key) = (next.digest(), next.key());
        assert_eq!(self.digest.to_bytes(), *snapshot.digest);
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
            match change.change.expect("a change of a known sort") {
                pb::change::Change::Put(object) => {
                    self.digest += self.key.wire_object(&object);
                    let name = object.key.clone().unwrap_or_default();
                    let before = self.held.put(object);
                    self.leaves(&name, before);
                }
                pb::change::Change::Delete(delete) => {
                    let name = delete.key.expect("a deletion has a key");
                    let before = self.held.objects.remove(&(name.kind.clone(), name.id.clone()));
                    self.leaves(&name, before);
                }
            }
        }
        (self.held.revision, self.held.mark) = (delta.to, delta.mark);
        assert_eq!(self.digest.to_bytes(), *delta.digest);
        self.applied().await;
        Got::Delta { from: delta.from, to: delta.to, changes }
    }

    /// Holds again what it held before, as a node that did not take what came since.
    pub fn go_back(&mut self, held: Held) {
        self.digest = held.digest();
        self.held = held;
    }

    /// What was under that name counts no more.
    fn leaves(&mut self, name: &pb::ObjectKey, before: Option<Vec<u8>>) {
        if let Some(body) = before {
            self.digest -= self.key.item(&name.kind, &name.id, &body);
        }
    }

    async fn applied(&mut self) {
        if self.answers {
            self.say(Message::Applied(self.applied_message())).await;
        }
    }

    /// What the node says when it has in force what it holds.
    ///
    /// # Panics
    /// If it holds nothing.
    pub fn applied_message(&self) -> pb::Applied {
        let lineage = self.held.lineage.clone().expect("a configuration");
        pb::Applied { lineage, revision: self.held.revision, digest: self.digest.into(), ..pb::Applied::default() }
    }

    /// What the node says when it does not take a step.
    pub fn refused_message(&self, fault: pb::refused::Fault) -> pb::Refused {
        let have = self.held.have();
        let (lineage, revision) = have.as_ref().map(|have| (have.lineage.clone(), have.revision)).unwrap_or_default();
        pb::Refused { fault: fault.into(), detail: "as a test wants".to_owned(), lineage, revision, have }
    }

    /// Says something.
    pub async fn say(&self, message: Message) {
        // A stream that the other side ended says why on its other half.
        self.outbox.send(pb::NodeMessage { message: Some(message) }).await.ok();
    }

    /// Follows the stream up to `revision`; gives what came but for beats and chunks.
    ///
    /// # Panics
    /// As [`Self::next`], and if the stream ends.
    pub async fn reach(&mut self, revision: u64) -> Vec<Got> {
        let mut all = Vec::new();
        while self.held.lineage.is_none() || self.held.revision < revision {
            match self.next().await.expect("no error").expect("the stream goes on") {
                Got::Beat | Got::Chunk(_) => {}
                got => all.push(got),
            }
        }
        all
    }

    /// The next that is no beat.
    ///
    /// # Panics
    /// As [`Self::reach`].
    pub async fn step(&mut self) -> Got {
        loop {
            match self.next().await.expect("no error").expect("the stream goes on") {
                Got::Beat => {}
                got => return got,
            }
        }
    }

    /// Takes as many beats, and nothing else.
    ///
    /// # Panics
    /// If something else comes.
    pub async fn only_beats(&mut self, count: usize) {
        for _ in 0..count {
            assert_eq!(self.next().await.expect("no error"), Some(Got::Beat));
        }
    }

    /// Follows the stream to its end.
    ///
    /// # Errors
    /// What it ended with.
    pub async fn end(&mut self) -> Result<(), Status> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}
