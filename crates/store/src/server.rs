//! PostgreSQL as this process uses it: its connections, and how long they may keep it waiting.
//!
//! A server can vanish without a word, with its machine or behind a link that drops packets. Then nothing ever comes on its
//! connections, and the driver would wait on them for ever.
//!
//! What must stay true:
//! - Whatever the server does, each statement ends, and so does the return of each connection to the pool.
//! - A connection on which a statement was given up is closed: nobody knows in what transaction it is.
//! - A connection on which nothing may be written is closed: the next one may lead to another server, or a session that may.
//! - Whoever holds the row of a group, or waits for it, has a turn, and there are fewer of these than connections: what keeps this replica
//!   alive finds one however many clients write, and however long a group is held.
//! - Of all who write to one group one has a turn, whoever comes later stands in its line: a group that is held keeps nobody from another.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::connect::Tuning;
use crate::error::{READ_ONLY, StoreError};
use crate::rule::Rule;

/// How long an answer may take on its way, beside the time that the server may work on it.
const MARGIN: Duration = Duration::from_secs(2);

/// How long a connection may take to be ready again when it goes back to the pool, as one does whose client left during a
/// statement; one that takes longer is closed.
const RETURN: Duration = Duration::from_secs(5);

/// For how long connections are closed instead of kept once an answer was given up, or a write refused as read only: longer than
/// the one in question takes to come back to the pool.
const DOUBT: Duration = Duration::from_secs(60);

/// How long a transaction waits for a lock, such as that of a group's row, before the database gives it up (`lock_timeout`).
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// A PostgreSQL server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) pool: PgPool,
    pub(crate) patience: Patience,
    /// What was read of the rule of the schema.
    pub(crate) rule: Rule,
    turns: Arc<Semaphore>,
    lines: Lines,
    acquire_timeout: Duration,
}

/// The lines of all groups to which this process writes.
type Lines = Arc<Mutex<HashMap<String, Line>>>;

/// Those who write to a group.
#[derive(Debug)]
struct Line {
    /// The one whose turn it is, and those who wait.
    writers: usize,
    turn: Arc<Semaphore>,
}

/// A place in the line of a group, which is there for as long as somebody has one.
#[derive(Debug)]
struct Place {
    lines: Lines,
    group: String,
}

/// A turn to hold the row of a group, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _connection: OwnedSemaphorePermit,
    _group: OwnedSemaphorePermit,
    _place: Place,
}

/// How long an answer is waited for, and whether connections are in doubt because of one lately.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    limit: Duration,
    doubted: Arc<Mutex<Option<Instant>>>,
    counts: Arc<Counts>,
}

/// What was asked of the server since the start.
#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    failed: AtomicU64,
    micros: AtomicU64,
}

/// How a process uses its database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Connections in use.
    pub used: u32,
    /// Connections that wait for use.
    pub idle: u32,
    /// Statements that were answered, since the start.
    pub done: u64,
    /// Statements that failed or were given up, since the start.
    pub failed: u64,
    /// Time that statements took since the start, waiting for a connection included.
    pub took: Duration,
}

impl Server {
    /// Of the connections that `tuning` allows, one is for notices.
    pub(crate) fn new(options: PgConnectOptions, tuning: &Tuning) -> Self {
        let limit = tuning.acquire_timeout + tuning.statement_timeout + MARGIN;
        let patience = Patience { limit, doubted: Arc::default(), counts: Arc::default() };
        let most = tuning.max_connections.saturating_sub(1).max(1);
        let returned = patience.clone();
        let pool = PgPoolOptions::new()
            .max_connections(most)
            .acquire_timeout(tuning.acquire_timeout)
            .after_release(move |connection, _| {
                let patience = returned.clone();
                Box::pin(async move {
                    if patience.doubts() {
                        return Err(late());
                    }
                    timeout(RETURN, connection.ping()).await.map_err(|_| late())?.map(|()| true)
                })
            })
            .connect_lazy_with(options);
        let turns = Arc::new(Semaphore::new(most.div_ceil(2) as usize));
        let acquire_timeout = tuning.acquire_timeout;
        Self { pool, patience, rule: Rule::default(), turns, lines: Lines::default(), acquire_timeout }
    }

    /// A pool of one connection to the same server, for notices.
    pub(crate) fn for_notices(&self) -> PgPool {
        let options = PgConnectOptions::clone(&self.pool.connect_options());
        PgPoolOptions::new().max_connections(1).acquire_timeout(self.acquire_timeout).connect_lazy_with(options)
    }

    /// Connections at most, that for notices left out.
    pub(crate) fn connections(&self) -> u32 {
        self.pool.options().get_max_connections()
    }

    /// How it is used.
    pub(crate) fn usage(&self) -> Usage {
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        let Counts { done, failed, micros } = &*self.patience.counts;
        Usage {
            used: self.pool.size().saturating_sub(idle),
            idle,
            done: done.load(Ordering::Relaxed),
            failed: failed.load(Ordering::Relaxed),
            took: Duration::from_micros(micros.load(Ordering::Relaxed)),
        }
    }

    /// Waits for its turn to hold the row of a group: in the line of the group, as long as it would for the row, then as long as for
    /// a connection.
    pub(crate) async fn turn(&self, group: &str) -> Result<Turn, StoreError> {
        let (place, line) = Place::take(self.lines.clone(), group);
        let patience = LOCK_TIMEOUT.max(self.acquire_timeout);
        let of_group = permit(line, patience).await.ok_or_else(|| StoreError::busy_group(group, patience))?;
        let connection = permit(self.turns.clone(), self.acquire_timeout).await;
        let connection = connection.ok_or_else(|| StoreError::busy(self.acquire_timeout))?;
        Ok(Turn { _connection: connection, _group: of_group, _place: place })
    }
}

async fn permit(of: Arc<Semaphore>, patience: Duration) -> Option<OwnedSemaphorePermit> {
    // None is ever closed.
    timeout(patience, of.acquire_owned()).await.ok()?.ok()
}

impl Place {
    /// The last place in the line of a group, and whose turn it is there.
    fn take(lines: Lines, group: &str) -> (Self, Arc<Semaphore>) {
        let turn = {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            let first = || Line { writers: 0, turn: Arc::new(Semaphore::new(1)) };
            let line = lines.entry(group.to_owned()).or_insert_with(first);
            line.writers += 1;
            line.turn.clone()
        };
        (Self { lines, group: group.to_owned() }, turn)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut line) = lines.entry(std::mem::take(&mut self.group)) {
            line.get_mut().writers -= 1;
            if line.get().writers == 0 {
                line.remove();
            }
        }
    }
}

impl Patience {
    /// What the server answers to a statement, if it does in time.
    pub(crate) async fn answer<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        let begun = Instant::now();
        let answered = self.further(work).await;
        let Counts { done, failed, micros } = &*self.counts;
        let counted = if answered.is_ok() { done } else { failed };
        counted.fetch_add(1, Ordering::Relaxed);
        micros.fetch_add(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        answered
    }

    /// What more the server answers to a statement, if it does in time.
    pub(crate) async fn further<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let mut work = Box::pin(work);
        let done = timeout(self.limit, work.as_mut()).await;
        let is_doubtful = match &done {
            Ok(Err(sqlx::Error::Database(error))) => error.code().as_deref() == Some(READ_ONLY),
            Ok(_) => false,
            Err(_) => true,
        };
        // Before the work is dropped, and its connection with it.
        if is_doubtful {
            *self.doubted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        done.unwrap_or_else(|_| Err(late()))
    }

    fn doubts(&self) -> bool {
        let doubted = *self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        doubted.is_some_and(|at| at.elapsed() < DOUBT)
    }
}

fn late() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "it does not answer in time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_wait_for_a_group_keep_nobody_from_another_one() {
        // One connection for notices, two of four for writers.
        let acquire_timeout = Duration::from_millis(50);
        let tuning = Tuning { max_connections: 5, acquire_timeout, ..Tuning::default() };
        let server = Server::new(PgConnectOptions::new_without_pgpass(), &tuning);
        let held = server.turn("a").await.unwrap();
        let waiting: Vec<_> = (0..9)
            .map(|_| {
                let server = server.clone();
                tokio::spawn(async move { server.turn("a").await.map(drop) })
            })
            .collect();
        while server.lines.lock().unwrap()["a"].writers < 10 {
            tokio::task::yield_now().await;
        }
        let other = server.turn("b").await.unwrap();
        // Then there is none left, and it is said why.
        let refused = server.turn("c").await.unwrap_err();
        assert!(matches!(&refused, StoreError::Busy(why) if why.contains("database.max_connections")), "{refused}");
        drop(other);
        waiting[0].abort();
        drop(held);
        for (n, writer) in waiting.into_iter().enumerate() {
            match writer.await {
                Ok(turn) => turn.unwrap(),
                Err(ended) => assert!(n == 0 && ended.is_cancelled(), "{ended}"),
            }
        }
        assert!(server.lines.lock().unwrap().is_empty(), "nobody stands in a line");
    }
}
