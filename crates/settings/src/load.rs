//! From a file's text and the environment to a checked configuration.

use std::fmt;
use std::path::{Path, PathBuf};

use milecastle_model::nearest;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Time;
use crate::check::{self, Schema};
use crate::listener::Listener;
use crate::tree::{self, Node, Place};

/// What the environment variables that override keys begin with: `MILECASTLE__A__B=v` sets `a.b` to the YAML value `v`.
pub const ENVIRONMENT_PREFIX: &str = "MILECASTLE__";

/// A configuration file of one role.
///
/// The derived schema is what unknown keys, types and ranges are checked against; `Default` serialised is what keys that the
/// file leaves out mean.
pub trait File: Default + Serialize + DeserializeOwned + JsonSchema {
    /// The subcommand that reads the file.
    const ROLE: &'static str;

    /// Fills in what follows from other keys.
    fn complete(&mut self) {}

    /// Every address that the process listens on, with the key that sets it.
    fn listeners(&self) -> Vec<Listener>;

    /// Finds what the schema cannot: keys that contradict each other, what is missing.
    fn check(&self, checks: &mut Checks<'_>);
}

/// One fault of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where the value was written.
    pub place: Place,
    /// The key with the sections it is in: `apisix.ssl.listen[0].port`; empty where the text is not YAML.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
}

/// Why a configuration could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read the configuration file {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{0}")]
    Faults(Faults),
}

/// All the faults of one configuration; displayed one a line, as `file:line:column: key: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Name of the file, or what stands for it.
    pub file: String,
    /// At least one fault, in the order of the file.
    pub list: Vec<Fault>,
}

/// What a configuration is checked against that this crate cannot know.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Names of the plugins that there are.
    pub plugins: &'a [&'a str],
    /// Says what is wrong with the text of a group token, without repeating it.
    pub group_token: fn(&str) -> Result<(), String>,
    /// Whether files that hold secrets are read and checked too, as `milecastle check` does. A start leaves that to whoever
    /// needs them: a node with a valid certificate needs no token.
    pub secret_files: bool,
}

/// Collects faults of the checks that need the typed configuration.
#[derive(Debug)]
pub struct Checks<'a> {
    prefix: String,
    known: &'a Known<'a>,
    found: &'a mut Vec<(String, String)>,
}

impl Fault {
    pub(crate) fn new(place: Place, key: impl Into<String>, message: String) -> Self {
        Self { place, key: key.into(), message }
    }
}

impl<'a> Checks<'a> {
    /// Collects faults of something that is no file, in `found`: the key of each and what is wrong.
    pub(crate) fn new(known: &'a Known<'a>, found: &'a mut Vec<(String, String)>) -> Self {
        Self { prefix: String::new(), known, found }
    }
}

impl Checks<'_> {
    /// Reports a fault of the key `key`, relative to where this stands.
    pub(crate) fn fault(&mut self, key: &str, message: &str) {
        self.found.push((join(&self.prefix, key), message.to_owned()));
    }

    /// Reports each of these times that is zero.
    pub(crate) fn above_zero(&mut self, times: &[(&str, Time)]) {
        for (key, _) in times.iter().filter(|(_, time)| time.is_zero()) {
            self.fault(key, "expected more than 0");
        }
    }

    /// What the checks may count on.
    pub(crate) const fn known(&self) -> &Known<'_> {
        self.known
    }

    /// Reports a name at `key` that is no plugin's.
    pub(crate) fn plugin(&mut self, key: &str, name: &str) {
        let known = self.known.plugins;
        if known.contains(&name) {
            return;
        }
        let advice = match nearest(name, known.iter().copied()) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("there are {}", known.join(", ")),
        };
        self.fault(key, &format!("there is no plugin `{name}`; {advice}"));
    }

    /// The same collection, standing in a section.
    pub(crate) fn at(&mut self, section: &str) -> Checks<'_> {
        Checks { prefix: join(&self.prefix, section), known: self.known, found: self.found }
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// The listeners of a section, with the keys as the whole file spells them.
pub(crate) fn under(section: &str, listeners: Vec<Listener>) -> Vec<Listener> {
    listeners.into_iter().map(|one| Listener { key: join(section, &one.key), ..one }).collect()
}

/// Loads the file at `path`, or the defaults where there is no path, with the overrides of the environment.
pub fn load<F: File>(path: Option<&Path>, known: &Known<'_>) -> Result<F, LoadError> {
    load_with(path, known, [])
}

/// As [`load`], with overrides that precede those of the environment: what the command line says, each under the name of
/// its variable.
pub fn load_with<F: File>(
    path: Option<&Path>,
    known: &Known<'_>,
    overrides: impl IntoIterator<Item = (String, String)>,
) -> Result<F, LoadError> {
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let environment = environment.chain(overrides);
    match path {
        None => parse("defaults", "", environment, known),
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
            parse(&path.display().to_string(), &text, environment, known)
        }
    }
}

/// As [`load`], from text; `file` is the name used in faults, and variables that do not begin with
/// [`ENVIRONMENT_PREFIX`] are passed over.
pub fn parse<F: File>(
    file: &str,
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
    known: &Known<'_>,
) -> Result<F, LoadError> {
    let faults = |list| LoadError::Faults(Faults { file: file.to_owned(), list });
    let schema = Schema::of::<F>();
    let mut tree = tree::parse(text, &|line, column| Place::File { line, column }).map_err(|f| faults(vec![f]))?;
    if matches!(tree.value, tree::Yaml::Null) {
        tree = Node::empty();
    }
    let mut found = overrides(&mut tree, &schema, environment);
    found.extend(check::check(&schema, &tree));
    if !found.is_empty() {
        return Err(faults(found));
    }
    let mut value = serde_json::to_value(F::default()).map_err(|e| faults(vec![internal(&e)]))?;
    merge(&mut value, tree.to_json());
    let mut configuration: F = serde_json::from_value(value).map_err(|e| faults(vec![internal(&e)]))?;
    configuration.complete();
    found = semantic_faults(&configuration, &tree, known);
    if found.is_empty() { Ok(configuration) } else { Err(faults(found)) }
}

fn internal(e: &serde_json::Error) -> Fault {
    Fault::new(Place::Nowhere, "", e.to_string())
}

/// Puts the overrides into the tree; returns those that are no YAML.
fn overrides(tree: &mut Node, schema: &Schema, environment: impl IntoIterator<Item = (String, String)>) -> Vec<Fault> {
    let mut variables: Vec<_> = environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(ENVIRONMENT_PREFIX)?.to_ascii_lowercase(), name, value)))
        .collect();
    // Stable: of several with one name the last one counts.
    variables.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let mut faults = Vec::new();
    for (path, name, value) in variables {
        let path: Vec<String> = path.split("__").map(str::to_owned).collect();
        let place = Place::Environment(name);
        // What may only be text is taken as it is, so that a password of digits needs no quotes.
        let node = if schema.is_text(&path) {
            Ok(Node { place: place.clone(), value: tree::Yaml::Text(value) })
        } else {
            tree::parse(&value, &|_, _| place.clone())
        };
        match node {
            Ok(node) => tree.put(&path, node),
            Err(fault) => faults.push(Fault { key: path.join("."), ..fault }),
        }
    }
    faults
}

/// Lays what the file says over the defaults: mappings member by member, all else as a whole.
pub(crate) fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        // A section that the file names and leaves empty is the default section.
        (Value::Object(_), Value::Null) => {}
        (base, over) => *base = over,
    }
}

fn semantic_faults<F: File>(configuration: &F, tree: &Node, known: &Known<'_>) -> Vec<Fault> {
    let mut found = Vec::new();
    let listeners = configuration.listeners();
    for (i, listener) in listeners.iter().enumerate() {
        if let Some(other) = listeners.iter().take(i).find(|other| other.overlaps(listener)) {
            let (address, other, taken) = (listener.address, &other.key, other.address);
            let message =
                format!("{address} is taken by `{other}` ({taken}); each listener needs an address of its own");
            found.push((listener.key.clone(), message));
        }
    }
    configuration.check(&mut Checks::new(known, &mut found));
    found.into_iter().map(|(key, message)| Fault::new(tree.place_of(&key).clone(), key, message)).collect()
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.list.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            match &fault.place {
                Place::File { line, column } => write!(f, "{}:{line}:{column}: ", self.file)?,
                Place::Environment(name) => write!(f, "environment variable {name}: ")?,
                Place::Nowhere => write!(f, "{}: ", self.file)?,
            }
            if !fault.key.is_empty() {
                write!(f, "{}: ", fault.key)?;
            }
            f.write_str(&fault.message)?;
        }
        Ok(())
    }
}
