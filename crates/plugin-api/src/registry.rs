//! The plugins that are enabled, and the one way from a configuration to a compiled plugin.
//!
//! Which plugins are enabled is a setting of the gateway group and comes with its configuration, so a process has one
//! registry of all built-in plugins, and from it one for each choice ([`Registry::enabling`]). They share everything but the
//! choice: schemas are compiled once, and an instance lives on when its plugin is enabled before and after.

use crate::built::{Built, Instance};
use crate::def::{BuildCx, ConfigError, Declared, Owner, PluginDef, Scope};
use crate::hooks::HookSet;
use crate::meta::{self, Meta};
use crate::shared::{Secrets, Shared};
use foldhash::quality::FixedState;
use milecastle_matching::PatternBudget;
use milecastle_model::nearest;
use milecastle_model::schema::Schema;
use serde_json::{Map, Value, json};
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Where a plugin's configuration stands; it decides which schema applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// On a route, service, plugin_config, consumer group or global rule.
    Object,
    /// On a consumer: authentication plugins carry a credential there.
    Consumer,
    /// On a credential: nothing but one authentication plugin.
    Credential,
}

/// What plugins take part in. One name may stand for a plugin in each, with a configuration of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subsystem {
    /// HTTP requests.
    Http,
    /// TCP and UDP sessions.
    Stream,
}

impl Subsystem {
    /// What is wrong with a plugin's configuration, in the words of `docs/spec/admin-api.md` §11.1.
    fn explain(self, plugin: &str, fault: &str) -> String {
        match self {
            Self::Http => format!("failed to check the configuration of plugin {plugin} err: {fault}"),
            Self::Stream => format!("failed to check the configuration of stream plugin [{plugin}]: {fault}"),
        }
    }
}

/// A plugin with its schemas compiled.
struct Entry {
    def: &'static PluginDef,
    schema: Schema,
    consumer_schema: Option<Schema>,
    metadata_schema: Option<Schema>,
}

/// What is asked for all plugins of one object.
struct Request<'a> {
    placement: Placement,
    owner: &'a Owner,
    metadata: &'a dyn Fn(&str) -> Option<Value>,
    /// See [`BuildCx::writing`].
    writing: Option<&'a PatternBudget>,
}

/// Compiled metadata, of a type that only its plugin knows.
pub type CompiledMetadata = Arc<dyn Any + Send + Sync>;

type CacheKey = (&'static str, u64, Option<Owner>);

/// The enabled plugins and what compiling them needs.
pub struct Registry {
    subsystem: Subsystem,
    enabled: HashSet<&'static str>,
    by_priority: Vec<&'static PluginDef>,
    catalogue: Arc<Catalogue>,
}

/// What all registries of a process share.
struct Catalogue {
    /// Every built-in plugin, enabled or not.
    entries: HashMap<&'static str, Entry>,
    /// Names of those that are enabled unless settings say otherwise; `None`: all.
    by_default: Option<Vec<&'static str>>,
    attrs: Map<String, Value>,
    shared: Arc<Shared>,
    secrets: Arc<dyn Secrets>,
    /// Living instances by configuration, so that equal ones are one and an unchanged one keeps its state.
    instances: Mutex<HashMap<CacheKey, Weak<Instance>>>,
}

impl Catalogue {
    /// Whether a plugin is enabled unless settings say otherwise.
    fn enables(&self, name: &str) -> bool {
        self.by_default.as_ref().is_none_or(|names| names.contains(&name))
    }
}

impl Registry {
    /// A registry of HTTP plugins, all of which are enabled: [`Self::of`].
    ///
    /// # Panics
    /// As [`Self::of`].
    pub fn new(
        defs: &[&'static PluginDef],
        attrs: Map<String, Value>,
        shared: Arc<Shared>,
        secrets: Arc<dyn Secrets>,
    ) -> Self {
        Self::of(Subsystem::Http, defs, None, attrs, shared, secrets)
    }

    /// A registry of the plugins of `defs`, which are all of one subsystem. Those are enabled that `by_default` lists, or
    /// without a list all.
    ///
    /// `attrs` is `plugin_attr` of the static configuration.
    ///
    /// # Panics
    /// If a plugin's own schema is no schema; a test of the built-in plugins keeps that from happening.
    pub fn of(
        subsystem: Subsystem,
        defs: &[&'static PluginDef],
        by_default: Option<&[&'static str]>,
        attrs: Map<String, Value>,
        shared: Arc<Shared>,
        secrets: Arc<dyn Secrets>,
    ) -> Self {
        let compile = |source: Value| Schema::compile(&source).expect("schemas of built-in plugins compile");
        let entries = defs
            .iter()
            .map(|def| {
                let entry = Entry {
                    def,
                    schema: compile(with_meta((def.schema)())),
                    consumer_schema: def.auth.map(|auth| compile(with_meta((auth.schema)()))),
                    metadata_schema: def.metadata.map(|metadata| compile((metadata.schema)())),
                };
                (def.name, entry)
            })
            .collect();
        let by_default = by_default.map(<[&str]>::to_vec);
        let catalogue = Catalogue { entries, by_default, attrs, shared, secrets, instances: Mutex::default() };
        Self::choosing(subsystem, Arc::new(catalogue), None)
    }

    /// The registry in which those plugins are enabled that `names` lists, or without a list those that are by default. Names
    /// that no built-in plugin has are passed over.
    #[must_use]
    pub fn enabling(&self, names: Option<&[String]>) -> Self {
        Self::choosing(self.subsystem, self.catalogue.clone(), names)
    }

    fn choosing(subsystem: Subsystem, catalogue: Arc<Catalogue>, names: Option<&[String]>) -> Self {
        let chosen = |def: &&PluginDef| match names {
            Some(names) => names.iter().any(|name| name == def.name),
            None => catalogue.enables(def.name),
        };
        let built_in = catalogue.entries.values().map(|entry| entry.def);
        let mut by_priority: Vec<&'static PluginDef> = built_in.filter(chosen).collect();
        by_priority.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.name.cmp(b.name)));
        Self { subsystem, enabled: by_priority.iter().map(|def| def.name).collect(), by_priority, catalogue }
    }

    /// The enabled plugins, highest priority first.
    pub fn plugins(&self) -> &[&'static PluginDef] {
        &self.by_priority
    }

    /// The definition of an enabled plugin.
    pub fn get(&self, name: &str) -> Option<&'static PluginDef> {
        self.entry(name).map(|entry| entry.def)
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.catalogue.entries.get(name).filter(|_| self.enabled.contains(name))
    }

    /// Whether settings have disabled a plugin that is enabled otherwise: what has it must not go on without it.
    pub fn is_disabled(&self, name: &str) -> bool {
        self.built_in(name).is_some() && self.catalogue.enables(name) && !self.enabled.contains(name)
    }

    /// The definition of a plugin, whether it is enabled or not.
    pub fn built_in(&self, name: &str) -> Option<&'static PluginDef> {
        self.catalogue.entries.get(name).map(|entry| entry.def)
    }

    /// Says that there is no plugin of this name, enabled or not, and which one may have been meant.
    pub fn not_built_in(&self, name: &str) -> String {
        format!("there is no plugin [{name}]{}", meant(name, self.catalogue.entries.keys().copied()))
    }

    /// What stands after the message that there is no plugin of this name: the enabled one that may have been meant, or
    /// nothing.
    pub fn suggestion(&self, name: &str) -> String {
        meant(name, self.by_priority.iter().map(|def| def.name))
    }

    /// State of the node that outlives snapshots.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.catalogue.shared
    }

    /// The resolver of references.
    pub fn secrets(&self) -> &Arc<dyn Secrets> {
        &self.catalogue.secrets
    }

    /// The schema of a plugin's configuration, `_meta` included; `None` for an unknown plugin.
    pub fn schema(&self, name: &str) -> Option<&Value> {
        self.entry(name).map(|entry| entry.schema.source())
    }

    /// The schema of an authentication plugin's credentials.
    pub fn consumer_schema(&self, name: &str) -> Option<&Value> {
        self.entry(name)?.consumer_schema.as_ref().map(Schema::source)
    }

    /// The schema of a plugin's metadata.
    pub fn metadata_schema(&self, name: &str) -> Option<&Value> {
        self.entry(name)?.metadata_schema.as_ref().map(Schema::source)
    }

    /// Compiles the plugins of one object. Those that fail are left out and reported; paths start at the plugins' map.
    ///
    /// Credentials (authentication plugins on a consumer or credential) are checked and give no [`Built`].
    ///
    /// # Errors
    /// All faults of all plugins, in the words of `docs/spec/admin-api.md` §11.1, beside what could be built.
    pub fn build_all(
        &self,
        plugins: &Map<String, Value>,
        placement: Placement,
        owner: &Owner,
        metadata: &dyn Fn(&str) -> Option<Value>,
    ) -> (Vec<Built>, Vec<ConfigError>) {
        self.each(plugins, &Request { placement, owner, metadata, writing: None })
    }

    /// Checks the plugins of an object that is being written. It refuses all that [`Self::build_all`] refuses, and
    /// what must not be written though a stored copy of it works ([`BuildCx::writing`]). `patterns` is the object's, others of
    /// which may have taken from it.
    pub fn check_all(
        &self,
        plugins: &Map<String, Value>,
        placement: Placement,
        owner: &Owner,
        metadata: &dyn Fn(&str) -> Option<Value>,
        patterns: &PatternBudget,
    ) -> Vec<ConfigError> {
        self.each(plugins, &Request { placement, owner, metadata, writing: Some(patterns) }).1
    }

    fn each(&self, plugins: &Map<String, Value>, request: &Request<'_>) -> (Vec<Built>, Vec<ConfigError>) {
        let (mut built, mut faults) = (Vec::with_capacity(plugins.len()), Vec::new());
        for (name, config) in plugins {
            match self.build(name, config, request) {
                Ok(one) => built.extend(one),
                Err(found) => faults.extend(found.into_iter().map(|fault| ConfigError {
                    path: format!("/{}{}", name.replace('~', "~0").replace('/', "~1"), fault.path),
                    message: fault.message,
                })),
            }
        }
        (built, faults)
    }

    /// Compiles one plugin; `None` for a credential.
    fn build(&self, name: &str, config: &Value, request: &Request<'_>) -> Result<Option<Built>, Vec<ConfigError>> {
        let Some(entry) = self.entry(name) else {
            return Err(vec![ConfigError::new(format!("unknown plugin [{name}]{}", self.suggestion(name)))]);
        };
        let Value::Object(members) = config else {
            return Err(vec![ConfigError::new(format!("invalid plugin conf {config} for plugin [{name}]"))]);
        };
        let disabled = members.get("_meta").and_then(Value::as_object).is_some_and(meta::disabled);
        match self.compile(entry, config, members, request) {
            // It still takes the place of a copy of lower precedence. A node compiles its patterns like those of any other.
            Err(_) if disabled && !request.writing.is_some_and(PatternBudget::exceeded) => Ok(Some(Built {
                def: entry.def,
                checksum: checksum(config),
                instance: Arc::new(Instance {
                    config: config.clone(),
                    hooks: HookSet::default(),
                    declared: Declared::default(),
                }),
                meta: Some(Arc::new(Meta { disable: true, ..Meta::default() })),
            })),
            other => other,
        }
    }

    fn compile(
        &self,
        entry: &Entry,
        written: &Value,
        members: &Map<String, Value>,
        request: &Request<'_>,
    ) -> Result<Option<Built>, Vec<ConfigError>> {
        let def = entry.def;
        let explain = |faults: Vec<ConfigError>| {
            let explained =
                |fault: ConfigError| ConfigError { message: self.subsystem.explain(def.name, &fault.message), ..fault };
            faults.into_iter().map(explained).collect::<Vec<_>>()
        };
        let credential = request.placement != Placement::Object && entry.consumer_schema.is_some();
        let schema = entry.consumer_schema.as_ref().filter(|_| credential).unwrap_or(&entry.schema);
        let faults = schema.validate(written);
        if !faults.is_empty() {
            return Err(explain(faults.into_iter().map(ConfigError::from).collect()));
        }
        let meta = match members.get("_meta") {
            Some(Value::Object(own)) => {
                Some(Arc::new(Meta::compile(def.name, own, request.writing).map_err(|fault| vec![fault])?))
            }
            _ => None,
        };
        if credential {
            return Ok(None);
        }
        let mut config =
            Value::Object(members.iter().filter(|(k, _)| *k != "_meta").map(|(k, v)| (k.clone(), v.clone())).collect());
        let referred = settle(&mut config, &**self.secrets());
        // A plugin's words may hold what it refuses, which may be a secret now.
        let hide = |fault: ConfigError| match referred {
            true => ConfigError { message: "it does not take what a reference stands for".into(), ..fault },
            false => fault,
        };
        let faults = if referred { schema.validate(&config) } else { Vec::new() };
        if !faults.is_empty() {
            return Err(explain(faults.into_iter().map(ConfigError::from).map(hide).collect()));
        }
        let instance = self.instance(entry, config, request);
        let instance = instance.map_err(|faults| explain(faults.into_iter().map(hide).collect()))?;
        Ok(Some(Built { def, instance, meta, checksum: checksum(written) }))
    }

    fn instance(&self, entry: &Entry, config: Value, request: &Request<'_>) -> Result<Arc<Instance>, Vec<ConfigError>> {
        let def = entry.def;
        let checksum = checksum(&config);
        let key = (def.name, checksum, (def.scope == Scope::Owner).then(|| request.owner.clone()));
        let Catalogue { attrs, shared, secrets, instances, .. } = &*self.catalogue;
        let living = instances.lock().unwrap_or_else(PoisonError::into_inner).get(&key).and_then(Weak::upgrade);
        if let Some(instance) = living.filter(|instance| request.writing.is_none() && instance.config == config) {
            return Ok(instance);
        }
        let metadata = (request.metadata)(def.name);
        let cx = BuildCx {
            owner: request.owner,
            config: &config,
            checksum,
            shared,
            attr: attrs.get(def.name),
            secrets: &**secrets,
            metadata: metadata.as_ref(),
            writing: request.writing,
        };
        let (hooks, declared) = (def.build)(&config, &cx)?;
        let instance = Arc::new(Instance { config, hooks, declared });
        if request.writing.is_some() {
            return Ok(instance);
        }
        let mut instances = instances.lock().unwrap_or_else(PoisonError::into_inner);
        let meanwhile = instances.get(&key).and_then(Weak::upgrade);
        if let Some(other) = meanwhile.filter(|other| other.config == instance.config) {
            // Another thread has built the same: there must be one state.
            return Ok(other);
        }
        if instances.len() == instances.capacity() {
            // Growing is the moment to forget the dead ones: amortised, a build pays for it once.
            instances.retain(|_, instance| instance.strong_count() > 0);
        }
        instances.insert(key, Arc::downgrade(&instance));
        Ok(instance)
    }

    /// Checks a plugin's metadata and compiles it.
    ///
    /// # Errors
    /// All faults, in the words of the schema; `None` if the plugin is unknown.
    pub fn build_metadata(
        &self,
        name: &str,
        value: &Value,
    ) -> Option<Result<Option<CompiledMetadata>, Vec<ConfigError>>> {
        let entry = self.entry(name)?;
        let (Some(schema), Some(metadata)) = (&entry.metadata_schema, entry.def.metadata) else {
            return Some(Ok(None));
        };
        let faults = schema.validate(value);
        if !faults.is_empty() {
            return Some(Err(faults.into_iter().map(ConfigError::from).collect()));
        }
        Some((metadata.compile)(value).map(Some).map_err(|fault| vec![fault]))
    }

    /// What must not be written of a plugin's metadata though a stored copy of it works ([`Metadata::unwritable`](crate::Metadata)).
    pub fn unwritable_metadata(&self, name: &str, value: &Value) -> Option<ConfigError> {
        (self.entry(name)?.def.metadata?.unwritable?)(value)
    }
}

/// The name of `there` that may have been meant by `name`, as words at the end of a message; nothing if none is near.
fn meant<'a>(name: &str, there: impl Iterator<Item = &'a str>) -> String {
    nearest(name, there).map(|nearest| format!("; did you mean [{nearest}]?")).unwrap_or_default()
}

/// Adds `_meta` to a plugin's schema, and the mark by which clients know an injected schema (`admin-api.md` §12).
fn with_meta(mut schema: Value) -> Value {
    if let Value::Object(root) = &mut schema {
        root.insert("$comment".into(), json!("this is a mark for our injected plugin schema"));
        let properties = root.entry("properties").or_insert_with(|| json!({}));
        if let Value::Object(properties) = properties {
            properties.insert("_meta".into(), meta::schema());
        }
    }
    schema
}

/// Puts values in place of references, and whole numbers in place of ones such as `2.0`, which schemas let pass for
/// integers. A reference that cannot be resolved stays as literal text (`docs/spec/plugins/_auth-common.md` §6.3). Gives
/// whether there is a value of a reference in it now.
fn settle(value: &mut Value, secrets: &dyn Secrets) -> bool {
    let mut referred = false;
    match value {
        Value::String(text) if text.starts_with('$') => {
            if let Some(resolved) = secrets.resolve(text) {
                *text = resolved;
                referred = true;
            }
        }
        Value::Number(number) if number.is_f64() => {
            let whole = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0);
            if let Some(whole) = whole {
                *number = (whole as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| referred |= settle(item, secrets)),
        Value::Object(members) => members.values_mut().for_each(|member| referred |= settle(member, secrets)),
        _ => {}
    }
    referred
}

/// A checksum of a JSON value that does not depend on the order of members.
pub fn checksum(value: &Value) -> u64 {
    let hash = |parts: (u8, &dyn Fn() -> u64)| FixedState::default().hash_one((parts.0, parts.1()));
    fn of<T: Hash>(value: T) -> u64 {
        FixedState::default().hash_one(value)
    }
    match value {
        Value::Null => hash((0, &|| 0)),
        Value::Bool(flag) => hash((1, &|| u64::from(*flag))),
        Value::Number(number) => hash((2, &|| of(number.to_string()))),
        Value::String(text) => hash((3, &|| of(text))),
        Value::Array(items) => hash((4, &|| of(items.iter().map(checksum).collect::<Vec<_>>()))),
        Value::Object(members) => hash((5, &|| {
            members.iter().fold(0, |sum: u64, (name, member)| sum.wrapping_add(of((name, checksum(member)))))
        })),
    }
}
