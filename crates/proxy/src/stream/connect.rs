//! Reaching an upstream: node by node, try by try (`docs/spec/stream.md` §3, `upstream-balancing.md` §5).

use super::session::{Session, status};
use crate::balance::{Balancer, Lease, Selection};
use crate::failure::Failure;
use crate::health::FailedTry;
use crate::request::node_address;
use crate::worker::Pinned;
use milecastle_plugin_api::Attempt;
use milecastle_plugin_api::stream::{ChosenUpstream, InlineUpstream};
use milecastle_snapshot::{CompiledStreamRoute, CompiledUpstream, UpstreamRef, compile_upstream};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Upstreams that stand in configurations of plugins, compiled, by the address of the one that they were made of.
#[derive(Default)]
pub(crate) struct InlineUpstreams(RefCell<HashMap<usize, Compiled>>);

/// What was compiled, and what from; that may be gone, and something else at its address.
type Compiled = (Weak<InlineUpstream>, Arc<CompiledUpstream>);

impl InlineUpstreams {
    /// `None`: it cannot be compiled, which the check of the configuration rules out.
    fn of(&self, inline: &Arc<InlineUpstream>) -> Option<Arc<CompiledUpstream>> {
        let key = Arc::as_ptr(inline) as usize;
        let mut known = self.0.borrow_mut();
        if let Some((from, compiled)) = known.get(&key)
            && from.upgrade().is_some_and(|from| Arc::ptr_eq(&from, inline))
        {
            return Some(compiled.clone());
        }
        known.retain(|_, (from, _)| from.strong_count() > 0);
        let compiled =
            Arc::new(compile_upstream(inline.key.clone(), &inline.upstream, &|text| Some(text.to_owned())).ok()?);
        known.insert(key, (Arc::downgrade(inline), compiled.clone()));
        Some(compiled)
    }
}

/// The upstream in force, over the present instances of its service if it names one: a plugin's choice before the route's. The
/// first session for a service waits for the registry.
///
/// # Errors
/// The status of the session: there is none, or none with a node.
pub(super) async fn upstream_of(
    session: &Session,
    pinned: &Pinned,
    route: &CompiledStreamRoute,
) -> Result<Arc<CompiledUpstream>, u16> {
    let configured = configured(session, pinned, route)?;
    let upstream = match configured.service {
        None => configured,
        Some(_) => {
            let discovery = &session.worker.node.discovery;
            let found = discovery.discover(&configured, pinned.snapshot.discovery()).await;
            found.ok_or(status::NO_UPSTREAM)?
        }
    };
    if upstream.nodes.is_empty() { Err(status::NO_UPSTREAM) } else { Ok(upstream) }
}

/// The upstream in force as it is configured.
///
/// # Errors
/// The status of the session: there is none.
fn configured(session: &Session, pinned: &Pinned, route: &CompiledStreamRoute) -> Result<Arc<CompiledUpstream>, u16> {
    let by_id = |id: &str| pinned.snapshot.upstream(id).cloned().ok_or(status::BAD_UPSTREAM);
    match (&session.cx.chosen, &route.upstream) {
        (Some(ChosenUpstream::Id(id)), _) | (None, UpstreamRef::Id(id)) => by_id(id),
        (Some(ChosenUpstream::Inline(inline)), _) => session.worker.inline_upstreams.of(inline).ok_or(status::INTERNAL),
        (None, UpstreamRef::Inline(upstream)) => Ok(upstream.clone()),
        (None, UpstreamRef::None) => Err(status::NO_UPSTREAM),
    }
}

/// Tries the nodes of an upstream until `open` gives a connection to one of them.
///
/// # Errors
/// The status of the session: no node could be connected.
pub(super) async fn connect<C>(
    session: &mut Session,
    upstream: &Arc<CompiledUpstream>,
    mut open: impl AsyncFnMut(&mut Session, SocketAddr) -> io::Result<C>,
) -> Result<C, u16> {
    let worker = session.worker.clone();
    let balancer = worker.balancer(upstream);
    let attempts = upstream.retries.map_or(upstream.nodes.len(), |retries| retries as usize + 1);
    let last_retry = upstream.retry_timeout.map(|limit| Instant::now() + limit);
    let mut selection = Selection::default();
    let mut made = 0;
    loop {
        let Some(place) = balancer.pick(&mut selection, &session.cx, || worker.random()) else {
            return Err(status::BAD_UPSTREAM);
        };
        if balancer.ignores_health() {
            worker.counters.health_ignored.up();
        }
        let Some(addr) = address(session, &balancer, place).await else { continue };
        // The node that was in use before is not any more.
        session.lease = balancer.lease(place, addr);
        session.cx.upstream.node = Some(balancer.picked(place));
        let began = Instant::now();
        session.attempt_began = began;
        made += 1;
        let opened = open(session, addr).await;
        let connect = began.elapsed();
        let failure = opened.as_ref().err().map(io::Error::kind);
        session.cx.upstream.push(Attempt {
            addr,
            node: addr.to_string().into(),
            began,
            status: if failure.is_none() { 200 } else { status::BAD_UPSTREAM },
            answered: failure.is_none(),
            connect,
            header: None,
            response: connect,
            response_bytes: 0,
        });
        let error = match opened {
            Ok(connected) => {
                worker.counters.upstream_connects.up();
                return Ok(connected);
            }
            Err(error) => error,
        };
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Failure>());
        if cause.is_some_and(Failure::in_handshake) && session.cx.tls.is_some() {
            // Whoever asks for names that no node knows must not take them from the others.
            session.lease.iter_mut().for_each(Lease::excuse);
        }
        worker.counters.upstream_connect_failures.up();
        let route = session.cx.route.as_ref().map_or("", |route| &route.id);
        tracing::warn!(route, node = %addr, %error, "a node of a stream route's upstream could not be connected");
        if made >= attempts || last_retry.is_some_and(|limit| Instant::now() > limit) {
            return Err(status::BAD_UPSTREAM);
        }
        if let Some(lease) = &session.lease {
            let late = failure == Some(io::ErrorKind::TimedOut);
            lease.retried(if late { FailedTry::Timeout } else { FailedTry::Network });
        }
        worker.counters.retries.up();
    }
}

/// Where a node is reached; `None` if its name cannot be resolved now, or it names no port.
async fn address(session: &Session, balancer: &Balancer, place: usize) -> Option<SocketAddr> {
    let node = balancer.node(place);
    if node.port == 0 {
        let route = session.cx.route.as_ref().map_or("", |route| &route.id);
        tracing::error!(route, host = &*node.host, "a node of a stream route's upstream names no port: give it one");
        return None;
    }
    let ip = node_address(&session.worker, balancer, place).await?;
    Some(SocketAddr::new(ip, node.port))
}
