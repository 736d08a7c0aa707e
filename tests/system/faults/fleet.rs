//! Two dashboards, two DP managers, gateways in two groups, and load balancers in front of all of them.

use super::balancer::{Balancer, Server};
use milecastle_testkit::history::Journal;
use milecastle_testkit::postgres::Cluster as Postgres;
use milecastle_testkit::{Call, Echo, Process, TempDir, wait_for};
use milecastle_tests::{ADMIN_KEY, Cluster, free};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;
/// The longest that a process may take to get ready or to end, on a busy machine.
const END: Duration = Duration::from_secs(60);

/// The groups and how many gateways they have. The smaller one has two: with one, whoever restarts it closes the group.
pub(super) const GROUPS: [(&str, usize); 2] = [("prod", 3), ("test", 2)];

/// A process that is started, killed and ended again and again with the same configuration.
pub(super) struct Part {
    /// How logs call it.
    pub(super) name: String,
    role: &'static str,
    config: PathBuf,
    /// Where it serves what it is there for.
    pub(super) address: SocketAddr,
    /// Where it says whether it is ready.
    probe: SocketAddr,
    probe_path: &'static str,
    process: Option<Process>,
    /// What its processes before the present one wrote.
    logs: Vec<Vec<String>>,
    /// Odd while it is being killed or started: then nobody knows which process answers.
    life: Arc<AtomicU64>,
}

impl Part {
    /// Starts it, and does not wait until it is ready.
    pub(super) fn start(&mut self) {
        let args = [self.role, "-c", self.config.to_str().unwrap()];
        let environment = [("MILECASTLE_ADMIN_KEY", ADMIN_KEY), ("MILECASTLE_LOG", "info")];
        assert!(self.process.is_none(), "{} runs already", self.name);
        self.process = Some(Process::milecastle(&self.name, &args, &environment));
        self.life.fetch_add(1, Ordering::SeqCst);
    }

    /// Kills it at once.
    pub(super) fn kill(&mut self) {
        self.life.fetch_add(1, Ordering::SeqCst);
        let mut process = self.process.take().expect("it runs");
        process.kill();
        self.logs.push(process.log());
    }

    /// Stops it in the middle of whatever it does, or lets it go on.
    pub(super) fn freeze(&mut self, frozen: bool) {
        self.process.as_mut().expect("it runs").signal(if frozen { SIGSTOP } else { SIGCONT });
    }

    /// Tells it to end, and waits for that.
    pub(super) async fn stop(&mut self) {
        self.tell_to_end();
        self.ended().await;
    }

    /// Tells it to end.
    pub(super) fn tell_to_end(&mut self) {
        self.process.as_mut().expect("it runs").signal(SIGTERM);
    }

    /// Waits until it has ended, as it was told.
    pub(super) async fn ended(&mut self) {
        let mut process = self.process.take().expect("it ran");
        wait_for(&format!("the end of {}", self.name), END, async || (!process.is_running()).then_some(())).await;
        self.life.fetch_add(1, Ordering::SeqCst);
        let status = process.wait_for_end(END);
        self.logs.push(process.log());
        assert!(status.success(), "{} ended with {status}", self.name);
    }

    /// The revisions that each of its processes put in force.
    fn journals(&self) -> Vec<Journal> {
        let present = self.process.as_ref().map(Process::log);
        let journal = |log: &Vec<String>| {
            let revisions = log.iter().filter_map(|line| revision_in_force(line)).collect();
            Journal { node: self.name.clone(), revisions }
        };
        self.logs.iter().chain(&present).map(journal).collect()
    }

    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Waits until its probe says that it is ready.
    pub(super) async fn ready(&self) {
        wait_for(&format!("{} is ready", self.name), END, async || {
            let asked = Call::get(self.probe_path).within(Duration::from_secs(2)).to(self.probe).await;
            asked.is_ok_and(|answer| answer.status == 200).then_some(())
        })
        .await;
    }
}

/// A gateway node.
pub(super) struct Node {
    pub(super) part: Part,
    /// The id that the control plane gave it.
    pub(super) id: String,
    pub(super) group: &'static str,
}

impl Node {
    /// For those that look at it from elsewhere.
    pub(super) fn view(&self) -> NodeView {
        NodeView {
            name: self.part.name.clone(),
            id: self.id.clone(),
            group: self.group,
            address: self.part.address,
            life: self.part.life.clone(),
        }
    }
}

/// What others need to look at a node.
#[derive(Clone)]
pub(super) struct NodeView {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) group: &'static str,
    pub(super) address: SocketAddr,
    life: Arc<AtomicU64>,
}

impl NodeView {
    /// Which of its processes answers; `None` while it is being replaced.
    pub(super) fn process(&self) -> Option<u64> {
        Some(self.life.load(Ordering::SeqCst)).filter(|life| life.is_multiple_of(2))
    }
}

/// All of it. The parts end with this value, the database last.
pub(super) struct Fleet {
    pub(super) dashboards: Vec<Part>,
    pub(super) dp_managers: Vec<Part>,
    pub(super) nodes: Vec<Node>,
    pub(super) balancers: Vec<Balancer>,
    pub(super) echo: Echo,
    pub(super) cluster: Cluster,
    pub(super) postgres: Postgres,
}

impl Fleet {
    /// Starts everything, load balancers included, and waits until it is ready. Gateways of group `prod` reach the DP managers
    /// over the load balancer, those of `test` know them all by themselves.
    pub(super) async fn start() -> Self {
        let mut fleet = Self::control_plane(2).await;
        let places: Vec<_> = GROUPS.iter().map(|(group, count)| (*group, places(*count))).collect();
        for (group, places) in &places {
            let mut backends = vec![("gateways", places.iter().map(Place::server).collect())];
            if *group == "prod" {
                backends.push(("dashboards", fleet.dashboards.iter().map(Part::server).collect()));
                backends.push(("dp_managers", fleet.dp_managers.iter().map(Part::server).collect()));
            }
            fleet.balancers.push(Balancer::start(&fleet.cluster.dir, &format!("haproxy-{group}"), &backends));
        }
        let through = vec![fleet.entrance("dp_manager")];
        let direct: Vec<SocketAddr> = fleet.dp_managers.iter().map(|part| part.address).collect();
        for (group, places) in places {
            let endpoints = if group == "prod" { &through } else { &direct };
            fleet.join(group, places, endpoints).await;
        }
        fleet
    }

    /// The same without load balancers.
    pub(super) async fn start_bare() -> Self {
        Self::start_replicas(2, &GROUPS).await
    }

    /// As many dashboards and DP managers, and the gateways of these groups.
    pub(super) async fn start_replicas(count: usize, groups: &[(&'static str, usize)]) -> Self {
        let mut fleet = Self::control_plane(count).await;
        let direct: Vec<SocketAddr> = fleet.dp_managers.iter().map(|part| part.address).collect();
        for (group, count) in groups {
            fleet.join(group, places(*count), &direct).await;
        }
        fleet
    }

    /// Database, as many dashboards and DP managers, with the groups.
    async fn control_plane(replicas: usize) -> Self {
        let postgres = Postgres::start().unwrap();
        let cluster = Cluster::on(&postgres);
        let mut parts = Vec::new();
        for n in 1..=replicas {
            let (name, address) = (format!("dashboard-{n}"), free());
            let settings = format!(
                "{}\nserver: {{ listen: {{ host: 127.0.0.1, port: {} }} }}\n",
                cluster.common(&name),
                address.port()
            );
            parts.push(Part::of(&cluster.dir, name, "dashboard", &settings, address, address, "/readyz"));
        }
        for n in 1..=replicas {
            let (name, address, probe) = (format!("dp-manager-{n}"), free(), free());
            let settings = format!(
                "{}\nserver: {{ listen: {{ host: 127.0.0.1, port: {} }} }}\n\
                 probes: {{ listen: {{ host: 127.0.0.1, port: {} }} }}\n",
                cluster.common(&name),
                address.port(),
                probe.port()
            );
            parts.push(Part::of(&cluster.dir, name, "dp-manager", &settings, address, probe, "/readyz"));
        }
        for part in &mut parts {
            part.start();
        }
        for part in &parts {
            part.ready().await;
        }
        let dp_managers = parts.split_off(replicas);
        let fleet = Self {
            dashboards: parts,
            dp_managers,
            nodes: vec![],
            balancers: vec![],
            echo: Echo::start(),
            cluster,
            postgres,
        };
        for (group, _) in GROUPS {
            fleet.api("POST", "/api/gateway_groups", &json!({ "id": group, "name": group })).await;
        }
        fleet
    }

    /// Starts the gateways of a group, which join one after the other.
    async fn join(&mut self, group: &'static str, places: Vec<Place>, dp_managers: &[SocketAddr]) {
        let token = self.token(group).await;
        let token_file = self.cluster.dir.write(&format!("token-{group}"), "");
        std::fs::set_permissions(&token_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&token_file, token).unwrap();
        let endpoints: Vec<String> = dp_managers.iter().map(|address| format!("'https://{address}'")).collect();
        for (n, Place { http, status }) in places.into_iter().enumerate() {
            let name = format!("{group}-{}", n + 1);
            let dir = self.cluster.dir.path().join(&name);
            let settings = format!(
                "workers: 1\ncontrol_plane: {{ endpoints: [{}], group_token_file: {} }}\nstate: {{ dir: {} }}\n\
                 apisix:\n  node_listen: [{{ ip: 127.0.0.1, port: {} }}]\n  ssl: {{ enable: false }}\n\
                 \x20 status: {{ ip: 127.0.0.1, port: {} }}\n  enable_control: false\n\
                 plugin_attr: {{ prometheus: {{ enable_export_server: false }} }}\n",
                endpoints.join(", "),
                token_file.display(),
                dir.display(),
                http.port(),
                status.port()
            );
            let mut part = Part::of(&self.cluster.dir, name, "gateway", &settings, http, status, "/status");
            part.start();
            part.ready().await;
            // The one that was not there before.
            let known = |id: &str| self.nodes.iter().any(|node| node.id == id);
            let id = wait_for("the node is listed", END, async || {
                let all = listed(self.dashboards[0].address, group).await?;
                let new = all.iter().find_map(|node| node["id"].as_str().filter(|id| !known(id)));
                new.map(str::to_owned)
            })
            .await;
            self.nodes.push(Node { part, id, group });
        }
    }

    /// A token to join a group with.
    pub(super) async fn token(&self, group: &str) -> String {
        let made = self.api("POST", &format!("/api/gateway_groups/{group}/tokens"), &json!({ "name": group })).await;
        made["token"].as_str().unwrap().to_owned()
    }

    /// Where a frontend of the load balancer listens.
    pub(super) fn entrance(&self, frontend: &str) -> SocketAddr {
        self.balancers.first().expect("there is one").frontend(frontend)
    }

    /// A call to the first dashboard that must not fail.
    pub(super) async fn api(&self, method: &str, path: &str, body: &Value) -> Value {
        let call = Call::new(method.parse().unwrap(), path).header("X-API-KEY", ADMIN_KEY).body(body.to_string());
        let answer = call.to(self.dashboards[0].address).await.unwrap();
        assert!(matches!(answer.status, 200 | 201), "{method} {path}: {} {}", answer.status, answer.text());
        answer.json().unwrap()
    }

    /// All processes that have a probe.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.dashboards.iter().chain(&self.dp_managers).chain(self.nodes.iter().map(|node| &node.part))
    }

    /// Waits until every one of them is ready.
    pub(super) async fn all_ready(&self) {
        for part in self.parts() {
            part.ready().await;
        }
    }

    /// The revisions that each process of a group's nodes put in force.
    pub(super) fn journals(&self, group: &str) -> Vec<Journal> {
        self.nodes.iter().filter(|node| node.group == group).flat_map(|node| node.part.journals()).collect()
    }

    /// Waits until every dashboard says that all nodes of a group have acknowledged its head, and gives that with its digest.
    pub(super) async fn settled(&self, group: &str) -> (u64, String) {
        wait_for(&format!("all of group {group} is known to be at its head"), END, async || {
            let mut places = BTreeSet::new();
            for dashboard in &self.dashboards {
                for node in listed(dashboard.address, group).await? {
                    let (head, revision) = (node["head"].as_u64()?, node["revision"].as_u64()?);
                    places.insert((revision, node["digest"].as_str()?.to_owned()));
                    if head != revision || node["connected"] != true {
                        return None;
                    }
                }
            }
            places.pop_first().filter(|_| places.is_empty())
        })
        .await
    }
}

/// A group's nodes as a dashboard lists them, if it does.
pub(super) async fn listed(dashboard: SocketAddr, group: &str) -> Option<Vec<Value>> {
    let path = format!("/api/gateway_groups/{group}/nodes");
    let answer = Call::get(&path).header("X-API-KEY", ADMIN_KEY).to(dashboard).await.ok()?;
    answer.json().ok()?["list"].as_array().cloned()
}

/// The revision that a gateway's log line says to be in force now.
fn revision_in_force(line: &str) -> Option<u64> {
    let says = ["configuration in force", "starting with the last good configuration"];
    let (_, rest) = says.iter().find_map(|says| line.split_once(says))?;
    rest.split_once("revision=")?.1.split_whitespace().next()?.parse().ok()
}

/// The ports of a gateway.
struct Place {
    http: SocketAddr,
    status: SocketAddr,
}

impl Place {
    fn server(&self) -> Server {
        Server { address: self.http, probe: self.status }
    }
}

fn places(count: usize) -> Vec<Place> {
    (0..count).map(|_| Place { http: free(), status: free() }).collect()
}

impl Part {
    fn of(
        dir: &TempDir,
        name: String,
        role: &'static str,
        settings: &str,
        address: SocketAddr,
        probe: SocketAddr,
        probe_path: &'static str,
    ) -> Self {
        let config = dir.write(&format!("{name}.yaml"), settings);
        // Not started yet.
        let life = Arc::new(AtomicU64::new(1));
        Self { name, role, config, address, probe, probe_path, process: None, logs: Vec::new(), life }
    }

    fn server(&self) -> Server {
        Server { address: self.address, probe: self.probe }
    }
}
