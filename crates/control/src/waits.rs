//! Requests that last, as those that wait for nodes (`?wait=`) or for the answer to a repeated write, and streams of events do, and
//! how many of them there may be.
//!
//! What must stay true: whoever waits holds a connection, so those who do are bounded, for each key and for all of them
//! together; what is left of the connections serves requests that do not wait. None of them makes room for another, unlike
//! connections ([`milecastle_places`]): each was promised an answer.

use http::StatusCode;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places of a process. Cheap to clone, and the same for all clones.
#[derive(Clone)]
pub(crate) struct Waits(Arc<Places>);

struct Places {
    what: &'static What,
    most: usize,
    most_of_a_key: usize,
    /// Places taken, by the key.
    taken: Mutex<HashMap<String, usize>>,
}

/// What lasts, in the words of those who hear that there is no place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct What {
    /// The code of the refusal.
    pub(crate) code: &'static str,
    /// After `256 `.
    all: &'static str,
    /// After `32 requests of the key \`ci\` `.
    of_a_key: &'static str,
}

/// Requests that wait for nodes.
pub(crate) static WAITS: What = What {
    code: "too_many_wait",
    all: "requests wait for nodes already, and nothing was done: try again later, or without `wait` (admin.max_waits)",
    of_a_key: "wait for nodes already, and nothing was done: try again later, or without `wait` (admin.max_waits_of_a_key)",
};

/// Streams of events.
pub(crate) static STREAMS: What = What {
    code: "too_many_streams",
    all: "streams of events are open already: try again later (event_streams.most)",
    of_a_key: "are streams of events already: end one of them first (event_streams.most_of_a_caller)",
};

/// Repeated writes that wait for the answer to the first one.
pub(crate) static REPEATS: What = What {
    code: "answer_unknown",
    all: "repeated writes wait for their answers already: repeat it later (admin.max_repeat_waits)",
    of_a_key: "are repeated writes that wait for their answers already: repeat it later (admin.max_repeat_waits_of_a_caller)",
};

/// A place. Dropped, it is free.
pub(crate) struct Place {
    places: Arc<Places>,
    key: String,
}

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// The key's own are taken.
    #[error("{most} requests of the key `{key}` {}", what.of_a_key)]
    OfTheKey {
        /// What lasts.
        what: &'static What,
        /// Its name.
        key: String,
        /// How many it may have.
        most: usize,
    },
    /// All are taken.
    #[error("{most} {}", what.all)]
    All {
        /// What lasts.
        what: &'static What,
        /// How many there may be.
        most: usize,
    },
}

impl Waits {
    /// `most` places, `most_of_a_key` of them for one key.
    pub(crate) fn new(what: &'static What, most: usize, most_of_a_key: usize) -> Self {
        Self(Arc::new(Places { what, most, most_of_a_key, taken: Mutex::default() }))
    }

    /// A place for a request that the key of this name opened.
    pub(crate) fn enter(&self, key: &str) -> Result<Place, Full> {
        self.enter_as(key, key)
    }

    /// The same, where keys of different kinds may have one name.
    pub(crate) fn enter_as(&self, key: &str, name: &str) -> Result<Place, Full> {
        let mut taken = self.0.lock();
        if taken.values().sum::<usize>() >= self.0.most {
            return Err(Full::All { what: self.0.what, most: self.0.most });
        }
        let of_the_key = taken.entry(key.to_owned()).or_default();
        if *of_the_key >= self.0.most_of_a_key {
            return Err(Full::OfTheKey { what: self.0.what, key: name.to_owned(), most: self.0.most_of_a_key });
        }
        *of_the_key += 1;
        Ok(Place { places: self.0.clone(), key: key.to_owned() })
    }
}

impl Full {
    /// What a client is told: 429 if it is its own doing.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::OfTheKey { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::All { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What a program is told.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::OfTheKey { what, .. } | Self::All { what, .. } => what.code,
        }
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(of_the_key) = taken.get_mut(&self.key) {
            *of_the_key -= 1;
            if *of_the_key == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_name_have_their_own_places() {
        let waits = Waits::new(&WAITS, 3, 1);
        let _account = waits.enter_as("account ci", "ci").ok().unwrap();
        let _token = waits.enter_as("token 7", "ci").ok().unwrap();
        let full = waits.enter_as("token 7", "ci").err();
        assert_eq!(full, Some(Full::OfTheKey { what: &WAITS, key: "ci".to_owned(), most: 1 }));
    }

    #[test]
    fn a_key_has_its_places_and_all_have_theirs() {
        let waits = Waits::new(&WAITS, 3, 2);
        let what = &WAITS;
        let first = waits.enter("a").ok().unwrap();
        let _second = waits.enter("a").ok().unwrap();
        let full = |key: &str| waits.enter(key).err();
        assert_eq!(full("a"), Some(Full::OfTheKey { what, key: "a".to_owned(), most: 2 }));
        let third = waits.enter("b").ok().unwrap();
        assert_eq!(full("c"), Some(Full::All { what, most: 3 }));
        drop(third);
        drop(first);
        assert_eq!(full("a"), None);
        // Nothing is kept of keys that have no place.
        assert_eq!(waits.0.lock().len(), 1);
    }
}
