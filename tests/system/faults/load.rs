//! Clients that never send a request twice.

use super::writer::{ROUTES, path};
use fastrand::Rng;
use milecastle_testkit::history::Span;
use milecastle_testkit::{Answer, Call, Target};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::interval;

/// Clients of each kind and entrance.
const CLIENTS: u32 = 4;

/// A request that was answered as it should be.
pub(super) struct Served {
    pub(super) span: Span,
    /// The port of the gateway that answered.
    pub(super) node: u16,
    /// The route that answered.
    pub(super) route: usize,
    pub(super) version: u64,
}

/// What clients of one entrance have seen.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) served: Vec<Served>,
    /// All others: when they were begun, and what became of them.
    pub(super) failed: Vec<String>,
}

/// Clients under way, on a thread of their own, so that nothing that the test does holds them up.
pub(super) struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<Vec<Seen>>,
}

struct Shared {
    start: Instant,
    over: AtomicBool,
    /// Answers by the port of the node that they came from.
    answered: Mutex<BTreeMap<u16, usize>>,
    failed: AtomicUsize,
}

/// One client.
struct Client {
    shared: Arc<Shared>,
    target: Target,
    /// Whether it keeps its connection, or opens a new one for each request.
    kept: bool,
    post: bool,
    rng: Rng,
}

impl Load {
    /// Starts clients that send `rate` requests each second, all entrances together: with new and with kept connections,
    /// GET and POST. What falls behind is caught up with. Moments count from `start`.
    pub(super) fn start(start: Instant, entrances: Vec<SocketAddr>, rate: u32, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            start,
            over: AtomicBool::new(false),
            answered: Mutex::default(),
            failed: AtomicUsize::new(0),
        });
        let own = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(own, entrances, rate, Rng::with_seed(seed)))
        });
        Self { shared, thread }
    }

    /// How many requests were answered so far.
    pub(super) fn answered(&self) -> usize {
        self.shared.answered.lock().unwrap().values().sum()
    }

    /// How many of them by the node with this port.
    pub(super) fn answered_by(&self, port: u16) -> usize {
        self.shared.answered.lock().unwrap().get(&port).copied().unwrap_or_default()
    }

    /// How many failed so far.
    pub(super) fn failed(&self) -> usize {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Ends the clients, and gives for each entrance what they have seen.
    pub(super) fn end(self) -> Vec<Seen> {
        self.shared.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn run(shared: Arc<Shared>, entrances: Vec<SocketAddr>, rate: u32, mut rng: Rng) -> Vec<Seen> {
    let kinds = [(true, true), (true, false), (false, true), (false, false)];
    let count = CLIENTS * kinds.len() as u32 * entrances.len() as u32;
    let period = Duration::from_secs(count.into()) / rate;
    let mut clients = JoinSet::new();
    for (entrance, address) in entrances.iter().enumerate() {
        for (kept, post) in kinds.repeat(CLIENTS as usize) {
            let (shared, target) = (shared.clone(), Target::plain(*address));
            let client = Client { shared, target, kept, post, rng: rng.fork() };
            clients.spawn(async move { (entrance, client.run(period).await) });
        }
    }
    let mut all: Vec<Seen> = entrances.iter().map(|_| Seen::default()).collect();
    for (entrance, mut seen) in clients.join_all().await {
        all[entrance].served.append(&mut seen.served);
        all[entrance].failed.append(&mut seen.failed);
    }
    all
}

impl Client {
    async fn run(mut self, period: Duration) -> Seen {
        let mut seen = Seen::default();
        let mut tick = interval(period);
        let mut connection = None;
        while !self.shared.over.load(Ordering::Relaxed) {
            tick.tick().await;
            let (route, mark) = (self.rng.usize(..ROUTES), self.rng.u32(..));
            let begun = self.shared.start.elapsed();
            let open = connection.take().filter(milecastle_testkit::Connection::is_open);
            let (open, kept) = match open {
                Some(open) => (Ok(open), true),
                None => (self.target.connect().await, false),
            };
            let answer = match open {
                Ok(mut open) => {
                    let path = path(route);
                    let body = format!("mark {mark}");
                    let call = if self.post { Call::post(&path, body) } else { Call::get(&path) };
                    let answer = call.send(&mut open).await;
                    connection = Some(open).filter(|_| self.kept);
                    answer
                }
                Err(error) => Err(error),
            };
            let ended = self.shared.start.elapsed();
            let read = match &answer {
                Ok(answer) => read(answer, route, self.post.then_some(mark)),
                Err(error) => Err(format!("{error:#}")),
            };
            match read {
                Ok((node, version)) => {
                    *self.shared.answered.lock().unwrap().entry(node).or_default() += 1;
                    seen.served.push(Served { span: Span { begun, ended }, node, route, version });
                    if answer.is_ok_and(|answer| answer.header("connection").contains("close")) {
                        connection = None;
                    }
                }
                Err(error) => {
                    self.shared.failed.fetch_add(1, Ordering::Relaxed);
                    let method = if self.post { "POST" } else { "GET" };
                    let on = if kept { "kept" } else { "new" };
                    seen.failed.push(format!("{begun:?} to {ended:?}: {method} on a {on} connection: {error}"));
                    connection = None;
                }
            }
        }
        seen
    }
}

/// Node and version that an answer names, if it is one of this route from the upstream, to this request.
fn read(answer: &Answer, route: usize, mark: Option<u32>) -> Result<(u16, u64), String> {
    let named = answer.header("x-route").parse() == Ok(route);
    let (node, version) = (answer.header("x-node").parse(), answer.header("x-version").parse());
    let marked = mark.is_none_or(|mark| answer.text().contains(&format!("mark {mark}")));
    match (answer.status, node, version) {
        (200, Ok(node), Ok(version)) if named && marked => Ok((node, version)),
        _ => Err(format!("{answer:?}")),
    }
}
