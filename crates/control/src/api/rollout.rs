//! How new revisions of a gateway group go out: its policy, the rollout that is on, and an operator's hand on it
//! (`docs/rollout.md`).

use axum::body::Body;
use axum::extract::{Extension, Path, State as Shared};
use http::{StatusCode, Uri};
use milecastle_store::{Advance, Gate, HeldRollout, Node, Rollout, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::{Api, Failure, Outcome, Site, Who, flag, json as answer, query_of};
use crate::callers::Caller;
use crate::openapi::{Doc, Param};
use crate::rollout::{self, Back, Course, End, Policy, Record, Seen, Situation, Stage, Strategy, Way};
use crate::traffic::Traffic;

/// How new revisions go out, as answers show it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Rollout")]
struct Shown {
    group: String,
    /// The newest revision.
    revision: u64,
    policy: Policy,
    /// `idle`, `starting`, `canary` or `paused`.
    state: &'static str,
    /// The rollout that is on.
    current: Option<Current>,
    /// How those before it ended, the newest first.
    outcomes: Vec<rollout::Outcome>,
}

/// A rollout that is on.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CurrentRollout")]
struct Current {
    /// The revision that every node may have.
    base: u64,
    /// The one that canaries may have.
    candidate: u64,
    canaries: BTreeSet<String>,
    /// Since when they serve with it.
    soaking_since: Option<u64>,
    paused_by: Option<String>,
    /// Why it does not go on yet, for people.
    waits_for: String,
    /// What to do about that; `null` unless it lasts longer than usual (`stalled_after` of the policy).
    advice: Option<&'static str>,
    traffic: Compared,
}

/// What canaries are judged by.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RolloutTraffic")]
struct Compared {
    /// Since each of them has first reported with the candidate in force.
    canaries: Figures,
    /// Of the other nodes since the last of them did.
    others: Figures,
    /// Of the canaries in the minutes before they were chosen.
    before: Figures,
}

/// What nodes have answered.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TrafficFigures")]
struct Figures {
    requests: u64,
    /// Requests that wait for the head of an answer, more than when the canaries were chosen.
    requests_waiting: u64,
    percent_4xx: f64,
    percent_5xx: f64,
    /// Of the class 5xx, those that an upstream answered.
    responses_5xx_upstream: u64,
    /// The time within which 99 of 100 requests were over; `null` without requests.
    p99_ms: Option<u64>,
}

impl From<&Traffic> for Figures {
    fn from(traffic: &Traffic) -> Self {
        Self {
            requests: traffic.requests(),
            requests_waiting: traffic.waiting,
            percent_4xx: traffic.percent(4),
            percent_5xx: traffic.percent(5),
            responses_5xx_upstream: traffic.upstream_5xx,
            p99_ms: traffic.p99_ms(),
        }
    }
}

/// A rollout with all that there is to say of it.
struct Present {
    rollout: Rollout,
    policy: Policy,
    nodes: Vec<Seen>,
}

/// What an operator wants of the rollout that is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// It stays where it is; what is bad is taken back all the same.
    Pause,
    Resume,
    /// Every node may have the candidate now; with `all` the head.
    Promote {
        all: bool,
    },
}

impl Present {
    fn of(api: &Api, rollout: Rollout, nodes: Vec<Node>) -> Result<Self, Failure> {
        let Some(policy) = rollout::policy_of(&rollout) else {
            let message =
                "the rollout of this gateway group is of another version, upgrade this replica of the control plane";
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "other_version", message));
        };
        let nodes = rollout::seen(api.store().now(), api.nodes.silence(), &rollout, nodes);
        Ok(Self { rollout, policy, nodes })
    }

    fn situation(&self, api: &Api) -> Situation<'_> {
        rollout::situation(api.store().now(), &self.rollout, &self.policy, &self.nodes)
    }

    /// The gate of the rollout that is on.
    fn gate(&self) -> Result<Gate, Failure> {
        let none = || Failure::conflict("no_rollout", format!("group `{}` has no rollout on", self.rollout.group));
        self.rollout.head.gate.ok_or_else(none)
    }

    fn shown(self, api: &Api) -> Shown {
        let situation = self.situation(api);
        let state = match (situation.gate, &situation.stage) {
            (None, _) => "idle",
            (Some(_), None) => "starting",
            (Some(_), Some(stage)) if stage.paused_by.is_some() => "paused",
            (Some(_), Some(_)) => "canary",
        };
        let current = situation.gate.map(|gate| current(gate, &situation));
        let (revision, outcomes) = (situation.head, situation.record.outcomes);
        Shown { group: self.rollout.group, revision, policy: self.policy, state, current, outcomes }
    }
}

fn current(gate: Gate, situation: &Situation<'_>) -> Current {
    let stage = situation.stage.clone().unwrap_or_default();
    let compared = situation.compared(&stage);
    let (waits_for, advice) = match situation.course() {
        Course::Wait(wait) => (wait.to_string(), wait.advice().filter(|_| situation.is_stalled())),
        Course::Step { .. } => ("it is about to go on".to_owned(), None),
        Course::Back(reason) => (format!("it is about to be taken back: {reason}"), None),
    };
    Current {
        base: gate.base,
        candidate: gate.candidate,
        canaries: stage.canaries,
        soaking_since: stage.soaking_since,
        paused_by: stage.paused_by,
        waits_for,
        advice,
        traffic: Compared {
            canaries: (&compared.canaries).into(),
            others: (&compared.others).into(),
            before: (&compared.before).into(),
        },
    }
}

pub(super) const SHOW: Doc =
    Doc::gives::<Shown>("How new revisions of a gateway group go out, and the rollout that is on.");

/// `GET /api/gateway_groups/{group}/rollout`.
pub(super) async fn show(Shared(api): Site, Path(group): Path<String>) -> Outcome {
    shown(&api, &group).await
}

pub(super) const REPLACE: Doc =
    Doc::gives::<Shown>("Replaces the policy of rollouts of a gateway group.").needs_otherwise::<Policy>();

/// `PUT /api/gateway_groups/{group}/rollout`: the policy anew; what is left out has its default.
pub(super) async fn replace(Shared(api): Site, Extension(who): Who, Path(group): Path<String>, body: Body) -> Outcome {
    let given: Value = api.body(body).await?;
    change(&api, &who, &group, |_| given.clone()).await
}

pub(super) const PATCH: Doc =
    Doc::gives::<Shown>("Merges into the policy of rollouts of a gateway group (RFC 7396).").merges::<Policy>();

/// `PATCH /api/gateway_groups/{group}/rollout`: merged into the policy that is there (RFC 7396); `null` gives a member its default.
pub(super) async fn patch(Shared(api): Site, Extension(who): Who, Path(group): Path<String>, body: Body) -> Outcome {
    let given: Value = api.body(body).await?;
    let merged = |mut stored: Value| {
        milecastle_model::patch::merge_patch(&mut stored, &given);
        stored
    };
    change(&api, &who, &group, merged).await
}

pub(super) const PAUSE: Doc = Doc::gives::<Shown>("Keeps the rollout that is on from going further.").refuses(&[409]);

/// `POST /api/gateway_groups/{group}/rollout/pause`.
pub(super) async fn pause(Shared(api): Site, Extension(who): Who, Path(group): Path<String>) -> Outcome {
    fulfil(&api, &who, &group, Wish::Pause).await
}

pub(super) const RESUME: Doc = Doc::gives::<Shown>("Lets the rollout that is on go further.").refuses(&[409]);

/// `POST /api/gateway_groups/{group}/rollout/resume`.
pub(super) async fn resume(Shared(api): Site, Extension(who): Who, Path(group): Path<String>) -> Outcome {
    fulfil(&api, &who, &group, Wish::Resume).await
}

pub(super) const PROMOTE: Doc = Doc::gives::<Shown>("Gives all nodes now what the canaries have.")
    .query(&[Param::flag("all", "What was written since then too.")])
    .refuses(&[409]);

/// `POST /api/gateway_groups/{group}/rollout/promote`: with `all=true` what was written since the candidate too.
pub(super) async fn promote(Shared(api): Site, Extension(who): Who, Path(group): Path<String>, uri: Uri) -> Outcome {
    let all = flag(&query_of(&uri), "all")?;
    fulfil(&api, &who, &group, Wish::Promote { all }).await
}

pub(super) const ABORT: Doc = Doc::gives::<Shown>("Takes back what the canaries have.").refuses(&[409, 410]);

/// `POST /api/gateway_groups/{group}/rollout/abort`: takes the candidate back.
pub(super) async fn abort(Shared(api): Site, Extension(who): Who, Path(group): Path<String>) -> Outcome {
    let here = api.state.find(&group).await?;
    let editor = api.editor(&who, &here);
    let way = match api.store().rollout_get(&group).await?.head.gate {
        Some(gate) => Some(Way::of(editor, gate).await?),
        None => None,
    };
    let (held, present) = hold(&api, &who, &group).await?;
    let gate = present.gate()?;
    let reason = format!("aborted by {}", who.name);
    let back = Back { editor, by: &who.name, reason: &reason, term: None };
    if let Some(published) = back.take(held, &present.situation(&api), way).await? {
        tracing::info!(group, by = who.name, candidate = gate.candidate, "a rollout was aborted");
        here.reach(published.revision, &published.mark).await?;
    }
    shown(&api, &group).await
}

/// The rollout of a group, held. Its nodes are read before: nothing else is asked of the database while the group is held.
async fn hold<'a>(api: &'a Api, who: &'a Caller, group: &str) -> Result<(HeldRollout<'a>, Present), Failure> {
    let nodes = api.store().node_list(group).await?;
    let held = api.by(who).rollout_hold(group).await?;
    let present = Present::of(api, held.rollout().clone(), nodes)?;
    Ok((held, present))
}

async fn change(api: &Api, who: &Caller, group: &str, make: impl Fn(Value) -> Value) -> Outcome {
    let (held, present) = hold(api, who, group).await?;
    let given = make(present.rollout.policy.clone().unwrap_or_else(|| json!({})));
    // The parser would take a list of values for the members of an object.
    if !(given.is_object() && given.get("canaries").is_none_or(Value::is_object)) {
        return Err(Failure::bad("invalid_policy", "a policy is an object, and so are its canaries"));
    }
    let policy = Policy::deserialize(&given).map_err(|error| Failure::bad("invalid_policy", error.to_string()))?;
    let faults = policy.faults();
    if let Some(first) = faults.first() {
        let listed: Vec<Value> =
            faults.iter().map(|fault| json!({ "path": fault.path, "message": fault.message })).collect();
        return Err(Failure::bad("invalid_policy", first.placed()).at(&first.path).with("faults", listed));
    }
    let staged = policy.strategy == Strategy::Canary;
    let situation = present.situation(api);
    let record = match situation.gate.filter(|_| !staged) {
        Some(gate) => {
            let stage = situation.stage.clone().unwrap_or_default();
            situation.ended(gate, &stage, End::Promoted, &who.name, "the strategy is `all` now")
        }
        None => situation.record.clone(),
    };
    held.set(&given, staged, &rollout::written(record)).await?;
    tracing::info!(group, by = who.name, staged, "the policy of rollouts changed");
    shown(api, group).await
}

async fn fulfil(api: &Api, who: &Caller, group: &str, wish: Wish) -> Outcome {
    let (held, present) = hold(api, who, group).await?;
    let gate = present.gate()?;
    let situation = present.situation(api);
    let stage = match (situation.stage.clone(), wish) {
        (Some(stage), _) => stage,
        (None, Wish::Promote { .. }) => Stage::default(),
        (None, Wish::Pause | Wish::Resume) => {
            let message = "its canaries are yet to be chosen, which takes a second: try again, or abort it";
            return Err(Failure::conflict("not_begun", message));
        }
    };
    let record = match wish {
        Wish::Pause => situation.record.clone(),
        // It waits anew from now on.
        Wish::Resume => Record { waiting_since: None, ..situation.record.clone() },
        Wish::Promote { .. } => situation.ended(gate, &stage, End::Promoted, &who.name, "an operator wanted it so"),
    };
    let paused = |by| Some(rollout::written(stage.paused(by, situation.now)));
    let (name, stage, advance) = match wish {
        Wish::Pause => ("pause", paused(Some(who.name.to_string())), Advance::Stay),
        Wish::Resume => ("resume", paused(None), Advance::Stay),
        Wish::Promote { all } => ("promote", None, if all { Advance::Head } else { Advance::Candidate }),
    };
    held.step(&Step { name, term: None, stage, record: rollout::written(record), advance }).await?;
    tracing::info!(group, by = who.name, ?wish, candidate = gate.candidate, "an operator moved a rollout");
    shown(api, group).await
}

async fn shown(api: &Api, group: &str) -> Outcome {
    let rollout = api.store().rollout_get(group).await?;
    let nodes = api.store().node_list(group).await?;
    Ok(answer(StatusCode::OK, &Present::of(api, rollout, nodes)?.shown(api)))
}
