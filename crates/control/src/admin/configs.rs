//! The configuration of a gateway group as a whole, in both directions: `GET`, `HEAD` and `PUT /configs`
//! (`docs/spec/admin-api.md` §15).
//!
//! What is put becomes objects like any others, in one change set; so it is what every other path of the API shows and changes. What
//! only the client reads (its digest, the versions of its collections and objects, members that are no collection) is kept
//! beside it, in the same transaction. References are not judged here, as the specification has it: what dangles compiles to the
//! status that it has for that.

mod kept;

use crate::admin::aside::aside;
use crate::admin::declared::{self, COLLECTIONS, INDEX, Item, PLUGINS, VERSION};
use crate::admin::engine::{ATTEMPTS, Engine};
use crate::admin::judge::Draft;
use crate::admin::private_keys::{self, Occasion};
use crate::admin::refusal;
use crate::admin::reply::{Reply, Stamp};
use crate::admin::yaml;
use crate::callers::Caller;
use crate::efforts::Effort;
use crate::state::{Group, Image};
use crate::terms::Terms;
use bytes::Bytes;
use http::StatusCode;
use kept::Kept;
use milecastle_model::{Key, Kind, Object};
use milecastle_snapshot::Compiler;
use milecastle_store::{ChangeSet, Declaration, Delete, NewDeclaration, Op, PublishError, Published, Put, Source};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::sync::Arc;

/// An answer, or the answer that refuses one.
type Answer = Result<Reply, Box<Reply>>;

/// A configuration that a client puts.
pub(crate) struct Given {
    /// `X-Digest`.
    pub(crate) digest: String,
    pub(crate) text: Bytes,
    pub(crate) yaml: bool,
    /// Who puts it.
    pub(crate) caller: Caller,
}

/// What a configuration comes to.
struct Plan {
    drafts: Vec<Draft>,
    gone: Vec<Key>,
    kept: Kept,
}

impl Engine {
    /// `HEAD /configs`.
    pub(crate) async fn configs_head(&self, group: &Group) -> Answer {
        let declared = self.read_declared(group).await?;
        Ok(Reply { stamp: declared.as_ref().map(stamp), ..Reply::empty(StatusCode::OK) })
    }

    /// `GET /configs`.
    pub(crate) async fn configs_get(&self, group: &Group, as_yaml: bool) -> Answer {
        // The image last, so that it is not older than the declaration.
        let declared = self.read_declared(group).await?;
        let kept = declared.as_ref().map_or_else(|| Ok(Kept::default()), kept)?;
        let image = group.current().await.map_err(|error| refusal::unavailable(&error))?;
        let stamp = declared.as_ref().map(stamp);
        let reply = aside(move || {
            let shown = shown(&image, &kept, declared.as_ref())?;
            Ok(match as_yaml {
                true => Reply::yaml(yaml::write(&shown)),
                false => Reply::json(StatusCode::OK, &shown),
            })
        });
        Ok(Reply { stamp, ..reply.await? })
    }

    /// `PUT /configs`.
    pub(crate) async fn configs_put(&self, group: &Group, given: Given) -> Answer {
        let Given { digest, text, yaml, caller } = given;
        let members = Arc::new(aside(move || declared::read(&text, yaml)).await?);
        // Dropped with this future once the client has left.
        let asker = Arc::new(());
        for _ in 0..ATTEMPTS {
            let declared = self.declared(group).await?;
            if let Some(declared) = declared.as_ref().filter(|declared| declared.digest == digest) {
                return Ok(Reply { stamp: Some(stamp(declared)), ..Reply::empty(StatusCode::NO_CONTENT) });
            }
            let image = group.current().await.map_err(|error| failed(&error))?;
            let terms = Terms::of(&self.compiler, &image).map_err(|error| refusal::unreadable(&error))?;
            let plan = {
                let (compiler, image, members) = (terms.compiler().clone(), image.clone(), members.clone());
                let (before, effort) = (declared.clone(), Effort::of_a_write(&asker));
                aside(move || plan(&compiler, &image, &members, before.as_ref(), &effort)).await?
            };
            let mut set = ChangeSet::new(Source::File, plan.ops());
            set.require = vec![terms.require()];
            // What is deleted follows from all that there is.
            set.expected_revision = Some(image.revision());
            let after = declared.map_or(0, |declared| declared.number);
            set.declaration = Some(NewDeclaration { after, digest: digest.clone(), body: plan.kept.encode() });
            let accepted = |_: &Published| Some(Reply::empty(StatusCode::ACCEPTED).answered());
            match caller.acting(&self.store).publish_answering(group.id(), set, accepted).await {
                Ok(published) => {
                    self.reach(group, &published).await;
                    // Another one may have followed: its time is a later one, its digest is not ours.
                    let stamp = self.declared(group).await?.map(|declared| Stamp { at: declared.at, digest });
                    let revision = Some(published.revision);
                    return Ok(Reply { stamp, revision, ..Reply::empty(StatusCode::ACCEPTED) });
                }
                Err(
                    PublishError::StaleRevision { .. }
                    | PublishError::StaleDeclaration
                    | PublishError::PreconditionFailed { .. },
                ) => {}
                Err(PublishError::Store(error)) => return Err(failed(&error)),
                Err(error) => return Err(refused(&error, &plan, &image, terms.compiler())),
            }
        }
        Err(Box::new(refusal::race()))
    }

    /// What was declared last, for a write.
    async fn declared(&self, group: &Group) -> Result<Option<Declaration>, Box<Reply>> {
        self.store.declaration(group.id()).await.map_err(|error| failed(&error))
    }

    /// The same, for a read. Memory has no part of it: without the database there is no answer.
    async fn read_declared(&self, group: &Group) -> Result<Option<Declaration>, Box<Reply>> {
        self.store.declaration(group.id()).await.map_err(|error| refusal::unavailable(&error))
    }
}

impl Plan {
    fn ops(&self) -> Vec<Op> {
        let puts = self.drafts.iter().map(|draft| {
            let body = serde_json::to_vec(draft.body()).expect("a JSON object can be written as text");
            let references =
                draft.references().into_iter().map(|one| milecastle_store::Reference { must_exist: false, ..one });
            Op::Put(Put {
                sealed: draft.sealed(),
                references: references.collect(),
                keys: draft.keys(),
                ..Put::new(draft.key().clone(), body)
            })
        });
        let deletes = self.gone.iter().map(|key| Op::Delete(Delete { force: true, ..Delete::new(key.clone()) }));
        puts.chain(deletes).collect()
    }
}

/// What the members of a body come to, given what there is.
fn plan(
    compiler: &Compiler,
    image: &Image,
    members: &Map<String, Value>,
    declared: Option<&Declaration>,
    effort: &Effort,
) -> Result<Plan, Box<Reply>> {
    let before = declared.map_or_else(|| Ok(Kept::default()), kept)?;
    let mut plan = Plan { drafts: Vec::new(), gone: Vec::new(), kept: before.succeeded_by(members) };
    if plan.kept.replaces(&before, PLUGINS, members)? {
        plugins_stay(members.get(PLUGINS))?;
    }
    for kind in COLLECTIONS {
        if !plan.kept.replaces(&before, kind.collection(), members)? {
            plan.kept.keep_indices(&before, kind);
            continue;
        }
        let mut flaw = None;
        let given = members.get(kind.collection()).unwrap_or(&Value::Null);
        let items = declared::collection(compiler, image, kind, given, effort, |found| {
            flaw = Some(found);
            true
        })?;
        if let Some(flaw) = flaw {
            return Err(Box::new(Reply::bad(flaw.error)));
        }
        let named: HashSet<&Key> = items.iter().map(|item| &item.key).collect();
        let there = kinds_of(kind).iter().flat_map(|&kind| image.of_kind(kind)).map(|object| &object.key);
        let gone: Vec<Key> = there.filter(|key| !named.contains(key)).cloned().collect();
        plan.gone.extend(gone);
        for Item { key, body, index } in items {
            let stored = image.get(&key);
            // The client says that it is the object that it put before; nothing has come between.
            let same = index.is_some() && before.index_of(stored, declared) == index.as_ref();
            plan.kept.note(&key, index);
            if same {
                continue;
            }
            plan.drafts.push(Draft::new(key, body, compiler));
        }
    }
    Ok(plan)
}

/// The kinds of objects that a collection holds.
fn kinds_of(kind: Kind) -> &'static [Kind] {
    match kind {
        Kind::Consumer => &[Kind::Consumer, Kind::Credential],
        _ => COLLECTIONS.iter().position(|one| *one == kind).map_or(&[], |at| &COLLECTIONS[at..=at]),
    }
}

/// Which plugins are enabled is no matter of this collection here.
fn plugins_stay(given: Option<&Value>) -> Result<(), Box<Reply>> {
    let Some(given) = given else { return Ok(()) };
    match declared::plugin_list(given) {
        Some(error) => Err(Box::new(Reply::bad(error))),
        None if given.as_array().is_some_and(|list| !list.is_empty()) => Err(Box::new(Reply::bad(
            "plugins: which plugins are enabled is a setting of the gateway group: leave the list out, and change it with \
             PUT /api/gateway_groups/{group}/settings",
        ))),
        None => Ok(()),
    }
}

/// The configuration as a client reads it.
fn shown(image: &Image, kept: &Kept, declared: Option<&Declaration>) -> Result<Value, Box<Reply>> {
    let mut members = Map::new();
    for kind in COLLECTIONS {
        let name = kind.collection();
        let mut items = Vec::new();
        for object in kinds_of(kind).iter().flat_map(|&kind| image.of_kind(kind)) {
            items.push(member(object, kept, declared)?);
        }
        if !items.is_empty() {
            members.insert(name.to_owned(), items.into());
        }
        members.insert(format!("{name}{VERSION}"), kept.version(name).into());
    }
    members.insert(format!("{PLUGINS}{VERSION}"), kept.version(PLUGINS).into());
    members.extend(kept.rest().clone());
    if let Some(declared) = declared {
        members.insert("X-Last-Modified".to_owned(), declared.at.into());
        members.insert("X-Digest".to_owned(), declared.digest.as_str().into());
    }
    Ok(Value::Object(members))
}

/// An object as a member of its collection.
fn member(object: &Object, kept: &Kept, declared: Option<&Declaration>) -> Result<Value, Box<Reply>> {
    let shown = private_keys::shown(object.key.kind, &object.body, Occasion::Write);
    let value = shown.and_then(|raw| serde_json::from_str::<Value>(raw.get()));
    let mut value = value.map_err(|error| refusal::no_json(object, &error))?;
    if let Value::Object(members) = &mut value {
        if object.key.kind == Kind::Credential {
            members.insert("id".into(), (*object.key.id).into());
        }
        if let Some(index) = kept.index_of(Some(object), declared) {
            members.insert(INDEX.to_owned(), index.clone().into());
        }
    }
    Ok(value)
}

fn kept(declared: &Declaration) -> Result<Kept, Box<Reply>> {
    Kept::decode(&declared.body).map_err(|error| {
        tracing::error!(%error, "what was kept of a declared configuration is not readable");
        Box::new(Reply::error(StatusCode::INTERNAL_SERVER_ERROR, "what is stored is not readable"))
    })
}

fn stamp(declared: &Declaration) -> Stamp {
    Stamp { at: declared.at, digest: declared.digest.clone() }
}

/// Why a configuration was not stored; of a parent that is missing it is the configuration's fault.
fn refused(error: &PublishError, plan: &Plan, image: &Image, compiler: &Compiler) -> Box<Reply> {
    let concerned = match error {
        PublishError::MissingReference { from: key, .. } | PublishError::DuplicateDigest { key, .. } => Some(key),
        _ => None,
    };
    let draft = concerned.and_then(|key| plan.drafts.iter().find(|draft| draft.key() == key));
    match draft {
        Some(draft) => {
            let reply = refusal::of_put(error, draft, image, compiler.registry());
            Box::new(Reply { status: StatusCode::BAD_REQUEST, ..*reply })
        }
        None => Box::new(Reply::error(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

/// §15.9.
fn failed(error: &milecastle_store::StoreError) -> Box<Reply> {
    Box::new(Reply { status: StatusCode::INTERNAL_SERVER_ERROR, ..*refusal::unavailable(error) })
}
