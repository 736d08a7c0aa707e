//! The audit log: who changed what (`docs/audit.md`). It is read here and changed nowhere.
//!
//! What must stay true: nobody sees entries of groups in which they may not read the log, nor entries about who may do what without
//! the right to see accounts.

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, State as Shared};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{StatusCode, Uri, header};
use milecastle_store::{AuditFilter, AuditScope, Entry, Store, StoreError};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{Failure, Outcome, Site, Who, json, query_of, whole};
use crate::admin::query::Query;
use crate::openapi::{self, Doc, Param};
use crate::rights::{Groups, Need, Place, Resource, Rights};

/// Entries in a list unless asked for fewer or more, and at most.
const LIMIT: u64 = 50;
const MOST: u64 = 500;

/// Columns of the CSV form; members of the JSON form.
const COLUMNS: [&str; 16] = [
    "id",
    "at_ms",
    "actor_kind",
    "actor",
    "actor_id",
    "address",
    "request_id",
    "group",
    "kind",
    "object",
    "action",
    "outcome",
    "times",
    "revision",
    "before",
    "after",
];

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
}

/// An entry as answers show it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditEntry")]
struct Shown<'a> {
    id: u64,
    /// Unix time in milliseconds.
    at_ms: u64,
    actor_kind: &'a str,
    actor: &'a str,
    actor_id: &'a str,
    address: Option<&'a str>,
    request_id: Option<&'a str>,
    group: Option<&'a str>,
    kind: &'a str,
    object: &'a str,
    action: &'a str,
    outcome: &'a str,
    times: u64,
    revision: Option<u64>,
    before: Option<&'a Value>,
    after: Option<&'a Value>,
}

/// A page of entries.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditPage")]
struct Listed<'a> {
    list: Vec<Shown<'a>>,
    /// What `before` is for the page after; `null` on the last one.
    next: Option<u64>,
}

fn shown(entry: &Entry) -> Shown<'_> {
    Shown {
        id: entry.id,
        at_ms: entry.at,
        actor_kind: &entry.actor_kind,
        actor: &entry.actor,
        actor_id: &entry.actor_id,
        address: entry.address.as_deref(),
        request_id: entry.request.as_deref(),
        group: entry.group.as_deref(),
        kind: &entry.kind,
        object: &entry.object,
        action: &entry.action,
        outcome: &entry.outcome,
        times: entry.times,
        revision: entry.revision,
        before: entry.before.as_ref(),
        after: entry.after.as_ref(),
    }
}

const SINCE: Param = Param::whole("since", 0, openapi::MOST, "From then on, Unix time in seconds.");
const UNTIL: Param = Param::whole("until", 0, openapi::MOST, "Before then, Unix time in seconds.");
const ACTOR: Param = Param::text("actor", "Who did it.");
const GROUP: Param = Param::text("group", "In which gateway group.");
const KIND: Param = Param::text("kind", "What it is about.");
const OBJECT: Param = Param::text("object", "Which one.");
const ACTION: Param = Param::text("action", "What was done.");
const OUTCOME: Param = Param::text("outcome", "What became of it.");
const BEFORE: Param = Param::whole("before", 0, openapi::MOST, "Only entries below this one.");
const PAGE: Param = Param::whole("limit", 1, MOST, "Entries at most; 50 without it.");
const FORMAT: Param = Param::one_of("format", &["json", "csv"], "A list, or a table; a list without it.");

pub(super) const LIST: Doc = Doc::gives::<Listed<'static>>("Who changed what, newest first.")
    .query(&[SINCE, UNTIL, ACTOR, GROUP, KIND, OBJECT, ACTION, OUTCOME, BEFORE, PAGE]);

/// `GET /api/audit`: newest first; `limit` of them, below `before`.
pub(super) async fn list(Shared(api): Site, Extension(who): Who, uri: Uri) -> Outcome {
    let query = query_of(&uri);
    let limit = whole(&query, "limit")?.unwrap_or(LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(Failure::bad("invalid_argument", format!("limit: expected 1 to {MOST}")));
    }
    let page = api.store().audit_list(&filter(&query)?, &scope(&who.rights), limit).await?;
    let full = page.len() as u64 == limit;
    let next = page.last().map(|last| last.id).filter(|_| full);
    Ok(json(StatusCode::OK, &Listed { list: page.iter().map(shown).collect(), next }))
}

pub(super) const SHOW: Doc = Doc::gives::<Shown<'static>>("One entry of the audit log.");

/// `GET /api/audit/{entry}`.
pub(super) async fn show(Shared(api): Site, Extension(who): Who, Path(id): Path<String>) -> Outcome {
    let found = match id.parse() {
        Ok(number) if number <= openapi::MOST => api.store().audit_get(number, &scope(&who.rights)).await?,
        _ => None,
    };
    let missing = || {
        let message = format!("the audit log has no entry `{id}`, does not keep it any more, or you may not see it");
        Failure::missing("no_such_entry", message)
    };
    Ok(json(StatusCode::OK, &shown(&found.ok_or_else(missing)?)))
}

pub(super) const EXPORT: Doc = Doc::gives::<Vec<Shown<'static>>>("All entries in one answer.")
    .also("text/csv")
    .query(&[FORMAT, SINCE, UNTIL, ACTOR, GROUP, KIND, OBJECT, ACTION, OUTCOME, BEFORE]);

/// `GET /api/audit/export`: all entries that a list would show on all of its pages, in one answer. It is read page by page while
/// it is sent; if the database fails meanwhile, the answer breaks off.
pub(super) async fn export(Shared(api): Site, Extension(who): Who, uri: Uri) -> Outcome {
    let query = query_of(&uri);
    let format = match query.get("format") {
        None | Some("json") => Format::Json,
        Some("csv") => Format::Csv,
        Some(_) => return Err(Failure::bad("invalid_argument", "format: expected json or csv")),
    };
    let filter = filter(&query)?;
    let mut export =
        Export { store: api.store().clone(), scope: scope(&who.rights), filter, format, first: true, more: true };
    // The first page before the answer begins, so that a database that is away is told as ever.
    let first = export.page().await?;
    let chunks = stream::try_unfold((export, Some(first)), |(mut export, read)| async move {
        let page = match read {
            Some(page) => page,
            None => export.page().await?,
        };
        Ok::<_, StoreError>(export.written(page).map(|chunk| (chunk, (export, None))))
    });
    Ok(attachment(format, Body::from_stream(chunks)))
}

fn attachment(format: Format, body: Body) -> Response {
    let (kind, disposition) = match format {
        Format::Json => ("application/json", "attachment; filename=\"audit.json\""),
        Format::Csv => ("text/csv; charset=utf-8", "attachment; filename=\"audit.csv\""),
    };
    ([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, disposition)], body).into_response()
}

/// An export under way.
struct Export {
    store: Store,
    scope: AuditScope,
    /// What is yet to come.
    filter: AuditFilter,
    format: Format,
    /// Whether nothing has been written yet.
    first: bool,
    /// Whether there may be more to read.
    more: bool,
}

/// A page, if there was anything left to read.
type Page = Option<Vec<Entry>>;

impl Export {
    async fn page(&mut self) -> Result<Page, StoreError> {
        if !self.more {
            return Ok(None);
        }
        let page = self.store.audit_list(&self.filter, &self.scope, MOST).await?;
        self.more = page.len() as u64 == MOST;
        self.filter.before = page.last().map(|last| last.id);
        Ok(Some(page))
    }

    /// The text of a page with what stands before and after it; `None` after the last one.
    fn written(&mut self, page: Page) -> Option<Bytes> {
        let page = page?;
        let mut text = String::new();
        match self.format {
            Format::Json => {
                for entry in &page {
                    text += if std::mem::take(&mut self.first) { "[\n" } else { ",\n" };
                    text += &written(entry).to_string();
                }
                if !self.more {
                    text += if std::mem::take(&mut self.first) { "[]\n" } else { "\n]\n" };
                }
            }
            Format::Csv => {
                if std::mem::take(&mut self.first) {
                    text += &row(COLUMNS.map(str::to_owned));
                }
                for entry in &page {
                    let members = written(entry);
                    text += &row(COLUMNS.map(|column| plain(&members[column])));
                }
            }
        }
        Some(text.into())
    }
}

/// An entry with its members by name.
fn written(entry: &Entry) -> Value {
    serde_json::to_value(shown(entry)).expect("an entry has a JSON form")
}

/// A value as a cell of a table holds it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A line of CSV (RFC 4180). A cell that a spreadsheet would take for a formula has an apostrophe before it.
fn row(cells: [String; COLUMNS.len()]) -> String {
    let cell = |cell: String| {
        let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
        let cell = if formula { format!("'{cell}") } else { cell };
        match cell.contains(['"', ',', '\n', '\r']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => cell,
        }
    };
    format!("{}\r\n", cells.map(cell).join(","))
}

/// Which entries a query asks for.
fn filter(query: &Query) -> Result<AuditFilter, Failure> {
    let text = |name: &str| query.get(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let millis = |name| Ok::<_, Failure>(whole(query, name)?.map(|seconds| seconds.saturating_mul(1000)));
    Ok(AuditFilter {
        since: millis("since")?,
        until: millis("until")?,
        actor: text("actor"),
        group: text("group"),
        kind: text("kind"),
        object: text("object"),
        action: text("action"),
        outcome: text("outcome"),
        before: whole(query, "before")?,
    })
}

/// Which entries these rights show.
fn scope(rights: &Rights) -> AuditScope {
    let groups = match rights.groups(Need::read(Resource::Audit)) {
        Groups::All => None,
        Groups::Named(groups) => Some(groups.into_iter().collect()),
    };
    AuditScope { groups, access: rights.allow(Need::read(Resource::Users), Place::Cluster) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_no_formulas_and_keep_to_themselves() {
        let check = |cell: &str, expected: &str| {
            let mut cells: [String; COLUMNS.len()] = Default::default();
            cells[0] = cell.to_owned();
            let commas = ",".repeat(COLUMNS.len() - 1);
            assert_eq!(row(cells), format!("{expected}{commas}\r\n"));
        };
        check("a", "a");
        check("=1+1", "'=1+1");
        check("@cmd", "'@cmd");
        check("-1,2", "\"'-1,2\"");
        check("say \"so\"", "\"say \"\"so\"\"\"");
        check("a\nb", "\"a\nb\"");
    }
}
