//! What a change set comes to, given what is stored: pure.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use milecastle_model::{Key, Object};
use serde_json::{Map, Value};

use crate::change::{Body, Delete, Expect, Op, Outcome, Put, Reference, Slot, Target, UniqueKey};
use crate::error::PublishError;

/// An object as stored.
pub(super) struct Stored {
    pub(super) object: Object,
    pub(super) expires_at: Option<u64>,
}

/// What is stored under the keys that a change set concerns; those absent have nothing.
pub(super) type Existing = HashMap<Key, Stored>;

/// What is to be done.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
    pub(super) deletes: Vec<Deletion>,
    /// Objects that only live longer or shorter.
    pub(super) expiries: Vec<Expiry>,
    /// What must exist in the end, and who needs it. Also of puts that change nothing: a reference that dangles is refused
    /// however often the same body is sent.
    pub(super) needs: Vec<(Key, Reference)>,
    outcomes: Vec<Planned>,
}

/// An object to write.
pub(super) struct Write {
    pub(super) object: Object,
    pub(super) sealed: bool,
    /// What it takes the place of.
    pub(super) replaced: Option<Object>,
    pub(super) references: Vec<Reference>,
    pub(super) keys: Vec<UniqueKey>,
    pub(super) expires_at: Option<u64>,
}

/// An object to delete.
pub(super) struct Deletion {
    pub(super) object: Object,
    pub(super) force: bool,
}

/// A time to live that ends at another moment.
pub(super) struct Expiry {
    pub(super) key: Key,
    pub(super) before: Option<u64>,
    pub(super) after: Option<u64>,
}

enum Planned {
    /// Position in `writes`.
    Write(usize),
    Settled(Outcome),
}

/// Gives every op its key. Refuses a key named twice.
pub(super) fn resolve(ops: Vec<Op>, revision: u64) -> Result<Vec<(Key, Op)>, PublishError> {
    let mut seen = HashSet::with_capacity(ops.len());
    let resolved = ops.into_iter().map(|op| {
        let key = match &op {
            Op::Put(Put { target: Target::Key(key), .. }) | Op::Delete(Delete { key, .. }) => key.clone(),
            Op::Put(Put { target: Target::NextRevision { kind, parent }, .. }) => {
                Key::child(*kind, parent.as_deref().unwrap_or_default(), &format!("{revision:020}"))
            }
        };
        if seen.insert(key.clone()) { Ok((key, op)) } else { Err(PublishError::RepeatedKey(key)) }
    });
    resolved.collect()
}

/// Checks the preconditions on objects that the set does not write.
pub(super) fn check_required(require: &[(Key, Expect)], stored: &Existing) -> Result<(), PublishError> {
    require.iter().try_for_each(|(key, expect)| check_expected(key, *expect, stored.get(key)))
}

fn check_expected(key: &Key, expect: Expect, stored: Option<&Stored>) -> Result<(), PublishError> {
    let current = stored.map(|stored| &stored.object);
    if expect.holds(current) {
        return Ok(());
    }
    Err(PublishError::PreconditionFailed { key: key.clone(), current: current.cloned() })
}

/// Decides what each op comes to. Takes what is stored out of `stored`.
pub(super) fn decide(ops: Vec<(Key, Op)>, stored: &mut Existing, revision: u64) -> Result<Plan, PublishError> {
    let mut plan = Plan::default();
    for (key, op) in ops {
        let stored = stored.remove(&key);
        let outcome = match op {
            Op::Put(put) => plan.put(key, put, stored, revision)?,
            Op::Delete(delete) => plan.delete(delete, stored)?,
        };
        plan.outcomes.push(outcome);
    }
    Ok(plan)
}

impl Plan {
    fn put(&mut self, key: Key, put: Put, stored: Option<Stored>, revision: u64) -> Result<Planned, PublishError> {
        check_expected(&key, put.expect, stored.as_ref())?;
        let body = match put.body {
            Body::Ready(body) => body,
            Body::Make(make) => {
                make(&Slot { key: &key, revision, stored: stored.as_ref().map(|stored| &stored.object) })
            }
        };
        let parent = key.parent().map(|to| Reference { to, plugin: None, must_exist: true, hinders: false });
        let needed = put.references.iter().filter(|reference| reference.must_exist).cloned();
        self.needs.extend(parent.into_iter().chain(needed).map(|reference| (key.clone(), reference)));
        let until = match &stored {
            Some(stored) if put.keeps_lifetime => stored.expires_at,
            _ => put.expires_at,
        };
        let (created, replaced) = match stored {
            Some(Stored { object, expires_at }) if says_the_same(&object.body, &body) => {
                if expires_at != until {
                    self.expiries.push(Expiry { key, before: expires_at, after: until });
                }
                return Ok(Planned::Settled(Outcome::Unchanged(object)));
            }
            Some(Stored { object, .. }) => (object.created, Some(object)),
            None => (revision, None),
        };
        let object = Object { key, body, created, modified: revision };
        let Put { sealed, references, keys, .. } = put;
        self.writes.push(Write { object, sealed, replaced, references, keys, expires_at: until });
        Ok(Planned::Write(self.writes.len() - 1))
    }

    fn delete(&mut self, delete: Delete, stored: Option<Stored>) -> Result<Planned, PublishError> {
        let Delete { key, expect, force } = delete;
        check_expected(&key, expect, stored.as_ref())?;
        let Some(Stored { object, .. }) = stored else { return Ok(Planned::Settled(Outcome::Absent)) };
        self.deletes.push(Deletion { object, force });
        Ok(Planned::Settled(Outcome::Deleted))
    }

    /// What to tell the caller, one for each op.
    pub(super) fn into_outcomes(self) -> Vec<Outcome> {
        let mut written: Vec<Option<Outcome>> =
            self.writes.into_iter().map(|write| Some(write.into_outcome())).collect();
        let outcome = |planned| match planned {
            Planned::Write(at) => written[at].take().expect("each write belongs to one op"),
            Planned::Settled(outcome) => outcome,
        };
        self.outcomes.into_iter().map(outcome).collect()
    }
}

impl Write {
    fn into_outcome(self) -> Outcome {
        if self.replaced.is_some() { Outcome::Replaced(self.object) } else { Outcome::Created(self.object) }
    }
}

/// Whether two bodies say the same, timestamps aside, so that one in place of the other is no change. The order of members says nothing
/// in JSON.
pub fn says_the_same(stored: &Bytes, new: &Bytes) -> bool {
    if stored == new {
        return true;
    }
    let parse = |body: &Bytes| serde_json::from_slice::<Map<String, Value>>(body).ok();
    let (Some(mut stored), Some(mut new)) = (parse(stored), parse(new)) else { return false };
    for timestamp in ["create_time", "update_time"] {
        stored.shift_remove(timestamp);
        new.shift_remove(timestamp);
    }
    stored == new
}

#[cfg(test)]
mod tests {
    use milecastle_model::Kind;

    use super::*;

    fn key() -> Key {
        Key::new(Kind::Route, "1")
    }

    fn existing(body: &'static str) -> Existing {
        let object = Object { key: key(), body: body.into(), created: 2, modified: 3 };
        Existing::from([(key(), Stored { object, expires_at: None })])
    }

    #[test]
    fn timestamps_and_order_make_no_difference() {
        let check =
            |a: &'static str, b: &'static str, equal| assert_eq!(says_the_same(&a.into(), &b.into()), equal, "{a} {b}");
        check(
            r#"{"uri":"/a","id":"1","create_time":1}"#,
            r#"{"id":"1","uri":"/a","create_time":2,"update_time":3}"#,
            true,
        );
        check(r#"{"uri":"/a"}"#, r#"{"uri":"/b"}"#, false);
        check(r#"{"uri":"/a"}"#, r#"{"uri":"/a","desc":null}"#, false);
        check(r#"{"upstream":{"create_time":1}}"#, r#"{"upstream":{"create_time":2}}"#, false);
        check(r#"{"uris":["/a","/b"]}"#, r#"{"uris":["/b","/a"]}"#, false);
        check("not json", "not json", true);
        check("not json", "nor this", false);
    }

    #[test]
    fn expectations() {
        let check = |expect, absent, present| {
            for (mut stored, holds) in [(Existing::new(), absent), (existing("{}"), present)] {
                let put = Put { expect, ..Put::new(key(), r#"{"uri":"/a"}"#) };
                let decided = decide(vec![(key(), Op::Put(put))], &mut stored, 9);
                assert_eq!(decided.is_ok(), holds, "{expect:?}");
            }
        };
        check(Expect::Any, true, true);
        check(Expect::Absent, true, false);
        check(Expect::Present, false, true);
        check(Expect::ModifiedAt(3), false, true);
        check(Expect::ModifiedAt(2), false, false);
    }

    #[test]
    fn bodies_are_made_for_their_slot() {
        let make = |slot: &Slot<'_>| {
            Bytes::from(format!("{} {} {:?}", slot.key, slot.revision, slot.stored.map(|o| o.created)))
        };
        let put = Put { body: Body::make(make), ..Put::new(key(), "") };
        let plan = decide(vec![(key(), Op::Put(put))], &mut existing("{}"), 9).unwrap();
        assert_eq!(plan.writes[0].object.body, "/routes/1 9 Some(2)");
        assert_eq!((plan.writes[0].object.created, plan.writes[0].object.modified), (2, 9));
    }

    #[test]
    fn generated_ids_and_repeated_keys() {
        let new = || {
            Op::Put(Put { target: Target::NextRevision { kind: Kind::Route, parent: None }, ..Put::new(key(), "{}") })
        };
        let resolved = resolve(vec![new()], 123).unwrap();
        assert_eq!(resolved[0].0.path(), "/routes/00000000000000000123");
        let repeated = resolve(vec![new(), new()], 123).unwrap_err();
        assert!(repeated.to_string().contains("/routes/00000000000000000123 more than once"));
        let twice = resolve(vec![Op::Put(Put::new(key(), "{}")), Op::Delete(Delete::new(key()))], 1).unwrap_err();
        assert!(matches!(twice, PublishError::RepeatedKey(repeated) if repeated == key()));
    }
}
