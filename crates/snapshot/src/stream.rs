//! Stream routes: which sessions they take, and what becomes of these (`docs/spec/stream.md` §2, §3).

use crate::compiled::{UpstreamRef, terms};
use crate::compiler::{Compiler, build_plugins};
use crate::route::{inline, plugins_of};
use crate::snapshot::{Map, Snapshot};
use imbl::{OrdMap, OrdSet};
use milecastle_matching::CidrSet;
use milecastle_model::{Fault, Key, Kind, Plugins, Service, StreamRoute};
use milecastle_plugin_api::stream::StreamChain;
use milecastle_plugin_api::{Built, Placement, Registry, RouteInfo};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What becomes of a session that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamOutcome {
    /// It is passed to an upstream.
    Serve,
    /// It is closed: something that the route refers to is missing or in quarantine, or the route itself is.
    Close,
    /// It is closed: the route hands it to a protocol that this version does not speak.
    Unspoken,
}

/// A stream route with its service merged in.
#[derive(Debug)]
pub struct CompiledStreamRoute {
    /// Ids and names.
    pub info: Arc<RouteInfo>,
    /// What becomes of a session that matches.
    pub outcome: StreamOutcome,
    /// The plugins in force: the route's, then those of its service.
    pub chain: Arc<StreamChain>,
    /// The upstream.
    pub upstream: UpstreamRef,
    /// See [`crate::CompiledRoute::terms`].
    pub terms: u64,
    conditions: Conditions,
    /// Sessions enter by it: it is not subordinate to another route.
    entry: bool,
    /// Stands in for a route in quarantine that never had a good form.
    stand_in: bool,
}

/// What a session must fulfil; what is `None` every session does.
#[derive(Debug, Default)]
struct Conditions {
    client: Option<CidrSet>,
    server: Option<CidrSet>,
    server_port: Option<u16>,
    /// Lower-case.
    sni: Option<Arc<str>>,
}

/// Members of a stream route that say which sessions it takes, and what becomes of them.
const CONDITIONS: [&str; 5] = ["remote_addr", "server_addr", "server_port", "sni", "protocol"];

/// What of a session routes are matched against.
#[derive(Debug, Clone, Copy)]
pub struct SessionFacts<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// Our own address on the socket.
    pub local: SocketAddr,
    /// Server name, lower-case; `None` without TLS or where the client sent none.
    pub sni: Option<&'a str>,
}

/// All stream routes.
#[derive(Clone, Default)]
pub(crate) struct StreamRoutes {
    by_id: Map<Arc<CompiledStreamRoute>>,
    /// Those with a server name: exact, or `*` and a suffix.
    named: Map<Table>,
    unnamed: Table,
    /// Routes by the service that they name, whether it exists or not.
    by_service: Map<OrdSet<Arc<str>>>,
    /// The other direction.
    services: Map<Arc<str>>,
}

/// Routes that are tried in the order of their ids, those for one port apart from the others.
#[derive(Clone, Default)]
struct Table {
    by_port: OrdMap<u16, OrdMap<Arc<str>, Arc<CompiledStreamRoute>>>,
    any_port: OrdMap<Arc<str>, Arc<CompiledStreamRoute>>,
}

impl Conditions {
    fn of(route: &StreamRoute) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut addresses = |attribute: &str, text: &Option<String>| {
            text.as_ref().map(|text| CidrSet::parse([text])).transpose().unwrap_or_else(|error| {
                faults.push(Fault::configuration(format!("/{attribute}"), error.to_string()));
                None
            })
        };
        let client = addresses("remote_addr", &route.remote_addr);
        let server = addresses("server_addr", &route.server_addr);
        if !faults.is_empty() {
            return Err(faults);
        }
        let sni = route.sni.as_ref().map(|name| name.trim_end_matches('.').to_ascii_lowercase().into());
        Ok(Self { client, server, server_port: route.server_port, sni })
    }

    /// All but the server name, which the look-up has seen to.
    fn hold(&self, session: &SessionFacts<'_>) -> bool {
        self.server_port.is_none_or(|port| port == session.local.port())
            && self.client.as_ref().is_none_or(|set| set.contains(session.client))
            && self.server.as_ref().is_none_or(|set| set.contains(session.local.ip()))
    }
}

impl Table {
    fn of(&mut self, port: Option<u16>) -> &mut OrdMap<Arc<str>, Arc<CompiledStreamRoute>> {
        match port {
            Some(port) => self.by_port.entry(port).or_default(),
            None => &mut self.any_port,
        }
    }

    fn insert(&mut self, id: &Arc<str>, route: &Arc<CompiledStreamRoute>) {
        self.of(route.conditions.server_port).insert(id.clone(), route.clone());
    }

    fn remove(&mut self, id: &str, route: &CompiledStreamRoute) {
        let port = route.conditions.server_port;
        let routes = self.of(port);
        routes.remove(id);
        if let Some(port) = port.filter(|_| routes.is_empty()) {
            self.by_port.remove(&port);
        }
    }

    fn is_empty(&self) -> bool {
        self.by_port.is_empty() && self.any_port.is_empty()
    }

    /// The first route, by id, whose conditions hold.
    fn find(&self, session: &SessionFacts<'_>) -> Option<&Arc<CompiledStreamRoute>> {
        let first = |routes: &'_ OrdMap<Arc<str>, Arc<CompiledStreamRoute>>| {
            routes.iter().find(|(_, route)| route.conditions.hold(session)).map(|(id, _)| id.clone())
        };
        let own = self.by_port.get(&session.local.port());
        let by_port = own.and_then(|routes| Some((first(routes)?, routes)));
        let any_port = first(&self.any_port).map(|id| (id, &self.any_port));
        let (id, routes) = by_port.into_iter().chain(any_port).min_by(|(a, _), (b, _)| a.cmp(b))?;
        routes.get(&id)
    }
}

impl StreamRoutes {
    pub(crate) fn get(&self, id: &str) -> Option<&Arc<CompiledStreamRoute>> {
        self.by_id.get(id)
    }

    /// Whether there is a form that is no stand-in.
    pub(crate) fn has_form(&self, id: &str) -> bool {
        self.by_id.get(id).is_some_and(|route| !route.stand_in)
    }

    /// The routes that name a service.
    pub(crate) fn of_service(&self, service: &str) -> impl Iterator<Item = Arc<str>> + '_ {
        self.by_service.get(service).into_iter().flatten().cloned()
    }

    /// Takes note of the service that a route names now.
    pub(crate) fn depend(&mut self, id: &Arc<str>, service: Option<String>) {
        let before = self.services.remove(&**id);
        if let Some(before) = before.filter(|before| service.as_deref() != Some(&**before)) {
            let mut routes = self.by_service.get(&*before).cloned().unwrap_or_default();
            routes.remove(id);
            if routes.is_empty() {
                self.by_service.remove(&*before);
            } else {
                self.by_service.insert(before, routes);
            }
        }
        let Some(service) = service else { return };
        let service: Arc<str> = service.into();
        let mut routes = self.by_service.get(&*service).cloned().unwrap_or_default();
        routes.insert(id.clone());
        self.by_service.insert(service.clone(), routes);
        self.services.insert(id.clone(), service);
    }

    /// Puts a form in the place of the one that is there, or takes it away.
    pub(crate) fn set(&mut self, id: &Arc<str>, form: Option<CompiledStreamRoute>) {
        if let Some(old) = self.by_id.remove(&**id).filter(|old| old.entry) {
            match &old.conditions.sni {
                None => self.unnamed.remove(id, &old),
                Some(name) => {
                    let mut table = self.named.get(&**name).cloned().unwrap_or_default();
                    table.remove(id, &old);
                    if table.is_empty() {
                        self.named.remove(&**name);
                    } else {
                        self.named.insert(name.clone(), table);
                    }
                }
            }
        }
        let Some(new) = form.map(Arc::new) else { return };
        if new.entry {
            match &new.conditions.sni {
                None => self.unnamed.insert(id, &new),
                Some(name) => {
                    let mut table = self.named.get(&**name).cloned().unwrap_or_default();
                    table.insert(id, &new);
                    self.named.insert(name.clone(), table);
                }
            }
        }
        self.by_id.insert(id.clone(), new);
    }

    /// The route for a session: by its server name, exact before wildcards and longer suffixes before shorter ones; then
    /// among the routes without a name.
    pub(crate) fn find(&self, session: &SessionFacts<'_>) -> Option<&Arc<CompiledStreamRoute>> {
        let by_name = session.sni.filter(|_| !self.named.is_empty()).and_then(|name| {
            let of = |name: &str| self.named.get(name)?.find(session);
            // `*.x` and the shorter `*x` are the wildcards that end in what is left behind a dot.
            let suffixes = name.char_indices().map(|(at, _)| name.get(at..).unwrap_or_default());
            of(name).or_else(|| suffixes.skip(1).find_map(|suffix| of(&format!("*{suffix}")))).or_else(|| of("*"))
        });
        by_name.or_else(|| self.unnamed.find(session))
    }
}

/// The service that a stream route names, whether it exists or not.
pub(crate) fn service_of(body: &Value) -> Option<String> {
    match body.get("service_id")? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// All faults of a stream route's conditions and upstream.
pub(crate) fn check(compiler: &Compiler, key: &Key, body: &Value) -> Vec<Fault> {
    let route: StreamRoute = match compiler.typed(body) {
        Ok(route) => route,
        Err(faults) => return faults,
    };
    let mut faults = Conditions::of(&route).err().unwrap_or_default();
    faults.extend(inline(compiler, key, route.upstream.as_deref()).err().unwrap_or_default());
    faults
}

/// The plugins of `plugins` that are plugins of sessions: a service carries those of requests as well. One that settings have
/// disabled stays, as a fault: a session that it should have kept out must not pass.
fn of_sessions(plugins: &Plugins, registry: &Registry) -> Plugins {
    let known = plugins.iter().filter(|(name, _)| registry.get(name).is_some() || registry.is_disabled(name));
    known.map(|(name, config)| (name.clone(), config.clone())).collect()
}

/// Compiles a stream route. With `quarantine` what it matches is closed: it stands in for one that cannot be built.
pub(crate) fn compile(
    compiler: &Compiler,
    registry: &Registry,
    base: &Snapshot,
    key: &Key,
    body: &Value,
    quarantine: bool,
) -> Result<CompiledStreamRoute, Vec<Fault>> {
    let route: StreamRoute = compiler.typed(body)?;
    let conditions = Conditions::of(&route)?;
    let info = |service: Option<&Service>| {
        Arc::new(RouteInfo {
            id: key.id.clone(),
            name: route.name.as_deref().map(Into::into),
            service_id: route.service_id.as_ref().map(|id| id.to_string().into()),
            service_name: service.and_then(|service| service.name.as_deref()).map(Into::into),
            labels: route.labels.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
        })
    };
    let entry = route.protocol.as_ref().is_none_or(|protocol| protocol.superior_id.is_none());
    if quarantine {
        return Ok(CompiledStreamRoute {
            info: info(None),
            outcome: StreamOutcome::Close,
            chain: Arc::default(),
            upstream: UpstreamRef::None,
            terms: 0,
            conditions,
            entry,
            stand_in: true,
        });
    }
    let build = |plugins: &Plugins, owner: &Key| build_plugins(registry, base, plugins, Placement::Object, owner);
    let (mut plugins, mut faults) = build(plugins_of(body), key);
    let mut outcome = match &route.protocol {
        Some(_) => StreamOutcome::Unspoken,
        None => StreamOutcome::Serve,
    };
    let mut parent = None;
    if let Some(id) = &route.service_id {
        match base.services.get(id.as_str()) {
            Some(Some(service)) => {
                let inherited = of_sessions(&service.service.plugins, registry);
                let (built, found) = build(&inherited, &Key::new(Kind::Service, id.as_str()));
                faults.extend(found);
                let own: Vec<&'static str> = plugins.iter().map(Built::name).collect();
                plugins.extend(built.into_iter().filter(|built| !own.contains(&built.name())));
                parent = Some(service.clone());
            }
            Some(None) | None => outcome = StreamOutcome::Close,
        }
    }
    let own = inline(compiler, key, route.upstream.as_deref()).unwrap_or_else(|found| {
        faults.extend(found);
        None
    });
    if !faults.is_empty() {
        return Err(faults);
    }
    let by_id = |id: &milecastle_model::Id| UpstreamRef::Id(base.upstream_id(id.as_str()));
    let upstream = match (&route.upstream_id, own, &parent) {
        (Some(id), ..) => by_id(id),
        (None, Some(own), _) => UpstreamRef::Inline(own),
        (None, None, Some(parent)) => match (&parent.service.upstream_id, &parent.upstream) {
            (Some(id), _) => by_id(id),
            (None, Some(inline)) => UpstreamRef::Inline(inline.clone()),
            (None, None) => UpstreamRef::None,
        },
        (None, None, None) => UpstreamRef::None,
    };
    Ok(CompiledStreamRoute {
        info: info(parent.as_ref().map(|parent| &parent.service)),
        outcome,
        terms: terms(body, &CONDITIONS, plugins.iter(), ()),
        chain: Arc::new(StreamChain::new(plugins)),
        upstream,
        conditions,
        entry,
        stand_in: false,
    })
}
