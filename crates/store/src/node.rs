//! Gateway nodes: who joined, and what each last reported.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::audit::{Acting, AuditAction, NewEntry, audited};
use crate::error::StoreError;
use crate::group;
use crate::maintenance::{self, Maintenance};
use crate::sql::{BATCH, Row, Tx, args, tuples};
use crate::store::Store;

const COLUMNS: &str = "n.group_id, n.id, n.token_id, n.certificate, n.host, n.version, n.joined_at, n.revoked_at, \
                       t.revoked_at, n.boot, n.reported_at, n.lineage, n.revision, n.digest, n.rejected, n.connected, n.member, \
                       n.maintenance, g.maintenance, n.traffic";

/// Where they stand; `m` is the member that reported last, if it is still known.
const TABLES: &str = "node n JOIN token t ON t.id = n.token_id JOIN gateway_group g ON g.id = n.group_id \
                      LEFT JOIN member m ON m.id = n.member";

/// Values of one node in [`Store::node_report`].
const COLUMNS_OF_REPORT: usize = 13;

/// Values of one node in [`Store::node_rivals`].
const COLUMNS_OF_RIVAL: usize = 3;

/// A node that joins.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// Its group, which is the token's.
    pub group: String,
    /// Its identity within the group.
    pub id: String,
    /// [`crate::Token::id`] of the token that it showed.
    pub token: String,
    /// Serial number of the certificate that it gets, in hexadecimal.
    pub certificate: String,
    /// Name of its machine.
    pub host: String,
    /// Its Milecastle version.
    pub version: String,
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// Name of its machine.
    pub host: String,
    /// Its Milecastle version.
    pub version: String,
    /// Names the run of its process.
    pub boot: String,
    /// When it was heard, Unix time in seconds by the database's clock ([`Store::now`]).
    pub reported_at: u64,
    /// Lineage of the configuration in force.
    pub lineage: String,
    /// Revision of the configuration in force.
    pub revision: u64,
    /// Digest of the configuration in force.
    pub digest: Vec<u8>,
    /// Objects that it could not build, and why; as the control plane writes them.
    pub rejected: Json,
    /// What it has counted of its traffic, as the control plane writes it; `None` if it has not told.
    pub traffic: Option<Json>,
    /// Whether it had a stream to the member that reports.
    pub connected: bool,
    /// [`crate::NewMember::id`] of that member; empty if none has had a stream.
    pub member: String,
}

/// A node as known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its group.
    pub group: String,
    /// Its identity within the group.
    pub id: String,
    /// The token with which it joined.
    pub token: String,
    /// Serial number of its newest certificate, in hexadecimal.
    pub certificate: String,
    /// Name of its machine, as last told.
    pub host: String,
    /// Its Milecastle version, as last told.
    pub version: String,
    /// Unix time in seconds.
    pub joined_at: u64,
    /// Whether it may talk to the control plane: neither it nor its token is revoked.
    pub welcome: bool,
    /// Its own maintenance.
    pub maintenance: Option<Maintenance>,
    /// That of its group.
    pub group_maintenance: Option<Maintenance>,
    /// What it last reported.
    pub report: Option<NodeReport>,
    /// How long ago the heart of the member that it reported to beat last; `None` if that member has left.
    pub member_silence: Option<Duration>,
}

impl Store {
    /// Records a node that joined, once more if it had before. `false`, and nothing recorded: its token is unknown in that
    /// group, revoked or expired, or the node itself was revoked.
    pub async fn node_join(&self, node: &NewNode) -> Result<bool, StoreError> {
        let sql = "INSERT INTO node (group_id, id, token_id, certificate, host, version, joined_at) \
                   SELECT t.group_id, $2, t.id, $4, $5, $6, $7 FROM token t \
                   WHERE t.group_id = $1 AND t.id = $3 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $7) \
                   ON CONFLICT (group_id, id) DO UPDATE SET token_id = excluded.token_id, \
                   certificate = excluded.certificate, host = excluded.host, version = excluded.version, \
                   joined_at = excluded.joined_at WHERE node.revoked_at IS NULL";
        let NewNode { group, id, token, certificate, host, version } = node;
        Ok(self.0.db.run(sql, args![group, id, token, certificate, host, version, self.now()]).await? > 0)
    }

    /// Records a node's next certificate. `false`: it is unknown or not welcome.
    pub async fn node_renew(&self, group: &str, id: &str, certificate: &str) -> Result<bool, StoreError> {
        let sql = "UPDATE node SET certificate = $3 WHERE group_id = $1 AND id = $2 AND revoked_at IS NULL \
                   AND EXISTS (SELECT 1 FROM token t WHERE t.id = node.token_id AND t.revoked_at IS NULL)";
        Ok(self.0.db.run(sql, args![group, id, certificate]).await? > 0)
    }

    /// Records what nodes (group, id) reported; those unknown by now are left out, and so are reports older than the one
    /// known, what a member says of the end of a stream when the node has one to another by now, and what would take a run of the
    /// node back to an earlier revision of its lineage: a member that the node has left says it late. Meant to be called with
    /// many at a time.
    pub async fn node_report(&self, reports: &[(String, String, NodeReport)]) -> Result<(), StoreError> {
        for reports in reports.chunks(BATCH) {
            let sql = format!(
                "WITH seen (group_id, id, host, version, boot, reported_at, lineage, revision, digest, rejected, \
                 connected, member, traffic) AS (VALUES {}) UPDATE node SET host = seen.host, version = seen.version, boot = seen.boot, \
                 reported_at = seen.reported_at, lineage = seen.lineage, revision = seen.revision, \
                 digest = seen.digest, rejected = seen.rejected, connected = seen.connected, member = seen.member, \
                 traffic = seen.traffic FROM seen \
                 WHERE node.group_id = seen.group_id AND node.id = seen.id \
                 AND (node.reported_at IS NULL OR node.reported_at <= seen.reported_at) \
                 AND (seen.connected OR NOT node.connected OR node.member = seen.member) \
                 AND (node.boot = seen.boot AND node.lineage = seen.lineage AND node.revision > seen.revision) IS NOT TRUE",
                tuples(reports.len(), COLUMNS_OF_REPORT, 1)
            );
            let rejected: Vec<String> = reports.iter().map(|(_, _, report)| report.rejected.to_string()).collect();
            let traffic = reports.iter().map(|(_, _, report)| report.traffic.as_ref().map(Json::to_string));
            let traffic: Vec<Option<String>> = traffic.collect();
            let mut values = Vec::with_capacity(reports.len() * COLUMNS_OF_REPORT);
            for (((group, id, report), rejected), traffic) in reports.iter().zip(&rejected).zip(&traffic) {
                values.extend_from_slice(args![group, id, &report.host, &report.version, &report.boot]);
                values.extend_from_slice(args![report.reported_at, &report.lineage, report.revision]);
                values.extend_from_slice(args![
                    &report.digest[..],
                    rejected,
                    report.connected,
                    &report.member,
                    traffic.as_deref()
                ]);
            }
            self.0.db.run(sql, &values).await?;
        }
        Ok(())
    }

    /// Of these nodes (group, id, boot) those of which another member than this one says that a process of another boot has a stream
    /// to it. Meant to be called with many at a time.
    pub async fn node_rivals(&self, member: &str, nodes: &[(&str, &str, &str)]) -> Result<Vec<Node>, StoreError> {
        let mut rivals = Vec::new();
        for nodes in nodes.chunks(BATCH) {
            let sql = format!(
                "WITH seen (group_id, id, boot) AS (VALUES {}) {} JOIN seen ON seen.group_id = n.group_id AND seen.id = n.id \
                 WHERE n.connected AND n.member <> $1 AND n.boot <> seen.boot",
                tuples(nodes.len(), COLUMNS_OF_RIVAL, 2),
                self.nodes_sql()
            );
            let mut values = args![member].to_vec();
            for (group, id, boot) in nodes {
                values.extend_from_slice(args![*group, *id, *boot]);
            }
            for row in &self.0.db.rows(sql, &values).await? {
                rivals.push(node(row)?);
            }
        }
        Ok(rivals)
    }

    /// All nodes of a group, by id.
    pub async fn node_list(&self, group: &str) -> Result<Vec<Node>, StoreError> {
        let rows =
            self.0.db.rows(format!("{} WHERE n.group_id = $1 ORDER BY n.id", self.nodes_sql()), args![group]).await?;
        rows.iter().map(node).collect()
    }

    /// The nodes of all groups, by group and id.
    pub async fn node_list_all(&self) -> Result<Vec<Node>, StoreError> {
        let rows = self.0.db.rows(format!("{} ORDER BY n.group_id, n.id", self.nodes_sql()), &[]).await?;
        rows.iter().map(node).collect()
    }

    /// One node.
    pub async fn node_get(&self, group: &str, id: &str) -> Result<Option<Node>, StoreError> {
        let sql = format!("{} WHERE n.group_id = $1 AND n.id = $2", self.nodes_sql());
        let row = self.0.db.row(sql, args![group, id]).await?;
        row.as_ref().map(node).transpose()
    }

    /// The statement that reads nodes, up to its conditions.
    fn nodes_sql(&self) -> String {
        format!("SELECT {COLUMNS}, {} - m.beat_at FROM {TABLES}", self.0.db.clock_sql())
    }
}

impl Acting<'_> {
    /// Revokes a node until it is deleted; the group's epoch grows. `false`: the group has no such node that is not revoked
    /// yet.
    pub async fn node_revoke(self, group: &str, id: &str) -> Result<bool, StoreError> {
        let sql = "UPDATE node SET revoked_at = $3 WHERE group_id = $1 AND id = $2 AND revoked_at IS NULL";
        self.node_change(group, id, AuditAction::Revoke, sql, args![group, id, self.store.now()]).await
    }

    /// Forgets a node; the group's epoch grows. With a token that is good it may join again. `false`: there is none.
    pub async fn node_delete(self, group: &str, id: &str) -> Result<bool, StoreError> {
        let sql = "DELETE FROM node WHERE group_id = $1 AND id = $2";
        self.node_change(group, id, AuditAction::Delete, sql, args![group, id]).await
    }

    /// Does to a node what the statement says; `false`: that is nothing.
    pub(crate) async fn node_change(
        self,
        group: &str,
        id: &str,
        action: AuditAction,
        sql: &'static str,
        args: &[crate::sql::Value<'_>],
    ) -> Result<bool, StoreError> {
        let _turn = self.store.0.db.turn(group).await?;
        let mut tx = self.begin().await?;
        // Before the node's own row, to which its reports are written: they do not wait for the group.
        let lock = tx.lock_group_sql();
        tx.row(lock, args![group]).await?;
        let before = shown(&mut tx, group, id).await?;
        if tx.run(sql, args).await? == 0 {
            return Ok(false);
        }
        group::touch(&mut tx, group).await?;
        let after = shown(&mut tx, group, id).await?;
        let entry = NewEntry::of(audited::NODE, id, before, after);
        self.record(&mut tx, entry.map(|entry| entry.within(group).called(action))).await?;
        tx.commit().await?;
        self.store.0.watcher.hint();
        Ok(true)
    }
}

/// What the audit log shows of a node.
async fn shown(tx: &mut Tx, group: &str, id: &str) -> Result<Option<Json>, StoreError> {
    let sql = "SELECT host, token_id, revoked_at, maintenance FROM node WHERE group_id = $1 AND id = $2";
    let Some(row) = tx.row(sql, args![group, id]).await? else { return Ok(None) };
    Ok(Some(json!({
        "host": row.text(0)?,
        "token": row.text(1)?,
        "revoked_at": row.int_opt(2)?,
        "maintenance": maintenance::read(row.text_opt(3))?,
    })))
}

fn node(row: &Row) -> Result<Node, StoreError> {
    let (host, version) = (row.text(4)?, row.text(5)?);
    let report = match (row.text_opt(9)?, row.int_opt(10)?, row.text_opt(11)?) {
        (Some(boot), Some(reported_at), Some(lineage)) => {
            let rejected = row.text(14)?;
            Some(NodeReport {
                host: host.clone(),
                version: version.clone(),
                boot,
                reported_at,
                lineage,
                revision: row.int(12)?,
                digest: row.blob(13)?,
                rejected: serde_json::from_str(&rejected).map_err(|_| StoreError::corrupt("the report of a node"))?,
                // Where it cannot be read, it is not known.
                traffic: row.text_opt(19)?.and_then(|traffic| serde_json::from_str(&traffic).ok()),
                connected: row.flag(15)?,
                member: row.text_opt(16)?.unwrap_or_default(),
            })
        }
        _ => None,
    };
    Ok(Node {
        group: row.text(0)?,
        id: row.text(1)?,
        token: row.text(2)?,
        certificate: row.text(3)?,
        host,
        version,
        joined_at: row.int(6)?,
        welcome: row.int_opt(7)?.is_none() && row.int_opt(8)?.is_none(),
        maintenance: maintenance::read(row.text_opt(17))?,
        group_maintenance: maintenance::read(row.text_opt(18))?,
        report,
        // A clock that was set back since the last beat makes it look like one of the future.
        member_silence: row.signed_opt(20)?.map(|millis| Duration::from_millis(millis.try_into().unwrap_or(0))),
    })
}
