//! The warnings and errors that this process has logged lately, so that those of many processes can be read in one place.
//!
//! What must stay true:
//! - What is kept is bounded, whatever causes the lines; no place in the code pushes out the lines of others.
//! - Nothing is kept that the log does not show, and nothing of libraries: what they log of requests was written by others.
//! - Nothing of an address is kept that may open something: neither who logs in there nor its query.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Different lines that are kept unless [`Warnings::keep`] says otherwise. One more takes the place of the one that was written
/// last the longest ago.
const MOST: usize = 100;

/// Different lines of one place in the code; those beyond are counted as one.
const MOST_OF_A_PLACE: usize = 10;

/// Longest line that is kept, in bytes.
const LONGEST: usize = 512;

/// A line that was not written for so long makes room for others of its place, in seconds.
const MEMORY: u64 = 600;

/// What modules of this program begin with.
const OWN: &str = "milecastle";

/// A line of the log of level WARN or ERROR, and how often it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Grows with each line: tells what is new from what is known.
    pub number: u64,
    /// Whether its level is ERROR.
    pub is_error: bool,
    /// The module that wrote it.
    pub target: String,
    /// The message, then the other fields as `name=value`; without those that are numbers, so that the same trouble is the same
    /// line however long it lasts.
    pub text: String,
    /// How often it was written since the process started, or since it was last forgotten.
    pub times: u64,
    /// Unix time in seconds by the clock of this machine.
    pub first_at: u64,
    /// The same, of the last time.
    pub last_at: u64,
}

/// Those of a process.
#[derive(Debug)]
pub struct Warnings(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    most: usize,
    number: u64,
    /// By when they were written last, oldest first; each with its place in the code.
    lines: VecDeque<(&'static str, Warning)>,
}

/// Those of this process, from when its log was set up ([`crate::log::init`]).
pub fn warnings() -> &'static Warnings {
    static OF_THIS_PROCESS: Warnings = Warnings::new();
    &OF_THIS_PROCESS
}

impl Warnings {
    const fn new() -> Self {
        Self(Mutex::new(Kept { most: MOST, number: 0, lines: VecDeque::new() }))
    }

    /// Keeps so many different lines at most from now on; with 0, none.
    pub fn keep(&self, most: usize) {
        let mut kept = self.lock();
        kept.most = most;
        kept.shrink();
    }

    /// The first `most` lines that were written after the one of this number, oldest first.
    pub fn since(&self, number: u64, most: usize) -> Vec<Warning> {
        let kept = self.lock();
        let news = kept.lines.iter().map(|(_, line)| line).filter(|line| line.number > number);
        news.take(most).cloned().collect()
    }

    /// A line was written at this place in the code.
    fn add(&self, place: &'static str, is_error: bool, target: &str, text: &str, now: u64) {
        let mut text = without_credentials(text);
        text.truncate(text.floor_char_boundary(LONGEST));
        let mut kept = self.lock();
        let known = |kept: &Kept, text: &str| {
            let is_it = |line: &Warning| line.is_error == is_error && line.target == target && line.text == text;
            kept.lines.iter().position(|(_, line)| is_it(line))
        };
        let mut found = known(&kept, &text);
        let is_fresh = |line: &Warning| line.last_at.saturating_add(MEMORY) > now;
        if found.is_none() {
            let of_it = kept.lines.iter().filter(|(other, line)| *other == place && is_fresh(line)).count();
            if of_it >= MOST_OF_A_PLACE {
                text = format!("further lines like those of {place} before; all of them are in the node's own log");
                found = known(&kept, &text);
            }
        }
        kept.number += 1;
        let number = kept.number;
        let line = match found.and_then(|at| kept.lines.remove(at)) {
            Some((_, line)) => Warning { number, times: line.times + 1, last_at: now, ..line },
            None => {
                Warning { number, is_error, target: target.to_owned(), text, times: 1, first_at: now, last_at: now }
            }
        };
        kept.lines.push_back((place, line));
        kept.shrink();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn shrink(&mut self) {
        let beyond = self.lines.len().saturating_sub(self.most);
        self.lines.drain(..beyond);
    }
}

/// The text without who logs in at an address (`//user:password@`), and without the query of one (`?…`).
fn without_credentials(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`' | '(' | ')' | ',' | ';');
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        let (address, others) = after.split_at(after.find(ends).unwrap_or(after.len()));
        let (address, is_cut) = address.split_once('?').map_or((address, false), |(address, _)| (address, true));
        let (authority, path) = address.split_at(address.find('/').unwrap_or(address.len()));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        kept.extend([before, host, path, if is_cut { "?…" } else { "" }]);
        rest = others;
    }
    kept + rest
}

/// Adds what is logged to [`warnings`].
pub(crate) struct Collect;

impl Collect {
    /// Levels that say more are greater.
    fn takes(metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with(OWN)
    }
}

impl<S: Subscriber> Layer<S> for Collect {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if !Self::takes(metadata) {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (is_error, text) = (*metadata.level() == Level::ERROR, line.message + &line.fields);
        warnings().add(metadata.name(), is_error, metadata.target(), &text, now);
    }
}

/// An event in the making of its text.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A String takes all that is written to it.
        let _written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_f64(&mut self, _: &Field, _: f64) {}

    fn record_i64(&mut self, _: &Field, _: i64) {}

    fn record_u64(&mut self, _: &Field, _: u64) {}

    fn record_i128(&mut self, _: &Field, _: i128) {}

    fn record_u128(&mut self, _: &Field, _: u128) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    fn shorts(warnings: &Warnings) -> Vec<String> {
        warnings.since(0, 1000).iter().map(|line| format!("{} {}x{}", line.number, line.text, line.times)).collect()
    }

    #[test]
    fn the_same_line_is_kept_once() {
        let warnings = Warnings::new();
        for (text, now) in [("a", 1), ("b", 2), ("a", 3)] {
            warnings.add("p", false, "t", text, now);
        }
        assert_eq!(shorts(&warnings), ["2 bx1", "3 ax2"]);
        let [_, a] = &warnings.since(0, 9)[..] else { panic!("two lines") };
        assert_eq!((a.first_at, a.last_at), (1, 3));
        assert_eq!(warnings.since(2, 9), std::slice::from_ref(a));
        assert_eq!(warnings.since(0, 1).len(), 1);
        // Of another level it is another one.
        warnings.add("p", true, "t", "a", 4);
        assert_eq!(shorts(&warnings).len(), 3);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let warnings = Warnings::new();
        for place in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"] {
            for n in 0..MOST_OF_A_PLACE {
                warnings.add(place, false, "t", &format!("{place} {n} {}", "é".repeat(LONGEST)), 1);
            }
        }
        let kept = warnings.since(0, usize::MAX);
        assert_eq!((kept.len(), kept[0].number), (MOST, 21));
        assert!(kept.iter().all(|line| line.text.len() <= LONGEST));
        warnings.keep(0);
        warnings.add("p", true, "t", "a", 1);
        assert!(shorts(&warnings).is_empty());
    }

    #[test]
    fn one_place_pushes_out_no_other() {
        let warnings = Warnings::new();
        warnings.add("rare", true, "t", "a disk is full", 1);
        for n in 0..1000 {
            warnings.add("often", false, "t", &format!("client {n}"), 1);
        }
        let kept = shorts(&warnings);
        assert_eq!((kept.len(), &*kept[0]), (2 + MOST_OF_A_PLACE, "1 a disk is fullx1"));
        assert!(kept[1 + MOST_OF_A_PLACE].ends_with("own logx990"), "{kept:?}");
        // Others have their turn once those are old.
        warnings.add("often", false, "t", "client of later", 1 + MEMORY);
        assert_eq!(shorts(&warnings).last().unwrap(), "1002 client of laterx1");
    }

    #[test]
    fn credentials_in_addresses_are_left_out() {
        for (text, expected) in [
            ("plain text, 50% of it?", "plain text, 50% of it?"),
            ("at http://user:pa@ss@host:1/p?token=x failed", "at http://host:1/p?… failed"),
            (r#"url="https://a@h" next=ws://h/?k"#, r#"url="https://h" next=ws://h/?…"#),
            ("http://h/a@b", "http://h/a@b"),
            ("://", "://"),
        ] {
            assert_eq!(without_credentials(text), expected);
        }
    }

    #[test]
    fn warnings_and_errors_of_our_own_are_collected_with_their_fields() {
        let subscriber = tracing_subscriber::registry().with(Collect);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("no warning of this test");
            tracing::error!(target: "hyper", "authorization: key of a client");
            tracing::error!(path = "/x", count = 3, "a disk is full");
        });
        let kept = warnings().since(0, usize::MAX);
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert!(kept[0].is_error && kept[0].target.ends_with("warnings::tests"));
        assert_eq!(kept[0].text, "a disk is full path=\"/x\"");
    }
}
