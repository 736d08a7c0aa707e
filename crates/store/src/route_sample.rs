//! Samples of what nodes have told of their routes, for charts.
//!
//! What must stay true: a DP manager writes one row for each group and step, however many nodes and routes there are, and writing it
//! again changes nothing.

use std::time::Duration;

use serde_json::Value as Json;

use crate::error::StoreError;
use crate::lease::Term;
use crate::sql::{BATCH, Row, Value, args, tuples};
use crate::store::Store;

/// Values of one sample in [`Store::route_sample_put`].
const COLUMNS: usize = 7;

/// What the nodes of a group have told one member in a step.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteSample {
    /// How long the step is, in seconds.
    pub span: u64,
    /// Its end, Unix time in seconds; a multiple of `span`.
    pub at: u64,
    /// The group.
    pub group: String,
    /// [`crate::NewMember::id`] of the member that they told.
    pub member: String,
    /// How many of the nodes that told still had a stream to it at the end.
    pub nodes: u64,
    /// The time that they told of, of all nodes together, in milliseconds.
    pub covered_ms: u64,
    /// What they told by route, as the control plane writes it.
    pub routes: Json,
}

/// Which samples to read.
#[derive(Debug, Clone, Default)]
pub struct RouteSampleFilter {
    /// Of these groups; `None`: of all.
    pub groups: Option<Vec<String>>,
    /// Of steps of this length, in seconds.
    pub span: u64,
    /// Of steps that end later than this, Unix time in seconds.
    pub after: u64,
    /// Of steps that end then or before.
    pub until: u64,
}

impl Store {
    /// Records samples. One that is there is replaced.
    pub async fn route_sample_put(&self, samples: &[RouteSample]) -> Result<(), StoreError> {
        for samples in samples.chunks(BATCH) {
            let sql = format!(
                "INSERT INTO route_sample (span, at, group_id, member, nodes, covered_ms, routes) VALUES {} \
                 ON CONFLICT (span, at, group_id, member) DO UPDATE SET nodes = excluded.nodes, \
                 covered_ms = excluded.covered_ms, routes = excluded.routes",
                tuples(samples.len(), COLUMNS, 1)
            );
            let routes: Vec<String> = samples.iter().map(|sample| sample.routes.to_string()).collect();
            let mut values: Vec<Value<'_>> = Vec::with_capacity(samples.len() * COLUMNS);
            for (sample, routes) in samples.iter().zip(&routes) {
                let RouteSample { span, at, group, member, nodes, covered_ms, .. } = sample;
                values.extend_from_slice(args![*span, *at, group, member, *nodes, *covered_ms, routes]);
            }
            self.0.db.run(sql, &values).await?;
        }
        Ok(())
    }

    /// The first `limit` samples after the one of this step, group and member, by step, group, member.
    pub async fn route_sample_list(
        &self,
        filter: &RouteSampleFilter,
        after: (u64, &str, &str),
        limit: u64,
    ) -> Result<Vec<RouteSample>, StoreError> {
        let RouteSampleFilter { groups, span, after: from, until } = filter;
        let (at, group, member) = after;
        let mut condition = String::new();
        let mut values: Vec<Value<'_>> = args![*span, at, group, member, *from, *until, limit].to_vec();
        if let Some(groups) = groups {
            if groups.is_empty() {
                return Ok(Vec::new());
            }
            condition = format!(" AND group_id IN (VALUES {})", tuples(groups.len(), 1, values.len() + 1));
            values.extend(groups.iter().map(Value::from));
        }
        let sql = format!(
            "SELECT span, at, group_id, member, nodes, covered_ms, routes FROM route_sample WHERE span = $1 \
             AND (at, group_id, member) > ($2, $3, $4) AND at > $5 AND at <= $6{condition} \
             ORDER BY at, group_id, member LIMIT $7"
        );
        self.0.db.rows(sql, &values).await?.iter().map(sample).collect()
    }

    /// Forgets samples: of steps of this length in seconds those that ended so long ago, of all others those that ended `rest` ago,
    /// as long as the term of office lasts; gives how many.
    pub async fn route_sample_trim(
        &self,
        term: Term<'_>,
        (span, keep): (u64, Duration),
        rest: Duration,
    ) -> Result<u64, StoreError> {
        let mut tx = self.0.db.begin_write().await?;
        if !term.lasts(&mut tx, &self.0.db).await? {
            return Ok(0);
        }
        let before = |keep: Duration| self.now().saturating_sub(keep.as_secs());
        let sql = "DELETE FROM route_sample WHERE (span = $1 AND at < $2) OR (span <> $1 AND at < $3)";
        let forgotten = tx.run(sql, args![span, before(keep), before(rest)]).await?;
        tx.commit().await?;
        Ok(forgotten)
    }
}

fn sample(row: &Row) -> Result<RouteSample, StoreError> {
    let routes = serde_json::from_str(&row.text(6)?).map_err(|_| StoreError::corrupt("a sample of routes"))?;
    let (group, member) = (row.text(2)?, row.text(3)?);
    Ok(RouteSample {
        span: row.int(0)?,
        at: row.int(1)?,
        group,
        member,
        nodes: row.int(4)?,
        covered_ms: row.int(5)?,
        routes,
    })
}
