//! What tests within this crate stand on.

use std::path::Path;
use std::sync::Arc;

use milecastle_plugin_api::{NoSecrets, Registry};
use milecastle_settings as settings;
use milecastle_snapshot::Compiler;
use milecastle_store::{KeySource, Store, open};

use crate::{Clock, MemberSettings};

/// The sealing key of a store whose files are in this directory.
pub(crate) fn sealing_key(home: &Path) -> KeySource {
    KeySource::File(home.join("sealing.key"))
}

/// A store on SQLite in this directory.
pub(crate) async fn sqlite(home: &Path) -> Store {
    open(&format!("sqlite:{}/store.db", home.display()), &sealing_key(home)).await.unwrap()
}

/// A compiler that has no plugin built in.
pub(crate) fn compiler() -> Arc<Compiler> {
    let plugins = Registry::new(&[], serde_json::Map::new(), Arc::default(), Arc::new(NoSecrets));
    Arc::new(Compiler::new(Arc::new(plugins)))
}

/// A member that goes by the defaults and by the clock of this store.
pub(crate) fn member(store: &Store) -> MemberSettings {
    MemberSettings {
        members: settings::Members::default(),
        history: settings::History::default(),
        audit: settings::Audit::default(),
        idempotency: settings::Idempotency::default(),
        events: settings::Events::default(),
        availability: settings::Availability::default(),
        compiler: compiler(),
        clock: Clock::of(store),
    }
}
