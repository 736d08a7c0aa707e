//! Routes, and the services and plugin_configs that are merged into them.

use crate::compiled::{CompiledRoute, Outcome, UpstreamRef, terms};
use crate::compiler::Compiler;
use crate::snapshot::Snapshot;
use crate::upstream::{self, CompiledUpstream};
use http::StatusCode;
use milecastle_matching::{CidrSet, Expr, ExprError, Family, MethodSet, PatternBudget, RouteEntry};
use milecastle_model::{Fault, Key, Kind, Plugins, Route, Service, UpstreamSource};
use milecastle_plugin_api::{Built, Chain, Placement, RouteInfo};
use serde_json::Value;
use std::sync::Arc;

/// A service, compiled: what its routes inherit.
pub(crate) struct CompiledService {
    pub service: Service,
    pub plugins: Arc<Chain>,
    pub upstream: Option<Arc<CompiledUpstream>>,
}

/// A route, compiled, and what it depends on.
pub(crate) struct Compiled {
    pub route: Arc<CompiledRoute>,
    /// `None` if the route's status takes it out.
    pub entry: Option<RouteEntry<Arc<CompiledRoute>>>,
    pub reads: BodyReads,
}

/// What the conditions of a route read of a request's body.
#[derive(Clone, Copy, Default)]
pub(crate) struct BodyReads {
    /// Fields of a form or of JSON.
    pub fields: bool,
    /// A GraphQL document.
    pub document: bool,
}

/// The objects that a route is merged from, whether they exist or not.
pub(crate) fn merged_from(body: &Value) -> impl Iterator<Item = Key> {
    let named = |attribute: &str, kind: Kind| {
        let id = match body.get(attribute)? {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        Some(Key::new(kind, id))
    };
    [named("service_id", Kind::Service), named("plugin_config_id", Kind::PluginConfig)].into_iter().flatten()
}

pub(crate) fn compile_service(
    compiler: &Compiler,
    base: &Snapshot,
    key: &Key,
    body: &Value,
) -> Result<CompiledService, Vec<Fault>> {
    let service: Service = compiler.typed(body)?;
    let (plugins, mut faults) = compiler.build_plugins(base, plugins_of(body), Placement::Object, key);
    let upstream = inline(compiler, key, service.upstream.as_deref()).unwrap_or_else(|found| {
        faults.extend(found);
        None
    });
    let plugins = Arc::new(Chain::new(plugins));
    if faults.is_empty() { Ok(CompiledService { service, plugins, upstream }) } else { Err(faults) }
}

pub(crate) fn inline(
    compiler: &Compiler,
    key: &Key,
    upstream: Option<&milecastle_model::Upstream>,
) -> Result<Option<Arc<CompiledUpstream>>, Vec<Fault>> {
    let Some(upstream) = upstream else { return Ok(None) };
    let compiled = upstream::compile(key.path().into(), upstream, &|text| compiler.resolve(text));
    compiled.map(|compiled| Some(Arc::new(compiled))).map_err(|faults| {
        let below = |fault: Fault| Fault { path: format!("/upstream{}", fault.path), ..fault };
        faults.into_iter().map(below).collect()
    })
}

/// Members of a route that say which requests it takes; those that a service has as well are asked for once they are merged.
const CONDITIONS: [&str; 6] = ["uri", "uris", "methods", "remote_addr", "remote_addrs", "vars"];

static NO_PLUGINS: std::sync::LazyLock<Plugins> = std::sync::LazyLock::new(Plugins::new);

/// The plugins of an object's body.
pub(crate) fn plugins_of(body: &Value) -> &Plugins {
    body.get("plugins").and_then(Value::as_object).unwrap_or(&NO_PLUGINS)
}

/// All faults of a route that concern neither its plugins nor another object. The patterns of its conditions are compiled here;
/// a node leaves that to the first request that needs them.
pub(crate) fn check(compiler: &Compiler, key: &Key, body: &Value, patterns: &PatternBudget) -> Vec<Fault> {
    let route: Route = match compiler.typed(body) {
        Ok(route) => route,
        Err(faults) => return faults,
    };
    let mut faults = conditions(&route, Some(patterns)).err().unwrap_or_default();
    faults.extend(inline(compiler, key, route.upstream.as_deref()).err().unwrap_or_default());
    faults
}

/// All faults of a service's upstream.
pub(crate) fn check_upstream(compiler: &Compiler, key: &Key, body: &Value) -> Vec<Fault> {
    let service = compiler.typed::<Service>(body);
    service.and_then(|service| inline(compiler, key, service.upstream.as_deref())).err().unwrap_or_default()
}

fn bad_vars(error: &ExprError) -> Fault {
    Fault::rule("/vars", format!("failed to validate the 'vars' expression: {error}"))
}

/// Compiles the conditions of a route; a route in quarantine keeps them. `writing` is the budget of one that is being written.
fn conditions(route: &Route, writing: Option<&PatternBudget>) -> Result<(Option<Expr>, Option<CidrSet>), Vec<Fault>> {
    let mut faults = Vec::new();
    let vars = route.vars.as_ref().map(|vars| match writing {
        Some(_) => Expr::compiled(vars, writing),
        // Each would cost 30 µs: seconds of a node's start, where there are 100,000 routes with patterns of their own.
        None => Expr::parse(vars),
    });
    let vars = vars.transpose().unwrap_or_else(|error| {
        faults.push(bad_vars(&error));
        None
    });
    let addresses: Vec<&str> = route.client_addresses().collect();
    let addresses = (!addresses.is_empty()).then(|| CidrSet::parse(&addresses)).transpose().unwrap_or_else(|error| {
        faults.push(Fault::configuration("/remote_addr", error.to_string()));
        None
    });
    if faults.is_empty() { Ok((vars, addresses)) } else { Err(faults) }
}

/// The plugins in force: a route's own, then those of `inherited` in this order, each name once. `None` if there are none.
///
/// A route without plugins of its own shares the chain of what it inherits from: a thousand routes of one service keep one
/// chain, and it stays in the processor's cache.
fn merge(own: Vec<Built>, mut inherited: Vec<&Arc<Chain>>) -> Option<Arc<Chain>> {
    inherited.retain(|chain| !chain.entries().is_empty());
    match inherited[..] {
        [] if own.is_empty() => return None,
        [only] if own.is_empty() => return Some(only.clone()),
        _ => {}
    }
    let mut plugins = own;
    for from in inherited {
        let missing = from.entries().iter().filter(|new| plugins.iter().all(|known| known.name() != new.name()));
        let missing: Vec<Built> = missing.cloned().collect();
        plugins.extend(missing);
    }
    Some(Arc::new(Chain::new(plugins)))
}

/// What a route is merged from.
struct Inherited<'s> {
    service: Option<&'s CompiledService>,
    /// Of the plugin_config, then of the service.
    chains: Vec<&'s Arc<Chain>>,
    /// What becomes of the route's requests: one that refers to something that is missing or in quarantine fails.
    outcome: Outcome,
}

impl<'s> Inherited<'s> {
    fn of(body: &Value, base: &'s Snapshot) -> Self {
        let mut all = Self { service: None, chains: Vec::new(), outcome: Outcome::Serve };
        for merged in merged_from(body) {
            // Whether it has a form; `None`: it does not exist.
            let (usable, missing) = match merged.kind {
                Kind::PluginConfig => {
                    let slot = base.plugin_configs.get(&*merged.id);
                    all.chains.extend(slot.and_then(Option::as_ref));
                    (slot.map(Option::is_some), StatusCode::SERVICE_UNAVAILABLE)
                }
                _ => {
                    let slot = base.services.get(&*merged.id);
                    all.service = slot.and_then(Option::as_deref);
                    (slot.map(Option::is_some), StatusCode::NOT_FOUND)
                }
            };
            if all.outcome == Outcome::Serve {
                all.outcome = match usable {
                    Some(true) => Outcome::Serve,
                    Some(false) => Outcome::Fail(StatusCode::SERVICE_UNAVAILABLE),
                    None => Outcome::Fail(missing),
                };
            }
        }
        all.chains.extend(all.service.map(|service| &service.plugins));
        all
    }
}

/// Compiles a route against the services and plugin_configs of `base`.
///
/// With `quarantine` set the plugins and the upstream are left aside, and what matches is answered with 503.
pub(crate) fn compile(
    compiler: &Compiler,
    base: &Snapshot,
    key: &Key,
    body: &Value,
    quarantine: bool,
) -> Result<Compiled, Vec<Fault>> {
    let route: Route = compiler.typed(body)?;
    let (vars, addresses) = conditions(&route, None)?;
    let names = vars.as_ref().map(Expr::names).unwrap_or_default();
    let reads = BodyReads {
        fields: names.iter().any(|name| matches!(name.family(), Family::PostArg | Family::PostArgPath)),
        document: names.iter().any(|name| name.family() == Family::Graphql),
    };
    let Inherited { service: parent, chains, outcome } = Inherited::of(body, base);
    let (outcome, plugins, mut faults) = if quarantine {
        (Outcome::Fail(StatusCode::SERVICE_UNAVAILABLE), Vec::new(), Vec::new())
    } else {
        let (plugins, faults) = compiler.build_plugins(base, plugins_of(body), Placement::Object, key);
        (outcome, plugins, faults)
    };
    let merged = milecastle_model::effective(&route, parent.map(|parent| &parent.service));
    let upstream = match merged.upstream {
        Some(UpstreamSource::Id(id)) => UpstreamRef::Id(base.upstream_id(id.as_ref())),
        Some(UpstreamSource::Inline(_)) if quarantine => UpstreamRef::None,
        Some(UpstreamSource::Inline(_)) => match (&route.upstream, parent) {
            (None, Some(parent)) => parent.upstream.clone().map_or(UpstreamRef::None, UpstreamRef::Inline),
            _ => inline(compiler, key, route.upstream.as_deref()).map_or_else(
                |found| {
                    faults.extend(found);
                    UpstreamRef::None
                },
                |own| own.map_or(UpstreamRef::None, UpstreamRef::Inline),
            ),
        },
        None => UpstreamRef::None,
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    let info = Arc::new(RouteInfo {
        id: key.id.clone(),
        name: route.name.as_deref().map(Into::into),
        service_id: route.service_id.as_ref().map(|id| id.to_string().into()),
        service_name: parent.and_then(|parent| parent.service.name.as_deref()).map(Into::into),
        labels: merged.labels.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
    });
    let chain = merge(plugins, chains).unwrap_or_else(|| compiler.no_plugins());
    let more = (route.enabled, &merged.hosts, merged.enable_websocket);
    let terms = terms(body, &CONDITIONS, chain.entries().iter(), more);
    let compiled = CompiledRoute {
        info,
        outcome,
        chain,
        upstream,
        timeout: merged.timeout.as_ref().map(upstream::timeouts),
        websocket: merged.enable_websocket,
        terms,
        stand_in: quarantine,
    };
    let compiled = Arc::new(compiled);
    let entry = route.enabled.then(|| RouteEntry {
        priority: route.priority,
        hosts: merged.hosts.iter().map(|host| (*host).into()).collect(),
        methods: MethodSet::of(&route.methods),
        remote_addrs: addresses.map(Arc::new),
        vars: vars.map(Arc::new),
        // Among equals the smaller id wins, whatever the order of the changes that led here.
        ..RouteEntry::new(key.id.clone(), 0, route.paths().map(Into::into).collect(), compiled.clone())
    });
    Ok(Compiled { route: compiled, entry, reads })
}
