//! Lines of the logs of nodes that are connected here, on their way to the store.
//!
//! What must stay true: what a node says, whatever it is and however much, holds up no line of another one and takes no place of one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use milecastle_settings::Stream;
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

/// How many lines are taken.
#[derive(Clone, Copy, Default)]
pub(in crate::dpm) struct Bounds {
    /// That wait, of all nodes together.
    all: usize,
    /// That wait, of one node.
    of_a_node: usize,
    /// That one node tells in a minute.
    a_minute: u32,
}

impl From<&Stream> for Bounds {
    fn from(settings: &Stream) -> Self {
        Self {
            all: settings.node_warnings as usize,
            of_a_node: settings.node_warnings_of_a_node as usize,
            a_minute: settings.node_warnings_a_minute,
        }
    }
}

/// Group and id of a node.
type NodeName = (String, String);

/// What makes two lines of a node the same: level, target, text.
type Line = (bool, String, String);

/// The most that a node may have written a line: sums of it have room in the database.
const MOST_TIMES: u64 = 1 << 40;

/// Lines that are still to be written, with the newest word of each.
#[derive(Default)]
pub(super) struct Warnings(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    lines: BTreeMap<NodeName, BTreeMap<Line, NodeWarning>>,
    /// How many lines these are.
    count: usize,
    /// The present minute, in minutes of Unix time.
    minute: u64,
    /// New lines that nodes have told in it.
    told: HashMap<NodeName, u32>,
    /// Lines that were dropped and not asked for yet, by group.
    dropped: BTreeMap<String, u64>,
    /// As the last report had them.
    bounds: Bounds,
}

impl Warnings {
    /// A node has written these, at `now` (Unix seconds).
    pub(super) fn add(&self, origin: Origin<'_>, told: Vec<pb::Warning>, now: u64, bounds: Bounds) {
        let mut waiting = self.lock();
        waiting.bounds = bounds;
        waiting.turn(now / 60);
        let beyond = told.len().saturating_sub(MOST_OF_A_REPORT);
        if beyond > 0 {
            *waiting.dropped.entry(origin.group.to_owned()).or_default() += beyond as u64;
        }
        for told in told.into_iter().take(MOST_OF_A_REPORT) {
            waiting.take(taken(origin, told, now), bounds);
        }
    }

    /// Writes what waits, of which `most` lines of each node stay; what cannot be written waits on, as far as there is room beside what
    /// has come meanwhile.
    pub(super) async fn write(&self, store: &Store, most: u64) -> Result<(), StoreError> {
        let (taken, bounds) = self.lock().drain();
        if taken.is_empty() {
            return Ok(());
        }
        let written = store.node_warn(&taken, most).await;
        if written.is_err() {
            let mut waiting = self.lock();
            taken.into_iter().for_each(|warning| waiting.put_back(warning, bounds));
        }
        written
    }

    /// How many lines there was no room for since this was asked last, by group.
    pub(super) fn take_dropped(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.lock().dropped)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn turn(&mut self, minute: u64) {
        if self.minute != minute {
            self.minute = minute;
            self.told.clear();
        }
    }

    /// A line waits from now on, if it does already or the bounds allow one more.
    fn take(&mut self, warning: NodeWarning, bounds: Bounds) {
        let (node, line) = named(&warning);
        let of_node = self.lines.entry(node.clone()).or_default();
        if let Some(waiting) = of_node.get_mut(&line) {
            *waiting = warning;
            return;
        }
        let told = self.told.entry(node).or_default();
        if self.count < bounds.all && of_node.len() < bounds.of_a_node && *told < bounds.a_minute {
            *told += 1;
            self.count += 1;
            of_node.insert(line, warning);
        } else {
            *self.dropped.entry(warning.group).or_default() += 1;
        }
    }

    /// All lines, and how many may wait.
    fn drain(&mut self) -> (Vec<NodeWarning>, Bounds) {
        self.count = 0;
        let lines = std::mem::take(&mut self.lines).into_values().flat_map(BTreeMap::into_values);
        (lines.collect(), self.bounds)
    }

    /// A line waits again, unless a newer word of it has come meanwhile, or so many others that there is no room.
    fn put_back(&mut self, warning: NodeWarning, bounds: Bounds) {
        let (node, line) = named(&warning);
        let of_node = self.lines.entry(node).or_default();
        let has_room = self.count < bounds.all && of_node.len() < bounds.of_a_node;
        match of_node.entry(line) {
            Entry::Occupied(_) => {}
            Entry::Vacant(place) if has_room => {
                self.count += 1;
                place.insert(warning);
            }
            Entry::Vacant(_) => *self.dropped.entry(warning.group).or_default() += 1,
        }
    }
}

fn named(warning: &NodeWarning) -> (NodeName, Line) {
    let NodeWarning { group, node, is_error, target, text, .. } = warning;
    ((group.clone(), node.clone()), (*is_error, target.clone(), text.clone()))
}

/// A line as it is kept: of texts that the database takes.
fn taken(origin: Origin<'_>, told: pb::Warning, now: u64) -> NodeWarning {
    NodeWarning {
        group: origin.group.to_owned(),
        node: origin.node.to_owned(),
        is_error: told.is_error,
        target: clip(told.target),
        text: clip(told.text),
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

    fn dropped(warnings: &Warnings) -> u64 {
        warnings.take_dropped().remove("g").unwrap_or_default()
    }

    const BOUNDS: Bounds = Bounds { all: 100, of_a_node: 100, a_minute: 100 };

    fn waiting(warnings: &Warnings) -> Vec<String> {
        let (lines, _) = warnings.lock().drain();
        lines.iter().map(|line| format!("{} {} {}", line.node, line.text, line.last_at)).collect()
    }

    #[test]
    fn no_more_than_fit_wait_and_the_newest_word_of_each() {
        for bounds in [Bounds { all: 2, ..BOUNDS }, Bounds { of_a_node: 2, ..BOUNDS }] {
            let warnings = Warnings::default();
            warnings.add(ORIGIN, vec![told("a", 4), told("b", 3), told("c", 2), told("a", 1)], 10, bounds);
            assert_eq!((waiting(&warnings), dropped(&warnings)), (vec!["n a 9".to_owned(), "n b 7".to_owned()], 1));
        }
        let (warnings, many) = (Warnings::default(), MOST_OF_A_REPORT + 2);
        warnings.add(ORIGIN, (0..many).map(|n| told(&n.to_string(), 0)).collect(), 10, BOUNDS);
        assert_eq!((waiting(&warnings).len(), dropped(&warnings)), (MOST_OF_A_REPORT, 2));
    }

    #[test]
    fn one_node_takes_no_place_of_another_one() {
        let (warnings, bounds) = (Warnings::default(), Bounds { all: 4, of_a_node: 2, ..BOUNDS });
        for text in ["a", "b", "c", "d", "e"] {
            warnings.add(ORIGIN, vec![told(text, 0)], 10, bounds);
        }
        warnings.add(Origin { node: "other", ..ORIGIN }, vec![told("a", 0)], 10, bounds);
        assert_eq!(waiting(&warnings), ["n a 10", "n b 10", "other a 10"]);
        // What waits again counts.
        warnings.add(ORIGIN, vec![told("a", 0)], 10, bounds);
        let (again, _) = warnings.lock().drain();
        again.into_iter().for_each(|line| warnings.lock().put_back(line, bounds));
        warnings.add(ORIGIN, vec![told("a", 0), told("b", 0), told("c", 0)], 11, bounds);
        assert_eq!(waiting(&warnings), ["n a 11", "n b 11"]);
    }

    #[test]
    fn what_cannot_be_written_has_no_room_beyond_the_bounds() {
        let (warnings, bounds) = (Warnings::default(), Bounds { all: 3, of_a_node: 2, ..BOUNDS });
        let other = Origin { node: "other", ..ORIGIN };
        warnings.add(ORIGIN, vec![told("a", 0), told("b", 0)], 10, bounds);
        warnings.add(other, vec![told("a", 0)], 10, bounds);
        let (failed, bounds) = warnings.lock().drain();
        // While the database is asked as many come again.
        warnings.add(ORIGIN, vec![told("c", 0)], 11, bounds);
        warnings.add(other, vec![told("b", 0)], 11, bounds);
        failed.into_iter().for_each(|line| warnings.lock().put_back(line, bounds));
        assert_eq!(waiting(&warnings), ["n a 10", "n c 11", "other b 11"]);
        assert_eq!(dropped(&warnings), 2);
    }

    #[test]
    fn a_node_tells_so_many_lines_in_a_minute() {
        let (warnings, bounds) = (Warnings::default(), Bounds { a_minute: 2, ..BOUNDS });
        let at = |now, text| {
            warnings.add(ORIGIN, vec![told(text, 0)], now, bounds);
            waiting(&warnings).len()
        };
        assert_eq!([at(60, "a"), at(61, "b"), at(119, "c"), at(120, "c")], [1, 1, 0, 1]);
        assert_eq!([dropped(&warnings), dropped(&warnings)], [1, 0]);
    }

    #[test]
    fn a_line_is_one_that_the_database_takes() {
        let line = taken(ORIGIN, told("a\0b\nc", u64::MAX), 10);
        assert_eq!((&*line.text, line.first_at, line.last_at), ("a b c", 1, 0));
    }
}
