//! Lines of the logs of nodes that are connected here, on their way to the store.
//!
//! What must stay true: what a node says, whatever it is, holds up no line of another one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use milecastle_store::{NodeWarning, Store, StoreError};
use milecastle_wire::pb;

use super::live::clip;

/// Lines of one report that are taken.
const MOST_OF_A_REPORT: usize = 50;

/// The node that a report is of, and the run of its process.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) group: &'a str,
    pub(super) node: &'a str,
    pub(super) boot: &'a str,
}

/// What makes two lines the same: group, node, level, target, text.
type Line = (String, String, bool, String, String);

/// The most that a node may have written a line: sums of it have room in the database.
const MOST_TIMES: u64 = 1 << 40;

/// Lines that are still to be written, with the newest word of each.
#[derive(Default)]
pub(super) struct Warnings(Mutex<BTreeMap<Line, NodeWarning>>);

impl Warnings {
    /// A node has written these, at `now` (Unix seconds); no more than `most` lines wait.
    pub(super) fn add(&self, origin: Origin<'_>, told: Vec<pb::Warning>, now: u64, most: usize) {
        let mut waiting = self.lock();
        for warning in told.into_iter().take(MOST_OF_A_REPORT).map(|told| taken(origin, told, now)) {
            let NodeWarning { group, node, is_error, target, text, .. } = &warning;
            let line = (group.clone(), node.clone(), *is_error, target.clone(), text.clone());
            if waiting.len() < most || waiting.contains_key(&line) {
                waiting.insert(line, warning);
            }
        }
    }

    /// Writes what waits; what cannot be written waits on.
    pub(super) async fn write(&self, store: &Store) -> Result<(), StoreError> {
        let taken = std::mem::take(&mut *self.lock());
        if taken.is_empty() {
            return Ok(());
        }
        let warnings: Vec<NodeWarning> = taken.values().cloned().collect();
        let written = store.node_warn(&warnings).await;
        if written.is_err() {
            let mut waiting = self.lock();
            for (line, warning) in taken {
                // What came meanwhile is newer.
                waiting.entry(line).or_insert(warning);
            }
        }
        written
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Line, NodeWarning>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line as it is kept: of texts that the database takes.
fn taken(origin: Origin<'_>, told: pb::Warning, now: u64) -> NodeWarning {
    let text = |text: String| clip(text.replace(char::is_control, " "));
    NodeWarning {
        group: origin.group.to_owned(),
        node: origin.node.to_owned(),
        is_error: told.is_error,
        target: text(told.target),
        text: text(told.text),
        boot: origin.boot.to_owned(),
        times: told.times.min(MOST_TIMES),
        first_at: now.saturating_sub(told.first_age_s),
        last_at: now.saturating_sub(told.last_age_s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin<'_> = Origin { group: "g", node: "n", boot: "b" };

    fn told(text: &str, last_age_s: u64) -> pb::Warning {
        pb::Warning { text: text.to_owned(), times: 1, first_age_s: 9, last_age_s, ..pb::Warning::default() }
    }

    #[test]
    fn no_more_than_fit_wait_and_the_newest_word_of_each() {
        let warnings = Warnings::default();
        warnings.add(ORIGIN, vec![told("a", 4), told("b", 3), told("c", 2), told("a", 1)], 10, 2);
        let waiting = warnings.lock();
        let seen: Vec<_> = waiting.values().map(|line| (&*line.text, line.last_at)).collect();
        assert_eq!(seen, [("a", 9), ("b", 7)]);
    }

    #[test]
    fn a_line_is_one_that_the_database_takes() {
        let line = taken(ORIGIN, told("a\0b\nc", u64::MAX), 10);
        assert_eq!((&*line.text, line.first_at, line.last_at), ("a b c", 1, 0));
    }
}
