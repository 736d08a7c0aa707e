//! Links to other systems, which people find in one place.

use serde_json::{Value as Json, json};

use crate::audit::{Acting, NewEntry, audited};
use crate::error::StoreError;
use crate::sql::{Row, Tx, args};
use crate::store::Store;

const COLUMNS: &str = "SELECT id, name, url, description FROM link";

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Identity.
    pub id: String,
    /// What people read.
    pub name: String,
    /// Where it leads.
    pub url: String,
    /// More for people; may be empty.
    pub description: String,
}

impl Store {
    /// All links, by name, then id.
    pub async fn link_list(&self) -> Result<Vec<Link>, StoreError> {
        let rows = self.0.db.rows(format!("{COLUMNS} ORDER BY name, id"), &[]).await?;
        rows.iter().map(link).collect()
    }

    /// One link.
    pub async fn link_get(&self, id: &str) -> Result<Option<Link>, StoreError> {
        let row = self.0.db.row(format!("{COLUMNS} WHERE id = $1"), args![id]).await?;
        row.as_ref().map(link).transpose()
    }
}

impl Acting<'_> {
    /// Makes a link, or replaces the one of its id.
    pub async fn link_put(self, new: &Link) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let before = shown(&mut tx, &new.id).await?;
        let sql = "INSERT INTO link (id, name, url, description) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO UPDATE SET \
                   name = excluded.name, url = excluded.url, description = excluded.description";
        tx.run(sql, args![&new.id, &new.name, &new.url, &new.description]).await?;
        let after = shown(&mut tx, &new.id).await?;
        self.record(&mut tx, NewEntry::of(audited::LINK, &new.id, before, after)).await?;
        tx.commit().await
    }

    /// Deletes a link. `false`: there is none of this id.
    pub async fn link_delete(self, id: &str) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let before = shown(&mut tx, id).await?;
        let deleted = tx.run("DELETE FROM link WHERE id = $1", args![id]).await? > 0;
        self.record(&mut tx, NewEntry::of(audited::LINK, id, before, None)).await?;
        tx.commit().await?;
        Ok(deleted)
    }
}

/// What the audit log shows of a link.
async fn shown(tx: &mut Tx, id: &str) -> Result<Option<Json>, StoreError> {
    let row = tx.row(format!("{COLUMNS} WHERE id = $1"), args![id]).await?;
    let link = row.as_ref().map(link).transpose()?;
    Ok(link.map(|link| json!({ "name": link.name, "url": link.url, "description": link.description })))
}

fn link(row: &Row) -> Result<Link, StoreError> {
    Ok(Link { id: row.text(0)?, name: row.text(1)?, url: row.text(2)?, description: row.text(3)? })
}
