//! Files of processes that hold several roles.

use std::path::PathBuf;

use milecastle_telemetry::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::listener::Listener;
use crate::load::{Checks, File, under};
use crate::{ControlShutdown, Dashboard, DpManager, Gateway, Log, Members, Replica, Shutdown, Time};

/// The file of `milecastle control`: dashboard and DP manager in one process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ControlFile {
    /// What the process writes to standard error.
    pub log: Log,
    /// What every process of the control plane has.
    #[serde(flatten)]
    pub replica: Replica,
    /// Console, `/api` and the compatible Admin API.
    pub dashboard: Dashboard,
    /// The gRPC server of the gateway nodes.
    pub dp_manager: DpManager,
}

/// The file of `milecastle up`: every role in one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct UpFile {
    /// What the process writes to standard error.
    pub log: Log,
    /// Directory of everything that outlives the process: database, sealing key, the gateway's last good configuration.
    pub data_dir: PathBuf,
    /// What every process of the control plane has. Without `database.dsn`, SQLite in `data_dir`; without a sealing key,
    /// `data_dir` gets one on the first start; `shutdown` comes after that of the gateway.
    #[serde(flatten)]
    pub replica: Replica,
    /// Console, `/api` and the compatible Admin API. Its `admin.enable` is on by default here.
    pub dashboard: Dashboard,
    /// The gRPC server of the gateway nodes.
    pub dp_manager: DpManager,
    /// The gateway. Without `control_plane.endpoints` it joins the DP manager of this process. Its `shutdown.grace` is 0s by
    /// default here: set it if a load balancer asks for `/status`.
    pub gateway: Gateway,
}

impl File for ControlFile {
    const ROLE: &'static str = "control";

    fn listeners(&self) -> Vec<Listener> {
        [under("dashboard", self.dashboard.listeners()), under("dp_manager", self.dp_manager.listeners())].concat()
    }

    fn check(&self, checks: &mut Checks<'_>) {
        self.dashboard.check(&mut checks.at("dashboard"));
        self.dp_manager.check(&mut checks.at("dp_manager"));
        self.log.check(checks);
        self.replica.check(checks);
    }
}

impl File for UpFile {
    const ROLE: &'static str = "up";

    fn complete(&mut self) {
        let data_dir = self.data_dir.clone();
        self.gateway.state.dir.get_or_insert_with(|| data_dir.join("gateway"));
        self.replica
            .database
            .dsn
            .get_or_insert_with(|| Secret::new(format!("sqlite:{}", data_dir.join("milecastle.db").display())));
    }

    fn listeners(&self) -> Vec<Listener> {
        [
            under("dashboard", self.dashboard.listeners()),
            under("dp_manager", self.dp_manager.listeners()),
            under("gateway", self.gateway.listeners()),
        ]
        .concat()
    }

    fn check(&self, checks: &mut Checks<'_>) {
        self.dashboard.check(&mut checks.at("dashboard"));
        self.dp_manager.check(&mut checks.at("dp_manager"));
        self.gateway.check(&mut checks.at("gateway"));
        let (silence, report) = (self.dp_manager.stream.silence, self.gateway.control_plane.report_interval);
        if self.gateway.control_plane.endpoints.is_empty() && silence <= report {
            checks.fault(
                "dp_manager.stream.silence",
                "expected more than `gateway.control_plane.report_interval`: the gateway says nothing in between",
            );
        }
        self.log.check(checks);
        self.replica.check(checks);
    }
}

impl Default for UpFile {
    fn default() -> Self {
        let mut dashboard = Dashboard::default();
        dashboard.admin.enable = true;
        // As a rule nobody probes a try-out, and whoever stops it waits for its end.
        let shutdown = Shutdown { grace: Time::secs(0), ..Shutdown::default() };
        Self {
            log: Log::default(),
            data_dir: "milecastle-data".into(),
            replica: Replica {
                // Alone in its process, as a rule: no need to write often, and nothing balances over several of them.
                members: Members { heartbeat: Time::secs(10), lost_after: Time::secs(30), ..Members::default() },
                shutdown: ControlShutdown { grace: Time::secs(0), ..ControlShutdown::default() },
                ..Replica::default()
            },
            dashboard,
            dp_manager: DpManager::default(),
            gateway: Gateway { shutdown, ..Gateway::default() },
        }
    }
}
