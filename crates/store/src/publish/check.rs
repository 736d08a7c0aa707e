//! What must be true of the state that a change set leads to. The group's row is held, so it stays true until the commit.

use std::collections::HashSet;

use milecastle_model::Key;

use super::plan::Plan;
use super::{Writing, statements};
use crate::error::{Holder, PublishError, StoreError};
use crate::read::key;
use crate::sql::{BATCH, Value, args};

impl Writing<'_> {
    pub(super) async fn check_references(&mut self, plan: &Plan) -> Result<(), PublishError> {
        let wanted: HashSet<&Key> = plan.needs.iter().map(|(_, reference)| &reference.to).collect();
        let found = self.existing(&wanted).await?;
        if let Some((from, reference)) = plan.needs.iter().find(|(_, reference)| !found.contains(&reference.to)) {
            return Err(PublishError::MissingReference { from: from.clone(), reference: reference.clone() });
        }
        let unforced = plan.deletes.iter().filter(|deletion| !deletion.force).map(|deletion| &deletion.object.key);
        self.check_unused(unforced.collect()).await
    }

    async fn existing(&mut self, wanted: &HashSet<&Key>) -> Result<HashSet<Key>, StoreError> {
        let wanted: Vec<&Key> = wanted.iter().copied().collect();
        let mut found = HashSet::with_capacity(wanted.len());
        for keys in wanted.chunks(BATCH) {
            let sql = statements::existing(self.tx.dialect(), keys.len());
            for row in self.tx.rows(sql, &self.keyed(keys.iter().copied())).await? {
                found.insert(key(&row, 0)?);
            }
        }
        Ok(found)
    }

    /// Refuses if something still refers to one of `keys`, in a way that hinders its deletion.
    async fn check_unused(&mut self, mut keys: Vec<&Key>) -> Result<(), PublishError> {
        keys.sort_unstable();
        let of_one_kind = keys.chunk_by(|one, other| one.kind == other.kind);
        let batches: Vec<&[&Key]> = of_one_kind.flat_map(|keys| keys.chunks(BATCH)).collect();
        for keys in batches {
            let sql = statements::users(keys.len());
            let kind = keys.first().map(|key| key.kind.name());
            let ids = keys.iter().map(|key| Value::from(&*key.id));
            let values: Vec<Value<'_>> = args![self.group, true, kind].iter().copied().chain(ids).collect();
            let mut by = Vec::new();
            let mut used = None;
            for row in self.tx.rows(sql, &values).await? {
                let target = key(&row, 0)?;
                if *used.get_or_insert_with(|| target.clone()) != target {
                    break;
                }
                let plugin = Some(row.text(4)?).filter(|plugin| !plugin.is_empty());
                by.push(Holder { key: key(&row, 2)?, plugin });
            }
            if let Some(key) = used {
                return Err(PublishError::StillReferenced { key, by });
            }
        }
        Ok(())
    }

    /// Refuses if a lookup key that was written belongs to another owner too.
    pub(super) async fn check_lookup_keys(&mut self, plan: &Plan) -> Result<(), PublishError> {
        let holders = plan.writes.iter().filter(|write| !write.keys.is_empty()).map(|write| &write.object.key);
        for keys in holders.collect::<Vec<_>>().chunks(BATCH) {
            let sql = statements::shared_keys(self.tx.dialect(), keys.len());
            if let Some(row) = self.tx.row(sql, &self.keyed(keys.iter().copied())).await? {
                let (key, holder, plugin) = (key(&row, 0)?, key(&row, 2)?, row.text(4)?);
                return Err(PublishError::DuplicateDigest { key, plugin, holder });
            }
        }
        Ok(())
    }
}
