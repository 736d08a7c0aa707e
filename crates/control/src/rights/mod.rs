//! Who may do what (`docs/access.md`): the one place where calls are authorised.
//!
//! A call is a principal, an action, a resource and a place. A role says which actions on which resources it allows; a principal
//! has roles, each in some gateway groups or in all.
//!
//! What must stay true:
//! - What no role of the principal allows is refused, whatever kind of principal it is.
//! - What belongs to no group takes a role that is given in all groups.
//! - Nobody gives to others what they may not do themselves ([`Rights::cover`]).

mod resource;
mod roles;

pub(crate) use resource::{Action, Resource};
pub(crate) use roles::{Role, Unfit};

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use http::Method;
use milecastle_store::{Account, ApiToken, CustomRole, Role as KeyRole, RoleGrant};

/// What a call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) action: Action,
    pub(crate) resource: Resource,
}

/// Where a call acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// In no gateway group, but on the cluster.
    Cluster,
    /// In one group.
    Group(&'a str),
    /// In every group in which it may: the answer leaves the others out.
    Anywhere,
}

/// In which gateway groups a role is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Groups {
    /// In all, those to come included.
    All,
    /// In these.
    Named(BTreeSet<String>),
}

/// A role that somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) role: Arc<Role>,
    pub(crate) groups: Groups,
}

/// All that somebody may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rights(Vec<Grant>);

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Principal {
    /// Name of the account or key; of a token its name after `token/`.
    pub(crate) name: String,
    pub(crate) kind: PrincipalKind,
    pub(crate) rights: Rights,
}

/// By what somebody is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PrincipalKind {
    /// Nothing: the settings ask for no key.
    Anonymous,
    /// A key of the Admin API.
    AdminKey(KeyRole),
    /// A token of a machine, by its id.
    Token(String),
    /// An account, in which somebody is logged in.
    Account(Login),
}

/// A session of somebody who has logged in.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// The hash by which it is known.
    pub(crate) hash: [u8; 32],
    /// What a request that changes something has to bring along.
    pub(crate) csrf: String,
    /// Unix time in seconds when it ends, however much it is used.
    pub(crate) ends_at: u64,
    /// Whether nothing is allowed before the password is another one.
    pub(crate) must_change: bool,
}

/// Leaves out what opens something.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("ends_at", &self.ends_at).finish_non_exhaustive()
    }
}

/// Why a call does not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// A right is missing.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The password has to be changed first.
    #[error("the password of this account has to be changed first: PUT /api/session/password")]
    PasswordChange,
}

/// A right that was missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{who}` may not {action} {resource}{place}; roles that allow it: {roles}", place = placed(.group.as_deref()), roles = .roles.join(", "))]
pub(crate) struct Missing {
    pub(crate) who: String,
    pub(crate) action: Action,
    pub(crate) resource: Resource,
    /// The group in which it was missing; `None`: on the whole cluster.
    pub(crate) group: Option<String>,
    /// Built-in roles that allow it.
    pub(crate) roles: Vec<String>,
}

fn placed(group: Option<&str>) -> String {
    group.map(|group| format!(" in gateway group `{group}`")).unwrap_or_default()
}

impl Need {
    pub(crate) const fn read(resource: Resource) -> Self {
        Self { action: Action::Read, resource }
    }

    pub(crate) const fn write(resource: Resource) -> Self {
        Self { action: Action::Write, resource }
    }
}

impl Rights {
    /// Those of stored grants; `made` has the roles among them that are not built in. One that is in neither allows nothing.
    pub(crate) fn of(grants: &[RoleGrant], made: &[CustomRole]) -> Self {
        let role = |name: &str| {
            let custom = || made.iter().find(|role| role.name == name).map(Role::made);
            Role::find(name).or_else(custom)
        };
        let known = grants.iter().filter_map(|grant| {
            let groups = match grant.is_everywhere() {
                true => Groups::All,
                false => Groups::Named(grant.groups.iter().cloned().collect()),
            };
            Some(Grant { role: Arc::new(role(&grant.role)?), groups })
        });
        Self(known.collect())
    }

    /// Whether they allow all that others do.
    pub(crate) fn cover(&self, others: &Rights) -> bool {
        others.0.iter().all(|grant| {
            let all = Action::ALL
                .into_iter()
                .flat_map(|action| grant.role.resources(action).map(move |resource| Need { action, resource }));
            all.into_iter().all(|need| match &grant.groups {
                Groups::All => self.allow(need, Place::Cluster),
                Groups::Named(named) => named.iter().all(|group| self.allow(need, Place::Group(group))),
            })
        })
    }

    /// Those of one role in all groups.
    pub(crate) fn everywhere(role: Role) -> Self {
        Self(vec![Grant { role: Arc::new(role), groups: Groups::All }])
    }

    /// Whether nothing was given.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The grants that they are made of.
    pub(crate) fn grants(&self) -> Vec<RoleGrant> {
        let stored = |grant: &Grant| match &grant.groups {
            Groups::All => RoleGrant::everywhere(&*grant.role.name),
            Groups::Named(named) => {
                RoleGrant { role: grant.role.name.clone(), groups: named.iter().cloned().collect() }
            }
        };
        self.0.iter().map(stored).collect()
    }

    /// The groups in which they allow something.
    pub(crate) fn groups(&self, need: Need) -> Groups {
        let mut named = BTreeSet::new();
        for grant in self.0.iter().filter(|grant| grant.role.allows(need)) {
            match &grant.groups {
                Groups::All => return Groups::All,
                Groups::Named(groups) => named.extend(groups.iter().cloned()),
            }
        }
        Groups::Named(named)
    }

    /// Whether they allow a call.
    pub(crate) fn allow(&self, need: Need, place: Place<'_>) -> bool {
        self.0.iter().any(|grant| grant.groups.hold(place) && grant.role.allows(need))
    }
}

impl PrincipalKind {
    /// Stable name for interfaces.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::AdminKey(_) => "key",
            Self::Token(_) => "token",
            Self::Account(_) => "account",
        }
    }
}

impl Groups {
    fn hold(&self, place: Place<'_>) -> bool {
        match (self, place) {
            (Self::All, _) => true,
            (Self::Named(named), Place::Group(group)) => named.contains(group),
            (Self::Named(named), Place::Anywhere) => !named.is_empty(),
            (Self::Named(_), Place::Cluster) => false,
        }
    }
}

impl Principal {
    /// Whoever calls where the settings ask for no key.
    pub(crate) fn anonymous() -> Self {
        let rights = Rights::everywhere(Role::administrator());
        Self { name: "anonymous".to_owned(), kind: PrincipalKind::Anonymous, rights }
    }

    /// The holder of a key of the Admin API. What a role that was made allows the store has to say.
    pub(crate) fn of_key(name: String, role: KeyRole) -> Self {
        let rights = match &role {
            KeyRole::Admin => Rights::everywhere(Role::administrator()),
            KeyRole::Viewer => Rights::everywhere(Role::viewer()),
            KeyRole::Named(role) => Role::find(role).map(Rights::everywhere).unwrap_or_default(),
        };
        Self { name, kind: PrincipalKind::AdminKey(role), rights }
    }

    /// A machine with a token, which gives these rights.
    pub(crate) fn of_token(token: &ApiToken, rights: Rights) -> Self {
        let (name, kind) = (format!("token/{}", token.name), PrincipalKind::Token(token.id.clone()));
        Self { name, kind, rights }
    }

    /// Somebody who has logged in to an account, which gives these rights.
    pub(crate) fn of_account(account: &Account, login: Login, rights: Rights) -> Self {
        Self { name: account.name.clone(), kind: PrincipalKind::Account(login), rights }
    }

    /// Whether it may use this method at all: a key that may only read may only GET, whatever it asks for
    /// (`docs/spec/admin-api.md` §3).
    pub(crate) fn may_use(&self, method: &Method) -> bool {
        self.kind != PrincipalKind::AdminKey(KeyRole::Viewer) || method == Method::GET
    }

    /// Lets a call pass, or says what is missing.
    pub(crate) fn authorise(&self, need: Need, place: Place<'_>) -> Result<(), Refused> {
        if matches!(&self.kind, PrincipalKind::Account(login) if login.must_change) {
            return Err(Refused::PasswordChange);
        }
        if self.rights.allow(need, place) {
            return Ok(());
        }
        let group = match place {
            Place::Group(group) => Some(group.to_owned()),
            Place::Cluster | Place::Anywhere => None,
        };
        let roles = Role::built_in().into_iter().filter(|role| role.allows(need)).map(|role| role.name).collect();
        let (who, Need { action, resource }) = (self.name.clone(), need);
        Err(Missing { who, action, resource, group, roles }.into())
    }
}

/// As `write routes`.
impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.action, self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_model::Kind;

    const ROUTES: Resource = Resource::Objects(Kind::Route);

    fn given(role: &str, group: &str) -> RoleGrant {
        RoleGrant { role: role.to_owned(), groups: vec![group.to_owned()] }
    }

    #[test]
    fn nobody_covers_more_than_he_may_do() {
        let check = |own: &[RoleGrant], others: &[RoleGrant], expected: bool| {
            assert_eq!(Rights::of(own, &[]).cover(&Rights::of(others, &[])), expected, "{own:?} {others:?}");
        };
        let everywhere = RoleGrant::everywhere;
        check(&[everywhere("administrator")], &[everywhere("administrator"), given("viewer", "a")], true);
        check(&[everywhere("operator")], &[everywhere("administrator")], false);
        check(&[everywhere("operator")], &[given("api_owner", "a")], true);
        check(&[given("operator", "a")], &[given("viewer", "a")], true);
        check(&[given("operator", "a")], &[given("viewer", "b")], false);
        check(&[given("operator", "a")], &[everywhere("viewer")], false);
        check(&[], &[everywhere("a role of a later version")], true);
    }

    #[test]
    fn a_role_counts_where_it_is_given() {
        let rights = Rights::of(&[given("operator", "prod"), RoleGrant::everywhere("viewer")], &[]);
        let check = |need: Need, place: Place<'_>, expected: bool| {
            assert_eq!(rights.allow(need, place), expected, "{need} {place:?}");
        };
        check(Need::write(ROUTES), Place::Group("prod"), true);
        check(Need::write(ROUTES), Place::Group("test"), false);
        check(Need::read(ROUTES), Place::Group("test"), true);
        check(Need::write(Resource::Members), Place::Cluster, false);
        check(Need::read(Resource::Members), Place::Cluster, true);
        check(Need::write(Resource::Nodes), Place::Anywhere, true);
        assert!(!Rights::default().allow(Need::read(ROUTES), Place::Anywhere));
    }

    #[test]
    fn what_is_missing_is_said() {
        let viewer = Principal::of_key("eve".to_owned(), KeyRole::Viewer);
        let missing = viewer.authorise(Need::write(ROUTES), Place::Group("prod")).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "`eve` may not write routes in gateway group `prod`; roles that allow it: administrator, operator, api_owner"
        );
    }

    #[test]
    fn a_key_that_reads_may_only_get() {
        let may = |role| {
            let principal = Principal::of_key(String::new(), role);
            [Method::GET, Method::HEAD, Method::PUT].map(|method| principal.may_use(&method))
        };
        assert_eq!(may(KeyRole::Viewer), [true, false, false]);
        assert_eq!(may(KeyRole::Admin), [true; 3]);
        assert_eq!(may(KeyRole::Named("viewer of a kind".to_owned())), [true; 3]);
    }
}
