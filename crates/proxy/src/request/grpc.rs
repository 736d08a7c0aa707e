//! A try at a node that speaks HTTP/2 (`docs/spec/upstream-balancing.md` §10).

use super::forward::{self, Given, Length, Port, is_own};
use super::live::Live;
use super::proxy::{self, Plan};
use crate::balance::Endpoint;
use crate::failure::Failure;
use crate::h1::Outgoing;
use crate::h2_client::{Answered, Terms, exchange};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Request, Version, header};
use std::time::Duration;

/// Times that one try begins anew because the upstream has not looked at the request. Several of a worker's connections may be
/// ending, or refuse streams, at once; an upstream that refuses every stream must not be asked for ever.
const MOST_REPEATS: u32 = 3;

/// One try at one node. A request that a kept connection did not take is sent on another one without this being a try of its
/// own. Says how long connecting took.
pub(super) async fn attempt(
    live: &Live,
    plan: &Plan,
    endpoint: &Endpoint,
    outgoing: &mut Outgoing,
) -> Result<(Answered, Duration), Failure> {
    let worker = live.client.worker.clone();
    let lanes = endpoint.lanes(&worker.http2);
    let length = forward::length(live, outgoing);
    let terms = Terms {
        patience: plan.patience,
        limits: worker.node.config.upstream,
        upload_apart: live.cx.request.version >= Version::HTTP_2,
    };
    let open = async |patience| proxy::open(&worker, endpoint, patience).await;
    let mut repeats = 0;
    loop {
        let (taken, connect) = lanes.take(plan.keep, plan.timeouts.connect, &open).await.inspect_err(|failure| {
            if matches!(failure, Failure::NoStream) {
                worker.counters.http2_no_room.up();
            }
        })?;
        if connect.is_zero() {
            worker.counters.pool_hits.up();
        }
        let (reused, request) = (taken.reused, head(live, endpoint, proxy::host(live), &length)?);
        let failure = match exchange(taken, request, outgoing, &live.interims, terms).await {
            Ok(answered) => return Ok((answered, connect)),
            Err(failure) => failure,
        };
        let repeatable = reused && failure.unprocessed() && proxy::is_replayable(outgoing);
        if !repeatable || repeats == MOST_REPEATS {
            return Err(failure);
        }
        repeats += 1;
        worker.counters.pool_stale.up();
        if let Outgoing::Streaming(pump) = outgoing {
            pump.rewind();
        }
    }
}

/// The head of the request.
fn head(live: &Live, endpoint: &Endpoint, host: &HeaderValue, length: &Length) -> Result<Request<()>, Failure> {
    let received = &live.cx.request;
    let mut fields = HeaderMap::with_capacity(received.headers.len() + 6);
    let mut given = Given::default();
    for (name, value) in &received.headers {
        if is_own(name.as_str()) {
            given.note(name.as_str(), value);
        } else if name != header::CONTENT_TYPE {
            fields.append(name.clone(), value.clone());
        }
    }
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    fields.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Length::Bytes(length) = length {
        fields.insert(header::CONTENT_LENGTH, (*length).into());
    }
    // What a believed peer or a plugin has said of earlier proxies goes on; the client's address is not added here (rule 3).
    for value in received.headers.get_all("x-forwarded-for") {
        fields.append("x-forwarded-for", value.clone());
    }
    let forwarded = given.forwarded(live);
    let value = |bytes| HeaderValue::from_bytes(bytes).map_err(|error| Failure::Unsendable(error.into()));
    fields.insert("x-forwarded-proto", value(forwarded.proto)?);
    fields.insert("x-forwarded-host", value(forwarded.host)?);
    let port = match forwarded.port {
        Port::Said(port) => value(port)?,
        Port::Own(port) => port.into(),
    };
    fields.insert("x-forwarded-port", port);
    let mut request = Request::new(());
    *request.method_mut() = received.method.clone();
    *request.uri_mut() = uri(live, endpoint, host).map_err(Failure::Unsendable)?;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = fields;
    Ok(request)
}

/// Scheme, authority and path.
fn uri(live: &Live, endpoint: &Endpoint, host: &HeaderValue) -> Result<Uri, http::Error> {
    // A request of HTTP/1.0 may name no host.
    let authority = if host.is_empty() { endpoint.text.as_bytes() } else { host.as_bytes() };
    let mut target = Vec::new();
    forward::write_target(&mut target, live);
    let scheme = if endpoint.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    Uri::builder()
        .scheme(scheme)
        .authority(Authority::try_from(authority)?)
        .path_and_query(PathAndQuery::from_maybe_shared(target)?)
        .build()
}
