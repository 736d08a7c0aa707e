//! The form of a reference to a secret manager: `$secret://<manager>/<id>/<path…>`.

/// What all of them begin with; unlike `$env://`, in these letters only.
pub(super) const PREFIX: &str = "$secret://";

/// The parts of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reference<'a> {
    /// Id of the secret object: `vault/1`.
    pub(super) manager: &'a str,
    /// What is asked of it.
    pub(super) path: &'a str,
}

impl<'a> Reference<'a> {
    /// `None`: it names no manager, or nothing there.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        let (second, _) = rest.match_indices('/').nth(1)?;
        let (manager, path) = rest.split_at_checked(second)?;
        let path = path.strip_prefix('/').filter(|path| !path.is_empty())?;
        let named = manager.split('/').all(|part| !part.is_empty());
        named.then_some(Self { manager, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_a_manager_and_something_there() {
        let check = |text, expected: Option<(&str, &str)>| {
            let parsed = Reference::parse(text).map(|reference| (reference.manager, reference.path));
            assert_eq!(parsed, expected, "{text}");
        };
        check("$secret://vault/1/shop/key", Some(("vault/1", "shop/key")));
        check("$secret://aws/eu-1/a/b/c/d", Some(("aws/eu-1", "a/b/c/d")));
        check("$secret://gcp/1/name", Some(("gcp/1", "name")));
        for text in
            ["$secret://vault/1", "$secret://vault/1/", "$secret:///1/a", "$secret://vault//a", "$SECRET://vault/1/a"]
        {
            check(text, None);
        }
    }
}
