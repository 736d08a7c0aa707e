//! The Admin API in the document: what its route table and the schemas of the kinds come to.
//!
//! Its leniences (`docs/spec/admin-api.md` §16: an empty list for an object, references to secrets for any text) are in words
//! only: schemas are those that form generators get.

use milecastle_model::{Kind, named_schema};
use serde_json::{Map, Value, json};

use super::{SCHEMAS, SPAN, idempotency_key, meaning, parameters_of, takes, takes_key};
use crate::admin::{About, Rules};
use crate::api::Declared;

/// What is refused, and what stands for an object that is not there.
const REFUSAL: &str = "AdminRefusal";
/// An object with its key, as the answer to a write has it.
const WRITTEN: &str = "AdminWritten";
/// The same as reads and lists have it.
const SHOWN: &str = "AdminShown";
const LIST: &str = "AdminList";
const DELETED: &str = "AdminDeleted";
const FLAWS: &str = "AdminFlaws";
const CONFIGS: &str = "AdminConfigs";

/// How an endpoint is called and what it answers.
struct Operation {
    summary: String,
    parameters: Vec<Value>,
    body: Option<Value>,
    responses: Map<String, Value>,
}

impl Operation {
    fn new(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), parameters: Vec::new(), body: None, responses: Map::new() }
    }

    fn with(mut self, parameters: impl IntoIterator<Item = Value>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    fn takes(self, schema: Value) -> Self {
        let content = json!({ "application/json": { "schema": schema } });
        Self { body: Some(json!({ "required": true, "content": content })), ..self }
    }

    /// Answers with JSON of this schema.
    fn gives(self, status: u16, schema: &Value) -> Self {
        self.answers(status, Some(json!({ "application/json": { "schema": schema } })))
    }

    fn answers(mut self, status: u16, content: Option<Value>) -> Self {
        let mut response = json!({ "description": if status < 300 { "Done." } else { meaning(status) } });
        if let Some(content) = content {
            response["content"] = content;
        }
        self.responses.insert(status.to_string(), response);
        self
    }

    /// Refuses with these statuses, beside those that every endpoint has.
    fn refuses(self, statuses: &[u16]) -> Self {
        statuses.iter().fold(self, |operation, status| operation.gives(*status, &named(REFUSAL)))
    }
}

fn named(definition: &str) -> Value {
    json!({ "$ref": format!("{SCHEMAS}{definition}") })
}

/// Definitions that operations refer to.
pub(super) fn definitions() -> Map<String, Value> {
    let text = json!({ "type": "string" });
    let index = json!({ "type": "integer", "minimum": 0 });
    let key = json!({ "type": "string", "description": "The path of the object, from `/apisix` on." });
    let value = json!({ "type": "object", "description": "The object as it is stored, with its id and its times." });
    let shown = json!({ "key": key, "value": value, "createdIndex": index, "modifiedIndex": index });
    let own = json!({
        REFUSAL: {
            "type": "object",
            "properties": { "error_msg": text, "message": text, "description": text, "req_body": text, "code": text },
            "anyOf": [{ "required": ["error_msg"] }, { "required": ["message"] }],
        },
        WRITTEN: object(&json!({ "key": key, "value": value })),
        SHOWN: object(&shown),
        LIST: object(&json!({ "list": { "type": "array", "items": named(SHOWN) }, "total": index })),
        DELETED: object(&json!({ "key": key, "deleted": text })),
        FLAWS: {
            "type": "object",
            "required": ["error_msg"],
            "properties": { "error_msg": text, "errors": { "type": "array", "items": { "type": "object" } } },
        },
        CONFIGS: {
            "type": "object",
            "description": "Collections by their names, each a list of objects, and `<name>_conf_version` of each.",
        },
    });
    let Value::Object(mut all) = own else { unreachable!("an object was written down") };
    for kind in resources() {
        all.insert(name_of(kind), named_schema(kind.name()).expect("every kind has a schema").clone());
    }
    all
}

fn object(members: &Value) -> Value {
    let names: Vec<&String> = members.as_object().into_iter().flat_map(Map::keys).collect();
    json!({ "type": "object", "required": names, "properties": members })
}

fn resources() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| kind.is_resource())
}

/// The name of the definition of a kind.
fn name_of(kind: Kind) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    kind.name().split('_').map(capital).collect()
}

/// What is said of an endpoint; `None` of the one that stands for all unknown paths.
pub(super) fn operation(declared: &Declared, about: About) -> Option<Map<String, Value>> {
    let operation = described(about)?;
    let path = parameters_of(&declared.path);
    let kind = about.kind();
    let mut parameters: Vec<Value> = path.iter().map(|name| path_parameter(name, kind)).collect();
    parameters.push(query("gateway_group_id", json!({ "type": "string", "default": "default" }), GROUP));
    parameters.extend(operation.parameters);
    parameters.extend(takes_key(declared).then(idempotency_key));
    let mut responses = operation.responses;
    let html = json!({ "text/html": { "schema": { "type": "string" } } });
    let mut forbidden = html;
    forbidden["application/json"] = json!({ "schema": named(REFUSAL) });
    responses.insert("403".to_owned(), json!({ "description": meaning(403), "content": forbidden }));
    let of_keys: &[u16] = if takes_key(declared) { &[400, 409, 422] } else { &[] };
    let of_strangers: &[u16] = if declared.open { &[] } else { &[401] };
    for status in [503].iter().chain(of_strangers).chain(of_keys) {
        let content = json!({ "application/json": { "schema": named(REFUSAL) } });
        let response = json!({ "description": meaning(*status), "content": content });
        responses.entry(status.to_string()).or_insert(response);
    }
    responses.sort_keys();
    let mut all = Map::new();
    let tag = kind.map_or("admin", Kind::collection);
    all.insert("tags".to_owned(), json!([tag]));
    all.insert("summary".to_owned(), operation.summary.into());
    all.extend(declared.right.as_ref().map(|right| ("description".to_owned(), takes(right))));
    if declared.open {
        all.insert("security".to_owned(), json!([]));
    }
    all.insert("parameters".to_owned(), parameters.into());
    all.extend(operation.body.map(|body| ("requestBody".to_owned(), body)));
    all.insert("responses".to_owned(), responses.into());
    Some(all)
}

const GROUP: &str = "The gateway group.";

fn query(name: &str, schema: Value, about: &str) -> Value {
    json!({ "name": name, "in": "query", "description": about, "schema": schema })
}

fn described(about: About) -> Option<Operation> {
    Some(match about {
        About::Unknown => return None,
        About::Probe => Operation::new("Whether the Admin API is there.").answers(200, None),
        About::PluginNames => {
            let names = json!({ "type": "array", "items": { "type": "string" } });
            let operation = Operation::new("Names of the plugins that are enabled.").with([subsystem()]);
            // Plain words, whatever the media type says.
            operation.gives(200, &names).answers(400, None).refuses(&[404])
        }
        About::PluginReload => {
            let operation = Operation::new("Does nothing: which plugins are enabled is a setting of the group.");
            operation.answers(200, None).refuses(&[404])
        }
        About::Plugins => {
            let all = query("all", json!({ "type": "boolean" }), "Each plugin with its schemas.");
            let operation = Operation::new("The plugins that are enabled.").with([subsystem(), all]);
            operation.gives(200, &json!({ "type": "object" })).refuses(&[400, 404])
        }
        About::Plugin => {
            let which = json!({ "type": "string", "enum": ["consumer", "metadata"] });
            let which = query("schema_type", which, "Of credentials or of metadata; without it, of the configuration.");
            let operation = Operation::new("The schema of a plugin.").with([subsystem(), which]);
            operation.gives(200, &json!({ "type": "object" })).refuses(&[400, 404])
        }
        About::Schema => {
            Operation::new("The schema of a kind.").gives(200, &json!({ "type": "object" })).refuses(&[400, 404])
        }
        About::ValidateSchema => {
            let operation = Operation::new("Whether an object fits the schema of its kind.");
            operation.takes(json!({ "type": "object" })).answers(200, None).refuses(&[400, 404])
        }
        About::ConfigsHead => {
            let operation = Operation::new("Digest and time of the configuration put last, in headers.");
            operation.answers(200, None).answers(404, None)
        }
        About::ConfigsGet => {
            let content = json!({
                "application/json": { "schema": named(CONFIGS) },
                "application/yaml": { "schema": named(CONFIGS) },
            });
            Operation::new("The configuration of a group as a whole.").answers(200, Some(content)).refuses(&[404, 500])
        }
        About::ConfigsPut => {
            let digest = json!({
                "name": "X-Digest", "in": "header", "required": true, "schema": { "type": "string", "minLength": 1 },
            });
            let operation = Operation::new("Replaces the configuration of a group as a whole.").with([digest, wait()]);
            let operation = operation.takes(named(CONFIGS)).answers(202, None).answers(204, None);
            operation.refuses(&[400, 404, 429, 500])
        }
        About::ValidateConfigs => {
            let operation = Operation::new("What would be refused of a configuration; stores nothing.");
            let operation = operation.takes(named(CONFIGS)).gives(200, &json!({ "type": "object" }));
            operation.gives(400, &named(FLAWS)).refuses(&[404])
        }
        About::List(kind) => {
            let words = format!("The {}s of a group.", kind.word());
            let operation = Operation::new(words).with(selection(kind)).gives(200, &named(LIST));
            // Plain words where it is about the size of pages, whatever the media type says.
            operation.answers(400, None).refuses(&[404])
        }
        About::Show(kind) => {
            Operation::new(format!("One {}.", kind.word())).gives(200, &named(SHOWN)).refuses(&[400, 404])
        }
        About::Put(kind) => {
            let operation = Operation::new(format!("Makes a {} or replaces it.", kind.word()));
            let operation = operation.with([wait(), ttl()]).takes(named(&name_of(kind)));
            operation.gives(200, &named(WRITTEN)).gives(201, &named(WRITTEN)).refuses(&[400, 404, 429])
        }
        About::Post(kind) => {
            let operation = Operation::new(format!("Makes a {} with an id of its own.", kind.word()));
            let operation = operation.with([wait(), ttl()]).takes(named(&name_of(kind)));
            operation.gives(201, &named(WRITTEN)).refuses(&[400, 404, 429])
        }
        About::Patch(kind) => {
            let operation = Operation::new(format!("Merges into a {}; `null` takes a member away.", kind.word()));
            let operation = operation.with([wait()]).takes(json!({ "type": "object" }));
            operation.gives(200, &named(WRITTEN)).refuses(&[400, 404, 429])
        }
        About::PatchInside(kind) => {
            let operation = Operation::new(format!("Replaces a member of a {}.", kind.word()));
            let operation = operation.with([wait()]).takes(json!({}));
            operation.gives(200, &named(WRITTEN)).refuses(&[400, 404, 429])
        }
        About::Delete(kind) => {
            let force = query("force", json!({ "type": "boolean" }), "Also where others refer to it.");
            let operation = Operation::new(format!("Deletes a {}.", kind.word())).with([force, wait()]);
            operation.gives(200, &named(DELETED)).refuses(&[400, 404, 429])
        }
    })
}

fn subsystem() -> Value {
    query("subsystem", json!({ "type": "string", "enum": ["http", "stream"] }), "Of requests, or of sessions.")
}

fn wait() -> Value {
    query("wait", json!({ "type": "string", "pattern": SPAN }), "Waits so long for the nodes to have it in force.")
}

fn ttl() -> Value {
    query("ttl", json!({ "type": "number", "exclusiveMinimum": 0 }), "Seconds after which the object is deleted.")
}

/// Filters and pages of a list.
fn selection(kind: Kind) -> Vec<Value> {
    let text = || json!({ "type": "string" });
    let pattern = || json!({ "type": "string", "format": "regex" });
    let mut all = vec![
        query("name", pattern(), "A regular expression that the name matches."),
        query("label", text(), "A label that it has."),
        query("uri", pattern(), "A regular expression that one of its URIs matches."),
        query("page", json!({ "type": "integer", "minimum": 1 }), "Number of the page, from 1 on."),
        query("page_size", json!({ "type": "integer", "minimum": 10, "maximum": 500 }), "Objects on a page."),
    ];
    if matches!(kind, Kind::Route | Kind::StreamRoute) {
        all.push(query("filter", text(), "`service_id=…` and `upstream_id=…`, joined by `&`."));
    }
    if Rules::of(kind).empty_list_is_404 {
        all.retain(|parameter| parameter["name"] != "uri");
    }
    all
}

/// A parameter of a path of the Admin API.
fn path_parameter(name: &str, kind: Option<Kind>) -> Value {
    let id = json!({ "type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,64}$" });
    let schema = match (name, kind) {
        ("manager", _) => json!({ "type": "string", "enum": ["vault", "aws", "gcp"] }),
        ("id" | "parent", _) => id,
        ("collection", _) => json!({ "type": "string", "enum": resources().map(Kind::collection).collect::<Vec<_>>() }),
        _ => json!({ "type": "string", "minLength": 1 }),
    };
    json!({ "name": name, "in": "path", "required": true, "schema": schema })
}
