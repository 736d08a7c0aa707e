//! What the nodes of all groups have logged of level WARN and ERROR, in one place.
//!
//! What must stay true: a line that a node writes again and again is one row; what is kept of a node is bounded.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::error::StoreError;
use crate::lease::Term;
use crate::sql::{BATCH, Row, Value, args, tuples};
use crate::store::Store;

/// Values of one line in [`Store::node_warn`].
const COLUMNS: usize = 9;

/// A line of a node's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeWarning {
    /// The node's group.
    pub group: String,
    /// The node.
    pub node: String,
    /// Whether its level is ERROR.
    pub is_error: bool,
    /// The module that wrote it.
    pub target: String,
    /// The line.
    pub text: String,
    /// The run of the node's process that wrote it last.
    pub boot: String,
    /// How often it was written: in that run, and since the node forgot it last, where it is told; in all where it is read.
    pub times: u64,
    /// When it was written first, Unix time in seconds.
    pub first_at: u64,
    /// The same, of the last time.
    pub last_at: u64,
}

/// Which lines to read.
#[derive(Debug, Clone, Default)]
pub struct WarningFilter {
    /// Of these groups; `None`: of all.
    pub groups: Option<Vec<String>>,
    /// Of this node.
    pub node: Option<String>,
    /// Of level ERROR, or of the other one.
    pub is_error: Option<bool>,
    /// In which this text stands.
    pub text: Option<String>,
    /// Not last written before this, Unix time in seconds.
    pub since: Option<u64>,
}

impl Store {
    /// Records what nodes have told of their logs; of nodes that are unknown by now nothing is. Of each of these nodes the `most` lines
    /// stay that were written last. Meant to be called with many at a time, none of them twice.
    pub async fn node_warn(&self, warnings: &[NodeWarning], most: u64) -> Result<(), StoreError> {
        for warnings in warnings.chunks(BATCH) {
            let sql = format!(
                "INSERT INTO node_warning (group_id, node_id, is_error, target, text, boot, times, in_boot, first_at, last_at) \
                 SELECT seen.* FROM (SELECT column1, column2, column3, column4, column5, column6, column7, column7 AS in_boot, \
                 column8, column9 FROM (VALUES {}) AS told) AS seen \
                 WHERE EXISTS (SELECT 1 FROM node WHERE node.group_id = column1 AND node.id = column2) \
                 ON CONFLICT (group_id, node_id, is_error, target, text) DO UPDATE SET \
                 times = node_warning.times + excluded.in_boot - \
                 CASE WHEN node_warning.boot = excluded.boot AND node_warning.in_boot <= excluded.in_boot \
                 THEN node_warning.in_boot ELSE 0 END, in_boot = excluded.in_boot, boot = excluded.boot, \
                 last_at = CASE WHEN node_warning.last_at < excluded.last_at THEN excluded.last_at ELSE node_warning.last_at END",
                tuples(warnings.len(), COLUMNS, 1)
            );
            let mut values: Vec<Value<'_>> = Vec::with_capacity(warnings.len() * COLUMNS);
            for NodeWarning { group, node, is_error, target, text, boot, times, first_at, last_at } in warnings {
                values
                    .extend_from_slice(args![group, node, *is_error, target, text, boot, *times, *first_at, *last_at]);
            }
            self.0.db.run(sql, &values).await?;
        }
        let nodes: BTreeSet<_> = warnings.iter().map(|warning| (&warning.group, &warning.node)).collect();
        let nodes: Vec<_> = nodes.into_iter().collect();
        for nodes in nodes.chunks(BATCH) {
            let mut values = args![most].to_vec();
            values.extend(nodes.iter().flat_map(|(group, node)| args![*group, *node].to_vec()));
            // Of what others have told nothing is read: lines are found by their nodes, with which their key begins.
            let sql = format!(
                "DELETE FROM node_warning WHERE (group_id, node_id, is_error, target, text) IN \
                 (SELECT group_id, node_id, is_error, target, text FROM (SELECT group_id, node_id, is_error, target, text, \
                 ROW_NUMBER() OVER (PARTITION BY group_id, node_id ORDER BY last_at DESC, target, text) AS place \
                 FROM node_warning WHERE (group_id, node_id) IN (VALUES {})) AS placed WHERE place > $1)",
                tuples(nodes.len(), 2, 2)
            );
            self.0.db.run(sql, &values).await?;
        }
        Ok(())
    }

    /// The first `limit` lines, those first that were written last.
    pub async fn node_warning_list(&self, filter: &WarningFilter, limit: u64) -> Result<Vec<NodeWarning>, StoreError> {
        let WarningFilter { groups, node, is_error, text, since } = filter;
        let mut conditions = vec!["last_at >= $1".to_owned()];
        let mut values: Vec<Value<'_>> = args![since.unwrap_or(0), limit].to_vec();
        if let Some(groups) = groups {
            if groups.is_empty() {
                return Ok(Vec::new());
            }
            let first = values.len() + 1;
            values.extend(groups.iter().map(Value::from));
            conditions.push(format!("group_id IN (VALUES {})", tuples(groups.len(), 1, first)));
        }
        let further = [
            ("node_id = ?", node.as_ref().map(Value::from)),
            ("is_error = ?", is_error.map(Value::from)),
            ("replace(text, ?, '') <> text", text.as_ref().map(Value::from)),
        ];
        for (condition, value) in further.into_iter().filter_map(|(condition, value)| Some((condition, value?))) {
            values.push(value);
            conditions.push(condition.replace('?', &format!("${}", values.len())));
        }
        let sql = format!(
            "SELECT group_id, node_id, is_error, target, text, boot, times, first_at, last_at FROM node_warning \
             WHERE {} ORDER BY last_at DESC, group_id, node_id, target, text LIMIT $2",
            conditions.join(" AND ")
        );
        self.0.db.rows(sql, &values).await?.iter().map(warning).collect()
    }

    /// Forgets lines that were not written for `keep`, as long as the term of office lasts; gives how many.
    pub async fn node_warning_trim(&self, term: Term<'_>, keep: Duration) -> Result<u64, StoreError> {
        let mut tx = self.0.db.begin_write().await?;
        if !term.lasts(&mut tx, &self.0.db).await? {
            return Ok(0);
        }
        let until = self.now().saturating_sub(keep.as_secs());
        let forgotten = tx.run("DELETE FROM node_warning WHERE last_at < $1", args![until]).await?;
        tx.commit().await?;
        Ok(forgotten)
    }
}

fn warning(row: &Row) -> Result<NodeWarning, StoreError> {
    Ok(NodeWarning {
        group: row.text(0)?,
        node: row.text(1)?,
        is_error: row.flag(2)?,
        target: row.text(3)?,
        text: row.text(4)?,
        boot: row.text(5)?,
        times: row.int(6)?,
        first_at: row.int(7)?,
        last_at: row.int(8)?,
    })
}
