//! The replicas of the control plane: who is alive, and what their nodes run.
//!
//! Time is the database's own, in milliseconds, so that replicas whose clocks differ agree on who is silent.

use std::time::Duration;

use serde_json::Value as Json;

use crate::bootstrap::newest_known;
use crate::error::StoreError;
use crate::lease::Term;
use crate::rule::{OLDEST, RELEASE};
use crate::sql::{Db, Row, args};
use crate::store::Store;

/// The newest migration that a member knows which does not say: migration 9 gave them the word.
const SILENT_ON_IT: u64 = 8;

/// A process of the control plane, as it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMember {
    /// Identity: another one after each start.
    pub id: String,
    /// What it does: `dashboard`, `dp-manager`.
    pub roles: Vec<String>,
    /// Name of its machine, or what its operator calls it.
    pub host: String,
    /// Its Milecastle version.
    pub version: String,
    /// Where it listens, for people.
    pub address: String,
}

/// A process of the control plane, as known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it says of itself.
    pub told: NewMember,
    /// Unix time in seconds.
    pub started_at: u64,
    /// How long ago its heart beat last.
    pub silence: Duration,
    /// The oldest release that may run on the schema that the database has now, if this member's may not: it has stopped to work.
    pub outdated: Option<String>,
}

/// What a leader let go of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Members that were silent for too long.
    pub members: u64,
    /// Nodes that were.
    pub nodes: u64,
}

impl Store {
    /// Says that a member is alive, and all of what it says of itself; how that ends tells [`Store::takes_writes`].
    pub async fn member_beat(&self, member: &NewMember) -> Result<(), StoreError> {
        let sql = format!(
            "INSERT INTO member (id, roles, host, version, address, started_at, knows, beat_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, {clock}) ON CONFLICT (id) DO UPDATE SET roles = excluded.roles, \
             host = excluded.host, version = excluded.version, address = excluded.address, beat_at = excluded.beat_at",
            clock = self.0.db.clock_sql()
        );
        let NewMember { id, roles, host, version, address } = member;
        let roles = roles.join(",");
        let args = args![id, &roles, host, version, address, self.now(), newest_known()];
        let beaten = self.0.db.run(sql, args).await.map(drop);
        self.0.writability.note(&beaten);
        beaten
    }

    /// Takes a member that stops off the list, and ends its leases.
    pub async fn member_leave(&self, id: &str) -> Result<(), StoreError> {
        let mut tx = self.0.db.begin_write().await?;
        tx.run("UPDATE lease SET ends_at = 0 WHERE holder = $1", args![id]).await?;
        tx.run("DELETE FROM member WHERE id = $1", args![id]).await?;
        tx.commit().await
    }

    /// All members, those that fell silent included, by machine and id.
    pub async fn member_list(&self) -> Result<Vec<Member>, StoreError> {
        let sql = format!(
            "SELECT id, roles, host, version, address, started_at, {} - beat_at, \
             CASE WHEN COALESCE(knows, {SILENT_ON_IT}) < {OLDEST} THEN {RELEASE} END FROM member ORDER BY host, id",
            self.0.db.clock_sql()
        );
        self.0.db.rows(sql, &[]).await?.iter().map(member).collect()
    }

    /// Forgets members that were silent for longer than `members`, and nodes that were neither heard of nor joined since
    /// `nodes` (Unix time in seconds), those of each group in a transaction of their own. `None`: the term of office is over, and
    /// nothing more is forgotten. A group that cannot be had keeps no other one waiting; the first error is given once all were tried.
    pub async fn forget_lost(
        &self,
        term: Term<'_>,
        members: Duration,
        nodes: u64,
    ) -> Result<Option<Forgotten>, StoreError> {
        let mut tx = self.0.db.begin_write().await?;
        if !term.lasts(&mut tx, &self.0.db).await? {
            return Ok(None);
        }
        let clock = self.0.db.clock_sql();
        let sql = format!("DELETE FROM member WHERE beat_at < {clock} - $1");
        let members = tx.run(sql, args![millis(members)]).await?;
        tx.commit().await?;
        // One in maintenance is silent because somebody means it to be.
        let lost = "SELECT DISTINCT group_id FROM node WHERE COALESCE(reported_at, joined_at) < $1 AND joined_at < $1 \
                    AND maintenance IS NULL";
        let (mut forgotten, mut failed) = (Forgotten { members, nodes: 0 }, None);
        for group in self.0.db.rows(lost, args![nodes]).await? {
            match self.forget_nodes(term, &group.text(0)?, nodes).await {
                Ok(Some(gone)) => forgotten.nodes += gone,
                Ok(None) => return Ok(None),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Some(forgotten)), Err)
    }

    /// Forgets the nodes of a group that were silent since `since`. `None`, and nothing forgotten: the term of office is over.
    async fn forget_nodes(&self, term: Term<'_>, group: &str, since: u64) -> Result<Option<u64>, StoreError> {
        let sql = "DELETE FROM node WHERE group_id = $1 AND COALESCE(reported_at, joined_at) < $2 AND joined_at < $2 \
                   AND maintenance IS NULL";
        let _turn = self.0.db.turn(group).await?;
        let mut tx = self.0.db.begin_write().await?;
        let lock = tx.lock_group_sql();
        tx.row(lock, args![group]).await?;
        let gone = tx.run(sql, args![group, since]).await?;
        if gone == 0 {
            return Ok(Some(0));
        }
        crate::group::touch(&mut tx, group).await?;
        // Asked only now: the lease must not be held while the group is waited for.
        if !term.lasts(&mut tx, &self.0.db).await? {
            return Ok(None);
        }
        tx.commit().await?;
        self.0.watcher.hint();
        Ok(Some(gone))
    }

    /// Records what the nodes of a group run that are connected to a member, in place of what it said before. Without effect
    /// if group or member are not known.
    pub async fn receipt_put(&self, group: &str, member: &str, standing: &Json) -> Result<(), StoreError> {
        let hold = match self.0.db {
            // One of them may be deleted at this moment, which is no fault.
            Db::Pg(_) => " FOR KEY SHARE",
            Db::Lite { .. } => "",
        };
        let sql = format!(
            "INSERT INTO receipt (group_id, member, standing) SELECT g.id, m.id, $3 FROM gateway_group g, member m \
             WHERE g.id = $1 AND m.id = $2{hold} \
             ON CONFLICT (group_id, member) DO UPDATE SET standing = excluded.standing"
        );
        self.0.db.run(sql, args![group, member, &standing.to_string()]).await.map(drop)
    }

    /// What the members that were silent for less than `silence` said last of a group's nodes, by member.
    pub async fn receipt_list(&self, group: &str, silence: Duration) -> Result<Vec<(String, Json)>, StoreError> {
        let clock = self.0.db.clock_sql();
        let sql = format!(
            "SELECT r.member, r.standing FROM receipt r JOIN member m ON m.id = r.member \
             WHERE r.group_id = $1 AND m.beat_at > {clock} - $2 ORDER BY r.member"
        );
        let rows = self.0.db.rows(sql, args![group, millis(silence)]).await?;
        let parsed = |row: &Row| {
            let standing = serde_json::from_str(&row.text(1)?).map_err(|_| StoreError::corrupt("a receipt"))?;
            Ok((row.text(0)?, standing))
        };
        rows.iter().map(parsed).collect()
    }
}

fn member(row: &Row) -> Result<Member, StoreError> {
    let roles = row.text(1)?.split(',').filter(|role| !role.is_empty()).map(str::to_owned).collect();
    let told = NewMember { id: row.text(0)?, roles, host: row.text(2)?, version: row.text(3)?, address: row.text(4)? };
    // A clock that was set back since the last beat makes it look like one of the future.
    let silence = Duration::from_millis(row.int_or_zero(6)?);
    Ok(Member { told, started_at: row.int(5)?, silence, outdated: row.text_opt(7)? })
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
