//! Starting and ending the workers.

mod listeners;

use crate::balance::Averages;
use crate::config::GatewayConfig;
use crate::counters::Counters;
use crate::current::Current;
use crate::discovery::Discovery;
use crate::drain::Drain;
use crate::handover::{Address, Gate, Inherited, Listening};
use crate::health::{CheckerParts, Checkers, UpstreamHealth};
use crate::ocsp::Stapling;
use crate::resolve::Resolver;
use crate::tls::{OnDemandTls, ServerTls};
use crate::worker::{self, ListenError, Neighbour, Node, Orders, Stage};
use listeners::Listeners;
use milecastle_plugin_api::stream::StreamCx;
use milecastle_plugin_api::{NodeFacts, RequestCx};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Called at the end of every request, after the log hooks: the access log.
pub trait OnRequestEnd: Send + Sync {
    /// Runs on the worker: must not block.
    fn on_request_end(&self, cx: &RequestCx);

    /// Whether it reads the headers or trailers of the answer; if nobody does, they are not kept beyond their sending.
    fn reads_answer_head(&self) -> bool {
        true
    }
}

/// Called at the end of every TCP and UDP session, after the log hooks: the access log of sessions.
pub trait OnSessionEnd: Send + Sync {
    /// Runs on the worker: must not block.
    fn on_session_end(&self, cx: &StreamCx);
}

/// What a gateway is made of.
pub struct GatewayParts {
    /// Settings.
    pub config: GatewayConfig,
    /// Facts of the node.
    pub facts: NodeFacts,
    /// The snapshot in force, and where later ones appear.
    pub current: Arc<Current>,
    /// What the workers count, one for each of them.
    pub counters: Arc<Counters>,
    /// Health of upstream nodes, also for those who only read it.
    pub upstream_health: Arc<UpstreamHealth>,
    /// Where the nodes of upstreams with a service are asked for.
    pub discovery: Arc<Discovery>,
    /// The runtime beside the workers: names are resolved on it, and upstream nodes probed.
    pub side: tokio::runtime::Handle,
    /// The access log.
    pub on_end: Option<Arc<dyn OnRequestEnd>>,
    /// The access log of sessions.
    pub on_session_end: Option<Arc<dyn OnSessionEnd>>,
    /// Tells how far the end of the process has come.
    pub drain: Arc<Drain>,
    /// Nobody is let in before it opens.
    pub gate: Gate,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system gave no thread, or no descriptor.
    #[error("starting a worker thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// One listening address, as it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalAddr {
    /// The address, with the port that the system chose if it was asked to.
    pub addr: SocketAddr,
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// What is served there.
    pub served: Served,
    /// Whether clients send the PROXY protocol first.
    pub proxy_protocol: bool,
}

/// What is served on an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// HTTP.
    Http,
    /// TCP sessions.
    Tcp,
    /// UDP sessions.
    Udp,
    /// HTTP/3, over UDP.
    Http3,
}

impl LocalAddr {
    /// What is served there, for people.
    pub fn name(&self) -> &'static str {
        match (self.served, self.tls, self.proxy_protocol) {
            (Served::Http, false, false) => "HTTP",
            (Served::Http, true, false) => "HTTPS",
            (Served::Http, false, true) => "PROXY+HTTP",
            (Served::Http, true, true) => "PROXY+HTTPS",
            (Served::Tcp, false, false) => "TCP",
            (Served::Tcp, true, false) => "TLS",
            (Served::Tcp, false, true) => "PROXY+TCP",
            (Served::Tcp, true, true) => "PROXY+TLS",
            (Served::Udp, ..) => "UDP",
            (Served::Http3, ..) => "HTTP/3",
        }
    }
}

/// A running data plane.
pub struct Gateway {
    addrs: Vec<LocalAddr>,
    counters: Arc<Counters>,
    checkers: Arc<Checkers>,
    listening: Vec<Listening>,
    stage: watch::Sender<Stage>,
    /// Closed when the last worker has ended.
    ended: mpsc::Receiver<()>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Gateway {
    /// Opens the ports, or takes sockets that are `inherited`, and starts the workers. To be called once there is a configuration
    /// to serve.
    ///
    /// # Errors
    /// A port is taken, or the system has no threads left.
    pub fn start(parts: GatewayParts, inherited: &mut Inherited) -> Result<Self, StartError> {
        let GatewayParts {
            config,
            facts,
            current,
            counters,
            upstream_health,
            discovery,
            side,
            on_end,
            on_session_end,
            drain,
            gate,
        } = parts;
        let workers = config.workers;
        let Listeners { doors, addrs, listening } = Listeners::open(&config, &counters, inherited)?;
        let resolver = Resolver::new(side.clone(), config.dns.clone());
        let checkers = Checkers::new(CheckerParts {
            table: upstream_health,
            current: current.clone(),
            resolver: resolver.clone(),
            discovery: discovery.clone(),
            side: side.clone(),
            enabled: config.health_checks,
            authorities: config.authorities.clone(),
        });
        discovery.follow(&current);
        let authorities = config.authorities.clone();
        let outlet = crate::outlet::outlet(resolver.clone(), side.clone(), authorities, config.ocsp.answer_bytes);
        let stapling = Stapling::new(&config.ocsp, outlet, side, counters.ocsp().clone());
        stapling.follow(&current);
        let (neighbours, handed): (Vec<_>, Vec<_>) =
            (0..workers).map(|index| Neighbour::new(counters.worker(index))).unzip();
        let node = Arc::new(Node {
            neighbours,
            resolver,
            discovery,
            checkers: checkers.clone(),
            averages: Averages::default(),
            tls: ServerTls::new(&config.tls, stapling, counters.forgotten_sessions().clone()),
            upstream_tls: OnDemandTls::new(config.authorities.clone(), "apisix.ssl.ssl_trusted_certificate"),
            counters: counters.clone(),
            connections: 1.into(),
            config,
            facts,
            current,
            on_end,
            on_session_end,
        });
        let (stage, _) = watch::channel(Stage::Running);
        let (end, ended) = mpsc::channel(1);
        let mut threads = Vec::with_capacity(workers);
        for (((index, doors), asked), handed) in doors.into_iter().enumerate().zip(drain.open(workers)).zip(handed) {
            let (node, end) = (node.clone(), end.clone());
            let orders = Orders { gate: gate.clone(), stage: stage.subscribe(), asked, handed };
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                if let Err(error) = worker::run(node, index, doors, orders) {
                    tracing::error!(%error, worker = index, "a worker ended");
                }
                drop(end);
            })?;
            threads.push(thread);
        }
        Ok(Self { addrs, counters, checkers, listening, stage, ended, threads })
    }

    /// The addresses that are listened on, in the order of the configuration.
    pub fn local_addrs(&self) -> &[LocalAddr] {
        &self.addrs
    }

    /// What the node counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Gives away what a process needs that takes the listeners over. To be dropped before they are to close.
    pub fn take_listening(&mut self) -> Vec<Listening> {
        std::mem::take(&mut self.listening)
    }

    /// Takes no new connections, ends open ones after their present requests, and cuts what is left after `deadline`.
    ///
    /// HTTP/1.1 clients read `Connection: close`, HTTP/2 clients GOAWAY. Says whether every connection ended by itself.
    pub async fn drain(self, deadline: Duration) -> bool {
        self.end(Stage::Draining, tokio::time::sleep(deadline)).await
    }

    /// Leaves the sockets of these listeners to another process that has them open; those of the others end as in
    /// [`Self::drain`], and connections likewise, but there is no hurry: one that waits for a request may do so as long as
    /// ever. What is left when `over` is ready is cut. Says whether every connection ended by itself.
    pub async fn leave(self, claimed: Arc<[Address]>, over: impl Future<Output = ()>) -> bool {
        self.checkers.stop();
        self.end(Stage::Replaced(claimed), over).await
    }

    async fn end(mut self, stage: Stage, over: impl Future<Output = ()>) -> bool {
        self.listening.clear();
        self.stage.send_replace(stage);
        let by_itself = tokio::select! {
            _none = self.ended.recv() => true,
            () = over => false,
        };
        self.stage.send_replace(Stage::Stopped);
        if !by_itself {
            // Every worker ends at its next turn; the channel closes then.
            self.ended.recv().await;
        }
        by_itself
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stage.send_replace(Stage::Stopped);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}
