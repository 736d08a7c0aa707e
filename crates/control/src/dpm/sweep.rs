//! Whoever is no longer welcome goes, and nodes hear of their maintenance, as soon as the database says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use milecastle_store::{Heads, StoreError, Watch};
use tokio::time::sleep;

use super::config::Shared;
use super::nodes::End;

/// The pause after the database could not be asked who is welcome.
const RETRY: Duration = Duration::from_secs(1);

/// Ends the streams of whoever is no longer welcome, and tells nodes of their maintenance, for ever: looks at a group's nodes
/// when the group's epoch is another one, or the group itself is, made anew under the same id.
pub(super) async fn sweep(shared: Arc<Shared>, mut watch: Watch) {
    let mut seen_to = standings(&watch.heads());
    let mut failed = BTreeSet::new();
    loop {
        let heads = tokio::select! {
            changed = watch.changed() => match changed {
                Some(heads) => heads,
                None => return,
            },
            () = sleep(RETRY), if !failed.is_empty() => watch.heads(),
        };
        let standings = standings(&heads);
        for gone in seen_to.keys().filter(|group| !standings.contains_key(*group)) {
            shared.nodes.end(gone, |_| Some(End::NoGroup));
            shared.feeds.forget(gone);
            shared.metrics.forget_group(gone);
        }
        let before = std::mem::take(&mut seen_to);
        let failed_before = std::mem::take(&mut failed);
        for (group, standing) in standings {
            let known = before.get(&group).filter(|known| **known != standing);
            let looked_at = match known {
                Some(_) => look_at(&shared, &group).await,
                None => Ok(()),
            };
            match (looked_at, known) {
                // It is looked at once more with the next round; what one group has holds up no other.
                (Err(error), Some(known)) => {
                    if !failed_before.contains(&group) {
                        tracing::warn!(group, %error, "cannot ask the database which nodes are welcome; trying again");
                    }
                    failed.insert(group.clone());
                    seen_to.insert(group, known.clone());
                }
                _ => drop(seen_to.insert(group, standing)),
            }
        }
    }
}

/// Lineage and epoch of each group. A group that was deleted and made anew at once counts its epochs from 0 once more.
fn standings(heads: &Heads) -> BTreeMap<String, (String, u64)> {
    heads.iter().map(|(group, head)| (group.clone(), (head.lineage.clone(), head.epoch))).collect()
}

async fn look_at(shared: &Shared, group: &str) -> Result<(), StoreError> {
    // Where it fails, whoever is no longer welcome has to go all the same.
    let refreshed = match shared.feeds.refresh(group).await {
        // Deleted since: the next round sees to it.
        Err(StoreError::UnknownGroup(_)) => return Ok(()),
        other => other,
    };
    if !shared.nodes.any(group) {
        return refreshed;
    }
    let nodes = shared.store.node_list(group).await?;
    let welcome: BTreeSet<&str> = nodes.iter().filter(|node| node.welcome).map(|node| node.id.as_str()).collect();
    shared.nodes.end(group, |node| (!welcome.contains(node)).then_some(End::Unwelcome));
    nodes.iter().for_each(|node| shared.nodes.maintain(node));
    refreshed
}
