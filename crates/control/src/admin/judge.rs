//! An object about to be written: what the store needs to know of it, and what only a look at other objects can tell.

use crate::masks::mask;
use crate::state::Image;
use milecastle_model::{Fault, Key, Kind, Object, Reference, is_reference};
use milecastle_plugin_api::Registry;
use milecastle_snapshot::Compiler;
use milecastle_store::{Expect, UniqueKey};
use serde_json::{Map, Value};

/// The scope of the lookup keys that keep a plugin from standing in two global rules.
pub(crate) const GLOBAL_RULES: &str = "global rules";

/// How the scope begins of the lookup keys that keep a field from being decorated twice; the service's id follows.
pub(crate) const FIELD_PATHS: &str = "field paths of service ";

/// An object that passed every check that needs no other object.
pub(crate) struct Draft {
    key: Key,
    body: Map<String, Value>,
    references: Vec<Reference>,
    keys: Vec<Lookup>,
    sealed: bool,
}

/// A lookup key in an object: an attribute of an authentication plugin.
struct Lookup {
    plugin: String,
    attribute: &'static str,
    value: String,
}

/// What the image says of a draft.
pub(crate) enum Verdict {
    /// Nothing against it, as long as these objects stay as they are.
    Accepted {
        /// For [`milecastle_store::ChangeSet::require`].
        require: Vec<(Key, Expect)>,
    },
    /// These faults, if the image is current.
    Refused(Vec<Fault>),
}

impl Draft {
    /// `body` is an object; for a new one with a generated id the key ends where the id will stand.
    pub(crate) fn new(key: Key, body: Value, compiler: &Compiler) -> Self {
        let references = milecastle_model::references(key.kind, &body);
        let keys = lookups(key.kind, &body, compiler.registry());
        let sealed = is_secret(&key, &body, compiler);
        let Value::Object(body) = body else { unreachable!("only objects pass the checks that come before") };
        Self { key, body, references, keys, sealed }
    }

    /// Key and body, to be judged anew.
    pub(crate) fn into_parts(self) -> (Key, Value) {
        (self.key, Value::Object(self.body))
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn body(&self) -> &Map<String, Value> {
        &self.body
    }

    /// Whether the body is to be sealed in the database.
    pub(crate) fn sealed(&self) -> bool {
        self.sealed
    }

    /// What the body names, for the store.
    pub(crate) fn references(&self) -> Vec<milecastle_store::Reference> {
        let told = |reference: &Reference| milecastle_store::Reference {
            to: Key::new(reference.kind, reference.id.as_str()),
            plugin: reference.plugin.map(str::to_owned),
            must_exist: reference.plugin.is_none(),
            hinders: reference.hindrance_text(&self.key).is_some(),
        };
        self.references.iter().map(told).collect()
    }

    /// What must not stand anywhere else, for the store.
    pub(crate) fn keys(&self) -> Vec<UniqueKey> {
        if self.key.kind == Kind::GlobalRule {
            let names = plugins(&self.body).map(|(name, _)| name.as_bytes().to_vec());
            return names.map(|value| UniqueKey { plugin: GLOBAL_RULES.into(), value }).collect();
        }
        if self.key.kind == Kind::GraphqlCostDecoration
            && let (Some(service), Some(path)) = (self.key.parent(), field_path(&self.body))
        {
            let plugin = format!("{FIELD_PATHS}{}", service.id);
            return vec![UniqueKey { plugin, value: path.as_bytes().to_vec() }];
        }
        let told = |key: &Lookup| UniqueKey { plugin: key.plugin.clone(), value: key.value.as_bytes().to_vec() };
        self.keys.iter().map(told).collect()
    }

    /// Whether [`Self::judge`] looks for something that is not there, which only a current image can tell.
    pub(crate) fn rests_on_image(&self) -> bool {
        self.key.kind == Kind::Credential && !self.keys.is_empty()
    }

    /// The faults that the image shows. Dangling references and keys of other owners are left to the store.
    pub(crate) fn judge(&self, image: &Image) -> Verdict {
        let (mut faults, mut require) = (Vec::new(), Vec::new());
        let looked_into = |reference: &&Reference| matches!(reference.kind, Kind::Ssl | Kind::StreamRoute);
        for reference in self.references.iter().filter(looked_into) {
            let key = Key::new(reference.kind, reference.id.as_str());
            let named = image.get(&key);
            // Absent here: if it is there all the same, this is looked at again; if not, the store refuses.
            require.push((key, named.map_or(Expect::Absent, |object| Expect::ModifiedAt(object.modified))));
            faults.extend(named.and_then(parsed).and_then(|named| match reference.kind {
                Kind::Ssl => wrong_type(reference, &named),
                _ => other_protocol(&self.body, &named),
            }));
        }
        faults.extend(self.taken_by_siblings(image));
        if faults.is_empty() { Verdict::Accepted { require } } else { Verdict::Refused(faults) }
    }

    /// A credential's key may not stand on its own consumer either, which the store allows to one owner.
    fn taken_by_siblings(&self, image: &Image) -> Vec<Fault> {
        let Some(consumer) = self.key.parent().filter(|_| self.key.kind == Kind::Credential) else { return Vec::new() };
        let siblings = image.get(&consumer).into_iter().chain(image.below(Kind::Credential, &consumer.id));
        let mut faults = Vec::new();
        for sibling in siblings.filter(|sibling| sibling.key != self.key) {
            let Some(body) = parsed(sibling) else { continue };
            for own in &self.keys {
                let theirs = body.pointer(&format!("/plugins/{}/{}", own.plugin, own.attribute));
                if theirs.and_then(Value::as_str) == Some(&*own.value) {
                    faults.push(duplicate(&own.plugin, own.attribute, &sibling.key));
                }
            }
        }
        faults
    }
}

fn wrong_type(reference: &Reference, ssl: &Value) -> Option<Fault> {
    let id = &reference.id;
    (ssl.get("type").and_then(Value::as_str) != Some("client"))
        .then(|| Fault::rule(&*reference.path, format!("failed to fetch ssl info by ssl id [{id}], wrong ssl type")))
}

/// A subordinate stream route speaks the protocol of its superior.
fn other_protocol(subordinate: &Map<String, Value>, superior: &Value) -> Option<Fault> {
    let own = subordinate.get("protocol")?.get("name")?.as_str()?;
    let theirs = superior.pointer("/protocol/name").and_then(Value::as_str).unwrap_or_default();
    let text = format!("protocol mismatch: subordinate protocol [{own}] does not match superior protocol [{theirs}]");
    (own != theirs).then(|| Fault::rule("/protocol/name", text))
}

/// The fault of a lookup key that `holder` has already.
pub(crate) fn duplicate(plugin: &str, attribute: &str, holder: &Key) -> Fault {
    let whose = match holder.parent() {
        Some(consumer) => format!("credential: {} of consumer: {}", holder.own_id(), consumer.id),
        None => format!("consumer: {}", holder.id),
    };
    let text = format!("duplicate {attribute} of plugin {plugin} found with {whose}");
    Fault::rule(format!("/plugins/{plugin}/{attribute}"), text)
}

/// The fault of a plugin that stands in another global rule.
pub(crate) fn in_other_rule(plugin: &str, other: &str) -> Fault {
    let text = format!("plugin '{plugin}' already exists in global rule with id '{other}'");
    Fault::rule(format!("/plugins/{plugin}"), text)
}

/// The field that a GraphQL cost decoration is about.
pub(crate) fn field_path(body: &Map<String, Value>) -> Option<&str> {
    body.get("field_path").and_then(Value::as_str)
}

/// The plugins of a body.
pub(crate) fn plugins(body: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    body.get("plugins").and_then(Value::as_object).into_iter().flatten()
}

fn lookups(kind: Kind, body: &Value, registry: &Registry) -> Vec<Lookup> {
    let plugins = body.get("plugins").and_then(Value::as_object).into_iter().flatten();
    let holders = plugins.filter(|_| matches!(kind, Kind::Consumer | Kind::Credential));
    let lookup = |(plugin, config): (&String, &Value)| {
        let auth = registry.get(plugin)?.auth.filter(|auth| auth.unique)?;
        let value = config.get(auth.key)?.as_str().filter(|value| !is_reference(value))?;
        Some(Lookup { plugin: plugin.clone(), attribute: auth.key, value: value.to_owned() })
    };
    holders.filter_map(lookup).collect()
}

/// Whether the body holds something secret, so that it is not to be stored in clear.
fn is_secret(key: &Key, body: &Value, compiler: &Compiler) -> bool {
    let mut masked = body.clone();
    mask(key, &mut masked, |plugin| compiler.built_in(plugin));
    matches!(key.kind, Kind::Ssl | Kind::Secret) || masked != *body
}

fn parsed(object: &Object) -> Option<Value> {
    serde_json::from_slice(&object.body).ok()
}
