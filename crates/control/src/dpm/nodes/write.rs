//! Writes what nodes say into the store.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Nodes;

/// How often to look for nodes that have had no news for a while.
const LOOK: Duration = Duration::from_secs(1);

/// Writes reports, those of many nodes in one statement and no more often than every `interval`, until `stop` becomes true or
/// is dropped; then once more what is left. Reports that came in between are replaced by later ones of the same node.
pub(in crate::dpm) async fn write(nodes: Nodes, interval: Duration, mut stop: watch::Receiver<bool>) {
    let mut failing = false;
    loop {
        let stopped = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => true,
            () = nodes.live.news.notified() => false,
            // Without news there may still be nodes of which the store has not heard for a while.
            () = sleep(LOOK) => false,
        };
        let failed = flush(&nodes).await;
        if failed && !failing {
            tracing::warn!("what nodes run cannot be written to the database now; trying again");
        }
        failing = failed;
        if stopped {
            return;
        }
        let pause = if failed { interval.max(LOOK) } else { interval };
        // However it ends: the next round looks.
        timeout(pause, stop.wait_for(|stop| *stop)).await.map(drop).ok();
    }
}

/// Writes what there is; whether that failed.
async fn flush(nodes: &Nodes) -> bool {
    let reports = nodes.live.take_news();
    if reports.is_empty() {
        return false;
    }
    let Err(error) = nodes.store.node_report(&reports).await else { return false };
    tracing::debug!(%error, "reports of nodes not written");
    nodes.live.keep(reports);
    true
}
