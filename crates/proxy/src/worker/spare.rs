//! What requests that are over have held, kept for its room.

use http::HeaderMap;
use milecastle_plugin_api::Lists;
use std::cell::RefCell;

/// Pieces of a kind that a worker keeps.
const MOST: usize = 256;
/// Fields beyond which a map's room is not worth keeping.
const LARGE: usize = 128;

/// Empty header maps and lists with room in them.
#[derive(Default)]
pub(crate) struct Spare {
    maps: RefCell<Vec<HeaderMap>>,
    lists: RefCell<Vec<Lists>>,
}

impl Spare {
    /// An empty map.
    pub(crate) fn take_map(&self) -> HeaderMap {
        self.maps.borrow_mut().pop().unwrap_or_default()
    }

    /// Empties a map and keeps it.
    pub(crate) fn put_map(&self, mut map: HeaderMap) {
        if map.capacity() == 0 || map.capacity() > LARGE {
            return;
        }
        // The fields are dropped before the list is touched: nothing of theirs may reach back here.
        map.clear();
        let mut kept = self.maps.borrow_mut();
        if kept.len() < MOST {
            kept.push(map);
        }
    }

    /// Empty lists.
    pub(crate) fn take_lists(&self) -> Lists {
        self.lists.borrow_mut().pop().unwrap_or_default()
    }

    /// Keeps lists that have been emptied.
    pub(crate) fn put_lists(&self, lists: Lists) {
        let mut kept = self.lists.borrow_mut();
        if kept.len() < MOST {
            kept.push(lists);
        }
    }
}
