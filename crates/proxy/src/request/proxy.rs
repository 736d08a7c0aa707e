//! Getting an answer from an upstream: node by node, try by try (`docs/spec/upstream-balancing.md` §1, §5, §6).

use super::forward::{self, Length};
use super::host::without_port;
use super::live::Live;
use super::{Refusal, grpc, pipeline, refuse, upgrade};
use crate::balance::{Balancer, Endpoint, Lease, Selection};
use crate::failure::Failure;
use crate::h1::{self, Asked, Conn, Framing, Head, Malformed, Outgoing, Patience, Pump, Terms};
use crate::h2_client::Answered as Http2Answered;
use crate::health::FailedTry;
use crate::tls::{Profile, server_name};
use crate::transport::{ToUpstream, Transport};
use crate::worker::Worker;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use milecastle_plugin_api::{Attempt, Body};
use milecastle_snapshot::{ClientCertificateFault, CompiledRoute, CompiledUpstream, Snapshot, Timeouts, UpstreamRef};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the upstream has answered.
pub(super) enum Answer {
    /// A head, and the beginning of a body.
    Proxied { head: Head, body: h1::Started },
    /// The same of HTTP/2.
    Streamed(Box<Http2Answered>),
    /// 101: from here on bytes pass both ways.
    Switched { head: Head, conn: Box<Conn>, idle: Duration },
}

/// What stays the same over all tries.
pub(super) struct Plan {
    balancer: Rc<Balancer>,
    pub(super) timeouts: Timeouts,
    pub(super) patience: Patience,
    pub(super) keep: h1::Keep,
}

/// Finds the upstream and tries its nodes. The error is an answer made here.
pub(super) async fn run(live: &mut Live, snapshot: &Snapshot, route: &CompiledRoute) -> Result<Answer, Refusal> {
    let worker = live.client.worker.clone();
    let configured = find(live, snapshot, route)?;
    let discovered;
    let upstream = match configured.service {
        None => configured,
        Some(_) => {
            let found = Box::pin(worker.node.discovery.discover(configured, snapshot.discovery())).await;
            let found = found.filter(|found| !found.nodes.is_empty());
            discovered = found.ok_or_else(|| refuse(StatusCode::SERVICE_UNAVAILABLE))?;
            &discovered
        }
    };
    live.cx.upstream.scheme = upstream.scheme.as_str();
    let mut outgoing = take_body(live).await?;
    if !upstream.scheme.is_http2() {
        live.cx.upstream.upgrade = upgrade::offer(live, route, &outgoing);
    }
    let plan = Plan::new(live, upstream, route);
    let attempts = upstream.retries.map_or(upstream.nodes.len(), |retries| retries as usize + 1);
    let unhindered = snapshot.global().entries().is_empty()
        && route.chain.entries().is_empty()
        && matches!(outgoing, Outgoing::None);
    let mut selection = Selection::default();
    let mut made = 0;
    let mut last_retry = None;
    loop {
        let Some(place) = plan.balancer.pick(&mut selection, &live.cx, || worker.random()) else {
            // Either there is none to pick or every one was tried, or no name could be resolved.
            let unresolved = made == 0 && !selection.tried.is_empty();
            let status = if unresolved { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_GATEWAY };
            return Err(refuse(status));
        };
        if plan.balancer.ignores_health() {
            worker.counters.health_ignored.up();
        }
        let node = plan.balancer.node(place);
        let Some(ip) = address(&worker, &plan.balancer, place).await else { continue };
        let addr = SocketAddr::new(ip, node.port);
        // The node that was in use before is not any more.
        live.lease = plan.balancer.lease(place, addr);
        made += 1;
        live.cx.upstream.node = Some(plan.balancer.picked(place));
        run_before_proxy(live).await?;
        if let Outgoing::Streaming(pump) = &mut outgoing {
            pump.note_head(&live.cx.request.headers);
        }
        // Where no plugin has had a say, nothing has happened since the request began.
        let began = if made == 1 && unhindered { live.cx.timing.started } else { Instant::now() };
        live.attempt_began = began;
        if made == 1 {
            last_retry = upstream.retry_timeout.map(|limit| began + limit);
        }
        let endpoint = if upstream.scheme.is_tls() {
            let profile = profile(&worker, snapshot, upstream)?;
            let name = tls_name(host(live), &node.host);
            plan.balancer.endpoint(place, addr, Some((name, &profile)), &worker.pool)
        } else {
            plan.balancer.endpoint(place, addr, None, &worker.pool)
        };
        let failure = if upstream.scheme.is_http2() {
            match Box::pin(grpc::attempt(live, &plan, &endpoint, &mut outgoing)).await {
                Ok((answered, connect)) => {
                    record(live, &endpoint, answered.status, connect, Instant::now());
                    return Ok(Answer::Streamed(Box::new(answered)));
                }
                Err(failure) => failure,
            }
        } else {
            match attempt(live, &plan, &endpoint, &mut outgoing, began).await {
                Ok((conn, head, connect, now)) => {
                    return answer(live, plan, endpoint, conn, head, outgoing, connect, now);
                }
                Err(failure) => failure,
            }
        };
        if failure.by_client() {
            return Err(refuse(failure.status()));
        }
        if failure.in_handshake() && is_named_by_client(live) {
            // Whoever sends Hosts that no node knows must not take them from the others.
            live.lease.iter_mut().for_each(Lease::excuse);
        }
        note(live, &endpoint, &failure, began);
        if made >= attempts || !may_retry(live, &failure, &outgoing) {
            return Err(refuse(failure.status()));
        }
        if last_retry.is_some_and(|limit| Instant::now() > limit) {
            return Err(refuse(StatusCode::BAD_GATEWAY));
        }
        prepare_retry(live, &failure, &mut outgoing);
    }
}

/// The upstream in force: a plugin's choice before the route's.
fn find<'s>(
    live: &Live,
    snapshot: &'s Snapshot,
    route: &'s CompiledRoute,
) -> Result<&'s Arc<CompiledUpstream>, Refusal> {
    let by_id = |id: &str| snapshot.upstream(id).ok_or_else(|| refuse(StatusCode::BAD_GATEWAY));
    let upstream = match (&live.cx.upstream.upstream_id, &route.upstream) {
        (Some(id), _) | (None, UpstreamRef::Id(id)) => by_id(id)?,
        (None, UpstreamRef::Inline(upstream)) => upstream,
        (None, UpstreamRef::None) => return Err(refuse(StatusCode::SERVICE_UNAVAILABLE)),
    };
    if upstream.nodes.is_empty() && upstream.service.is_none() {
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE));
    }
    if !upstream.scheme.is_http() {
        return Err(refuse(StatusCode::BAD_GATEWAY));
    }
    Ok(upstream)
}

/// The upstream's own idle pool, or the node's default.
fn keep(upstream: &CompiledUpstream, default: h1::Keep) -> h1::Keep {
    upstream.keepalive.map_or(default, |own| h1::Keep {
        size: own.size as usize,
        idle_timeout: own.idle_timeout,
        requests: u32::try_from(own.requests).unwrap_or(u32::MAX),
    })
}

/// The request's body in the form in which it is sent. A small one is read whole first: it is sent with the head, and can be
/// sent again.
async fn take_body(live: &mut Live) -> Result<Outgoing, Refusal> {
    let config = &live.client.worker.node.config;
    let keep = config.retry_body;
    let (first, length) = match &live.cx.request.body {
        Body::None => return Ok(Outgoing::None),
        Body::Read { bytes, partial: false } => return Ok(Outgoing::Whole(bytes.clone())),
        Body::Read { bytes, partial: true } => (Some(bytes.clone()), None),
        Body::Streaming { length } => (None, *length),
    };
    let Some(mut body) = live.body.take() else { return Ok(Outgoing::None) };
    if first.is_none() && length.is_some_and(|length| length <= keep as u64) {
        let patience = config.client.body_timeout;
        let (bytes, _) = Box::pin(pipeline::read(&mut body, usize::MAX, patience)).await?;
        live.cx.request.body_bytes = bytes.len() as u64;
        return Ok(Outgoing::Whole(bytes));
    }
    Ok(Outgoing::Streaming(Box::new(Pump::new(body, length, first, keep))))
}

async fn run_before_proxy(live: &mut Live) -> Result<(), Refusal> {
    let pinned = live.pinned.clone();
    let global = pinned.snapshot.global();
    if global.has_before_proxy() {
        live.cx.global_phase = true;
        global.run_before_proxy(&mut live.cx).await?;
        live.cx.global_phase = false;
    }
    match &live.cx.chain {
        Some(chain) if chain.has_before_proxy() => {
            let chain = chain.clone();
            Ok(chain.run_before_proxy(&mut live.cx).await?)
        }
        _ => Ok(()),
    }
}

/// The node's address; `None` if its name cannot be resolved now.
pub(crate) async fn address(worker: &Worker, balancer: &Balancer, place: usize) -> Option<IpAddr> {
    let node = balancer.node(place);
    if let Some(literal) = node.addr {
        return Some(literal);
    }
    let found = Box::pin(worker.node.resolver.resolve(&node.host, Instant::now())).await;
    balancer.address(place, &found, worker.random())
}

impl Plan {
    fn new(live: &Live, upstream: &Arc<CompiledUpstream>, route: &CompiledRoute) -> Self {
        let worker = &live.client.worker;
        let config = &worker.node.config;
        let timeouts = route.timeout.unwrap_or(upstream.timeouts);
        Self {
            balancer: worker.balancer(upstream),
            timeouts,
            patience: config.patience(&timeouts),
            keep: keep(upstream, config.keepalive),
        }
    }
}

/// The Host header for the present try (§8.1).
pub(super) fn host(live: &Live) -> &HeaderValue {
    static NONE: HeaderValue = HeaderValue::from_static("");
    live.cx.upstream_host().unwrap_or(&NONE)
}

/// Whether the client has chosen the server name for TLS at the present try: neither the upstream nor a plugin has.
fn is_named_by_client(live: &Live) -> bool {
    let upstream = &live.cx.upstream;
    upstream.own_host().is_none() && upstream.host.is_none() && name_in(host(live)).is_some()
}

/// The server name for TLS: the Host header without port, or the node's own name where TLS has none like that.
fn tls_name<'a>(host: &'a HeaderValue, node: &'a str) -> &'a str {
    name_in(host).unwrap_or(node)
}

/// The name in a Host header that TLS can call a server.
fn name_in(host: &HeaderValue) -> Option<&str> {
    host.to_str().ok().and_then(without_port).filter(|name| server_name(name).is_some())
}

/// How TLS is spoken with an upstream's nodes (§11).
fn profile(worker: &Worker, snapshot: &Snapshot, upstream: &CompiledUpstream) -> Result<Profile, Refusal> {
    Profile::towards(upstream, snapshot, worker.node.config.verify_upstreams).map_err(|fault| {
        refuse(match fault {
            ClientCertificateFault::Missing => StatusCode::BAD_GATEWAY,
            ClientCertificateFault::Unusable => StatusCode::SERVICE_UNAVAILABLE,
        })
    })
}

type Answered = (Box<Conn>, Head, Duration, Instant);

/// One try at one node. A kept connection that turns out to be closed is replaced by a fresh one without this being a try of
/// its own.
async fn attempt(
    live: &Live,
    plan: &Plan,
    endpoint: &Endpoint,
    outgoing: &mut Outgoing,
    began: Instant,
) -> Result<Answered, Failure> {
    let worker = &live.client.worker;
    let upgrade = live.cx.upstream.upgrade.as_deref();
    let is_set = |name: &HeaderName| live.cx.response_headers_to_come().any(|set| set == name);
    let tell = |status: StatusCode, fields: HeaderMap| live.interims.put(status, fields);
    let asked = Asked {
        head: live.cx.request.method == Method::HEAD,
        upgrade,
        as_received: (!live.answer_head_is_seen()).then_some(&is_set),
        interim: live.interims.reach_the_client().then_some(&tell),
    };
    let length: Length = forward::length(live, outgoing);
    let mut kept = endpoint.slot.take(began);
    loop {
        let (mut conn, connect, now) = match kept.take() {
            Some(conn) => {
                worker.counters.pool_hits.up();
                (conn, Duration::ZERO, began)
            }
            None => {
                let opened = Box::pin(open(worker, endpoint, plan.timeouts.connect)).await;
                let now = Instant::now();
                (
                    Conn::new(opened?, worker.scratch.clone(), now, plan.patience.read),
                    now.saturating_duration_since(began),
                    now,
                )
            }
        };
        forward::write_head(conn.begin(), live, host(live), &length, upgrade);
        // Streams of HTTP/2 have tasks of their own, which the watch over the connection does not wake.
        let later = (live.cx.request.version < Version::HTTP_2).then_some(&live.client.activity.later);
        let terms = Terms { asked, limits: worker.node.config.upstream, patience: plan.patience, later };
        let failure = match conn.exchange(outgoing, || worker.spare.take_map(), terms, now).await {
            Ok(head) => return Ok((conn, head, connect, Instant::now())),
            Err(failure) => failure,
        };
        let stale = conn.reused() && !conn.heard_something() && failure.looks_stale();
        if !stale || !is_repeatable(&live.cx.request.method) || !is_replayable(outgoing) {
            return Err(failure);
        }
        worker.counters.pool_stale.up();
        if let Outgoing::Streaming(pump) = outgoing {
            pump.rewind();
        }
    }
}

/// Opens a connection to a node.
pub(super) async fn open(worker: &Worker, endpoint: &Endpoint, patience: Duration) -> Result<ToUpstream, Failure> {
    let opened = connect(worker, endpoint, patience).await;
    match opened {
        Ok(_) => worker.counters.upstream_connects.up(),
        Err(_) => worker.counters.upstream_connect_failures.up(),
    }
    opened
}

async fn connect(worker: &Worker, endpoint: &Endpoint, patience: Duration) -> Result<ToUpstream, Failure> {
    let began = Instant::now();
    let stream = h1::connect_tcp(worker.connect(endpoint.addr), patience).await?;
    let Some(tls) = &endpoint.tls else { return Ok(Transport::Tcp(stream)) };
    let left = patience.saturating_sub(began.elapsed());
    Ok(Transport::Tls(worker.node.upstream_tls.connect_by(stream, &tls.name, &tls.profile, left).await?))
}

/// Methods that are sent again although the first node may have acted on them (§5.3).
fn is_repeatable(method: &Method) -> bool {
    !(method == Method::POST || method == Method::PATCH || method.as_str() == "LOCK")
}

pub(super) fn is_replayable(outgoing: &Outgoing) -> bool {
    !matches!(outgoing, Outgoing::Streaming(pump) if !pump.replayable())
}

fn may_retry(live: &Live, failure: &Failure, outgoing: &Outgoing) -> bool {
    if !failure.retryable() || failure.before_sending() {
        return failure.retryable();
    }
    let repeatable = failure.unprocessed() || is_repeatable(&live.cx.request.method);
    let replayable = is_replayable(outgoing);
    if repeatable && !replayable {
        live.client.worker.counters.retry_bodies_cut.up();
    }
    repeatable && replayable
}

/// The next node gets the request from its beginning.
fn prepare_retry(live: &Live, failure: &Failure, outgoing: &mut Outgoing) {
    if let Some(lease) = &live.lease {
        let late = failure.status() == StatusCode::GATEWAY_TIMEOUT;
        lease.retried(if late { FailedTry::Timeout } else { FailedTry::Network });
    }
    live.client.worker.counters.retries.up();
    if let Outgoing::Streaming(pump) = outgoing {
        pump.rewind();
    }
}

/// Records a failed try.
fn note(live: &mut Live, endpoint: &Endpoint, failure: &Failure, began: Instant) {
    let route = live.cx.route.as_ref().map_or("", |route| &route.id);
    tracing::warn!(route, node = &*endpoint.text, error = %failure, "an upstream node gave no answer");
    let counters = &live.client.worker.counters;
    match failure {
        Failure::Malformed(Malformed::TooLong | Malformed::Interim) => counters.upstream_heads_too_long.up(),
        Failure::Malformed(Malformed::TooManyFields) => counters.upstream_heads_too_many_fields.up(),
        _ => {}
    }
    let took = began.elapsed();
    if let Some(lease) = &mut live.lease {
        lease.fail();
    }
    live.cx.upstream.push(Attempt {
        addr: endpoint.addr,
        node: endpoint.text.clone(),
        began,
        status: failure.status().as_u16(),
        answered: false,
        connect: if failure.before_sending() { took } else { Duration::ZERO },
        header: None,
        response: took,
        response_bytes: 0,
    });
}

/// Records the try that was answered.
fn record(live: &mut Live, endpoint: &Endpoint, status: StatusCode, connect: Duration, now: Instant) {
    let took = now.saturating_duration_since(live.attempt_began);
    live.cx.upstream.push(Attempt {
        addr: endpoint.addr,
        node: endpoint.text.clone(),
        began: live.attempt_began,
        status: status.as_u16(),
        answered: true,
        connect,
        header: Some(took),
        response: took,
        response_bytes: 0,
    });
}

/// Records the try that was answered, and starts on the answer's body.
#[expect(clippy::too_many_arguments, reason = "all that one try has yielded")]
fn answer(
    live: &mut Live,
    plan: Plan,
    endpoint: Rc<Endpoint>,
    conn: Box<Conn>,
    head: Head,
    outgoing: Outgoing,
    connect: Duration,
    now: Instant,
) -> Result<Answer, Refusal> {
    record(live, &endpoint, head.status, connect, now);
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answer::Switched { head, conn, idle: plan.timeouts.read.max(plan.timeouts.send) });
    }
    debug_assert!(head.framing == Framing::None || live.cx.request.method != Method::HEAD);
    let home = h1::Home { slot: endpoint.slot.clone(), keep: plan.keep };
    match h1::start(conn, &head, outgoing, home, plan.timeouts.read, now) {
        Ok(body) => Ok(Answer::Proxied { head, body }),
        Err(fault) => {
            tracing::warn!(node = &*endpoint.text, error = %fault, "the body of an upstream's answer is malformed");
            Err(refuse(StatusCode::BAD_GATEWAY))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tls_cannot_name_goes_under_the_name_of_the_node() {
        for (host, name) in [
            ("a.test", "a.test"),
            ("a_b.test.:443", "a_b.test."),
            ("127.0.0.1:443", "127.0.0.1"),
            ("[::1]:443", "[::1]"),
            ("", "node"),
            ("1", "node"),
            ("a..b", "node"),
            ("-a.test", "node"),
            ("a;b", "node"),
        ] {
            assert_eq!(tls_name(&HeaderValue::from_static(host), "node"), name, "{host}");
        }
    }
}
