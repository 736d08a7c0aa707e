//! Metrics of the database as a process of the control plane uses it: its connections, and what it asks on them. Of PostgreSQL;
//! a SQLite file has one writer and nobody else.

use std::sync::Arc;
use std::time::Duration;

use milecastle_store::{Store, Usage};
use milecastle_telemetry::metrics::{Counter, Family, Gauge, MetricError, Options, Registry};
use tokio::time::{MissedTickBehavior, interval};

/// How often they are brought up to date.
const EVERY: Duration = Duration::from_secs(1);

struct Metrics {
    connections: Family<Gauge>,
    statements: Family<Counter>,
    seconds: Family<Gauge>,
}

/// Keeps the metrics of a store current, for ever. Must be called within a tokio runtime; ends with the task.
///
/// # Errors
/// A metric of the same name is another one.
pub fn watch_database(
    store: Store,
    registry: &Arc<Registry>,
) -> Result<impl Future<Output = ()> + Send + 'static, MetricError> {
    let help = "Connections to the database: in use, and idle.";
    let connections = registry.gauge("database_connections", help, &["state"], Options::default())?;
    let help = "Statements that the database has answered, and those that failed or were given up.";
    let statements = registry.counter("database_statements_total", help, &["result"], Options::default())?;
    let help = "Time that statements took since the start, waiting for a connection included.";
    let seconds = registry.gauge("database_statement_seconds_total", help, &[], Options::default())?;
    let metrics = Metrics { connections, statements, seconds };
    Ok(async move {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = Usage::default();
        loop {
            tick.tick().await;
            let Some(now) = store.usage() else { return };
            metrics.note(&before, &now);
            before = now;
        }
    })
}

impl Metrics {
    fn note(&self, before: &Usage, now: &Usage) {
        self.connections.with(&["used"]).set(f64::from(now.used));
        self.connections.with(&["idle"]).set(f64::from(now.idle));
        self.statements.with(&["done"]).add(now.done - before.done);
        self.statements.with(&["failed"]).add(now.failed - before.failed);
        self.seconds.get().set(now.took.as_secs_f64());
    }
}
