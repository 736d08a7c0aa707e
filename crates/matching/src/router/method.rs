//! Sets of request methods.

/// The methods of a route (`docs/spec/resources.md`, METHOD). The empty set means any method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodSet(u16);

impl MethodSet {
    /// No restriction.
    pub const ANY: MethodSet = MethodSet(0);

    /// Stands for names that are no known method: it keeps a set from being empty and admits nothing.
    const UNKNOWN: u16 = 1 << 15;

    /// The set of the named methods, in upper case. Names that are none of the ten admit no request.
    pub fn of<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> MethodSet {
        let bits = names.into_iter().map(|name| bit(name.as_ref()).unwrap_or(MethodSet::UNKNOWN));
        MethodSet(bits.fold(0, |set, bit| set | bit))
    }

    /// Whether a request with this method is admitted.
    pub fn admits(self, method: &str) -> bool {
        self == MethodSet::ANY || bit(method).is_some_and(|bit| self.0 & bit != 0)
    }
}

fn bit(method: &str) -> Option<u16> {
    Some(match method {
        "GET" => 1,
        "POST" => 1 << 1,
        "PUT" => 1 << 2,
        "DELETE" => 1 << 3,
        "PATCH" => 1 << 4,
        "HEAD" => 1 << 5,
        "OPTIONS" => 1 << 6,
        "CONNECT" => 1 << 7,
        "TRACE" => 1 << 8,
        "PURGE" => 1 << 9,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_methods_are_admitted() {
        let check = |listed: &[&str], method, expected| {
            assert_eq!(MethodSet::of(listed).admits(method), expected, "{method} in {listed:?}");
        };
        check(&[], "GET", true);
        check(&[], "BREW", true);
        check(&["GET", "PURGE"], "PURGE", true);
        check(&["GET", "PURGE"], "POST", false);
        check(&["GET"], "get", false);
        check(&["GET"], "BREW", false);
        check(&["BREW"], "BREW", false);
        check(&["BREW"], "GET", false);
    }
}
