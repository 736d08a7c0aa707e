//! Addresses of which it is probed whether they answer.

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use http::StatusCode;
use milecastle_model::MASK;
use milecastle_store::Probe;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::groups::done;
use super::links::is_id;
use super::{Api, Failure, List, Outcome, Site, Who, json};
use crate::availability::target;
use crate::openapi::Doc;

/// Longest texts, in characters.
const LONGEST_NAME: usize = 128;
const LONGEST_URL: usize = 2048;

/// Addresses that are surely taken.
const URL: &str = "^(http://[a-z0-9.-]+(:[0-9]{1,4})?(/[A-Za-z0-9/._~-]*)?|tcp://[a-z0-9.-]+:[0-9]{1,4})$";

/// What is given of a probe.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "ProbeGiven", extend("required" = ["url"]))]
#[serde(deny_unknown_fields, default)]
struct Given {
    /// What people read; its id without it.
    #[schemars(length(max = LONGEST_NAME))]
    name: String,
    /// What is asked: `http://host:port/path`, or `tcp://host:port` to be connected alone.
    #[schemars(length(max = LONGEST_URL), regex(pattern = URL))]
    url: String,
}

/// A probe as answers show it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Probe")]
struct Shown {
    id: String,
    name: String,
    /// Without the values of its query.
    url: String,
}

impl From<Probe> for Shown {
    fn from(probe: Probe) -> Self {
        let url = probe.shown_url();
        let Probe { id, name, .. } = probe;
        Self { id, name, url }
    }
}

pub(super) const LIST: Doc = Doc::gives::<List<'static, Shown>>("Addresses that are probed.");

/// `GET /api/probes`.
pub(super) async fn list(Shared(api): Site) -> Outcome {
    let probes: Vec<Shown> = api.store().probe_list().await?.into_iter().map(Shown::from).collect();
    Ok(super::list(&probes))
}

pub(super) const SHOW: Doc = Doc::gives::<Shown>("An address that is probed.");

/// `GET /api/probes/{probe}`.
pub(super) async fn show(Shared(api): Site, Path(id): Path<String>) -> Outcome {
    let found = api.store().probe_get(&id).await?;
    Ok(json(StatusCode::OK, &Shown::from(found.ok_or_else(|| missing(&id))?)))
}

pub(super) const PUT: Doc =
    Doc::gives::<Shown>("Makes an address one that is probed, or replaces it.").needs::<Given>().refuses(&[409]);

/// `PUT /api/probes/{probe}`.
pub(super) async fn put(Shared(api): Site, Extension(who): Who, Path(id): Path<String>, body: Body) -> Outcome {
    let Given { name, url } = api.body(body).await?;
    if !is_id(&id) {
        return Err(Failure::bad("invalid_id", "the id of a probe is 1 to 64 of A-Z a-z 0-9 . _ -"));
    }
    if name.chars().count() > LONGEST_NAME {
        let message = format!("name: expected {LONGEST_NAME} characters at most");
        return Err(Failure::bad("invalid_body", message).at("/name"));
    }
    if url.len() > LONGEST_URL {
        let message = format!("url: expected {LONGEST_URL} characters at most");
        return Err(Failure::bad("invalid_body", message).at("/url"));
    }
    if let Err(expected) = target(&url) {
        return Err(Failure::bad("invalid_body", format!("url: {expected}")).at("/url"));
    }
    let url = unmasked(&api, &id, url).await?;
    let name = if name.is_empty() { id.clone() } else { name };
    let probe = Probe { id, name, url };
    if !api.by(&who).probe_put(&probe, api.most_probes).await? {
        let message =
            format!("there are {} probes already (availability.most_probes): delete one first", api.most_probes);
        return Err(Failure::new(StatusCode::CONFLICT, "too_many_probes", message));
    }
    Ok(json(StatusCode::OK, &Shown::from(probe)))
}

pub(super) const DELETE: Doc = Doc::done("Ends probing an address.");

/// `DELETE /api/probes/{probe}`.
pub(super) async fn delete(Shared(api): Site, Extension(who): Who, Path(id): Path<String>) -> Outcome {
    if api.by(&who).probe_delete(&id).await? { Ok(done()) } else { Err(missing(&id)) }
}

/// The address that is meant: one as it is shown stands for the one that is stored.
async fn unmasked(api: &Api, id: &str, url: String) -> Result<String, Failure> {
    if !url.split_once('?').is_some_and(|(_, query)| query.contains(MASK)) {
        return Ok(url);
    }
    let stored = api.store().probe_get(id).await?.filter(|probe| probe.shown_url() == url);
    let message = format!("url: `{MASK}` stands for what is stored only in the whole of it: write its query anew");
    stored.map(|probe| probe.url).ok_or_else(|| Failure::bad("invalid_body", message).at("/url"))
}

fn missing(id: &str) -> Failure {
    Failure::missing("no_such_probe", format!("there is no probe `{id}`"))
}
