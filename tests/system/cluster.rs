//! A cluster of real processes on one PostgreSQL, each role started by itself.

use milecastle_testkit::postgres::{self, Database};
use milecastle_testkit::process::binary;
use milecastle_testkit::{Answer, Call, Process, TempDir, free_port};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::ADMIN_KEY;

/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);
/// How long a stop may take.
const STOP: Duration = Duration::from_secs(30);

/// Where a cluster keeps its state: a database, and the directory of all files of its processes.
pub struct Cluster {
    dsn: String,
    /// The database; `None` if the test made it by itself.
    pub database: Option<Database>,
    /// Files of the processes.
    pub dir: TempDir,
    /// Further environment variables of the control plane's processes.
    pub for_control: Vec<(&'static str, &'static str)>,
    /// The same of gateways.
    pub for_gateways: Vec<(&'static str, &'static str)>,
}

/// A network of its own in which a process runs.
pub struct Place<'a> {
    /// The name of its namespace, as `ip netns` knows it.
    pub namespace: &'a str,
    /// The address on which it serves there.
    pub address: Ipv4Addr,
}

/// A process of the control plane.
pub struct Replica {
    /// The process.
    pub process: Process,
    /// The dashboard, or where probes are answered.
    pub http: SocketAddr,
    /// Where nodes join; port 0 for a dashboard.
    pub dp_manager: SocketAddr,
}

/// A gateway node.
pub struct Gateway {
    /// The process.
    pub process: Process,
    /// `/status`.
    pub status: SocketAddr,
    /// Plain HTTP.
    pub http: SocketAddr,
}

/// What one of the operator's commands said.
pub struct Said {
    /// Exit code.
    pub code: i32,
    /// All of its output: the answer, then what it says beside that.
    pub text: String,
}

impl Said {
    /// What the command says to its end.
    pub fn by(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        Self { code: output.status.code().unwrap(), text: text.trim_end().to_owned() }
    }

    /// The first line of the answer.
    pub fn line(&self) -> &str {
        self.text.lines().next().unwrap()
    }

    /// The output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

impl Cluster {
    /// On an empty database.
    pub fn new() -> Self {
        let database = Database::create().unwrap();
        Self::of(database.dsn().to_owned(), Some(database))
    }

    /// On a PostgreSQL that the test stops and starts.
    pub fn on(server: &postgres::Cluster) -> Self {
        Self::of(server.dsn("postgres"), None)
    }

    /// On a SQLite file of its own.
    pub fn on_sqlite() -> Self {
        let dir = TempDir::new();
        let dsn = format!("sqlite:{}/store.db", dir.path().display());
        Self::of_in(dir, dsn, None)
    }

    /// On the database of this connection string, which the test made by itself.
    pub fn at(dsn: &str) -> Self {
        Self::of(dsn.to_owned(), None)
    }

    /// The connection string of its database.
    pub fn dsn(&self) -> &str {
        &self.dsn
    }

    fn of(dsn: String, database: Option<Database>) -> Self {
        Self::of_in(TempDir::new(), dsn, database)
    }

    fn of_in(dir: TempDir, dsn: String, database: Option<Database>) -> Self {
        let key = dir.write("sealing-key", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self { dsn, database, dir, for_control: Vec::new(), for_gateways: Vec::new() }
    }

    /// Starts `milecastle control`.
    pub fn control(&self, name: &str) -> Replica {
        self.control_at(name, free())
    }

    /// As [`Self::control`], with its DP manager on this address.
    pub fn control_at(&self, name: &str, dp_manager: SocketAddr) -> Replica {
        let settings = format!(
            "{}\ndashboard: {{ server: {{ listen: {{ host: 127.0.0.1, port: 0 }} }} }}\n\
             dp_manager: {{ server: {{ listen: {{ host: {}, port: {} }} }} }}\n",
            self.common(name),
            dp_manager.ip(),
            dp_manager.port()
        );
        self.replica("control", name, &settings, "the dashboard listens", dp_manager)
    }

    /// Starts `milecastle dashboard`.
    pub fn dashboard(&self, name: &str) -> Replica {
        self.dashboard_at(name, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "0s")
    }

    /// As [`Self::dashboard`], with these settings besides.
    pub fn dashboard_with(&self, name: &str, more: &str) -> Replica {
        let settings = format!("{}\nserver: {{ listen: {{ host: 127.0.0.1, port: 0 }} }}\n{more}\n", self.common(name));
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        self.replica("dashboard", name, &settings, "the dashboard listens", nowhere)
    }

    /// As [`Self::dashboard`], on this address, and serving on for `grace` after it was told to stop.
    pub fn dashboard_at(&self, name: &str, address: SocketAddr, grace: &str) -> Replica {
        let settings = format!(
            "{}\nserver: {{ listen: {{ host: 127.0.0.1, port: {} }} }}\n",
            self.ending(name, grace),
            address.port()
        );
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        self.replica("dashboard", name, &settings, "the dashboard listens", nowhere)
    }

    /// Starts `milecastle dp-manager`, to listen on this address.
    pub fn dp_manager(&self, name: &str, address: SocketAddr) -> Replica {
        self.dp_manager_at(name, address, "0s")
    }

    /// As [`Self::dp_manager`], serving on for `grace` after it was told to stop.
    pub fn dp_manager_at(&self, name: &str, address: SocketAddr, grace: &str) -> Replica {
        let settings = format!(
            "{}\nserver: {{ listen: {{ host: 127.0.0.1, port: {} }} }}\n\
             probes: {{ listen: {{ host: 127.0.0.1, port: 0 }} }}\n",
            self.ending(name, grace),
            address.port()
        );
        self.replica("dp-manager", name, &settings, "probes are answered", address)
    }

    /// The configuration file of a process.
    pub fn file(&self, name: &str) -> String {
        self.dir.path().join(format!("{name}.yaml")).display().to_string()
    }

    /// The settings that all roles of the control plane have in common.
    pub fn common(&self, name: &str) -> String {
        self.ending(name, "0s")
    }

    fn ending(&self, name: &str, grace: &str) -> String {
        format!(
            "sealing: {{ key_file: {} }}\nmembers: {{ name: {name}, heartbeat: 200ms, lost_after: 1s }}\n\
             shutdown: {{ grace: {grace} }}\ndatabase: {{ dsn: '{}', retry_min: 50ms, retry_max: 500ms }}",
            self.dir.path().join("sealing-key").display(),
            self.dsn
        )
    }

    fn replica(&self, role: &str, name: &str, settings: &str, says: &str, dp_manager: SocketAddr) -> Replica {
        let config = self.dir.write(&format!("{name}.yaml"), settings);
        let mut environment = vec![("MILECASTLE_ADMIN_KEY", ADMIN_KEY), ("MILECASTLE_LOG", "info")];
        environment.extend(&self.for_control);
        let args = [role, "-c", config.to_str().unwrap()];
        let mut process = Process::milecastle(&format!("{role} {name}"), &args, &environment);
        let http = process.wait_for_line(says, START, |line| address(line, says));
        Replica { process, http, dp_manager }
    }

    /// Starts `milecastle gateway`, which joins one of the DP managers with the token in the file `token`.
    pub fn gateway(&self, name: &str, dp_managers: &[SocketAddr]) -> Gateway {
        self.start_gateway(name, dp_managers, None)
    }

    /// As [`Self::gateway`], in a network of its own.
    pub fn gateway_in(&self, place: &Place<'_>, name: &str, dp_managers: &[SocketAddr]) -> Gateway {
        self.start_gateway(name, dp_managers, Some(place))
    }

    fn start_gateway(&self, name: &str, dp_managers: &[SocketAddr], place: Option<&Place<'_>>) -> Gateway {
        let ip = place.map_or(Ipv4Addr::LOCALHOST, |place| place.address);
        let (config, http) = self.gateway_file(name, dp_managers, ip);
        let mut command = match place {
            Some(place) => {
                let mut within = Command::new("ip");
                // It becomes the program, so that what is signalled and killed is the gateway.
                within.args(["netns", "exec", place.namespace]).arg(binary());
                within
            }
            None => Command::new(binary()),
        };
        command.args(["gateway", "-c"]).arg(config);
        self.run_gateway(name, command, http)
    }

    /// Starts a gateway anew, with the file that an earlier one of this name had.
    pub fn gateway_again(&self, name: &str, http: SocketAddr) -> Gateway {
        let mut command = Command::new(binary());
        command.args(["gateway", "-c"]).arg(self.file(name));
        self.run_gateway(name, command, http)
    }

    fn run_gateway(&self, name: &str, command: Command, http: SocketAddr) -> Gateway {
        let mut process = self.gateway_process(name, command);
        let says = "the status page is served";
        let status = process.wait_for_line(says, START, |line| address(line, says));
        Gateway { process, status, http }
    }

    /// Starts a gateway by this command, and does not wait for anything.
    pub fn gateway_process(&self, name: &str, mut command: Command) -> Process {
        command.env("MILECASTLE_LOG", "info").envs(self.for_gateways.iter().copied());
        Process::start(&format!("gateway {name}"), command)
    }

    /// Writes the configuration file of a gateway; gives its path, and where the gateway will serve HTTP.
    pub fn gateway_file(&self, name: &str, dp_managers: &[SocketAddr], ip: Ipv4Addr) -> (PathBuf, SocketAddr) {
        let endpoints: Vec<String> = dp_managers.iter().map(|address| format!("'https://{address}'")).collect();
        let http = SocketAddr::from((ip, free_port()));
        let settings = format!(
            "workers: 1\n\
             control_plane: {{ endpoints: [{}], group_token_file: {}, reconnect_max: 500ms, report_interval: 1s }}\n\
             state: {{ dir: {} }}\nshutdown: {{ grace: 0s }}\n\
             apisix:\n  node_listen: [{{ ip: {ip}, port: {} }}]\n  ssl: {{ enable: false }}\n\
             \x20 status: {{ ip: {ip}, port: 0 }}\n  enable_control: false\n\
             plugin_attr: {{ prometheus: {{ enable_export_server: false }} }}\n",
            endpoints.join(", "),
            self.dir.path().join("token").display(),
            self.dir.path().join(name).display(),
            http.port()
        );
        (self.dir.write(&format!("{name}.yaml"), settings), http)
    }

    /// Runs one of the operator's commands against a dashboard.
    pub fn operator(&self, dashboard: &Replica, args: &[&str]) -> Said {
        let server = format!("http://{}", dashboard.http);
        let environment = [("MILECASTLE_SERVER", server.as_str()), ("MILECASTLE_ADMIN_KEY", ADMIN_KEY)];
        Said::by(Command::new(binary()).args(args).envs(environment))
    }

    /// Mints a token for the group `default`, puts it where gateways look for it, and gives its id.
    pub fn token(&self, dashboard: &Replica) -> String {
        let token = self.mint(dashboard, "default");
        self.hand_out(&token);
        token.split('.').nth(2).unwrap().to_owned()
    }

    /// Mints a token for a group.
    pub fn mint(&self, dashboard: &Replica, group: &str) -> String {
        let said = self.operator(dashboard, &["token", "create", group]);
        assert_eq!(said.code, 0, "{}", said.text);
        said.line().to_owned()
    }

    /// Puts a token where gateways look for it, for its owner only.
    pub fn hand_out(&self, token: &str) {
        let path = self.dir.write("token", "");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(path, token).unwrap();
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Replica {
    /// GET, with the Admin key.
    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    /// Any call, with the Admin key.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let call = Call::new(method.parse().unwrap(), path).header("X-API-KEY", ADMIN_KEY);
        let call = call.body(body.map(Value::to_string).unwrap_or_default());
        call.to(self.http).await.unwrap()
    }

    /// Writes an object through the Admin API and expects it to be taken; `path` is what follows `/apisix/admin`.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        let answer = self.call("PUT", &format!("/apisix/admin{path}"), Some(body)).await;
        assert!(matches!(answer.status, 200 | 201), "PUT {path}: {} {}", answer.status, answer.text());
        answer
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        milecastle_testkit::eventually("it is ready", async || self.get("/readyz").await.status == 200).await;
    }

    /// Ends it as an operator would.
    pub fn stop(self) {
        self.process.stop(STOP);
    }
}

impl Gateway {
    /// Waits until it serves.
    pub async fn ready(&self) {
        milecastle_testkit::eventually("the node serves", async || self.status().await == 200).await;
    }

    /// The status of `/status`.
    pub async fn status(&self) -> u16 {
        Call::get("/status").to(self.status).await.unwrap().status
    }

    /// Waits until a request is answered with this status.
    pub async fn answers(&self, target: &str, status: u16) {
        milecastle_testkit::eventually(&format!("{target} is answered with {status}"), async || {
            Call::get(target).to(self.http).await.is_ok_and(|answer| answer.status == status)
        })
        .await;
    }

    /// Ends it as an operator would.
    pub fn stop(self) {
        self.process.stop(STOP);
    }
}

/// An address of the loopback that nobody has.
pub fn free() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

/// The address in a line of the log that says this.
fn address(line: &str, says: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(says)?;
    rest.split_once("address=")?.1.split_whitespace().next()?.parse().ok()
}
