//! How far the end of this process has come, and what it waits for: for `/v1/drain`, metrics and the log.

use crate::handover;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// The oldest connections that are told one by one, and the routes with the most.
const TOLD: usize = 50;
/// How long a worker may take to count; one that is at work on something long is left out.
const PATIENCE: Duration = Duration::from_secs(1);
/// Name of a socket at which a process is asked that has handed its sockets over: before and behind its id.
const SOCKET: (&str, &str) = ("draining-", ".sock");

/// What the process is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It serves.
    #[default]
    Serving,
    /// It was told to stop and serves on until load balancers have noticed (`shutdown.grace`).
    Grace,
    /// It was told to stop; connections end (`shutdown.drain`).
    Draining,
    /// Another process has its sockets; connections end (`upgrade.drain`).
    Replaced,
}

/// What a connection is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// HTTP without a request in work.
    Idle,
    /// HTTP/1.1 with a request in work.
    Request,
    /// HTTP/2 with streams in work.
    Http2,
    /// HTTP/3 with streams in work.
    Http3,
    /// WebSocket, or what else was switched to.
    Tunnel,
    /// A TCP session.
    Tcp,
}

/// One of the oldest connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// What it is used for.
    #[serde(rename = "use")]
    pub used: Use,
    /// Seconds since it was accepted.
    pub age: u64,
    /// Id of the route of a tunnel or a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
}

/// What a process has open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// Its id.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// What it is doing.
    pub stage: Stage,
    /// Seconds until what is left is cut; `None` while it serves.
    pub seconds_left: Option<u64>,
    /// Client connections by what they are used for.
    pub connections: BTreeMap<Use, u64>,
    /// HTTP/2 streams in work.
    pub http2_streams: u64,
    /// HTTP/3 streams in work.
    #[serde(default)]
    pub http3_streams: u64,
    /// UDP sessions.
    pub udp_sessions: u64,
    /// The routes with the most tunnels and TCP sessions, and how many.
    pub routes: BTreeMap<String, u64>,
    /// The oldest connections, the oldest first.
    pub oldest: Vec<Connection>,
}

/// What one worker has open.
#[derive(Debug, Default, Clone)]
pub(crate) struct Count {
    pub(crate) connections: BTreeMap<Use, u64>,
    pub(crate) http2_streams: u64,
    pub(crate) http3_streams: u64,
    pub(crate) udp_sessions: u64,
    pub(crate) routes: HashMap<Arc<str>, u64>,
    oldest: BinaryHeap<Counted>,
}

/// Ordered by when it was opened; of those that are opened together, none comes first.
#[derive(Debug, Clone)]
struct Counted {
    opened: Instant,
    used: Use,
    route: Option<Arc<str>>,
}

impl Count {
    pub(crate) fn add(&mut self, opened: Instant, used: Use, route: Option<Arc<str>>) {
        *self.connections.entry(used).or_default() += 1;
        if let Some(route) = &route {
            *self.routes.entry(route.clone()).or_default() += 1;
        }
        self.oldest.push(Counted { opened, used, route });
        if self.oldest.len() > TOLD {
            self.oldest.pop();
        }
    }

    fn merge(&mut self, other: Self) {
        let Self { connections, http2_streams, http3_streams, udp_sessions, routes, oldest } = other;
        connections.into_iter().for_each(|(used, number)| *self.connections.entry(used).or_default() += number);
        routes.into_iter().for_each(|(route, number)| *self.routes.entry(route).or_default() += number);
        self.http2_streams += http2_streams;
        self.http3_streams += http3_streams;
        self.udp_sessions += udp_sessions;
        self.oldest.extend(oldest);
        while self.oldest.len() > TOLD {
            self.oldest.pop();
        }
    }
}

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        self.opened == other.opened
    }
}

impl Eq for Counted {}

impl PartialOrd for Counted {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Counted {
    fn cmp(&self, other: &Self) -> Ordering {
        self.opened.cmp(&other.opened)
    }
}

/// Asks a worker to count.
pub(crate) type Ask = oneshot::Sender<Count>;

/// How far the end of this process has come. Shared by the side that drives it and those that ask.
#[derive(Debug)]
pub struct Drain {
    version: &'static str,
    /// How long a count is given as the answer before there is a new one: workers that count do not serve, and anybody on the
    /// host may ask.
    interval: Duration,
    workers: OnceLock<Vec<mpsc::UnboundedSender<Ask>>>,
    at: Mutex<(Stage, Option<Instant>)>,
    /// What was counted last, and when. Held while the workers count, so that they do so for all who ask at once.
    counted: tokio::sync::Mutex<Option<(Instant, Count)>>,
}

impl Drain {
    /// Of a process of this version that serves, or is about to; `interval` is [`milecastle_settings::Upgrade::count_interval`].
    pub fn new(version: &'static str, interval: Duration) -> Self {
        Self {
            version,
            interval,
            workers: OnceLock::new(),
            at: Mutex::default(),
            counted: tokio::sync::Mutex::default(),
        }
    }

    /// The end has come to this stage; what is left after so long is cut.
    pub fn comes_to(&self, stage: Stage, left: Duration) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = (stage, Instant::now().checked_add(left));
    }

    /// How far the end has come, and how long it may still take.
    pub fn at(&self) -> (Stage, Option<Duration>) {
        let (stage, end) = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
        (stage, end.map(|end| end.saturating_duration_since(Instant::now())))
    }

    /// One line for each worker, by which it is asked.
    pub(crate) fn open(&self, workers: usize) -> Vec<mpsc::UnboundedReceiver<Ask>> {
        let (asks, asked): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        // The workers of a process are started once.
        self.workers.get_or_init(|| asks);
        asked
    }

    /// What is open, counted within the last moments.
    pub async fn census(&self) -> Census {
        let all = {
            let mut counted = self.counted.lock().await;
            if counted.as_ref().is_none_or(|(at, _)| at.elapsed() >= self.interval) {
                *counted = Some((Instant::now(), self.count().await));
            }
            counted.as_ref().map(|(_, count)| count.clone()).unwrap_or_default()
        };
        let (stage, left) = self.at();
        let now = Instant::now();
        let mut routes: Vec<(Arc<str>, u64)> = all.routes.into_iter().collect();
        routes.sort_unstable_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
        routes.truncate(TOLD);
        let oldest = all.oldest.into_sorted_vec().into_iter().map(|Counted { opened, used, route }| Connection {
            used,
            age: now.saturating_duration_since(opened).as_secs(),
            route: route.map(|route| route.to_string()),
        });
        Census {
            pid: std::process::id(),
            version: self.version.to_owned(),
            stage,
            seconds_left: left.map(|left| left.as_secs()),
            connections: all.connections,
            http2_streams: all.http2_streams,
            http3_streams: all.http3_streams,
            udp_sessions: all.udp_sessions,
            routes: routes.into_iter().map(|(route, number)| (route.to_string(), number)).collect(),
            oldest: oldest.collect(),
        }
    }

    /// Has all workers count.
    async fn count(&self) -> Count {
        let mut all = Count::default();
        let ask = |worker: &mpsc::UnboundedSender<Ask>| {
            let (ask, answer) = oneshot::channel();
            // One that has ended has nothing open.
            worker.send(ask).ok();
            answer
        };
        let asked: Vec<_> = self.workers.get().into_iter().flatten().map(ask).collect();
        for answer in asked {
            if let Ok(Ok(count)) = tokio::time::timeout(PATIENCE, answer).await {
                all.merge(count);
            }
        }
        all
    }
}

/// Where a process is asked that has handed its sockets over.
pub(crate) fn socket(dir: &Path, process: u32) -> PathBuf {
    dir.join(format!("{}{process}{}", SOCKET.0, SOCKET.1))
}

/// What those processes have open that have handed their sockets over to this one or one before it, by their ids. What is left of
/// one that has ended is removed.
pub(crate) async fn predecessors(dir: &Path) -> Vec<Census> {
    let is_socket = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(SOCKET.0) && name.ends_with(SOCKET.1))
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all = Vec::new();
    for path in entries.filter(is_socket) {
        match handover::ask_census(dir, &path).await {
            Ok(census) => all.push(census),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                // Another one may have removed it.
                std::fs::remove_file(&path).ok();
            }
            Err(error) => tracing::debug!(path = %path.display(), %error, "a process before this one does not answer"),
        }
    }
    all.sort_unstable_by_key(|census| census.pid);
    all
}
