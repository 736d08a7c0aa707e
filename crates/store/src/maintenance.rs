//! Maintenance: a node, a group or a replica of the control plane takes no new work until an operator says otherwise.
//!
//! Of a replica it is kept by name, since its id is another one after each start; of nodes and groups with what is known of
//! them, and a node in maintenance is not forgotten.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use serde_json::json;

use crate::audit::{Acting, AuditAction, NewEntry, audited};
use crate::error::StoreError;
use crate::group;
use crate::sql::args;
use crate::store::Store;

/// Reads the maintenance of the members of a name.
const OF_MEMBER: &str = "SELECT maintenance FROM member_maintenance WHERE name = $1";

/// That something takes no new work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Maintenance {
    /// Why, for people; may be empty.
    pub reason: String,
    /// Who said so.
    pub by: String,
    /// Unix time in seconds.
    pub since: u64,
}

impl Acting<'_> {
    /// Puts a node in maintenance, or ends that with `None`; the group's epoch grows. `false`: there is no such node.
    pub async fn node_maintain(
        self,
        group: &str,
        id: &str,
        maintenance: Option<&Maintenance>,
    ) -> Result<bool, StoreError> {
        let sql = "UPDATE node SET maintenance = $3 WHERE group_id = $1 AND id = $2";
        self.node_change(group, id, AuditAction::Update, sql, args![group, id, written(maintenance).as_deref()]).await
    }

    /// Puts all nodes of a group in maintenance, those to come included, or ends that with `None`; the group's epoch grows.
    pub async fn group_maintain(self, id: &str, maintenance: Option<&Maintenance>) -> Result<(), StoreError> {
        let _turn = self.store.0.db.turn(id).await?;
        let mut tx = self.begin().await?;
        let lock = tx.lock_group_sql();
        tx.row(lock, args![id]).await?;
        let before = group::get(&mut tx, id).await?;
        let sql = "UPDATE gateway_group SET maintenance = $2, epoch = epoch + 1 WHERE id = $1";
        tx.run(sql, args![id, written(maintenance).as_deref()]).await?;
        let after = group::get(&mut tx, id).await?;
        self.record(&mut tx, group::of_group(id, Some(&before), Some(&after))).await?;
        tx.notify(id).await?;
        tx.commit().await?;
        self.store.0.watcher.hint();
        Ok(())
    }

    /// Puts the members of a name ([`crate::NewMember::host`]) in maintenance, or ends that with `None`.
    pub async fn member_maintain(self, name: &str, maintenance: Option<&Maintenance>) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let row = tx.row(OF_MEMBER, args![name]).await?;
        let before = row.map(|row| read(row.text_opt(0))).transpose()?.flatten();
        match written(maintenance) {
            Some(text) => {
                let sql = "INSERT INTO member_maintenance (name, maintenance) VALUES ($1, $2) \
                           ON CONFLICT (name) DO UPDATE SET maintenance = excluded.maintenance";
                tx.run(sql, args![name, &text]).await?
            }
            None => tx.run("DELETE FROM member_maintenance WHERE name = $1", args![name]).await?,
        };
        let [before, after] = [before.as_ref(), maintenance].map(|one| Some(json!({ "maintenance": one })));
        self.record(&mut tx, NewEntry::of(audited::MEMBER, name, before, after)).await?;
        tx.commit().await
    }
}

impl Store {
    /// Whether the members of a name are in maintenance.
    pub async fn member_maintenance(&self, name: &str) -> Result<Option<Maintenance>, StoreError> {
        let row = self.0.db.row(OF_MEMBER, args![name]).await?;
        row.and_then(|row| read(row.text_opt(0)).transpose()).transpose()
    }

    /// All names of members that are in maintenance, whether a process of that name runs or not.
    pub async fn member_maintenance_list(&self) -> Result<Vec<(String, Maintenance)>, StoreError> {
        let rows = self.0.db.rows("SELECT name, maintenance FROM member_maintenance ORDER BY name", &[]).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            all.extend(read(row.text_opt(1))?.map(|maintenance| Ok::<_, StoreError>((row.text(0)?, maintenance))));
        }
        all.into_iter().collect()
    }
}

fn written(maintenance: Option<&Maintenance>) -> Option<String> {
    maintenance.map(|maintenance| serde_json::to_string(maintenance).expect("texts and a number have a JSON form"))
}

/// Maintenance as a column holds it.
pub(crate) fn read(column: Result<Option<String>, StoreError>) -> Result<Option<Maintenance>, StoreError> {
    let parsed = |text: String| serde_json::from_str(&text).map_err(|_| StoreError::corrupt("a maintenance"));
    column?.map(parsed).transpose()
}
