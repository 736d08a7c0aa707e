//! Writes what nodes say into the store.

use std::sync::atomic::Ordering;
use std::time::Duration;

use milecastle_store::StoreError;
use milecastle_telemetry::metrics::{Counter, Family};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{Nodes, receipt};

/// How often to look for nodes that have had no news for a while, and the pause after the database failed.
const LOOK: Duration = Duration::from_secs(1);

/// How often to write what each node says: `receipt` for where the nodes of a group stand and for nodes that came or left,
/// `node` for each of them. Of its log `kept_warnings` different lines stay.
#[derive(Clone, Copy)]
pub(in crate::dpm) struct Pace {
    pub(in crate::dpm) receipt: Duration,
    pub(in crate::dpm) node: Duration,
    pub(in crate::dpm) kept_warnings: u64,
}

/// Writes at that pace until `stop` becomes true or is dropped; then once more what is left. What came in between is replaced
/// by what came later. Lines of logs that had no room are counted, by group.
pub(in crate::dpm) async fn write(
    nodes: Nodes,
    pace: Pace,
    dropped_warnings: Family<Counter>,
    mut stop: watch::Receiver<bool>,
) {
    let mut failing = false;
    let mut written: Option<Instant> = None;
    loop {
        let stopped = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => true,
            () = nodes.live.news.notified() => false,
            // Without news there may still be nodes of which the store has not heard for a while.
            () = sleep(LOOK.min(pace.node)) => false,
        };
        let mut done = receipts(&nodes).await;
        let urgent = nodes.live.urgent.swap(false, Ordering::Acquire);
        if stopped || urgent || written.is_none_or(|written| written.elapsed() >= pace.node) {
            written = Some(Instant::now());
            done = done.and(reports(&nodes).await);
            done = done.and(nodes.live.warnings.write(&nodes.store, pace.kept_warnings).await);
            let heads = nodes.store.heard().heads;
            let dropped = nodes.live.warnings.take_dropped().into_iter();
            // What is counted of a group goes with it, and would stay for good if it came anew.
            for (group, lines) in dropped.filter(|(group, _)| heads.contains_key(group)) {
                dropped_warnings.with(&[&group]).add(lines);
            }
            done = done.and(nodes.live.routes.write(&nodes.store, &nodes.member, stopped).await);
        }
        let failed = done.is_err();
        if let Err(error) = done.as_ref().map_err(|error| error.to_string())
            && !failing
        {
            tracing::warn!(error, "what nodes run cannot be written to the database now; trying again");
        }
        failing = failed;
        if stopped {
            return;
        }
        let pause = if failed { pace.receipt.max(LOOK) } else { pace.receipt };
        // However it ends: the next round looks.
        timeout(pause, stop.wait_for(|stop| *stop)).await.map(drop).ok();
    }
}

/// Writes where the nodes of each group stand that moved.
async fn receipts(nodes: &Nodes) -> Result<(), StoreError> {
    let mut groups = nodes.live.take_moved();
    while let Some(group) = groups.pop_first() {
        let standing = receipt::to_json(&nodes.live.standing(&group));
        if let Err(error) = nodes.store.receipt_put(&group, &nodes.member, &standing).await {
            groups.insert(group);
            nodes.live.moved_again(groups);
            return Err(error);
        }
    }
    Ok(())
}

/// Writes what each node says of which there is something to write.
pub(super) async fn reports(nodes: &Nodes) -> Result<(), StoreError> {
    let mut reports = nodes.live.take_news(&nodes.member);
    if reports.is_empty() {
        return Ok(());
    }
    let done = match nodes.settle_rivals(&mut reports).await {
        Ok(()) => nodes.store.node_report(&reports).await,
        failed => failed,
    };
    if done.is_err() {
        nodes.live.keep(reports);
    }
    done
}
