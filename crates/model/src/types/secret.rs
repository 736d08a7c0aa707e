//! Text that must not be shown.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

/// A private key or its ciphertext. Neither printed by `Debug` nor serializable; [`SecretText::expose`] is the one way
/// to the text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SecretText(Arc<str>);

impl SecretText {
    /// The text, for the one who needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SecretText, D::Error> {
        String::deserialize(deserializer).map(|text| SecretText(text.into()))
    }
}
