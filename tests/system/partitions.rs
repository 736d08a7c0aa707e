//! A gateway whose packets to the control plane get lost on their way. Nothing is refused and nothing is closed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use milecastle_testkit::{Call, Echo, Target, eventually, free_port, wait_for};
use milecastle_tests::{Cluster, Gateway, Network, Replica, full};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// How long a gateway may need to find its way; more than anything that it waits for.
const LONG: Duration = Duration::from_secs(60);

/// The thresholds that the long form has by default, and others that make the short form short.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    if !full() {
        cluster.for_control.push(("MILECASTLE__DP_MANAGER__STREAM__SILENCE", "4s"));
        cluster.for_control.push(("MILECASTLE__DP_MANAGER__STREAM__NODE_REPORT_INTERVAL", "1s"));
        cluster.for_gateways.push(("MILECASTLE__CONTROL_PLANE__SILENCE", "3s"));
    }
    cluster
}

fn expect_losses(gateway: &mut Gateway) {
    gateway.process.announce("configuration stream lost");
    gateway.process.announce("no configuration stream");
}

async fn node(replica: &Replica) -> Value {
    replica.get("/api/nodes").await.json().unwrap()["list"][0].clone()
}

/// Requests over one connection, until it is aborted; a failure is a panic. They leave the machine room for the control plane.
fn requests(to: SocketAddr) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut connection = Target::plain(to).connect().await.unwrap();
        let mut pace = tokio::time::interval(Duration::from_millis(2));
        loop {
            pace.tick().await;
            assert_eq!(Call::get("/served").send(&mut connection).await.unwrap().status, 200);
        }
    })
}

/// Ends them; tells whether any failed.
async fn all_answered(requests: JoinHandle<()>) {
    requests.abort();
    assert!(requests.await.unwrap_err().is_cancelled(), "a request failed");
}

fn route(network: &Network, echo: &Echo, uri: &str) -> Value {
    let upstream = SocketAddr::from((network.upstream(), echo.port()));
    json!({ "uri": uri, "upstream": { "nodes": { upstream.to_string(): 1 } } })
}

/// Waits until the gateway serves the route, and gives the time that took.
async fn served(gateway: &Gateway, uri: &str) -> Duration {
    let from = Instant::now();
    wait_for(&format!("{uri} is served"), LONG, async || {
        Call::get(uri).to(gateway.http).await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    from.elapsed()
}

async fn state(replica: &Replica, state: &str) {
    wait_for(&format!("the node is shown as {state}"), LONG, async || {
        (node(replica).await["state"] == state).then_some(())
    })
    .await;
}

fn listens(at: Ipv4Addr) -> SocketAddr {
    (at, free_port()).into()
}

#[tokio::test]
async fn a_gateway_that_is_cut_off_serves_on_and_is_soon_up_to_date_again() {
    let Some(network) = Network::new() else { return };
    let cluster = cluster();
    let echo = Echo::on("up", listens(network.upstream()));
    let mut control = cluster.control_at("one", listens(network.replica(1)));
    control.process.announce("cannot accept");
    control.ready().await;
    cluster.token(&control);
    let mut gateway = cluster.gateway_in(&network.place(), "g1", &[control.dp_manager]);
    expect_losses(&mut gateway);
    gateway.ready().await;
    let answer = control.put("/routes/served?wait=20s", &route(&network, &echo, "/served")).await;
    assert_eq!(answer.header("milecastle-receipt"), "applied 1/1");

    // Shorter than any silence that is noticed, and longer than TCP's first tries.
    for (n, seconds) in [2_u64, 5].into_iter().filter(|seconds| full() || *seconds < 3).enumerate() {
        network.cut(network.replica(1));
        let uri = format!("/short-{n}");
        control.put(&format!("/routes/short-{n}"), &route(&network, &echo, &uri)).await;
        let requests = requests(gateway.http);
        // It lasts that long; what is looked at are the requests meanwhile.
        timeout(Duration::from_secs(seconds), std::future::pending::<()>()).await.unwrap_err();
        all_answered(requests).await;
        network.mend(network.replica(1));
        eprintln!("after {seconds} s without the control plane: up to date within {:?}", served(&gateway, &uri).await);
    }

    let requests = requests(gateway.http);
    let cut = Instant::now();
    network.cut(network.replica(1));
    control.put("/routes/missed", &route(&network, &echo, "/missed")).await;
    state(&control, "late").await;
    eprintln!("shown as late {:?} after the cut", cut.elapsed());
    state(&control, "lost").await;
    eprintln!("shown as lost {:?} after the cut", cut.elapsed());
    let noticed = |line: &str| line.contains("configuration stream lost").then_some(());
    gateway.process.wait_for_line("that its stream is lost", LONG, noticed);
    if full() {
        let rest = Duration::from_secs(30).saturating_sub(cut.elapsed());
        timeout(rest, std::future::pending::<()>()).await.unwrap_err();
    }
    all_answered(requests).await;
    assert_eq!(Call::get("/missed").to(gateway.http).await.unwrap().status, 404);
    network.mend(network.replica(1));
    let (lasted, took) = (cut.elapsed(), served(&gateway, "/missed").await);
    eprintln!("after {lasted:?} without the control plane: up to date within {took:?} (2 s are the goal)");
    state(&control, "healthy").await;
    tokio::task::spawn_blocking(move || (gateway.stop(), control.stop())).await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_is_cut_off_from_one_replica_moves_to_the_other() {
    let Some(network) = Network::new() else { return };
    let cluster = cluster();
    let echo = Echo::on("up", listens(network.upstream()));
    let [one, two] = [1, 2].map(|n| cluster.control_at(&format!("c{n}"), listens(network.replica(n))));
    one.ready().await;
    two.ready().await;
    cluster.token(&one);
    let mut gateway = cluster.gateway_in(&network.place(), "g1", &[one.dp_manager, two.dp_manager]);
    expect_losses(&mut gateway);
    gateway.ready().await;
    one.put("/routes/served?wait=20s", &route(&network, &echo, "/served")).await;
    served(&gateway, "/served").await;
    let requests = requests(gateway.http);
    for round in 0..2 {
        // Whichever it is at: only that one knows the address of its stream.
        let from = [&one, &two].map(async |replica| node(replica).await["address"].is_string());
        let [at_one, at_two] = from;
        let (at_one, at_two) = (at_one.await, at_two.await);
        assert!(at_one || at_two, "it is connected");
        let (left, other) = if at_one { (&one, &two) } else { (&two, &one) };
        let IpAddr::V4(address) = left.dp_manager.ip() else { unreachable!("of the network") };
        network.cut(address);
        let cut = Instant::now();
        let uri = format!("/round-{round}");
        left.put(&format!("/routes/round-{round}"), &route(&network, &echo, &uri)).await;
        served(&gateway, &uri).await;
        eprintln!("cut off from one of two replicas: up to date {:?} later", cut.elapsed());
        eventually("it is at the other one", async || node(other).await["address"].is_string()).await;
        state(left, "healthy").await;
        network.mend(address);
    }
    all_answered(requests).await;
    tokio::task::spawn_blocking(move || (gateway.stop(), one.stop(), two.stop())).await.unwrap();
}
