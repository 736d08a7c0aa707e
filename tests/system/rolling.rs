//! Replicas of the control plane that are told to stop: they say so first, and serve on for their grace. Behind HAProxy, which
//! asks `/readyz`, clients that never retry lose nothing.

use milecastle_testkit::{Call, Echo, Process, Target, eventually};
use milecastle_tests::{ADMIN_KEY, Cluster, Replica, free};
use serde_json::json;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const SIGTERM: i32 = 15;
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Longer than HAProxy takes to see that a dashboard stops, also on a busy machine.
const GRACE: &str = "3s";
const END: Duration = Duration::from_secs(60);

/// What all clients share.
struct Load {
    /// HAProxy.
    address: SocketAddr,
    answered: AtomicU64,
    over: AtomicBool,
}

impl Load {
    /// Sends requests until all is over, each on a connection of its own or all on one; gives what became of those that were
    /// not answered as they should.
    async fn client(self: Arc<Self>, number: usize, kept: bool) -> Vec<String> {
        let mut lost = Vec::new();
        let mut connection = None;
        let path = format!("/apisix/admin/upstreams/u{number}");
        for n in 0_u64.. {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            let call = match n % 4 {
                0 => Call::put_json(&path, &json!({ "nodes": {}, "desc": format!("{n}") })),
                _ => Call::get(&path),
            };
            let call = call.header("X-API-KEY", ADMIN_KEY);
            let mut open = match connection.take() {
                Some(open) => open,
                None => Target::plain(self.address).connect().await.unwrap(),
            };
            match call.send(&mut open).await {
                Ok(answer) if matches!(answer.status, 200 | 201) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    connection = Some(open).filter(|_| kept && answer.header("connection") != "close");
                }
                Ok(answer) => lost.push(format!("{} {}", answer.status, answer.text())),
                Err(error) => lost.push(format!("{error:#}")),
            }
        }
        lost
    }
}

fn haproxy(cluster: &Cluster, address: SocketAddr, dashboards: &[SocketAddr]) -> Process {
    // A check may take its time: on a machine that is busy, a dashboard that answers late is not one that is gone. What says so at once is a
    // 503, and a port where nobody listens.
    let servers: String = dashboards.iter().map(|d| format!("  server {} {d}\n", d.port())).collect();
    let config = format!(
        "global\n  maxconn 1000\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  timeout check 10s\n\
         \x20 retries 0\n\
         frontend all\n  bind {address}\n  default_backend dashboards\n\
         backend dashboards\n  balance roundrobin\n  option httpchk GET /readyz\n  http-check expect status 200\n\
         \x20 default-server check inter 100ms fall 2 rise 1\n{servers}"
    );
    let path = cluster.dir.write("haproxy.cfg", &config);
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f", path.to_str().unwrap()]);
    Process::start("haproxy", command)
}

/// Waits until the load balancer sends it requests.
async fn is_used(dashboard: &Replica) {
    eventually("the load balancer uses it", async || {
        let page = dashboard.get("/metrics").await.text();
        page.contains("admin_requests_total{method=\"PUT\",status=\"200\"}")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboards_restart_one_after_the_other_and_lose_no_request() {
    let (cluster, address, addresses) = (Cluster::new(), free(), [free(), free()]);
    let mut dashboards = Vec::new();
    for (name, address) in ["d1", "d2"].into_iter().zip(addresses) {
        let dashboard = cluster.dashboard_at(name, address, GRACE);
        dashboard.ready().await;
        dashboards.push(dashboard);
    }
    let _balancer = haproxy(&cluster, address, &addresses);
    eventually("the load balancer answers", async || {
        let asked = Call::get("/readyz").to(address).await;
        asked.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    for number in 0..2 * CLIENTS {
        let made = dashboards[0].put(&format!("/upstreams/u{number}"), &json!({ "nodes": {} })).await;
        assert_eq!(made.status, 201);
    }
    let last = format!("/apisix/admin/upstreams/u{}", 2 * CLIENTS - 1);
    eventually("both know what was made", async || dashboards[1].get(&last).await.status == 200).await;
    let load = Arc::new(Load { address, answered: AtomicU64::new(0), over: AtomicBool::new(false) });
    let clients: Vec<_> = (0..2 * CLIENTS).map(|n| tokio::spawn(load.clone().client(n, n % 2 == 0))).collect();
    for (name, address) in ["d1", "d2"].into_iter().zip(addresses) {
        for dashboard in &dashboards {
            is_used(dashboard).await;
        }
        let mut leaving = dashboards.remove(0);
        leaving.process.signal(SIGTERM);
        eventually("it says that it stops", async || {
            let ready = leaving.get("/readyz").await;
            ready.status == 503 && ready.text().contains("about to stop")
        })
        .await;
        // Asked by those who do not look at `/readyz`, it serves on, and says that the connection ends.
        let answer = leaving.get("/apisix/admin/routes").await;
        assert_eq!((answer.status, answer.header("connection")), (200, "close".to_owned()));
        let stopped = tokio::task::spawn_blocking(move || leaving.process.wait_for_end(END)).await.unwrap();
        assert!(stopped.success(), "{stopped}");
        let again = cluster.dashboard_at(name, address, GRACE);
        again.ready().await;
        dashboards.push(again);
    }
    is_used(&dashboards[1]).await;
    load.over.store(true, Ordering::Relaxed);
    let mut lost = Vec::new();
    for client in clients {
        lost.append(&mut client.await.unwrap());
    }
    let answered = load.answered.load(Ordering::Relaxed);
    eprintln!("two dashboards restarted under {answered} requests, {} lost", lost.len());
    assert!(lost.is_empty() && answered > 100, "{answered} answered, lost: {lost:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dp_manager_that_stops_keeps_its_nodes_to_the_end_of_its_grace() {
    let (cluster, echo, address) = (Cluster::new(), Echo::start(), free());
    let dashboard = cluster.dashboard("d1");
    dashboard.ready().await;
    cluster.token(&dashboard);
    let mut stopping = cluster.dp_manager_at("m1", address, "8s");
    let gateway = cluster.gateway("g1", &[address]);
    let route =
        |id: u32| json!({ "uri": format!("/{id}"), "upstream": { "nodes": { echo.address().to_string(): 1 } } });
    dashboard.put("/routes/1", &route(1)).await;
    gateway.answers("/1", 200).await;
    stopping.process.signal(SIGTERM);
    eventually("it says that it stops", async || stopping.get("/readyz").await.status == 503).await;
    let answer = dashboard.put("/routes/2?wait=20s", &route(2)).await;
    assert_eq!(answer.header("milecastle-receipt"), "applied 1/1");
    gateway.answers("/2", 200).await;
    // At the end of its grace it says goodbye.
    let stopped = tokio::task::spawn_blocking(move || stopping.process.wait_for_end(END)).await.unwrap();
    assert!(stopped.success(), "{stopped}");
    let log = gateway.process.log();
    assert!(log.iter().any(|line| line.contains("the DP manager sends this node away")), "{log:#?}");
    gateway.answers("/2", 200).await;
}
