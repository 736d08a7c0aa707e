//! What may take a processor for long: searching many objects for a pattern, and judging many.
//!
//! What must stay true: those who may only read take few processors, for a bounded time, and none once they have left; so those who may
//! write are never starved by them, nor one who reads by another.

use crate::callers::Caller;
use crate::rights::{Need, Place, Resource};
use milecastle_settings::{Admin, Time};
use milecastle_store::Actor;
use milecastle_telemetry::metrics::{Counter, Handle, MetricError, Options, Registry};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
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
    most_of_a_caller: usize,
    /// Places of each caller who has one or waits for it, by kind and id: one takes both its own and one of all.
    of_callers: Mutex<HashMap<String, Weak<Semaphore>>>,
    time: Time,
    refused: Handle<Counter>,
    ended: Handle<Counter>,
}

/// Work on many objects that is done only for as long as somebody waits for it. One of a read has limits as well.
pub(crate) struct Effort {
    asker: Weak<()>,
    limits: Option<Limits>,
}

/// Those of one of a read. Its place is taken until it is dropped, also where nobody waits for it any more.
struct Limits {
    what: &'static What,
    until: Instant,
    time: Time,
    ended: Handle<Counter>,
    _place: Option<[OwnedSemaphorePermit; 2]>,
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
        let most = most as usize;
        Ok(Self {
            what,
            places: Arc::new(Semaphore::new(most)),
            most_of_a_caller: most.div_ceil(2),
            of_callers: Mutex::default(),
            time,
            refused: hits.with(&[what.most]),
            ended: hits.with(&[what.time]),
        })
    }

    /// Begins one of `caller`: of a writer where it may write `resource` in `group`, else as [`Self::begin`] does.
    ///
    /// # Errors
    /// As those of [`Self::begin`].
    pub(crate) async fn of_a_caller(
        &self,
        asker: &Arc<()>,
        caller: &Caller,
        resource: Resource,
        group: &str,
    ) -> Result<Effort, Unfinished> {
        match caller.rights.allow(Need::write(resource), Place::Group(group)) {
            true => Ok(self.of_a_writer(asker)),
            false => self.begin(asker, &caller.actor).await,
        }
    }

    /// Begins one of `actor`, which goes on for as long as `asker` lives. Half of the places are the most that one account, key or token
    /// takes.
    ///
    /// # Errors
    /// Places are taken for as long as one of them may take.
    pub(crate) async fn begin(&self, asker: &Arc<()>, actor: &Actor) -> Result<Effort, Unfinished> {
        let Self { what, time, .. } = *self;
        let (own, all) = (self.of(actor), self.places.clone());
        // Whoever waits for its own takes none of the others' meanwhile.
        let place = async { Ok::<_, AcquireError>([own.acquire_owned().await?, all.acquire_owned().await?]) };
        let Ok(place) = timeout(time.get(), place).await else {
            self.refused.inc();
            return Err(Unfinished::NoPlace { what, time });
        };
        let place = place.expect("no semaphore is ever closed");
        Ok(self.effort(asker, Some(place)))
    }

    /// The places of one caller.
    fn of(&self, Actor { kind, id, .. }: &Actor) -> Arc<Semaphore> {
        let mut all = self.of_callers.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, one| one.strong_count() > 0);
        let own = all.entry(format!("{} {id}", kind.name())).or_default();
        own.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Semaphore::new(self.most_of_a_caller));
            *own = Arc::downgrade(&new);
            new
        })
    }

    /// Begins one of somebody who may write, and could spend as much by writing: it ends like any other, and takes no place.
    fn of_a_writer(&self, asker: &Arc<()>) -> Effort {
        self.effort(asker, None)
    }

    fn effort(&self, asker: &Arc<()>, place: Option<[OwnedSemaphorePermit; 2]>) -> Effort {
        let Self { what, time, .. } = *self;
        let limits =
            Limits { what, until: Instant::now() + time.get(), time, ended: self.ended.clone(), _place: place };
        Effort { asker: Arc::downgrade(asker), limits: Some(limits) }
    }
}

impl Effort {
    /// One of a write, which goes on for as long as `asker` lives: that of `/api` with an idempotency key to its end, whoever has left.
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
    use milecastle_store::ActorKind;

    fn searches(time: Time) -> (Efforts, Registry) {
        let metrics = Registry::new("", 1);
        let settings = Admin { max_searches: 2, search_time: time, ..Admin::default() };
        (Efforts::searches(&settings, &metrics).unwrap(), metrics)
    }

    fn account(name: &str) -> Actor {
        Actor::new(ActorKind::Account, name)
    }

    fn counted(metrics: &Registry, limit: &str) -> bool {
        metrics.render().contains(&format!("reads_refused_total{{limit=\"{limit}\"}} 1"))
    }

    #[tokio::test]
    async fn one_ends_with_its_time_and_with_its_client() {
        let (asker, (long, metrics)) = (Arc::new(()), searches(Time::secs(3600)));
        let search = long.begin(&asker, &account("a")).await.unwrap();
        assert_eq!(search.check(), Ok(()));
        drop(asker);
        assert_eq!(search.check(), Err(Unfinished::Left));
        assert!(!counted(&metrics, "admin.search_time"), "no limit has ended it");
        let (asker, (short, metrics)) = (Arc::new(()), searches(Time::millis(0)));
        assert!(short.begin(&asker, &account("a")).await.unwrap().check().is_err());
        assert!(counted(&metrics, "admin.search_time"));
    }

    #[tokio::test]
    async fn so_many_are_made_at_a_time() {
        let (asker, (searches, metrics)) = (Arc::new(()), searches(Time::millis(1)));
        let begin = async |name: &str| searches.begin(&asker, &account(name)).await;
        let (first, second) = (begin("a").await.unwrap(), begin("b").await.unwrap());
        let refused = begin("c").await.err().unwrap();
        assert_eq!(refused, Unfinished::NoPlace { what: &SEARCHES, time: Time::millis(1) });
        assert!(counted(&metrics, "admin.max_searches"));
        // Whoever may write waits for nobody.
        drop(searches.of_a_writer(&asker));
        drop(first);
        assert!(begin("c").await.is_ok());
        drop(second);
    }

    #[tokio::test]
    async fn nobody_takes_all_places_alone() {
        let (asker, (searches, _)) = (Arc::new(()), searches(Time::millis(1)));
        let begin = async |actor: &Actor| searches.begin(&asker, actor).await;
        let first = begin(&account("a")).await.unwrap();
        assert!(begin(&account("a")).await.is_err());
        drop(begin(&Actor::new(ActorKind::ApiToken, "a")).await.unwrap());
        drop(first);
        assert!(begin(&account("a")).await.is_ok());
        drop(searches.of(&account("b")));
        assert_eq!(searches.of_callers.lock().unwrap().len(), 1, "nothing is kept of callers who have no place");
    }
}
