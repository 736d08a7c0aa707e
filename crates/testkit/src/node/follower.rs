//! A node that drives itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use milecastle_pki::GroupToken;
use milecastle_wire::{Digest, pb};
use pb::node_message::Message;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::{Got, Held, Member, Stream};

/// The longest wait for a connection and the stream on it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause after all DP managers were tried in vain, jitter aside.
const PAUSE: Duration = Duration::from_millis(250);

/// How often it says that it is there.
const REPORT: Duration = Duration::from_secs(5);

/// Nodes that join at a time.
const JOINING: usize = 16;

/// A node that stays with whichever DP manager takes it: it follows its stream, and when that ends, goes on with the next one
/// of the list, as nodes do that were connected lately. Dropped, it is gone.
pub struct Follower {
    seen: watch::Receiver<Seen>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Held>,
}

/// How a follower does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// The DP manager that its stream is open to.
    pub connected_to: Option<SocketAddr>,
    /// Revision and digest of what it has in force, once it has anything.
    pub position: Option<(u64, Digest)>,
    /// The head that the present stream named; `None` before its first beat.
    pub head: Option<u64>,
    /// Streams that were opened.
    pub streams: u32,
    /// Calls that the control plane answered with a time to come again.
    pub sent_away: u32,
}

impl Seen {
    /// Whether it is connected, has heard so on this very stream, and runs `revision` or a later one.
    pub fn is_fresh(&self, revision: u64) -> bool {
        let at_head = |(reached, _)| reached >= revision && self.head.is_some_and(|head| reached >= head);
        self.connected_to.is_some() && self.position.is_some_and(at_head)
    }
}

impl Follower {
    /// Starts one that tries `endpoints` in turn, from the one of number `first`.
    ///
    /// # Panics
    /// If there are none.
    pub fn start(member: Member, endpoints: Vec<SocketAddr>, first: usize) -> Self {
        assert!(!endpoints.is_empty(), "a follower needs a DP manager");
        let (tell, seen) = watch::channel(Seen::default());
        let (stop, stopped) = watch::channel(false);
        let life = Life { member, endpoints, turn: first, tell };
        Self { seen, stop, task: tokio::spawn(life.run(stopped)) }
    }

    /// Has nodes of these ids join with a token, and starts them, evenly spread over the DP managers.
    ///
    /// # Panics
    /// If one may not join.
    pub async fn start_all(
        ids: impl Iterator<Item = String>,
        token: &GroupToken,
        endpoints: &[SocketAddr],
    ) -> Vec<Self> {
        let (token, at_once) = (Arc::new(token.clone()), Arc::new(Semaphore::new(JOINING)));
        let mut joining = JoinSet::new();
        for (n, id) in ids.enumerate() {
            let (endpoints, token, at_once) = (endpoints.to_vec(), token.clone(), at_once.clone());
            joining.spawn(async move {
                let _turn = at_once.acquire().await.expect("it is never closed");
                let member = Member::join(endpoints[n % endpoints.len()], &token, &id).await.expect("it may join");
                Self::start(member, endpoints, n)
            });
        }
        joining.join_all().await
    }

    /// How it does now.
    pub fn seen(&self) -> Seen {
        *self.seen.borrow()
    }

    /// Ends it, and gives what it has in force.
    ///
    /// # Panics
    /// If it met anything that breaks a rule of the protocol.
    pub async fn stop(mut self) -> Held {
        self.stop.send_replace(true);
        (&mut self.task).await.expect("a follower panics where the protocol is broken")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Life {
    member: Member,
    endpoints: Vec<SocketAddr>,
    turn: usize,
    tell: watch::Sender<Seen>,
}

impl Life {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) -> Held {
        let (mut held, mut failures) = (Held::default(), 0);
        loop {
            let at = self.endpoints[self.turn % self.endpoints.len()];
            let opened = timeout(PATIENCE, self.member.open(at, held.clone())).await;
            let opened = opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("no stream in time")));
            self.turn += 1;
            failures += 1;
            let pause = match opened {
                Ok(mut stream) => {
                    self.tell.send_modify(|seen| {
                        (seen.connected_to, seen.head) = (Some(at), None);
                        seen.streams += 1;
                    });
                    tokio::select! {
                        () = self.follow(&mut stream) => {}
                        _ = stopped.wait_for(|stop| *stop) => {}
                    }
                    if stream.beat.is_some() {
                        failures = 0;
                    }
                    held = stream.held;
                    self.tell.send_modify(|seen| (seen.connected_to, seen.head) = (None, None));
                    Duration::ZERO
                }
                Err(status) => self.pause(&status, failures),
            };
            if *stopped.borrow() {
                return held;
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = stopped.wait_for(|stop| *stop) => return held,
            }
        }
    }

    /// Follows a stream to its end, whatever that is.
    async fn follow(&self, stream: &mut Stream) {
        let mut reported = Instant::now();
        while let Ok(Some(got)) = stream.next().await {
            if got == Got::Goaway {
                return;
            }
            let position = stream.held.lineage.is_some().then(|| (stream.held.revision, stream.digest()));
            let head = stream.beat.as_ref().map(|beat| beat.head);
            self.tell.send_modify(|seen| (seen.position, seen.head) = (position, head));
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                stream.say(Message::Report(pb::Report::default())).await;
            }
        }
    }

    /// How long to wait after a failure: as the control plane says, or a little once all were tried.
    fn pause(&self, status: &Status, failures: usize) -> Duration {
        let asked = status.metadata().get("retry-after-ms").and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(asked) = asked {
            self.tell.send_modify(|seen| seen.sent_away += 1);
            return Duration::from_millis(asked);
        }
        let tried_all = failures.is_multiple_of(self.endpoints.len());
        // Spread by what differs from node to node.
        let spread = self.member.id().bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        if tried_all { PAUSE + PAUSE * (spread % 100) / 100 } else { Duration::ZERO }
    }
}
