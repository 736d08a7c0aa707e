//! Nodes whose clock is so wrong that no certificate holds there.

use std::time::{Duration, SystemTime};

use milecastle_pki::{Issued, NodeIdentity};
use milecastle_store::{NodeReport, Store, StoreError};

use super::authority::time_of;
use super::nodes::Troubles;

/// What is wrong with a node's clock, if a certificate does not hold by it.
pub(super) fn fault(store: &Store, clock: SystemTime, issued: &Issued) -> Option<String> {
    if (issued.not_before..issued.not_after).contains(&clock) {
        return None;
    }
    let (apart, way) = match clock.duration_since(time_of(store)) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    Some(format!(
        "this host's clock is {} {way} the control plane's, and no certificate holds by it: set the clock",
        span(apart)
    ))
}

/// Has lists show why a node does not come. One that never joined is in none of them; one that has a stream says itself how it does.
pub(super) async fn note(store: &Store, identity: &NodeIdentity, fault: &str) -> Result<(), StoreError> {
    let Some(node) = store.node_get(identity.group(), identity.node_id()).await? else { return Ok(()) };
    let (host, version) = (node.host, node.version);
    let before = node.report.unwrap_or(NodeReport { host, version, ..NodeReport::default() });
    if before.connected {
        return Ok(());
    }
    let mut troubles = Troubles::of(&before);
    if troubles.alarms != [fault] {
        tracing::warn!(node = node.id, group = node.group, host = before.host, "a node cannot join again: {fault}");
    }
    troubles.alarms = vec![fault.to_owned()];
    let rejected = serde_json::to_value(troubles).unwrap_or_default();
    let report = NodeReport { reported_at: store.now(), rejected, ..before };
    store.node_report(&[(node.group, node.id, report)]).await
}

/// A time in the largest unit of which it has two.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, "days"), (3600, "hours"), (60, "minutes")];
    let unit = units.into_iter().find(|(length, _)| seconds >= 2 * length);
    let (length, name) = unit.unwrap_or((1, "seconds"));
    format!("{} {name}", seconds / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_units_that_people_use() {
        let told = [
            (0, "0 seconds"),
            (119, "119 seconds"),
            (7199, "119 minutes"),
            (172_799, "47 hours"),
            (864_000, "10 days"),
        ];
        for (seconds, expected) in told {
            assert_eq!(span(Duration::from_secs(seconds)), expected);
        }
    }
}
