//! Those who are served while others mean harm, and what the harm comes to.

use milecastle_testkit::{Call, Process};
use milecastle_tests::ADMIN_KEY;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::interval;

/// How long anything may take on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A listener, and what an ordinary caller asks of it.
#[derive(Clone, Copy)]
pub(crate) struct Door {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) target: &'static str,
    pub(crate) status: u16,
}

impl Door {
    pub(crate) fn call(&self) -> Call {
        Call::get(self.target).header("X-API-KEY", ADMIN_KEY).within(LONG)
    }
}

/// Ordinary callers, one at each door, each call on a new connection. None may fail.
pub(crate) struct Bystanders {
    over: Arc<AtomicBool>,
    callers: Vec<(Door, JoinHandle<(u32, Duration)>)>,
}

impl Bystanders {
    pub(crate) fn start(doors: &[Door]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let callers = doors.iter().map(|door| (*door, tokio::spawn(calls(*door, over.clone())))).collect();
        Self { over, callers }
    }

    pub(crate) async fn end(self, when: &str) {
        self.over.store(true, Ordering::Relaxed);
        for (door, caller) in self.callers {
            let (answered, longest) = caller.await.expect("no ordinary call fails");
            eprintln!("{when}, {}: {answered} ordinary calls, the longest {longest:.0?}", door.name);
        }
    }
}

/// Calls until it is over; how many, and how long the longest took.
async fn calls(door: Door, over: Arc<AtomicBool>) -> (u32, Duration) {
    let (mut answered, mut longest, mut pace) = (0, Duration::ZERO, interval(Duration::from_millis(20)));
    while !over.load(Ordering::Relaxed) || answered == 0 {
        pace.tick().await;
        let begun = Instant::now();
        let answer = door.call().to(door.address).await;
        let answer = answer.unwrap_or_else(|error| panic!("an ordinary call at {}: {error:#}", door.name));
        assert_eq!(answer.status, door.status, "{}: {}", door.name, answer.text());
        answered += 1;
        longest = longest.max(begun.elapsed());
    }
    (answered, longest)
}

/// What processes have taken in the beginning, and what becomes of it.
pub(crate) struct Watched<'a> {
    processes: Vec<(&'a mut Process, u64, Duration)>,
    /// Bytes of memory that a process may take more than in the beginning.
    most: u64,
}

impl<'a> Watched<'a> {
    /// From now on.
    pub(crate) fn new<const N: usize>(processes: [&'a mut Process; N], most: u64) -> Self {
        let taken = |process: &'a mut Process| (process.resident_bytes(), process.cpu_time(), process);
        Self { processes: processes.into_iter().map(taken).map(|(n, t, p)| (p, n, t)).collect(), most }
    }

    /// None has ended, or holds much more than in the beginning. The CPU time that they have taken since this was asked last.
    pub(crate) fn unharmed(&mut self, when: &str) -> Duration {
        let mut sum = Duration::ZERO;
        for (process, before, cpu_before) in &mut self.processes {
            assert!(process.is_running(), "{when}");
            let (now, cpu) = (process.resident_bytes(), process.cpu_time());
            let taken = cpu.saturating_sub(std::mem::replace(cpu_before, cpu));
            eprintln!(
                "{when}: {} MiB of memory, {} MiB in the beginning; {taken:.2?} of CPU",
                now >> 20,
                *before >> 20
            );
            assert!(now < *before + self.most, "{when}: {now} bytes of memory, {before} in the beginning");
            sum += taken;
        }
        sum
    }
}
