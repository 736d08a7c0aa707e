//! Requests with an idempotency key ([`crate::once`]).

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use milecastle_store::{Answered, Once};

use super::{Api, Failure};
use crate::callers::Caller;
use crate::once::{self, Fault};

/// Serves a request that was let in; one that has a key and was done before is answered as it was then.
pub(super) async fn once(api: &Arc<Api>, who: &Arc<Caller>, request: Request, next: Next) -> Result<Response, Failure> {
    let Some(key) = once::key_of(request.method(), request.headers()).map_err(Fault::from)? else {
        return Ok(next.run(request).await);
    };
    let key = key.to_owned();
    let (mut head, body) = request.into_parts();
    // The endpoint itself holds the body to its own limit.
    let body = api.large_body_limits.read(body).await?;
    let once = Arc::new(once::asked(&key, &head.method, &head.uri, "", &body));
    if let Some(answered) = api.repeats.answered(api.by(who), &once).await? {
        return Ok(replayed(answered));
    }
    head.extensions.insert(Arc::new(Caller::clone(who).doing(once.clone())));
    let request = Request::from_parts(head, Body::from(body));
    let (api, who) = (api.clone(), who.clone());
    // Ends also where the client has left: between the write and its answer it must not stop.
    let done = tokio::spawn(async move { kept(&api, &who, &once, next.run(request).await).await });
    done.await?
}

/// What was answered, once it is kept; where somebody else has come with the same key meanwhile, what they were answered.
async fn kept(api: &Api, who: &Caller, once: &Once, response: Response) -> Result<Response, Failure> {
    let (head, body) = response.into_parts();
    // Answers to writes are made in memory.
    let body = to_bytes(body, usize::MAX).await.map_err(|error| Failure::bad("invalid_body", error.to_string()))?;
    if once.is_repeated()
        && let Some(answered) = api.repeats.answered(api.by(who), once).await?
    {
        return Ok(replayed(answered));
    }
    let etag = head.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    once::keep(api.by(who), once, Answered { status: head.status.as_u16(), etag, body: body.clone() }).await;
    Ok(Response::from_parts(head, Body::from(body)))
}

/// The answer that was given at first.
fn replayed(answered: Answered) -> Response {
    let Answered { status, etag, body } = answered;
    let status = StatusCode::from_u16(status).expect("a status was kept");
    let json = (!body.is_empty()).then_some([(header::CONTENT_TYPE, "application/json")]);
    let mut response = match json {
        Some(json) => (status, json, body).into_response(),
        None => status.into_response(),
    };
    let tag = etag.and_then(|tag| HeaderValue::try_from(tag).ok());
    response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
    response.headers_mut().insert(once::REPLAYED, HeaderValue::from_static("true"));
    response
}
