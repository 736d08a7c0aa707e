//! Looking for patterns in many objects, without end for nobody (`docs/security.md`).
//!
//! What must stay true: a pattern of whoever may read takes few processors, for a bounded time, and none once its client has left.

use crate::RETRY_AFTER;
use crate::admin::reply::Reply;
use http::StatusCode;
use milecastle_settings::{Admin, Time};
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Largest machine that a regular expression is compiled to, in bytes.
const MACHINE: usize = 1 << 20;

/// Longest expression with look-around or back-references, in bytes: each of its parts without them is a machine of its own.
const LONGEST_BACKTRACKING: usize = 512;

/// Largest machine of such a part, in bytes: `\w` alone may take an eighth of the largest, since it is compiled in both directions.
const PART: usize = MACHINE / 4;

/// Most steps back of such an expression in one text. Names and paths are short: what needs more has no end.
const STEPS_BACK: usize = 100_000;

/// Most instructions that such an expression is compiled to.
const INSTRUCTIONS: usize = 1 << 14;

/// Lists of a process that are searched.
pub(crate) struct Searches {
    places: Arc<Semaphore>,
    time: Time,
}

/// The search of one list. Its place is taken until it is dropped, also where nobody waits for the list any more.
pub(crate) struct Search {
    until: Instant,
    time: Time,
    asker: Weak<()>,
    _place: OwnedSemaphorePermit,
}

impl Searches {
    /// As [`Admin::max_searches`] and [`Admin::search_time`] have it.
    pub(crate) fn new(settings: &Admin) -> Self {
        Self { places: Arc::new(Semaphore::new(settings.max_searches as usize)), time: settings.search_time }
    }

    /// Begins a search, which goes on for as long as `asker` lives.
    ///
    /// # Errors
    /// The answer, if others take all places for too long.
    pub(crate) async fn begin(&self, asker: &Arc<()>) -> Result<Search, Box<Reply>> {
        let time = self.time;
        let Ok(place) = timeout(time.get(), self.places.clone().acquire_owned()).await else {
            let text = format!(
                "too many lists are searched by name or uri (admin.max_searches), and none was through within {time} \
                 (admin.search_time): try again, or ask for the list without them"
            );
            let reply = Reply::error(StatusCode::SERVICE_UNAVAILABLE, text);
            return Err(Box::new(Reply { retry_after: Some(RETRY_AFTER), ..reply }));
        };
        let place = place.expect("the semaphore is never closed");
        Ok(Search { until: Instant::now() + time.get(), time, asker: Arc::downgrade(asker), _place: place })
    }
}

impl Search {
    /// Whether there is time left, and somebody who waits for the list.
    pub(crate) fn goes_on(&self) -> bool {
        self.asker.strong_count() > 0 && Instant::now() < self.until
    }

    /// The answer where it does not.
    pub(crate) fn given_up(&self) -> Box<Reply> {
        let text = format!(
            "the list was searched by name or uri for {} (admin.search_time) without coming to its end: use an expression \
             without look-around, back-references and nested repetitions",
            self.time
        );
        Box::new(Reply::bad(text))
    }
}

/// A regular expression as clients write them: Perl's syntax.
#[derive(Debug)]
pub(crate) enum Pattern {
    /// Runs in linear time.
    Plain(regex::Regex),
    /// Needs look-around or back-references; bounded by the engine's backtracking limit, beyond which nothing matches.
    Backtracking(Box<fancy_regex::Regex>),
}

impl Pattern {
    /// # Errors
    /// Why it is none, or too large.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        match regex::RegexBuilder::new(text).size_limit(MACHINE).build() {
            Ok(plain) => Ok(Self::Plain(plain)),
            Err(regex::Error::Syntax(error)) if text.len() > LONGEST_BACKTRACKING => Err(error),
            Err(regex::Error::Syntax(_)) => {
                let mut builder = fancy_regex::RegexBuilder::new(text);
                builder.delegate_size_limit(PART).max_prog_size(INSTRUCTIONS).backtrack_limit(STEPS_BACK);
                builder.build().map(|fancy| Self::Backtracking(Box::new(fancy))).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    pub(crate) fn finds(&self, text: &str) -> bool {
        match self {
            Self::Plain(plain) => plain.is_match(text),
            Self::Backtracking(fancy) => fancy.is_match(text).unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn searches(time: Time) -> Searches {
        Searches::new(&Admin { max_searches: 1, search_time: time, ..Admin::default() })
    }

    #[tokio::test]
    async fn a_search_ends_with_its_time_and_with_its_client() {
        let asker = Arc::new(());
        let search = searches(Time::secs(3600)).begin(&asker).await.unwrap();
        assert!(search.goes_on());
        drop(asker);
        assert!(!search.goes_on());
        let asker = Arc::new(());
        assert!(!searches(Time::millis(0)).begin(&asker).await.unwrap().goes_on());
    }

    #[tokio::test]
    async fn so_many_are_searched_at_a_time() {
        let (searches, asker) = (searches(Time::millis(1)), Arc::new(()));
        let first = searches.begin(&asker).await.unwrap();
        let refused = searches.begin(&asker).await.err().unwrap();
        assert_eq!((refused.status, refused.retry_after), (StatusCode::SERVICE_UNAVAILABLE, Some(RETRY_AFTER)));
        drop(first);
        assert!(searches.begin(&asker).await.is_ok());
    }

    #[test]
    fn what_would_be_a_large_machine_is_refused_by_either_engine() {
        let long = format!("(?=x){}", "x".repeat(LONGEST_BACKTRACKING));
        for text in [r"\w{5000}", r"(?=x)\w{10}", &*long] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
        assert!(matches!(Pattern::new(r"\w{5}"), Ok(Pattern::Plain(_))));
        assert!(matches!(Pattern::new(r"(?=a)\w+"), Ok(Pattern::Backtracking(_))));
    }
}
