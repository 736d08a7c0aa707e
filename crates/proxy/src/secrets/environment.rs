//! References to the environment of the process (`docs/spec/resources.md` §13).

use super::manager::member;
use milecastle_plugin_api::Secrets;

/// Resolves `$env://NAME` and `$env://NAME/member` (the prefix in any case) from the process's environment.
pub(super) struct EnvironmentSecrets;

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
        Some((name, field)) => member(&serde_json::from_str(&variable(name)?).ok()?, field),
    }
}

#[cfg(test)]
mod tests {
    use super::resolve;

    #[test]
    fn references_to_the_environment() {
        let variable = |name: &str| match name {
            "KEY" => Some("secret".to_owned()),
            "JSON" => Some(r#"{"a":"x","n":7,"z":null}"#.to_owned()),
            _ => None,
        };
        let check = |reference, expected: Option<&str>| assert_eq!(resolve(reference, variable).as_deref(), expected);
        check("$env://KEY", Some("secret"));
        check("$ENV://KEY", Some("secret"));
        check("$env://JSON/a", Some("x"));
        check("$env://JSON/n", Some("7"));
        check("$env://JSON/none", None);
        check("$env://JSON/z", None);
        check("$env://KEY/a", None);
        check("$env://NOPE", None);
        check("$secret://vault/1/a/b", None);
        check("plain", None);
    }
}
