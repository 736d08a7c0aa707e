//! The newest events, as a replica keeps them for its streams: however many there are, each event is read once.
//!
//! What must stay true: what is kept follows each other without a gap, and is bounded.

use std::collections::VecDeque;
use std::sync::Arc;

use milecastle_store::{Event, Store, StoreError};
use tokio::sync::{Mutex, watch};

/// Events that are read at a time.
const PAGE: u64 = 200;

/// The events of a process. Nothing is read unless somebody asks.
pub(crate) struct Tail {
    store: Store,
    newest: watch::Receiver<u64>,
    /// How many are kept.
    most: usize,
    kept: Mutex<Kept>,
}

/// All events after `from` up to `to`, oldest first.
#[derive(Default)]
struct Kept {
    from: u64,
    to: u64,
    events: VecDeque<Arc<Event>>,
}

/// Events that follow what a client has.
#[derive(Debug, Default)]
pub(crate) struct Next {
    /// Some between what the client has and these are not kept any more: all up to this id.
    pub(crate) gap: Option<u64>,
    /// They. None: there are no more by now.
    pub(crate) events: Vec<Arc<Event>>,
}

impl Tail {
    /// `most`: [`milecastle_settings::EventStreams::memory`].
    pub(crate) fn new(store: Store, most: usize) -> Self {
        Self { newest: store.event_watch(), store, most, kept: Mutex::default() }
    }

    /// Hears of events.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.newest.clone()
    }

    /// The id of the newest event, as far as this process knows.
    pub(crate) fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// The first events after `after`.
    pub(crate) async fn next(&self, after: u64) -> Result<Next, StoreError> {
        if self.newest() <= after {
            return Ok(Next::default());
        }
        let mut kept = self.kept.lock().await;
        if (kept.from..kept.to).contains(&after) {
            return Ok(Next { gap: None, events: kept.after(after) });
        }
        // Whoever is at the end reads for all who are there, and they wait for it here.
        let at_the_end = after == kept.to;
        if !at_the_end {
            drop(kept);
            let (next, floor) = self.read(after).await?;
            let caught_up = (next.events.len() as u64) < PAGE && next.gap.is_none();
            kept = self.kept.lock().await;
            if caught_up && next.events.last().is_some_and(|last| last.id > kept.to) {
                // Nobody was at the end for long: from now on somebody is.
                // What was forgotten is not there either, though nobody is told so who asks from 0 on.
                let from = after.max(floor);
                *kept = Kept { from, to: from, ..Kept::default() };
                kept.add(&next.events, self.most);
            }
            return Ok(next);
        }
        let (next, floor) = self.read(after).await?;
        let from = after.max(floor);
        if from > after {
            *kept = Kept { from, to: from, ..Kept::default() };
        }
        kept.add(&next.events, self.most);
        Ok(next)
    }

    /// What follows, and up to which id events are not kept any more.
    async fn read(&self, after: u64) -> Result<(Next, u64), StoreError> {
        let page = self.store.event_list(after, PAGE).await?;
        // Whoever asks from 0 on wants what there is.
        let gap = (after > 0 && after < page.floor).then_some(page.floor);
        Ok((Next { gap, events: page.events.into_iter().map(Arc::new).collect() }, page.floor))
    }
}

impl Kept {
    fn after(&self, after: u64) -> Vec<Arc<Event>> {
        let start = self.events.partition_point(|event| event.id <= after);
        self.events.range(start..).take(PAGE as usize).cloned().collect()
    }

    /// Adds what follows.
    fn add(&mut self, events: &[Arc<Event>], most: usize) {
        self.events.extend(events.iter().cloned());
        self.to = self.events.back().map_or(self.to, |last| last.id);
        while self.events.len() > most {
            self.from = self.events.pop_front().map_or(self.to, |oldest| oldest.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_store::Topic;

    fn event(id: u64) -> Arc<Event> {
        let topic = Topic { kind: "node".to_owned(), group: None, subject: String::new() };
        Arc::new(Event { id, topic, data: serde_json::Value::Null })
    }

    #[test]
    fn what_is_kept_is_bounded_and_without_a_gap() {
        let mut kept = Kept { from: 10, to: 10, ..Kept::default() };
        kept.add(&[event(11), event(15), event(16)], 2);
        assert_eq!((kept.from, kept.to), (11, 16));
        let ids = |after| kept.after(after).iter().map(|event| event.id).collect::<Vec<_>>();
        assert_eq!((ids(11), ids(14), ids(15), ids(16)), (vec![15, 16], vec![15, 16], vec![16], vec![]));
    }
}
