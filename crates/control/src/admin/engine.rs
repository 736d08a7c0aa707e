//! One engine for all kinds: reads from the image, writes through the store (`docs/spec/admin-api.md` §4–§11).
//!
//! A write is judged twice. What needs no other object (schema, rules, plugins) is judged here, under the settings of the
//! group; the store refuses it if they are others by then, and it is judged anew. What rests on other objects the store
//! judges inside the transaction, so that it is still true when the write commits; its verdict is put into the
//! specification's words here. Faults that only the image can show are refused only after the image has been brought to the
//! database's head, so another replica's write a moment ago is seen.

use crate::admin::judge::{Draft, Verdict};
use crate::admin::kinds::{Identity, Rules};
use crate::admin::private_keys;
use crate::admin::query::Query;
use crate::admin::refusal;
use crate::admin::reply::Reply;
use crate::admin::show::{Answer, PREFIX, get, written};
use crate::admin::target::Place;
use crate::callers::Caller;
use crate::clock::Clock;
use crate::efforts::Efforts;
use crate::state::{Group, Image};
use crate::terms::{self, Terms};
use bytes::Bytes;
use http::{Method, StatusCode};
use milecastle_model::{Fault, FaultClass, Id, Key, Kind, Object, schema_of};
use milecastle_snapshot::Compiler;
use milecastle_store::{
    Body, ChangeSet, Delete, Expect, Op, Outcome, PublishError, Published, Put, Source, Store, Target,
};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How often a write is judged anew because what it rests on changed meanwhile.
pub(crate) const ATTEMPTS: usize = 16;

/// What is said once that was in vain.
pub(crate) const BUSY: &str = "the gateway group is written to without pause: try again, or pause the writers";

/// The engine.
pub(crate) struct Engine {
    pub(crate) store: Store,
    /// Of the default settings.
    pub(crate) compiler: Arc<Compiler>,
    pub(crate) clock: Clock,
    /// How long a read waits for the database to say where the group stands.
    pub(crate) max_read_wait: Duration,
    pub(crate) searches: Efforts,
}

/// One request for a resource.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) place: Place,
    pub(crate) query: Query,
    pub(crate) body: Option<Value>,
    /// Lifetime of what is written, in seconds.
    pub(crate) ttl: Option<u64>,
    /// Who asks.
    pub(crate) caller: Caller,
    pub(crate) group: Arc<Group>,
}

impl Engine {
    /// Answers a request.
    pub(crate) async fn answer(&self, call: Call) -> Reply {
        let rules = Rules::of(call.place.kind);
        let word = call.place.kind.word();
        let answer = if !rules.takes(&call.method) {
            let text = format!("not supported `{}` method for {word}", call.method);
            Ok(Reply::error(StatusCode::METHOD_NOT_ALLOWED, text))
        } else if call.place.kind == Kind::GraphqlCostDecoration && call.place.parent.as_deref() == Some("") {
            Err(refuse("missing service id"))
        } else if !call.place.may_exist(call.method == Method::PATCH && rules.patch_inside) {
            Ok(Reply::key_not_found())
        } else {
            match call.method {
                Method::GET => get(&call, self.max_read_wait, &self.searches).await,
                Method::DELETE => self.delete(&call).await,
                Method::PATCH => self.patch(call, rules).await,
                Method::POST => self.post(call).await,
                _ => self.put(call, rules).await,
            }
        };
        let reply = answer.unwrap_or_else(|refused| *refused);
        Reply { by_handler: true, ..reply }
    }

    async fn put(&self, mut call: Call, rules: Rules) -> Answer {
        let mut terms = self.terms(&call.group.image())?;
        let mut body = self.members(&mut call)?;
        let id = self.identity(&call, &rules, &mut body, &mut terms).await?;
        let key = call.place.key(&id);
        let body = Value::Object(body);
        let stored = match private_keys::is_marked(key.kind, &body) {
            true => current(&call).await?.get(&key).cloned(),
            false => None,
        };
        let body = self.given(&call, body, stored.as_ref())?;
        let terms = self.check(&key, &body, &call, terms).await?;
        let now = self.clock.now();
        let draft = Draft::new(key.clone(), body, terms.compiler());
        let made = |draft: &Draft| {
            let mut body = draft.body().clone();
            let body = Body::make(move |slot| {
                if rules.timestamps {
                    let created = slot.stored.and_then(created_at).unwrap_or_else(|| now.into());
                    body.insert("create_time".into(), created);
                    body.insert("update_time".into(), now.into());
                }
                encode(&body)
            });
            (Target::Key(key.clone()), body, Expect::Any)
        };
        self.publish(&call, terms, draft, made).await
    }

    async fn post(&self, mut call: Call) -> Answer {
        let body = self.members(&mut call)?;
        if call.place.id.is_some() || body.contains_key("id") {
            return Err(refuse(format!("wrong {} id, do not need it", call.place.kind.word())));
        }
        let (kind, parent) = (call.place.kind, call.place.parent.as_deref().map(Arc::from));
        let body = self.given(&call, Value::Object(body), None)?;
        let placeholder = call.place.key("");
        let terms = self.terms(&call.group.image())?;
        let terms = self.check(&placeholder, &body, &call, terms).await?;
        let now = self.clock.now();
        let draft = Draft::new(placeholder, body, terms.compiler());
        let made = |draft: &Draft| {
            let mut body = draft.body().clone();
            let body = Body::make(move |slot| {
                body.shift_insert(0, "id".into(), slot.key.own_id().into());
                body.insert("create_time".into(), now.into());
                body.insert("update_time".into(), now.into());
                encode(&body)
            });
            (Target::NextRevision { kind, parent: parent.clone() }, body, Expect::Absent)
        };
        self.publish(&call, terms, draft, made).await
    }

    async fn patch(&self, mut call: Call, rules: Rules) -> Answer {
        let kind = call.place.kind;
        let Some(id) = call.place.id.take() else {
            let verb = if kind == Kind::Secret { "no" } else { "missing" };
            return Err(refuse(format!("{verb} {} id", kind.word())));
        };
        let Some(patch) = call.body.take() else { return Err(refuse("missing new configuration")) };
        let inside = std::mem::take(&mut call.place.inside);
        if inside.is_empty() && !(patch.is_object() || patch.as_array().is_some_and(Vec::is_empty)) {
            return Err(refuse("invalid configuration"));
        }
        if kind == Kind::GraphqlCostDecoration && patch.get("service_id").is_some() {
            return Err(refuse("service_id can not be patched"));
        }
        let key = call.place.key(&id);
        // The patch applies to what the database holds now, so that only a truly concurrent write loses the race.
        let image = current(&call).await?;
        let Some(stored) = image.get(&key) else { return Err(Box::new(Reply::key_not_found())) };
        let own_time = inside == ["update_time"] || patch.get("update_time").is_some_and(|time| !time.is_null());
        let merged = merge(stored, patch, &inside)?;
        let mut body = object_of(kind, merged)?;
        self.same_id(&call, &rules, &id, &body)?;
        put_id(&mut body, &id);
        let now = self.clock.now();
        if rules.timestamps {
            body.entry("create_time").or_insert_with(|| now.into());
            if !own_time {
                body.insert("update_time".into(), now.into());
            }
        }
        call.place.id = Some(id);
        let body = restored(kind, Value::Object(body), Some(stored))?;
        let terms = self.check(&key, &body, &call, self.terms(&image)?).await?;
        let read = Expect::ModifiedAt(stored.modified);
        let draft = Draft::new(key.clone(), body, terms.compiler());
        let made = |draft: &Draft| (Target::Key(key.clone()), Body::Ready(encode(draft.body())), read);
        self.publish(&call, terms, draft, made).await
    }

    async fn delete(&self, call: &Call) -> Answer {
        let Some(id) = &call.place.id else { return Err(refuse(format!("missing {} id", call.place.kind.word()))) };
        let key = call.place.key(id);
        let force = call.query.get("force") == Some("true");
        let delete = Delete { force, ..Delete::new(key.clone()) };
        let set = ChangeSet::new(Source::Api, vec![Op::Delete(delete)]);
        let deleted = |published: &Published| match published.outcomes.contains(&Outcome::Absent) {
            true => Err(Box::new(Reply::key_not_found())),
            false => Ok(Reply::json(StatusCode::OK, &json!({ "key": format!("{PREFIX}{key}"), "deleted": "1" }))),
        };
        let answered = |published: &Published| Some(deleted(published).unwrap_or_else(|refused| *refused).answered());
        let acting = call.caller.acting(&self.store);
        let published = match acting.publish_answering(call.group.id(), set, answered).await {
            Ok(published) => published,
            Err(error) => return Err(refusal::of_delete(&error)),
        };
        self.reach(&call.group, &published).await;
        Ok(Reply { revision: Some(published.revision), ..deleted(&published)? })
    }

    /// Writes what has been judged, judging it again as long as what it rests on changes meanwhile.
    async fn publish(
        &self,
        call: &Call,
        mut terms: Terms,
        mut draft: Draft,
        made: impl Fn(&Draft) -> (Target, Body, Expect),
    ) -> Answer {
        let mut image = match draft.rests_on_image() {
            true => current(call).await?,
            false => call.group.image(),
        };
        for _ in 0..ATTEMPTS {
            let mut require = match draft.judge(&image) {
                Verdict::Accepted { require } => require,
                Verdict::Refused(faults) => {
                    let newer = current(call).await?;
                    if newer.revision() == image.revision() {
                        return Err(Box::new(Reply::faults(faults)));
                    }
                    image = newer;
                    continue;
                }
            };
            let (target, body, expect) = made(&draft);
            let put = Put {
                target,
                body,
                expect,
                sealed: draft.sealed(),
                references: draft.references(),
                keys: draft.keys(),
                keeps_lifetime: false,
                expires_at: call.ttl.map(|seconds| self.clock.now().saturating_add(seconds)),
            };
            let mut set = ChangeSet::new(Source::Api, vec![Op::Put(put)]);
            require.push(terms.require());
            set.require = require;
            let answered = |published: &Published| Some(written(published.outcomes.first()).ok()?.answered());
            match call.caller.acting(&self.store).publish_answering(call.group.id(), set, answered).await {
                Ok(published) => {
                    self.reach(&call.group, &published).await;
                    let reply = written(published.outcomes.first())?;
                    return Ok(Reply { revision: Some(published.revision), ..reply });
                }
                // What the judgement rested on is not what it was; an object that the write itself concerns is lost.
                Err(PublishError::PreconditionFailed { key, .. }) if key != *draft.key() => {
                    image = current(call).await?;
                    if !terms.are_of(&image) {
                        (terms, draft) = self.judged_anew(draft, &image)?;
                    }
                }
                Err(PublishError::Store(error)) => return Err(refusal::unavailable(&error)),
                Err(error) => {
                    let image = call.group.current().await.unwrap_or(image);
                    return Err(refusal::of_put(&error, &draft, &image, terms.compiler().registry()));
                }
            }
        }
        Err(Box::new(refusal::race()))
    }

    /// What the settings that an image has say of a draft that was judged under others.
    fn judged_anew(&self, draft: Draft, image: &Image) -> Result<(Terms, Draft), Box<Reply>> {
        let terms = self.terms(image)?;
        let (key, body) = draft.into_parts();
        let faults = terms::faults(terms.compiler(), &key, &body, image);
        if !faults.is_empty() {
            return Err(Box::new(Reply::faults(faults)));
        }
        let draft = Draft::new(key, body, terms.compiler());
        Ok((terms, draft))
    }

    /// What a write is judged by if the group stands as in an image.
    fn terms(&self, image: &Image) -> Result<Terms, Box<Reply>> {
        Terms::of(&self.compiler, image).map_err(|error| refusal::unreadable(&error))
    }

    /// Waits until reads show what was written. A failure here is not one of the write: the follower will catch up.
    pub(crate) async fn reach(&self, group: &Group, published: &Published) {
        let Published { revision, mark, .. } = published;
        if let Err(error) = group.reach(*revision, mark).await {
            tracing::warn!(group = %group.id(), revision, %error, "written, but not yet read back");
        }
    }

    /// The members of the body of a PUT or POST.
    fn members(&self, call: &mut Call) -> Result<Map<String, Value>, Box<Reply>> {
        let Some(body) = call.body.take() else { return Err(refuse("missing configurations")) };
        let mut members = object_of(call.place.kind, body)?;
        if let Some(service) = call.place.parent.as_ref().filter(|_| call.place.kind == Kind::GraphqlCostDecoration) {
            match members.get("service_id") {
                Some(own) if id_text(own).as_ref() != Some(service) => {
                    return Err(refuse("wrong service_id, it is taken from the path"));
                }
                _ => drop(members.insert("service_id".into(), service.as_str().into())),
            }
        }
        Ok(members)
    }

    /// What every body that a client gives as a whole goes through: no timestamps, and marks of stored keys resolved.
    fn given(&self, call: &Call, body: Value, stored: Option<&Object>) -> Result<Value, Box<Reply>> {
        let faults = milecastle_model::client_timestamps(&body);
        if !faults.is_empty() {
            return Err(Box::new(Reply::faults(faults)));
        }
        restored(call.place.kind, body, stored)
    }

    /// The id that a PUT names by path, body or both; puts it into the body where it belongs.
    async fn identity(
        &self,
        call: &Call,
        rules: &Rules,
        body: &mut Map<String, Value>,
        terms: &mut Terms,
    ) -> Result<String, Box<Reply>> {
        let kind = call.place.kind;
        if let Some(manager) =
            call.place.manager.as_ref().filter(|name| !["vault", "aws", "gcp"].contains(&name.as_str()))
        {
            return Err(refuse(format!("invalid secret manager: {manager}")));
        }
        let path = call.place.id.clone();
        let id = match rules.identity {
            Identity::Username => {
                let username = match body.get("username") {
                    Some(Value::String(username)) => username.clone(),
                    _ => return Err(self.faults_of(kind, "", &Value::Object(body.clone()))),
                };
                return match path {
                    Some(path) if path != username => Err(refuse("wrong username")),
                    _ => Ok(username),
                };
            }
            Identity::Plugin => {
                let name = path.or_else(|| body.get("id").and_then(id_text)).filter(|name| !name.is_empty());
                let Some(name) = name else { return Err(refuse("missing plugin name")) };
                let unknown = |terms: &Terms| terms.compiler().registry().get(&name).is_none();
                if unknown(terms) {
                    // It may have been enabled a moment ago.
                    *terms = self.terms(&*current(call).await?)?;
                }
                if unknown(terms) {
                    return Err(refuse("invalid plugin name"));
                }
                name
            }
            Identity::Id => {
                let Some(id) = path.or_else(|| body.get("id").and_then(id_text)) else {
                    return match body.get("id") {
                        Some(_) => Err(self.faults_of(kind, "", &Value::Object(body.clone()))),
                        None => Err(refuse(format!("missing {} id", kind.word()))),
                    };
                };
                self.same_id(call, rules, &id, body)?;
                id
            }
        };
        put_id(body, &id);
        Ok(id)
    }

    /// A body's own id must be the one that the path says.
    fn same_id(&self, call: &Call, rules: &Rules, id: &str, body: &Map<String, Value>) -> Result<(), Box<Reply>> {
        match body.get("id") {
            Some(own) if rules.identity == Identity::Id && id_text(own).as_deref() != Some(id) => {
                Err(refuse(format!("wrong {} id", call.place.kind.word())))
            }
            _ => Ok(()),
        }
    }

    /// Judges what needs no other object, by `terms` or by those that the database has by now; gives by which it passed.
    /// Dangling references come before the faults of plugins and expressions, as in the table of §11.1.
    async fn check(&self, key: &Key, body: &Value, call: &Call, mut terms: Terms) -> Result<Terms, Box<Reply>> {
        let mut faults = terms::faults(terms.compiler(), key, body, &call.group.image());
        // The schemas do not depend on settings.
        if !faults.is_empty() && faults.iter().all(|fault| fault.class != FaultClass::Configuration) {
            let image = current(call).await?;
            if !terms.are_of(&image) {
                terms = self.terms(&image)?;
                faults = terms::faults(terms.compiler(), key, body, &image);
            }
            if !faults.is_empty() && !faults.iter().any(is_early) {
                faults.splice(0..0, refusal::dangling(key, body, &image));
            }
        }
        if faults.is_empty() { Ok(terms) } else { Err(Box::new(Reply::faults(faults))) }
    }

    fn faults_of(&self, kind: Kind, id: &str, body: &Value) -> Box<Reply> {
        Box::new(Reply::faults(self.compiler.check(kind, id, body)))
    }
}

/// The image as the database stands at this moment.
async fn current(call: &Call) -> Result<Arc<Image>, Box<Reply>> {
    call.group.current().await.map_err(|error| refusal::unavailable(&error))
}

/// The object in a body. An empty array passes for one (§16 b); anything else is refused in the schema's words.
fn object_of(kind: Kind, body: Value) -> Result<Map<String, Value>, Box<Reply>> {
    match body {
        Value::Object(members) => Ok(members),
        Value::Array(items) if items.is_empty() => Ok(Map::new()),
        other => Err(Box::new(Reply::faults(schema_of(kind).validate(&other)))),
    }
}

fn restored(kind: Kind, mut body: Value, stored: Option<&Object>) -> Result<Value, Box<Reply>> {
    private_keys::restore(kind, &mut body, stored).map_err(|faults| Box::new(Reply::faults(faults)))?;
    Ok(body)
}

/// Gives the body its id, in string form.
fn put_id(body: &mut Map<String, Value>, id: &str) {
    match body.get_mut("id") {
        Some(own) => *own = id.into(),
        None => drop(body.shift_insert(0, "id".into(), id.into())),
    }
}

/// The stored object with the patch applied.
fn merge(stored: &Object, patch: Value, inside: &[String]) -> Result<Value, Box<Reply>> {
    let mut body: Value = serde_json::from_slice(&stored.body).map_err(|error| refusal::no_json(stored, &error))?;
    if inside.is_empty() {
        milecastle_model::patch::merge(&mut body, &patch);
    } else {
        milecastle_model::patch::set_path(&mut body, inside, patch).map_err(|error| refuse(error.to_string()))?;
    }
    Ok(body)
}

/// Whether a fault comes before the references in the table of §11.1.
fn is_early(fault: &Fault) -> bool {
    let late = ["/plugins", "/vars", "/filter_func", "/script"];
    fault.class == FaultClass::Configuration || !late.iter().any(|path| fault.path.starts_with(path))
}

/// The string form of an id as clients write it.
pub(crate) fn id_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        number => Id::from_value(number).ok().map(|id| id.as_str().to_owned()),
    }
}

fn created_at(stored: &Object) -> Option<Value> {
    let mut body: Map<String, Value> = serde_json::from_slice(&stored.body).ok()?;
    body.remove("create_time")
}

fn encode(body: &Map<String, Value>) -> Bytes {
    serde_json::to_vec(body).expect("a JSON object can be written as text").into()
}

fn refuse(message: impl AsRef<str>) -> Box<Reply> {
    Box::new(Reply::bad(message))
}
