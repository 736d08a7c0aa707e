//! What roles allow.

use std::collections::BTreeSet;

use milecastle_model::Kind;

use super::{Action, Need, Resource};

/// What somebody may do, wherever the role is given to him.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Role {
    pub(crate) name: String,
    allowed: BTreeSet<(Action, Resource)>,
}

/// Kinds of objects that belong to one API and its callers. What the others say reaches every request of a group
/// (`global_rules`, `plugin_metadata`), or is the operators' own (`ssls`, `secrets`).
const OF_AN_API: [Kind; 10] = [
    Kind::Route,
    Kind::Service,
    Kind::Upstream,
    Kind::Consumer,
    Kind::Credential,
    Kind::PluginConfig,
    Kind::ConsumerGroup,
    Kind::StreamRoute,
    Kind::Proto,
    Kind::GraphqlCostDecoration,
];

/// Who may do what is the administrators' alone.
const OF_ACCESS: [Resource; 2] = [Resource::Users, Resource::ApiTokens];

/// What only those see who run gateways and control plane: it tells what people do, and from where.
const OF_OPERATORS: [Resource; 1] = [Resource::Audit];

/// Of what happened there is nothing to write: nobody changes it.
const TOLD: [Resource; 2] = [Resource::Audit, Resource::Events];

impl Role {
    /// Those that are always there, the mightiest first.
    pub(crate) fn built_in() -> [Role; 4] {
        [Self::administrator(), Self::operator(), Self::api_owner(), Self::viewer()]
    }

    /// Everything that there is.
    pub(crate) fn administrator() -> Self {
        let all = Action::ALL.into_iter().flat_map(|action| Resource::all().map(move |resource| (action, resource)));
        let written = |(action, resource): &(Action, Resource)| *action == Action::Read || !TOLD.contains(resource);
        Self::new("administrator", all.filter(written))
    }

    /// Whoever runs gateways and control plane: everything but who may do what.
    pub(crate) fn operator() -> Self {
        let allowed = Self::administrator().allowed.into_iter().filter(|(_, resource)| !OF_ACCESS.contains(resource));
        Self::new("operator", allowed)
    }

    /// Whoever publishes APIs: writes what belongs to one API, sees the rest.
    pub(crate) fn api_owner() -> Self {
        let written = OF_AN_API.map(Resource::Objects).into_iter().chain([Resource::ChangeSets]);
        let written = written.map(|resource| (Action::Write, resource));
        Self::new("api_owner", Self::viewer().allowed.into_iter().chain(written))
    }

    /// Sees configuration and cluster, and changes nothing.
    pub(crate) fn viewer() -> Self {
        let kept = |resource: &Resource| OF_ACCESS.contains(resource) || OF_OPERATORS.contains(resource);
        let seen = Resource::all().filter(|resource| !kept(resource));
        let seen = seen.map(|resource| (Action::Read, resource));
        Self::new("viewer", seen)
    }

    fn new(name: &str, allowed: impl IntoIterator<Item = (Action, Resource)>) -> Self {
        Self { name: name.to_owned(), allowed: allowed.into_iter().collect() }
    }

    /// The built-in role of a name.
    pub(crate) fn find(name: &str) -> Option<Role> {
        Self::built_in().into_iter().find(|role| role.name == name)
    }

    /// Resources with which it allows this.
    pub(crate) fn resources(&self, action: Action) -> impl Iterator<Item = Resource> {
        self.allowed.iter().filter(move |(allowed, _)| *allowed == action).map(|(_, resource)| *resource)
    }

    pub(crate) fn allows(&self, need: Need) -> bool {
        self.allowed.contains(&(need.action, need.resource))
    }
}
