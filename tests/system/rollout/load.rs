//! Clients that send to each gateway without pause, and count what was not answered as it should.

use milecastle_testkit::{Call, Connection, Target};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};

/// What is asked for: an answer that takes a few milliseconds.
pub(super) const TARGET: &str = "/api/delay/5";

/// One request of each client in this time at most, so that the machine has room for the rest.
const PACE: Duration = Duration::from_millis(20);

/// An answer that takes so long harms its client.
const TOO_SLOW: Duration = Duration::from_secs(2);

/// What became of requests.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) sent: u64,
    /// Not answered with 200.
    pub(super) harmed: u64,
}

#[derive(Default)]
struct Count {
    sent: AtomicU64,
    harmed: AtomicU64,
    slow: AtomicU64,
}

/// One client for each gateway.
pub(super) struct Load {
    counts: Vec<Arc<Count>>,
    over: Arc<AtomicBool>,
}

impl Load {
    pub(super) fn start(gateways: impl Iterator<Item = SocketAddr>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let counts = gateways.map(|address| {
            let count = Arc::<Count>::default();
            tokio::spawn(send(address, count.clone(), over.clone()));
            count
        });
        Self { counts: counts.collect(), over }
    }

    /// What became of requests so far, gateway by gateway.
    pub(super) fn seen(&self) -> Vec<Seen> {
        let read = |count: &Arc<Count>| Seen {
            sent: count.sent.load(Ordering::SeqCst),
            harmed: count.harmed.load(Ordering::SeqCst),
        };
        self.counts.iter().map(read).collect()
    }

    /// What became of them since then, at the canary and at the others.
    pub(super) fn since(&self, before: &[Seen], canary: usize) -> (Seen, Seen) {
        let (mut ahead, mut others) = (Seen::default(), Seen::default());
        for (n, (now, before)) in self.seen().iter().zip(before).enumerate() {
            let sum = if n == canary { &mut ahead } else { &mut others };
            sum.sent += now.sent - before.sent;
            sum.harmed += now.harmed - before.harmed;
        }
        (ahead, others)
    }

    /// All that were harmed.
    pub(super) fn harmed(&self) -> u64 {
        self.seen().iter().map(|seen| seen.harmed).sum()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let slow: u64 = self.counts.iter().map(|count| count.slow.load(Ordering::SeqCst)).sum();
        eprintln!("answers that took longer than {TOO_SLOW:?}: {slow}");
    }
}

async fn send(address: SocketAddr, count: Arc<Count>, over: Arc<AtomicBool>) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept: Option<Connection> = None;
    while !over.load(Ordering::SeqCst) {
        pace.tick().await;
        let began = Instant::now();
        if kept.is_none() {
            kept = Target::plain(address).connect().await.ok();
        }
        let answer = match &mut kept {
            Some(connection) => Call::get(TARGET).send(connection).await.ok(),
            None => None,
        };
        let good = answer.as_ref().is_some_and(|answer| answer.status == 200);
        if answer.is_none_or(|answer| answer.header("connection") == "close") {
            kept = None;
        }
        if over.load(Ordering::SeqCst) {
            return;
        }
        count.sent.fetch_add(1, Ordering::SeqCst);
        count.harmed.fetch_add(u64::from(!good), Ordering::SeqCst);
        count.slow.fetch_add(u64::from(began.elapsed() > TOO_SLOW), Ordering::SeqCst);
    }
}
