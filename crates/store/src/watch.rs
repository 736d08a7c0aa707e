//! Hearing of changes, of whatever process.
//!
//! One task for each open store reads the heads of all groups: when a notice arrives (PostgreSQL `LISTEN`, or a write of
//! this process), and every second in any case. Notices carry nothing that is used; only this task moves the heads, so they
//! never go back unless the database did.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor as _;
use sqlx::postgres::PgListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::clock::DatabaseClock;
use crate::error::StoreError;
use crate::rule::{OLDEST, RELEASE};
use crate::server::Server;
use crate::sql::{Db, Row};
use crate::store::Store;

/// The PostgreSQL channel; channels belong to a database.
pub(crate) const CHANNEL: &str = "milecastle";
/// What a lost notice costs at most.
const POLL: Duration = Duration::from_secs(1);
/// What is so small takes no longer, unless the database does not answer at all.
const LATE: Duration = Duration::from_secs(5);
/// Silence after which the connection of the notices is asked for a sign of life.
const QUIET: Duration = Duration::from_secs(5);

/// The statement that reads where groups stand: the columns of [`head`] and the floor. With `$which` of them.
macro_rules! heads {
    ($which:literal) => {
        concat!(
            "SELECT g.id, g.lineage, g.head, c.mark, g.epoch, g.floor, g.base, g.candidate FROM gateway_group g ",
            "LEFT JOIN change_set c ON c.group_id = g.id AND c.revision = g.head",
            $which
        )
    };
}
pub(crate) use heads;

/// Where a group stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Names the history that the revisions count. Another one than before: the database was restored or replaced.
    pub lineage: String,
    /// The newest revision; 0 before the first.
    pub revision: u64,
    /// Tells this revision from another one of the same number, made after the database lost the first. Empty where the database
    /// has none: at revision 0, and for revisions that are old.
    pub mark: String,
    /// Grows with every change to the group besides its objects: lineages declared over, maintenance, tokens and nodes revoked,
    /// steps of a rollout.
    pub epoch: u64,
    /// Up to where nodes may go, while a rollout is on; `None`: to the head.
    pub gate: Option<Gate>,
}

/// Up to where nodes may go while a rollout is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Gate {
    /// The revision that every node may have.
    pub base: u64,
    /// The one that canaries may have: a later one, and the head's at most.
    pub candidate: u64,
}

/// All groups by id.
pub type Heads = BTreeMap<String, Head>;

/// What the database said last of where groups stand.
#[derive(Debug, Clone)]
pub struct Heard {
    /// All of them.
    pub heads: Arc<Heads>,
    /// When it was asked: whatever was written before then is in them. While it answers, no longer ago than a second and the
    /// time that an answer takes.
    pub at: Instant,
}

/// Hears of changes to any group, those of other processes included.
#[derive(Debug, Clone)]
pub struct Watch(watch::Receiver<Heard>);

impl Watch {
    /// The heads as last read. The next [`Watch::changed`] waits for others.
    pub fn heads(&mut self) -> Arc<Heads> {
        self.0.borrow_and_update().heads.clone()
    }

    /// Waits until some head differs from those last seen here, however many changes lie between. `None`: the store is
    /// closed. Cancel safe.
    pub async fn changed(&mut self) -> Option<Arc<Heads>> {
        self.0.changed().await.ok()?;
        Some(self.heads())
    }
}

impl Store {
    /// Begins to watch; the present heads count as seen.
    pub fn watch(&self) -> Watch {
        let mut watch = Watch(self.0.watcher.heads.clone());
        watch.heads();
        watch
    }

    /// What the database said last of where groups stand, without asking it.
    pub fn heard(&self) -> Heard {
        self.0.watcher.heads.borrow().clone()
    }
}

/// What is read again and again.
struct Read {
    heads: Heads,
    /// Id of the newest event.
    event: u64,
}

/// The background work of a store.
pub(crate) struct Watcher {
    heads: watch::Receiver<Heard>,
    /// Id of the newest event.
    events: watch::Receiver<u64>,
    hint: Arc<Notify>,
    tasks: Vec<JoinHandle<()>>,
}

impl Watcher {
    pub(crate) async fn start(db: &Db, clock: &DatabaseClock) -> Result<Watcher, StoreError> {
        let hint = Arc::new(Notify::new());
        let at = Instant::now();
        let first = read(db, clock).await?;
        let (heads_sender, heads) = watch::channel(Heard { heads: Arc::new(first.heads), at });
        let (events_sender, events) = watch::channel(first.event);
        let follow = follow(db.clone(), clock.clone(), hint.clone(), heads_sender, events_sender);
        let mut tasks = vec![tokio::spawn(follow)];
        if let Db::Pg(server) = db {
            tasks.push(tokio::spawn(listen(server.clone(), hint.clone())));
        }
        Ok(Watcher { heads, events, hint, tasks })
    }

    /// Hears of events.
    pub(crate) fn events(&self) -> watch::Receiver<u64> {
        self.events.clone()
    }

    /// Has the heads read now: this process wrote something.
    pub(crate) fn hint(&self) {
        self.hint.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn follow(
    db: Db,
    clock: DatabaseClock,
    hint: Arc<Notify>,
    heads: watch::Sender<Heard>,
    events: watch::Sender<u64>,
) {
    let mut tick = interval(POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = hint.notified() => {}
            _ = tick.tick() => {}
        }
        let at = Instant::now();
        let read = timeout(LATE, read(&db, &clock)).await.unwrap_or_else(|_| Err(StoreError::late()));
        if let Err(StoreError::Database(_)) = &read {
            // A newer schema, perhaps, in which there is no such statement any more.
            if let Ok(Err(error)) = timeout(LATE, db.rule().ask(&db)).await {
                tracing::debug!(%error, "the rule of the schema cannot be read either");
            }
        }
        match read {
            Ok(read) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the database answers again");
                }
                heads.send_if_modified(|heard| {
                    heard.at = at;
                    let changed = *heard.heads != read.heads;
                    if changed {
                        heard.heads = Arc::new(read.heads);
                    }
                    changed
                });
                events.send_if_modified(|known| std::mem::replace(known, read.event) != read.event);
            }
            // The process ends.
            Err(_) if db.is_closed() => return,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot read the heads of the gateway groups; trying again every second");
                }
            }
        }
    }
}

/// Reads all heads, and the clock, the rule of the schema and where the events stand along with them.
async fn read(db: &Db, clock: &DatabaseClock) -> Result<Read, StoreError> {
    db.check_files()?;
    let sql = format!(
        "SELECT heads.*, {}, {OLDEST}, {RELEASE}, (SELECT last FROM event_log) FROM ({}) heads",
        db.clock_sql(),
        heads!("")
    );
    let rows = db.rows(sql, &[]).await?;
    let mut event = 0;
    if let Some(row) = rows.last() {
        clock.told(row.int_or_zero(8)?);
        db.rule().told(row, 9, 10)?;
        event = row.int_opt(11)?.unwrap_or(0);
    }
    let heads = rows.iter().map(|row| Ok((row.text(0)?, head(row)?))).collect::<Result<_, StoreError>>()?;
    Ok(Read { heads, event })
}

/// The head in a row of [`heads`].
pub(crate) fn head(row: &Row) -> Result<Head, StoreError> {
    let mark = row.text_opt(3)?.unwrap_or_default();
    let gate = gate(row.int_opt(6)?, row.int_opt(7)?);
    Ok(Head { lineage: row.text(1)?, revision: row.int(2)?, mark, epoch: row.int(4)?, gate })
}

/// The gate that two columns hold.
pub(crate) fn gate(base: Option<u64>, candidate: Option<u64>) -> Option<Gate> {
    Some(Gate { base: base?, candidate: candidate? })
}

/// Turns notices of PostgreSQL into hints. While there is no connection, the poll serves.
async fn listen(server: Server, hint: Arc<Notify>) {
    loop {
        if let Err(error) = listen_once(&server, &hint).await {
            tracing::debug!(%error, "no notices from PostgreSQL for now");
        }
        sleep(POLL).await;
    }
}

async fn listen_once(server: &Server, hint: &Notify) -> Result<(), sqlx::Error> {
    // A pool of its own: one that does not answer any more keeps its connection for as long as the system takes to notice.
    let mut listener = PgListener::connect_with(&server.for_notices()).await?;
    server.patience.answer(listener.listen(CHANNEL)).await?;
    loop {
        // Whatever was said before the listening began, or while the connection was lost, was not heard.
        hint.notify_one();
        // Silence is what a connection sounds like on which nothing comes any more, too.
        while timeout(QUIET, listener.try_recv()).await.map_or(Ok(true), |heard| heard.map(|_| false))? {
            let alive = timeout(LATE, listener.execute("SELECT 1")).await;
            alive.map_err(|_| sqlx::Error::PoolTimedOut)??;
        }
    }
}
