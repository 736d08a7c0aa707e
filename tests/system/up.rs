//! `milecastle up` as a test runs it.

use crate::cluster::Said;
use crate::network::left_out;
use milecastle_testkit::process::binary;
use milecastle_testkit::{Answer, Call, Process, TempDir};
use serde_json::Value;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

/// The Admin key of every test.
pub const ADMIN_KEY: &str = "test-admin-key";
/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);
/// How long a stop may take.
const STOP: Duration = Duration::from_secs(30);

/// Every listener on a port that the system chooses.
const SETTINGS: &str = r"
dashboard:
  server: { listen: { host: 127.0.0.1, port: 0 } }
  admin: { admin_listen: { ip: 127.0.0.1, port: 0 } }
dp_manager:
  server: { listen: { host: 127.0.0.1, port: 0 } }
gateway:
  workers: 2
  apisix:
    node_listen: [{ ip: 127.0.0.1, port: 0 }]
    ssl: { listen: [{ ip: 127.0.0.1, port: 0 }] }
    status: { ip: 127.0.0.1, port: 0 }
    control: { ip: 127.0.0.1, port: 0 }
  plugin_attr: { prometheus: { export_addr: { ip: 127.0.0.1, port: 0 }, refresh_interval: 1 } }
  shutdown: { grace: 0s, last_call: 100ms }
";

/// A running `milecastle up` and where it listens.
pub struct Up {
    /// The process.
    pub process: Process,
    /// Plain HTTP.
    pub http: SocketAddr,
    /// HTTPS.
    pub https: SocketAddr,
    /// Admin API on its own port.
    pub admin: SocketAddr,
    /// `/status`.
    pub status: SocketAddr,
    /// Control API.
    pub control: SocketAddr,
    /// Prometheus page.
    pub prometheus: SocketAddr,
    /// Data directory; gone with this.
    pub data: TempDir,
}

impl Up {
    /// Starts on an empty data directory.
    pub fn start() -> Self {
        Self::start_in(TempDir::new())
    }

    /// Starts on a data directory that may hold something.
    pub fn start_in(data: TempDir) -> Self {
        Self::start_in_with(data, &[])
    }

    /// Starts on an empty data directory with other settings, `MILECASTLE__A__B=v` for `a.b: v`.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_in_with(TempDir::new(), settings)
    }

    /// Starts on a data directory that may hold something, with other settings.
    pub fn start_in_with(data: TempDir, settings: &[(&str, &str)]) -> Self {
        Self::of(Self::process_in(&data, settings), data)
    }

    /// Starts with a file in the place of one of the system's, which this process alone sees; `None` if tests that need namespaces are
    /// left out. Needs root, and `unshare` (util-linux).
    pub fn start_seeing(file: &str, text: &str, settings: &[(&str, &str)]) -> Option<Self> {
        if left_out() {
            return None;
        }
        let data = TempDir::new();
        let seen = data.write("seen", text);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"", "sh"]);
        command.arg(seen).arg(file).arg(binary());
        let (args, environment) = Self::asked(&data, &["--no-demo"], settings);
        command.args(args).envs(environment);
        Some(Self::of(Process::start("milecastle up", command), data))
    }

    /// Starts on an empty data directory, as a process that may have so many files open.
    pub fn start_with_files(most: u32, settings: &[(&str, &str)]) -> Self {
        let data = TempDir::new();
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &most.to_string()]).arg(binary());
        let (args, environment) = Self::asked(&data, &["--no-demo"], settings);
        command.args(args).envs(environment);
        Self::of(Process::start("milecastle up", command), data)
    }

    fn of(mut process: Process, data: TempDir) -> Self {
        let mut at = |what: &str| {
            process.wait_for_line(what, START, |line| {
                line.trim_start().strip_prefix(what)?.trim().parse::<SocketAddr>().ok()
            })
        };
        let (http, https, admin) = (at("HTTP "), at("HTTPS "), at("Admin API "));
        let (status, control, prometheus) = (at("status "), at("control API "), at("Prometheus "));
        Self { process, http, https, admin, status, control, prometheus, data }
    }

    /// Just the process, on a data directory that may be in use.
    pub fn process_in(data: &TempDir, settings: &[(&str, &str)]) -> Process {
        Self::process(data, &["--no-demo"], settings)
    }

    /// Just the process, with the demo upstream.
    pub fn process_with_demo(data: &TempDir) -> Process {
        Self::process(data, &[], &[])
    }

    fn process(data: &TempDir, options: &[&str], settings: &[(&str, &str)]) -> Process {
        let (args, environment) = Self::asked(data, options, settings);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Process::milecastle("milecastle up", &args, &environment)
    }

    /// Arguments and environment.
    fn asked<'a>(
        data: &TempDir,
        options: &[&str],
        settings: &[(&'a str, &'a str)],
    ) -> (Vec<String>, Vec<(&'a str, &'a str)>) {
        let config = data.write("up.yaml", SETTINGS);
        let dir = data.path().join("data");
        let args = ["up", "--config", config.to_str().unwrap(), "--data", dir.to_str().unwrap()];
        let environment = [&[("MILECASTLE_ADMIN_KEY", ADMIN_KEY), ("MILECASTLE_LOG", "info")], settings].concat();
        ([&args, options].concat().into_iter().map(str::to_owned).collect(), environment)
    }

    /// Changes the settings of the gateway group, by options of `milecastle group settings set`; they are in force when it returns.
    pub fn set_group(&mut self, options: &[&str]) {
        let dashboard = |line: &str| line.trim().strip_prefix("dashboard ").map(|address| address.trim().to_owned());
        let server = format!("http://{}", self.process.wait_for_line("the dashboard", START, dashboard));
        let mut set = Command::new(binary());
        set.args(["group", "settings", "set", "--wait", "20s"]).args(options);
        let said = Said::by(set.envs([("MILECASTLE_SERVER", &*server), ("MILECASTLE_ADMIN_KEY", ADMIN_KEY)]));
        assert_eq!(said.code, 0, "{}", said.text);
    }

    /// Ends it as an operator would.
    pub fn stop(self) -> TempDir {
        self.process.stop(STOP);
        self.data
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) -> TempDir {
        self.process.kill();
        self.data
    }

    /// The dashboard's own listener, as the log tells it.
    pub fn dashboard(&mut self) -> SocketAddr {
        self.process.wait_for_line("the dashboard listens", START, |line| {
            let (_, rest) = line.split_once("the dashboard listens")?;
            rest.split_once("address=")?.1.split_whitespace().next()?.parse().ok()
        })
    }

    /// Calls the Admin API; `path` is what follows `/apisix/admin`.
    pub async fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let target = format!("/apisix/admin{path}");
        let mut call = Call::new(method.parse().unwrap(), &target).header("X-API-KEY", ADMIN_KEY);
        if let Some(body) = body {
            call = call.body(body.to_string());
        }
        call.to(self.admin).await.unwrap()
    }

    /// Writes an object and expects it to be taken.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        let answer = self.admin("PUT", path, Some(&body)).await;
        assert!(matches!(answer.status, 200 | 201), "PUT {path}: {} {}", answer.status, answer.text());
        answer
    }

    /// A request through the gateway.
    pub async fn get(&self, target: &str) -> Answer {
        Call::get(target).to(self.http).await.unwrap()
    }

    /// The figure of a series of the metrics page; `None` while there is no such line.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let page = Call::get("/apisix/prometheus/metrics").to(self.prometheus).await.unwrap().text();
        page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Waits until the gateway answers a target with this status.
    pub async fn answers(&self, target: &str, status: u16) {
        milecastle_testkit::eventually(&format!("{target} is answered with {status}"), async || {
            self.get(target).await.status == status
        })
        .await;
    }
}
