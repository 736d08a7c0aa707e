//! What is known of the references in use, and when each is to be asked for again (`docs/spec/resources.md` §13, rule 4).
//!
//! It does no I/O and reads no clock.
//!
//! Invariant: the references of one [`place`] have the values of one answer, so that a key goes with its certificate.

use super::reference::place;
use super::trouble::{Found, Trouble};
use milecastle_settings::Secrets as Settings;
use milecastle_telemetry::Secret;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// References that are to be asked for together ([`place`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// See [`place`].
    pub(super) place: Arc<str>,
    pub(super) references: Vec<Arc<str>>,
    /// Whether one of them has never been asked for.
    pub(super) new: bool,
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
pub(crate) struct Census {
    /// Those that have a value.
    pub(crate) resolved: u64,
    /// Those whose value is the last one known, since the manager could not be asked.
    pub(crate) stale: u64,
    /// Those without a value, asked for or not yet.
    pub(crate) unresolved: u64,
    /// Those beyond the room.
    pub(crate) left_out: u64,
}

/// What is known of the references in use.
pub(super) struct Cache {
    ttl: Duration,
    negative_ttl: Duration,
    /// After this time a question has no answer any more, however many wait for their turn before it.
    patience: Duration,
    room: usize,
    places: HashMap<Arc<str>, Place>,
    /// Every place once, by when it is to be asked for.
    due: BTreeSet<(Instant, Arc<str>)>,
    /// Those that are waited for.
    awaited: HashSet<Arc<str>>,
    /// Those beyond the room, each with the generation in which it lost the value that it had; 0 if it never had any.
    left_out: HashMap<Arc<str>, u64>,
    /// Those that went out of use, or beyond the room, and may come back until that is [settled](Self::settle).
    parked: HashMap<Arc<str>, Parked>,
    /// Grows with each change of a value.
    generation: u64,
    /// Grows with each question, and with each that is due at once. One for all places: one that is forgotten and comes back is not
    /// mistaken for its former self.
    round: u64,
}

/// References that are asked for together ([`place`]).
struct Place {
    entries: BTreeMap<Arc<str>, Entry>,
    due: Instant,
    /// That of the last question, or of what has made its answer count no more.
    round: u64,
    /// That of the last question whose answer counted and said something of the values.
    answered: u64,
}

/// What was known of a reference, and of which answer of its place.
struct Parked {
    entry: Entry,
    answered: u64,
}

#[derive(Default)]
struct Entry {
    value: Option<Secret<String>>,
    /// What is wrong with it, as was told.
    trouble: Option<Trouble>,
    /// The generation in which it got the value that it has, or lost the one that it had; 0 if it never had any.
    changed: u64,
}

impl Cache {
    pub(super) fn new(settings: &Settings) -> Self {
        let turns = 1 + settings.entries / settings.concurrency.max(1);
        Self {
            ttl: settings.ttl.get(),
            negative_ttl: settings.negative_ttl.get(),
            patience: settings.timeout.get() * turns + settings.negative_ttl.get(),
            room: settings.entries as usize,
            places: HashMap::new(),
            due: BTreeSet::new(),
            awaited: HashSet::new(),
            left_out: HashMap::new(),
            parked: HashMap::new(),
            generation: 0,
            round: 0,
        }
    }

    /// The value of a reference.
    pub(super) fn value(&self, reference: &str) -> Option<String> {
        let entry = self.places.get(place(reference))?.entries.get(reference)?;
        entry.value.as_ref().map(|value| value.reveal().clone())
    }

    /// From now on these are in use: of them the first that there is room for, whichever were known before. The others are forgotten, and
    /// those that are new are due at once; one that comes back before that is [settled](Self::settle) has its value. One that has to make
    /// room loses its value, which is a change: what was built with it would not be built so after a start.
    pub(super) fn follow<'a>(&mut self, references: impl IntoIterator<Item = &'a str>, now: Instant) {
        let (mut within, mut beyond) = (HashSet::new(), HashSet::new());
        for reference in references {
            if within.len() < self.room {
                within.insert(reference);
            } else if !within.contains(reference) {
                beyond.insert(reference);
            }
        }
        let Self { places, due, awaited, left_out, parked, generation, .. } = self;
        left_out.retain(|reference, _| beyond.contains(&**reference));
        places.retain(|name, place| {
            let answered = place.answered;
            place.entries.retain(|reference, entry| {
                if within.contains(&**reference) {
                    return true;
                }
                if beyond.contains(&**reference) {
                    if entry.value.is_some() {
                        *generation += 1;
                        entry.changed = *generation;
                    }
                    left_out.insert(reference.clone(), entry.changed);
                }
                parked.insert(reference.clone(), Parked { entry: std::mem::take(entry), answered });
                false
            });
            let used = !place.entries.is_empty();
            if !used {
                due.remove(&(place.due, name.clone()));
                awaited.remove(name);
            }
            used
        });
        for reference in beyond {
            left_out.entry(reference.into()).or_insert(0);
        }
        for reference in within {
            let name = place(reference);
            if self.places.get(name).is_some_and(|place| place.entries.contains_key(reference)) {
                continue;
            }
            let name: Arc<str> = name.into();
            let parked = self.parked.remove(reference);
            let answered = parked.as_ref().map_or(0, |parked| parked.answered);
            let new = || Place { entries: BTreeMap::new(), due: now, round: 0, answered };
            let place = self.places.entry(name.clone()).or_insert_with(new);
            let parked = parked.filter(|parked| parked.answered == place.answered);
            let mut entry = parked.map(|parked| parked.entry).unwrap_or_default();
            if entry.value.is_some() {
                self.generation += 1;
                entry.changed = self.generation;
            }
            place.entries.insert(reference.into(), entry);
            self.ask_at_once(&name, now);
        }
    }

    /// What is in use now stays so: nothing of before comes back.
    pub(super) fn settle(&mut self) {
        self.parked.clear();
    }

    /// Whether a reference in use is one of those beyond the room.
    pub(super) fn leaves_out(&self, reference: &str) -> bool {
        self.left_out.contains_key(reference)
    }

    /// How many references are known at once.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Has those places asked for at once, whatever is known of them or just being asked.
    pub(super) fn flush(&mut self, concerned: impl Fn(&str) -> bool, now: Instant) {
        let flushed: Vec<Arc<str>> = self.places.keys().filter(|place| concerned(place)).cloned().collect();
        flushed.iter().for_each(|place| self.ask_at_once(place, now));
    }

    /// Has those places asked for at once that failed.
    pub(super) fn retry(&mut self, concerned: impl Fn(&str) -> bool, now: Instant) {
        let failed = self.places.iter().filter(|(name, place)| place.has_failed() && concerned(name));
        let failed: Vec<Arc<str>> = failed.map(|(name, _)| name.clone()).collect();
        failed.iter().for_each(|place| self.schedule(place, now));
    }

    /// The next question, if it is time for one.
    pub(super) fn question(&mut self, now: Instant) -> Option<Question> {
        let (at, name) = self.due.first()?.clone();
        if at > now {
            return None;
        }
        // Should no answer come at all.
        self.schedule(&name, now + self.patience);
        self.round += 1;
        let place = self.places.get_mut(&name)?;
        place.round = self.round;
        let (references, new) = (place.entries.keys().cloned().collect(), place.entries.values().any(Entry::is_new));
        Some(Question { place: name, references, new, round: place.round })
    }

    /// When the next question is to be asked.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the answers to a question, in the order of its references; gives what they have changed. A value that was known stays if the
    /// manager could not be asked, and goes if it says that there is none.
    pub(super) fn take(&mut self, question: Question, answers: Vec<Found>, now: Instant) -> Vec<(Arc<str>, News)> {
        let Question { place: name, references, round, .. } = question;
        let Some(place) = self.places.get_mut(&name).filter(|place| place.round == round) else {
            return Vec::new();
        };
        if answers.iter().any(|answer| !matches!(answer, Err(Trouble::Failed(_)))) {
            place.answered = round;
        }
        let again = answers.iter().map(|answer| if answer.is_ok() { self.ttl } else { self.negative_ttl }).min();
        let mut news = Vec::with_capacity(answers.len());
        for (reference, answer) in references.into_iter().zip(answers) {
            // It may be in use no more.
            let Some(entry) = place.entries.get_mut(&reference) else { continue };
            if entry.differs(&answer) {
                self.generation += 1;
                entry.changed = self.generation;
            }
            news.push((reference, entry.take(answer)));
        }
        self.schedule(&name, now + again.unwrap_or(self.negative_ttl));
        self.awaited.remove(&name);
        news
    }

    /// Places that are waited for: those with references that have not been asked for since they are in use, or since their manager is
    /// another one.
    pub(super) fn awaited(&self) -> usize {
        self.awaited.len()
    }

    /// Has nobody wait for those places any more. Their answers come all the same.
    pub(super) fn release(&mut self, concerned: impl Fn(&str) -> bool) {
        self.awaited.retain(|place| !concerned(place));
    }

    /// The present generation, and the references whose values have changed since another one.
    pub(super) fn changed_since(&self, generation: u64) -> (u64, HashSet<Arc<str>>) {
        let entries = self.places.values().flat_map(|place| &place.entries);
        let entries = entries.map(|(reference, entry)| (reference, entry.changed));
        let changed = entries.chain(self.left_out.iter().map(|(reference, changed)| (reference, *changed)));
        let changed = changed.filter(|(_, changed)| *changed > generation);
        (self.generation, changed.map(|(reference, _)| reference.clone()).collect())
    }

    /// Grows with each change of a value.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn census(&self) -> Census {
        let mut census = Census { left_out: self.left_out.len() as u64, ..Census::default() };
        for entry in self.places.values().flat_map(|place| place.entries.values()) {
            match (&entry.value, &entry.trouble) {
                (Some(_), None) => census.resolved += 1,
                (Some(_), Some(_)) => census.stale += 1,
                (None, _) => census.unresolved += 1,
            }
        }
        census
    }

    /// Has a place asked for at once and waited for; an answer that is under way does not count.
    fn ask_at_once(&mut self, name: &Arc<str>, now: Instant) {
        self.round += 1;
        if let Some(place) = self.places.get_mut(name) {
            place.round = self.round;
        }
        self.schedule(name, now);
        self.awaited.insert(name.clone());
    }

    fn schedule(&mut self, name: &Arc<str>, at: Instant) {
        if let Some(place) = self.places.get_mut(name) {
            self.due.remove(&(place.due, name.clone()));
            place.due = at;
            self.due.insert((at, name.clone()));
        }
    }
}

impl Place {
    fn has_failed(&self) -> bool {
        self.entries.values().any(|entry| matches!(entry.trouble, Some(Trouble::Failed(_))))
    }
}

impl Entry {
    /// Whether it has never been asked for.
    fn is_new(&self) -> bool {
        self.value.is_none() && self.trouble.is_none()
    }

    /// Whether it has another value after an answer, or none any more.
    fn differs(&self, answer: &Found) -> bool {
        match answer {
            Ok(value) => self.value.as_ref().is_none_or(|known| known.reveal() != value),
            Err(Trouble::Absent(_)) => self.value.is_some(),
            Err(Trouble::Failed(_)) => false,
        }
    }

    fn take(&mut self, answer: Found) -> News {
        let before = self.trouble.take();
        let trouble = match answer {
            Ok(value) => {
                self.value = Some(Secret::new(value));
                return before.map_or(News::None, |_| News::Resolved);
            }
            Err(trouble) => trouble,
        };
        if matches!(trouble, Trouble::Absent(_)) {
            self.value = None;
        }
        let told = before.as_ref() == Some(&trouble);
        self.trouble = Some(trouble.clone());
        let (Trouble::Absent(reason) | Trouble::Failed(reason)) = trouble;
        match self.value {
            _ if told => News::None,
            Some(_) => News::Stale(reason),
            None => News::Unresolved(reason),
        }
    }
}

#[cfg(test)]
mod tests;
