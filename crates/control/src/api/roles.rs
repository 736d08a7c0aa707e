//! Roles, and who may give them.

use http::StatusCode;
use milecastle_store::{RoleGrant, StoreError};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Api, Failure, List, Outcome, Site};
use crate::callers::Caller;
use crate::openapi::Doc;
use crate::rights::{Action, Need, Place, Resource, Rights, Role};

/// A role as answers show it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Role")]
struct Shown {
    name: String,
    /// Resources that it may read.
    read: Vec<String>,
    /// Resources that it may write.
    write: Vec<String>,
}

impl From<&Role> for Shown {
    fn from(role: &Role) -> Self {
        let names = |action| role.resources(action).map(|resource| resource.name().to_owned()).collect();
        Self { name: role.name.clone(), read: names(Action::Read), write: names(Action::Write) }
    }
}

pub(super) const LIST: Doc = Doc::gives::<List<'static, Shown>>("The roles, and what each allows.");

/// `GET /api/roles`: what each of them allows.
pub(super) async fn list(_: Site) -> Outcome {
    Ok(super::list(&Role::built_in().iter().map(Shown::from).collect::<Vec<_>>()))
}

/// Refuses grants that are none, or that `who` may not make.
pub(super) async fn granted(api: &Api, who: &Caller, grants: &[RoleGrant]) -> Result<(), Failure> {
    if grants.is_empty() {
        return Err(Failure::bad("invalid_body", "without a role nothing is allowed: GET /api/roles").at("/roles"));
    }
    for (i, grant) in grants.iter().enumerate() {
        if Role::find(&grant.role).is_none() {
            let message = format!("there is no role `{}`: GET /api/roles", grant.role);
            return Err(Failure::bad("invalid_body", message).at(&format!("/roles/{i}/role")));
        }
        if grant.groups.is_empty() {
            let message = "name gateway groups, or `*` for all of them";
            return Err(Failure::bad("invalid_body", message).at(&format!("/roles/{i}/groups")));
        }
    }
    may_give(who, grants)?;
    // After that, so that nobody learns of groups in which he may do nothing.
    groups_exist(api, grants).await
}

/// A group of that name that is made later is another one, and whoever makes it does not know who may write to it already.
async fn groups_exist(api: &Api, grants: &[RoleGrant]) -> Result<(), Failure> {
    for (i, grant) in grants.iter().enumerate() {
        for (j, group) in grant.named() {
            match api.store().head(group).await {
                Ok(_) => {}
                Err(StoreError::UnknownGroup(_)) => {
                    let message = format!("there is no gateway group `{group}`: GET /api/gateway_groups");
                    return Err(Failure::bad("invalid_body", message).at(&format!("/roles/{i}/groups/{j}")));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Refuses if `who` may not do all that these grants allow.
pub(super) fn may_give(who: &Caller, grants: &[RoleGrant]) -> Result<(), Failure> {
    if who.rights.cover(&Rights::of(grants)) {
        return Ok(());
    }
    who.refused(Need::write(Resource::Users), Place::Cluster);
    let message = format!("`{}` may not give roles that allow more than his own do", who.name);
    Err(Failure::new(StatusCode::FORBIDDEN, "not_allowed", message))
}
