//! What is known of the references in use, and when each is to be asked for again (`docs/spec/resources.md` §13, rule 4).
//!
//! It does no I/O and reads no clock.

use milecastle_settings::Secrets as Settings;
use milecastle_telemetry::Secret;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a reference has no value, or no newer one. No text has a secret in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There is no such secret.
    Absent(String),
    /// It could not be asked for.
    Failed(String),
}

/// A reference that is to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) reference: Arc<str>,
    /// Only the answer to the last question counts.
    round: u64,
}

/// What an answer has changed, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing that is not known.
    None,
    /// It has a value again.
    Resolved,
    /// The last value stays in use, since no newer one is to be had.
    Stale(String),
    /// It has no value.
    Unresolved(String),
}

/// How many references stand how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// Those that have a value.
    pub(super) resolved: u64,
    /// Those whose value is the last one known, since the manager could not be asked.
    pub(super) stale: u64,
    /// Those without a value, asked for or not yet.
    pub(super) unresolved: u64,
    /// Those beyond the room.
    pub(super) left_out: u64,
}

/// What is known of the references in use.
pub(super) struct Cache {
    ttl: Duration,
    negative_ttl: Duration,
    /// After this time a question has no answer any more.
    timeout: Duration,
    room: usize,
    entries: HashMap<Arc<str>, Entry>,
    /// Every reference once, by when it is to be asked for.
    due: BTreeSet<(Instant, Arc<str>)>,
    /// Those that are waited for.
    awaited: HashSet<Arc<str>>,
    left_out: usize,
    /// Grows with each change of a value.
    generation: u64,
}

struct Entry {
    value: Option<Secret<String>>,
    /// What is wrong with it, as was told.
    trouble: Option<Trouble>,
    due: Instant,
    /// When it was asked for last.
    asked: Option<Instant>,
    round: u64,
    /// The generation in which it got the value that it has, or lost the one that it had; 0 if it never had any.
    changed: u64,
}

impl Cache {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            ttl: settings.ttl.get(),
            negative_ttl: settings.negative_ttl.get(),
            timeout: settings.timeout.get(),
            room: settings.entries as usize,
            entries: HashMap::new(),
            due: BTreeSet::new(),
            awaited: HashSet::new(),
            left_out: 0,
            generation: 0,
        }
    }

    /// The value of a reference.
    pub(super) fn value(&self, reference: &str) -> Option<String> {
        self.entries.get(reference)?.value.as_ref().map(|value| value.reveal().clone())
    }

    /// From now on these are in use. The others are forgotten; those that are new are due at once, as far as there is room. Gives
    /// how many have none, if that is another number than before.
    pub(super) fn follow(&mut self, references: &BTreeSet<&str>, now: Instant) -> Option<usize> {
        let Self { entries, due, awaited, .. } = self;
        entries.retain(|reference, entry| {
            let used = references.contains(&**reference);
            if !used {
                due.remove(&(entry.due, reference.clone()));
                awaited.remove(reference);
            }
            used
        });
        let mut left_out = 0;
        for reference in references {
            if self.entries.contains_key(*reference) {
                continue;
            }
            if self.entries.len() == self.room {
                left_out += 1;
                continue;
            }
            let reference: Arc<str> = (*reference).into();
            let entry = Entry { value: None, trouble: None, due: now, asked: None, round: 0, changed: 0 };
            self.entries.insert(reference.clone(), entry);
            self.due.insert((now, reference.clone()));
            self.awaited.insert(reference);
        }
        let before = std::mem::replace(&mut self.left_out, left_out);
        (before != left_out).then_some(left_out)
    }

    /// Has references asked for at once, whatever is known of them or just being asked.
    pub(super) fn flush(&mut self, concerned: impl Fn(&str) -> bool, now: Instant) {
        let flushed: Vec<Arc<str>> = self.entries.keys().filter(|reference| concerned(reference)).cloned().collect();
        for reference in flushed {
            if let Some(entry) = self.entries.get_mut(&reference) {
                entry.round += 1;
            }
            self.schedule(&reference, now);
            self.awaited.insert(reference);
        }
    }

    /// The next reference to ask for, if it is time.
    pub(super) fn question(&mut self, now: Instant) -> Option<Question> {
        let (at, reference) = self.due.first()?.clone();
        if at > now {
            return None;
        }
        // Should no answer come at all.
        self.schedule(&reference, now + self.timeout + self.negative_ttl);
        let entry = self.entries.get_mut(&reference)?;
        entry.round += 1;
        entry.asked = Some(now);
        Some(Question { round: entry.round, reference })
    }

    /// When the next reference is to be asked for.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes an answer. A value that was known stays if the manager could not be asked, and goes if it says that there is none. Where
    /// it is another one, those that stand beside it are asked for at once: a key goes with its certificate.
    pub(super) fn take(&mut self, question: Question, answer: Result<String, Trouble>, now: Instant) -> News {
        let Question { reference, round } = question;
        let Some(entry) = self.entries.get_mut(&reference).filter(|entry| entry.round == round) else {
            return News::None;
        };
        let before = entry.trouble.take();
        let changed = match &answer {
            Ok(value) => entry.value.as_ref().is_none_or(|known| known.reveal() != value),
            Err(Trouble::Absent(_)) => entry.value.is_some(),
            Err(Trouble::Failed(_)) => false,
        };
        if changed {
            self.generation += 1;
            entry.changed = self.generation;
        }
        let asked = entry.asked.filter(|_| changed);
        let (news, again) = match answer {
            Ok(value) => {
                entry.value = Some(Secret::new(value));
                (before.map_or(News::None, |_| News::Resolved), self.ttl)
            }
            Err(trouble) => {
                if matches!(trouble, Trouble::Absent(_)) {
                    entry.value = None;
                }
                let told = before.as_ref() == Some(&trouble);
                entry.trouble = Some(trouble.clone());
                let (Trouble::Absent(reason) | Trouble::Failed(reason)) = trouble;
                let news = match entry.value {
                    _ if told => News::None,
                    Some(_) => News::Stale(reason),
                    None => News::Unresolved(reason),
                };
                (news, self.negative_ttl)
            }
        };
        self.schedule(&reference, now + again);
        self.awaited.remove(&reference);
        if let Some(asked) = asked {
            self.hasten(&reference, asked, now);
        }
        news
    }

    /// Has those asked for at once that stand in the same place as a reference and have been asked for before it was.
    fn hasten(&mut self, reference: &str, asked: Instant, now: Instant) {
        fn place(reference: &str) -> Option<&str> {
            reference.rsplit_once('/').map(|(place, _)| place)
        }
        let beside = |(other, entry): &(&Arc<str>, &Entry)| {
            place(other) == place(reference) && entry.asked.is_some_and(|before| before < asked)
        };
        let beside: Vec<Arc<str>> = self.entries.iter().filter(beside).map(|(other, _)| other.clone()).collect();
        for other in beside {
            self.schedule(&other, now);
            self.awaited.insert(other);
        }
    }

    /// References that are waited for: those that have not been asked for since they are in use, since their manager is another one, or
    /// since a value beside theirs has changed.
    pub(super) fn awaited(&self) -> usize {
        self.awaited.len()
    }

    /// Waits for no answer any more. Those that are missing come all the same.
    pub(super) fn go_on(&mut self) {
        self.awaited.clear();
    }

    /// The present generation, and the references whose values have changed since another one.
    pub(super) fn changed_since(&self, generation: u64) -> (u64, HashSet<Arc<str>>) {
        let changed = self.entries.iter().filter(|(_, entry)| entry.changed > generation);
        (self.generation, changed.map(|(reference, _)| reference.clone()).collect())
    }

    /// Grows with each change of a value.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn census(&self) -> Census {
        let mut census = Census { left_out: self.left_out as u64, ..Census::default() };
        for entry in self.entries.values() {
            match (&entry.value, &entry.trouble) {
                (Some(_), None) => census.resolved += 1,
                (Some(_), Some(_)) => census.stale += 1,
                (None, _) => census.unresolved += 1,
            }
        }
        census
    }

    fn schedule(&mut self, reference: &Arc<str>, at: Instant) {
        if let Some(entry) = self.entries.get_mut(reference) {
            self.due.remove(&(entry.due, reference.clone()));
            entry.due = at;
            self.due.insert((at, reference.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
