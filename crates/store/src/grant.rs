//! The roles that somebody has, as they are stored. What a role allows is the control plane's to know.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;

/// Names all gateway groups, those to come included.
const ALL: &str = "*";

/// A role in some gateway groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleGrant {
    /// Name of the role.
    #[schemars(length(min = 1))]
    pub role: String,
    /// Ids of the groups; `*` is all of them.
    #[schemars(length(min = 1))]
    pub groups: Vec<String>,
}

impl RoleGrant {
    /// A role in all groups.
    pub fn everywhere(role: impl Into<String>) -> Self {
        Self { role: role.into(), groups: vec![ALL.to_owned()] }
    }

    /// The groups that it names, in order and with their places in [`RoleGrant::groups`].
    pub fn named(&self) -> impl Iterator<Item = (usize, &str)> {
        self.groups.iter().map(String::as_str).enumerate().filter(|(_, group)| *group != ALL)
    }

    /// Whether it is in all groups.
    pub fn is_everywhere(&self) -> bool {
        self.groups.iter().any(|group| group == ALL)
    }
}

/// Grants without the groups of others, role by role.
pub(crate) fn without(grants: &[RoleGrant], others: &[RoleGrant]) -> Vec<RoleGrant> {
    let left = grants.iter().map(|RoleGrant { role, groups }| {
        let has = |group: &String| others.iter().any(|other| other.role == *role && other.groups.contains(group));
        RoleGrant { role: role.clone(), groups: groups.iter().filter(|group| !has(group)).cloned().collect() }
    });
    left.filter(|grant| !grant.groups.is_empty()).collect()
}

/// Grants, and what others give beyond them.
pub(crate) fn with(grants: &[RoleGrant], others: &[RoleGrant]) -> Vec<RoleGrant> {
    [grants, &without(others, grants)].concat()
}

/// Grants as a column holds them.
pub(crate) fn written(grants: &[RoleGrant]) -> String {
    serde_json::to_string(grants).expect("texts have a JSON form")
}

/// Inverse of [`written`].
pub(crate) fn read(column: &str) -> Result<Vec<RoleGrant>, StoreError> {
    serde_json::from_str(column).map_err(|_| StoreError::corrupt("the roles of an account or a token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_told_apart_group_by_group() {
        let grant = |role: &str, groups: &[&str]| RoleGrant {
            role: role.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        };
        let (one, other) = ([grant("dev", &["a", "b"]), grant("ops", &["*"])], [grant("dev", &["b", "c"])]);
        assert_eq!(without(&one, &other), [grant("dev", &["a"]), grant("ops", &["*"])]);
        assert_eq!(without(&other, &one), [grant("dev", &["c"])]);
        assert_eq!(with(&one, &other), [grant("dev", &["a", "b"]), grant("ops", &["*"]), grant("dev", &["c"])]);
        assert_eq!((without(&one, &one), with(&one, &one)), (Vec::new(), one.to_vec()));
    }
}
