//! Which programs may run on the schema that the database has (table `schema_rule`).
//!
//! A release that brings a schema which those before it cannot live with raises the rule, also while they run. The rule is read
//! with every look at the heads, and by each transaction that publishes.
//!
//! What must stay true: a program that has read that it may not run any more writes nothing from then on, whatever the rule says
//! later.

use std::sync::Arc;

use tokio::sync::watch;

use crate::bootstrap;
use crate::error::StoreError;
use crate::sql::{Db, Row};
use crate::store::Store;

/// Reads the rule by itself; as expressions: [`OLDEST`] and [`RELEASE`].
const RULE: &str = "SELECT oldest, release FROM schema_rule";
/// The first migration that a program has to know to run on this schema.
pub(crate) const OLDEST: &str = "(SELECT oldest FROM schema_rule)";
/// The first release that does.
pub(crate) const RELEASE: &str = "(SELECT release FROM schema_rule)";

/// What this process has read of the rule. Cheap to clone, and the same for all clones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule(watch::Sender<Option<Arc<str>>>);

impl Rule {
    /// Takes note of a row that has the rule in these two columns.
    pub(crate) fn told(&self, row: &Row, oldest: usize, release: usize) -> Result<(), StoreError> {
        let known = bootstrap::newest_known();
        if row.int_opt(oldest)?.is_some_and(|oldest| oldest > known) {
            let release = row.text_opt(release)?.unwrap_or_default();
            self.0.send_if_modified(|outdated| {
                let news = outdated.is_none();
                outdated.get_or_insert_with(|| release.into());
                news
            });
        }
        Ok(())
    }

    /// Reads it by itself: whatever else the newer schema has, this stays.
    pub(crate) async fn ask(&self, db: &Db) -> Result<(), StoreError> {
        match db.row(RULE, &[]).await? {
            Some(row) => self.told(&row, 0, 1),
            None => Ok(()),
        }
    }

    /// Fails once this program may not write any more.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match &*self.0.borrow() {
            Some(release) => Err(StoreError::Outdated { release: release.clone() }),
            None => Ok(()),
        }
    }
}

impl Store {
    /// The first release that may run on the schema of the database, once this program may not any more.
    pub fn outdated(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.db.rule().0.subscribe()
    }
}
