//! Addresses that operators have given, of which it is probed whether they answer.

use serde_json::{Value as Json, json};

use crate::audit::{Acting, NewEntry, audited};
use crate::error::StoreError;
use crate::sql::{Row, Tx, args};
use crate::store::Store;

const COLUMNS: &str = "SELECT id, name, url FROM probe";

/// A probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Identity.
    pub id: String,
    /// What people read.
    pub name: String,
    /// What is asked.
    pub url: String,
}

impl Store {
    /// All probes, by id.
    pub async fn probe_list(&self) -> Result<Vec<Probe>, StoreError> {
        let rows = self.0.db.rows(format!("{COLUMNS} ORDER BY id"), &[]).await?;
        rows.iter().map(probe).collect()
    }

    /// One probe.
    pub async fn probe_get(&self, id: &str) -> Result<Option<Probe>, StoreError> {
        let row = self.0.db.row(format!("{COLUMNS} WHERE id = $1"), args![id]).await?;
        row.as_ref().map(probe).transpose()
    }
}

impl Acting<'_> {
    /// Makes a probe, or replaces the one of its id. `false`, and nothing done: it would be one more than `most`.
    pub async fn probe_put(self, new: &Probe, most: u64) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let before = shown(&mut tx, &new.id).await?;
        let sql = "INSERT INTO probe (id, name, url) SELECT $1, $2, $3 \
                   WHERE (SELECT COUNT(*) FROM probe WHERE id <> $1) < $4 \
                   ON CONFLICT (id) DO UPDATE SET name = excluded.name, url = excluded.url";
        if tx.run(sql, args![&new.id, &new.name, &new.url, most]).await? == 0 {
            return Ok(false);
        }
        let after = shown(&mut tx, &new.id).await?;
        self.record(&mut tx, NewEntry::of(audited::PROBE, &new.id, before, after)).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Deletes a probe. `false`: there is none of this id.
    pub async fn probe_delete(self, id: &str) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let before = shown(&mut tx, id).await?;
        let deleted = tx.run("DELETE FROM probe WHERE id = $1", args![id]).await? > 0;
        self.record(&mut tx, NewEntry::of(audited::PROBE, id, before, None)).await?;
        tx.commit().await?;
        Ok(deleted)
    }
}

/// What the audit log shows of a probe.
async fn shown(tx: &mut Tx, id: &str) -> Result<Option<Json>, StoreError> {
    let row = tx.row(format!("{COLUMNS} WHERE id = $1"), args![id]).await?;
    let probe = row.as_ref().map(probe).transpose()?;
    Ok(probe.map(|probe| json!({ "name": probe.name, "url": probe.url })))
}

fn probe(row: &Row) -> Result<Probe, StoreError> {
    Ok(Probe { id: row.text(0)?, name: row.text(1)?, url: row.text(2)? })
}
