//! What many edits at once come to, given what a group is.

use super::Refused;
use crate::admin::judge::{Draft, Verdict};
use crate::admin::refusal;
use crate::efforts::{Effort, Unfinished};
use crate::state::{Difference, Image};
use crate::terms::{self, Review, Terms};
use bytes::Bytes;
use milecastle_model::{Change, Fault, Key, Kind, Object};
use milecastle_snapshot::Compiler;
use milecastle_store::{ChangeSet, Delete, Op, PublishError, Put, Source};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is to become of objects: these bodies, or to be gone.
pub(crate) type Edits = BTreeMap<Key, Option<Bytes>>;

/// Flaws that a message tells.
const TOLD: usize = 3;

/// Why an object does not fit into a change set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub(crate) key: Key,
    pub(crate) fault: Fault,
}

/// An object that is another one by now than the draft of a change set was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clash {
    pub(crate) key: Key,
    /// The revision of the form that was seen; `None`: there was no such object.
    pub(crate) seen: Option<u64>,
    /// The same of what there is.
    pub(crate) current: Option<u64>,
}

/// A change set that was thought through: what it does to each object, and what stands against it.
pub(crate) struct Plan {
    base: Arc<Image>,
    /// The group as it leads to.
    after: Image,
    /// Under the settings that it leads to.
    compiler: Compiler,
    puts: Vec<(Draft, Bytes)>,
    deletes: Vec<Key>,
    flaws: Vec<Flaw>,
    clashes: Vec<Clash>,
    /// The draft that it publishes, by id and version.
    draft: Option<(String, u64)>,
    force: bool,
}

impl Clash {
    /// The first of them, and what to do.
    pub(crate) fn told(clashes: &[Clash]) -> String {
        let form = |revision: Option<u64>| revision.map_or("not there".to_owned(), |n| format!("of revision {n}"));
        let one = |Clash { key, seen, current }: &Clash| {
            format!("{key} is {} by now, and was {} when it was edited", form(*current), form(*seen))
        };
        let first = clashes.iter().take(TOLD).map(one).collect::<Vec<_>>().join("; ");
        format!(
            "others have changed what the draft changes: {first}. Compare the revisions, and edit these objects again"
        )
    }
}

impl Flaw {
    fn all(key: &Key, faults: Vec<Fault>) -> impl Iterator<Item = Flaw> {
        faults.into_iter().map(move |fault| Flaw { key: key.clone(), fault })
    }

    /// The first of them, and how many there are.
    pub(crate) fn told(flaws: &[Flaw]) -> String {
        let first = flaws.iter().take(TOLD).map(|Flaw { key, fault }| format!("{key}: {}", fault.placed()));
        let first = first.collect::<Vec<_>>().join("; ");
        match flaws.len().saturating_sub(TOLD) {
            0 => first,
            more => format!("{first}; and {more} more"),
        }
    }
}

impl Plan {
    /// The work grows with the edits; where they change what can be built in the group, with all of its objects.
    ///
    /// # Errors
    /// The settings of the group cannot be read, or the effort does not go on.
    pub(super) fn of(
        compiler: &Compiler,
        base: Arc<Image>,
        edits: Edits,
        force: bool,
        effort: &Effort,
    ) -> Result<Self, Refused> {
        let edits = with_what_lives_below(&base, edits);
        let before = match Terms::of(compiler, &base) {
            Ok(terms) => terms.compiler().clone(),
            // A later version wrote them, and they are replaced: what is put is judged under those that follow.
            Err(_) if force && edits.contains_key(&Key::group_settings()) => compiler.clone(),
            Err(unreadable) => return Err(unreadable.into()),
        };
        let next = base.revision() + 1;
        let after = base.after(next, edits.iter().map(|(key, body)| change(&base, next, key, body.as_ref())));
        let mut plan = Self {
            compiler: before,
            base,
            after,
            puts: Vec::new(),
            deletes: Vec::new(),
            flaws: Vec::new(),
            clashes: Vec::new(),
            draft: None,
            force,
        };
        plan.come_to_settings(&edits, effort)?;
        for (key, body) in edits {
            effort.check()?;
            match body {
                None => plan.deletes.push(key),
                Some(body) => plan.put(key, body),
            }
        }
        Ok(plan)
    }

    /// Takes over the settings that the edits lead to, and looks for objects besides that could not be built any more.
    fn come_to_settings(&mut self, edits: &Edits, effort: &Effort) -> Result<(), Unfinished> {
        let key = Key::group_settings();
        let Some(settings) = edits.get(&key) else { return Ok(()) };
        if let Some(body) = settings.as_ref().and_then(|body| serde_json::from_slice::<Value>(body).ok()) {
            let faults = self.compiler.check(key.kind, &key.id, &body);
            self.flaws.extend(Flaw::all(&key, faults));
        }
        let compiler = match self.compiler.of_group(self.after.get(&key)) {
            Ok(compiler) if self.flaws.is_empty() => compiler,
            Ok(_) => return Ok(()),
            Err(faults) => {
                if self.flaws.is_empty() {
                    self.flaws.extend(Flaw::all(&key, faults));
                }
                return Ok(());
            }
        };
        let before = std::mem::replace(&mut self.compiler, compiler);
        if !self.force && !before.builds_like(&self.compiler) {
            let review = Review::of(before, self.compiler.clone(), Arc::new(self.after.clone()), effort)?;
            let found = review.found().filter(|(key, _)| !edits.contains_key(key));
            self.flaws.extend(found.map(|(key, fault)| Flaw { key: key.clone(), fault: fault.clone() }));
        }
        Ok(())
    }

    fn put(&mut self, key: Key, bytes: Bytes) {
        let body = match serde_json::from_slice::<Value>(&bytes) {
            Ok(body @ Value::Object(_)) => body,
            Ok(_) => return self.flaws.push(Flaw { key, fault: Fault::configuration("", "an object is expected") }),
            Err(error) => {
                let fault = Fault::configuration("", format!("not JSON: {error}"));
                return self.flaws.push(Flaw { key, fault });
            }
        };
        // As it would be stored, with the blanks that the client put in.
        if let Some(fault) = terms::too_large(bytes.len(), &body) {
            return self.flaws.push(Flaw { key, fault });
        }
        // What the settings themselves lack was said already.
        let mut faults = match key.kind {
            Kind::GroupSettings => Vec::new(),
            _ => terms::faults(&self.compiler, &key, &body, &self.after),
        };
        if !self.force {
            faults.extend(refusal::dangling(&key, &body, &self.after));
        }
        if let Some(parent) = key.parent().filter(|parent| self.after.get(parent).is_none()) {
            faults.push(Fault::rule("", format!("{} not found", parent.kind.word())));
        }
        let draft = Draft::new(key, body, &self.compiler);
        if let Verdict::Refused(more) = draft.judge(&self.after) {
            faults.extend(more);
        }
        self.flaws.extend(Flaw::all(draft.key(), faults));
        self.puts.push((draft, bytes));
    }

    /// The revision that it was made of.
    pub(crate) fn base(&self) -> u64 {
        self.base.revision()
    }

    /// What stands against it.
    pub(crate) fn flaws(&self) -> &[Flaw] {
        &self.flaws
    }

    /// Adds what stood against it before it was thought through.
    pub(crate) fn add_flaws(&mut self, flaws: Vec<Flaw>) {
        self.flaws.extend(flaws);
    }

    /// The same with a flaw for each attribute of these objects that names what the plan takes away: some of them hinder no deletion, so
    /// that the database would let them dangle.
    pub(crate) fn keeping(mut self, keys: &[Key]) -> Self {
        for object in keys.iter().filter_map(|key| self.after.get(key)) {
            let Ok(body) = serde_json::from_slice::<Value>(&object.body) else { continue };
            let before: Vec<Fault> = refusal::dangling(&object.key, &body, &self.base).collect();
            let faults = refusal::dangling(&object.key, &body, &self.after).filter(|fault| !before.contains(fault));
            self.flaws.extend(Flaw::all(&object.key, faults.collect()));
        }
        self
    }

    /// Objects that others have changed since they were edited: it is not published as long as there are any.
    pub(crate) fn clashes(&self) -> &[Clash] {
        &self.clashes
    }

    pub(crate) fn with_clashes(self, clashes: Vec<Clash>) -> Self {
        Self { clashes, ..self }
    }

    /// The same, which takes a draft of this version away with it.
    pub(crate) fn finishing(self, draft: String, version: u64) -> Self {
        Self { draft: Some((draft, version)), ..self }
    }

    /// The objects that it changes.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.puts.iter().map(|(draft, _)| draft.key()).chain(&self.deletes)
    }

    /// What it does to objects, by kind and id.
    pub(crate) fn differences(&self) -> impl Iterator<Item = Difference<'_>> {
        self.base.differences(&self.after)
    }

    /// To be published on top of the revision that it was made of, and no other.
    pub(crate) fn change_set(&self, source: Source, message: String) -> ChangeSet {
        let puts = self.puts.iter().map(|(draft, bytes)| {
            let references = draft.references().into_iter();
            let references = references
                .map(|one| milecastle_store::Reference { must_exist: one.must_exist && !self.force, ..one })
                .collect();
            Op::Put(Put {
                sealed: draft.sealed(),
                references,
                keys: draft.keys(),
                keeps_lifetime: true,
                ..Put::new(draft.key().clone(), bytes.clone())
            })
        });
        let deletes =
            self.deletes.iter().map(|key| Op::Delete(Delete { force: self.force, ..Delete::new(key.clone()) }));
        let mut set = ChangeSet::new(source, puts.chain(deletes).collect());
        set.message = message;
        set.expected_revision = Some(self.base());
        set.draft.clone_from(&self.draft);
        set
    }

    /// Why the store refused it.
    pub(crate) fn refused(&self, error: PublishError) -> Refused {
        let (key, faults) = match &error {
            PublishError::StillReferenced { key, by } => (key, refusal::hindrances(key, by)),
            PublishError::MissingReference { from: key, .. } | PublishError::DuplicateDigest { key, .. } => {
                let draft = self.puts.iter().map(|(draft, _)| draft).find(|draft| draft.key() == key);
                let registry = self.compiler.registry();
                let faults = draft.map(|draft| refusal::faults_of_put(&error, draft, &self.after, registry));
                (key, faults.unwrap_or_default())
            }
            _ => {
                return match error {
                    PublishError::StaleRevision { expected, current } => Refused::Stale { expected, current },
                    PublishError::StaleDraft(draft) => Refused::StaleDraft(draft),
                    PublishError::Store(error) => Refused::Store(error),
                    other => Refused::Unforeseen(other),
                };
            }
        };
        let faults = if faults.is_empty() { vec![Fault::rule("", error.to_string())] } else { faults };
        Refused::Flawed(Flaw::all(key, faults).collect())
    }
}

/// The edits that change something, and the end of what lives below objects that they take away.
fn with_what_lives_below(base: &Image, edits: Edits) -> Edits {
    let gone = edits.iter().filter(|(_, body)| body.is_none()).map(|(key, _)| key);
    let below = gone.flat_map(|parent| {
        let children = Kind::ALL.iter().copied().filter(|child| child.parent() == Some(parent.kind));
        children.flat_map(|child| base.below(child, &parent.id)).map(|object| object.key.clone())
    });
    let below: Vec<Key> = below.collect();
    let mut edits: Edits = edits
        .into_iter()
        .filter(|(key, body)| match (base.get(key), body) {
            (None, None) => false,
            (Some(object), Some(body)) => !milecastle_store::says_the_same(&object.body, body),
            _ => true,
        })
        .collect();
    for key in below {
        edits.entry(key).or_insert(None);
    }
    edits
}

fn change(base: &Image, next: u64, key: &Key, body: Option<&Bytes>) -> Change {
    match body {
        Some(body) => {
            let created = base.get(key).map_or(next, |object| object.created);
            Change::Put(Object { key: key.clone(), body: body.clone(), created, modified: next })
        }
        None => Change::Delete { key: key.clone(), revision: next },
    }
}
