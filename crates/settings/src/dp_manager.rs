//! The DP manager's file: the gRPC server that gateway nodes join and pull their configuration from.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::{Checks, File, under};
use crate::{HostPort, Log, Probes, Replica, Server, Time};

/// Configuration of a DP manager: the section `dp_manager` of the files of `milecastle control` and `milecastle up`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DpManager {
    /// The gRPC server.
    pub server: Server,
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
    /// Life of a node's certificate; the node rotates it at two thirds.
    pub node_life: Time,
    /// Life of this replica's own server certificate; rotated at two thirds.
    pub server_life: Time,
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
    /// Shortest time between two receipts written for one group: rows that tell where its nodes stand, for `?wait=`.
    pub receipt_interval: Time,
    /// Shortest time between two writes of what each node says, for lists of nodes on other replicas.
    pub report_interval: Time,
    /// Silence after which a node's stream is closed.
    pub silence: Time,
}

impl DpManager {
    /// Every address that it listens on, with the key that sets it.
    pub fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        let mut all = vec![("server.listen.port", self.server.listen.socket())];
        if self.probes.enable {
            all.push(("probes.listen.port", self.probes.listen.socket()));
        }
        all
    }

    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        if self.stream.beat.is_zero() || self.stream.beat > Time::secs(2) {
            checks.fault("stream.beat", "expected more than 0 and at most 2s: nodes count on it");
        }
        for (key, life) in [("node_life", self.certificates.node_life), ("server_life", self.certificates.server_life)]
        {
            if life < Time::secs(60) {
                checks.fault(&format!("certificates.{key}"), "expected at least 60s");
            }
        }
        for (i, name) in self.certificates.names.iter().enumerate() {
            if !is_host(name) {
                checks.fault(&format!("certificates.names[{i}]"), "expected a host name or an address, without a port");
            }
        }
        if self.stream.silence <= self.stream.beat {
            checks.fault("stream.silence", "expected more than `stream.beat`, and than `report_interval` of the nodes");
        }
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

    fn listeners(&self) -> Vec<(String, SocketAddr)> {
        under("", self.dp_manager.listeners())
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
            probes: Probes::default(),
            certificates: Certificates::default(),
            stream: Stream::default(),
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
            receipt_interval: Time::millis(250),
            report_interval: Time::secs(2),
            silence: Time::secs(20),
        }
    }
}
