//! Writes that are done once, however often and of whichever replica they are asked: those that a client has given a name.
//!
//! What must stay true: the name is taken in the transaction of the write, so that neither is there without the other. Whoever
//! comes second with it waits for that transaction, and then writes nothing ([`StoreError::Repeated`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::audit::{Acting, Actor, ActorKind};
use crate::error::StoreError;
use crate::lease::Term;
use crate::seal::Context;
use crate::sql::{Tx, args};
use crate::store::Store;

/// Rows forgotten in one transaction at most.
const TRIM_BATCH: u64 = 1000;

/// A write that is to be done once. Names belong to whoever gives them: two actors may have the same.
#[derive(Debug)]
pub struct Once {
    /// The name that the client has given it.
    pub key: String,
    /// SHA-256 of what is asked for. Stored as a keyed hash of it: a request may hold a secret that can be guessed.
    pub request: [u8; 32],
    repeated: AtomicBool,
}

/// What was answered to a write.
#[derive(Clone, PartialEq, Eq)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The entity tag of what was written, if it was told.
    pub etag: Option<String>,
    /// The body; stored sealed, since it may hold what is shown but once.
    pub body: Bytes,
}

/// A write that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Whether the same was asked for.
    pub same: bool,
    /// What was answered; `None` where that is not known yet, or never will be.
    pub answered: Option<Answered>,
}

/// Leaves the body out.
impl std::fmt::Debug for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answered").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Once {
    /// One that nobody has tried to do.
    pub fn new(key: impl Into<String>, request: [u8; 32]) -> Self {
        Self { key: key.into(), request, repeated: AtomicBool::new(false) }
    }

    /// Whether it was tried, and had been done before.
    pub fn is_repeated(&self) -> bool {
        self.repeated.load(Ordering::Relaxed)
    }
}

/// How many names of writes are kept, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// Those that are older are forgotten.
    pub age: Duration,
    /// At most.
    pub all: u64,
    /// At most of those that one actor has given.
    pub of_an_actor: u64,
}

impl<'a> Acting<'a> {
    /// In whose hands the store is.
    pub fn actor(self) -> &'a Actor {
        self.actor
    }

    /// The same, whose next write is done only if it was not done before. A request that has a name makes one transaction.
    pub fn once(self, once: Option<&'a Once>) -> Self {
        Self { once, ..self }
    }

    /// Begins a transaction that writes, and takes the name of the write in it.
    pub(crate) async fn begin(self) -> Result<Tx, StoreError> {
        let mut tx = self.store.0.db.begin_write().await?;
        if let Some(once @ Once { key, repeated, .. }) = self.once {
            let sql = "INSERT INTO idempotency (actor_kind, actor_id, key, request, at) VALUES ($1, $2, $3, $4, $5) \
                       ON CONFLICT (actor_kind, actor_id, key) DO NOTHING";
            let (kind, id) = (self.actor.kind.name(), &self.actor.id);
            if tx.run(sql, args![kind, id, key, &self.keyed(once)[..], self.store.now()]).await? == 0 {
                repeated.store(true, Ordering::Relaxed);
                return Err(StoreError::Repeated);
            }
        }
        Ok(tx)
    }

    /// Keeps what is answered in the transaction of the write.
    pub(crate) async fn keep(self, tx: &mut Tx, answered: &Answered) -> Result<(), StoreError> {
        let Some(Once { key, .. }) = self.once else { return Ok(()) };
        let (kind, id) = (self.actor.kind.name(), &self.actor.id);
        let (status, sealed) = (u64::from(answered.status), self.sealed(key, answered));
        tx.run(KEEP, args![kind, id, key, status, &sealed[..], answered.etag.as_deref()]).await.map(drop)
    }

    /// Keeps what was answered to the write, where that is not kept yet and the write was done.
    pub async fn answered(self, answered: &Answered) -> Result<(), StoreError> {
        let Some(Once { key, .. }) = self.once else { return Ok(()) };
        let (kind, id) = (self.actor.kind.name(), &self.actor.id);
        let (status, sealed) = (u64::from(answered.status), self.sealed(key, answered));
        let values = args![kind, id, key, status, &sealed[..], answered.etag.as_deref()];
        self.store.0.db.run(KEEP, values).await.map(drop)
    }

    /// The write of this name, if it was done.
    pub async fn done(self, once: &Once) -> Result<Option<Done>, StoreError> {
        let key = &once.key;
        let sql = "SELECT request, status, answer, etag FROM idempotency \
                   WHERE actor_kind = $1 AND actor_id = $2 AND key = $3";
        let (kind, id) = (self.actor.kind.name(), &self.actor.id);
        let Some(row) = self.store.0.db.row(sql, args![kind, id, key]).await? else { return Ok(None) };
        let unreadable = || StoreError::corrupt("a write that was named");
        let same = row.blob(0)? == self.keyed(once);
        let answered = match (row.int_opt(1)?, row.blob_opt(2)?) {
            (Some(status), Some(sealed)) => Some(Answered {
                status: u16::try_from(status).map_err(|_| unreadable())?,
                etag: row.text_opt(3)?,
                body: self.store.0.sealer.open(&self.context(key), sealed)?,
            }),
            _ => None,
        };
        Ok(Some(Done { same, answered }))
    }

    /// Forgets the names of writes, and their answers, of one who is no longer.
    pub(crate) async fn forget_answers(self, tx: &mut Tx, kind: ActorKind, id: &str) -> Result<(), StoreError> {
        let sql = "DELETE FROM idempotency WHERE actor_kind = $1 AND actor_id = $2";
        tx.run(sql, args![kind.name(), id]).await.map(drop)
    }

    fn keyed(self, once: &Once) -> [u8; 32] {
        self.store.0.sealer.digest("", "idempotency", &once.request)
    }

    fn sealed(self, key: &str, answered: &Answered) -> Vec<u8> {
        self.store.0.sealer.seal(&self.context(key), &answered.body)
    }

    fn context(self, key: &str) -> Context {
        Context::of(&["idempotency", self.actor.kind.name(), &self.actor.id, key])
    }
}

const KEEP: &str = "UPDATE idempotency SET status = $4, answer = $5, etag = $6 \
                    WHERE actor_kind = $1 AND actor_id = $2 AND key = $3 AND status IS NULL";

impl Store {
    /// Forgets the names of writes that are older, and the oldest ones where there are more, than are to be kept, as long as the
    /// term of office lasts. Gives how many.
    pub async fn once_trim(&self, term: Term<'_>, kept: Kept) -> Result<u64, StoreError> {
        let old = format!(
            "DELETE FROM idempotency WHERE at IN (SELECT at FROM idempotency WHERE at < $1 ORDER BY at LIMIT {TRIM_BATCH})"
        );
        let beyond = format!(
            "DELETE FROM idempotency WHERE (actor_kind, actor_id, key) IN \
             (SELECT actor_kind, actor_id, key FROM idempotency ORDER BY at LIMIT \
             (SELECT CASE WHEN COUNT(*) - $1 > {TRIM_BATCH} THEN {TRIM_BATCH} WHEN COUNT(*) > $1 THEN COUNT(*) - $1 ELSE 0 END \
             FROM idempotency))"
        );
        let too_many = format!(
            "DELETE FROM idempotency WHERE (actor_kind, actor_id, key) IN \
             (SELECT actor_kind, actor_id, key FROM (SELECT actor_kind, actor_id, key, ROW_NUMBER() OVER \
             (PARTITION BY actor_kind, actor_id ORDER BY at DESC) AS place FROM idempotency) ranked \
             WHERE place > $1 LIMIT {TRIM_BATCH})"
        );
        let until = self.now().saturating_sub(kept.age.as_secs());
        let mut forgotten = 0;
        loop {
            let mut tx = self.0.db.begin_write().await?;
            if !term.lasts(&mut tx, &self.0.db).await? {
                return Ok(forgotten);
            }
            let mut batch = tx.run(old.clone(), args![until]).await?;
            batch += tx.run(too_many.clone(), args![kept.of_an_actor]).await?;
            batch += tx.run(beyond.clone(), args![kept.all]).await?;
            tx.commit().await?;
            forgotten += batch;
            if batch < TRIM_BATCH {
                return Ok(forgotten);
            }
        }
    }
}
