//! What rights are about.

use std::fmt;

use milecastle_model::Kind;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Action {
    /// Looking, which changes nothing.
    Read,
    /// Making, changing and deleting: a PUT can empty an object as well as DELETE can take it away, so that one right without
    /// the other would promise too much.
    Write,
}

/// What it is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Resource {
    /// The objects of a kind, in a gateway group.
    Objects(Kind),
    /// All objects of a gateway group at once: whoever may write it may write each of them.
    Configuration,
    /// What objects and plugins may look like, and whether a configuration would be accepted.
    Schemas,
    /// Gateway groups: that they are there, their names and labels.
    Groups,
    /// Settings of a gateway group.
    Settings,
    /// Tokens with which nodes join a gateway group.
    JoinTokens,
    /// Gateway nodes.
    Nodes,
    /// What is published to a gateway group, and how far it has come.
    Revisions,
    /// Edits of many objects at once, published or prepared as drafts: each object takes the right to write its kind besides.
    ChangeSets,
    /// How new revisions of a gateway group go out.
    Rollout,
    /// Whether nodes take over what the database holds.
    Lineage,
    /// Taking nodes, groups and replicas of the control plane out of service.
    Maintenance,
    /// What happens: of each event, besides, what it is about.
    Events,
    /// Replicas of the control plane.
    Members,
    /// Links to other systems.
    Links,
    /// Addresses that are probed.
    Probes,
    /// Accounts of people.
    Users,
    /// What roles there are.
    Roles,
    /// Tokens of machines that use the API.
    ApiTokens,
    /// Who changed what.
    Audit,
}

impl Action {
    pub(crate) const ALL: [Action; 2] = [Action::Read, Action::Write];

    /// Stable name for interfaces.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::Read => "read",
            Action::Write => "write",
        }
    }
}

impl Resource {
    /// Every resource.
    pub(crate) fn all() -> impl Iterator<Item = Resource> {
        let kinds = Kind::ALL.iter().copied().filter(|kind| kind.is_resource());
        kinds.map(Resource::Objects).chain([
            Resource::Configuration,
            Resource::Schemas,
            Resource::Groups,
            Resource::Settings,
            Resource::JoinTokens,
            Resource::Nodes,
            Resource::Revisions,
            Resource::ChangeSets,
            Resource::Rollout,
            Resource::Lineage,
            Resource::Maintenance,
            Resource::Events,
            Resource::Members,
            Resource::Links,
            Resource::Probes,
            Resource::Users,
            Resource::Roles,
            Resource::ApiTokens,
            Resource::Audit,
        ])
    }

    /// Stable name for interfaces; that of a kind is its collection in the Admin API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Resource::Objects(kind) => kind.collection(),
            Resource::Configuration => "configs",
            Resource::Schemas => "schemas",
            Resource::Groups => "gateway_groups",
            Resource::Settings => "settings",
            Resource::JoinTokens => "join_tokens",
            Resource::Nodes => "nodes",
            Resource::Revisions => "revisions",
            Resource::ChangeSets => "change_sets",
            Resource::Rollout => "rollout",
            Resource::Lineage => "lineage",
            Resource::Maintenance => "maintenance",
            Resource::Events => "events",
            Resource::Members => "members",
            Resource::Links => "links",
            Resource::Probes => "probes",
            Resource::Users => "users",
            Resource::Roles => "roles",
            Resource::ApiTokens => "api_tokens",
            Resource::Audit => "audit",
        }
    }
}

/// Writes [`Action::name`].
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Writes [`Resource::name`].
impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
