//! The DP manager's file: the gRPC server that gateway nodes join and pull their configuration from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::listener::Listener;
use crate::load::{Checks, File};
use crate::{HostPort, Log, Probes, Replica, Server, Size, Time};

/// Configuration of a DP manager: the section `dp_manager` of the files of `milecastle control` and `milecastle up`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DpManager {
    /// The gRPC server.
    pub server: Server,
    /// Caps of the gRPC server.
    pub limits: DpLimits,
    /// Where load balancers and Prometheus ask.
    pub probes: Probes,
    /// Certificates that this replica issues and shows.
    pub certificates: Certificates,
    /// The configuration stream.
    pub stream: Stream,
}

/// The file of `milecastle dp-manager`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DpManagerFile {
    /// What the process writes to standard error.
    pub log: Log,
    /// What every process of the control plane has.
    #[serde(flatten)]
    pub replica: Replica,
    /// All the rest.
    #[serde(flatten)]
    pub dp_manager: DpManager,
}

/// Certificates that a DP manager issues and shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Certificates {
    /// Further names and addresses for this replica's server certificate. `localhost`, `127.0.0.1`, `::1` and the host's name are
    /// always in it. Nodes need none of them: they know the cluster's authority, whatever address they reach it by.
    pub names: Vec<String>,
    /// Life of a node's certificate, at least 10s; the node rotates it at two thirds.
    pub node_life: Time,
    /// Life of this replica's own server certificate, at least 60s; rotated at two thirds.
    pub server_life: Time,
}

/// Caps of the gRPC server, where whoever reaches its address may connect and ask to join. The metric
/// `dp_connections_ended_total` counts, by `why`, how often those of connections bit; `dp_calls_refused_total`, by `code`, those
/// of calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DpLimits {
    /// Head of a call, 1k to 1m. A larger one is answered 431 or ends the call.
    pub header_bytes: Size,
    /// Request to join or to renew a certificate: a token, a signing request and a few names, which take less than 1k with the
    /// keys that nodes make; at most 1m. A larger one is refused (`code="OutOfRange"`). Everybody may have as much held for each
    /// call of each connection.
    pub join_bytes: Size,
    /// How long a call may take to be answered; of a stream, to be opened.
    pub call_timeout: Time,
    /// How long a node may take to say who it is once its stream is open.
    pub hello_timeout: Time,
    /// Silence on a connection after which its peer is asked for a sign of life.
    pub ping_interval: Time,
    /// How long that may take before the connection is closed.
    pub ping_timeout: Time,
    /// Handshakes under way. One more takes the place of the oldest (`why="handshake_place"`), so that peers who fall silent keep
    /// nobody out.
    #[schemars(range(min = 1), extend("x-unit" = "handshakes"))]
    pub handshakes: u32,
    /// Until then a handshake keeps its place: of many nodes that come at once none is sent away because this side is slow.
    /// Further connections wait in the listener's queue meanwhile.
    pub handshake_place: Time,
    /// How long a handshake may take (`why="handshake_time"`).
    pub handshake_timeout: Time,
    /// Connections of peers that showed no certificate, which can only join. One more takes the place of the oldest
    /// (`why="guest_place"`), so that those who only hold on keep no node from joining.
    #[schemars(range(min = 1), extend("x-unit" = "connections"))]
    pub guests: u32,
    /// Until then such a connection keeps its place; while all of them are that young, further ones are closed as they come
    /// (`why="guest_refused"`).
    pub guest_place: Time,
    /// How long such a connection may last; a join is one short call (`why="guest_time"`).
    pub guest_life: Time,
}

/// The configuration stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Stream {
    /// How often a node hears the head revision while nothing changes; at most 2s.
    pub beat: Time,
    /// New streams admitted each second; nodes beyond that are told when to come again.
    #[schemars(range(min = 1), extend("x-unit" = "streams/s"))]
    pub admit_rate: u32,
    /// New streams admitted at once.
    #[schemars(range(min = 1), extend("x-unit" = "streams"))]
    pub admit_burst: u32,
    /// Longest time after which a node that is not admitted is told to come again, however many wait.
    pub longest_wait: Time,
    /// Shortest time between two receipts written for one group: rows that tell where its nodes stand, for `?wait=`.
    pub receipt_interval: Time,
    /// Shortest time between two writes of what each node says, for lists of nodes on other replicas.
    pub report_interval: Time,
    /// How often nodes are asked to report their state; 0s leaves it to `control_plane.report_interval` of their own files.
    pub node_report_interval: Time,
    /// Lines of the logs of nodes that wait to be written at most, of all nodes together; what comes beyond while the database is
    /// away is left out.
    #[schemars(range(min = 1), extend("x-unit" = "lines"))]
    pub node_warnings: u32,
    /// The same, of one node: no more new lines of it are written at once, and none of them takes another node's place.
    #[schemars(range(min = 1), extend("x-unit" = "lines"))]
    pub node_warnings_of_a_node: u32,
    /// New lines that one node may tell in a minute; what comes beyond is left out.
    #[schemars(range(min = 1), extend("x-unit" = "lines/min"))]
    pub node_warnings_a_minute: u32,
    /// Routes of each gateway group that are kept apart in each sample for charts: those with most requests among those that nodes
    /// tell of. The others are added up.
    #[schemars(range(min = 1, max = 1000), extend("x-unit" = "routes"))]
    pub routes: u32,
    /// Silence after which a node's stream is closed.
    pub silence: Time,
    /// Pause before a node that refused a step, or holds something else than it should, gets a snapshot for the second time
    /// without having been well for `heal_max` in between; doubled each time.
    pub heal_min: Time,
    /// Longest such pause, and the pause after what only an operator can mend.
    pub heal_max: Time,
    /// Earlier revisions of each group that are kept in memory, so that nodes which are behind get deltas without the database
    /// being asked.
    #[schemars(range(min = 1, max = 100_000), extend("x-unit" = "revisions"))]
    pub past_revisions: u32,
    /// What these may keep in memory of objects that were replaced or deleted since, for each group, the newest revision's aside.
    pub past_bytes: Size,
    /// How long an earlier revision is kept in memory after another one took its place. A node that comes later gets its delta all
    /// the same, from what the database says has changed.
    pub past_age: Time,
    /// How long the packed snapshot of a group is kept in memory after a node asked for it last.
    pub snapshot_idle: Time,
}

impl DpManager {
    /// Every address that it listens on, with the key that sets it.
    pub fn listeners(&self) -> Vec<Listener> {
        let mut all = vec![Listener::alone("server.listen.port", self.server.listen.socket())];
        if self.probes.enable {
            all.push(Listener::alone("probes.listen.port", self.probes.listen.socket()));
        }
        all
    }

    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        self.probes.tls.check(&mut checks.at("probes.tls"));
        self.probes.limits.check(&mut checks.at("probes.limits"));
        self.limits.check(&mut checks.at("limits"));
        if self.stream.beat.is_zero() || self.stream.beat > Time::secs(2) {
            checks.fault("stream.beat", "expected more than 0 and at most 2s: nodes count on it");
        }
        if self.certificates.node_life < Time::secs(10) {
            checks
                .fault("certificates.node_life", "expected at least 10s, which leaves a few seconds for the next one");
        }
        if self.certificates.server_life < Time::secs(60) {
            checks.fault("certificates.server_life", "expected at least 60s");
        }
        for (i, name) in self.certificates.names.iter().enumerate() {
            if !is_host(name) {
                checks.fault(&format!("certificates.names[{i}]"), "expected a host name or an address, without a port");
            }
        }
        if self.stream.silence <= self.stream.beat {
            checks.fault("stream.silence", "expected more than `stream.beat`, and than `report_interval` of the nodes");
        }
        if self.stream.silence <= self.stream.node_report_interval {
            checks.fault("stream.node_report_interval", "expected less than `stream.silence`");
        }
        if self.stream.heal_min.is_zero() || self.stream.heal_min > self.stream.heal_max {
            checks.fault("stream.heal_min", "expected more than 0 and no more than `stream.heal_max`");
        }
        checks.at("stream").above_zero(&[
            ("longest_wait", self.stream.longest_wait),
            ("past_age", self.stream.past_age),
            ("snapshot_idle", self.stream.snapshot_idle),
        ]);
    }
}

impl DpLimits {
    fn check(&self, checks: &mut Checks<'_>) {
        for (key, size) in [("header_bytes", self.header_bytes), ("join_bytes", self.join_bytes)] {
            if !(Size::kib(1)..=Size::kib(1 << 10)).contains(&size) {
                checks.fault(key, "expected 1k to 1m: less holds no real call, and more is for those who want to harm");
            }
        }
        checks.above_zero(&[
            ("call_timeout", self.call_timeout),
            ("hello_timeout", self.hello_timeout),
            ("ping_interval", self.ping_interval),
            ("ping_timeout", self.ping_timeout),
            ("handshake_timeout", self.handshake_timeout),
            ("guest_life", self.guest_life),
        ]);
    }
}

/// Whether a certificate can bear `name`: letters, digits, hyphens and dots, or an address.
fn is_host(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.parse::<std::net::IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(label))
}

impl File for DpManagerFile {
    const ROLE: &'static str = "dp-manager";

    fn listeners(&self) -> Vec<Listener> {
        self.dp_manager.listeners()
    }

    fn check(&self, checks: &mut Checks<'_>) {
        self.dp_manager.check(checks);
        self.log.check(checks);
        self.replica.check(checks);
    }
}

impl Default for DpManagerFile {
    fn default() -> Self {
        let mut dp_manager = DpManager::default();
        dp_manager.probes.enable = true;
        Self { log: Log::default(), replica: Replica::default(), dp_manager }
    }
}

impl Default for DpManager {
    fn default() -> Self {
        Self {
            server: Server { listen: HostPort::any(17900), ..Server::default() },
            limits: DpLimits::default(),
            probes: Probes::default(),
            certificates: Certificates::default(),
            stream: Stream::default(),
        }
    }
}

impl Default for DpLimits {
    fn default() -> Self {
        Self {
            header_bytes: Size::kib(16),
            join_bytes: Size::kib(8),
            call_timeout: Time::secs(30),
            hello_timeout: Time::secs(10),
            ping_interval: Time::secs(10),
            ping_timeout: Time::secs(10),
            handshakes: 1024,
            handshake_place: Time::secs(1),
            handshake_timeout: Time::secs(10),
            guests: 1024,
            guest_place: Time::secs(2),
            guest_life: Time::secs(30),
        }
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self { names: Vec::new(), node_life: Time::secs(7 * 86_400), server_life: Time::secs(30 * 86_400) }
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            beat: Time::secs(1),
            admit_rate: 200,
            admit_burst: 400,
            longest_wait: Time::secs(60),
            receipt_interval: Time::millis(250),
            report_interval: Time::secs(2),
            node_report_interval: Time::secs(5),
            node_warnings: 10_000,
            node_warnings_of_a_node: 50,
            node_warnings_a_minute: 200,
            routes: 100,
            silence: Time::secs(20),
            heal_min: Time::secs(1),
            heal_max: Time::secs(60),
            past_revisions: 256,
            past_bytes: Size::kib(32 << 10),
            past_age: Time::secs(30),
            snapshot_idle: Time::secs(60),
        }
    }
}
