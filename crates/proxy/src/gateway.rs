//! Starting and ending the workers.

use crate::balance::Averages;
use crate::config::{self, GatewayConfig, Listen};
use crate::counters::Counters;
use crate::current::Current;
use crate::discovery::Discovery;
use crate::drain::Drain;
use crate::handover::{Address, Gate, Inherited, Listening, Transport};
use crate::health::{CheckerParts, Checkers, UpstreamHealth};
use crate::ocsp::Stapling;
use crate::resolve::Resolver;
use crate::stream::{StreamListen, UdpDoor};
use crate::tls::{ServerTls, UpstreamTls};
use crate::worker::{self, Door, Doors, ListenError, Mail, Node, Orders, QuicDoor, Stage};
use milecastle_plugin_api::stream::StreamCx;
use milecastle_plugin_api::{NodeFacts, RequestCx};
use milecastle_settings::VerifyUpstreams;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Called at the end of every request, after the log hooks: the access log.
pub trait OnRequestEnd: Send + Sync {
    /// Runs on the worker: must not block.
    fn on_request_end(&self, cx: &RequestCx);

    /// Whether it reads the headers of the answer; if nobody does, they are not kept beyond their sending.
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
    /// Whoever asks how far the end of the process has come.
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
        let mut doors: Vec<Doors> = (0..workers).map(|_| Doors::default()).collect();
        let mut addrs = Vec::with_capacity(config.listens.len() + config.udp.len());
        let mut listening = Vec::with_capacity(addrs.capacity());
        for listen in &config.listens {
            let (addr, sockets, datagrams) = open(listen, workers, inherited)?;
            let address =
                Address { transport: Transport::Tcp, key: listen.key.to_owned(), configured: listen.addr, bound: addr };
            listening.push(Listening::of(address, &sockets)?);
            let (served, stream) = match listen.served {
                config::Served::Http => (Served::Http, None),
                config::Served::Stream { proxy_protocol_to_upstream } => {
                    let counters = counters.stream_listener(addr);
                    (Served::Tcp, Some(StreamListen { proxy_protocol_to_upstream, counters }))
                }
            };
            addrs.push(LocalAddr { addr, tls: listen.tls, served, proxy_protocol: listen.proxy_protocol });
            let alternative = if listen.http3 { config.http3.alternative(addr.port()) } else { None };
            let listen = Listen { addr, alternative, ..listen.clone() };
            for (socket, worker) in sockets.into_iter().zip((0..workers).cycle()) {
                doors[worker].tcp.push(Door { listen: listen.clone(), socket, stream: stream.clone() });
            }
            if listen.http3 {
                let address =
                    Address { transport: Transport::Udp, key: listen.key.to_owned(), configured: addr, bound: addr };
                listening.push(Listening::of(address, &datagrams)?);
                addrs.push(LocalAddr { addr, tls: true, served: Served::Http3, proxy_protocol: false });
                let mail = Mail::new(datagrams.len());
                for (place, socket) in datagrams.into_iter().enumerate() {
                    let door = QuicDoor { listen: listen.clone(), socket, place, mail: mail.clone() };
                    doors[place % workers].quic.push(door);
                }
            }
        }
        for &configured in &config.udp {
            const KEY: &str = "apisix.stream_proxy.udp";
            let (addr, sockets) = worker::listen_udp(configured, KEY, workers, inherited)?;
            let address = Address { transport: Transport::Udp, key: KEY.to_owned(), configured, bound: addr };
            listening.push(Listening::of(address, &sockets)?);
            let counters = counters.stream_listener(addr);
            addrs.push(LocalAddr { addr, tls: false, served: Served::Udp, proxy_protocol: false });
            for (socket, worker) in sockets.into_iter().zip((0..workers).cycle()) {
                doors[worker].udp.push(UdpDoor { addr, socket, counters: counters.clone() });
            }
        }
        let resolver = Resolver::new(side.clone(), config.dns.clone());
        let upstream_roots = (config.verify_upstreams != VerifyUpstreams::Off)
            .then(|| crate::tls::trusted(config.authorities.as_deref(), "apisix.ssl.ssl_trusted_certificate"));
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
        let outlet = crate::outlet::outlet(side.clone(), config.authorities.clone(), config.ocsp.answer_bytes);
        let stapling = Stapling::new(&config.ocsp, outlet, side, counters.ocsp().clone());
        stapling.follow(&current);
        let node = Arc::new(Node {
            resolver,
            discovery,
            checkers: checkers.clone(),
            averages: Averages::default(),
            tls: ServerTls::new(&config.tls, stapling),
            upstream_tls: UpstreamTls::new(upstream_roots),
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
        for ((index, doors), asked) in doors.into_iter().enumerate().zip(drain.open(workers)) {
            let (node, end) = (node.clone(), end.clone());
            let orders = Orders { gate: gate.clone(), stage: stage.subscribe(), asked };
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

/// Opens the sockets of a TCP listener, and where it has HTTP/3 those of the UDP port of the same number.
fn open(
    listen: &Listen,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<(SocketAddr, Vec<TcpListener>, Vec<UdpSocket>), ListenError> {
    // A port that the system has chosen may be taken by other datagrams.
    const TRIES: usize = 10;
    let chosen = listen.addr.port() == 0 && !inherited.has(Transport::Tcp, listen.key, listen.addr);
    let mut tries = 0;
    loop {
        let (addr, streams) = worker::listen(listen.addr, listen.key, workers, inherited)?;
        if !listen.http3 {
            return Ok((addr, streams, Vec::new()));
        }
        tries += 1;
        match worker::listen_udp(addr, listen.key, workers, inherited) {
            Ok((_, datagrams)) => return Ok((addr, streams, datagrams)),
            Err(_) if chosen && tries < TRIES => {}
            Err(error) => return Err(error),
        }
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
