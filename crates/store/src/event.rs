//! What happened, in an order that all replicas share (`docs/events.md`).
//!
//! Whoever leads compares what is with what was told last, and records the difference: events and what is told from now on, in
//! one transaction. So each difference is told once, whoever leads, and nothing that writes configuration waits for it.
//!
//! What must stay true:
//! - Ids grow in the order of commits: whoever has read up to one misses nothing that comes later. Each transaction that records
//!   holds the row of `event_log` from its first statement on.
//! - An id is no less than the database's clock in milliseconds: after the database lost its last commits, as a standby may have
//!   that took over, none of the lost ones names another event.
//! - Events are never changed; they go from the oldest on ([`Store::event_trim`]).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::sync::watch;

use crate::error::StoreError;
use crate::lease::Term;
use crate::member::millis;
use crate::sql::{BATCH, Db, Row, Tx, args, tuples};
use crate::store::Store;

/// Events forgotten in one transaction at most, for which those that record wait.
const TRIM_BATCH: u64 = 1000;

/// Values of one row in the statements below.
const COLUMNS: usize = 5;
const COLUMNS_OF_TOLD: usize = 4;
const COLUMNS_OF_TOPIC: usize = 3;

/// Holds the row of the log until the end of the transaction, whoever else records.
const HOLD: &str = "UPDATE event_log SET last = last WHERE one = 1";

/// What events are about. Ordered by kind, group, subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic {
    /// What sort of thing, as `node`.
    pub kind: String,
    /// Its gateway group; `None`: it belongs to none.
    pub group: Option<String>,
    /// Which one; may be empty where there is but one.
    pub subject: String,
}

/// An event to record.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// What it is about.
    pub topic: Topic,
    /// What there is to say, without secrets.
    pub data: Json,
}

/// An event as recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Greater than that of any event before, and no less than the milliseconds since 1970 when it was recorded.
    pub id: u64,
    /// What it is about.
    pub topic: Topic,
    /// What there is to say.
    pub data: Json,
}

/// Events that follow each other.
#[derive(Debug, Clone, PartialEq)]
pub struct EventPage {
    /// Events up to this id are not kept any more.
    pub floor: u64,
    /// The events, oldest first.
    pub events: Vec<Event>,
}

/// What was told last of everything, and where the log stood then.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// Id of the newest event; 0: nothing was ever told.
    pub last: u64,
    /// By topic.
    pub states: BTreeMap<Topic, Json>,
}

/// How recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is done; this is the id of the newest event now.
    Done(u64),
    /// Nothing was recorded: the log does not stand where the caller thinks that it does. Compare anew, with [`Store::event_told`].
    Elsewhere,
    /// Nothing was recorded: the term of office is over.
    TermOver,
}

impl Told {
    /// From now on this is told of some topics; `None`: nothing.
    pub fn remember(&mut self, told: Vec<(Topic, Option<Json>)>) {
        for (topic, state) in told {
            match state {
                Some(state) => self.states.insert(topic, state),
                None => self.states.remove(&topic),
            };
        }
    }
}

impl Store {
    /// Hears of events: the id of the newest one, at the latest a second after it was recorded, by whatever process.
    pub fn event_watch(&self) -> watch::Receiver<u64> {
        self.0.watcher.events()
    }

    /// What was told last of everything.
    pub async fn event_told(&self) -> Result<Told, StoreError> {
        let mut tx = self.0.db.begin_read().await?;
        let last = log(&mut tx).await?.0;
        let mut states = BTreeMap::new();
        tx.each("SELECT kind, group_id, subject, state FROM event_told", &[], |row| {
            states.insert(topic(&row, 0)?, json(&row, 3)?);
            Ok(())
        })
        .await?;
        Ok(Told { last, states })
    }

    /// What was told last of everything of a kind, by topic.
    pub async fn event_told_of(&self, kind: &str) -> Result<BTreeMap<Topic, Json>, StoreError> {
        let sql = "SELECT kind, group_id, subject, state FROM event_told WHERE kind = $1";
        let rows = self.0.db.rows(sql, args![kind]).await?;
        rows.iter().map(|row| Ok((topic(row, 0)?, json(row, 3)?))).collect()
    }

    /// Records events, and what is told from now on of some topics (`None`: nothing), if the newest event is `last`.
    pub async fn event_record(
        &self,
        term: Term<'_>,
        last: u64,
        events: &[NewEvent],
        told: &[(Topic, Option<Json>)],
    ) -> Result<Recorded, StoreError> {
        let mut tx = self.0.db.begin_write().await?;
        tx.run(HOLD, &[]).await?;
        if log(&mut tx).await?.0 != last {
            return Ok(Recorded::Elsewhere);
        }
        // Asked only now: the lease must not be held while the log is waited for.
        if !term.lasts(&mut tx, &self.0.db).await? {
            return Ok(Recorded::TermOver);
        }
        let newest = append(&mut tx, &self.0.db, last, events).await?;
        tell(&mut tx, told).await?;
        if !events.is_empty() {
            tx.run("UPDATE event_log SET last = $1 WHERE one = 1", args![newest]).await?;
            tx.notify("").await?;
        }
        tx.commit().await?;
        self.0.watcher.hint();
        Ok(Recorded::Done(newest))
    }

    /// The first `limit` events after `after`.
    pub async fn event_list(&self, after: u64, limit: u64) -> Result<EventPage, StoreError> {
        let mut tx = self.0.db.begin_read().await?;
        let floor = log(&mut tx).await?.1;
        let sql = "SELECT id, kind, group_id, subject, data FROM event WHERE id > $1 ORDER BY id LIMIT $2";
        let rows = tx.rows(sql, args![after, limit]).await?;
        let event = |row: &Row| Ok(Event { id: row.int(0)?, topic: topic(row, 1)?, data: json(row, 4)? });
        Ok(EventPage { floor, events: rows.iter().map(event).collect::<Result<_, StoreError>>()? })
    }

    /// Forgets events older than `keep`, and the oldest where there are more than `most`; gives how many, as long as the term of
    /// office lasts.
    pub async fn event_trim(&self, term: Term<'_>, keep: Duration, most: u64) -> Result<u64, StoreError> {
        let clock = self.0.db.clock_sql();
        // Ids tell the time.
        let cut = format!(
            "SELECT MAX(id) FROM (SELECT id FROM event WHERE id <= COALESCE((SELECT MAX(id) FROM event WHERE id < {clock} - $1), 0) \
             OR id <= COALESCE((SELECT id FROM event ORDER BY id DESC LIMIT 1 OFFSET $2), 0) \
             ORDER BY id LIMIT {TRIM_BATCH}) AS oldest"
        );
        let mut forgotten = 0;
        loop {
            let found = self.0.db.row(cut.clone(), args![millis(keep), most]).await?;
            let Some(floor) = found.map(|row| row.int_opt(0)).transpose()?.flatten() else { return Ok(forgotten) };
            let mut tx = self.0.db.begin_write().await?;
            tx.run("UPDATE event_log SET floor = $1 WHERE one = 1 AND floor < $1", args![floor]).await?;
            if !term.lasts(&mut tx, &self.0.db).await? {
                return Ok(forgotten);
            }
            forgotten += tx.run("DELETE FROM event WHERE id <= $1", args![floor]).await?;
            tx.commit().await?;
        }
    }
}

/// `last` and `floor` of the log.
async fn log(tx: &mut Tx) -> Result<(u64, u64), StoreError> {
    let row = tx.row("SELECT last, floor FROM event_log WHERE one = 1", &[]).await?;
    let row = row.ok_or_else(|| StoreError::corrupt("the log of events"))?;
    Ok((row.int(0)?, row.int(1)?))
}

/// Adds events after the one with the id `last`; gives the id of the newest one.
async fn append(tx: &mut Tx, db: &Db, last: u64, events: &[NewEvent]) -> Result<u64, StoreError> {
    if events.is_empty() {
        return Ok(last);
    }
    let clock = tx.row(format!("SELECT {}", db.clock_sql()), &[]).await?;
    let clock = clock.ok_or_else(|| StoreError::corrupt("a clock without a row"))?.int_or_zero(0)?;
    let mut newest = last.max(clock.saturating_sub(1));
    for events in events.chunks(BATCH) {
        let bodies: Vec<String> = events.iter().map(|event| event.data.to_string()).collect();
        let mut values = Vec::with_capacity(events.len() * COLUMNS);
        for (NewEvent { topic, .. }, data) in events.iter().zip(&bodies) {
            newest += 1;
            values.extend_from_slice(args![newest, &topic.kind, topic.group.as_deref(), &topic.subject, data]);
        }
        let rows = tuples(events.len(), COLUMNS, 1);
        tx.run(format!("INSERT INTO event (id, kind, group_id, subject, data) VALUES {rows}"), &values).await?;
    }
    Ok(newest)
}

/// Keeps what is told from now on.
async fn tell(tx: &mut Tx, told: &[(Topic, Option<Json>)]) -> Result<(), StoreError> {
    let (kept, gone): (Vec<_>, Vec<_>) = told.iter().partition(|(_, state)| state.is_some());
    for kept in kept.chunks(BATCH) {
        let states: Vec<String> = kept.iter().filter_map(|(_, state)| Some(state.as_ref()?.to_string())).collect();
        let mut values = Vec::with_capacity(kept.len() * COLUMNS_OF_TOLD);
        for ((topic, _), state) in kept.iter().zip(&states) {
            values.extend_from_slice(args![&topic.kind, group_of(topic), &topic.subject, state]);
        }
        let sql = format!(
            "INSERT INTO event_told (kind, group_id, subject, state) VALUES {} \
             ON CONFLICT (kind, group_id, subject) DO UPDATE SET state = excluded.state",
            tuples(kept.len(), COLUMNS_OF_TOLD, 1)
        );
        tx.run(sql, &values).await?;
    }
    for gone in gone.chunks(BATCH) {
        let mut values = Vec::with_capacity(gone.len() * COLUMNS_OF_TOPIC);
        for (topic, _) in gone {
            values.extend_from_slice(args![&topic.kind, group_of(topic), &topic.subject]);
        }
        let rows = tuples(gone.len(), COLUMNS_OF_TOPIC, 1);
        let sql = format!("DELETE FROM event_told WHERE (kind, group_id, subject) IN (VALUES {rows})");
        tx.run(sql, &values).await?;
    }
    Ok(())
}

/// The group as a key holds it.
fn group_of(topic: &Topic) -> &str {
    topic.group.as_deref().unwrap_or_default()
}

/// The topic in columns `at` (kind), `at + 1` (group) and `at + 2` (subject).
fn topic(row: &Row, at: usize) -> Result<Topic, StoreError> {
    let group = row.text_opt(at + 1)?.filter(|group| !group.is_empty());
    Ok(Topic { kind: row.text(at)?, group, subject: row.text(at + 2)? })
}

fn json(row: &Row, at: usize) -> Result<Json, StoreError> {
    serde_json::from_str(&row.text(at)?).map_err(|_| StoreError::corrupt("an event"))
}
