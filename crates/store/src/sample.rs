//! Samples of what nodes have counted, for charts.
//!
//! What must stay true: what it costs to take them does not grow with the number of nodes in statements, and what is kept of a node
//! is bounded. Samples hold what was counted since a process started, so that one which is missing makes no other one wrong.

use std::time::Duration;

use serde_json::Value as Json;

use crate::error::StoreError;
use crate::lease::Term;
use crate::sql::{Row, Value, args, tuples};
use crate::store::Store;

/// How samples are taken and how long they are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// A node that was not heard of for this long is not sampled.
    pub silence: Duration,
    /// How long each sample is kept.
    pub fine: Duration,
    /// How long one of each `coarse_step` is kept.
    pub coarse: Duration,
    /// In seconds; a multiple of the steps in which samples are taken.
    pub coarse_step: u64,
}

/// What a node had counted.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSample {
    /// The step at which it was taken, Unix time in seconds.
    pub at: u64,
    /// The node's group.
    pub group: String,
    /// The node.
    pub node: String,
    /// The run of its process.
    pub boot: String,
    /// When the node said it, Unix time in seconds.
    pub reported_at: u64,
    /// What it had counted since its process started, as [`NodeReport::traffic`](crate::NodeReport::traffic).
    pub traffic: Json,
}

/// Which samples to read.
#[derive(Debug, Clone, Default)]
pub struct SampleFilter {
    /// Of nodes of these groups; `None`: of all.
    pub groups: Option<Vec<String>>,
    /// Of this node.
    pub node: Option<String>,
    /// Of steps from this on, Unix time in seconds.
    pub from: u64,
    /// Of steps up to this.
    pub until: u64,
    /// Of steps that are multiples of this, in seconds.
    pub step: u64,
}

impl Store {
    /// Samples all nodes that are connected, at the step `at` (Unix seconds), and forgets samples that are not kept any longer, as
    /// long as the term of office lasts; gives how many were taken. One that was taken before at that step stays.
    pub async fn node_sample_take(&self, term: Term<'_>, at: u64, sampling: &Sampling) -> Result<u64, StoreError> {
        let mut tx = self.0.db.begin_write().await?;
        if !term.lasts(&mut tx, &self.0.db).await? {
            return Ok(0);
        }
        let before = |span: Duration| at.saturating_sub(span.as_secs());
        let take = "INSERT INTO node_sample (at, group_id, node_id, boot, reported_at, traffic) \
                    SELECT $1, group_id, id, boot, reported_at, traffic FROM node \
                    WHERE connected AND traffic IS NOT NULL AND reported_at >= $2 ON CONFLICT DO NOTHING";
        let taken = tx.run(take, args![at, before(sampling.silence)]).await?;
        // Of those that are thinned out only what one coarse step has brought: looking at more would be looking at them all.
        let fine = before(sampling.fine);
        let forget = "DELETE FROM node_sample WHERE at < $1 OR (at >= $2 AND at < $3 AND at % $4 <> 0)";
        let thinned = fine.saturating_sub(sampling.fine.as_secs().max(sampling.coarse_step));
        tx.run(forget, args![before(sampling.coarse), thinned, fine, sampling.coarse_step]).await?;
        tx.commit().await?;
        Ok(taken)
    }

    /// The first `limit` samples after the one of this step, group and node, by step, group, node.
    pub async fn node_sample_list(
        &self,
        filter: &SampleFilter,
        after: (u64, &str, &str),
        limit: u64,
    ) -> Result<Vec<NodeSample>, StoreError> {
        let SampleFilter { groups, node, from, until, step } = filter;
        let (at, group, id) = after;
        let mut conditions = String::new();
        let mut values: Vec<Value<'_>> = args![at, group, id, *from, *until, *step, limit].to_vec();
        if let Some(groups) = groups {
            if groups.is_empty() {
                return Ok(Vec::new());
            }
            conditions.push_str(&format!(" AND group_id IN (VALUES {})", tuples(groups.len(), 1, values.len() + 1)));
            values.extend(groups.iter().map(Value::from));
        }
        if let Some(node) = node {
            values.push(node.into());
            conditions.push_str(&format!(" AND node_id = ${}", values.len()));
        }
        let sql = format!(
            "SELECT at, group_id, node_id, boot, reported_at, traffic FROM node_sample \
             WHERE (at, group_id, node_id) > ($1, $2, $3) AND at BETWEEN $4 AND $5 AND at % $6 = 0{conditions} \
             ORDER BY at, group_id, node_id LIMIT $7"
        );
        self.0.db.rows(sql, &values).await?.iter().map(sample).collect()
    }
}

fn sample(row: &Row) -> Result<NodeSample, StoreError> {
    let traffic = serde_json::from_str(&row.text(5)?).map_err(|_| StoreError::corrupt("a sample of a node"))?;
    let (group, node, boot) = (row.text(1)?, row.text(2)?, row.text(3)?);
    Ok(NodeSample { at: row.int(0)?, group, node, boot, reported_at: row.int(4)?, traffic })
}
