//! What was published, group by group.

use milecastle_store::{ChangeSetInfo, Head, Heads, Store, StoreError, Told};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::topic;
use crate::api::revision_told;
use crate::events::kind;
use crate::events::news::News;

/// Change sets of a group that are told at a time.
const PAGE: u64 = 200;

/// Objects that an event names; the others are in `puts` and `deletes` only.
const NAMED: u64 = 5;

/// Up to where the changes of a group were told.
#[derive(Serialize, Deserialize)]
struct Position {
    lineage: String,
    revision: u64,
    /// As in [`Head`]; empty where it was not known.
    mark: String,
}

impl Position {
    fn of(head: &Head) -> Self {
        Self { lineage: head.lineage.clone(), revision: head.revision, mark: head.mark.clone() }
    }
}

/// Whether heads are other ones than were told, or behind them: the database may have lost some of what was told.
pub(in crate::events) fn went_back(told: &Told, heads: &Heads) -> bool {
    heads.iter().any(|(group, head)| {
        let position = told.states.get(&topic(kind::GROUP, Some(group), ""));
        let position = position.and_then(|state| serde_json::from_value::<Position>(state.clone()).ok());
        position.is_some_and(|Position { lineage, revision, mark }| {
            let replaced = revision == head.revision && !mark.is_empty() && mark != head.mark;
            lineage != head.lineage || revision > head.revision || replaced
        })
    })
}

/// Groups that were made and deleted, and what was published to each. Gives whether there is more to tell.
pub(in crate::events) async fn groups(store: &Store, heads: &Heads, news: &mut News<'_>) -> Result<bool, StoreError> {
    let mut more = false;
    for (id, head) in heads {
        let Some(position) = position(store, id, head, news).await? else { continue };
        more |= changes(store, id, head, position, news).await?;
    }
    for topic in news.topics(kind::GROUP) {
        let Some(id) = topic.group.as_deref().filter(|id| !heads.contains_key(*id)) else { continue };
        // These heads may be older than what another replica has told.
        if let Err(StoreError::UnknownGroup(_)) = store.head(id).await {
            news.say(topic, json!({ "state": "deleted" }));
            news.forget(topic);
            news.forget(&super::topic(kind::RECEIPT, Some(id), ""));
        }
    }
    Ok(more)
}

/// From where on changes of a group are to be told; `None` if there is nothing to be told of it now.
async fn position(store: &Store, id: &str, head: &Head, news: &mut News<'_>) -> Result<Option<Position>, StoreError> {
    let group = topic(kind::GROUP, Some(id), "");
    let Some(told) = news.before::<Position>(&group) else {
        if news.is_first() {
            news.remember(group, &Position::of(head));
            return Ok(None);
        }
        news.say(&group, json!({ "state": "created" }));
        return Ok(Some(Position { lineage: head.lineage.clone(), revision: 0, mark: String::new() }));
    };
    if told.lineage == head.lineage {
        return Ok(Some(told));
    }
    // This head may be older than what another replica has told.
    let now = match store.head(id).await {
        Ok(now) if now.lineage != told.lineage => now,
        Ok(_) | Err(StoreError::UnknownGroup(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let data = json!({ "lineage": now.lineage, "before": told.lineage, "revision": now.revision });
    news.say(&topic(kind::LINEAGE, Some(id), ""), data);
    // A group that was made anew under the same id counts from the beginning.
    let revision = if now.revision < told.revision { 0 } else { told.revision };
    Ok(Some(Position { lineage: now.lineage, revision, mark: String::new() }))
}

/// Tells what was published after a position. Gives whether there is more.
async fn changes(
    store: &Store,
    id: &str,
    head: &Head,
    position: Position,
    news: &mut News<'_>,
) -> Result<bool, StoreError> {
    let group = topic(kind::GROUP, Some(id), "");
    if position.revision >= head.revision {
        news.remember(group, &position);
        return Ok(false);
    }
    let page = store.history_after(id, position.revision, PAGE).await?;
    let (Some(first), Some(last)) = (page.first(), page.last()) else {
        // It is not kept any more.
        news.remember(group, &Position { lineage: position.lineage, ..Position::of(head) });
        return Ok(false);
    };
    let touched = store.history_touched(id, first.revision..=last.revision, NAMED).await?;
    let subject = topic(kind::CHANGE, Some(id), "");
    for info in &page {
        news.say(&subject, revision_told(info.clone(), touched.get(&info.revision).into_iter().flatten()));
    }
    let ChangeSetInfo { revision, .. } = *last;
    let mark = if revision == head.revision { head.mark.clone() } else { String::new() };
    news.remember(group, &Position { lineage: position.lineage, revision, mark });
    Ok(page.len() as u64 == PAGE)
}
