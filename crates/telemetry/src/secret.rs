//! A value that must not be seen.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// A secret: a password, a token, a private key, a DSN that holds one.
///
/// `Debug` prints `[secret]` whatever is inside, and there is no `Display` and no `Serialize`: the only way to the value
/// is [`Secret::reveal`], which a reader of the code can search for.
/// Memory is not wiped on drop; a process image holds its secrets as long as it lives.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value. Never pass what this returns to a log, an error, a metric or an answer.
    pub const fn reveal(&self) -> &T {
        &self.0
    }

    /// Gives up the wrapper, with the same duty as [`Secret::reveal`].
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Secret<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_struct_that_holds_one_shows_nothing() {
        #[derive(Debug)]
        struct Holder {
            #[expect(dead_code, reason = "read by Debug alone")]
            token: Option<Secret<String>>,
        }
        let shown = format!("{:?}", Holder { token: Some(Secret::new("hunter2".into())) });
        assert_eq!(shown, "Holder { token: Some([secret]) }");
    }
}
