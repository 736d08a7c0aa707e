//! The store's verdicts in the specification's words (`docs/spec/admin-api.md` §5, §11).

use crate::RETRY_AFTER;
use crate::admin::judge::{Draft, FIELD_PATHS, GLOBAL_RULES, duplicate, field_path, in_other_rule, plugins};
use crate::admin::reply::Reply;
use crate::admin::show::PREFIX;
use crate::efforts::Unfinished;
use crate::once::{self, Unfit};
use crate::rights::Refused;
use crate::state::Image;
use crate::terms::Unreadable;
use crate::waits::Full;
use http::StatusCode;
use milecastle_model::{Fault, Id, Key, Kind, Object, Reference};
use milecastle_plugin_api::Registry;
use milecastle_store::{Holder, PublishError, StoreError};
use serde_json::{Map, Value, json};

/// The database did not do what was asked of it.
pub(crate) fn unavailable(error: &StoreError) -> Box<Reply> {
    if let StoreError::UnknownGroup(id) = error {
        return Box::new(unknown_group(id));
    }
    // Where the key was taken meanwhile, the first answer is given in place of this one ([`super::AdminApi::once`]).
    if !matches!(error, StoreError::Repeated) {
        tracing::warn!(%error, "an Admin API request was answered with 503");
    }
    let reply = Reply::error(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    Box::new(Reply { retry_after: Some(RETRY_AFTER), ..reply })
}

/// There is no gateway group of that id.
pub(crate) fn unknown_group(id: &str) -> Reply {
    Reply::error(StatusCode::NOT_FOUND, format!("gateway group [{id}] not found"))
}

/// This replica is older than the settings of the group.
pub(crate) fn unreadable(error: &Unreadable) -> Box<Reply> {
    tracing::warn!(%error, "an Admin API request was answered with 503");
    Box::new(Reply::error(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
}

/// What is stored is not what was written.
pub(crate) fn no_json(object: &Object, error: &serde_json::Error) -> Box<Reply> {
    tracing::error!(object = %object.key, %error, "the stored body is not JSON");
    let text = format!("what is stored under {PREFIX}{} is not readable", object.key);
    Box::new(Reply::error(StatusCode::SERVICE_UNAVAILABLE, text))
}

/// Whoever asks is not known, or may not use the method (§3).
pub(crate) fn stranger(description: &str) -> Box<Reply> {
    let body = json!({ "error_msg": "failed to check token", "description": description });
    Box::new(Reply::json(StatusCode::UNAUTHORIZED, &body))
}

/// The request of a session lacks the proof that it was meant.
pub(crate) fn forged() -> Box<Reply> {
    Box::new(Reply::error(StatusCode::FORBIDDEN, crate::callers::FORGED))
}

/// The key has a role that is not there.
pub(crate) fn no_role(why: &str) -> Box<Reply> {
    Box::new(Reply::error(StatusCode::FORBIDDEN, why))
}

/// Whoever asks may not.
pub(crate) fn not_allowed(refused: &Refused) -> Reply {
    Reply::error(StatusCode::FORBIDDEN, refused.to_string())
}

/// Too many requests wait for nodes.
pub(crate) fn no_place(full: &Full) -> Reply {
    let reply = Reply::error(full.status(), full.to_string());
    Reply { retry_after: Some(RETRY_AFTER), ..reply }
}

impl From<Unfinished> for Box<Reply> {
    fn from(unfinished: Unfinished) -> Self {
        let text = unfinished.to_string();
        Box::new(match unfinished {
            Unfinished::NoPlace { .. } => {
                let reply = Reply::error(StatusCode::SERVICE_UNAVAILABLE, text);
                Reply { retry_after: Some(RETRY_AFTER), ..reply }
            }
            Unfinished::NoTime { .. } | Unfinished::Left => Reply::bad(text),
        })
    }
}

/// An idempotency key opens no answer.
pub(crate) fn key(fault: &once::Fault) -> Box<Reply> {
    let (status, retry_after) = match fault {
        once::Fault::Store(error) => return unavailable(error),
        once::Fault::Unfit(Unfit::Form) => (StatusCode::BAD_REQUEST, None),
        once::Fault::Unfit(Unfit::Reused) => (StatusCode::UNPROCESSABLE_ENTITY, None),
        once::Fault::Unfit(Unfit::Unanswered) | once::Fault::Crowded(_) => (StatusCode::CONFLICT, Some(RETRY_AFTER)),
    };
    Box::new(Reply { retry_after, ..Reply::error(status, fault.to_string()) })
}

/// Somebody else wrote in between.
pub(crate) fn race() -> Reply {
    let reply = Reply::error(StatusCode::SERVICE_UNAVAILABLE, "value changed before overwritten");
    Reply { retry_after: Some(RETRY_AFTER), ..reply }
}

/// Why a put was refused. `image` shows what stands now, for what the store does not tell.
pub(crate) fn of_put(error: &PublishError, draft: &Draft, image: &Image, registry: &Registry) -> Box<Reply> {
    match error {
        PublishError::MissingReference { from, reference } if from.parent().as_ref() == Some(&reference.to) => {
            Box::new(Reply::error(StatusCode::NOT_FOUND, format!("{} not found", reference.to.kind.word())))
        }
        PublishError::MissingReference { .. } | PublishError::DuplicateDigest { .. } => {
            Box::new(Reply::faults(faults_of_put(error, draft, image, registry)))
        }
        other => of_any(other),
    }
}

/// The faults that the store found in what a put leads to; none if it is about something else.
pub(crate) fn faults_of_put(error: &PublishError, draft: &Draft, image: &Image, registry: &Registry) -> Vec<Fault> {
    match error {
        PublishError::MissingReference { reference, .. } => {
            let body = Value::Object(draft.body().clone());
            let named = milecastle_model::references(draft.key().kind, &body);
            let missing = |one: &Reference| {
                let to = Key::new(one.kind, one.id.as_str());
                one.plugin.is_none() && (to == reference.to || image.get(&to).is_none())
            };
            named.iter().filter(|one| missing(one)).map(fault_of).collect()
        }
        PublishError::DuplicateDigest { plugin, holder, .. } if plugin == GLOBAL_RULES => {
            in_both_rules(draft, holder, image)
        }
        PublishError::DuplicateDigest { plugin, holder, .. } if plugin.starts_with(FIELD_PATHS) => {
            let (path, other) = (field_path(draft.body()).unwrap_or_default(), holder.own_id());
            let text = format!("field_path {path} is already decorated on this service by [{other}]");
            vec![Fault::rule("/field_path", text)]
        }
        PublishError::DuplicateDigest { plugin, holder, .. } => {
            let attribute = registry.get(plugin).and_then(|def| def.auth).map_or("key", |auth| auth.key);
            vec![duplicate(plugin, attribute, holder)]
        }
        _ => Vec::new(),
    }
}

/// Why a deletion was refused.
pub(crate) fn of_delete(error: &PublishError) -> Box<Reply> {
    match error {
        PublishError::StillReferenced { key, by } => Box::new(Reply::faults(hindrances(key, by))),
        other => of_any(other),
    }
}

/// What hinders the deletion of `key`: those that still refer to it.
pub(crate) fn hindrances(key: &Key, by: &[Holder]) -> Vec<Fault> {
    let mut by: Vec<&Holder> = by.iter().collect();
    by.sort_by_key(|holder| (rank(holder.key.kind), holder.plugin.is_some()));
    let hindrance = |holder: &&Holder| {
        // Of the reference only who holds it matters to the text, and whether a plugin does.
        let plugin = holder.plugin.as_ref().map(|_| "");
        let id = key.id.parse::<Id>().ok()?;
        let reference = Reference { path: String::new(), kind: key.kind, id, plugin };
        Some(Fault::rule("", reference.hindrance_text(&holder.key)?))
    };
    by.iter().filter_map(hindrance).collect()
}

fn of_any(error: &PublishError) -> Box<Reply> {
    match error {
        PublishError::Store(error) => unavailable(error),
        PublishError::PreconditionFailed { .. } | PublishError::StaleRevision { .. } => Box::new(race()),
        other => {
            tracing::error!(error = %other, "the store refused a change for a reason that should not arise");
            Box::new(Reply::error(StatusCode::SERVICE_UNAVAILABLE, other.to_string()))
        }
    }
}

/// Attributes of the object that name what the image does not have.
pub(crate) fn dangling<'a>(key: &Key, body: &'a Value, image: &Image) -> impl Iterator<Item = Fault> + use<'a> {
    let named = milecastle_model::references(key.kind, body).into_iter().filter(|one| one.plugin.is_none());
    let missing = named.filter(|one| image.get(&Key::new(one.kind, one.id.as_str())).is_none());
    missing.map(|one| fault_of(&one)).collect::<Vec<_>>().into_iter()
}

fn fault_of(reference: &Reference) -> Fault {
    Fault::rule(&*reference.path, reference.missing_text())
}

fn in_both_rules(draft: &Draft, holder: &Key, image: &Image) -> Vec<Fault> {
    let body: Map<String, Value> =
        image.get(holder).and_then(|object| serde_json::from_slice(&object.body).ok()).unwrap_or_default();
    let theirs: Vec<&String> = plugins(&body).map(|(name, _)| name).collect();
    let both = plugins(draft.body()).map(|(name, _)| name).filter(|name| theirs.contains(name));
    both.map(|name| in_other_rule(name, &holder.id)).collect()
}

/// The order in which §11.2 looks at the kinds.
fn rank(kind: Kind) -> usize {
    let order = [
        Kind::Route,
        Kind::Service,
        Kind::StreamRoute,
        Kind::PluginConfig,
        Kind::Consumer,
        Kind::ConsumerGroup,
        Kind::GlobalRule,
    ];
    order.iter().position(|&one| one == kind).unwrap_or(order.len())
}
