//! What clients want done to objects, and what bodies that comes to.

use super::plan::Edits;
use crate::admin::engine::id_text;
use crate::admin::kinds::{Identity, Rules};
use crate::admin::private_keys;
use crate::openapi::resource_ids;
use bytes::Bytes;
use milecastle_model::{Fault, Key, Kind, Object, patch, schema_of};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// An edit as a client writes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GivenEdit {
    pub(crate) op: Op,
    /// The name of a kind: `route`.
    pub(crate) kind: String,
    /// Of a credential `<consumer>/credentials/<id>`, and so on.
    pub(crate) id: String,
    /// The whole body, or what is to be merged into it (RFC 7396).
    #[serde(default)]
    pub(crate) body: Value,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Op {
    /// This is its body.
    Put,
    /// This is merged into its body (RFC 7396); `null` takes a member away.
    Patch,
    /// It goes.
    Delete,
    /// A draft leaves it as it is.
    Leave,
}

impl JsonSchema for GivenEdit {
    fn schema_name() -> Cow<'static, str> {
        "DraftEdit".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        edit_schema(&["delete", "leave"])
    }
}

/// The schema of edits that are published at once, of which none says `leave`.
pub(crate) fn published_edits(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": edit_schema(&["delete"]) })
}

/// The schema of an edit, where `bodiless` are the operations that look at no body. What an id is like follows from the kind.
fn edit_schema(bodiless: &[&str]) -> Schema {
    let object =
        json!({ "type": "object", "description": "The whole body, or what is to be merged into it (RFC 7396)." });
    let mut all = Vec::new();
    for (id, kinds) in resource_ids() {
        let members = |ops: &[&str], body: &Value| {
            let (op, kind) = (json!({ "type": "string", "enum": ops }), json!({ "type": "string", "enum": kinds }));
            json!({ "op": op, "kind": kind, "id": { "type": "string", "pattern": id }, "body": body })
        };
        let edit = |required: &[&str], members: Value| json!({ "type": "object", "additionalProperties": false, "required": required, "properties": members });
        all.push(edit(&["op", "kind", "id", "body"], members(&["put", "patch"], &object)));
        all.push(edit(&["op", "kind", "id"], members(bodiless, &json!(true))));
    }
    json_schema!({ "description": "An edit of one object.", "anyOf": all })
}

impl GivenEdit {
    /// The object that it is about.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn key(&self) -> Result<Key, String> {
        let kind = Kind::from_name(&self.kind).filter(|kind| kind.is_resource());
        let Some(kind) = kind else {
            let names = Kind::ALL.iter().filter(|kind| kind.is_resource()).map(|kind| kind.name());
            return Err(format!("kind: expected one of {}", names.collect::<Vec<_>>().join(", ")));
        };
        let key = Key::new(kind, &*self.id);
        if Key::from_path(&key.path()).as_ref() == Some(&key) {
            return Ok(key);
        }
        Err(match kind.parent() {
            Some(parent) => format!("id: expected <{parent}>/{}/<id>", kind.collection()),
            None => format!("id: `{}` is no id of a {}", self.id, kind.word()),
        })
    }

    /// The body that it comes to, of what there is; `None` if the object is to go.
    ///
    /// # Errors
    /// The faults of what is given. Whether the body is fit is judged where it is published.
    pub(crate) fn body(self, key: &Key, there: Option<&Bytes>) -> Result<Option<Bytes>, Vec<Fault>> {
        let body = match self.op {
            Op::Delete | Op::Leave => return Ok(None),
            Op::Put => {
                let faults = milecastle_model::client_timestamps(&self.body);
                if !faults.is_empty() {
                    return Err(faults);
                }
                self.body
            }
            Op::Patch => {
                let there = there.and_then(|body| serde_json::from_slice::<Value>(body).ok());
                let Some(mut merged) = there else {
                    return Err(vec![Fault::rule("", format!("{} not found", key.kind.word()))]);
                };
                if !self.body.is_object() {
                    return Err(vec![Fault::rule("", "invalid configuration: an object is expected")]);
                }
                patch::merge_patch(&mut merged, &self.body);
                merged
            }
        };
        let mut members = match body {
            Value::Object(members) => members,
            other => return Err(schema_of(key.kind).validate(&other)),
        };
        identify(key, &mut members)?;
        let mut body = Value::Object(members);
        let there = there.map(|body| Object { key: key.clone(), body: body.clone(), created: 0, modified: 0 });
        private_keys::restore(key.kind, &mut body, there.as_ref())?;
        Ok(Some(encode(&body)))
    }
}

/// Has a body name the object that it is of, as every stored one does.
pub(super) fn identify(key: &Key, members: &mut Map<String, Value>) -> Result<(), Vec<Fault>> {
    let (member, own) = match Rules::of(key.kind).identity {
        Identity::Username => ("username", &*key.id),
        Identity::Id | Identity::Plugin => ("id", key.own_id()),
    };
    match members.get_mut(member) {
        Some(named) if id_text(named).as_deref() == Some(own) => *named = own.into(),
        Some(_) => return Err(vec![Fault::rule(format!("/{member}"), format!("wrong {} id", key.kind.word()))]),
        None => drop(members.shift_insert(0, member.into(), own.into())),
    }
    if let Some(service) = key.parent().filter(|_| key.kind == Kind::GraphqlCostDecoration) {
        members.insert("service_id".into(), (*service.id).into());
    }
    Ok(())
}

/// Gives what is to be put the times that stored bodies have: `now` in Unix seconds.
pub(crate) fn stamped(edits: Edits, now: u64, stored: impl Fn(&Key) -> Option<Bytes>) -> Edits {
    let stamp = |key: &Key, body: Bytes| {
        if !Rules::of(key.kind).timestamps {
            return body;
        }
        let Ok(mut members) = serde_json::from_slice::<Map<String, Value>>(&body) else { return body };
        let created = stored(key)
            .and_then(|body| serde_json::from_slice::<Map<String, Value>>(&body).ok()?.remove("create_time"));
        members.insert("create_time".into(), created.unwrap_or_else(|| now.into()));
        members.insert("update_time".into(), now.into());
        encode(&Value::Object(members))
    };
    let each = |(key, body): (Key, Option<Bytes>)| {
        let body = body.map(|body| stamp(&key, body));
        (key, body)
    };
    edits.into_iter().map(each).collect()
}

pub(super) fn encode(body: &Value) -> Bytes {
    serde_json::to_vec(body).expect("a JSON value can be written as text").into()
}
