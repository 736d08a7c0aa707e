//! What one member at a time holds, for a term of office: who has it does what only one must do.
//!
//! Whatever a leader does names its term, and the transaction that does it refuses once that term is over.
//!
//! What must stay true: no two terms are alike, also where the database lost the last commits, as a standby may have that took
//! over. So a term is named by its holder, whose id is another one after each start of its process, and by an epoch that is
//! no lower than the database's clock in milliseconds was when it began: what was lost is not counted once more.

use std::time::Duration;

use crate::error::StoreError;
use crate::member::millis;
use crate::sql::{Db, Tx, args};
use crate::store::Store;

/// A lease as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is for.
    pub name: String,
    /// [`NewMember::id`] of the holder.
    pub holder: String,
    /// Names the term of office: greater than that of the one before, and no lower than the milliseconds since 1970 at its
    /// beginning.
    pub epoch: u64,
    /// How long it still lasts; zero if it has ended.
    pub left: Duration,
}

/// A term of office.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term<'a> {
    /// [`Lease::name`].
    pub lease: &'a str,
    /// [`Lease::holder`].
    pub holder: &'a str,
    /// [`Lease::epoch`].
    pub epoch: u64,
}

impl Store {
    /// Takes the lease `name` for `term` if nobody has it, or prolongs it if `holder` has it. `None`: somebody else has it.
    ///
    /// Each time that it was not held before, a new term of office begins, and the epoch grows.
    pub async fn lease_take(&self, name: &str, holder: &str, term: Duration) -> Result<Option<u64>, StoreError> {
        let clock = self.0.db.clock_sql();
        let sql = format!(
            "INSERT INTO lease (name, holder, epoch, ends_at) VALUES ($1, $2, {clock}, {clock} + $3) \
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, ends_at = excluded.ends_at, epoch = CASE \
             WHEN lease.holder = excluded.holder AND lease.ends_at > {clock} THEN lease.epoch \
             WHEN lease.epoch < excluded.epoch THEN excluded.epoch ELSE lease.epoch + 1 END \
             WHERE lease.holder = excluded.holder OR lease.ends_at <= {clock}"
        );
        let mut tx = self.0.db.begin_write().await?;
        let taken = tx.run(sql, args![name, holder, millis(term)]).await? > 0;
        let epoch = match taken {
            true => tx.row("SELECT epoch FROM lease WHERE name = $1", args![name]).await?,
            false => None,
        };
        tx.commit().await?;
        epoch.map(|row| row.int(0)).transpose()
    }

    /// Lets go of the lease `name`, if `holder` has it: others need not wait for the end of the term.
    pub async fn lease_release(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        let sql = "UPDATE lease SET ends_at = 0 WHERE name = $1 AND holder = $2";
        self.0.db.run(sql, args![name, holder]).await.map(drop)
    }

    /// A lease as it stands; `None` if nobody ever took it.
    pub async fn lease_get(&self, name: &str) -> Result<Option<Lease>, StoreError> {
        let sql = format!(
            "SELECT holder, epoch, CASE WHEN ends_at > {clock} THEN ends_at - {clock} ELSE 0 END FROM lease WHERE name = $1",
            clock = self.0.db.clock_sql()
        );
        let Some(row) = self.0.db.row(sql, args![name]).await? else { return Ok(None) };
        let left = Duration::from_millis(row.int(2)?);
        Ok(Some(Lease { name: name.to_owned(), holder: row.text(0)?, epoch: row.int(1)?, left }))
    }
}

impl Term<'_> {
    /// Whether it lasts; if so, nobody begins another one before the transaction ends.
    pub(crate) async fn lasts(self, tx: &mut Tx, db: &Db) -> Result<bool, StoreError> {
        let lock = match tx {
            Tx::Pg(..) => " FOR SHARE",
            Tx::Lite(..) => "",
        };
        let clock = db.clock_sql();
        let sql =
            format!("SELECT 1 FROM lease WHERE name = $1 AND holder = $2 AND epoch = $3 AND ends_at > {clock}{lock}");
        Ok(tx.row(sql, args![self.lease, self.holder, self.epoch]).await?.is_some())
    }
}
