//! Gateway groups: the units that nodes join and that configuration is published to.

use std::collections::BTreeMap;

use milecastle_model::Kind;

use serde_json::{Value as Json, json};

use crate::audit::{Acting, AuditAction, NewEntry, audited};
use crate::error::{GroupError, StoreError};
use crate::maintenance::{self, Maintenance};
use crate::read;
use crate::seal::{hex, random};
use crate::sql::{Row, Tx, args};
use crate::store::Store;
use crate::watch::{self, Gate};

const COLUMNS: &str = "SELECT id, name, labels, supersedes, lineage, head, floor, epoch, created_at, maintenance, base, \
                       candidate FROM gateway_group";

/// A gateway group as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Identity.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Lineages that an operator has declared over: nodes that stand in one of them take the group's own lineage over.
    pub supersedes: Vec<String>,
    /// Whether all of its nodes are in maintenance.
    pub maintenance: Option<Maintenance>,
    /// As in [`crate::Head`].
    pub lineage: String,
    /// As in [`crate::Head`].
    pub revision: u64,
    /// The oldest revision from which [`Store::changes_since`] still tells the changes.
    pub floor: u64,
    /// As in [`crate::Head`].
    pub epoch: u64,
    /// As in [`crate::Head`].
    pub gate: Option<Gate>,
    /// Unix time in seconds.
    pub created_at: u64,
}

/// A group to create.
#[derive(Debug, Clone)]
pub struct NewGroup {
    /// Identity; must not be taken.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

impl NewGroup {
    /// A group of which id and name are the same, without labels.
    pub fn named(id: impl Into<String>) -> NewGroup {
        let id = id.into();
        NewGroup { name: id.clone(), id, labels: BTreeMap::new() }
    }
}

/// What to change about a group; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct GroupUpdate {
    /// What people call it.
    pub name: Option<String>,
    /// All labels anew.
    pub labels: Option<BTreeMap<String, String>>,
}

impl Store {
    /// All groups, by id.
    pub async fn group_list(&self) -> Result<Vec<Group>, StoreError> {
        let rows = self.0.db.rows(format!("{COLUMNS} ORDER BY id"), &[]).await?;
        rows.iter().map(group).collect()
    }

    /// One group.
    pub async fn group_get(&self, id: &str) -> Result<Group, StoreError> {
        get(&mut self.0.db.begin_read().await?, id).await
    }

    /// Gives a group a lineage of its own from here on, if its history does not hold what somebody has read of it: `revision` of
    /// `lineage`, with this mark. Then the database lost commits, as a standby does that was promoted before it had them, and
    /// their numbers are used again: nodes that hold the first ones must not take the others for what follows. `true`: it was so,
    /// and the group's epoch grew.
    pub async fn group_diverge(&self, id: &str, lineage: &str, revision: u64, mark: &str) -> Result<bool, StoreError> {
        let _turn = self.0.db.turn(id).await?;
        let mut tx = self.0.db.begin_write().await?;
        let lock = tx.lock_group_sql();
        let row = tx.row(lock, args![id]).await?.ok_or_else(|| StoreError::UnknownGroup(id.to_owned()))?;
        let (present, head, floor) = (row.text(0)?, row.int(1)?, row.int(2)?);
        // Of what is below the floor nothing can be said.
        let held = revision <= floor || (revision <= head && read::mark_of(&mut tx, id, revision).await? == mark);
        if present != lineage || held {
            return Ok(false);
        }
        let sql = "UPDATE gateway_group SET lineage = $2, epoch = epoch + 1 WHERE id = $1";
        tx.run(sql, args![id, &hex(&random::<16>())]).await?;
        tx.notify(id).await?;
        tx.commit().await?;
        self.0.watcher.hint();
        Ok(true)
    }
}

impl Acting<'_> {
    /// Creates a group, at revision 0 and with a lineage of its own.
    pub async fn group_create(self, group: &NewGroup) -> Result<Group, GroupError> {
        let mut tx = self.begin().await?;
        if insert(&mut tx, group, self.store.now()).await? == 0 {
            return Err(GroupError::Exists(group.id.clone()));
        }
        let created = get(&mut tx, &group.id).await?;
        self.record(&mut tx, of_group(&group.id, None, Some(&created))).await?;
        tx.notify(&group.id).await?;
        tx.commit().await?;
        self.store.0.watcher.hint();
        Ok(created)
    }

    /// Changes name or labels; the group's epoch grows.
    pub async fn group_update(self, id: &str, update: &GroupUpdate) -> Result<Group, StoreError> {
        let _turn = self.store.0.db.turn(id).await?;
        let mut tx = self.begin().await?;
        let lock = tx.lock_group_sql();
        tx.row(lock, args![id]).await?;
        let before = get(&mut tx, id).await?;
        let labels = update.labels.as_ref().map(to_json);
        let sql = "UPDATE gateway_group SET name = COALESCE($2, name), labels = COALESCE($3, labels), epoch = epoch + 1 \
                   WHERE id = $1";
        tx.run(sql, args![id, update.name.as_deref(), labels.as_deref()]).await?;
        let updated = get(&mut tx, id).await?;
        self.record(&mut tx, of_group(id, Some(&before), Some(&updated))).await?;
        tx.notify(id).await?;
        tx.commit().await?;
        self.store.0.watcher.hint();
        Ok(updated)
    }

    /// Declares lineages over: nodes that stand in one of them take the group's own one over, whatever its revision
    /// ([`Group::supersedes`]). With `anew` the group's present lineage is among them and gets a successor: its revisions
    /// were counted further elsewhere than here, so the next ones must not be taken for those. The group's epoch grows.
    pub async fn group_supersede(self, id: &str, over: &[String], anew: bool) -> Result<Group, StoreError> {
        let _turn = self.store.0.db.turn(id).await?;
        let mut tx = self.begin().await?;
        let lock = tx.lock_group_sql();
        tx.row(lock, args![id]).await?.ok_or_else(|| StoreError::UnknownGroup(id.to_owned()))?;
        let before = get(&mut tx, id).await?;
        let mut group = before.clone();
        let mut listed = group.supersedes;
        listed.extend(over.iter().filter(|lineage| **lineage != group.lineage).cloned());
        if anew {
            listed.push(std::mem::replace(&mut group.lineage, hex(&random::<16>())));
        }
        listed.sort();
        listed.dedup();
        let sql = "UPDATE gateway_group SET lineage = $2, supersedes = $3, epoch = epoch + 1 WHERE id = $1";
        tx.run(sql, args![id, &group.lineage, &to_json(&listed)]).await?;
        let updated = get(&mut tx, id).await?;
        let entry = of_group(id, Some(&before), Some(&updated));
        self.record(&mut tx, entry.map(|entry| entry.called(AuditAction::Confirm))).await?;
        tx.notify(id).await?;
        tx.commit().await?;
        self.store.0.watcher.hint();
        Ok(updated)
    }

    /// Deletes a group with all that belongs to it. Unless `force`, only one without objects and nodes.
    pub async fn group_delete(self, id: &str, force: bool) -> Result<(), GroupError> {
        let _turn = self.store.0.db.turn(id).await?;
        let mut tx = self.begin().await?;
        let lock = tx.lock_group_sql();
        tx.row(lock, args![id]).await?.ok_or_else(|| StoreError::UnknownGroup(id.to_owned()))?;
        // Its settings are no reason to keep it.
        let count = "SELECT (SELECT COUNT(*) FROM resource WHERE group_id = $1 AND kind <> $2), \
                     (SELECT COUNT(*) FROM node WHERE group_id = $1)";
        let row = tx
            .row(count, args![id, Kind::GroupSettings.name()])
            .await?
            .ok_or_else(|| StoreError::corrupt("a count without a row"))?;
        let (objects, nodes) = (row.int(0)?, row.int(1)?);
        if !force && objects + nodes > 0 {
            return Err(GroupError::NotEmpty { id: id.to_owned(), objects, nodes });
        }
        let mut entry = of_group(id, Some(&get(&mut tx, id).await?), None);
        if let Some(before) = entry.as_mut().and_then(|entry| entry.before.as_mut()) {
            // What goes with it has no entries of its own.
            before["objects"] = objects.into();
            before["nodes"] = nodes.into();
        }
        tx.run("DELETE FROM gateway_group WHERE id = $1", args![id]).await?;
        self.record(&mut tx, entry).await?;
        tx.notify(id).await?;
        tx.commit().await?;
        self.store.0.watcher.hint();
        Ok(())
    }
}

/// Inserts a group that is made at `now` (Unix seconds); 0 if its id is taken.
pub(crate) async fn insert(tx: &mut Tx, group: &NewGroup, now: u64) -> Result<u64, StoreError> {
    let (labels, lineage) = (to_json(&group.labels), hex(&random::<16>()));
    let insert = "INSERT INTO gateway_group (id, name, labels, lineage, head, floor, epoch, created_at) \
                  VALUES ($1, $2, $3, $4, 0, 0, 0, $5) ON CONFLICT (id) DO NOTHING";
    tx.run(insert, args![&group.id, &group.name, &labels, &lineage, now]).await
}

/// Grows the epoch of a group: something about it besides its objects changed.
pub(crate) async fn touch(tx: &mut Tx, id: &str) -> Result<(), StoreError> {
    tx.run("UPDATE gateway_group SET epoch = epoch + 1 WHERE id = $1", args![id]).await?;
    tx.notify(id).await
}

/// What the audit log says of a group; `None` if it is as it was.
pub(crate) fn of_group(id: &str, before: Option<&Group>, after: Option<&Group>) -> Option<NewEntry> {
    let [before, after] = [before, after].map(|group| group.map(shown));
    Some(NewEntry::of(audited::GROUP, id, before, after)?.within(id))
}

fn shown(group: &Group) -> Json {
    json!({
        "name": group.name,
        "labels": group.labels,
        "maintenance": group.maintenance,
        "lineage": group.lineage,
        "supersedes": group.supersedes,
    })
}

pub(crate) async fn get(tx: &mut Tx, id: &str) -> Result<Group, StoreError> {
    let row = tx.row(format!("{COLUMNS} WHERE id = $1"), args![id]).await?;
    group(&row.ok_or_else(|| StoreError::UnknownGroup(id.to_owned()))?)
}

fn group(row: &Row) -> Result<Group, StoreError> {
    let labels = row.text(2)?;
    let supersedes = row.text(3)?;
    Ok(Group {
        id: row.text(0)?,
        name: row.text(1)?,
        labels: serde_json::from_str(&labels).map_err(|_| StoreError::corrupt("the labels of a group"))?,
        supersedes: serde_json::from_str(&supersedes).map_err(|_| StoreError::corrupt("the lineages that are over"))?,
        maintenance: maintenance::read(row.text_opt(9))?,
        lineage: row.text(4)?,
        revision: row.int(5)?,
        floor: row.int(6)?,
        epoch: row.int(7)?,
        gate: watch::gate(row.int_opt(10)?, row.int_opt(11)?),
        created_at: row.int(8)?,
    })
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("texts have a JSON form")
}
