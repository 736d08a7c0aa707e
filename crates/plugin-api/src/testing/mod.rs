//! A gateway without sockets, for tests of plugins: the phases of `docs/spec/plugins/_phases.md` §1 in their order, on
//! real chains built by a real [`Registry`], with everything around them made up.
//!
//! Compiled only with the feature `testing` and for this crate's own tests.

mod exchange;
mod sessions;
mod view;

pub use exchange::{Answer, Ask, Exchange, Sent, block_on};
pub use sessions::{Session, Sessions};
pub use view::FakeView;

use crate::{
    Chain, ConfigError, Consumer, CredentialMatch, NoSecrets, Owner, Placement, PluginDef, Registry, RequestCx,
    RouteInfo, Secrets, Shared,
};
use http::HeaderValue;
use milecastle_matching::{PathPattern, PatternBudget};
use serde_json::{Map, Value};
use std::rc::Rc;
use std::sync::Arc;

/// Collects what a gateway is to have, then makes one.
pub struct Setup {
    registry: Arc<Registry>,
    view: FakeView,
    metadata: Map<String, Value>,
    global: Map<String, Value>,
    info: RouteInfo,
    matched_uri: Option<Arc<PathPattern>>,
    matched_host: Option<Arc<str>>,
    matched_path: Option<Box<str>>,
}

impl Setup {
    /// All of these plugins, nothing configured.
    pub fn new(defs: &[&'static PluginDef]) -> Self {
        Self::with(defs, &Value::Null, Arc::new(NoSecrets), Arc::default())
    }

    /// As [`Self::new`], with `plugin_attr`, a resolver of references and the node's state.
    pub fn with(defs: &[&'static PluginDef], attrs: &Value, secrets: Arc<dyn Secrets>, shared: Arc<Shared>) -> Self {
        let attrs = attrs.as_object().cloned().unwrap_or_default();
        Self::of(Arc::new(Registry::new(defs, attrs, shared, secrets)))
    }

    /// A gateway of a registry that lives on, as a node's does while snapshots come and go.
    pub fn of(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            view: FakeView::default(),
            metadata: Map::new(),
            global: Map::new(),
            info: RouteInfo { id: "1".into(), ..RouteInfo::default() },
            matched_uri: None,
            matched_host: None,
            matched_path: None,
        }
    }

    /// The registry.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Gives a plugin metadata.
    ///
    /// # Panics
    /// If the plugin has none or refuses it.
    #[must_use]
    pub fn metadata(mut self, plugin: &str, value: Value) -> Self {
        let compiled = self.registry.build_metadata(plugin, &value).expect("a known plugin").expect("valid metadata");
        if let Some(compiled) = compiled {
            self.view.metadata.insert(plugin.to_owned(), compiled);
        }
        self.metadata.insert(plugin.to_owned(), value);
        self
    }

    /// Configures global rules.
    #[must_use]
    pub fn global(mut self, plugins: Value) -> Self {
        self.global = object(plugins);
        self
    }

    /// Adds a consumer: `{"username", "labels"?, "plugins"?, "credentials"?: {id: plugins}, "group"?: {"id", "plugins"}}`.
    ///
    /// # Panics
    /// If a plugin refuses its configuration.
    #[must_use]
    pub fn consumer(mut self, consumer: Value) -> Self {
        let consumer = object(consumer);
        let part = |name: &str| consumer.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        let (labels, plugins, group) = (part("labels"), part("plugins"), part("group"));
        let name: Arc<str> = consumer["username"].as_str().expect("a username").into();
        let group_id = group.get("id").and_then(Value::as_str).map(Arc::<str>::from);
        let mut overlay = Vec::new();
        if let (Some(id), Some(plugins)) = (&group_id, group.get("plugins")) {
            let owner = Owner(format!("/consumer_groups/{id}").into());
            overlay = self.build(&object(plugins.clone()), Placement::Object, &owner);
        }
        let own = self.build(&plugins, Placement::Consumer, &Owner(format!("/consumers/{name}").into()));
        overlay.retain(|group| own.iter().all(|own| own.name() != group.name()));
        overlay.extend(own);
        let compiled = Arc::new(Consumer {
            name_header: HeaderValue::from_str(&name).expect("usernames are ASCII"),
            custom_id: labels.get("custom_id").and_then(Value::as_str).and_then(|id| HeaderValue::from_str(id).ok()),
            group_found: true,
            overlay: overlay.into(),
            group_id,
            labels,
            name: name.clone(),
        });
        self.add_credentials(&compiled, None, &plugins);
        for (id, plugins) in part("credentials") {
            self.add_credentials(&compiled, Some(&id), &object(plugins));
        }
        self.view.consumers.insert(name.to_string(), compiled);
        self
    }

    fn add_credentials(&mut self, consumer: &Arc<Consumer>, id: Option<&str>, plugins: &Map<String, Value>) {
        for (plugin, config) in plugins {
            let auth = self.registry.get(plugin).and_then(|def| def.auth);
            if let Some(key) = auth.and_then(|auth| config[auth.key].as_str()) {
                let found = CredentialMatch {
                    consumer: consumer.clone(),
                    credential_id: id.map(|id| HeaderValue::from_str(id).expect("ids are ASCII")),
                    config: Arc::new(config.clone()),
                };
                self.view.credentials.entry(plugin.clone()).or_default().insert(key.to_owned(), found);
            }
        }
    }

    /// Names and ids of the route.
    #[must_use]
    pub fn info(mut self, info: RouteInfo) -> Self {
        self.info = info;
        self
    }

    /// The path pattern that every request matches.
    #[must_use]
    pub fn matched_uri(mut self, pattern: &str) -> Self {
        self.matched_uri = Some(Arc::new(PathPattern::parse(pattern, false)));
        self
    }

    /// The host pattern that every request matches.
    #[must_use]
    pub fn matched_host(mut self, pattern: &str) -> Self {
        self.matched_host = Some(pattern.into());
        self
    }

    /// A pattern with parameters that every request matches, as if its path were `path`.
    #[must_use]
    pub fn uri_params(mut self, pattern: &str, path: &str) -> Self {
        self.matched_uri = Some(Arc::new(PathPattern::parse(pattern, true)));
        self.matched_path = Some(path.into());
        self
    }

    fn build(&self, plugins: &Map<String, Value>, placement: Placement, owner: &Owner) -> Vec<crate::Built> {
        let (built, faults) =
            self.registry.build_all(plugins, placement, owner, &|name| self.metadata.get(name).cloned());
        assert_eq!(faults, [], "the configuration of {owner:?}");
        built
    }

    /// The faults of a configuration on the route, as a write would be answered.
    pub fn faults(&self, plugins: Value) -> Vec<ConfigError> {
        self.faults_at("/routes/1", Placement::Object, plugins)
    }

    /// The faults of a configuration on another object.
    pub fn faults_at(&self, owner: &str, placement: Placement, plugins: Value) -> Vec<ConfigError> {
        let metadata = |name: &str| self.metadata.get(name).cloned();
        let patterns = PatternBudget::default();
        self.registry.check_all(&object(plugins), placement, &Owner(owner.into()), &metadata, &patterns)
    }

    /// Makes the gateway, with these plugins on route 1.
    ///
    /// # Panics
    /// If a plugin refuses its configuration.
    pub fn route(self, plugins: Value) -> Gateway {
        self.layers(&[("/routes/1", plugins)])
    }

    /// Makes a gateway of sessions, with these plugins on stream route 1.
    ///
    /// # Panics
    /// If a plugin refuses its configuration.
    pub fn sessions(self, plugins: Value) -> Sessions {
        let built = self.build(&object(plugins), Placement::Object, &Owner("/stream_routes/1".into()));
        Sessions::new(built, self.info, self.view)
    }

    /// Makes the gateway, with the plugins of several objects merged, highest precedence first: route, plugin_config,
    /// service.
    ///
    /// # Panics
    /// As [`Self::route`].
    pub fn layers(self, layers: &[(&str, Value)]) -> Gateway {
        let mut merged: Vec<crate::Built> = Vec::new();
        for (owner, plugins) in layers {
            let built = self.build(&object(plugins.clone()), Placement::Object, &Owner((*owner).into()));
            let lower: Vec<_> =
                built.into_iter().filter(|new| merged.iter().all(|own| own.name() != new.name())).collect();
            merged.extend(lower);
        }
        let global = Chain::new(self.build(&self.global, Placement::Object, &Owner("/global_rules/1".into())));
        Gateway {
            view: Rc::new(self.view),
            global: Arc::new(global),
            chain: Arc::new(Chain::new(merged)),
            info: Some(Arc::new(self.info)),
            matched_uri: self.matched_uri,
            matched_host: self.matched_host,
            matched_path: self.matched_path,
        }
    }

    /// Makes a gateway without any route: each request is answered with 404.
    ///
    /// # Panics
    /// As [`Self::route`].
    pub fn no_route(self) -> Gateway {
        Gateway { info: None, ..self.layers(&[]) }
    }
}

/// A gateway with one route, or none.
pub struct Gateway {
    view: Rc<FakeView>,
    global: Arc<Chain>,
    chain: Arc<Chain>,
    info: Option<Arc<RouteInfo>>,
    matched_uri: Option<Arc<PathPattern>>,
    matched_host: Option<Arc<str>>,
    matched_path: Option<Box<str>>,
}

impl Gateway {
    /// The snapshot and node as plugins see them.
    pub fn view(&self) -> &Rc<FakeView> {
        &self.view
    }

    /// The route's chain.
    pub fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    /// The context of a request as the proxy has it after matching, for tests that run phases by themselves.
    pub fn context(&self, ask: impl Into<Ask>) -> RequestCx {
        exchange::context(self, ask.into())
    }

    /// Sends a request through all phases.
    pub fn send(&self, ask: impl Into<Ask>) -> Exchange {
        exchange::run(self, ask.into())
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => panic!("a JSON object is needed, not {other}"),
    }
}
