//! Random kills and writes, and a history in which nothing may go back, get lost, or come twice.

use super::fleet::{Fleet, GROUPS, NodeView, Part};
use super::record::{Watch, history};
use super::writer::{Desk, ROUTES, Writer, path};
use super::{ALONE, either};
use fastrand::Rng;
use milecastle_testkit::history::Outcome;
use milecastle_testkit::{Call, wait_for};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Names the seed of an earlier run, to do the same again.
const SEED: &str = "MILECASTLE_TEST_SEED";

/// The longest that nodes may take until they have all that was written; what they should need is printed, and stands in
/// `docs/cluster.md`.
const CONVERGED: Duration = Duration::from_secs(20);

/// The longest time between two strikes.
const AWAY: Duration = Duration::from_secs(2);

/// What is done to a cluster in one round.
#[derive(Default)]
struct Harm {
    postgres_is_away: bool,
    frozen: Option<usize>,
}

impl Harm {
    /// Does one thing to something that runs, and says what; `None` if it does not run.
    fn strike(&mut self, fleet: &mut Fleet, rng: &mut Rng) -> Option<String> {
        match rng.u8(..10) {
            0..3 => kill(rng.choice(&mut fleet.dashboards)),
            3..6 => kill(rng.choice(&mut fleet.dp_managers)),
            6..8 => kill(rng.choice(&mut fleet.nodes).map(|node| &mut node.part)),
            8 if !self.postgres_is_away => {
                fleet.postgres.stop().unwrap();
                self.postgres_is_away = true;
                Some("PostgreSQL is killed".to_owned())
            }
            9 if self.frozen.is_none() => {
                let n = rng.usize(..fleet.dp_managers.len());
                let part = fleet.dp_managers.get_mut(n).filter(|part| part.runs())?;
                part.freeze(true);
                self.frozen = Some(n);
                Some(format!("{} is frozen", part.name))
            }
            _ => None,
        }
    }

    /// Brings everything back, in any order.
    fn heal(self, fleet: &mut Fleet, rng: &mut Rng) {
        let postgres_first = rng.bool();
        if self.postgres_is_away && postgres_first {
            fleet.postgres.resume().unwrap();
        }
        if let Some(part) = self.frozen.and_then(|n| fleet.dp_managers.get_mut(n)).filter(|part| part.runs()) {
            part.freeze(false);
        }
        let nodes = fleet.nodes.iter_mut().map(|node| &mut node.part);
        let mut down: Vec<&mut Part> = fleet
            .dashboards
            .iter_mut()
            .chain(&mut fleet.dp_managers)
            .chain(nodes)
            .filter(|part| !part.runs())
            .collect();
        rng.shuffle(&mut down);
        down.into_iter().for_each(Part::start);
        if self.postgres_is_away && !postgres_first {
            fleet.postgres.resume().unwrap();
        }
    }
}

fn kill(part: Option<&mut Part>) -> Option<String> {
    let part = part.filter(|part| part.runs())?;
    part.kill();
    Some(format!("{} is killed", part.name))
}

/// How long something new took, from the moment when everything was ready.
struct Fresh {
    /// Until its write was answered.
    written: Duration,
    /// Until every node of the group served it.
    served: Duration,
}

/// Writes something new, and waits until every node of the group serves it.
async fn fresh(writer: &mut Writer, nodes: &[NodeView], ready: Instant) -> Fresh {
    let (outcome, version) = writer.put(ROUTES).await;
    let written = ready.elapsed();
    assert_eq!(outcome, Outcome::Done, "every component is ready");
    for node in nodes {
        wait_for(&format!("{} has what is new", node.name), CONVERGED, async || {
            let answer = Call::get(&path(ROUTES)).to(node.address).await.ok()?;
            (answer.header("x-version").parse() == Ok(version)).then_some(())
        })
        .await;
    }
    Fresh { written, served: ready.elapsed() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_kills_and_writes_leave_a_history_in_which_all_is_well() {
    let seed = std::env::var(SEED).map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("the seed is {seed}; {SEED} takes it");
    let mut rng = Rng::with_seed(seed);
    let _alone = ALONE.lock().await;
    let start = Instant::now();
    let mut fleet = Fleet::start_bare().await;
    let desk = Desk::new(start, fleet.echo.address());
    let dashboards: Vec<_> = fleet.dashboards.iter().map(|part| part.address).collect();
    let (mut markers, mut watches, mut writing) = (Vec::new(), Vec::new(), Vec::new());
    for (group, count) in GROUPS {
        let mut marker = Writer::new(&desk, group, &dashboards, rng.u64(..));
        marker.fill().await;
        fleet.settled(group).await;
        let nodes: Vec<NodeView> = fleet.nodes.iter().filter(|n| n.group == group).map(|n| n.view()).collect();
        markers.push((marker, nodes));
        watches.push(Watch::start(start, &fleet, group));
        let writer = || Writer::new(&desk, group, &dashboards, rng.u64(..)).deleting().waiting_for(count);
        let two: Vec<_> = std::iter::repeat_with(writer).take(2).collect();
        writing.push(two.into_iter().map(|writer| writer.run(Duration::from_millis(150))).collect::<Vec<_>>());
    }
    let until = Instant::now() + either(Duration::from_secs(30), Duration::from_secs(600));
    let (mut strikes, mut took) = (0, Vec::new());
    while Instant::now() < until {
        let mut harm = Harm::default();
        for _ in 0..rng.u32(1..=3) {
            let Some(what) = harm.strike(&mut fleet, &mut rng) else { continue };
            eprintln!("{:6.1} s: {what}", start.elapsed().as_secs_f64());
            strikes += 1;
            // Writes are slow while the database is away.
            let (struck, goal) = (Instant::now(), desk.attempts() + rng.usize(1..15));
            let enough = async || (desk.attempts() >= goal || struck.elapsed() >= AWAY).then_some(());
            wait_for("some writes are tried", AWAY * 10, enough).await;
        }
        harm.heal(&mut fleet, &mut rng);
        fleet.all_ready().await;
        let ready = Instant::now();
        // Both at once: neither waits for the other.
        let [(one, of_one), (two, of_two)] = &mut markers[..] else { panic!("there are two groups") };
        let (first, second) = tokio::join!(fresh(one, of_one, ready), fresh(two, of_two, ready));
        for (nodes, Fresh { written, served }) in [(of_one, first), (of_two, second)] {
            let (at, group) = (start.elapsed().as_secs_f64(), nodes[0].group);
            let (written, within) = (written.as_millis(), served.as_millis());
            eprintln!(
                "{at:6.1} s: all are ready; {group} was written to after {written} ms, and is fresh after {within} ms"
            );
            took.push(served);
        }
    }
    desk.close();
    took.sort_unstable();
    let late = took.iter().filter(|took| **took > Duration::from_secs(2)).count();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_millis();
    eprintln!(
        "{strikes} strikes in {:.0?}; fresh after {} ms in the middle, {} ms in 99 of 100 cases, {} ms at the longest; {late} of {} above 2 s",
        start.elapsed(),
        at(50),
        at(99),
        at(100),
        took.len()
    );
    for ((((group, _), watch), writing), (marker, _)) in GROUPS.into_iter().zip(watches).zip(writing).zip(markers) {
        let mut writes = marker.log().to_vec();
        for writer in writing {
            writes.append(&mut writer.await.unwrap());
        }
        let (revision, digest) = fleet.settled(group).await;
        let sightings = watch.end().await;
        let unknown = writes.iter().filter(|write| write.outcome == Outcome::Unknown).count();
        let (tried, seen) = (writes.len(), sightings.len());
        let history = history(&fleet, group, writes, sightings);
        let last = history.commits.last().unwrap();
        assert_eq!((last.revision, &last.digest), (revision, &digest));
        assert_eq!(history.check(), BTreeSet::new(), "seed {seed}, group {group}");
        eprintln!(
            "{group}: {tried} writes, {unknown} of them without an answer; {revision} revisions; {seen} sightings: all is well"
        );
    }
}
