//! A stream of events with one client: server-sent events, as browsers read them.
//!
//! What must stay true: what waits for the client is bounded, its last event has a place from the beginning, and its connection
//! is cut if it takes not even that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::HeaderMap;
use milecastle_settings::EventStreams;
use milecastle_store::{Event, Store};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::tail::Tail;
use super::{is_visible, shown};
use crate::admin::query::Query;
use crate::callers::Callers;
use crate::health::Readiness;
use crate::listen::{Encrypted, Line};
use crate::rights::{Need, Place, Resource, Rights};
use crate::waits;

/// Pieces of a stream that may wait for the client.
const ROOM: usize = 64;

/// What a browser waits before it connects anew, in milliseconds.
const RETRY: u64 = 1000;

/// How long to wait for a database that does not say what is next.
const PAUSE: Duration = Duration::from_secs(1);

/// Which events a client asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Only those of this group.
    pub(crate) group: Option<String>,
    /// Only those of these kinds.
    pub(crate) kinds: Option<BTreeSet<String>>,
}

/// With what a client was let in.
pub(crate) struct Proof {
    pub(crate) callers: Arc<Callers>,
    pub(crate) query: Query,
    pub(crate) encrypted: Encrypted,
    pub(crate) headers: HeaderMap,
}

/// A client, and what it is to see.
pub(crate) struct Client {
    pub(crate) proof: Proof,
    pub(crate) rights: Rights,
    pub(crate) filter: Filter,
    /// The id of the last event that it has.
    pub(crate) after: u64,
    pub(crate) line: Line,
    /// Its place among the streams.
    pub(crate) _place: waits::Place,
}

/// What streams of a process share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) tail: Arc<Tail>,
    pub(crate) settings: EventStreams,
    pub(crate) readiness: Readiness,
    /// Turns true when the process stops.
    pub(crate) stop: watch::Receiver<bool>,
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client has gone, or the store is closed.
    Gone,
    /// What the client was let in with is over, or its rights are.
    NotAllowed,
    /// The client takes nothing.
    Slow,
    /// This process stops or goes into maintenance.
    Away,
}

impl End {
    /// What the last event says.
    fn words(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Gone => None,
            Self::NotAllowed => Some((
                "not_allowed",
                "the session, token or key has ended, or may not see events any more: log in again",
            )),
            Self::Slow => Some((
                "slow",
                "events were not taken for event_streams.stall: connect again with the last id, and read faster",
            )),
            Self::Away => {
                Some(("away", "this replica stops or is in maintenance: connect to another one with the last id"))
            }
        }
    }
}

impl Filter {
    /// Whether somebody with these rights is to see an event.
    pub(crate) fn takes(&self, event: &Event, rights: &Rights) -> bool {
        let topic = &event.topic;
        self.group.as_ref().is_none_or(|group| topic.group.as_ref() == Some(group))
            && self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&topic.kind))
            && is_visible(topic, rights)
    }
}

/// The body of the answer: what happens from now on, until the client leaves or the stream has to end. Must be called within a
/// tokio runtime.
pub(crate) fn serve(client: Client, shared: Shared) -> Body {
    let (out, pieces) = mpsc::channel(ROOM + 1);
    let (alive, gone) = oneshot::channel::<()>();
    tokio::spawn(run(client, shared, out, gone));
    // Dropped with the answer, however that ends.
    Body::from_stream(ReceiverStream::new(pieces).map(move |piece| {
        let _held = &alive;
        Ok::<Bytes, std::convert::Infallible>(piece)
    }))
}

async fn run(client: Client, shared: Shared, out: mpsc::Sender<Bytes>, gone: oneshot::Receiver<()>) {
    let Ok(last_word) = out.clone().reserve_owned().await else { return };
    let (line, stall) = (client.line.clone(), shared.settings.stall.get());
    let _busy = line.busy();
    let mut stream = Stream { checked: Instant::now(), client, shared, out, refused: None };
    let end = stream.follow().await;
    tracing::debug!(?end, after = stream.client.after, "a stream of events ends");
    match end.words() {
        Some((reason, message)) => {
            let data = json!({ "reason": reason, "message": message });
            drop(last_word.send(piece(None, "end", &data)));
        }
        None => drop(last_word),
    }
    drop(stream);
    if timeout(stall, gone).await.is_err() {
        line.hang_up();
    }
}

struct Stream {
    client: Client,
    shared: Shared,
    out: mpsc::Sender<Bytes>,
    /// When it was last found that the client may see the stream.
    checked: Instant,
    /// Why the database takes no writes, as the client was told.
    refused: Option<String>,
}

impl Stream {
    async fn follow(&mut self) -> End {
        match self.try_follow().await {
            Ok(()) => End::Gone,
            Err(end) => end,
        }
    }

    async fn try_follow(&mut self) -> Result<(), End> {
        let (mut news, mut stop) = (self.shared.tail.news(), self.shared.stop.clone());
        let mut beat = interval(self.shared.settings.beat.get());
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // From the first line on it is known where to go on.
        self.send(format!("id: {}\nretry: {RETRY}\n\n", self.client.after).into()).await?;
        let out = self.out.clone();
        loop {
            news.borrow_and_update();
            let pause = self.catch_up().await?.then_some(PAUSE);
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return Ok(()) },
                () = sleep(pause.unwrap_or_default()), if pause.is_some() => {}
                _ = beat.tick() => self.beat().await?,
                () = stopping(&mut stop) => return Err(End::Away),
                () = out.closed() => return Ok(()),
            }
        }
    }

    /// Sends what there is. Gives whether the database has to be asked again soon.
    async fn catch_up(&mut self) -> Result<bool, End> {
        loop {
            let next = match self.shared.tail.next(self.client.after).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::debug!(%error, "events are read later");
                    return Ok(true);
                }
            };
            let Some(last) = next.events.last().map(|last| last.id).or(next.gap) else { return Ok(false) };
            if self.checked.elapsed() >= self.shared.settings.recheck.get() && !self.check().await? {
                return Ok(true);
            }
            if let Some(gap) = next.gap {
                let message = "events up to this id are not kept any more (events.keep, events.most): read anew what they were about";
                let data = json!({ "after": self.client.after, "up_to": gap, "message": message });
                self.send(piece(Some(gap), "gap", &data)).await?;
            }
            for event in &next.events {
                if self.client.filter.takes(event, &self.client.rights) {
                    self.send(piece(Some(event.id), &event.topic.kind, &shown(event))).await?;
                }
            }
            self.client.after = last;
        }
    }

    /// Says that the stream lives and where it stands, which the client's next request begins with, and whether the database takes
    /// writes.
    async fn beat(&mut self) -> Result<(), End> {
        if self.shared.readiness.sends_away() {
            return Err(End::Away);
        }
        self.check().await?;
        let refused = self.shared.store.takes_writes().err().map(|error| error.to_string());
        if refused != self.refused {
            let data = json!({ "writable": refused.is_none(), "reason": refused });
            self.send(piece(None, "database", &data)).await?;
            self.refused = refused;
        }
        self.send(format!("id: {}\n: beat\n\n", self.client.after).into()).await
    }

    /// Ends the stream if its client may not see it any more. `false`: the database does not say.
    async fn check(&mut self) -> Result<bool, End> {
        let Proof { callers, query, encrypted, headers } = &self.client.proof;
        let principal = match callers.still(query, *encrypted, headers).await {
            Ok(principal) => principal,
            Err(error) => {
                tracing::debug!(%error, "whether a client may see events is asked later");
                return Ok(false);
            }
        };
        let seen =
            principal.filter(|principal| principal.authorise(Need::read(Resource::Events), Place::Anywhere).is_ok());
        let principal = seen.ok_or(End::NotAllowed)?;
        (self.client.rights, self.checked) = (principal.rights, Instant::now());
        Ok(true)
    }

    async fn send(&self, piece: Bytes) -> Result<(), End> {
        match timeout(self.shared.settings.stall.get(), self.out.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Slow),
        }
    }
}

/// Ready once the process stops.
async fn stopping(stop: &mut watch::Receiver<bool>) {
    // An error means that the dashboard is gone, which is the same.
    stop.wait_for(|stop| *stop).await.map(drop).ok();
}

/// An event as it is sent. One without an id is not resumed from.
fn piece(id: Option<u64>, event: &str, data: &Value) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    // JSON has no line ends of its own.
    format!("{id}event: {event}\ndata: {data}\n\n").into()
}
