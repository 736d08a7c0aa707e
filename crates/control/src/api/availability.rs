//! What was up and what was down, and since when.

use axum::extract::{Extension, State as Shared};
use http::{StatusCode, Uri};
use milecastle_store::Watched;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Failure, Outcome, Site, Who, json, query_of};
use crate::availability::{History, gap, histories, kind};
use crate::openapi::{Doc, Param};
use crate::rights::{Need, Place, Resource, Rights};

/// Spans that are read at once.
const PAGE: u64 = 2000;

/// How far back one may look, and in seconds.
const WINDOWS: [(&str, u64); 4] = [("1h", 3600), ("24h", 86_400), ("7d", 604_800), ("30d", 2_592_000)];

/// The availability of what may be seen.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Availability")]
struct Listed {
    /// Unix time in seconds.
    from: u64,
    until: u64,
    list: Vec<Shown>,
    total: usize,
}

/// That of the cluster, a replica, a node or an address.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AvailabilityOf")]
struct Shown {
    /// `cluster`, `member`, `node` or `probe`.
    kind: String,
    group: Option<String>,
    /// The replica's name, the node's or the probe's id; empty for the cluster.
    name: String,
    /// `up`, `down`, or `unknown` where nobody has looked lately.
    state: &'static str,
    /// How it was at the last look.
    detail: String,
    /// That look, Unix time in seconds.
    seen_at: u64,
    /// Of the time of which it is known, the share in which it was up, in percent; `null`: nothing is known.
    percent: Option<f64>,
    /// Seconds of which it is known.
    known_s: u64,
    /// How often it went down, and the last times.
    outages_total: u64,
    outages: Vec<OutageShown>,
}

/// A time in which it was down.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Outage")]
struct OutageShown {
    /// Unix time in seconds.
    from: u64,
    until: u64,
    detail: String,
}

pub(super) const LIST: Doc = Doc::gives::<Listed>("What was up and what was down, and since when.").query(&[
    Param::one_of("window", &["1h", "24h", "7d", "30d"], "How far back; 24 hours without it."),
    Param::one_of("kind", &kind::ALL, "Of this kind alone."),
]);

/// `GET /api/availability`: of what whoever asks may see: replicas, nodes of groups, probes; the cluster as replicas.
pub(super) async fn list(Shared(api): Site, Extension(who): Who, uri: Uri) -> Outcome {
    let query = query_of(&uri);
    let wrong = |message: &str| Failure::bad("invalid_argument", message);
    let word = query.get("window").filter(|word| !word.is_empty()).unwrap_or(WINDOWS[1].0);
    let window = WINDOWS.into_iter().find(|(name, _)| *name == word);
    let (_, length) = window.ok_or_else(|| wrong("window: expected 1h, 24h, 7d or 30d"))?;
    let kind = query.get("kind").filter(|kind| !kind.is_empty());
    if kind.is_some_and(|kind| !kind::ALL.contains(&kind)) {
        return Err(wrong("kind: expected cluster, member, node or probe"));
    }
    let until = api.store().now();
    let (from, gap) = (until.saturating_sub(length), gap(api.look));
    let mut found = Vec::new();
    let mut last = (Watched { kind: String::new(), group: String::new(), name: String::new() }, 0);
    loop {
        let mut page = api.store().availability_list(from, kind, (&last.0, last.1), PAGE).await?;
        let full = page.len() as u64 == PAGE;
        if let Some(end) = page.last() {
            last = (end.observation.subject.clone(), end.began_at);
        }
        page.retain(|span| sees(&who.rights, &span.observation.subject));
        histories(&mut found, page, from, gap);
        if !full {
            break;
        }
    }
    let list: Vec<Shown> = found
        .into_iter()
        .map(|history| {
            let percent = history.percent();
            let History { subject: Watched { kind, group, name }, detail, seen_at, known, outages_total, .. } = history;
            let state = match history.is_up {
                _ if until.saturating_sub(seen_at) > gap.as_secs() => "unknown",
                true => "up",
                false => "down",
            };
            let outages = history.outages.into_iter();
            let outages =
                outages.map(|one| OutageShown { from: one.from, until: one.until, detail: one.detail }).collect();
            let group = Some(group).filter(|group| !group.is_empty());
            Shown { kind, group, name, state, detail, seen_at, percent, known_s: known, outages_total, outages }
        })
        .collect();
    Ok(json(StatusCode::OK, &Listed { from, until, total: list.len(), list }))
}

fn sees(rights: &Rights, subject: &Watched) -> bool {
    match &*subject.kind {
        kind::NODE => rights.allow(Need::read(Resource::Nodes), Place::Group(&subject.group)),
        kind::PROBE => rights.allow(Need::read(Resource::Probes), Place::Cluster),
        _ => rights.allow(Need::read(Resource::Members), Place::Cluster),
    }
}
