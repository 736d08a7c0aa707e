//! The start: what was in force when this node ended.

use super::file::StateKey;
use super::generation::{Found, Origin};
use super::keeper::Handle;
use super::{Lane, MANY_FILES, Shared, directory, generation, key};
use crate::node::holdings::Holdings;
use milecastle_snapshot::Compiler;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Reads the state directory. See [`LastGood::loader`](super::LastGood::loader).
pub(in crate::node) struct Loader {
    pub(super) shared: Arc<Shared>,
    pub(super) lane: Arc<Mutex<Lane>>,
    pub(super) keeper: Handle,
}

impl Loader {
    /// The newest good configuration, of `origin` if that is known. Blocks.
    pub(in crate::node) fn load(self, origin: Option<&Origin>, compiler: &Compiler) -> Option<(Holdings, Origin)> {
        let Self { shared, lane, keeper } = self;
        let settings = &shared.settings;
        let listing = directory::list(settings.dir()).inspect_err(|error| shared.failed(&error)).unwrap_or_default();
        let key = StateKey::read(settings).inspect_err(|error| shared.failed(error)).ok().flatten();
        let mut damaged = 0;
        let found = match &key {
            Some(key) => generation::find(&listing, key, origin, compiler, |path, error| {
                damaged += 1;
                let path = path.display();
                tracing::warn!(%path, %error, "this file of the last good configuration is not used, or only in part");
            }),
            None => None,
        };
        if key.is_none() && !listing.checkpoints.is_empty() {
            damaged = listing.checkpoints.len() as u64;
            let key = settings.key_path();
            let key = key.display();
            tracing::error!(%key, "there is no key to the last good configuration: put it back, or wait for the control plane");
        }
        let warning = key.as_ref().and_then(|_| key::open_to_others(settings));
        if let Some(warning) = &warning {
            tracing::warn!("{warning}");
        }
        {
            let mut figures = shared.figures();
            (figures.damaged, figures.warning) = (damaged, warning);
            (figures.bytes, figures.generations) = (listing.bytes, listing.checkpoints.len());
        }
        let mut lane = lane.blocking_lock();
        lane.next = listing.last().unwrap_or(0).saturating_add(1);
        lane.key.clone_from(&key);
        let locked = {
            let mut access = shared.access();
            access.key = key;
            access.lock.is_some()
        };
        let Found { origin, holdings, generation, changes_bytes, changes_files } = found?;
        let position = holdings.position().clone();
        tracing::info!(revision = position.revision, generation, "starting with the last good configuration");
        {
            let mut figures = shared.figures();
            (figures.revision, figures.generation) = (Some(position.revision), generation);
            let written = listing.checkpoints.get(&generation).map(|path| path.metadata().and_then(|m| m.modified()));
            figures.written_at = written.and_then(Result::ok);
        }
        // Without the lock nothing may be appended. The keeper tries to have it for the next generation.
        lane.reached = locked.then_some(position);
        (lane.anchored, lane.bytes, lane.files) = (locked, changes_bytes, changes_files);
        lane.origin = Some(origin.clone());
        drop(lane);
        let many = changes_files >= MANY_FILES || changes_bytes >= settings.fold_at.get();
        // Nobody waits for the generation, if one is due.
        drop(keeper.in_force(0, &holdings, &origin, many || damaged > 0 || !locked));
        Some((holdings, origin))
    }
}
