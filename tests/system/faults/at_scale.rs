//! Three replicas of the control plane that are killed and come back at random, many nodes, and steady writes.

use super::fleet::{Fleet, listed};
use super::record::{Watch, history};
use super::writer::{Desk, Writer};
use super::{ALONE, either, full};
use fastrand::Rng;
use milecastle_testkit::history::{Outcome, Sight, Sighting, Span, Write};
use milecastle_testkit::node::Follower;
use milecastle_testkit::wait_for;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep};

const GROUP: &str = "prod";
const GATEWAYS: usize = 3;
const REPLICAS: usize = 3;

/// The longest that nodes may take after the last kill until they have all that was written. The short form runs beside other tests:
/// there it only ends the waiting.
const CONVERGED: Duration = Duration::from_secs(30);
const CONVERGED_OF_THE_LONG_FORM: Duration = Duration::from_secs(2);

/// Writes a second that the long form makes at least, of the 48 that its writers ask for.
const RATE: f64 = 45.0;

/// The longest time between two strikes.
const AWAY: Duration = Duration::from_secs(3);

/// How often it is noted where the nodes are.
const LOOK: Duration = Duration::from_millis(50);

/// How much of everything there is.
struct Size {
    /// Nodes beside the gateways, which carry no traffic.
    nodes: usize,
    /// Writers that do not wait for receipts, and their pace.
    writers: (usize, Duration),
    /// Writes that are counted in statements of the database.
    counted: usize,
}

fn size() -> Size {
    if full() {
        Size { nodes: 200, writers: (8, Duration::from_millis(200)), counted: 300 }
    } else {
        Size { nodes: 30, writers: (4, Duration::from_millis(250)), counted: 40 }
    }
}

/// Notes what the nodes have in force, from now on.
struct Looking {
    over: Arc<AtomicBool>,
    task: JoinHandle<(Vec<Sighting>, Vec<Follower>)>,
}

impl Looking {
    fn start(start: Instant, nodes: Vec<Follower>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(look(start, nodes, over.clone()));
        Self { over, task }
    }

    /// Ends it; gives what was noted, and the nodes.
    async fn end(self) -> (Vec<Sighting>, Vec<Follower>) {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn look(start: Instant, nodes: Vec<Follower>, over: Arc<AtomicBool>) -> (Vec<Sighting>, Vec<Follower>) {
    let (mut seen, mut tick, mut last) = (Vec::new(), interval(LOOK), vec![None; nodes.len()]);
    let mut ended = false;
    while !ended {
        // One more look after the end, which sees where they came to rest.
        ended = over.load(Ordering::Relaxed);
        tick.tick().await;
        for (n, (node, last)) in nodes.iter().zip(&mut last).enumerate() {
            let at = start.elapsed();
            let Some((revision, digest)) = node.seen().position.filter(|position| Some(*position) != *last) else {
                continue;
            };
            *last = Some((revision, digest));
            let sight = Sight::Acknowledged(revision, digest.to_string());
            seen.push(Sighting { node: name(n), process: 0, span: Span { begun: at, ended: at }, sight });
        }
    }
    (seen, nodes)
}

fn name(n: usize) -> String {
    format!("silent-{n:03}")
}

/// Statements of the database for each of so many writes: without those that are made in as much time when nobody writes, which say
/// more of how long the writes took than of what they ask for.
async fn statements_of_a_write(fleet: &Fleet, writer: &mut Writer, writes: usize) -> f64 {
    let (resting, rest) = (Instant::now(), either(Duration::from_secs(2), Duration::from_secs(15)));
    let before = fleet.postgres.statements().unwrap();
    sleep(rest).await;
    let begun = fleet.postgres.statements().unwrap();
    let at_rest = (begun - before) as f64 / resting.elapsed().as_secs_f64();
    let (writing, mut pace) = (Instant::now(), interval(Duration::from_millis(20)));
    for n in 0..writes {
        pace.tick().await;
        let (outcome, _) = writer.put(n % 10).await;
        assert_eq!(outcome, Outcome::Done);
    }
    fleet.settled(GROUP).await;
    let made = (fleet.postgres.statements().unwrap() - begun) as f64;
    let took = writing.elapsed().as_secs_f64();
    eprintln!("{made} statements for {writes} writes in {took:.1} s; {at_rest:.1} a second when nobody writes");
    (made - at_rest * took) / writes as f64
}

/// Kills a dashboard, a DP manager or both of a replica, unless no other would be left, and says what.
fn strike(fleet: &mut Fleet, rng: &mut Rng) -> Option<String> {
    let replica = rng.usize(..REPLICAS);
    let mut killed = Vec::new();
    let which = rng.u8(1..4);
    for (parts, mark) in [(&mut fleet.dashboards, 1), (&mut fleet.dp_managers, 2)] {
        let others = parts.iter().filter(|part| part.runs()).count() > 1;
        if which & mark != 0 && others && parts[replica].runs() {
            parts[replica].kill();
            killed.push(parts[replica].name.clone());
        }
    }
    (!killed.is_empty()).then(|| killed.join(" and "))
}

/// Starts what is down.
fn heal(fleet: &mut Fleet) {
    for part in fleet.dashboards.iter_mut().chain(&mut fleet.dp_managers).filter(|part| !part.runs()) {
        part.start();
    }
}

/// Kills and starts until `until`; gives the number of strikes.
async fn trouble(fleet: &mut Fleet, rng: &mut Rng, desk: &Desk, (start, until): (Instant, Instant)) -> usize {
    let mut strikes = 0;
    while Instant::now() < until {
        if let Some(what) = strike(fleet, rng) {
            strikes += 1;
            eprintln!("{:6.1} s: killed {what}", start.elapsed().as_secs_f64());
        }
        let (struck, goal) = (Instant::now(), desk.attempts() + rng.usize(1..100));
        let enough = async || (desk.attempts() >= goal || struck.elapsed() >= AWAY).then_some(());
        wait_for("some writes are tried", AWAY * 10, enough).await;
        // Now and then the next one dies while the last is still away.
        if rng.u8(..4) > 0 {
            heal(fleet);
        }
    }
    strikes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_nodes_follow_steady_writes_while_replicas_are_killed() {
    let Size { nodes: count, writers: (writers, pace), counted } = size();
    let seed = fastrand::u64(..);
    let mut rng = Rng::with_seed(seed);
    let _alone = ALONE.lock().await;
    let start = Instant::now();
    let mut fleet = Fleet::start_replicas(REPLICAS, &[(GROUP, GATEWAYS)]).await;
    fleet.postgres.log_statements().unwrap();
    let desk = Desk::new(start, fleet.echo.address());
    let dashboards: Vec<_> = fleet.dashboards.iter().map(|part| part.address).collect();
    let mut first = Writer::new(&desk, GROUP, &dashboards, rng.u64(..));
    first.fill().await;
    let few = statements_of_a_write(&fleet, &mut first, counted).await;
    let managers: Vec<_> = fleet.dp_managers.iter().map(|part| part.address).collect();
    let token = fleet.token(GROUP).await.parse().unwrap();
    let nodes = Follower::start_all((0..count).map(name), &token, &managers).await;
    fleet.settled(GROUP).await;
    let many = statements_of_a_write(&fleet, &mut first, counted).await;
    eprintln!("{few:.1} statements a write with {GATEWAYS} nodes, {many:.1} with {}", GATEWAYS + count);
    // One statement for each node and write would be `count` more. Few writes meet what is done together now and then, or do not.
    let most = if full() { few * 1.15 } else { few * 2.0 + 1.0 };
    assert!(many <= most, "{few} statements a write with {GATEWAYS} nodes, {many} with {count} more");

    let (watch, looking) = (Watch::start(start, &fleet, GROUP), Looking::start(start, nodes));
    let mut writer = || Writer::new(&desk, GROUP, &dashboards, rng.u64(..)).deleting();
    let mut writing: Vec<_> = (0..writers).map(|_| writer().run(pace)).collect();
    // As many again as long as their writes take, which wait for their receipts.
    writing.extend((0..writers).map(|_| writer().waiting_for(GATEWAYS + count).run(Duration::from_secs(1))));
    let (began, attempts) = (Instant::now(), desk.attempts());
    let until = began + either(Duration::from_secs(12), Duration::from_secs(180));
    let strikes = trouble(&mut fleet, &mut rng, &desk, (start, until)).await;
    heal(&mut fleet);
    fleet.all_ready().await;
    // The last one dies with all its nodes and does not come back before they have what was written till then.
    let dying = rng.usize(..REPLICAS);
    fleet.dashboards[dying].kill();
    fleet.dp_managers[dying].kill();
    let killed = Instant::now();
    desk.close();
    let rate = (desk.attempts() - attempts) as f64 / began.elapsed().as_secs_f64();
    let mut writes: Vec<Write> = first.log().to_vec();
    for writer in writing {
        writes.append(&mut writer.await.unwrap());
    }
    let closed = killed.elapsed();
    let living = fleet.dashboards.iter().find(|part| part.runs()).unwrap().address;
    let converged = wait_for("all nodes are at the head", CONVERGED, async || {
        let list = listed(living, GROUP).await?;
        let at_head = |node: &Value| node["connected"] == true && node["head"] == node["revision"];
        (list.len() == GATEWAYS + count && list.iter().all(at_head)).then(|| killed.elapsed())
    })
    .await;
    eprintln!(
        "{strikes} strikes in {:.0?}, {rate:.1} writes a second; the last write ended {closed:.1?} after the last kill, and all nodes \
         had everything after {converged:.1?}",
        began.elapsed()
    );
    if full() {
        assert!(converged <= CONVERGED_OF_THE_LONG_FORM, "all nodes had everything only after {converged:.1?}");
        assert!(rate >= RATE, "only {rate:.1} writes a second");
    }
    heal(&mut fleet);
    fleet.all_ready().await;
    let (revision, digest) = fleet.settled(GROUP).await;
    let (noted, nodes) = looking.end().await;
    let mut sightings = watch.end().await;
    sightings.extend(noted);
    let unknown = writes.iter().filter(|write| write.outcome == Outcome::Unknown).count();
    let (tried, seen) = (writes.len(), sightings.len());
    let history = history(&fleet, GROUP, writes, sightings);
    let last = history.commits.last().unwrap();
    assert_eq!((last.revision, &last.digest), (revision, &digest));
    assert_eq!(history.check(), BTreeSet::new(), "seed {seed}");
    for node in nodes {
        let held = node.stop().await;
        assert_eq!((held.revision, held.digest().to_string()), (revision, digest.clone()));
    }
    eprintln!(
        "{tried} writes, {unknown} of them without an answer; {revision} revisions; {seen} sightings: all is well"
    );
}
