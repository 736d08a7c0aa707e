//! Whole change sets of a group, however they come about: a dry run says what one would do, and what stands against it; then it is
//! published on top of the revision that it was planned of.

use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use milecastle_model::Key;
use milecastle_store::{Fate, Published, Source};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

use super::expected::Expected;
use super::{Api, Failure, Outcome, flag, json as answer, query_of};
use crate::RETRY_AFTER;
use crate::admin::engine::ATTEMPTS;
use crate::callers::Caller;
use crate::masks::Masks;
use crate::openapi::Param;
use crate::revisions::{self, Clash, Flaw, Plan, Refused};
use crate::rights::{Need, Place, Resource};
use crate::state::{Difference, Group, Image};

/// Changes that an answer lists, and flaws; it counts all of them.
const LISTED: usize = 500;

/// Longest message, in characters: every list of revisions shows it.
pub(super) const LONGEST: usize = 1024;

pub(super) const DRY_RUN: Param = Param::flag("dry_run", "Only say what it would do.");
pub(super) const FORCE: Param = Param::flag("force", "Let references dangle, and leave objects that cannot be built.");
pub(super) const MESSAGE: Param = Param::text("message", "Why, for people.");
pub(super) const WAIT: Param = Param::span("wait", "Waits so long for the nodes to have it in force.");
/// By what arguments a change set is asked for.
pub(super) const ASKED: &[Param] = &[DRY_RUN, FORCE, MESSAGE, WAIT];

/// How a change set is asked for.
pub(super) struct Asked {
    /// Only say what it would do.
    dry_run: bool,
    /// Let references dangle, and leave objects that cannot be built.
    force: bool,
    /// Why, for people.
    message: String,
    /// The revision that the group must have.
    expected: Expected,
    wait: Option<Duration>,
}

impl Asked {
    /// By the arguments `dry_run`, `force`, `message` and `wait`, and the header `If-Match`.
    pub(super) fn of(api: &Api, uri: &Uri, headers: &HeaderMap) -> Result<Self, Failure> {
        let query = query_of(uri);
        let message = query.get("message").unwrap_or_default().to_owned();
        if message.chars().count() > LONGEST {
            return Err(Failure::bad("invalid_argument", format!("message: expected at most {LONGEST} characters")));
        }
        let wait = query.get("wait").map(|_| api.wait(&query)).transpose()?;
        let expected = Expected::of(headers, "the revision of the group, as an ETag or a dry run has it")?;
        Ok(Self { dry_run: flag(&query, "dry_run")?, force: flag(&query, "force")?, message, expected, wait })
    }

    pub(super) fn force(&self) -> bool {
        self.force
    }

    /// With this message, if it has none of its own.
    pub(super) fn saying(self, message: String) -> Self {
        let message = if self.message.is_empty() { message } else { self.message };
        Self { message, ..self }
    }

    /// Refuses one that is not told what it is to be published on top of.
    pub(super) fn on_top_of_something(self) -> Result<Self, Failure> {
        if !self.dry_run && self.expected == Expected::Unsaid {
            let message = "say on top of which revision, in the header If-Match: \"<revision>\"; with `?dry_run=true` the answer tells it, \
                           and what would change; `*` is any";
            return Err(Failure::new(StatusCode::PRECONDITION_REQUIRED, "no_revision", message));
        }
        Ok(self)
    }
}

/// Plans a change set of what the group is, and publishes it unless only that was asked for: whoever may do so could spend as much by doing
/// it. It is planned anew as long as others write meanwhile and the group is still what was expected.
pub(super) async fn run<F: Future<Output = Result<Plan, Failure>>>(
    api: &Api,
    who: &Caller,
    group: &Group,
    asked: &Asked,
    source: Source,
    plan: impl Fn(Arc<Image>) -> F,
) -> Outcome {
    let _place = api.place(who, asked.wait.unwrap_or_default())?;
    let editor = api.editor(who, group);
    for _ in 0..ATTEMPTS {
        let base = group.current().await?;
        let current = base.revision();
        if let Some(expected) = asked.expected.unmet(current, "stale_revision")? {
            return Err(Refused::Stale { expected, current }.into());
        }
        let mut plan = plan(base).await?;
        // A right of their own, by whatever way they come.
        let settings = Key::group_settings();
        if plan.differences().any(|one| one.before.or(one.after).is_some_and(|object| object.key == settings)) {
            who.authorise(Need::write(Resource::Settings), Place::Group(group.id()))?;
        }
        let done = match asked.dry_run {
            true => editor.rehearse(&mut plan, source).await.map(|()| None),
            false => editor.publish(&plan, source, asked.message.clone()).await.map(Some),
        };
        match done {
            Ok(published) => return told(api, group, asked, plan, published).await,
            // Whether it is what was expected, the next round looks.
            Err(Refused::Stale { .. }) => {}
            Err(refused) => return Err(refused.into()),
        }
    }
    Err(Failure::busy())
}

/// The answer, after waiting for the nodes if that was asked for.
async fn told(api: &Api, group: &Group, asked: &Asked, plan: Plan, published: Option<Published>) -> Outcome {
    let mut tag = plan.base();
    let mut body = shown(api, plan).await?;
    body["group"] = (&**group.id()).into();
    body["dry_run"] = asked.dry_run.into();
    if let Some(published) = published {
        tag = published.revision;
        body["revision"] = published.revision.into();
        if let Some(wait) = asked.wait {
            let lineage = group.image().lineage().clone();
            let receipt = api.nodes.wait_written(group.id(), &lineage, published.revision, wait).await;
            body["receipt"] = receipt.to_string().into();
        }
    }
    Ok(tagged(answer(StatusCode::OK, &body), tag))
}

/// What a plan does, of which revision it was made, and what stands against it.
pub(super) async fn shown(api: &Api, plan: Plan) -> Result<Value, Failure> {
    let (base, flaws, clashes) = (plan.base(), listed(plan.flaws()), clashing(plan.clashes()));
    let masks = Masks { compiler: api.compiler.clone() };
    let work = move || summary(&masks, plan.differences(), 0, LISTED);
    let mut body = tokio::task::spawn_blocking(work).await.map_err(Refused::from)?;
    body["base"] = base.into();
    body["faults"] = flaws;
    body["clashes"] = clashes;
    Ok(body)
}

/// The answer with the revision as its entity tag.
pub(super) fn tagged(mut response: Response, revision: u64) -> Response {
    let tag = HeaderValue::try_from(format!("\"{revision}\"")).expect("a number in quotes");
    response.headers_mut().insert(header::ETAG, tag);
    response
}

/// How many objects are created, updated and deleted, and what becomes of `most` of them after the first `skipped`.
pub(super) fn summary<'a>(
    masks: &Masks,
    differences: impl Iterator<Item = Difference<'a>>,
    skipped: usize,
    most: usize,
) -> Value {
    let (mut counts, mut changes) = ([0_usize; 3], Vec::new());
    for difference in differences {
        let Some(fate) = revisions::fate(&difference) else { continue };
        let place: usize = counts.iter().sum();
        counts[fate_index(fate)] += 1;
        if place >= skipped && changes.len() < most {
            changes.extend(revisions::shown(masks, &difference));
        }
    }
    let [creates, updates, deletes] = counts;
    let total = creates + updates + deletes;
    json!({ "creates": creates, "updates": updates, "deletes": deletes, "total": total, "changes": changes })
}

fn fate_index(fate: Fate) -> usize {
    match fate {
        Fate::Created => 0,
        Fate::Updated => 1,
        Fate::Deleted => 2,
    }
}

fn listed(flaws: &[Flaw]) -> Value {
    let shown = |Flaw { key, fault }: &Flaw| json!({ "kind": key.kind.name(), "id": &*key.id, "path": fault.path, "message": fault.to_string() });
    flaws.iter().take(LISTED).map(shown).collect()
}

fn clashing(clashes: &[Clash]) -> Value {
    let shown = |Clash { key, seen, current }: &Clash| json!({ "kind": key.kind.name(), "id": &*key.id, "seen": seen, "current": current });
    clashes.iter().take(LISTED).map(shown).collect()
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Unborn { head, .. } => Self::missing("no_such_revision", message).with("head", head),
            Refused::Forgotten { floor, .. } => {
                Self::new(StatusCode::GONE, "revision_forgotten", message).with("floor", floor)
            }
            Refused::Stale { expected, current } => {
                let failure = Self::new(StatusCode::PRECONDITION_FAILED, "stale_revision", message);
                failure.with("expected", expected).with("current", current)
            }
            Refused::Flawed(flaws) => Self::conflict("unfit_change_set", format!("nothing was changed: {message}"))
                .with("faults", listed(&flaws))
                .with("total", flaws.len()),
            Refused::Clashing(clashes) => {
                let failure = Self::conflict("clashing_draft", format!("nothing was changed: {message}"));
                failure.with("clashes", clashing(&clashes)).with("total", clashes.len())
            }
            Refused::StaleDraft(_) => Self::new(StatusCode::PRECONDITION_FAILED, "stale_draft", message),
            Refused::Slow(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message).after(RETRY_AFTER),
            Refused::Unreadable(error) => error.into(),
            Refused::Unfinished(error) => error.into(),
            Refused::Store(error) => error.into(),
            Refused::Unforeseen(_) | Refused::Broken(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
            }
        }
    }
}
