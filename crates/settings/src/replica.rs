//! What every process of the control plane has, whatever its roles.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::Checks;
use crate::{Audit, Availability, Database, Events, History, Idempotency, Members, Sealing, Time};

/// A process of the control plane: its database, its like, its end. Stands at the top of its file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Replica {
    /// The database.
    pub database: Database,
    /// The key that seals secrets in the database.
    pub sealing: Sealing,
    /// The replicas of the control plane as members of it.
    pub members: Members,
    /// The history of changes, for people to read and for nodes that were away to catch up by; one that missed more than is
    /// kept gets the whole configuration. The same on all replicas, since whichever leads trims it.
    pub history: History,
    /// The audit log: who changed what. The same on all replicas, since whichever leads trims it.
    pub audit: Audit,
    /// Writes that clients have named, so that they are done once. The same on all replicas, since whichever leads trims them.
    pub idempotency: Idempotency,
    /// What happened, as events that can be followed. The same on all replicas, since whichever leads tells them.
    pub events: Events,
    /// Looks at what is up and what is down. The same on all replicas, since whichever leads takes them.
    pub availability: Availability,
    /// How the process ends.
    pub shutdown: ControlShutdown,
}

/// How a process of the control plane ends after SIGTERM: for `grace` it says so and serves as before; then it takes nothing
/// new, sends its nodes to other replicas, for `last_call` answers what kept connections still bring, and lets what is in flight
/// end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ControlShutdown {
    /// How long a load balancer has to notice that `/readyz` says 503: longer than it takes for as many probes as it wants to
    /// see fail.
    pub grace: Time,
    /// How long, once its HTTP listeners are closed, a kept connection without a request in work may still bring one. Longer than
    /// a round trip to the farthest client.
    pub last_call: Time,
}

impl Replica {
    pub(crate) fn check(&self, checks: &mut Checks<'_>) {
        self.database.check(checks);
        self.sealing.check(checks);
        self.members.check(checks);
        self.history.check(checks);
        self.audit.check(checks);
        self.idempotency.check(checks);
        self.events.check(checks);
        self.availability.check(checks);
    }
}

impl Default for ControlShutdown {
    fn default() -> Self {
        Self { grace: Time::secs(5), last_call: Time::millis(250) }
    }
}
