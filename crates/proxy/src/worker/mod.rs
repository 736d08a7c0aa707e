//! Workers: one thread for each core, with everything a request needs of its own.
//!
//! A worker has its own runtime, listening sockets, connections, upstream pools, balancer state and pin of the snapshot.
//! Nothing of that is shared, so nothing of it is locked. What workers share they reach through [`Node`]: atomics, and tables
//! that are locked for the time of a look-up and never across an await.

mod activity;
mod allowance;
mod client;
mod defer;
mod entrance;
mod farewell;
mod files;
mod http1;
mod http2;
mod http3;
mod leave;
mod linger;
mod listen;
mod newcomers;
mod overlay;
mod pinned;
mod serve;
mod spare;
mod spread;
mod stream_head;
mod tunnel;
mod watching;
mod websocket;
mod wire;

pub(crate) use activity::{Activity, Nature};
pub(crate) use client::{Client, Registry};
pub(crate) use defer::{Flusher, defer};
pub(crate) use entrance::Door;
pub(crate) use http2::{Body as Http2Body, Interims as Http2Interims};
pub use http2::{Read as Http2Read, read as read_http2};
pub(crate) use http3::{Mail, QuicDoor};
pub use listen::{ListenError, probe};
pub(crate) use listen::{listen, listen_udp};
pub(crate) use pinned::Pinned;
pub(crate) use spread::{Handed, Neighbour};
pub(crate) use tunnel::Tunnel;
pub(crate) use wire::Wire;

use crate::balance::{Averages, Balancer, Balancers, Parts};
use crate::config::GatewayConfig;
use crate::counters::{Counters, WorkerCounters};
use crate::current::Current;
use crate::discovery::Discovery;
use crate::drain;
use crate::gateway::{OnRequestEnd, OnSessionEnd};
use crate::h1::{Pipes, Pool, Scratch};
use crate::h2_client;
use crate::handover::{Address, Gate, Transport};
use crate::health::Checkers;
use crate::lasting::Watched;
use crate::request::Rooms;
use crate::resolve::Resolver;
use crate::route_traffic::RouteCounter;
use crate::stream::{self, InlineUpstreams, ReadRoom, UdpDoor};
use crate::tls::{OnDemandTls, ServerTls};
use crate::turns;
use entrance::Entrance;
use farewell::Farewell;
use http::HeaderValue;
use http3::QuicEntrance;
use milecastle_plugin_api::NodeFacts;
use milecastle_snapshot::{CompiledUpstream, Snapshot};
use newcomers::Newcomers;
use overlay::Overlays;
use spare::Spare;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// How often a worker looks for idle upstream connections that have rested too long.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What all workers of a node share.
pub(crate) struct Node {
    pub(crate) config: GatewayConfig,
    pub(crate) facts: NodeFacts,
    pub(crate) current: Arc<Current>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) discovery: Arc<Discovery>,
    /// Response times of upstream nodes.
    pub(crate) averages: Averages,
    pub(crate) checkers: Arc<Checkers>,
    pub(crate) tls: ServerTls,
    pub(crate) upstream_tls: OnDemandTls,
    pub(crate) on_end: Option<Arc<dyn OnRequestEnd>>,
    pub(crate) on_session_end: Option<Arc<dyn OnSessionEnd>>,
    pub(crate) connections: AtomicU64,
    /// The workers, as they see each other.
    pub(crate) neighbours: Vec<Neighbour>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.checkers.stop();
    }
}

/// One worker's own state.
pub(crate) struct Worker {
    pub(crate) node: Arc<Node>,
    pub(crate) index: usize,
    pub(crate) counters: Arc<WorkerCounters>,
    /// Counts requests by route, if that is told to anybody.
    pub(crate) routes: Option<RouteCounter>,
    pub(crate) pool: Pool,
    pub(crate) pipes: Pipes,
    pub(crate) http2: h2_client::Pool,
    pub(crate) balancers: Balancers,
    pub(crate) overlays: Overlays,
    pub(crate) spare: Spare,
    pub(crate) rooms: Rooms,
    pub(crate) scratch: Rc<Scratch>,
    pub(crate) clients: Registry,
    newcomers: Newcomers,
    pub(crate) lasting: Watched,
    farewell: Farewell,
    /// What sessions of the TCP proxy read into.
    pub(crate) stream_room: ReadRoom,
    pub(crate) inline_upstreams: InlineUpstreams,
    /// Open sessions of the UDP proxy.
    pub(crate) udp_sessions: Cell<usize>,
    /// Handshakes of QUIC under way.
    quic_handshakes: Cell<u32>,
    /// Since when the node has been ending.
    leaving: Cell<Option<Instant>>,
    /// Another process serves in its place: nothing hurries connections that wait.
    replaced: Cell<bool>,
    /// Own copy of the `Server` header: its count of uses is touched by no other worker.
    pub(crate) server_header: HeaderValue,
    pinned: RefCell<Rc<Pinned>>,
    random: Cell<u64>,
}

/// What the gateway tells a worker.
pub(crate) struct Orders {
    /// Nobody is let in before it opens.
    pub(crate) gate: Gate,
    pub(crate) stage: watch::Receiver<Stage>,
    /// Asks what the worker has open.
    pub(crate) asked: mpsc::UnboundedReceiver<drain::Ask>,
    /// Connections that other workers have accepted.
    pub(crate) handed: mpsc::UnboundedReceiver<Handed>,
}

/// How far the end of the node has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    Running,
    /// Connections end with their next answer, and new ones are not let in.
    Draining,
    /// The same, but for the listeners of which another process has the sockets.
    Replaced(Arc<[Address]>),
    /// Everything ends now.
    Stopped,
}

/// All that one worker listens on.
#[derive(Default)]
pub(crate) struct Doors {
    pub(crate) tcp: Vec<Door>,
    pub(crate) udp: Vec<UdpDoor>,
    pub(crate) quic: Vec<QuicDoor>,
}

/// Runs a worker until the stage says otherwise. Blocks the thread.
pub(crate) fn run(node: Arc<Node>, index: usize, doors: Doors, orders: Orders) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_unpark(turns::begin)
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(Worker::new(node, index).serve(doors, orders))
}

impl Worker {
    fn new(node: Arc<Node>, index: usize) -> Rc<Self> {
        let pinned = Pinned::new(&node);
        let counters = node.counters.worker(index);
        Rc::new(Self {
            pool: Pool::new(node.config.idle_connections, counters.clone()),
            pipes: Pipes::new(node.config.pipes, counters.clone()),
            routes: node.config.counts_routes.then(|| node.counters.routes(index)),
            http2: h2_client::Pool::new(
                node.config.http2,
                node.config.upstream,
                node.config.idle_connections,
                counters.clone(),
            ),
            counters,
            balancers: Balancers::default(),
            overlays: Overlays::default(),
            spare: Spare::default(),
            rooms: Rooms::default(),
            scratch: Rc::default(),
            clients: Registry::default(),
            newcomers: Newcomers::default(),
            lasting: Watched::default(),
            farewell: Farewell::default(),
            stream_room: ReadRoom::default(),
            inline_upstreams: InlineUpstreams::default(),
            udp_sessions: Cell::new(0),
            quic_handshakes: Cell::new(0),
            index,
            server_header: own_copy(&node.config.server_header),
            leaving: Cell::new(None),
            replaced: Cell::new(false),
            pinned: RefCell::new(Rc::new(pinned)),
            random: Cell::new(seed(index)),
            node,
        })
    }

    async fn serve(self: Rc<Self>, doors: Doors, orders: Orders) -> std::io::Result<()> {
        let Orders { mut gate, mut stage, asked, mut handed } = orders;
        let count = tokio::task::spawn_local(self.clone().count(asked));
        tokio::select! {
            () = gate.passed() => {}
            () = stopped(&mut stage) => return Ok(()),
        }
        let mut entrances = Vec::with_capacity(doors.tcp.len());
        for door in doors.tcp {
            let entrance = Entrance::open(door)?;
            entrance.defer(self.node.config.client.deferred_accept);
            entrances.push(Rc::new(entrance));
        }
        let accept = |entrance: &Rc<Entrance>| tokio::task::spawn_local(self.clone().accept(entrance.clone()));
        let accepting: Vec<_> = entrances.iter().map(accept).collect();
        let quic = doors.quic.into_iter().map(|door| QuicEntrance::open(&self, door));
        let quic = quic.collect::<std::io::Result<Vec<_>>>()?;
        for entrance in &quic {
            drop(tokio::task::spawn_local(entrance.clone().accept(self.clone())));
        }
        let datagrams = doors.udp.into_iter().map(|door| stream::UdpListener::open(self.clone(), door));
        let datagrams = datagrams.collect::<std::io::Result<Vec<_>>>()?;
        let follow = tokio::task::spawn_local(self.clone().follow());
        let sweep = tokio::task::spawn_local(self.clone().sweep());
        let introduce = tokio::task::spawn_local(self.clone().introduce());
        let look = tokio::task::spawn_local(self.clone().look());
        // The sender lives as long as the gateway; if it is gone, the worker ends as well.
        let ends = tokio::select! {
            ends = stage.wait_for(|stage| *stage != Stage::Running) => ends.map(|stage| stage.clone()),
            never = self.take_over(&mut handed, &entrances) => match never {},
        };
        let claimed = if let Ok(Stage::Replaced(claimed)) = ends { Some(claimed) } else { None };
        accepting.iter().for_each(tokio::task::JoinHandle::abort);
        entrances.iter().for_each(|entrance| self.welcome_held(entrance));
        self.take_last(handed, &entrances).await;
        look.abort();
        tokio::select! {
            () = self.leave(entrances, datagrams, quic, claimed.as_deref()) => {}
            () = stopped(&mut stage) => self.cut_tunnels().await,
        }
        follow.abort();
        sweep.abort();
        introduce.abort();
        count.abort();
        Ok(())
    }

    /// Ends what there is, in order: ready once every connection has ended. Of the listeners that another process has `claimed`,
    /// this one just lets go: their queues are the other's.
    async fn leave(
        self: &Rc<Self>,
        mut entrances: Vec<Rc<Entrance>>,
        mut datagrams: Vec<stream::UdpListener>,
        quic: Vec<Rc<QuicEntrance>>,
        claimed: Option<&[Address]>,
    ) {
        let is_claimed = |transport, addr| {
            let mut claimed = claimed.into_iter().flatten();
            claimed.any(|address| address.transport == transport && address.bound == addr)
        };
        entrances.retain(|entrance| !is_claimed(Transport::Tcp, entrance.listen.addr));
        entrances.iter().for_each(|entrance| leave::close_door(entrance));
        let now = Instant::now();
        self.leaving.set(Some(now));
        self.replaced.set(claimed.is_some());
        let given = datagrams.iter_mut().filter(|listener| is_claimed(Transport::Udp, listener.addr()));
        given.for_each(stream::UdpListener::leave);
        let given = quic.iter().filter(|entrance| is_claimed(Transport::Udp, entrance.listen.addr));
        given.for_each(|entrance| entrance.leave());
        self.clients.drain();
        let look = tokio::task::spawn_local(self.clone().look());
        let until = now + self.node.config.client.last_call;
        let last =
            entrances.into_iter().map(|entrance| tokio::task::spawn_local(leave::leave(self.clone(), entrance, until)));
        futures_util::future::join_all(last).await;
        self.clients.emptied().await;
        for listener in datagrams {
            listener.emptied().await;
        }
        for entrance in quic {
            entrance.end(self.node.config.client.last_call).await;
        }
        look.abort();
    }

    /// Tells both sides of each tunnel that the gateway goes away, and leaves them as long as the settings say to hear it.
    async fn cut_tunnels(&self) {
        self.farewell.say();
        let ended = async {
            while self.counters.tunnels.get() > 0 {
                self.clients.shrunk().await;
            }
        };
        // A side that has not closed by now will not.
        tokio::time::timeout(self.node.config.client.farewell, ended).await.ok();
    }

    /// Answers what the worker has open.
    async fn count(self: Rc<Self>, mut asked: mpsc::UnboundedReceiver<drain::Ask>) {
        while let Some(ask) = asked.recv().await {
            let mut count = self.clients.count();
            count.udp_sessions = self.udp_sessions.get() as u64;
            // The asking side may have given up.
            ask.send(count).ok();
        }
    }

    /// How long at most a client may wait that has no request in work, if the node is in a hurry to end.
    pub(crate) fn last_call(&self) -> Option<Duration> {
        (self.is_leaving() && !self.replaced.get()).then_some(self.node.config.client.last_call)
    }

    /// Whether the node is ending.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.get().is_some()
    }

    /// Takes over each snapshot as it is published, so that an idle worker keeps no old one, and sees to it that connections that
    /// last end where they were opened under what holds no longer.
    async fn follow(self: Rc<Self>) {
        let mut published = self.node.current.subscribe();
        let mut instances = self.node.discovery.changes();
        loop {
            tokio::select! {
                changed = published.changed() => if changed.is_err() { return },
                Ok(()) = instances.changed() => {}
                () = self.lasting.due() => {
                    self.lasting.end_due(&self, Instant::now());
                    continue;
                }
            }
            self.lasting.review(&self);
        }
    }

    async fn sweep(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            self.pool.sweep(now);
            self.http2.sweep(now);
        }
    }

    /// Has connections watched whose first request lasts.
    async fn introduce(self: Rc<Self>) {
        self.newcomers.introduce().await;
    }

    /// Looks after the time limits of client connections.
    async fn look(self: Rc<Self>) {
        let limits = &self.node.config.client;
        let hurried = self.last_call().and(self.leaving.get());
        let mut ticks = tokio::time::interval(activity::tick(limits, hurried.is_some()));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (waiting, reading) = self.clients.look(Instant::now(), limits, hurried);
            self.counters.waiting.set(waiting);
            self.counters.reading.set(reading);
        }
    }

    /// The snapshot in force, for one request.
    pub(crate) fn pin(&self) -> Rc<Pinned> {
        if !self.pinned.borrow().is_current() {
            let new = Rc::new(Pinned::new(&self.node));
            *self.pinned.borrow_mut() = new.clone();
            self.balancers.retain(|key| lives(&new.snapshot, key));
            self.overlays.forget_unused();
            if let Some(routes) = &self.routes {
                routes.forget_unused();
            }
        }
        self.pinned.borrow().clone()
    }

    /// The balancer of an upstream.
    pub(crate) fn balancer(&self, upstream: &Arc<CompiledUpstream>) -> Rc<Balancer> {
        self.balancers.of(upstream, || Parts {
            averages: &self.node.averages,
            checker: self.node.checkers.of(upstream),
            counters: &self.counters,
            ring_points: self.node.config.ring_points,
            seed: usize::try_from(self.random() >> 32).unwrap_or_default(),
        })
    }

    /// A random number; not for secrets.
    pub(crate) fn random(&self) -> u64 {
        // xorshift64*
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number for a client connection that no other of this process has.
    pub(crate) fn next_serial(&self) -> u64 {
        self.node.connections.fetch_add(1, Ordering::Relaxed)
    }
}

/// Waits until everything is to end.
async fn stopped(stage: &mut watch::Receiver<Stage>) {
    // Without a sender there is no gateway any more.
    stage.wait_for(|stage| *stage == Stage::Stopped).await.map(drop).ok();
}

/// Whether the object still exists under whose path an upstream's state is kept.
fn lives(snapshot: &Snapshot, path: &str) -> bool {
    use milecastle_model::{Key, Kind};
    // Behind a `#` stands the place of an upstream in a plugin's configuration.
    let object = path.split('#').next().unwrap_or_default();
    let Some((collection, id)) = object.trim_start_matches('/').split_once('/') else { return false };
    Kind::from_collection(collection).is_some_and(|kind| snapshot.object(&Key::new(kind, id)).is_some())
}

fn own_copy(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).expect("it was a header value before")
}

fn seed(index: usize) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(index) | 1
}
