//! Two replicas on one PostgreSQL, three gateways under load, and a policy by which one of them goes first.

use super::bad::{Bad, route, upstream};
use super::load::{Load, TARGET};
use milecastle_testkit::{Echo, SOON, eventually, wait_for};
use milecastle_tests::{Cluster, Gateway, Replica, free};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

pub(super) const ROLLOUT: &str = "/api/gateway_groups/default/rollout";

/// Requests by which a canary is judged.
pub(super) const JUDGED: u64 = 20;

/// Objects that bad changes are made to.
const OBJECTS: [&str; 2] = ["/routes/1", "/upstreams/1"];

/// How long it may take on a busy machine until a bad change is undone.
const LONG: Duration = Duration::from_secs(120);

pub(super) struct Site {
    pub(super) load: Load,
    pub(super) gateways: Vec<Gateway>,
    /// Which of them goes first.
    pub(super) canary: usize,
    replicas: Vec<Option<Replica>>,
    addresses: Vec<SocketAddr>,
    /// The node of its upstream, which lives.
    pub(super) upstream: String,
    /// The objects as they were at first.
    good: Vec<Value>,
    _echo: Echo,
    pub(super) cluster: Cluster,
}

impl Site {
    pub(super) async fn start() -> Self {
        let (mut cluster, echo) = (Cluster::new(), Echo::start());
        cluster.for_control.push(("MILECASTLE__DP_MANAGER__STREAM__NODE_REPORT_INTERVAL", "500ms"));
        cluster.for_control.push(("MILECASTLE__DP_MANAGER__STREAM__REPORT_INTERVAL", "250ms"));
        let addresses = vec![free(), free()];
        let mut replicas: Vec<_> =
            addresses.iter().enumerate().map(|(n, at)| cluster.control_at(&name(n), *at)).collect();
        for replica in &mut replicas {
            replica.process.announce("a rollout was taken back");
            replica.ready().await;
        }
        cluster.token(&replicas[0]);
        let node = echo.address().to_string();
        replicas[0].put("/upstreams/1", &upstream(&node, &json!({}))).await;
        replicas[0].put("/routes/1", &route(&json!({}))).await;
        let mut gateways = Vec::new();
        for n in 0..3 {
            gateways.push(cluster.gateway(&format!("g{n}"), &addresses));
        }
        for gateway in &gateways {
            gateway.ready().await;
            gateway.answers(TARGET, 200).await;
        }
        let load = Load::start(gateways.iter().map(|gateway| gateway.http));
        // What bad changes come to is said by the canary alone.
        for text in ["object in quarantine", "an upstream node gave no answer"] {
            gateways[0].process.announce(text);
        }
        let replicas = replicas.into_iter().map(Some).collect();
        let good = Vec::new();
        let mut site =
            Self { load, gateways, canary: 0, replicas, addresses, upstream: node, good, _echo: echo, cluster };
        site.good = site.objects().await;
        site.choose_canary().await;
        site
    }

    /// Has the first gateway go first.
    async fn choose_canary(&mut self) {
        let id = self.gateways[self.canary].process.log().iter().find_map(|line| {
            Some(line.split_once("node_id=")?.1.split_whitespace().next()?.trim_matches('"').to_owned())
        });
        // Times of a busy machine say nothing; what is slow here is much slower.
        let policy = json!({
            "strategy": "canary", "canaries": { "nodes": [id.unwrap()] }, "soak": "1h", "min_requests": JUDGED,
            "min_p99_rise": "1500ms",
        });
        let answer = self.control().call("PUT", ROLLOUT, Some(&policy)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// A replica that runs.
    pub(super) fn control(&self) -> &Replica {
        self.replicas.iter().flatten().next().unwrap()
    }

    /// Changes the policy.
    pub(super) async fn policy(&self, patch: &Value) {
        let answer = self.control().call("PATCH", ROLLOUT, Some(patch)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// The rollout as any replica shows it.
    pub(super) async fn state(&self) -> Value {
        self.control().get(ROLLOUT).await.json().unwrap()
    }

    /// Waits until no rollout is on.
    pub(super) async fn is_idle(&self) {
        wait_for("no rollout is on", LONG, async || (self.state().await["state"] == "idle").then_some(())).await;
    }

    /// Waits until the rollout that is on waits for this.
    pub(super) async fn waits_for(&self, what: &str) {
        wait_for(what, LONG, async || {
            let state = self.state().await;
            state["current"]["waits_for"].as_str().is_some_and(|why| why.contains(what)).then_some(())
        })
        .await;
    }

    /// Makes a bad change, and gives its revision.
    pub(super) async fn publish_bad(&self, bad: &Bad) -> u64 {
        let before = self.state().await["revision"].as_u64().unwrap();
        let answer = self.control().call(bad.method, &bad.path, bad.body.as_ref()).await;
        assert!(matches!(answer.status, 200 | 201), "{}: {} {}", bad.name, answer.status, answer.text());
        before + 1
    }

    /// Waits until canaries have this candidate, or it is over already.
    pub(super) async fn has_begun(&self, candidate: u64) {
        wait_for("canaries have it", LONG, async || {
            let state = self.state().await;
            let begun = state["state"] == "canary" && state["current"]["candidate"] == candidate;
            (begun || state["outcomes"][0]["candidate"] == candidate).then_some(())
        })
        .await;
    }

    /// The objects that bad changes are made to.
    async fn objects(&self) -> Vec<Value> {
        let mut objects = Vec::new();
        for path in OBJECTS {
            objects.push(self.control().get(&format!("/apisix/admin{path}")).await.json().unwrap()["value"].clone());
        }
        objects
    }

    /// Events of rollouts in this state, as soon as there are so many.
    pub(super) async fn told(&self, state: &str, times: usize) -> Vec<Value> {
        wait_for("they are told", SOON, async || {
            let (mut after, mut told) = (0, Vec::new());
            // A page looks through so many events of any kind.
            loop {
                let path = format!("/api/events?kind=rollout&limit=500&after={after}");
                let page = self.control().get(&path).await.json().unwrap();
                let next = page["next"].as_u64().unwrap();
                told.extend(page["list"].as_array().unwrap().iter().filter(|event| event["state"] == state).cloned());
                if std::mem::replace(&mut after, next) == next {
                    break;
                }
            }
            Some(told).filter(|told| told.len() >= times)
        })
        .await
    }

    /// Kills the canary.
    pub(super) fn kill_canary(&mut self) {
        self.gateways[self.canary].process.kill();
    }

    /// Starts it again.
    pub(super) async fn restart_canary(&mut self) {
        let http = self.gateways[self.canary].http;
        let gateway = self.cluster.gateway_again(&format!("g{}", self.canary), http);
        gateway.ready().await;
        self.gateways[self.canary] = gateway;
    }

    /// Waits until a candidate was taken back; gives the end of its rollout.
    pub(super) async fn taken_back(&self, candidate: u64) -> Value {
        let end = wait_for("the bad change is undone", LONG, async || {
            let newest = self.state().await["outcomes"][0].clone();
            (newest["candidate"] == candidate).then_some(newest)
        })
        .await;
        assert_eq!((&end["end"], &end["by"]), (&json!("rolled_back"), &json!("rollout")), "{end}");
        end
    }

    /// Waits until all nodes serve as before the bad change.
    pub(super) async fn is_as_before(&self) {
        self.is_idle().await;
        let receipt = self.control().get("/api/gateway_groups/default/revisions/head/receipt?wait=20s").await;
        assert_eq!(receipt.json().unwrap()["receipt"], "applied 3/3");
        for gateway in &self.gateways {
            gateway.answers(TARGET, 200).await;
        }
        assert_eq!(self.objects().await, self.good);
        assert_eq!(self.control().get("/apisix/admin/global_rules/1").await.status, 404);
        let settings = self.control().get("/api/gateway_groups/default/settings").await.json().unwrap();
        assert_eq!(settings["settings"], json!({}));
    }

    /// Kills the replica that leads, as soon as the canary was chosen.
    pub(super) async fn kill_leader(&mut self) {
        eventually("the canary is chosen", async || self.state().await["state"] == "canary").await;
        let leader = wait_for("one leads", SOON, async || {
            let members = self.control().get("/api/members").await.json().unwrap();
            let leads = |n: &usize| {
                members["list"].as_array().unwrap().iter().any(|one| one["name"] == name(*n) && one["leads"] == true)
            };
            (0..self.replicas.len()).find(leads)
        })
        .await;
        for gateway in &mut self.gateways {
            gateway.process.announce("configuration stream lost");
            gateway.process.announce("no configuration stream");
        }
        self.replicas[leader].take().unwrap().process.kill();
    }

    /// Starts it again.
    pub(super) async fn restart_the_killed(&mut self) {
        for (n, replica) in self.replicas.iter_mut().enumerate().filter(|(_, replica)| replica.is_none()) {
            let mut started = self.cluster.control_at(&name(n), self.addresses[n]);
            started.process.announce("a rollout was taken back");
            started.ready().await;
            *replica = Some(started);
        }
    }

    /// Ends it.
    pub(super) async fn stop(self) {
        let Self { load, gateways, replicas, .. } = self;
        drop(load);
        let ended = tokio::task::spawn_blocking(move || {
            gateways.into_iter().for_each(Gateway::stop);
            replicas.into_iter().flatten().for_each(Replica::stop);
        });
        ended.await.unwrap();
    }
}

fn name(n: usize) -> String {
    format!("c{n}")
}
