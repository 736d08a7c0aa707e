//! The OpenAPI 3.1 document of `/api` and of the Admin API (`docs/openapi.json`), made of the tables that the routers are made of
//! and of the schemas that bodies are judged by.
//!
//! What must stay true: no endpoint is served that the document lacks. A row of either table has no way to leave out what the
//! document says of it.

mod admin;
mod doc;

pub(crate) use doc::{Doc, Param, SPAN, Span, bodies_by_path, resource_ids};

use std::sync::LazyLock;

use http::Method;
use schemars::SchemaGenerator;
use schemars::generate::{Contract, SchemaSettings};
use serde_json::{Map, Value, json};

use crate::api::{self, Declared, EXPECTED, Refusal, Starting};

/// Ids that clients choose: of gateway groups, and of drafts.
pub(crate) const NAME: &str = "^[A-Za-z0-9._-]{1,64}$";

/// Where definitions are, in the document.
const SCHEMAS: &str = "#/components/schemas/";

/// Refused where something else is there than was expected: by all that take `If-Match`.
const STALE: u16 = 412;
/// Refused where it was not said what is expected: by those that need it.
const UNSAID: u16 = 428;

/// Largest whole number that every parser of JSON keeps.
pub(crate) const MOST: u64 = (1 << 53) - 1;

/// The document as it is served and kept in the repository, ended by a newline.
pub(crate) static TEXT: LazyLock<String> = LazyLock::new(|| {
    let mut text = serde_json::to_string_pretty(&document()).expect("a JSON value can be written as text");
    text.push('\n');
    text
});

/// Definitions of what is taken, and of what is given: of one type both may differ in what must be there.
struct Schemas {
    taken: SchemaGenerator,
    given: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let generator = |contract| {
            let settings = SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.contract = contract;
            });
            settings.into_generator()
        };
        Self { taken: generator(Contract::Deserialize), given: generator(Contract::Serialize) }
    }

    /// All definitions by name.
    fn into_definitions(mut self) -> Map<String, Value> {
        let mut all = self.given.take_definitions(true);
        for (name, schema) in self.taken.take_definitions(true) {
            let same = all.insert(name.clone(), schema.clone()).is_none_or(|given| given == schema);
            assert!(same, "{name} is taken in another form than it is given: name one of both otherwise");
        }
        all
    }
}

fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for (declared, doc) in api::documented() {
        let operation = operation(&declared, &doc, &mut schemas);
        insert(&mut paths, &declared.method, &declared.path, operation);
    }
    for (declared, about) in crate::admin::documented() {
        if let Some(operation) = admin::operation(&declared, about) {
            insert(&mut paths, &declared.method, &declared.path, operation);
        }
    }
    let mut definitions = schemas.into_definitions();
    definitions.extend(admin::definitions());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Milecastle",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The dashboard's own API (docs/api.md) and the compatible Admin API (docs/spec/admin-api.md).",
        },
        "servers": [{ "url": "/" }],
        "security": [{ "key": [] }, { "token": [] }, { "session": [] }],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "key": {
                    "type": "apiKey", "in": "header", "name": "X-API-KEY",
                    "description": "An Admin key, or a token of a machine.",
                },
                "token": { "type": "http", "scheme": "bearer", "description": "A token of a machine." },
                "session": {
                    "type": "apiKey", "in": "cookie", "name": crate::callers::SESSION,
                    "description": "The session of somebody who has logged in. What changes something needs the header \
                                    X-CSRF-Token besides.",
                },
            },
        },
    })
}

fn insert(paths: &mut Map<String, Value>, method: &Method, path: &str, mut operation: Map<String, Value>) {
    let words = path.split('/').filter(|word| !word.is_empty());
    let words: Vec<String> = words.map(|word| word.replace('{', "by_").replace('}', "").replace('.', "_")).collect();
    let id = format!("{}_{}", method.as_str().to_ascii_lowercase(), words.join("_"));
    operation.insert("operationId".to_owned(), id.into());
    let at = paths.entry(path).or_insert_with(|| json!({}));
    at[method.as_str().to_ascii_lowercase()] = operation.into();
}

/// A row of the table of `/api`.
fn operation(declared: &Declared, doc: &Doc, schemas: &mut Schemas) -> Map<String, Value> {
    let tag = declared.path.split('/').nth(2).unwrap_or_default();
    let names = parameters_of(&declared.path);
    let mut parameters: Vec<Value> = names.iter().map(|name| path_parameter(name)).collect();
    parameters.extend(doc.query.iter().map(Param::shown));
    parameters.extend(doc.refuses.contains(&STALE).then(|| if_match(doc.refuses.contains(&UNSAID))));
    parameters.extend(takes_key(declared).then(idempotency_key));
    let mut success = json!({ "description": "Done." });
    if let Some(gives) = doc.gives {
        success["content"] = json!({ "application/json": { "schema": gives(&mut schemas.given) } });
    }
    if let Some(media_type) = doc.also {
        let schema = given_as(media_type, &success["content"]["application/json"]["schema"]);
        success["content"][media_type] = json!({ "schema": schema });
    }
    let refusal = schemas.given.subschema_for::<Refusal>();
    let starting = schemas.given.subschema_for::<Starting>();
    let refused = |status: u16| {
        let schema = match status {
            503 => json!({ "anyOf": [&refusal, &starting] }),
            _ => refusal.clone().to_value(),
        };
        json!({ "description": meaning(status), "content": { "application/json": { "schema": schema } } })
    };
    let mut responses = Map::from_iter([(doc.status.to_string(), success)]);
    responses.extend(refusals(declared, doc, &names).into_iter().map(|status| (status.to_string(), refused(status))));
    let mut operation = Map::new();
    operation.insert("tags".to_owned(), json!([tag]));
    operation.insert("summary".to_owned(), doc.summary.into());
    operation.extend(declared.right.as_ref().map(|right| ("description".to_owned(), takes(right))));
    if declared.open {
        operation.insert("security".to_owned(), json!([]));
    }
    operation.insert("parameters".to_owned(), parameters.into());
    if let Some(body) = doc.takes {
        let schema = body(&mut schemas.taken);
        let content = json!({ "application/json": { "schema": schema } });
        operation.insert("requestBody".to_owned(), json!({ "required": doc.needs, "content": content }));
    }
    operation.insert("responses".to_owned(), responses.into());
    operation
}

/// What is given in other media types than JSON: the same in YAML, of a stream each of its events, and texts.
fn given_as(media_type: &str, in_json: &Value) -> Value {
    let text = json!({ "type": "string" });
    match media_type {
        "application/yaml" => in_json.clone(),
        "text/event-stream" => {
            json!({ "type": "object", "properties": { "id": text, "event": text, "data": text } })
        }
        _ => text,
    }
}

/// With what statuses an endpoint refuses, from what follows from its row and what that says itself.
fn refusals(declared: &Declared, doc: &Doc, path: &[&str]) -> Vec<u16> {
    let mut all = vec![403, 503];
    let mut add = |applies: bool, statuses: &[u16]| all.extend(statuses.iter().filter(|_| applies));
    add(!declared.open, &[401]);
    add(doc.takes.is_some(), &[400, 408, 413]);
    add(!path.is_empty(), &[400, 404]);
    add(!doc.query.is_empty(), &[400]);
    add(doc.query.iter().any(Param::waits), &[429]);
    add(takes_key(declared), &[400, 409, 422]);
    add(true, doc.refuses);
    all.sort_unstable();
    all.dedup();
    all
}

/// Whether it can be repeated under an idempotency key.
fn takes_key(declared: &Declared) -> bool {
    declared.right.is_some() && !declared.method.is_safe()
}

/// The header that names what must still be there.
fn if_match(needed: bool) -> Value {
    let about = match needed {
        true => "What must still be there, as an ETag has it, or `*` for whatever is. Needed, but for a dry run.",
        false => "What must still be there, as an ETag has it, or `*` for whatever is.",
    };
    json!({
        "name": "If-Match", "in": "header", "description": about,
        "schema": { "type": "string", "pattern": EXPECTED },
    })
}

/// The header that names a write.
fn idempotency_key() -> Value {
    json!({
        "name": "Idempotency-Key", "in": "header",
        "description": "A name for this write: repeated with it, it is done once and answered as at first.",
        "schema": { "type": "string", "pattern": "^[!-~]{1,255}$" },
    })
}

/// The right that a call takes, in words.
fn takes(right: &str) -> Value {
    format!("Takes the right to {right}.").into()
}

/// Names of the parameters of a path.
fn parameters_of(path: &str) -> Vec<&str> {
    path.split('/').filter_map(|word| word.strip_prefix('{')?.strip_suffix('}')).collect()
}

/// A parameter of a path of `/api`.
fn path_parameter(name: &str) -> Value {
    let schema = match name {
        "group" | "draft" | "link" | "probe" => json!({ "type": "string", "pattern": NAME }),
        "revision" | "other" => json!({ "type": "string", "pattern": "^(head|[0-9]{1,15})$" }),
        "entry" => json!({ "type": "integer", "minimum": 0, "maximum": MOST }),
        _ => json!({ "type": "string", "minLength": 1 }),
    };
    json!({ "name": name, "in": "path", "required": true, "schema": schema })
}

/// What a status of a refusal means.
fn meaning(status: u16) -> &'static str {
    match status {
        400 => "What was sent is not what is taken.",
        401 => "Nobody is known by what was sent.",
        403 => "A right is missing, or this address may not ask.",
        404 => "It is not there.",
        405 => "It does not take this method.",
        408 => "The body did not arrive in time.",
        409 => "It cannot be done as things are.",
        410 => "The history does not reach back so far any more.",
        412 => "It is not of the revision that was expected.",
        413 => "The body is too large.",
        422 => "The key was used for another request.",
        428 => "It has to be said on top of which revision.",
        429 => "Too many ask: try again later.",
        500 => "A failure of the server's own: its log says more.",
        503 => "It cannot be done now, and nothing was: try again.",
        other => unreachable!("no endpoint refuses with {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// With `MILECASTLE_UPDATE` set, as `cargo xtask codegen` does, writes the file instead.
    #[test]
    fn openapi_file_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        if std::env::var_os("MILECASTLE_UPDATE").is_some() {
            std::fs::write(&path, &*TEXT).unwrap();
        }
        assert!(std::fs::read_to_string(&path).unwrap_or_default() == *TEXT, "run `cargo xtask codegen`");
    }

    /// Each `$ref` of a value.
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn references_lead_somewhere_and_names_are_told_apart() {
        let document = document();
        let definitions = document["components"]["schemas"].as_object().unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            assert!(definitions.contains_key(reference.strip_prefix(SCHEMAS).unwrap()), "{reference}");
        }
        // Where two types have one name, the generator numbers the second.
        for name in definitions.keys() {
            assert!(!name.ends_with(|last: char| last.is_ascii_digit()), "{name}: rename one of both types");
        }
    }

    #[test]
    fn every_endpoint_has_an_operation_of_its_own() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let mut ids = std::collections::BTreeSet::new();
        for Declared { method, path, .. } in crate::endpoints() {
            if path.ends_with("/{unknown}") {
                continue;
            }
            let operation = &paths[&path][method.as_str().to_ascii_lowercase()];
            assert!(operation["summary"].is_string(), "{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path}");
        }
    }
}
