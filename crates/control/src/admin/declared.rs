//! A configuration declared as a whole: collections of objects, as `/configs` and `/configs/validate` take them
//! (`docs/spec/admin-api.md` §14, §15).

use crate::admin::engine::id_text;
use crate::admin::reply::Reply;
use crate::admin::yaml;
use crate::admin::{judge, private_keys};
use crate::efforts::{Effort, Unfinished};
use crate::state::Image;
use crate::terms;
use milecastle_model::schema::{Schema, lua_type};
use milecastle_model::{Fault, Key, Kind, named_schema, schema_of};
use milecastle_snapshot::Compiler;
use serde_json::{Map, Number, Value};
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// The collections of objects, in the order in which they are shown.
pub(crate) const COLLECTIONS: [Kind; 12] = [
    Kind::Route,
    Kind::Service,
    Kind::Upstream,
    Kind::Consumer,
    Kind::Ssl,
    Kind::StreamRoute,
    Kind::PluginMetadata,
    Kind::GlobalRule,
    Kind::Proto,
    Kind::PluginConfig,
    Kind::ConsumerGroup,
    Kind::Secret,
];

/// The list of enabled plugins, a collection too.
pub(crate) const PLUGINS: &str = "plugins";

/// What the member is called that versions a collection: its name and this.
pub(crate) const VERSION: &str = "_conf_version";

/// The client's own version of an object.
pub(crate) const INDEX: &str = "modifiedIndex";

/// What stands between a consumer and its credential in the id of a member of `consumers`.
const CREDENTIALS: &str = "/credentials/";

/// An object as it is to be stored.
pub(crate) struct Item {
    pub(crate) key: Key,
    pub(crate) body: Value,
    /// [`INDEX`].
    pub(crate) index: Option<Number>,
}

/// A fault of one member of a collection, or of the collection.
pub(crate) struct Flaw {
    /// Position in the collection.
    pub(crate) index: usize,
    /// The id that the member has, if it has one.
    pub(crate) id: Option<String>,
    pub(crate) error: String,
}

/// The members of a body.
pub(crate) fn read(text: &[u8], is_yaml: bool) -> Result<Map<String, Value>, Box<Reply>> {
    let refuse = |why: &str| Box::new(Reply::bad(format!("invalid request body: {why}")));
    if text.is_empty() {
        return Err(refuse("empty request body"));
    }
    let body = match is_yaml {
        true => yaml::read(text).ok_or_else(|| refuse("invalid yaml request body"))?,
        false => serde_json::from_slice(text).map_err(|why| refuse(&why.to_string()))?,
    };
    match body {
        Value::Object(members) => Ok(members),
        _ if is_yaml => Err(refuse("invalid yaml request body")),
        _ => Err(refuse("an object is expected")),
    }
}

/// The objects of a collection; each is judged as a write of it would be in the group that `image` shows, references apart. Calls
/// `flawed` with each fault, in order, until it says that one is enough.
///
/// # Errors
/// The effort does not go on.
pub(crate) fn collection(
    compiler: &Compiler,
    image: &Image,
    kind: Kind,
    given: &Value,
    effort: &Effort,
    mut flawed: impl FnMut(Flaw) -> bool,
) -> Result<Vec<Item>, Unfinished> {
    let (mut items, mut seen, mut ruled) = (Vec::new(), HashSet::new(), HashMap::new());
    for (index, member) in given.as_array().into_iter().flatten().enumerate() {
        effort.check()?;
        let id = id_of(kind, member);
        let flaw = |error: String| Flaw { index, id: id.clone(), error };
        let judged = item(compiler, image, kind, index, id.as_deref(), member);
        match judged.and_then(|item| once_for_all(&mut ruled, &item).map(|()| item)) {
            Ok(item) => items.push(item),
            Err(error) => {
                if flawed(flaw(error)) {
                    break;
                }
            }
        }
        let Some(id) = id.as_ref().filter(|id| !seen.insert((*id).clone())) else { continue };
        let (what, name) = match (kind, id.rsplit_once(CREDENTIALS)) {
            (Kind::Consumer, Some((_, credential))) => ("credential id", credential),
            (Kind::Consumer, None) => ("username", id.as_str()),
            _ => ("id", id.as_str()),
        };
        if flawed(flaw(format!("found duplicate {what} {name} in {}", kind.collection()))) {
            break;
        }
    }
    Ok(items)
}

/// The fault of a global rule with a plugin that another one has.
fn once_for_all(ruled: &mut HashMap<String, String>, item: &Item) -> Result<(), String> {
    let Some(body) = item.body.as_object().filter(|_| item.key.kind == Kind::GlobalRule) else { return Ok(()) };
    for (plugin, _) in judge::plugins(body) {
        if let Some(other) = ruled.insert(plugin.clone(), item.key.id.to_string()) {
            return Err(judge::in_other_rule(plugin, &other).to_string());
        }
    }
    Ok(())
}

/// The fault of the list of plugins.
pub(crate) fn plugin_list(given: &Value) -> Option<String> {
    static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
        let source = named_schema(PLUGINS).expect("the model has a schema of this name");
        Schema::compile(source).expect("the model compiles it too")
    });
    SCHEMA.validate(given).first().map(Fault::to_string)
}

/// What names a member: of a consumer its username, of all others `id`.
fn id_of(kind: Kind, member: &Value) -> Option<String> {
    let id = member.get("id").and_then(id_text);
    match kind {
        Kind::Consumer => id.filter(|id| id.contains(CREDENTIALS)).or_else(|| member.get("username").and_then(id_text)),
        _ => id,
    }
}

fn item(
    compiler: &Compiler,
    image: &Image,
    kind: Kind,
    index: usize,
    id: Option<&str>,
    member: &Value,
) -> Result<Item, String> {
    let first = |faults: Vec<Fault>| faults.first().map_or(Ok(()), |fault| Err(fault.to_string()));
    let Value::Object(members) = member else {
        first(schema_of(kind).validate(member))?;
        return Err("an object is expected".to_owned());
    };
    let mut members = members.clone();
    let index_of_client = match members.shift_remove(INDEX) {
        None => None,
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Some(number),
        Some(other) => {
            let got = lua_type(&other);
            return Err(format!(
                "invalid configuration: property \"{INDEX}\" validation failed: wrong type: expected integer, got {got}"
            ));
        }
    };
    let key = match (kind, id.and_then(|id| id.split_once(CREDENTIALS)), id) {
        (Kind::Consumer, Some((consumer, credential)), _) => {
            members.insert("id".into(), credential.into());
            Key::credential(consumer, credential)
        }
        (Kind::Consumer, None, username) => Key::new(kind, username.unwrap_or_default()),
        (Kind::Secret, _, id) if !id.is_some_and(|id| id.contains('/')) => {
            return Err(format!("invalid secret id: {}", id.unwrap_or_default()));
        }
        (_, _, Some(id)) => {
            members.insert("id".into(), id.into());
            Key::new(kind, id)
        }
        // One whose id is no id is left for the schema to refuse.
        (_, _, None) if members.contains_key("id") => Key::new(kind, ""),
        (_, _, None) => {
            let id = format!("arr_{}", index + 1);
            members.shift_insert(0, "id".into(), id.as_str().into());
            Key::new(kind, id)
        }
    };
    let mut body = Value::Object(members);
    private_keys::restore(key.kind, &mut body, image.get(&key)).or_else(first)?;
    first(terms::faults(compiler, &key, &body, image))?;
    Ok(Item { key, body, index: index_of_client })
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_plugin_api::{NoSecrets, Registry};
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn nothing_is_judged_for_a_client_that_has_left() {
        let registry = Registry::new(&[], Map::new(), Arc::default(), Arc::new(NoSecrets));
        let (compiler, image) = (Compiler::new(Arc::new(registry)), Image::new("l", 0, []));
        let given = json!([{ "id": "1", "type": "roundrobin", "nodes": { "127.0.0.1:1": 1 } }]);
        let client = Arc::new(());
        let effort = Effort::of_a_write(&client);
        let judged = || {
            let flawed = |flaw: Flaw| panic!("{}", flaw.error);
            collection(&compiler, &image, Kind::Upstream, &given, &effort, flawed).map(|items| items.len())
        };
        assert_eq!(judged(), Ok(1));
        drop(client);
        assert_eq!(judged(), Err(Unfinished::Left));
    }
}
