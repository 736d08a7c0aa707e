//! Routes' plugins with consumers' laid over them, merged once and kept.

use milecastle_plugin_api::{Chain, Consumer};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// Merged chains that a worker keeps.
const MOST: usize = 4096;

/// One merged chain. It holds what it was made of, so that the addresses which are its key stay taken.
struct Merged {
    route: Arc<Chain>,
    consumer: Arc<Consumer>,
    chain: Arc<Chain>,
}

/// Merged chains of one worker.
#[derive(Default)]
pub(crate) struct Overlays {
    by_parts: RefCell<HashMap<(usize, usize), Merged, foldhash::fast::RandomState>>,
}

impl Overlays {
    /// The chain of a route with a consumer's plugins laid over it.
    pub(crate) fn get(&self, route: &Arc<Chain>, consumer: &Arc<Consumer>) -> Arc<Chain> {
        let key = (Arc::as_ptr(route) as usize, Arc::as_ptr(consumer) as usize);
        if let Some(known) = self.by_parts.borrow().get(&key) {
            return known.chain.clone();
        }
        let chain = Arc::new(route.overlay(&consumer.overlay));
        let mut by_parts = self.by_parts.borrow_mut();
        if by_parts.len() >= MOST {
            by_parts.clear();
        }
        by_parts.insert(key, Merged { route: route.clone(), consumer: consumer.clone(), chain: chain.clone() });
        chain
    }

    /// Lets go of what only this table still holds: no snapshot in use has it any more.
    pub(crate) fn forget_unused(&self) {
        self.by_parts
            .borrow_mut()
            .retain(|_, merged| Arc::strong_count(&merged.route) > 1 && Arc::strong_count(&merged.consumer) > 1);
    }
}
