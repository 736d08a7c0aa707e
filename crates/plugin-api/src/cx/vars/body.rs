//! Fields of the request's body. They have a value once the body has been read, and none if it was cut at the cap.

use super::{graphql, multipart};
use crate::cx::{Body, RequestCx};
use crate::query;
use http::header::CONTENT_TYPE;
use milecastle_matching::{Var, VarName};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cell::OnceCell;

const FORM: &str = "application/x-www-form-urlencoded";

/// The body taken apart, at most once for a request.
#[derive(Default)]
pub(in crate::cx) struct Parsed {
    fields: OnceCell<Option<Value>>,
    pub(super) graphql: OnceCell<Option<graphql::Operation>>,
}

/// The body as text, if all of it has been read.
pub(super) fn whole(cx: &RequestCx) -> Option<Cow<'_, str>> {
    match &cx.request.body {
        Body::Read { bytes, partial: false } => Some(String::from_utf8_lossy(bytes)),
        Body::Read { .. } | Body::None | Body::Streaming { .. } => None,
    }
}

/// `post_arg_NAME`: the first field of this name in a urlencoded form.
pub(super) fn form_field<'a>(cx: &'a RequestCx, name: &str) -> Option<Var<'a>> {
    if !cx.request.header("content-type")?.starts_with(FORM) {
        return None;
    }
    let found = match whole(cx)? {
        Cow::Borrowed(form) => query::first(form, name)?,
        Cow::Owned(form) => Cow::Owned(query::first(&form, name)?.into_owned()),
    };
    Some(Var::Str(found))
}

/// `post_arg.PATH`: a field of a JSON, urlencoded or multipart body.
pub(super) fn field<'a>(cx: &'a RequestCx, name: &VarName) -> Option<Var<'a>> {
    let path = name.json_path()?;
    let body = whole(cx)?;
    path.var(cx.parsed.fields.get_or_init(|| parse(cx, &body)).as_ref()?)
}

fn parse(cx: &RequestCx, body: &str) -> Option<Value> {
    let kind = cx.request.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or(FORM);
    if kind.starts_with("application/json") {
        serde_json::from_str(body).ok()
    } else if kind.starts_with("multipart/form-data") {
        Some(object(multipart::fields(kind, body)?))
    } else if kind.starts_with(FORM) {
        let pairs = query::args(body).map(|arg| (arg.name.into_owned(), arg.value.map(Cow::into_owned)));
        Some(object(pairs.map(|(name, value)| (name, value.map_or(Value::Bool(true), Value::String)))))
    } else {
        None
    }
}

/// The fields by name; of a repeated one the first.
fn object(fields: impl IntoIterator<Item = (String, Value)>) -> Value {
    let mut members = Map::new();
    for (name, value) in fields {
        members.entry(name).or_insert(value);
    }
    Value::Object(members)
}
