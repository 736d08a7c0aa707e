//! Sets of request methods.

/// The methods a route can list (`docs/spec/resources.md`, METHOD); the index is the bit.
const METHODS: [&str; 10] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"];

/// The methods of a route. The empty set means any method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodSet(u16);

impl MethodSet {
    /// No restriction.
    pub const ANY: MethodSet = MethodSet(0);

    /// Bit of a list that names no known method: it admits nothing, and is not empty.
    const NOTHING: u16 = 1 << 15;

    /// The set of the named methods, in upper case. Names that are none of the ten admit no request.
    pub fn of<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> MethodSet {
        names.into_iter().fold(MethodSet::ANY, |set, name| {
            let bit = MethodSet::single(name.as_ref()).0;
            MethodSet(set.0 | if bit == 0 { MethodSet::NOTHING } else { bit })
        })
    }

    /// The set of one method, empty if it is none of the ten.
    pub(super) fn single(name: &str) -> MethodSet {
        MethodSet(METHODS.iter().position(|known| *known == name).map_or(0, |bit| 1 << bit))
    }

    /// Whether a request with `method` (from [`MethodSet::single`]) is admitted.
    pub(super) fn admits(self, method: MethodSet) -> bool {
        self.0 == 0 || self.0 & method.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_methods_are_admitted() {
        let check = |listed: &[&str], method, expected| {
            assert_eq!(MethodSet::of(listed).admits(MethodSet::single(method)), expected, "{method} in {listed:?}");
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
