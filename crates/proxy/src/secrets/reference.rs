//! The form of a reference to a secret manager: `$secret://<manager>/<id>/<path…>`.

use milecastle_model::SECRET_MANAGER;

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
        let rest = text.strip_prefix(SECRET_MANAGER)?;
        let (second, _) = rest.match_indices('/').nth(1)?;
        let (manager, path) = rest.split_at_checked(second)?;
        let path = path.strip_prefix('/').filter(|path| !path.is_empty())?;
        let named = manager.split('/').all(|part| !part.is_empty());
        named.then_some(Self { manager, path })
    }
}

/// What is asked for at once with a reference: the secret that it names a member of. Names of AWS's secrets may have `/` in them, so a
/// reference does not tell where the member begins, and each is asked for by itself.
pub(super) fn place(text: &str) -> &str {
    let Some(Reference { manager, path }) = Reference::parse(text) else { return text };
    let parts = match manager.split_once('/') {
        Some(("vault", _)) => path.rsplit_once('/'),
        Some(("gcp", _)) => path.split_once('/'),
        _ => None,
    };
    let parts = parts.filter(|(secret, _)| !secret.is_empty());
    parts.and_then(|(_, member)| text.strip_suffix(member)?.strip_suffix('/')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_one_secret_have_one_place() {
        for (text, expected) in [
            ("$secret://vault/1/shop/key", "$secret://vault/1/shop"),
            ("$secret://vault/1/a/b/key", "$secret://vault/1/a/b"),
            ("$secret://aws/1/name", "$secret://aws/1/name"),
            ("$secret://aws/1/name/member", "$secret://aws/1/name/member"),
            ("$secret://aws/1//name", "$secret://aws/1//name"),
            ("$secret://gcp/1/name", "$secret://gcp/1/name"),
            ("$secret://gcp/1/name/a/b", "$secret://gcp/1/name"),
            ("$secret://gcp/1//name", "$secret://gcp/1//name"),
            ("$secret://vault/1//key", "$secret://vault/1//key"),
            ("$secret://vault/1", "$secret://vault/1"),
        ] {
            assert_eq!(place(text), expected, "{text}");
            // Who is to be asked is read from the place.
            let manager = |text| Reference::parse(text).map(|of| of.manager);
            assert_eq!(manager(expected), manager(text), "{text}");
        }
    }

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
