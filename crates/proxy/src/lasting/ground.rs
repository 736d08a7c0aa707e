//! What something that lasts was opened under.

use crate::discovery::Discovery;
use milecastle_model::Key;
use milecastle_plugin_api::RequestCx;
use milecastle_plugin_api::stream::{ChosenUpstream, StreamCx};
use milecastle_snapshot::{
    CompiledRoute, CompiledStreamRoute, CompiledUpstream, Outcome, Snapshot, StreamOutcome, UpstreamRef,
};
use std::sync::Arc;

/// What something that lasts was opened under: a route on its terms, a node of an upstream, a consumer.
///
/// Whether it holds is asked of names and fingerprints, so that it keeps no snapshot. A node is known by the host and the port
/// that its upstream gives it: another address of the same name is no change, nor is a weight of 0, by which operators let a node
/// run empty.
#[derive(Debug)]
pub(crate) struct Ground {
    route: RouteId,
    terms: u64,
    way: Way,
    host: Arc<str>,
    port: u16,
    consumer: Option<Arc<str>>,
    credential: Option<Key>,
}

#[derive(Debug)]
enum RouteId {
    Http(Arc<str>),
    Stream(Arc<str>),
}

/// How the upstream was found.
#[derive(Debug)]
enum Way {
    /// The route leads to it.
    Route,
    /// A plugin has chosen an upstream object.
    Object(Arc<str>),
    /// It stands in the configuration of a plugin, which is one of the route's terms.
    Plugin,
}

impl Ground {
    /// That of a request on this route. `None` before an upstream was reached.
    pub(crate) fn of_request(cx: &RequestCx, route: &CompiledRoute) -> Option<Self> {
        let consumer = cx.consumer.as_ref();
        let credential = cx.credential.as_ref().and_then(|id| id.to_str().ok());
        Some(Self {
            route: RouteId::Http(route.info.id.clone()),
            terms: route.terms,
            way: cx.upstream.upstream_id.clone().map_or(Way::Route, Way::Object),
            host: cx.upstream.unresolved_host().cloned()?,
            port: cx.upstream.last()?.addr.port(),
            consumer: consumer.map(|consumer| consumer.name.clone()),
            credential: consumer.zip(credential).map(|(consumer, id)| Key::credential(&consumer.name, id)),
        })
    }

    /// That of a session on this route. `None` before an upstream was reached.
    pub(crate) fn of_session(cx: &StreamCx, route: &CompiledStreamRoute) -> Option<Self> {
        Some(Self {
            route: RouteId::Stream(route.info.id.clone()),
            terms: route.terms,
            way: match &cx.chosen {
                None => Way::Route,
                Some(ChosenUpstream::Id(id)) => Way::Object(id.clone()),
                Some(ChosenUpstream::Inline(_)) => Way::Plugin,
            },
            host: cx.upstream.unresolved_host().cloned()?,
            port: cx.upstream.last()?.addr.port(),
            consumer: None,
            credential: None,
        })
    }

    /// Whether it holds in this configuration.
    pub(crate) fn holds(&self, snapshot: &Snapshot, discovery: &Discovery) -> bool {
        let (terms, route_upstream) = match &self.route {
            RouteId::Http(id) => match snapshot.route(id) {
                Some(route) if route.outcome == Outcome::Serve => (route.terms, &route.upstream),
                _ => return false,
            },
            RouteId::Stream(id) => match snapshot.stream_route_by_id(id) {
                Some(route) if route.outcome == StreamOutcome::Serve => (route.terms, &route.upstream),
                _ => return false,
            },
        };
        if terms != self.terms {
            return false;
        }
        if self.consumer.as_ref().is_some_and(|name| snapshot.consumer(name).is_none())
            || self.credential.as_ref().is_some_and(|key| snapshot.object(key).is_none())
        {
            return false;
        }
        let upstream = match (&self.way, route_upstream) {
            (Way::Plugin, _) => return true,
            (Way::Object(id), _) | (Way::Route, UpstreamRef::Id(id)) => snapshot.upstream(id),
            (Way::Route, UpstreamRef::Inline(upstream)) => Some(upstream),
            (Way::Route, UpstreamRef::None) => None,
        };
        upstream.is_some_and(|upstream| match &upstream.service {
            None => self.is_among(upstream),
            // A registry that has not been asked yet has taken nothing away.
            Some(_) => discovery.present(upstream).is_none_or(|present| self.is_among(&present)),
        })
    }

    fn is_among(&self, upstream: &CompiledUpstream) -> bool {
        upstream.nodes.iter().any(|node| node.port == self.port && node.host == self.host)
    }
}
