//! Links to other systems, shown in one place; other systems may put them there.

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use http::{StatusCode, Uri};
use milecastle_store::Link;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::groups::done;
use super::{Failure, List, Outcome, Site, Who, json};
use crate::openapi::Doc;

/// Longest texts, in characters.
const LONGEST_NAME: usize = 128;
const LONGEST_URL: usize = 2048;
const LONGEST_DESCRIPTION: usize = 512;

/// Addresses that are surely taken.
const URL: &str = "^https?://[A-Za-z0-9.-]+(:[0-9]{1,4})?(/[A-Za-z0-9/._~!$&'()*+,;=:@-]*)?$";

/// What is given of a link.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "LinkGiven", extend("required" = ["name", "url"]))]
#[serde(deny_unknown_fields, default)]
struct Given {
    /// What people read.
    #[schemars(length(min = 1, max = LONGEST_NAME))]
    name: String,
    /// Where it leads.
    #[schemars(length(max = LONGEST_URL), regex(pattern = URL))]
    url: String,
    /// More for people; may be empty.
    #[schemars(length(max = LONGEST_DESCRIPTION))]
    description: String,
}

/// A link as answers show it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Link")]
struct Shown {
    id: String,
    name: String,
    url: String,
    description: String,
}

impl From<Link> for Shown {
    fn from(Link { id, name, url, description }: Link) -> Self {
        Self { id, name, url, description }
    }
}

pub(super) const LIST: Doc = Doc::gives::<List<'static, Shown>>("Links to other systems, by name.");

/// `GET /api/links`.
pub(super) async fn list(Shared(api): Site) -> Outcome {
    let links: Vec<Shown> = api.store().link_list().await?.into_iter().map(Shown::from).collect();
    Ok(super::list(&links))
}

pub(super) const SHOW: Doc = Doc::gives::<Shown>("A link to another system.");

/// `GET /api/links/{link}`.
pub(super) async fn show(Shared(api): Site, Path(id): Path<String>) -> Outcome {
    let found = api.store().link_get(&id).await?;
    Ok(json(StatusCode::OK, &Shown::from(found.ok_or_else(|| missing(&id))?)))
}

pub(super) const PUT: Doc = Doc::gives::<Shown>("Makes a link to another system, or replaces it.").needs::<Given>();

/// `PUT /api/links/{link}`.
pub(super) async fn put(Shared(api): Site, Extension(who): Who, Path(id): Path<String>, body: Body) -> Outcome {
    let Given { name, url, description } = api.body(body).await?;
    if !is_id(&id) {
        return Err(Failure::bad("invalid_id", "the id of a link is 1 to 64 of A-Z a-z 0-9 . _ -"));
    }
    let unfit = |path: &str, message: String| Err(Failure::bad("invalid_body", message).at(path));
    if !(1..=LONGEST_NAME).contains(&name.chars().count()) {
        return unfit("/name", format!("name: expected 1 to {LONGEST_NAME} characters, what people read"));
    }
    if !leads(&url) || url.len() > LONGEST_URL {
        return unfit(
            "/url",
            format!("url: expected http:// or https:// and a host, {LONGEST_URL} characters at most"),
        );
    }
    if description.chars().count() > LONGEST_DESCRIPTION {
        return unfit("/description", format!("description: expected {LONGEST_DESCRIPTION} characters at most"));
    }
    let link = Link { id, name, url, description };
    api.by(&who).link_put(&link).await?;
    Ok(json(StatusCode::OK, &Shown::from(link)))
}

pub(super) const DELETE: Doc = Doc::done("Deletes a link to another system.");

/// `DELETE /api/links/{link}`.
pub(super) async fn delete(Shared(api): Site, Extension(who): Who, Path(id): Path<String>) -> Outcome {
    if api.by(&who).link_delete(&id).await? { Ok(done()) } else { Err(missing(&id)) }
}

/// Whether a browser that is led there asks a server: it runs what some other addresses hold. Nor one whose name is only that of a user
/// at another server.
fn leads(url: &str) -> bool {
    url.parse::<Uri>().is_ok_and(|uri| {
        let authority = uri.authority().map_or("@", |authority| authority.as_str());
        matches!(uri.scheme_str(), Some("http" | "https")) && !authority.contains('@')
    })
}

pub(super) fn is_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(fits)
}

fn missing(id: &str) -> Failure {
    Failure::missing("no_such_link", format!("there is no link `{id}`"))
}
