//! Which nodes of an upstream can be chosen, as a worker sees it.

use crate::health::Checker;
use milecastle_snapshot::CompiledNode;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A worker's view of an upstream's health, made anew when the health has changed.
pub(super) struct Watch {
    checker: Arc<Checker>,
    /// The version that the view was made of.
    seen: Cell<Option<u64>>,
    view: RefCell<View>,
}

/// Which places can be chosen.
enum View {
    All,
    /// None is healthy, so that health is ignored.
    Ignored,
    Some(Box<[bool]>),
}

impl Watch {
    pub(super) fn new(checker: Arc<Checker>) -> Self {
        Self { checker, seen: Cell::new(None), view: RefCell::new(View::All) }
    }

    /// Takes in what has changed since the last pick.
    pub(super) fn refresh(&self, nodes: &[CompiledNode]) {
        let version = Some(self.checker.version());
        if self.seen.replace(version) == version {
            return;
        }
        let usable: Box<[bool]> = nodes.iter().map(|node| self.checker.is_usable(node)).collect();
        *self.view.borrow_mut() = match usable.iter().filter(|usable| **usable).count() {
            0 => View::Ignored,
            all if all == usable.len() => View::All,
            _ => View::Some(usable),
        };
    }

    /// Whether the node at a place can be chosen.
    pub(super) fn admits(&self, place: usize) -> bool {
        match &*self.view.borrow() {
            View::All | View::Ignored => true,
            View::Some(usable) => usable[place],
        }
    }

    /// Whether nodes are chosen although none of them is healthy.
    pub(super) fn is_ignored(&self) -> bool {
        matches!(&*self.view.borrow(), View::Ignored)
    }

    /// Whether an address of a node that has several should be used.
    pub(super) fn admits_address(&self, ip: IpAddr, port: u16) -> bool {
        self.checker.is_usable_at(ip, port)
    }

    /// What a request at this address reports to.
    pub(super) fn reporter(&self, addr: SocketAddr) -> (Arc<Checker>, SocketAddr) {
        (self.checker.clone(), addr)
    }
}
