//! Files of processes that hold several roles.

use std::net::SocketAddr;
use std::path::PathBuf;

use milecastle_telemetry::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::{Checks, File, under};
use crate::{Dashboard, Database, DpManager, Gateway, Log, Members, Sealing, Shutdown, Time};

/// The file of `milecastle control`: dashboard and DP manager in one process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ControlFile {
    /// What the process writes to standard error.
    pub log: Log,
    /// The database of both.
    pub database: Database,
    /// The key that seals secrets in the database.
    pub sealing: Sealing,
    /// The replicas of the control plane as members of it.
    pub members: Members,
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
    /// The database; without a `dsn`, SQLite in `data_dir`.
    pub database: Database,
    /// The key that seals secrets in the database; without one, `data_dir` gets a key of its own on the first start.
    pub sealing: Sealing,
    /// The replicas of the control plane as members of it.
    pub members: Members,
    /// Console, `/api` and the compatible Admin API. Its `admin.enable` is on by default here.
    pub dashboard: Dashboard,
    /// The gRPC server of the gateway nodes.
    pub dp_manager: DpManager,
    /// The gateway. Without `control_plane.endpoints` it joins the DP manager of this process. Its `shutdown.grace` is 0s by
    /// default here: set it if a load balancer asks for `/status`.
    pub gateway: Gateway,
}

impl Database {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        match &self.dsn {
            None => checks.fault(
                "database.dsn",
                "required: say where the database is, e.g. `postgres://user:password@host:5432/milecastle` (better in the \
                 environment variable MILECASTLE__DATABASE__DSN)",
            ),
            Some(dsn) if !["postgres://", "postgresql://", "sqlite:"].iter().any(|k| dsn.reveal().starts_with(k)) => {
                checks.fault("database.dsn", "expected an address that begins with `postgres://` or `sqlite:`");
            }
            Some(_) => {}
        }
        checks.at("database").above_zero(&[
            ("connect_timeout", self.connect_timeout),
            ("acquire_timeout", self.acquire_timeout),
            ("statement_timeout", self.statement_timeout),
        ]);
        if self.retry_min.is_zero() || self.retry_min > self.retry_max {
            checks.fault("database.retry_min", "expected more than 0 and no more than `database.retry_max`");
        }
    }
}

impl File for ControlFile {
    const ROLE: &'static str = "control";

    fn listeners(&self) -> Vec<(String, SocketAddr)> {
        [under("dashboard", self.dashboard.listeners()), under("dp_manager", self.dp_manager.listeners())].concat()
    }

    fn check(&self, checks: &mut Checks<'_>) {
        self.dashboard.check(&mut checks.at("dashboard"));
        self.dp_manager.check(&mut checks.at("dp_manager"));
        common(&self.log, &self.database, &self.sealing, checks);
        self.members.check(checks);
    }
}

/// The checks of what every file of the control plane has.
pub(crate) fn common(log: &Log, database: &Database, sealing: &Sealing, checks: &mut Checks<'_>) {
    log.check(checks);
    database.check(checks);
    sealing.check(checks);
}

impl File for UpFile {
    const ROLE: &'static str = "up";

    fn complete(&mut self) {
        let data_dir = self.data_dir.clone();
        self.gateway.state.dir.get_or_insert_with(|| data_dir.join("gateway"));
        self.database
            .dsn
            .get_or_insert_with(|| Secret::new(format!("sqlite:{}", data_dir.join("milecastle.db").display())));
    }

    fn listeners(&self) -> Vec<(String, SocketAddr)> {
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
        common(&self.log, &self.database, &self.sealing, checks);
        self.members.check(checks);
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
            database: Database::default(),
            sealing: Sealing::default(),
            // Alone in its process, as a rule: no need to write often.
            members: Members { heartbeat: Time::secs(10), lost_after: Time::secs(30), ..Members::default() },
            dashboard,
            dp_manager: DpManager::default(),
            gateway: Gateway { shutdown, ..Gateway::default() },
        }
    }
}
