//! What the bodies of one connection may hold while nobody reads them.
//!
//! QUIC counts what has come on a connection, and was not read, over all of its streams: bodies that nobody reads could take all
//! of that from those that somebody does read. So each body has its share from the beginning, as much as it has announced,
//! or as its stream can hold, and there are no more bodies at a time than have one.
//!
//! Frames of no meaning and heads of tiny ones count towards QUIC's windows too, and towards no share: a client that sends very many
//! of them may hold up bodies of its own connection.

use std::cell::Cell;
use std::rc::Rc;

/// The room of a connection.
#[derive(Debug)]
pub(crate) struct Room {
    left: Cell<u64>,
    stream_window: u64,
}

/// What a body may hold. Dropped, it is given back.
#[derive(Debug)]
pub(crate) struct Share {
    room: Rc<Room>,
    bytes: u64,
}

impl Room {
    /// On a connection with this window, whose streams have one of `stream_window` bytes each.
    ///
    /// An eighth of the window may be free without the client having heard of it: so much is gathered before it is told. One stream's
    /// window is for what is read at once: heads, and the streams beside the requests.
    pub(crate) fn new(connection_window: u64, stream_window: u64) -> Rc<Self> {
        let left = connection_window - connection_window / 8;
        Rc::new(Self { left: Cell::new(left.saturating_sub(stream_window)), stream_window })
    }

    /// The share of a body that has announced this `length`; `None` if there is too little left.
    pub(crate) fn take(self: &Rc<Self>, length: Option<u64>) -> Option<Share> {
        let bytes = length.unwrap_or(u64::MAX).min(self.stream_window);
        self.left.set(self.left.get().checked_sub(bytes)?);
        Some(Share { room: self.clone(), bytes })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.left.set(self.room.left.get() + self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 1000;

    #[test]
    fn bodies_share_what_the_client_can_be_sure_of() {
        // Of 8000 bytes, 1000 may be free unheard, and 1000 are for heads.
        let room = Room::new(8 * WINDOW, WINDOW);
        let mut shares: Vec<Share> = (0..6).map_while(|_| room.take(None)).collect();
        assert_eq!(shares.len(), 6);
        assert!(room.take(Some(1)).is_none());
        shares.pop();
        assert!(room.take(Some(u64::MAX)).is_some(), "nobody holds more than a window");
        assert!(room.take(None).is_some(), "it was given back");
    }

    #[test]
    fn a_short_body_takes_no_more_than_it_has() {
        let room = Room::new(8 * WINDOW, WINDOW);
        let shares: Vec<Share> = (0..).map_while(|_| room.take(Some(WINDOW / 10))).collect();
        assert_eq!(shares.len(), 60);
    }
}
