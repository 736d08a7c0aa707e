//! Reading what is stored, writing what a plan says.

use std::borrow::Cow;
use std::collections::HashSet;

use milecastle_model::{Key, Kind, Object};

use super::Writing;
use super::plan::{Existing, Expiry, Plan, Stored, Write};
use super::statements::{self, Table};
use crate::error::StoreError;
use crate::read::{body_context, object};
use crate::sql::{BATCH, Value, args};

impl Writing<'_> {
    /// What is stored under `keys`.
    pub(super) async fn stored(&mut self, keys: &[&Key]) -> Result<Existing, StoreError> {
        let mut stored = Existing::with_capacity(keys.len());
        for keys in keys.chunks(BATCH) {
            let sql = statements::stored(self.tx.dialect(), keys.len());
            for row in self.tx.rows(sql, &self.keyed(keys.iter().copied())).await? {
                let object = object(&row, self.sealer, self.group, 2)?;
                stored.insert(object.key.clone(), Stored { object, expires_at: row.int_opt(6)? });
            }
        }
        Ok(stored)
    }

    /// The group, then kind and id of each key: the values of most statements here.
    pub(super) fn keyed<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> Vec<Value<'k>>
    where
        Self: 'k,
    {
        let group = Value::Text(Some(self.group));
        std::iter::once(group).chain(keys.flat_map(|key| [key.kind.name().into(), Value::from(&*key.id)])).collect()
    }

    /// What lives below the objects to delete and must go with them.
    pub(super) async fn below(&mut self, plan: &Plan) -> Result<Vec<Object>, StoreError> {
        let named: HashSet<&Key> = plan.deletes.iter().map(|deletion| &deletion.object.key).collect();
        let mut below = Vec::new();
        for (parent, child) in Kind::ALL.iter().filter_map(|&child| Some((child.parent()?, child))) {
            let parents: Vec<&Key> = named.iter().copied().filter(|key| key.kind == parent).collect();
            for parents in parents.chunks(BATCH) {
                // All ids that begin with the parent's id and a slash: '0' follows '/' in byte order.
                let ranges: Vec<[String; 2]> =
                    parents.iter().map(|key| [format!("{}/", key.id), format!("{}0", key.id)]).collect();
                let sql = statements::within(self.tx.dialect(), ranges.len());
                let bounds = ranges.iter().flatten().map(Value::from);
                let values: Vec<_> = args![self.group, child.name()].iter().copied().chain(bounds).collect();
                for row in self.tx.rows(sql, &values).await? {
                    let object = object(&row, self.sealer, self.group, 2)?;
                    if !named.contains(&object.key) {
                        below.push(object);
                    }
                }
            }
        }
        Ok(below)
    }

    /// Brings objects, references and lookup keys to the state that the plan wants.
    pub(super) async fn write(&mut self, plan: &Plan, cascaded: &[Object]) -> Result<(), StoreError> {
        self.keep(plan, cascaded).await?;
        let doomed = gone(plan, cascaded);
        self.delete(Table::Resource, &doomed).await?;
        // The rows below go with their object when it is deleted, but not when it is replaced.
        let replaced: Vec<&Key> =
            plan.writes.iter().filter(|write| write.replaced.is_some()).map(|write| &write.object.key).collect();
        self.delete(Table::Reference, &replaced).await?;
        self.delete(Table::KeyDigest, &replaced).await?;
        for Expiry { key, after, .. } in &plan.expiries {
            let sql = "UPDATE resource SET expires_at = $4 WHERE group_id = $1 AND kind = $2 AND id = $3";
            self.tx.run(sql, args![self.group, key.kind.name(), &*key.id, *after]).await?;
        }
        for writes in plan.writes.chunks(BATCH) {
            self.put(writes).await?;
        }
        self.refer(&plan.writes).await?;
        self.hold_keys(&plan.writes).await
    }

    /// Keeps what is as old as the floor of the history, and will be otherwise: nothing else tells it then.
    async fn keep(&mut self, plan: &Plan, cascaded: &[Object]) -> Result<(), StoreError> {
        let replaced = plan.writes.iter().filter_map(|write| write.replaced.as_ref());
        let gone = plan.deletes.iter().map(|deletion| &deletion.object).chain(cascaded);
        let old: Vec<&Key> =
            replaced.chain(gone).filter(|object| object.modified <= self.floor).map(|object| &object.key).collect();
        for keys in old.chunks(BATCH) {
            let sql = statements::keep(self.tx.dialect(), keys.len());
            self.tx.run(sql, &self.keyed(keys.iter().copied())).await?;
        }
        Ok(())
    }

    async fn delete(&mut self, table: Table, keys: &[&Key]) -> Result<(), StoreError> {
        for keys in keys.chunks(BATCH) {
            let sql = statements::delete(self.tx.dialect(), table, keys.len());
            self.tx.run(sql, &self.keyed(keys.iter().copied())).await?;
        }
        Ok(())
    }

    async fn put(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let bodies: Vec<Cow<'_, [u8]>> = writes.iter().map(|write| self.stored_form(write)).collect();
        let sql = statements::put(writes.len());
        let mut values = Vec::with_capacity(writes.len() * 8);
        for (write, body) in writes.iter().zip(&bodies) {
            let object = &write.object;
            values.extend_from_slice(args![self.group, object.key.kind.name(), &*object.key.id, &**body]);
            values.extend_from_slice(args![write.sealed, object.created, object.modified, write.expires_at]);
        }
        self.tx.run(sql, &values).await?;
        Ok(())
    }

    fn stored_form<'w>(&self, write: &'w Write) -> Cow<'w, [u8]> {
        let object = &write.object;
        if !write.sealed {
            return Cow::Borrowed(&object.body);
        }
        self.sealer.seal(&body_context(self.group, &object.key), &object.body).into()
    }

    async fn refer(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let mut references: Vec<_> =
            writes.iter().flat_map(|write| write.references.iter().map(|to| (&write.object.key, to))).collect();
        // What an object refers to twice for one plugin is one row, and that one hinders if either does.
        references.sort_by_key(|(_, reference)| !reference.hinders);
        for references in references.chunks(BATCH) {
            let sql = statements::refer(references.len());
            let mut values = Vec::with_capacity(references.len() * 7);
            for (from, reference) in references {
                let (plugin, to) = (reference.plugin.as_deref().unwrap_or_default(), &reference.to);
                values.extend_from_slice(args![self.group, from.kind.name(), &*from.id, plugin]);
                values.extend_from_slice(args![to.kind.name(), &*to.id, reference.hinders]);
            }
            self.tx.run(sql, &values).await?;
        }
        Ok(())
    }

    async fn hold_keys(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let keys: Vec<_> =
            writes.iter().flat_map(|write| write.keys.iter().map(|key| (&write.object.key, key))).collect();
        for keys in keys.chunks(BATCH) {
            let digests: Vec<[u8; 32]> =
                keys.iter().map(|(_, key)| self.sealer.digest(self.group, &key.plugin, &key.value)).collect();
            let owners: Vec<Key> = keys.iter().map(|(holder, _)| owner(holder)).collect();
            let sql = statements::hold_keys(keys.len());
            let mut values = Vec::with_capacity(keys.len() * 6);
            for (((holder, key), digest), owner) in keys.iter().zip(&digests).zip(&owners) {
                values.extend_from_slice(args![self.group, &key.plugin, &digest[..]]);
                values.extend_from_slice(args![holder.kind.name(), &*holder.id, &*owner.id]);
            }
            self.tx.run(sql, &values).await?;
        }
        Ok(())
    }

    /// Writes the history of this revision. What was sealed is copied from the object, so that both hold the same blob.
    pub(super) async fn log(&mut self, plan: &Plan, cascaded: &[Object]) -> Result<(), StoreError> {
        let revision = self.head + 1;
        let put: Vec<&Key> = plan.writes.iter().map(|write| &write.object.key).collect();
        for keys in put.chunks(BATCH) {
            let sql = statements::log_puts(self.tx.dialect(), keys.len());
            self.tx.run(sql, &self.keyed(keys.iter().copied())).await?;
        }
        for keys in gone(plan, cascaded).chunks(BATCH) {
            let sql = statements::log_deletes(keys.len());
            let mut values = Vec::with_capacity(keys.len() * 7);
            for key in keys {
                values.extend_from_slice(args![self.group, revision, key.kind.name(), &*key.id, None::<&[u8]>]);
                values.extend_from_slice(args![false, 0_u64]);
            }
            self.tx.run(sql, &values).await?;
        }
        Ok(())
    }
}

/// All that goes.
fn gone<'p>(plan: &'p Plan, cascaded: &'p [Object]) -> Vec<&'p Key> {
    let named = plan.deletes.iter().map(|deletion| &deletion.object);
    named.chain(cascaded).map(|object| &object.key).collect()
}

/// Whose a lookup key is: a consumer's and its credentials' are the consumer's, any other object's is its own.
fn owner(holder: &Key) -> Key {
    let consumer = holder.parent().filter(|parent| parent.kind == Kind::Consumer);
    consumer.unwrap_or_else(|| holder.clone())
}
