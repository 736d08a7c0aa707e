//! What a group was last declared to be as a whole, beside the objects that came of it: the client's name for it, and what the
//! client will ask back.

use bytes::Bytes;

use crate::error::{PublishError, StoreError};
use crate::publish::Writing;
use crate::seal::Context;
use crate::sql::args;
use crate::store::Store;

/// The newest declaration of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Counts the declarations of the group, from 1.
    pub number: u64,
    /// The revision at which the group stood after it.
    pub revision: u64,
    /// The client's name for it; says nothing to us.
    pub digest: String,
    /// Unix time in seconds.
    pub at: u64,
    /// What was kept with it.
    pub body: Bytes,
}

/// A declaration that a change set makes, whether or not an object changes by it ([`crate::ChangeSet::declaration`]).
#[derive(Clone)]
pub struct NewDeclaration {
    /// The number of the one that it follows, 0 if it is the first: refused with [`PublishError::StaleDeclaration`] if another
    /// one came between.
    pub after: u64,
    /// As in [`Declaration::digest`].
    pub digest: String,
    /// As in [`Declaration::body`]; stored sealed.
    pub body: Bytes,
}

/// Leaves the body out.
impl std::fmt::Debug for NewDeclaration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewDeclaration").field("after", &self.after).finish_non_exhaustive()
    }
}

impl Store {
    /// The newest declaration of a group, if there was any.
    pub async fn declaration(&self, group: &str) -> Result<Option<Declaration>, StoreError> {
        let sql = "SELECT number, revision, digest, at, body FROM declaration WHERE group_id = $1";
        let Some(row) = self.0.db.row(sql, args![group]).await? else { return Ok(None) };
        let (number, revision, digest, at) = (row.int(0)?, row.int(1)?, row.text(2)?, row.int(3)?);
        let body = self.0.sealer.open(&context(group), row.blob(4)?)?;
        Ok(Some(Declaration { number, revision, digest, at, body }))
    }
}

impl Writing<'_> {
    /// Writes a declaration that leads to `revision`.
    pub(crate) async fn declare(&mut self, new: &NewDeclaration, revision: u64) -> Result<(), PublishError> {
        let body = self.sealer.seal(&context(self.group), &new.body);
        let sql = "INSERT INTO declaration (group_id, number, revision, digest, at, body) VALUES ($1, $2, $3, $4, $5, $6) \
                   ON CONFLICT (group_id) DO UPDATE SET number = excluded.number, revision = excluded.revision, \
                   digest = excluded.digest, at = excluded.at, body = excluded.body \
                   WHERE declaration.number = excluded.number - 1";
        let number = new.after + 1;
        let written = self.tx.run(sql, args![self.group, number, revision, &new.digest, self.now, &body[..]]).await?;
        if written == 0 { Err(PublishError::StaleDeclaration) } else { Ok(()) }
    }
}

fn context(group: &str) -> Context {
    Context::of(&["declaration", group])
}
