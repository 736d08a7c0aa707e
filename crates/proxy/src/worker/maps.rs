//! Header maps whose requests are over, kept for their room.

use http::HeaderMap;
use std::cell::RefCell;

/// Maps that a worker keeps.
const MOST: usize = 256;
/// Fields beyond which a map's room is not worth keeping.
const LARGE: usize = 128;

/// Empty header maps with room in them.
#[derive(Default)]
pub(crate) struct Maps(RefCell<Vec<HeaderMap>>);

impl Maps {
    /// An empty map.
    pub(crate) fn take(&self) -> HeaderMap {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Empties a map and keeps it.
    pub(crate) fn put(&self, mut map: HeaderMap) {
        if map.capacity() == 0 || map.capacity() > LARGE {
            return;
        }
        // The fields are dropped before the list is touched: nothing of theirs may reach back here.
        map.clear();
        let mut kept = self.0.borrow_mut();
        if kept.len() < MOST {
            kept.push(map);
        }
    }
}
