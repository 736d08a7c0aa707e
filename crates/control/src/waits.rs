//! Requests that wait for nodes (`?wait=`), and how many of them there may be.
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
    most: usize,
    most_of_a_key: usize,
    /// Places taken, by the name of the key.
    taken: Mutex<HashMap<String, usize>>,
}

/// A place. Dropped, it is free.
pub(crate) struct Place {
    places: Arc<Places>,
    key: String,
}

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// The key's own are taken.
    #[error(
        "{most} requests of the key `{key}` wait for nodes already, and nothing was done: try again later, or without `wait` \
         (admin.max_waits_of_a_key)"
    )]
    OfTheKey {
        /// Its name.
        key: String,
        /// How many it may have.
        most: usize,
    },
    /// All are taken.
    #[error(
        "{0} requests wait for nodes already, and nothing was done: try again later, or without `wait` (admin.max_waits)"
    )]
    All(usize),
}

impl Waits {
    /// `most` places, `most_of_a_key` of them for one key.
    pub(crate) fn new(most: usize, most_of_a_key: usize) -> Self {
        Self(Arc::new(Places { most, most_of_a_key, taken: Mutex::default() }))
    }

    /// A place for a request that the key of this name opened.
    pub(crate) fn enter(&self, key: &str) -> Result<Place, Full> {
        let mut taken = self.0.lock();
        if taken.values().sum::<usize>() >= self.0.most {
            return Err(Full::All(self.0.most));
        }
        let of_the_key = taken.entry(key.to_owned()).or_default();
        if *of_the_key >= self.0.most_of_a_key {
            return Err(Full::OfTheKey { key: key.to_owned(), most: self.0.most_of_a_key });
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
            Self::All(_) => StatusCode::SERVICE_UNAVAILABLE,
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
    fn a_key_has_its_places_and_all_have_theirs() {
        let waits = Waits::new(3, 2);
        let first = waits.enter("a").ok().unwrap();
        let _second = waits.enter("a").ok().unwrap();
        let full = |key: &str| waits.enter(key).err();
        assert_eq!(full("a"), Some(Full::OfTheKey { key: "a".to_owned(), most: 2 }));
        let third = waits.enter("b").ok().unwrap();
        assert_eq!(full("c"), Some(Full::All(3)));
        drop(third);
        drop(first);
        assert_eq!(full("a"), None);
        // Nothing is kept of keys that have no place.
        assert_eq!(waits.0.lock().len(), 1);
    }
}
