//! Change sets that are being prepared. They are no configuration: no node hears of them before they are published.
//!
//! What must stay true:
//! - Bodies are stored sealed, whatever they hold: whoever edits has not said yet what is secret in them.
//! - Each edit names the version that it follows, so that of two people who edit a draft neither overwrites the other unseen.
//! - A draft is published once: the change set that has it ([`crate::ChangeSet::draft`]) takes it away in the same transaction.

use std::time::Duration;

use bytes::Bytes;
use milecastle_model::Key;
use serde_json::{Value as Json, json};

use crate::audit::{Acting, AuditAction, NewEntry, audited};
use crate::error::{DraftError, PublishError, StoreError};
use crate::lease::Term;
use crate::publish::Writing;
use crate::read::key;
use crate::seal::Context;
use crate::sql::{BATCH, Row, Tx, Value, args, tuples};
use crate::store::Store;

const COLUMNS: &str = "SELECT d.id, d.name, d.message, d.author, d.version, d.created_at, d.touched_at, \
                       (SELECT COUNT(*) FROM draft_change c WHERE c.group_id = d.group_id AND c.draft_id = d.id) FROM draft d";

/// Objects that an entry of the audit log names.
const NAMED: usize = 100;

/// A change set that is being prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Identity in its group.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// As in [`crate::ChangeSet::message`].
    pub message: String,
    /// Name of whoever began it.
    pub author: String,
    /// Grows with each edit, from 1.
    pub version: u64,
    /// Unix time in seconds.
    pub created_at: u64,
    /// Unix time in seconds of the last edit.
    pub touched_at: u64,
    /// How many objects it changes.
    pub objects: u64,
}

/// What a draft makes of an object.
#[derive(Clone, PartialEq, Eq)]
pub struct DraftChange {
    /// The object.
    pub key: Key,
    /// Its new body; `None` deletes it.
    pub body: Option<Bytes>,
    /// The revision of the form that it was edited from ([`milecastle_model::Object::modified`]); `None`: there was no such object.
    pub seen: Option<u64>,
}

/// Leaves the body out: it may hold secrets.
impl std::fmt::Debug for DraftChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DraftChange").field("key", &self.key).field("seen", &self.seen).finish_non_exhaustive()
    }
}

/// What to change about a draft.
#[derive(Debug, Clone, Default)]
pub struct DraftUpdate {
    /// Another name.
    pub name: Option<String>,
    /// Another message.
    pub message: Option<String>,
    /// What it is to make of these objects.
    pub put: Vec<DraftChange>,
    /// Objects that it is to leave as they are.
    pub leave: Vec<Key>,
}

/// How many drafts there may be, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftLimits {
    /// Drafts of a group.
    pub drafts: u64,
    /// Objects that a draft changes.
    pub objects: u64,
    /// Bytes of their bodies together, as they are stored.
    pub bytes: u64,
}

impl Store {
    /// The drafts of a group, by id.
    pub async fn draft_list(&self, group: &str) -> Result<Vec<Draft>, StoreError> {
        let rows = self.0.db.rows(format!("{COLUMNS} WHERE d.group_id = $1 ORDER BY d.id"), args![group]).await?;
        rows.iter().map(draft).collect()
    }

    /// A draft and all that it does, by kind's name, then id.
    pub async fn draft_get(&self, group: &str, id: &str) -> Result<Option<(Draft, Vec<DraftChange>)>, StoreError> {
        let mut tx = self.0.db.begin_read().await?;
        let Some(draft) = get(&mut tx, group, id).await? else { return Ok(None) };
        let sql =
            "SELECT kind, id, body, seen FROM draft_change WHERE group_id = $1 AND draft_id = $2 ORDER BY kind, id";
        let mut changes = Vec::new();
        tx.each(sql, args![group, id], |row| {
            let key = key(&row, 0)?;
            let sealed = row.blob_opt(2)?;
            let body = sealed.map(|body| self.0.sealer.open(&context(group, id, &key), body)).transpose()?;
            changes.push(DraftChange { key, body, seen: row.int_opt(3)? });
            Ok(())
        })
        .await?;
        Ok(Some((draft, changes)))
    }

    /// Forgets drafts that nobody has edited for so long, as long as the term of office lasts. Gives how many.
    pub async fn drafts_expire(&self, term: Term<'_>, keep: Duration) -> Result<u64, StoreError> {
        let mut tx = self.0.db.begin_write().await?;
        if !term.lasts(&mut tx, &self.0.db).await? {
            return Ok(0);
        }
        let before = self.now().saturating_sub(keep.as_secs());
        let gone = tx.run("DELETE FROM draft WHERE touched_at < $1", args![before]).await?;
        tx.commit().await?;
        Ok(gone)
    }
}

impl Acting<'_> {
    /// Begins a draft that changes nothing yet.
    pub async fn draft_create(
        self,
        group: &str,
        id: &str,
        update: &DraftUpdate,
        limits: DraftLimits,
    ) -> Result<Draft, DraftError> {
        let _turn = self.store.0.db.turn(group).await?;
        let mut tx = self.begin().await?;
        let lock = tx.lock_group_sql();
        tx.row(lock, args![group]).await?.ok_or_else(|| StoreError::UnknownGroup(group.to_owned()))?;
        let count = tx.row("SELECT COUNT(*) FROM draft WHERE group_id = $1", args![group]).await?;
        if count.map(|row| row.int(0)).transpose()?.unwrap_or(0) >= limits.drafts {
            return Err(DraftError::TooMany { most: limits.drafts });
        }
        let (now, author) = (self.store.now(), &self.actor.name);
        let (name, message) = (update.name.as_deref().unwrap_or(id), update.message.as_deref().unwrap_or_default());
        let sql = "INSERT INTO draft (group_id, id, name, message, author, version, created_at, touched_at) \
                   VALUES ($1, $2, $3, $4, $5, 1, $6, $6) ON CONFLICT (group_id, id) DO NOTHING";
        if tx.run(sql, args![group, id, name, message, author, now]).await? == 0 {
            return Err(DraftError::Exists(id.to_owned()));
        }
        self.write_draft(&mut tx, group, id, update, limits).await?;
        let made = get(&mut tx, group, id).await?.ok_or_else(|| DraftError::Missing(id.to_owned()))?;
        self.record(&mut tx, [entry(group, id, AuditAction::Create, told(update))]).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// Edits a draft that is at `version`; gives it as it is then.
    pub async fn draft_update(
        self,
        group: &str,
        id: &str,
        version: u64,
        update: &DraftUpdate,
        limits: DraftLimits,
    ) -> Result<Draft, DraftError> {
        let mut tx = self.begin().await?;
        let sql = "UPDATE draft SET version = version + 1, touched_at = $4, name = COALESCE($5, name), \
                   message = COALESCE($6, message) WHERE group_id = $1 AND id = $2 AND version = $3";
        let (name, message) = (update.name.as_deref(), update.message.as_deref());
        if tx.run(sql, args![group, id, version, self.store.now(), name, message]).await? == 0 {
            return Err(another(&mut tx, group, id, version).await?);
        }
        self.write_draft(&mut tx, group, id, update, limits).await?;
        let updated = get(&mut tx, group, id).await?.ok_or_else(|| DraftError::Missing(id.to_owned()))?;
        self.record(&mut tx, [entry(group, id, AuditAction::Update, told(update))]).await?;
        tx.commit().await?;
        Ok(updated)
    }

    /// Discards a draft that is at `version`.
    pub async fn draft_delete(self, group: &str, id: &str, version: u64) -> Result<(), DraftError> {
        let mut tx = self.begin().await?;
        let sql = "DELETE FROM draft WHERE group_id = $1 AND id = $2 AND version = $3";
        if tx.run(sql, args![group, id, version]).await? == 0 {
            return Err(another(&mut tx, group, id, version).await?);
        }
        self.record(&mut tx, [entry(group, id, AuditAction::Delete, None)]).await?;
        Ok(tx.commit().await?)
    }

    async fn write_draft(
        self,
        tx: &mut Tx,
        group: &str,
        id: &str,
        update: &DraftUpdate,
        limits: DraftLimits,
    ) -> Result<(), DraftError> {
        let touched: Vec<&Key> = update.put.iter().map(|change| &change.key).chain(&update.leave).collect();
        for keys in touched.chunks(BATCH) {
            let matches = (0..keys.len()).map(|n| format!("(kind = ${} AND id = ${})", 2 * n + 3, 2 * n + 4));
            let matches = matches.collect::<Vec<_>>().join(" OR ");
            let sql = format!("DELETE FROM draft_change WHERE group_id = $1 AND draft_id = $2 AND ({matches})");
            let keys = keys.iter().flat_map(|key| [Value::from(key.kind.name()), Value::from(&*key.id)]);
            let values: Vec<Value<'_>> = args![group, id].iter().copied().chain(keys).collect();
            tx.run(sql, &values).await?;
        }
        let sealer = &self.store.0.sealer;
        for changes in update.put.chunks(BATCH) {
            let sealed = |change: &DraftChange| {
                change.body.as_ref().map(|body| sealer.seal(&context(group, id, &change.key), body))
            };
            let bodies: Vec<Option<Vec<u8>>> = changes.iter().map(sealed).collect();
            let mut values = Vec::with_capacity(changes.len() * 6);
            for (change, body) in changes.iter().zip(&bodies) {
                values.extend_from_slice(args![group, id, change.key.kind.name(), &*change.key.id]);
                values.extend_from_slice(args![body.as_deref(), change.seen]);
            }
            let sql = format!(
                "INSERT INTO draft_change (group_id, draft_id, kind, id, body, seen) VALUES {}",
                tuples(changes.len(), 6, 1)
            );
            tx.run(sql, &values).await?;
        }
        let size =
            "SELECT COUNT(*), COALESCE(SUM(LENGTH(body)), 0) FROM draft_change WHERE group_id = $1 AND draft_id = $2";
        let Some(row) = tx.row(size, args![group, id]).await? else { return Ok(()) };
        if row.int(0)? > limits.objects {
            return Err(DraftError::TooLarge { most: limits.objects });
        }
        if row.int(1)? > limits.bytes {
            return Err(DraftError::TooHeavy { most: limits.bytes });
        }
        Ok(())
    }
}

impl Writing<'_> {
    /// Takes away the draft that is published, if it is still at this version.
    pub(crate) async fn finish_draft(&mut self, id: &str, version: u64) -> Result<(), PublishError> {
        let sql = "DELETE FROM draft WHERE group_id = $1 AND id = $2 AND version = $3";
        let gone = self.tx.run(sql, args![self.group, id, version]).await?;
        if gone == 0 { Err(PublishError::StaleDraft(id.to_owned())) } else { Ok(()) }
    }
}

/// Why there is no draft of this version.
async fn another(tx: &mut Tx, group: &str, id: &str, version: u64) -> Result<DraftError, StoreError> {
    Ok(match get(tx, group, id).await? {
        Some(found) => DraftError::Stale { expected: version, current: found.version },
        None => DraftError::Missing(id.to_owned()),
    })
}

async fn get(tx: &mut Tx, group: &str, id: &str) -> Result<Option<Draft>, StoreError> {
    let row = tx.row(format!("{COLUMNS} WHERE d.group_id = $1 AND d.id = $2"), args![group, id]).await?;
    row.as_ref().map(draft).transpose()
}

fn draft(row: &Row) -> Result<Draft, StoreError> {
    Ok(Draft {
        id: row.text(0)?,
        name: row.text(1)?,
        message: row.text(2)?,
        author: row.text(3)?,
        version: row.int(4)?,
        created_at: row.int(5)?,
        touched_at: row.int(6)?,
        objects: row.int(7)?,
    })
}

fn context(group: &str, draft: &str, key: &Key) -> Context {
    Context::of(&["draft", group, draft, key.kind.name(), &key.id])
}

/// What the audit log says of an edit: which objects it is about, and not how they are to be; the entries of what is published say that.
fn told(update: &DraftUpdate) -> Option<Json> {
    let named = |keys: &mut dyn Iterator<Item = &Key>| keys.take(NAMED).map(Key::path).collect::<Vec<_>>();
    let (puts, deletes): (Vec<_>, Vec<_>) = update.put.iter().partition(|change| change.body.is_some());
    Some(json!({
        "name": update.name,
        "message": update.message,
        "puts": named(&mut puts.iter().map(|change| &change.key)),
        "deletes": named(&mut deletes.iter().map(|change| &change.key)),
        "leaves": named(&mut update.leave.iter()),
    }))
}

fn entry(group: &str, id: &str, action: AuditAction, after: Option<Json>) -> NewEntry {
    let (group, object) = (Some(group.to_owned()), id.to_owned());
    NewEntry { group, kind: audited::DRAFT, object, action, revision: None, before: None, after }
}
