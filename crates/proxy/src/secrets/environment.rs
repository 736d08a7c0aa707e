//! References in string attributes, resolved on the node (`docs/spec/resources.md` §13).

use milecastle_plugin_api::Secrets;
use serde_json::Value;

/// Resolves `$env://NAME` and `$env://NAME/member` (the prefix in any case) from the process's environment. References to
/// secret managers are not resolved by this version.
pub struct EnvironmentSecrets;

impl Secrets for EnvironmentSecrets {
    fn resolve(&self, reference: &str) -> Option<String> {
        resolve(reference, |name| std::env::var(name).ok())
    }
}

fn resolve(reference: &str, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    const PREFIX: &str = "$env://";
    let prefix = reference.get(..PREFIX.len())?;
    if !prefix.eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    let name = reference.get(PREFIX.len()..)?;
    match name.split_once('/') {
        None => variable(name),
        Some((name, member)) => match serde_json::from_str::<Value>(&variable(name)?).ok()?.get(member)? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::resolve;

    #[test]
    fn references_to_the_environment() {
        let variable = |name: &str| match name {
            "KEY" => Some("secret".to_owned()),
            "JSON" => Some(r#"{"a":"x","n":7}"#.to_owned()),
            _ => None,
        };
        let check = |reference, expected: Option<&str>| assert_eq!(resolve(reference, variable).as_deref(), expected);
        check("$env://KEY", Some("secret"));
        check("$ENV://KEY", Some("secret"));
        check("$env://JSON/a", Some("x"));
        check("$env://JSON/n", Some("7"));
        check("$env://JSON/none", None);
        check("$env://KEY/a", None);
        check("$env://NOPE", None);
        check("$secret://vault/1/a/b", None);
        check("plain", None);
    }
}
