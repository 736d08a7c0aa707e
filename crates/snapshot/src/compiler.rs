//! Checking one object, and deriving the next snapshot from the one before.

mod settings;

use crate::certificates::{self, CompiledSsl};
use crate::identity::{ClientCertificateFault, ClientIdentity};
use crate::people;
use crate::proto;
use crate::route::{self, plugins_of};
use crate::snapshot::Snapshot;
use crate::stream;
use crate::upstream::{self, CompiledUpstream};
use milecastle_matching::RouterMode;
use milecastle_model::{Change, Fault, GlobalRule, GroupSettings, Key, Kind, Object, Plugins, Ssl, SslKind, Upstream};
use milecastle_plugin_api::{Built, Chain, ConfigError, Owner, Placement, PluginDef, Registry};
use milecastle_settings::Registries;
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
/// A process has one of the default settings, and [`Self::of_group`] makes from it those of other settings. Building needs none of
/// them: the settings are an object of the configuration, so each snapshot is built under those of its own revision.
/// Cloning is cheap.
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
        let key = Key::new(kind, id);
        let fits = faults.is_empty();
        match kind {
            // The typed forms exist only for bodies that fit their schema.
            Kind::Route if fits => faults.extend(route::check(self, &key, body)),
            Kind::Service if fits => faults.extend(route::check_upstream(self, &key, body)),
            Kind::Upstream if fits => faults.extend(self.upstream(&key, body).err().unwrap_or_default()),
            Kind::StreamRoute if fits => faults.extend(stream::check(self, &key, body)),
            Kind::Ssl if fits => faults.extend(self.ssl(&key, body).err().unwrap_or_default()),
            Kind::PluginMetadata => faults.extend(self.metadata(&key, body).err().unwrap_or_default()),
            Kind::Proto if fits => faults.extend(proto::check(body)),
            Kind::GroupSettings if fits => {
                faults.extend(settings::registries(body).err().unwrap_or_default());
                faults.extend(self.not_built_in(body));
            }
            _ => {}
        }
        match kind {
            Kind::Consumer | Kind::Credential => faults.extend(people::check(self, &key, body, metadata)),
            Kind::Route | Kind::Service | Kind::GlobalRule | Kind::PluginConfig | Kind::ConsumerGroup => {
                faults.extend(self.check_plugins(plugins_of(body), Placement::Object, &key, metadata));
            }
            Kind::StreamRoute => {
                let owner = Owner(key.path().into());
                match &self.streams {
                    Some(registry) => {
                        let found = registry.check_all(plugins_of(body), Placement::Object, &owner, metadata);
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
    /// Where they change the settings of the group that what is built depends on, everything is built anew and from nothing: no form outlives the settings
    /// that it was built under. Settings that cannot be read ([`Self::of_group`]) are quarantined like any object, and the
    /// former ones go on; a node must not take such a step at all.
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
        if plugins.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let metadata = |name: &str| {
            let object = base.objects.get(&Key::new(Kind::PluginMetadata, name))?;
            serde_json::from_slice(&object.body).ok()
        };
        let (built, faults) = self.registry.build_all(plugins, placement, &Owner(key.path().into()), &metadata);
        (built, faults.into_iter().map(in_plugins).collect())
    }

    /// All faults of plugins that are being written: also those that a stored copy would not be refused for.
    pub(crate) fn check_plugins(
        &self,
        plugins: &Plugins,
        placement: Placement,
        key: &Key,
        metadata: &MetadataOf<'_>,
    ) -> Vec<Fault> {
        let faults = self.registry.check_all(plugins, placement, &Owner(key.path().into()), metadata);
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

    fn ssl(&self, key: &Key, body: &Value) -> Result<SslForm, Vec<Fault>> {
        let ssl: Ssl = self.typed(body)?;
        let compiled = certificates::compile(&key.id, &ssl, &|text| self.resolve(text))?;
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

/// What an ssl object is for.
enum SslForm {
    /// Clients are shown it.
    Server(CompiledSsl),
    /// Upstreams are shown it.
    Client(Result<ClientIdentity, ClientCertificateFault>),
    /// Nobody is shown it.
    Off,
}

fn in_plugins(fault: ConfigError) -> Fault {
    Fault::rule(format!("/plugins{}", fault.path), fault.message)
}

/// One derivation of a snapshot from the one before.
struct Pass {
    compiler: Compiler,
    next: Snapshot,
    rejected: Vec<Rejected>,
}

impl Pass {
    /// Compiles what was touched and what depends on it, each kind after those that it is built from.
    fn run(&mut self, touched: BTreeSet<Key>) {
        let of = |kind: Kind| touched.iter().filter(move |key| key.kind == kind).cloned().collect::<Vec<_>>();
        let mut routes: BTreeSet<Key> = of(Kind::Route).into_iter().collect();
        let mut stream_routes: BTreeSet<Key> = of(Kind::StreamRoute).into_iter().collect();
        let mut consumers: BTreeSet<Arc<str>> = BTreeSet::new();
        of(Kind::PluginMetadata).iter().for_each(|key| self.metadata(key));
        of(Kind::Upstream).iter().for_each(|key| self.upstream(key));
        for key in of(Kind::PluginConfig).into_iter().chain(of(Kind::Service)) {
            self.mergeable(&key);
            let named_by = self.next.dependents.get(&key);
            routes.extend(named_by.into_iter().flatten().map(|id| Key::new(Kind::Route, id.clone())));
            if key.kind == Kind::Service {
                let named_by = self.next.stream_routes.of_service(&key.id);
                stream_routes.extend(named_by.map(|id| Key::new(Kind::StreamRoute, id)));
            }
        }
        for key in of(Kind::ConsumerGroup) {
            self.mergeable(&key);
            consumers.extend(self.next.members_of(&key.id));
        }
        of(Kind::GlobalRule).iter().for_each(|key| self.global_rule(key));
        for key in of(Kind::Consumer).into_iter().chain(of(Kind::Credential)) {
            self.holder(&key);
            consumers.insert(key.parent().map_or_else(|| key.id.clone(), |consumer| consumer.id));
        }
        consumers.iter().for_each(|name| self.next.refresh_consumer(name));
        of(Kind::Ssl).iter().for_each(|key| self.ssl(key));
        routes.iter().for_each(|key| self.route(key));
        if let Some(registry) = self.compiler.streams.clone() {
            stream_routes.iter().for_each(|key| self.stream_route(key, &registry));
        }
        for key in touched.iter().filter(|key| !self.next.objects.contains_key(*key)) {
            self.next.quarantined.remove(key);
        }
    }

    /// Builds the present form of an object, if there is one. `Some(None)`: it is gone; `None`: it is in quarantine now.
    fn form<T>(&mut self, key: &Key, build: impl FnOnce(&Self, &Value) -> Result<T, Vec<Fault>>) -> Option<Option<T>> {
        let Some(object) = self.next.objects.get(key) else { return Some(None) };
        let parsed = serde_json::from_slice::<Value>(&object.body)
            .map_err(|error| vec![Fault::configuration("", format!("not JSON: {error}"))]);
        match parsed.and_then(|body| build(self, &body)) {
            Ok(form) => {
                self.next.quarantined.remove(key);
                Some(Some(form))
            }
            Err(faults) => {
                let reason = faults.first().map_or_else(|| "unknown fault".into(), Fault::placed);
                tracing::warn!(object = %key, reason, "object in quarantine");
                self.next.quarantined.insert(key.clone(), reason.as_str().into());
                self.rejected.push(Rejected { key: key.clone(), reason });
                None
            }
        }
    }

    fn metadata(&mut self, key: &Key) {
        let form = self.form(key, |pass, body| pass.compiler.metadata(key, body));
        match form.map(Option::flatten) {
            Some(Some(compiled)) => drop(self.next.metadata.insert(key.id.clone(), compiled)),
            Some(None) => drop(self.next.metadata.remove(&*key.id)),
            None => {}
        }
    }

    fn upstream(&mut self, key: &Key) {
        match self.form(key, |pass, body| pass.compiler.upstream(key, body)) {
            Some(Some(compiled)) => drop(self.next.upstreams.insert(key.id.clone(), Arc::new(compiled))),
            Some(None) => drop(self.next.upstreams.remove(&*key.id)),
            None if self.next.upstreams.contains_key(&*key.id) => {}
            None => drop(self.next.upstreams.insert(key.id.clone(), Arc::new(upstream::unusable(key.path().into())))),
        }
    }

    /// A service, plugin_config or consumer group.
    fn mergeable(&mut self, key: &Key) {
        fn put<T>(map: &mut crate::snapshot::Map<crate::snapshot::Slot<T>>, id: &Arc<str>, form: Option<Option<T>>) {
            match form {
                Some(Some(form)) => drop(map.insert(id.clone(), Some(Arc::new(form)))),
                Some(None) => drop(map.remove(&**id)),
                None if map.contains_key(&**id) => {}
                None => drop(map.insert(id.clone(), None)),
            }
        }
        if key.kind == Kind::Service {
            let form = self.form(key, |pass, body| route::compile_service(&pass.compiler, &pass.next, key, body));
            return put(&mut self.next.services, &key.id, form);
        }
        let form = self.form(key, |pass, body| pass.plugins(key, body));
        match key.kind {
            Kind::PluginConfig => put(&mut self.next.plugin_configs, &key.id, form.map(|form| form.map(Chain::new))),
            _ => put(&mut self.next.consumer_groups, &key.id, form),
        }
    }

    fn plugins(&self, key: &Key, body: &Value) -> Result<Vec<Built>, Vec<Fault>> {
        let (built, faults) = self.compiler.build_plugins(&self.next, plugins_of(body), Placement::Object, key);
        if faults.is_empty() { Ok(built) } else { Err(faults) }
    }

    fn global_rule(&mut self, key: &Key) {
        let form = self.form(key, |pass, body| {
            pass.compiler.typed::<GlobalRule>(body)?;
            pass.plugins(key, body)
        });
        match form {
            Some(plugins) => self.next.global_rules.set(&key.id, plugins),
            None => self.next.global_rules.quarantine(&key.id),
        }
    }

    fn holder(&mut self, key: &Key) {
        let form = self.form(key, |pass, body| people::compile(&pass.compiler, &pass.next, key, body));
        if let Some(holder) = form {
            self.next.set_holder(key, holder);
        }
    }

    fn ssl(&mut self, key: &Key) {
        let Some(form) = self.form(key, |pass, body| pass.compiler.ssl(key, body)) else {
            // Never had a good form: an upstream that names it cannot tell whether it is for upstreams.
            if !self.next.ssls.contains_key(&*key.id) && !self.next.client_identities.contains_key(&*key.id) {
                let unusable = Err(ClientCertificateFault::Unusable);
                self.next.client_identities.insert(key.id.clone(), unusable);
            }
            return;
        };
        if let Some(old) = self.next.ssls.remove(&*key.id) {
            self.next.certificates.remove(&old);
        }
        self.next.client_identities.remove(&*key.id);
        match form {
            Some(SslForm::Server(ssl)) => {
                let ssl = Arc::new(ssl);
                self.next.certificates.insert(&ssl);
                self.next.ssls.insert(key.id.clone(), ssl);
            }
            Some(SslForm::Client(identity)) => drop(self.next.client_identities.insert(key.id.clone(), identity)),
            Some(SslForm::Off) | None => {}
        }
        self.next.stapled.set(&key.id, self.next.ssls.get(&*key.id));
    }

    fn route(&mut self, key: &Key) {
        self.depend(key);
        let form = self.form(key, |pass, body| route::compile(&pass.compiler, &pass.next, key, body, false));
        let form = match form {
            Some(form) => form,
            None if self.next.routes.get(&*key.id).is_some_and(|route| !route.stand_in) => return,
            // Never had a good form: what its conditions match is refused rather than served without its plugins.
            None => {
                let body = self.next.objects.get(key).and_then(|object| serde_json::from_slice(&object.body).ok());
                body.and_then(|body: Value| route::compile(&self.compiler, &self.next, key, &body, true).ok())
            }
        };
        self.next.field_routes.remove(&key.id);
        self.next.document_routes.remove(&key.id);
        self.next.router.remove(&key.id);
        let Some(form) = form else {
            self.next.routes.remove(&*key.id);
            return;
        };
        if let Some(entry) = form.entry {
            self.next.router.insert(entry);
            if form.reads.fields {
                self.next.field_routes.insert(key.id.clone());
            }
            if form.reads.document {
                self.next.document_routes.insert(key.id.clone());
            }
        }
        self.next.routes.insert(key.id.clone(), form.route);
    }

    fn stream_route(&mut self, key: &Key, registry: &Registry) {
        let body = self.next.objects.get(key).and_then(|object| serde_json::from_slice::<Value>(&object.body).ok());
        self.next.stream_routes.depend(&key.id, body.as_ref().and_then(stream::service_of));
        let form = self.form(key, |pass, body| stream::compile(&pass.compiler, registry, &pass.next, key, body, false));
        let form = match form {
            Some(form) => form,
            None if self.next.stream_routes.has_form(&key.id) => return,
            // Never had a good form: what its conditions match is closed rather than passed on without its plugins.
            None => body.and_then(|body| stream::compile(&self.compiler, registry, &self.next, key, &body, true).ok()),
        };
        self.next.stream_routes.set(&key.id, form);
    }

    /// Keeps the index from services and plugin_configs to the routes that name them.
    fn depend(&mut self, key: &Key) {
        let now: Vec<Key> = match self.next.objects.get(key) {
            Some(object) => serde_json::from_slice::<Value>(&object.body)
                .map(|body| route::merged_from(&body).collect())
                .unwrap_or_default(),
            None => Vec::new(),
        };
        let before = self.next.merged_from.remove(&*key.id).unwrap_or_default();
        for old in before.iter().filter(|old| !now.contains(old)) {
            let mut routes = self.next.dependents.get(old).cloned().unwrap_or_default();
            routes.remove(&key.id);
            if routes.is_empty() {
                self.next.dependents.remove(old);
            } else {
                self.next.dependents.insert(old.clone(), routes);
            }
        }
        for new in now.iter().filter(|new| !before.contains(new)) {
            let mut routes = self.next.dependents.get(new).cloned().unwrap_or_default();
            routes.insert(key.id.clone());
            self.next.dependents.insert(new.clone(), routes);
        }
        if !now.is_empty() {
            self.next.merged_from.insert(key.id.clone(), now.into());
        }
    }
}
