//! Metrics of rollouts: where one is on, and how they ended since this process began to look.

use std::collections::BTreeMap;
use std::sync::Arc;

use milecastle_store::{Gate, Heads, Rollout, Store};
use milecastle_telemetry::metrics::{Counter, Family, Gauge, MetricError, Options, Registry};

use super::course::stored;

struct Metrics {
    on: Family<Gauge>,
    ended: Family<Counter>,
}

/// Keeps the metrics of rollouts current for as long as the store is open. The database is asked only where one goes on or ends. Must be
/// called within a tokio runtime; ends with the task.
///
/// # Errors
/// A metric of the same name is another one.
pub fn watch_rollouts(
    store: Store,
    registry: &Arc<Registry>,
) -> Result<impl Future<Output = ()> + Send + 'static, MetricError> {
    let help = "Whether a rollout is on in a gateway group: 1 or 0.";
    let on = registry.gauge("rollout_on", help, &["group"], Options::default())?;
    let help = "Rollouts that ended: promoted, rolled_back by the cluster itself, aborted by an operator.";
    let ended = registry.counter("rollouts_ended_total", help, &["group", "end"], Options::default())?;
    let metrics = Metrics { on, ended };
    Ok(async move {
        let mut watch = store.watch();
        let mut known = gates(&watch.heads());
        metrics.show(&known);
        while let Some(heads) = watch.changed().await {
            let gates = gates(&heads);
            for (group, before) in &known {
                let Some(before) = before.filter(|before| gates.get(group).is_some_and(|now| *now != Some(*before)))
                else {
                    continue;
                };
                match store.rollout_get(group).await {
                    Ok(rollout) => metrics.count(&rollout, before),
                    Err(error) => tracing::debug!(group, %error, "how a rollout ended is not counted"),
                }
            }
            metrics.show(&gates);
            known = gates;
        }
    })
}

fn gates(heads: &Heads) -> BTreeMap<String, Option<Gate>> {
    heads.iter().map(|(group, head)| (group.clone(), head.gate)).collect()
}

impl Metrics {
    fn show(&self, gates: &BTreeMap<String, Option<Gate>>) {
        for (group, gate) in gates {
            self.on.with(&[group]).set(f64::from(u8::from(gate.is_some())));
        }
        let there = |labels: &[Box<str>]| labels.first().is_some_and(|group| gates.contains_key(&**group));
        self.on.retain(there);
        self.ended.retain(there);
    }

    /// Counts the ends of rollouts from the one that was on before.
    fn count(&self, rollout: &Rollout, before: Gate) {
        for outcome in stored(rollout).1.outcomes.iter().filter(|outcome| outcome.candidate >= before.candidate) {
            self.ended.with(&[&rollout.group, outcome.end.name()]).inc();
        }
    }
}
