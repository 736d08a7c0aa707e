//! Many nodes that join, with good tokens and bad ones, while a DP manager is killed and comes back.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milecastle_testkit::Echo;
use milecastle_testkit::node::{Member, Token};
use milecastle_tests::{Cluster, Replica, free, full};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Code;

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(120);
/// What so many joins may cost a DP manager of memory.
const FLOOD_BYTES: u64 = 300 << 20;
/// Until a node that was sent away comes again.
const PAUSE: Duration = Duration::from_millis(250);
/// Joins at a time.
const AT_ONCE: usize = 64;

/// What becomes of an attempt to join.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Joins,
    Refused,
}

/// Joins, and tries again where that may help, as nodes do. Gives the id if it joined.
async fn join(at: [SocketAddr; 2], mut turn: usize, token: Token, id: String) -> Result<String, Code> {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < LONG, "{id} gets no answer");
        turn += 1;
        match Member::join(at[turn % 2], &token, &id).await {
            Ok(member) => return Ok(member.id().to_owned()),
            Err(status) => match status.code() {
                // Too many at once, or the DP manager is gone, perhaps in the middle of the answer.
                Code::ResourceExhausted | Code::Unavailable | Code::Unknown | Code::Cancelled => sleep(PAUSE).await,
                code => return Err(code),
            },
        }
    }
}

async fn nodes(control: &Replica) -> BTreeSet<String> {
    let list: Value = control.get("/api/gateway_groups/default/nodes").await.json().unwrap();
    list["list"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_join_and_each_is_known_once() {
    let count = if full() { 10_000 } else { 400 };
    let cluster = Cluster::new();
    let dashboard = cluster.dashboard("d");
    let managers = ["m1", "m2"].map(|name| cluster.dp_manager(name, free()));
    dashboard.ready().await;
    for manager in &managers {
        manager.ready().await;
    }
    let addresses = [managers[0].dp_manager, managers[1].dp_manager];
    let [mut one, mut two] = managers;
    let tokens: Vec<String> = (0..4).map(|_| cluster.mint(&dashboard, "default")).collect();
    let revoked = cluster.mint(&dashboard, "default");
    let said = cluster.operator(&dashboard, &["token", "revoke", revoked.split('.').nth(2).unwrap()]);
    assert_eq!(said.code, 0, "{}", said.text);
    cluster.hand_out(&tokens[0]);
    let (gateway, echo) = (cluster.gateway("bystander", &addresses), Echo::start());
    gateway.ready().await;
    let memory = [&one, &two].map(|manager| manager.process.resident_bytes()).into_iter().max().unwrap();

    let (begun, at_once, mut joining) = (Instant::now(), Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for n in 0..count {
        // Every seventh is turned away. Half of the others take one token. Of ten, one comes twice, at both DP managers at once.
        let fate = if n % 7 == 6 { Fate::Refused } else { Fate::Joins };
        let token = match fate {
            Fate::Refused => &revoked,
            Fate::Joins if n % 2 == 0 => &tokens[0],
            Fate::Joins => &tokens[n % tokens.len()],
        };
        let (token, at_once): (Token, _) = (token.parse().unwrap(), at_once.clone());
        joining.spawn(async move {
            let _turn = at_once.acquire().await.unwrap();
            let id = format!("node-{:05}", n - usize::from(n % 10 == 9));
            match (fate, join(addresses, n, token, id.clone()).await) {
                (Fate::Joins, joined) => Some(joined.expect("a good token is taken")).filter(|got| *got == id),
                (Fate::Refused, refused) => {
                    assert_eq!(refused, Err(Code::Unauthenticated), "the token was revoked");
                    None
                }
            }
        });
    }
    let mut joined = BTreeSet::new();
    let (mut answered, mut killed) = (0, false);
    while let Some(id) = joining.join_next().await {
        joined.extend(id.unwrap());
        answered += 1;
        if !killed && answered > count / 3 {
            killed = true;
            one.process.kill();
            one = cluster.dp_manager("m1-again", addresses[0]);
        }
        if answered % (count / 4) == 0 {
            let uri = format!("/{answered}");
            let upstream = json!({ "nodes": { echo.address().to_string(): 1 } });
            dashboard.put(&format!("/routes/{answered}"), &json!({ "uri": uri, "upstream": upstream })).await;
            gateway.answers(&uri, 200).await;
        }
    }
    eprintln!("{} nodes by {count} joins within {:.0?}", joined.len(), begun.elapsed());
    let listed = nodes(&dashboard).await;
    let known: BTreeSet<String> = listed.iter().filter(|id| id.starts_with("node-")).cloned().collect();
    assert_eq!(known, joined);
    assert_eq!(listed.len(), joined.len() + 1, "the bystander is the only other one");
    for manager in [&mut one, &mut two] {
        let now = manager.process.resident_bytes();
        eprintln!("{} MiB of memory, {} MiB in the beginning", now >> 20, memory >> 20);
        assert!(now < memory + FLOOD_BYTES, "{now} bytes of memory");
        manager.process.announce("configuration stream");
    }
    let mut gateway = gateway;
    gateway.process.announce("configuration stream");
    tokio::task::spawn_blocking(move || (gateway.stop(), one.stop(), two.stop(), dashboard.stop())).await.unwrap();
}
