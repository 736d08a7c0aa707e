//! Calls that were refused and logins that failed, on their way into the audit log.
//!
//! What must stay true: whoever only tries does not fill the database. What is tried is counted in memory, and each kind of it (who,
//! from where, what) makes one entry in a time that the settings say; there are so many kinds in that time, and what comes beyond
//! is counted together. What a process that is killed has counted since its last entries is lost.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use milecastle_store::{Actor, ActorKind, Attempt, AuditAction, AuditOutcome, Store, audited};
use tokio::time::{MissedTickBehavior, interval};

use crate::rights::{Action, Need, Place, Resource};

/// Whose attempts those are that are counted together.
const OTHERS: &str = "others";

/// Longest id of a gateway group: nobody has the log keep what is none.
const LONGEST_GROUP: usize = 64;

/// What has been tried since the last entries.
pub(crate) struct Refusals {
    store: Store,
    most: usize,
    counted: Mutex<HashMap<Attempt, u64>>,
}

impl Refusals {
    /// `most` kinds are told apart.
    pub(crate) fn new(store: Store, most: usize) -> Self {
        Self { store, most, counted: Mutex::default() }
    }

    /// A right was missing.
    pub(crate) fn of_right(&self, actor: &Actor, need: Need, place: Place<'_>) {
        let group = match place {
            Place::Group(group) if group.len() <= LONGEST_GROUP => Some(group.to_owned()),
            Place::Group(_) | Place::Cluster | Place::Anywhere => None,
        };
        let action = match need.action {
            Action::Read => AuditAction::Read,
            Action::Write => AuditAction::Write,
        };
        let (kind, outcome) = (kind_of(need.resource), AuditOutcome::Refused);
        self.count(Attempt { actor: actor.clone(), group, kind, object: String::new(), action, outcome }, 1);
    }

    /// A request was refused before anybody looked at what it asks for.
    pub(crate) fn of_request(&self, actor: Actor) {
        self.count(attempt(actor, audited::REQUEST, AuditAction::Write, AuditOutcome::Refused), 1);
    }

    /// A login failed.
    pub(crate) fn of_login(&self, actor: Actor) {
        self.count(attempt(actor, audited::SESSION, AuditAction::SignIn, AuditOutcome::Failed), 1);
    }

    fn count(&self, mut attempt: Attempt, times: u64) {
        // Each request has a name of its own.
        attempt.actor.request = None;
        let mut counted = self.counted();
        if counted.len() >= self.most && !counted.contains_key(&attempt) {
            let others = Actor::new(ActorKind::Anonymous, OTHERS);
            attempt = self::attempt(others, audited::REQUEST, attempt.action, attempt.outcome);
        }
        *counted.entry(attempt).or_default() += times;
    }

    /// Makes entries of what was counted; what the database does not take is counted on.
    pub(crate) async fn note(&self) {
        let counted: Vec<(Attempt, u64)> = mem::take(&mut *self.counted()).into_iter().collect();
        if counted.is_empty() {
            return;
        }
        if let Err(error) = self.store.audit_attempts(&counted).await {
            tracing::debug!(%error, "refused calls are put into the audit log later");
            counted.into_iter().for_each(|(attempt, times)| self.count(attempt, times));
        }
    }

    /// Does so once in this time, for ever.
    pub(crate) async fn note_every(&self, time: Duration) {
        let mut tick = interval(time);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.note().await;
        }
    }

    fn counted(&self) -> MutexGuard<'_, HashMap<Attempt, u64>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn attempt(actor: Actor, kind: &'static str, action: AuditAction, outcome: AuditOutcome) -> Attempt {
    Attempt { actor, group: None, kind, object: String::new(), action, outcome }
}

/// What the audit log calls a resource.
fn kind_of(resource: Resource) -> &'static str {
    match resource {
        Resource::Objects(kind) => kind.name(),
        Resource::Configuration => audited::CONFIGS,
        Resource::Groups => audited::GROUP,
        Resource::Rollout => audited::ROLLOUT,
        Resource::JoinTokens => audited::JOIN_TOKEN,
        Resource::Nodes => audited::NODE,
        Resource::Members => audited::MEMBER,
        Resource::Users => audited::ACCOUNT,
        Resource::ApiTokens => audited::API_TOKEN,
        Resource::Roles => audited::ROLE,
        other => other.name(),
    }
}
