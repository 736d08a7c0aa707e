//! The definition of a plugin: typed for its author, erased for everybody else.

use crate::hooks::{HookSet, Hooks};
use crate::schema::schema_of;
use crate::shared::{Secrets, Shared};
use http::HeaderName;
use milecastle_matching::{Expr, ExprError, Flags, Pattern, PatternBudget, PatternError};
use milecastle_model::Fault;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::any::Any;
use std::sync::Arc;

/// The object that carries a plugin's configuration, as its path in the store: `/routes/1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner(pub Arc<str>);

/// One fault of a plugin's configuration that its schema could not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// JSON pointer inside the plugin's configuration; empty for the whole.
    pub path: String,
    /// The reason in the specification's words.
    pub message: String,
}

impl ConfigError {
    /// A fault of the configuration as a whole.
    pub fn new(message: impl Into<String>) -> Self {
        Self { path: String::new(), message: message.into() }
    }

    /// A fault at a JSON pointer inside the configuration.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl From<Fault> for ConfigError {
    fn from(fault: Fault) -> Self {
        Self { path: fault.path, message: fault.message }
    }
}

/// What a plugin may ask for while it is compiled. Compiling does no I/O.
pub struct BuildCx<'a> {
    /// The object that carries the configuration.
    pub owner: &'a Owner,
    /// The configuration without `_meta`, with values in place of references.
    pub config: &'a Value,
    /// A checksum of it; equal configurations have equal checksums, in this process. Between versions they may differ.
    pub checksum: u64,
    /// State of the node that outlives snapshots.
    pub shared: &'a Shared,
    /// Start-up settings of this plugin: `plugin_attr.<name>` of the static configuration. They are the node's own, so what
    /// is accepted must not depend on them: the control plane has none.
    pub attr: Option<&'a Value>,
    /// Resolves `$env://` and `$secret://` references.
    pub secrets: &'a dyn Secrets,
    /// Names and values of the plugin's metadata at the time of the build; live values come from the request's view.
    pub metadata: Option<&'a Value>,
    /// The configuration is being written, not loaded: the time to refuse what conflicts with other objects. A node
    /// that loads what has been accepted must not refuse it for that. It is what the object's patterns may still come to.
    pub writing: Option<&'a PatternBudget>,
}

impl BuildCx<'_> {
    /// A regular expression, compiled.
    ///
    /// # Errors
    /// It is none, it is too large, or while it is written: the object's patterns are too large together.
    pub fn pattern(&self, source: &str, flags: Flags) -> Result<Pattern, PatternError> {
        Pattern::compiled(source, flags, self.writing)
    }

    /// A condition, compiled with its patterns.
    ///
    /// # Errors
    /// It is none, or one of its patterns is none; while it is written: one of them is none that [`Self::pattern`] takes. Later that
    /// one counts as not found.
    pub fn condition(&self, value: &Value) -> Result<Expr, ExprError> {
        Expr::compiled(value, self.writing)
    }
}

/// What a plugin needs of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyNeed {
    /// Nothing: frames pass untouched.
    #[default]
    None,
    /// Each chunk as it passes.
    Stream,
    /// The first `max_bytes` bytes, before the `access` phase (request bodies only).
    Whole {
        /// Upper bound of what is kept, in bytes.
        max_bytes: usize,
    },
}

impl BodyNeed {
    /// What serves both.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        match (self, other) {
            (Self::Whole { max_bytes: a }, Self::Whole { max_bytes: b }) => Self::Whole { max_bytes: a.max(b) },
            (whole @ Self::Whole { .. }, _) | (_, whole @ Self::Whole { .. }) => whole,
            (Self::Stream, _) | (_, Self::Stream) => Self::Stream,
            (Self::None, Self::None) => Self::None,
        }
    }
}

/// What a plugin needs of both bodies. A chain in which all say `None` forwards frames untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BodyNeeds {
    /// Of the request's body.
    pub request: BodyNeed,
    /// Of the answer's body.
    pub response: BodyNeed,
}

/// Where a plugin takes a secret of the client from. Whatever is logged of a request shows `***` there, whether or not the
/// plugin has run or found the secret to be a good one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CredentialPlaces {
    /// Headers of the request.
    pub headers: Vec<HeaderName>,
    /// Arguments of the query, by decoded name.
    pub query_args: Vec<Box<str>>,
}

/// What a built instance says about itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declared {
    pub(crate) needs: BodyNeeds,
    /// `None` if there are none.
    pub(crate) credentials: Option<Arc<CredentialPlaces>>,
}

/// An authentication plugin's part in consumers and credentials.
#[derive(Clone, Copy)]
pub struct Auth {
    /// The attribute by which a credential is looked up, for example `key`.
    pub key: &'static str,
    /// Whether two credentials with one key are refused on write.
    pub unique: bool,
    /// Schema of the configuration under a consumer or credential.
    pub schema: fn() -> Value,
}

/// A plugin's metadata: one object for each plugin and group.
#[derive(Clone, Copy)]
pub struct Metadata {
    /// Its schema.
    pub schema: fn() -> Value,
    /// Turns a checked object into the type that the plugin reads at run time.
    pub compile: fn(&Value) -> Result<Arc<dyn Any + Send + Sync>, ConfigError>,
    /// What must not be written though a stored copy of it works.
    pub unwritable: Option<fn(&Value) -> Option<ConfigError>>,
}

impl Metadata {
    /// The metadata of a deserialisable type.
    pub const fn of<T: DeserializeOwned + JsonSchema + Send + Sync + 'static>() -> Self {
        Self {
            schema: schema_of::<T>,
            compile: |value| match serde_json::from_value::<T>(value.clone()) {
                Ok(typed) => Ok(Arc::new(typed)),
                Err(error) => Err(ConfigError::new(error.to_string())),
            },
            unwritable: None,
        }
    }
}

/// Whether an instance on a global rule also runs when the route has one (`docs/spec/plugins/_phases.md` §6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunPolicy {
    /// Both run, the global one first.
    Both,
    /// The global one is skipped if the route carries an enabled one.
    PreferRoute,
}

/// How far one compiled instance is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Equal configurations share one instance, wherever they stand.
    Config,
    /// An instance for each object that carries the configuration: it holds state of that object, such as a counter.
    Owner,
}

/// A configuration to learn from: it stands on the reference page, starts a form in the console, and is tested.
#[derive(Debug, Clone, Copy)]
pub struct Example {
    /// What it shows, in a few words.
    pub title: &'static str,
    /// The configuration, as JSON text.
    pub json: &'static str,
    /// Whether it is a credential's configuration rather than an object's.
    pub credential: bool,
}

impl Example {
    /// A configuration for a route, service or another object.
    pub const fn new(title: &'static str, json: &'static str) -> Self {
        Self { title, json, credential: false }
    }

    /// A configuration for a consumer or credential.
    pub const fn credential(title: &'static str, json: &'static str) -> Self {
        Self { title, json, credential: true }
    }
}

/// A plugin: a configuration type, a way to compile it once, and the phases it takes part in.
pub trait Plugin: Sized + Send + Sync + 'static {
    /// The configuration, whose doc comments are its reference page and whose derived schema checks it.
    type Config: DeserializeOwned + JsonSchema;
    /// Name in the Admin API.
    const NAME: &'static str;
    /// Rank in every phase, higher first (`docs/spec/plugins/_phases.md` §9).
    const PRIORITY: i32;
    /// Set by authentication plugins.
    const AUTH: Option<Auth> = None;
    /// Set by plugins with metadata.
    const METADATA: Option<Metadata> = None;
    /// How far an instance is shared.
    const SCOPE: Scope = Scope::Config;
    /// Whether the global and the route's instance both run.
    const RUN_POLICY: RunPolicy = RunPolicy::Both;
    /// It only watches, or says what becomes of connections that last: a change of it is none of their terms.
    const INCIDENTAL: bool = false;
    /// Attributes that are secret: dotted paths in the configuration (of the credential for authentication plugins), and in the
    /// metadata. Of an object every member is, whatever its name.
    const ENCRYPTED: &'static [&'static str] = &[];
    /// Configurations to learn from.
    const EXAMPLES: &'static [Example] = &[];

    /// The schema of the configuration; override it where the derived one cannot say enough.
    fn schema() -> Value {
        schema_of::<Self::Config>()
    }

    /// Compiles a configuration that fits the schema.
    ///
    /// # Errors
    /// All faults that the schema could not see.
    fn compile(config: Self::Config, cx: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>>;

    /// Lists the phases: `h.access().log()`.
    fn hooks(h: Hooks<Self>) -> Hooks<Self>;

    /// What this instance needs of the bodies.
    fn body_needs(&self) -> BodyNeeds {
        BodyNeeds::default()
    }

    /// Where this instance takes a secret of the client from.
    fn credential_places(&self) -> CredentialPlaces {
        CredentialPlaces::default()
    }
}

/// A plugin with its types erased: a row usable in a `static` table.
pub struct PluginDef {
    /// See [`Plugin::NAME`].
    pub name: &'static str,
    /// See [`Plugin::PRIORITY`].
    pub priority: i32,
    /// See [`Plugin::AUTH`].
    pub auth: Option<Auth>,
    /// See [`Plugin::METADATA`].
    pub metadata: Option<Metadata>,
    /// See [`Plugin::SCOPE`].
    pub scope: Scope,
    /// See [`Plugin::RUN_POLICY`].
    pub run_policy: RunPolicy,
    /// See [`Plugin::INCIDENTAL`].
    pub incidental: bool,
    /// See [`Plugin::ENCRYPTED`].
    pub encrypted: &'static [&'static str],
    /// See [`Plugin::EXAMPLES`].
    pub examples: &'static [Example],
    /// See [`Plugin::schema`].
    pub schema: fn() -> Value,
    pub(crate) build: BuildFn,
}

/// Deserialises and compiles; what comes out is free of the plugin's types.
pub(crate) type BuildFn = fn(&Value, &BuildCx<'_>) -> Result<(HookSet, Declared), Vec<ConfigError>>;

impl PluginDef {
    /// The row of a plugin.
    pub const fn of<P: Plugin>() -> Self {
        Self {
            name: P::NAME,
            priority: P::PRIORITY,
            auth: P::AUTH,
            metadata: P::METADATA,
            scope: P::SCOPE,
            run_policy: P::RUN_POLICY,
            incidental: P::INCIDENTAL,
            encrypted: P::ENCRYPTED,
            examples: P::EXAMPLES,
            schema: P::schema,
            build: build::<P>,
        }
    }
}

impl std::fmt::Debug for PluginDef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginDef").field("name", &self.name).field("priority", &self.priority).finish_non_exhaustive()
    }
}

fn build<P: Plugin>(config: &Value, cx: &BuildCx<'_>) -> Result<(HookSet, Declared), Vec<ConfigError>> {
    let typed = serde_json::from_value::<P::Config>(config.clone())
        .map_err(|error| vec![ConfigError::new(error.to_string())])?;
    let plugin = P::compile(typed, cx)?;
    let places = Some(plugin.credential_places()).filter(|places| *places != CredentialPlaces::default());
    let declared = Declared { needs: plugin.body_needs(), credentials: places.map(Arc::new) };
    Ok((P::hooks(Hooks::new(Arc::new(plugin))).finish(), declared))
}
