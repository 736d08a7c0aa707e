//! What roles allow.

use std::collections::{BTreeMap, BTreeSet};

use milecastle_model::Kind;
use milecastle_store::CustomRole;

use super::{Action, Need, Resource};

/// What its holders may do, wherever the role is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Role {
    pub(crate) name: String,
    allowed: BTreeSet<(Action, Resource)>,
}

/// A resource that a role cannot be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Unfit {
    /// Where it stands, as `/write/0`.
    pub(crate) path: String,
    why: String,
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
        let kept = |(action, resource): &(Action, Resource)| {
            OF_ACCESS.contains(resource) || (*action, *resource) == (Action::Write, Resource::Roles)
        };
        let allowed = Self::administrator().allowed.into_iter().filter(|one| !kept(one));
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

    /// A role that was made. What this version does not know, as of a later one, it does not allow.
    pub(crate) fn made(stored: &CustomRole) -> Self {
        let all = Self::administrator().allowed;
        let is_listed = |(action, resource): &(Action, Resource)| {
            stored.allows.get(action.name()).is_some_and(|names| names.contains(resource.name()))
        };
        Self::new(&stored.name, all.into_iter().filter(is_listed))
    }

    /// A role that allows these actions on these resources.
    ///
    /// # Errors
    /// The first one that there is not, or on which there is nothing to do.
    pub(crate) fn of(name: &str, named: &[(Action, Vec<String>)]) -> Result<Self, Unfit> {
        let all = Self::administrator().allowed;
        let mut allowed = BTreeSet::new();
        for (action, names) in named {
            for (n, resource) in names.iter().enumerate() {
                let unfit = |why| Unfit { path: format!("/{action}/{n}"), why };
                let known = Resource::all().find(|known| known.name() == resource);
                let known = known.ok_or_else(|| {
                    unfit(format!(
                        "there is no resource `{resource}`: those of `administrator` in GET /api/roles are all"
                    ))
                })?;
                if !all.contains(&(*action, known)) {
                    return Err(unfit(format!("nobody can {action} `{resource}`")));
                }
                allowed.insert((*action, known));
            }
        }
        Ok(Self::new(name, allowed))
    }

    /// As it is stored ([`CustomRole::allows`]).
    pub(crate) fn stored(&self) -> BTreeMap<String, BTreeSet<String>> {
        let names = |action| self.resources(action).map(|resource| resource.name().to_owned()).collect();
        Action::ALL.into_iter().map(|action| (action.name().to_owned(), names(action))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_store::BUILT_IN_ROLES;

    #[test]
    fn built_in_roles_are_those_that_nobody_makes() {
        assert_eq!(Role::built_in().map(|role| role.name), BUILT_IN_ROLES);
    }

    #[test]
    fn a_role_is_made_of_what_there_is() {
        let check = |action: Action, resource: &str, expected: Result<(), &str>| {
            let made = Role::of("r", &[(action, vec!["routes".to_owned(), resource.to_owned()])]);
            let told = made.map(drop).map_err(|unfit| (unfit.path.clone(), unfit.to_string()));
            let expected = expected.map_err(|why| (format!("/{action}/1"), why.to_owned()));
            assert_eq!(told, expected, "{action} {resource}");
        };
        check(Action::Read, "audit", Ok(()));
        check(Action::Write, "ssls", Ok(()));
        check(Action::Write, "audit", Err("nobody can write `audit`"));
        let unknown = "there is no resource `group_settings`: those of `administrator` in GET /api/roles are all";
        check(Action::Read, "group_settings", Err(unknown));
    }

    #[test]
    fn what_is_stored_is_what_it_was_made_of() {
        let named = [(Action::Read, vec!["nodes".to_owned()]), (Action::Write, vec!["routes".to_owned()])];
        let role = Role::of("r", &named).unwrap();
        let mut allows = role.stored();
        // As of a later version.
        allows.get_mut("read").unwrap().insert("spells".to_owned());
        allows.insert("cast".to_owned(), ["spells".to_owned()].into());
        let (name, description) = ("r".to_owned(), String::new());
        let stored = CustomRole { name, description, allows, version: 1, created_at: 0, changed_at: 0 };
        assert_eq!(Role::made(&stored), role);
    }
}
