//! What the dashboard's listeners answer besides the Admin API.

use crate::admin::{AdminApi, BASE};
use crate::api::{self, Api, Starting};
use crate::api7::{self, Api7};
use crate::health::{self, Readiness};
use crate::listen::Peer;
use crate::state::State;
use crate::{RETRY_AFTER, SERVER};
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State as Shared};
use axum::response::Response;
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use milecastle_settings::Peers;
use milecastle_telemetry::metrics::{Counter, Family, Gauge, Registry};
use std::sync::{Arc, OnceLock};
use tower::Service;

const ROOT: &str = concat!(
    "Milecastle ",
    env!("CARGO_PKG_VERSION"),
    "\n\n/apisix/admin   Admin API, see docs/spec/admin-api.md (header X-API-KEY)\n",
    "/api            groups, tokens, nodes, revisions, members, see docs/api.md (header X-API-KEY)\n",
    "/api7           the same for adc's backend api7ee, see docs/spec/clients.md\n",
    "/api/version    version\n/healthz        process is alive\n/readyz         process can serve\n",
    "/metrics        Prometheus page\n"
);

/// What the handlers of a listener share.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) admin: Arc<AdminApi>,
    pub(crate) state: Arc<State>,
    pub(crate) metrics: Arc<Registry>,
    pub(crate) answers: Family<Counter>,
    pub(crate) revisions: Family<Gauge>,
    pub(crate) objects: Family<Gauge>,
    /// Peers that may use the Admin API here.
    pub(crate) allowed: Arc<[Peers]>,
}

/// Answers with the router in `then` once there is one, and as long as the process is not outdated; before and after that it
/// answers probes, and 503 to all else.
pub(crate) fn until(then: Arc<OnceLock<Router>>, readiness: &Readiness) -> Router {
    let starting = probes(readiness, "starting", "the control plane is starting: /readyz says what it waits for");
    let text = "this replica is too old for the schema of the database: /readyz says what to start in its place";
    let outdated = probes(readiness, "outdated", text);
    let readiness = readiness.clone();
    Router::new().fallback(move |request: Request| {
        let serving = then.get().unwrap_or(&starting);
        let mut router: Router = if readiness.is_outdated() { &outdated } else { serving }.clone();
        async move { router.call(request).await }
    })
}

/// Answers probes, and 503 to all else.
fn probes(readiness: &Readiness, code: &'static str, text: &'static str) -> Router {
    health::routes(readiness).fallback(move || async move {
        let body = serde_json::to_string(&Starting { code, error_msg: text }).expect("texts have a JSON form");
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::RETRY_AFTER, RETRY_AFTER.into()),
        ];
        (StatusCode::SERVICE_UNAVAILABLE, headers, format!("{body}\n"))
    })
}

/// The dashboard's own listener.
pub(crate) fn dashboard(site: Site, api: Arc<Api>, readiness: &Readiness) -> Router {
    let (admin_api, allowed, body_limits) = (site.admin.clone(), site.allowed.clone(), api.body_limits);
    let api = api::router(api);
    let api7 = api7::router(Api7 { admin: admin_api, api: api.clone(), allowed, body_limits });
    health::routes(readiness)
        .route("/", get(|| async { ROOT }))
        .route("/metrics", get(metrics))
        .fallback(admin)
        .with_state(site)
        .nest(api::BASE, api)
        .nest(api7::BASE, api7)
}

/// The listener where tools of the field look for the Admin API, and nothing else.
pub(crate) fn compatible(site: Site) -> Router {
    Router::new().fallback(admin).with_state(site)
}

async fn metrics(Shared(site): Shared<Site>) -> Response {
    let groups = site.state.groups();
    for gauge in [&site.revisions, &site.objects] {
        gauge.retain(|labels| groups.iter().any(|group| labels.first().is_some_and(|id| **id == **group.id())));
    }
    for group in &groups {
        let image = group.image();
        #[expect(clippy::cast_precision_loss, reason = "a page of floats: exact up to 2^53")]
        let (revision, objects) = (image.revision() as f64, image.len() as f64);
        site.revisions.with(&[group.id()]).set(revision);
        site.objects.with(&[group.id()]).set(objects);
    }
    health::metrics_page(&site.metrics)
}

async fn admin(Shared(site): Shared<Site>, Extension(Peer(peer)): Extension<Peer>, request: Request) -> Response {
    let path = request.uri().path();
    let ours = path.strip_prefix(BASE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let method = request.method().as_str().to_owned();
    let mut response = if ours {
        site.admin.answer(&site.allowed, peer, request).await
    } else {
        let mut response = Response::new(Body::from("there is nothing here; see /\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        response
    };
    response.headers_mut().entry(header::SERVER).or_insert(HeaderValue::from_static(SERVER));
    site.answers.with(&[known(&method), response.status().as_str()]).inc();
    response
}

/// Methods as label values; what clients invent is not one.
fn known(method: &str) -> &'static str {
    let all = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    all.into_iter().find(|name| *name == method).unwrap_or("other")
}
