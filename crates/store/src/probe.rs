//! Addresses that operators have given, of which it is probed whether they answer.
//!
//! What must stay true: what a query says is shown nowhere, and written sealed; it may open something. What a build wrote that seals none
//! is read as it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use milecastle_model::MASK;
use serde_json::{Value as Json, json};

use crate::audit::{Acting, NewEntry, audited};
use crate::error::StoreError;
use crate::seal::{Context, Sealer};
use crate::sql::{Row, Tx, args};
use crate::store::Store;

const COLUMNS: &str = "SELECT id, name, url FROM probe";

/// What stands in the place of a URL before one that is sealed; none begins so.
const SEALED: &str = "sealed:";

/// A probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Identity.
    pub id: String,
    /// What people read.
    pub name: String,
    /// What is asked.
    pub url: String,
}

impl Probe {
    /// [`Probe::url`] as others may see it: without the values of its query.
    pub fn shown_url(&self) -> String {
        let Some((address, query)) = self.url.split_once('?') else { return self.url.clone() };
        let hidden = |argument: &str| match argument.split_once('=') {
            Some((name, _)) => format!("{name}={MASK}"),
            None => MASK.to_owned(),
        };
        format!("{address}?{}", query.split('&').map(hidden).collect::<Vec<_>>().join("&"))
    }
}

impl Store {
    /// All probes, by id.
    pub async fn probe_list(&self) -> Result<Vec<Probe>, StoreError> {
        let rows = self.0.db.rows(format!("{COLUMNS} ORDER BY id"), &[]).await?;
        rows.iter().map(|row| probe(row, &self.0.sealer)).collect()
    }

    /// One probe.
    pub async fn probe_get(&self, id: &str) -> Result<Option<Probe>, StoreError> {
        let row = self.0.db.row(format!("{COLUMNS} WHERE id = $1"), args![id]).await?;
        row.map(|row| probe(&row, &self.0.sealer)).transpose()
    }
}

impl Acting<'_> {
    /// Makes a probe, or replaces the one of its id. `false`, and nothing done: it would be one more than `most`.
    pub async fn probe_put(self, new: &Probe, most: u64) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let sealer = &self.store.0.sealer;
        let before = stored(&mut tx, sealer, &new.id).await?;
        let sql = "INSERT INTO probe (id, name, url) SELECT $1, $2, $3 \
                   WHERE (SELECT COUNT(*) FROM probe WHERE id <> $1) < $4 \
                   ON CONFLICT (id) DO UPDATE SET name = excluded.name, url = excluded.url";
        if tx.run(sql, args![&new.id, &new.name, &at_rest(new, sealer), most]).await? == 0 {
            return Ok(false);
        }
        let mut after = shown(new);
        if before.as_ref().is_some_and(|before| before.url != new.url && before.shown_url() == new.shown_url()) {
            after["url"] = format!("{} (changed)", new.shown_url()).into();
        }
        let before = before.as_ref().map(shown);
        self.record(&mut tx, NewEntry::of(audited::PROBE, &new.id, before, Some(after))).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Deletes a probe. `false`: there is none of this id.
    pub async fn probe_delete(self, id: &str) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let before = stored(&mut tx, &self.store.0.sealer, id).await?.as_ref().map(shown);
        let deleted = tx.run("DELETE FROM probe WHERE id = $1", args![id]).await? > 0;
        self.record(&mut tx, NewEntry::of(audited::PROBE, id, before, None)).await?;
        tx.commit().await?;
        Ok(deleted)
    }
}

/// One probe, as the transaction sees it.
async fn stored(tx: &mut Tx, sealer: &Sealer, id: &str) -> Result<Option<Probe>, StoreError> {
    let row = tx.row(format!("{COLUMNS} WHERE id = $1"), args![id]).await?;
    row.map(|row| probe(&row, sealer)).transpose()
}

/// What the audit log shows of a probe.
fn shown(probe: &Probe) -> Json {
    json!({ "name": probe.name, "url": probe.shown_url() })
}

fn context(id: &str) -> Context {
    Context::of(&["probe", id])
}

/// The URL of a probe as it is stored: sealed where there is something to hide, and else as builds that seal none read it.
fn at_rest(probe: &Probe, sealer: &Sealer) -> String {
    if probe.shown_url() == probe.url {
        return probe.url.clone();
    }
    let sealed = sealer.seal(&context(&probe.id), probe.url.as_bytes());
    format!("{SEALED}{}", STANDARD.encode(sealed))
}

fn probe(row: &Row, sealer: &Sealer) -> Result<Probe, StoreError> {
    let (id, name, stored) = (row.text(0)?, row.text(1)?, row.text(2)?);
    let Some(sealed) = stored.strip_prefix(SEALED) else { return Ok(Probe { id, name, url: stored }) };
    let unreadable = || StoreError::corrupt("the URL of a probe");
    let sealed = STANDARD.decode(sealed).map_err(|_| unreadable())?;
    let url = sealer.open(&context(&id), sealed)?;
    let url = String::from_utf8(url.into()).map_err(|_| unreadable())?;
    Ok(Probe { id, name, url })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_query_says_is_hidden() {
        for (url, expected) in [
            ("http://a.test/readyz", "http://a.test/readyz"),
            ("tcp://a.test:1", "tcp://a.test:1"),
            ("http://a.test/?token=t&x", "http://a.test/?token=******&******"),
            ("http://a.test/?a=b=c?d=e#f", "http://a.test/?a=******"),
        ] {
            let probe = Probe { id: String::new(), name: String::new(), url: url.to_owned() };
            assert_eq!(probe.shown_url(), expected);
        }
    }
}
