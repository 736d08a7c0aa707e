//! Checking one object, and deriving the next snapshot from the one before.

mod pass;
mod settings;

use crate::certificates::{self, CompiledSsl};
use crate::identity::{ClientCertificateFault, ClientIdentity};
use crate::people;
use crate::proto;
use crate::route::{self, plugins_of};
use crate::snapshot::Snapshot;
use crate::stream;
use crate::upstream::{self, CompiledUpstream};
use milecastle_matching::{PatternBudget, RouterMode};
use milecastle_model::{Change, Fault, GroupSettings, Key, Kind, Object, Plugins, Ssl, SslKind, Upstream};
use milecastle_plugin_api::{Built, Chain, ConfigError, Owner, Placement, PluginDef, Registry};
use milecastle_settings::Registries;
use pass::Pass;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An object that could not be built, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Which object.
    pub key: Key,
    /// The first fault, with its path.
    pub reason: String,
}

/// Turns model objects into compiled configuration, under the settings of a gateway group ([`GroupSettings`]).
///
/// A process has one compiler of the default settings; [`Self::of_group`] derives those of other settings from it. To build a
/// snapshot any of them will do: the settings are an object of the configuration, and a snapshot is built under those of its
/// own revision. Cloning is cheap.
#[derive(Clone)]
pub struct Compiler {
    settings: GroupSettings,
    /// Nothing that is built depends on them.
    discovery: Arc<Registries>,
    registry: Arc<Registry>,
    /// What `streams` is chosen from.
    sessions: Option<Arc<Registry>>,
    /// `None`: no TCP or UDP is served.
    streams: Option<Arc<Registry>>,
    mode: RouterMode,
    no_plugins: Arc<Chain>,
}

/// What a stream route is refused with in a group that serves HTTP alone (`docs/spec/admin-api.md` §2.6).
pub const STREAMS_OFF: &str = "stream mode is disabled, can not add stream routes";

/// Gives the stored metadata of a plugin.
pub type MetadataOf<'a> = dyn Fn(&str) -> Option<Value> + 'a;

impl Compiler {
    /// A compiler of the default settings, for the plugins that `registry` has built in.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self {
            settings: GroupSettings::default(),
            discovery: Arc::default(),
            registry,
            sessions: None,
            streams: None,
            mode: RouterMode::default(),
            no_plugins: Arc::default(),
        }
    }

    /// The same, for groups that serve TCP and UDP too, with plugins of `registry` for sessions.
    #[must_use]
    pub fn with_sessions(self, registry: Arc<Registry>) -> Self {
        Self { sessions: Some(registry), ..self }
    }

    /// The enabled plugins of sessions; `None` where no TCP or UDP is served.
    pub fn streams(&self) -> Option<&Arc<Registry>> {
        self.streams.as_ref()
    }

    /// The enabled plugins.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The definition of a plugin of requests or sessions, whether it is enabled or not.
    pub fn built_in(&self, name: &str) -> Option<&'static PluginDef> {
        let of_sessions = || self.sessions.as_ref()?.built_in(name);
        self.registry.built_in(name).or_else(of_sessions)
    }

    pub(crate) fn mode(&self) -> RouterMode {
        self.mode
    }

    /// Everything that a write can be refused for without looking at another object, in the order in which the Admin
    /// API checks: schema, rules of the kind, plugins. Empty if the object is acceptable.
    ///
    /// `id` is the identity in the store ([`Key`]).
    pub fn check(&self, kind: Kind, id: &str, body: &Value) -> Vec<Fault> {
        self.check_beside(kind, id, body, &|_| None)
    }

    /// As [`Self::check`], for plugins whose metadata may complete their configuration: `metadata` gives the stored
    /// value of a plugin.
    pub fn check_beside(&self, kind: Kind, id: &str, body: &Value, metadata: &MetadataOf<'_>) -> Vec<Fault> {
        let mut faults = milecastle_model::check(kind, body);
        let patterns = PatternBudget::default();
        let key = Key::new(kind, id);
        let fits = faults.is_empty();
        match kind {
            // The typed forms exist only for bodies that fit their schema.
            Kind::Route if fits => faults.extend(route::check(self, &key, body, &patterns)),
            Kind::Service if fits => faults.extend(route::check_upstream(self, &key, body)),
            Kind::Upstream if fits => faults.extend(self.upstream(&key, body).err().unwrap_or_default()),
            Kind::StreamRoute if fits => faults.extend(stream::check(self, &key, body)),
            Kind::Ssl if fits => faults.extend(self.ssl(&key, body, Some(&patterns)).err().unwrap_or_default()),
            Kind::PluginMetadata => match self.registry.unwritable_metadata(id, body) {
                Some(fault) => faults.push(Fault::configuration(fault.path, fault.message)),
                None => faults.extend(self.metadata(&key, body).err().unwrap_or_default()),
            },
            Kind::Proto if fits => faults.extend(proto::check(body)),
            Kind::GroupSettings if fits => {
                faults.extend(settings::registries(body).err().unwrap_or_default());
                faults.extend(self.not_built_in(body));
            }
            _ => {}
        }
        match kind {
            Kind::Consumer | Kind::Credential => faults.extend(people::check(self, &key, body, metadata, &patterns)),
            Kind::Route | Kind::Service | Kind::GlobalRule | Kind::PluginConfig | Kind::ConsumerGroup => {
                let plugins = plugins_of(body);
                faults.extend(self.check_plugins(plugins, Placement::Object, &key, metadata, &patterns));
            }
            Kind::StreamRoute => {
                let owner = Owner(key.path().into());
                match &self.streams {
                    Some(registry) => {
                        let plugins = plugins_of(body);
                        let found = registry.check_all(plugins, Placement::Object, &owner, metadata, &patterns);
                        faults.extend(found.into_iter().map(in_plugins));
                    }
                    None => faults.push(Fault::rule("", STREAMS_OFF)),
                }
            }
            _ => {}
        }
        faults
    }

    /// The snapshot of a full set of objects.
    pub fn build(&self, lineage: &str, revision: u64, objects: Vec<Object>) -> (Snapshot, Vec<Rejected>) {
        self.build_over(&Snapshot::empty(lineage, self), lineage, revision, objects)
    }

    /// The snapshot of a full set of objects, sharing with `previous` whatever is equal in both. Objects that cannot be
    /// built keep the form that they have in `previous`.
    pub fn build_over(
        &self,
        previous: &Snapshot,
        lineage: &str,
        revision: u64,
        objects: Vec<Object>,
    ) -> (Snapshot, Vec<Rejected>) {
        let given: BTreeMap<&Key, &Object> = objects.iter().map(|object| (&object.key, object)).collect();
        let gone = previous.objects.keys().filter(|key| !given.contains_key(key));
        let mut changes: Vec<Change> = gone.map(|key| Change::Delete { key: key.clone(), revision }).collect();
        let differs = |object: &&&Object| previous.objects.get(&object.key) != Some(object);
        changes.extend(given.values().filter(differs).map(|object| Change::Put((*object).clone())));
        let (mut next, rejected) = self.apply(previous, revision, &changes);
        next.lineage = lineage.into();
        (next, rejected)
    }

    /// The snapshot after `changes`.
    ///
    /// Where they change settings of the group that the build depends on, everything is built anew and from nothing: no form
    /// outlives the settings that it was built under. Settings that cannot be read ([`Self::of_group`]) are quarantined like
    /// any object, and the former ones stay in force; a node must not take such a step at all.
    pub fn apply(&self, base: &Snapshot, revision: u64, changes: &[Change]) -> (Snapshot, Vec<Rejected>) {
        let mut next = base.clone();
        next.revision = revision;
        let mut touched = BTreeSet::new();
        for change in changes {
            match change {
                Change::Put(object) => drop(next.objects.insert(object.key.clone(), object.clone())),
                Change::Delete { key, .. } => drop(next.objects.remove(key)),
            }
            touched.insert(change.key().clone());
        }
        let mut pass = Pass { compiler: base.compiler.clone(), next, rejected: Vec::new() };
        if touched.remove(&Key::group_settings()) && pass.settings() {
            touched = pass.next.objects.keys().cloned().collect();
        }
        pass.run(touched);
        (pass.next, pass.rejected)
    }

    pub(crate) fn no_plugins(&self) -> Arc<Chain> {
        self.no_plugins.clone()
    }

    pub(crate) fn typed<T: DeserializeOwned>(&self, body: &Value) -> Result<T, Vec<Fault>> {
        T::deserialize(body).map_err(|error| vec![Fault::configuration("", error.to_string())])
    }

    pub(crate) fn build_plugins(
        &self,
        base: &Snapshot,
        plugins: &Plugins,
        placement: Placement,
        key: &Key,
    ) -> (Vec<Built>, Vec<Fault>) {
        build_plugins(&self.registry, base, plugins, placement, key)
    }

    /// All faults of plugins that are being written: also those that a stored copy would not be refused for.
    pub(crate) fn check_plugins(
        &self,
        plugins: &Plugins,
        placement: Placement,
        key: &Key,
        metadata: &MetadataOf<'_>,
        patterns: &PatternBudget,
    ) -> Vec<Fault> {
        let faults = self.registry.check_all(plugins, placement, &Owner(key.path().into()), metadata, patterns);
        faults.into_iter().map(in_plugins).collect()
    }

    fn upstream(&self, key: &Key, body: &Value) -> Result<CompiledUpstream, Vec<Fault>> {
        let upstream: Upstream = self.typed(body)?;
        upstream::compile(key.path().into(), &upstream, &|text| self.resolve(text))
    }

    /// The text itself, or what a reference to a secret stands for.
    pub(crate) fn resolve(&self, text: &str) -> Option<String> {
        if text.starts_with('$') { self.registry.secrets().resolve(text) } else { Some(text.to_owned()) }
    }

    fn ssl(&self, key: &Key, body: &Value, writing: Option<&PatternBudget>) -> Result<SslForm, Vec<Fault>> {
        let ssl: Ssl = self.typed(body)?;
        let compiled = certificates::compile(&key.id, &ssl, &|text| self.resolve(text), writing)?;
        Ok(match ssl.kind {
            _ if !ssl.enabled => SslForm::Off,
            SslKind::Server => SslForm::Server(compiled),
            SslKind::Client => {
                let identity = compiled.keys.into_iter().next().and_then(ClientIdentity::new);
                SslForm::Client(identity.ok_or(ClientCertificateFault::Unusable))
            }
        })
    }

    fn metadata(&self, key: &Key, body: &Value) -> Result<Option<Arc<dyn std::any::Any + Send + Sync>>, Vec<Fault>> {
        let mut own = body.clone();
        if let Value::Object(members) = &mut own {
            members.remove("id");
        }
        let of_sessions = || self.streams.as_ref()?.build_metadata(&key.id, &own);
        match self.registry.build_metadata(&key.id, &own).or_else(of_sessions) {
            None => Err(vec![Fault::rule("", "invalid plugin name")]),
            Some(Ok(compiled)) => Ok(compiled),
            Some(Err(faults)) => {
                Err(faults.into_iter().map(|fault| Fault::configuration(fault.path, fault.message)).collect())
            }
        }
    }
}

impl Snapshot {
    /// The same objects at the same revision, with the forms of these made once more and of what is made of them: references in
    /// them may stand for other values now. A plugin whose configuration comes to the same keeps its instance.
    pub fn again(&self, keys: BTreeSet<Key>) -> (Self, Vec<Rejected>) {
        let mut pass = Pass { compiler: self.compiler.clone(), next: self.clone(), rejected: Vec::new() };
        pass.run(keys);
        (pass.next, pass.rejected)
    }
}

/// What an ssl object is for.
enum SslForm {
    /// The gateway's certificate towards clients.
    Server(CompiledSsl),
    /// The gateway's certificate towards upstreams.
    Client(Result<ClientIdentity, ClientCertificateFault>),
    /// It is disabled.
    Off,
}

/// Builds the plugins of one object, with the metadata of `base`, beside the faults of those that cannot be built.
pub(crate) fn build_plugins(
    registry: &Registry,
    base: &Snapshot,
    plugins: &Plugins,
    placement: Placement,
    key: &Key,
) -> (Vec<Built>, Vec<Fault>) {
    if plugins.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let metadata = |name: &str| {
        let object = base.objects.get(&Key::new(Kind::PluginMetadata, name))?;
        serde_json::from_slice(&object.body).ok()
    };
    let (built, faults) = registry.build_all(plugins, placement, &Owner(key.path().into()), &metadata);
    (built, faults.into_iter().map(in_plugins).collect())
}

fn in_plugins(fault: ConfigError) -> Fault {
    Fault::rule(format!("/plugins{}", fault.path), fault.message)
}
