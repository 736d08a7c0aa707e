//! What happened: as a stream, or as a list (`docs/events.md`).
//!
//! What must stay true: nobody sees events about something that they may not read.

use std::collections::BTreeSet;

use axum::extract::{Extension, Request, State as Shared};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Api, Failure, List, Outcome, Site, Who, json, query_of};
use crate::admin::query::Query;
use crate::events::{self, Client, Filter, Proof, kind};
use crate::listen::{Encrypted, Line};
use crate::openapi::{self, Doc, Param};
use crate::rights::{Need, Place, Resource};

/// Events in a list unless asked for fewer or more, and at most.
const LIMIT: usize = 100;
const MOST: usize = 500;

/// Pages of events that are looked through for one list at most, where the filter takes few of them.
const PAGES: usize = 16;

/// The header by which a browser says what it has.
const LAST: &str = "last-event-id";

/// Events of a list.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Events")]
struct Listed {
    /// Each with `id`, `kind`, `group`, `at`, and what belongs to its kind.
    list: Vec<Value>,
    /// The `after` of the request for those that follow.
    next: u64,
    /// Up to this id, events are not kept any more.
    gap: Option<u64>,
}

/// An alarm that is raised.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Alarm")]
struct Alarm(#[schemars(with = "Map<String, Value>")] Value);

pub(super) const FOLLOW: Doc = Doc::gives::<Listed>("What happened, oldest first; or a stream of what happens.")
    .also("text/event-stream")
    .query(&[
        Param::flag("follow", "A stream, as for whoever accepts `text/event-stream`."),
        Param::whole("after", 0, openapi::MOST, "Only those after the event of this id."),
        Param::text("group", "Only those of this gateway group."),
        Param::listed("kind", &kind::ALL, "Only those of these kinds, with commas between them."),
        Param::whole("limit", 1, MOST as u64, "Of a list, events at most; 100 without it."),
    ])
    .refuses(&[429]);

/// `GET /api/events`: a list of what happened, or a stream of what happens for whoever reads server-sent events; after the event
/// that `Last-Event-ID` or else `after` names.
pub(super) async fn follow(
    Shared(api): Site,
    Extension(who): Who,
    Extension(line): Extension<Line>,
    Extension(encrypted): Extension<Encrypted>,
    request: Request,
) -> Outcome {
    let (query, headers) = (query_of(request.uri()), request.headers().clone());
    let (filter, after, limit) = (filter(&query)?, after(&query, &headers)?, limit(&query)?);
    if let Some(group) = &filter.group {
        who.authorise(Need::read(Resource::Events), Place::Group(group))?;
    }
    if !wants_stream(&query, &headers)? {
        return listed(&api, &who, &filter, after.unwrap_or(0), limit).await;
    }
    let place = api.streams.enter(&who.name)?;
    let after = after.unwrap_or_else(|| api.events.tail.newest());
    let proof = Proof { callers: api.callers.clone(), query, encrypted, headers };
    let client = Client { proof, rights: who.rights.clone(), filter, after, line, _place: place };
    let body = events::serve(client, api.events.clone());
    // Proxies that hold answers back would hold back the present.
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    let mut response: Response = (head, body).into_response();
    response.headers_mut().insert("x-accel-buffering", http::HeaderValue::from_static("no"));
    Ok(response)
}

/// Events after one, oldest first; `next` is what `after` is for those that follow.
async fn listed(api: &Api, who: &crate::callers::Caller, filter: &Filter, after: u64, limit: usize) -> Outcome {
    let (mut list, mut next, mut gap) = (Vec::new(), after, None);
    for _ in 0..PAGES {
        let found = api.events.tail.next(next).await?;
        gap = found.gap.or(gap);
        next = next.max(gap.unwrap_or(0));
        let Some(last) = found.events.last().map(|last| last.id) else { break };
        for event in &found.events {
            if list.len() == limit {
                break;
            }
            next = event.id;
            if filter.takes(event, &who.rights) {
                list.push(events::shown(event));
            }
        }
        if next < last || list.len() == limit {
            break;
        }
    }
    Ok(json(StatusCode::OK, &Listed { list, next, gap }))
}

pub(super) const ALARMS: Doc = Doc::gives::<List<'static, Alarm>>("Alarms that are raised now.");

/// `GET /api/alarms`: those that are raised now, of what whoever asks may see.
pub(super) async fn alarms(Shared(api): Site, Extension(who): Who) -> Outcome {
    let told = api.store().event_told_of(kind::ALARM).await?;
    let seen = told.iter().filter(|(topic, _)| events::is_visible(topic, &who.rights));
    let list: Vec<Alarm> = seen.filter_map(|(topic, state)| events::raised(topic, state).map(Alarm)).collect();
    Ok(super::list(&list))
}

/// Whether the client reads server-sent events, as browsers say that follow them, or asks for them.
fn wants_stream(query: &Query, headers: &HeaderMap) -> Result<bool, Failure> {
    match query.get("follow") {
        Some("true") => return Ok(true),
        Some("false") => return Ok(false),
        Some(_) => return Err(Failure::bad("invalid_argument", "follow: expected true or false")),
        None => {}
    }
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    Ok(accepted.any(|accepted| accepted.contains("text/event-stream")))
}

fn filter(query: &Query) -> Result<Filter, Failure> {
    let given = |name: &str| query.get(name).filter(|text| !text.is_empty());
    let kinds = given("kind").map(|kinds| kinds.split(',').map(str::to_owned).collect::<BTreeSet<_>>());
    if let Some(unknown) = kinds.iter().flatten().find(|found| !kind::ALL.contains(&found.as_str())) {
        let message = format!("kind: there is no `{unknown}`, expected some of {}", kind::ALL.join(", "));
        return Err(Failure::bad("invalid_argument", message));
    }
    Ok(Filter { group: given("group").map(str::to_owned), kinds })
}

/// What the client has: a browser that connects anew sends its old arguments, and says in the header how far it came.
fn after(query: &Query, headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let header = headers.get(LAST).map(|value| value.to_str().unwrap_or_default());
    let given = header.filter(|text| !text.is_empty()).or_else(|| query.get("after"));
    let wrong =
        || Failure::bad("invalid_argument", "after, Last-Event-ID: expected the id of an event, a whole number");
    let number = |text: &str| text.parse().ok().filter(|id| *id <= openapi::MOST).ok_or_else(wrong);
    given.map(number).transpose()
}

fn limit(query: &Query) -> Result<usize, Failure> {
    let limit = query.get("limit").map_or(Ok(LIMIT), str::parse);
    let wrong = || Failure::bad("invalid_argument", format!("limit: expected 1 to {MOST}"));
    limit.ok().filter(|limit| (1..=MOST).contains(limit)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_header_goes_before_the_argument() {
        let check = |query: &str, header: Option<&'static str>, expected: Option<u64>| {
            let mut headers = HeaderMap::new();
            headers.extend(header.map(|value| (http::HeaderName::from_static(LAST), HeaderValue::from_static(value))));
            assert_eq!(after(&Query::parse(query), &headers).ok(), Some(expected), "{query} {header:?}");
        };
        check("", None, None);
        check("after=7", None, Some(7));
        check("after=7", Some("9"), Some(9));
        check("after=7", Some(""), Some(7));
        assert!(after(&Query::parse("after=x"), &HeaderMap::new()).is_err());
        assert!(after(&Query::parse("after=-1"), &HeaderMap::new()).is_err());
    }

    #[test]
    fn whoever_reads_server_sent_events_gets_a_stream() {
        let check = |query: &str, accept: Option<&'static str>, expected: Option<bool>| {
            let mut headers = HeaderMap::new();
            headers.extend(accept.map(|value| (header::ACCEPT, HeaderValue::from_static(value))));
            assert_eq!(wants_stream(&Query::parse(query), &headers).ok(), expected, "{query} {accept:?}");
        };
        check("", None, Some(false));
        check("", Some("*/*"), Some(false));
        check("", Some("text/event-stream"), Some(true));
        check("", Some("application/json, text/event-stream"), Some(true));
        check("follow=true", None, Some(true));
        check("follow=false", Some("text/event-stream"), Some(false));
        check("follow=1", None, None);
    }

    #[test]
    fn kinds_that_there_are_none_of_are_refused() {
        assert!(filter(&Query::parse("kind=node,change")).is_ok());
        assert!(filter(&Query::parse("kind=nodes")).is_err());
        assert!(filter(&Query::parse("kind=&group=")).is_ok_and(|filter| filter.kinds.is_none()));
    }
}
