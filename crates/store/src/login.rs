//! Logins that fail, and how long the next one has to wait for it: by account, so that no password is guessed, and by address,
//! so that no account is found. All replicas count together, by the database's clock.
//!
//! What must stay true: an attempt is counted before its password is looked at, so that many at once are no way around the wait.

use std::time::Duration;

use crate::error::StoreError;
use crate::member::millis;
use crate::seal::{Sealer, hex};
use crate::sql::{Db, Tx, args};
use crate::store::Store;

/// How failures of a subject slow down its next attempts.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Failures that cost no wait.
    pub free: u32,
    /// The wait after the next one; each further failure doubles it.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
    /// After this long without an attempt all failures are forgotten.
    pub memory: Duration,
}

/// Whose failures are counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// An account, whether there is one of that name or not.
    Account(String),
    /// An address.
    Address(String),
}

impl Backoff {
    /// The wait after so many failures.
    fn wait(&self, failures: u64) -> Duration {
        let Some(beyond) = failures.checked_sub(u64::from(self.free)) else { return Duration::ZERO };
        let doubled = u32::try_from(beyond).ok().and_then(|beyond| 2_u32.checked_pow(beyond));
        doubled.map_or(self.most, |times| self.first.saturating_mul(times).min(self.most))
    }
}

impl Subject {
    /// What it is called in the database. Somebody may have typed a password where the name belongs, so names are told apart by their
    /// keyed hashes.
    fn key(&self, sealer: &Sealer) -> String {
        match self {
            Subject::Account(name) => format!("account {}", hex(&sealer.digest("", "login", name.as_bytes()))),
            Subject::Address(address) => format!("address {address}"),
        }
    }
}

impl Store {
    /// Counts an attempt as a failure of all subjects, to be taken back by [`Store::login_succeeded`]. `Some`: one of them has to wait
    /// so long, and nothing was counted.
    pub async fn login_attempt(&self, subjects: &[(Subject, Backoff)]) -> Result<Option<Duration>, StoreError> {
        // Rows are taken in one order by all, so that none waits for another in a circle.
        let mut subjects: Vec<_> =
            subjects.iter().map(|(subject, backoff)| (subject.key(&self.0.sealer), *backoff)).collect();
        subjects.sort_by(|(one, _), (other, _)| one.cmp(other));
        let clock = format!("SELECT {}", self.0.db.clock_sql());
        let mut tx = self.0.db.begin_write().await?;
        let mut wait = Duration::ZERO;
        for (subject, backoff) in &subjects {
            let (failures, last_at) = taken(&mut tx, subject).await?;
            // Asked of the clock only once the row is held.
            let now = tx.row(clock.clone(), &[]).await?.ok_or_else(|| StoreError::corrupt("a clock without a row"))?;
            let now = now.int_or_zero(0)?;
            let remembered = now < last_at.saturating_add(millis(backoff.memory));
            let failures = if remembered { failures } else { 0 };
            let until = last_at.saturating_add(millis(backoff.wait(failures)));
            if failures > 0 {
                wait = wait.max(Duration::from_millis(until.saturating_sub(now)));
            }
            let count = "UPDATE login_failure SET failures = $2, last_at = $3 WHERE subject = $1";
            tx.run(count, args![subject, failures + 1, now]).await?;
        }
        if wait.is_zero() {
            tx.commit().await?;
            self.login_forget(&subjects).await?;
            return Ok(None);
        }
        Ok(Some(wait))
    }

    /// Forgets failures of which nobody needs to know any more.
    async fn login_forget(&self, subjects: &[(String, Backoff)]) -> Result<(), StoreError> {
        let longest = subjects.iter().map(|(_, backoff)| backoff.memory.max(backoff.most)).max().unwrap_or_default();
        // What another attempt holds is left to it: waiting for each other they might do so in a circle.
        let skip = match self.0.db {
            Db::Pg(_) => " FOR UPDATE SKIP LOCKED",
            Db::Lite { .. } => "",
        };
        let clock = self.0.db.clock_sql();
        let sql = format!(
            "DELETE FROM login_failure WHERE subject IN \
             (SELECT subject FROM login_failure WHERE last_at < {clock} - $1{skip})"
        );
        self.0.db.run(sql, args![millis(longest)]).await.map(drop)
    }

    /// Takes back what [`Store::login_attempt`] counted: an account is as if it had never failed, an address only as if it had not
    /// this once, since it may have an account of its own and guess at others.
    pub async fn login_succeeded(&self, subjects: &[(Subject, Backoff)]) -> Result<(), StoreError> {
        for (subject, _) in subjects {
            let sql = match subject {
                Subject::Account(_) => "DELETE FROM login_failure WHERE subject = $1",
                Subject::Address(_) => {
                    "UPDATE login_failure SET failures = failures - 1 WHERE subject = $1 AND failures > 0"
                }
            };
            self.0.db.run(sql, args![&subject.key(&self.0.sealer)]).await?;
        }
        Ok(())
    }
}

/// Failures of a subject and when the last one was, its row held until the end of the transaction.
async fn taken(tx: &mut Tx, subject: &str) -> Result<(u64, u64), StoreError> {
    let make = "INSERT INTO login_failure (subject, failures, last_at) VALUES ($1, 0, 0) \
                ON CONFLICT (subject) DO UPDATE SET failures = login_failure.failures";
    tx.run(make, args![subject]).await?;
    let row = tx.row("SELECT failures, last_at FROM login_failure WHERE subject = $1", args![subject]).await?;
    let row = row.ok_or_else(|| StoreError::corrupt("a row that was just written"))?;
    Ok((row.int(0)?, row.int(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let [first, most, memory] = [1, 10, 900].map(Duration::from_secs);
        let backoff = Backoff { free: 3, first, most, memory };
        let waits = [0, 2, 3, 4, 5, 6, 7, 40, 4_000_000_000, u64::MAX].map(|failures| backoff.wait(failures).as_secs());
        assert_eq!(waits, [0, 0, 1, 2, 4, 8, 10, 10, 10, 10]);
    }
}
