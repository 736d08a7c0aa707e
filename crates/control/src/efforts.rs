//! What may take a processor for long: searching many objects for a pattern, and judging many.
//!
//! What must stay true: those who may only read take few processors, for a bounded time, and none once they have left; so those who may
//! write are never starved by them.

use milecastle_settings::{Admin, Time};
use milecastle_telemetry::metrics::{Counter, Handle, MetricError, Options, Registry};
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What takes long, in the words of those who hear that it was not done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct What {
    /// The key that says how many there may be at a time.
    most: &'static str,
    /// The key that says how long each may take.
    time: &'static str,
    /// After `too many `.
    many: &'static str,
    /// What to do where there are too many.
    otherwise: &'static str,
    /// Before `for 2s`.
    long: &'static str,
    /// What to do where it took too long.
    advice: &'static str,
}

/// Lists that are searched for patterns.
static SEARCHES: What = What {
    most: "admin.max_searches",
    time: "admin.search_time",
    many: "lists are searched by name or uri",
    otherwise: "try again, or ask for the list without them",
    long: "the list was searched by name or uri",
    advice: "use an expression without look-around, back-references and nested repetitions",
};

/// Configurations that are judged and not stored.
static VALIDATIONS: What = What {
    most: "admin.max_validations",
    time: "admin.validation_time",
    many: "configurations are judged",
    otherwise: "try again",
    long: "the configuration was judged",
    advice: "send fewer objects at a time, with fewer and simpler expressions",
};

/// All of one sort that a process makes.
pub(crate) struct Efforts {
    what: &'static What,
    places: Arc<Semaphore>,
    time: Time,
    refused: Handle<Counter>,
    ended: Handle<Counter>,
}

/// Work on many objects that is done only for as long as somebody waits for it. One of a read has limits as well.
pub(crate) struct Effort {
    asker: Weak<()>,
    limits: Option<Limits>,
}

/// Those of one that somebody makes who only reads. Its place is taken until it is dropped, also where nobody waits for it any more.
struct Limits {
    what: &'static What,
    until: Instant,
    time: Time,
    ended: Handle<Counter>,
    _place: Option<OwnedSemaphorePermit>,
}

/// Why it was not done. Nothing came of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfinished {
    /// Others take all places for too long.
    #[error("too many {} ({}), and none was through within {time} ({}): {}", what.many, what.most, what.time, what.otherwise)]
    NoPlace {
        /// What was to be done.
        what: &'static What,
        /// How long was waited.
        time: Time,
    },
    /// It took too long.
    #[error("{} for {time} ({}) without coming to its end: {}", what.long, what.time, what.advice)]
    NoTime {
        /// What was to be done.
        what: &'static What,
        /// How long it could take.
        time: Time,
    },
    /// Nobody waits for it any more.
    #[error("whoever asked for it has left")]
    Left,
}

impl Efforts {
    /// As [`Admin::max_searches`] and [`Admin::search_time`] have it.
    ///
    /// # Errors
    /// A metric of the same name is another one.
    pub(crate) fn searches(settings: &Admin, metrics: &Registry) -> Result<Self, MetricError> {
        Self::new(&SEARCHES, settings.max_searches, settings.search_time, metrics)
    }

    /// As [`Admin::max_validations`] and [`Admin::validation_time`] have it.
    ///
    /// # Errors
    /// A metric of the same name is another one.
    pub(crate) fn validations(settings: &Admin, metrics: &Registry) -> Result<Self, MetricError> {
        Self::new(&VALIDATIONS, settings.max_validations, settings.validation_time, metrics)
    }

    fn new(what: &'static What, most: u32, time: Time, metrics: &Registry) -> Result<Self, MetricError> {
        let help = "Searches of lists and validations that a limit refused or ended, by its key.";
        let hits = metrics.counter("reads_refused_total", help, &["limit"], Options::default())?;
        let places = Arc::new(Semaphore::new(most as usize));
        Ok(Self { what, places, time, refused: hits.with(&[what.most]), ended: hits.with(&[what.time]) })
    }

    /// Begins one, which goes on for as long as `asker` lives.
    ///
    /// # Errors
    /// Others take all places for as long as one of them may take.
    pub(crate) async fn begin(&self, asker: &Arc<()>) -> Result<Effort, Unfinished> {
        let Self { what, time, .. } = *self;
        let Ok(place) = timeout(time.get(), self.places.clone().acquire_owned()).await else {
            self.refused.inc();
            return Err(Unfinished::NoPlace { what, time });
        };
        let place = place.expect("the semaphore is never closed");
        Ok(self.effort(asker, Some(place)))
    }

    /// Begins one of somebody who may write, and could spend as much by writing: it ends like any other, and takes no place.
    pub(crate) fn of_a_writer(&self, asker: &Arc<()>) -> Effort {
        self.effort(asker, None)
    }

    fn effort(&self, asker: &Arc<()>, place: Option<OwnedSemaphorePermit>) -> Effort {
        let Self { what, time, .. } = *self;
        let limits =
            Limits { what, until: Instant::now() + time.get(), time, ended: self.ended.clone(), _place: place };
        Effort { asker: Arc::downgrade(asker), limits: Some(limits) }
    }
}

impl Effort {
    /// One of a write, which goes on for as long as `asker` lives.
    pub(crate) fn of_a_write(asker: &Arc<()>) -> Self {
        Self { asker: Arc::downgrade(asker), limits: None }
    }

    /// Whether there is time left, and somebody who waits.
    pub(crate) fn goes_on(&self) -> bool {
        self.asker.strong_count() > 0 && self.limits.as_ref().is_none_or(|limits| Instant::now() < limits.until)
    }

    /// To be asked between two objects.
    ///
    /// # Errors
    /// It does not go on.
    pub(crate) fn check(&self) -> Result<(), Unfinished> {
        if self.goes_on() { Ok(()) } else { Err(self.given_up()) }
    }

    /// What is said where it does not go on.
    pub(crate) fn given_up(&self) -> Unfinished {
        match &self.limits {
            Some(Limits { what, time, ended, .. }) if self.asker.strong_count() > 0 => {
                ended.inc();
                Unfinished::NoTime { what, time: *time }
            }
            // No limit is to blame.
            _ => Unfinished::Left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn searches(time: Time) -> (Efforts, Registry) {
        let metrics = Registry::new("", 1);
        let settings = Admin { max_searches: 1, search_time: time, ..Admin::default() };
        (Efforts::searches(&settings, &metrics).unwrap(), metrics)
    }

    fn counted(metrics: &Registry, limit: &str) -> bool {
        metrics.render().contains(&format!("reads_refused_total{{limit=\"{limit}\"}} 1"))
    }

    #[tokio::test]
    async fn one_ends_with_its_time_and_with_its_client() {
        let (asker, (long, metrics)) = (Arc::new(()), searches(Time::secs(3600)));
        let search = long.begin(&asker).await.unwrap();
        assert_eq!(search.check(), Ok(()));
        drop(asker);
        assert_eq!(search.check(), Err(Unfinished::Left));
        assert!(!counted(&metrics, "admin.search_time"), "no limit has ended it");
        let (asker, (short, metrics)) = (Arc::new(()), searches(Time::millis(0)));
        assert!(short.begin(&asker).await.unwrap().check().is_err());
        assert!(counted(&metrics, "admin.search_time"));
    }

    #[tokio::test]
    async fn so_many_are_made_at_a_time() {
        let (asker, (searches, metrics)) = (Arc::new(()), searches(Time::millis(1)));
        let first = searches.begin(&asker).await.unwrap();
        let refused = searches.begin(&asker).await.err().unwrap();
        assert_eq!(refused, Unfinished::NoPlace { what: &SEARCHES, time: Time::millis(1) });
        assert!(counted(&metrics, "admin.max_searches"));
        // Whoever may write waits for nobody.
        drop(searches.of_a_writer(&asker));
        drop(first);
        assert!(searches.begin(&asker).await.is_ok());
    }
}
