//! What has become of asking for a secret.

/// The value of a reference, or why there is none.
pub(super) type Found = Result<String, Trouble>;

/// Why a reference has no value, or no newer one, in words for operators. No text has a secret in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There is no such secret.
    Absent(String),
    /// It could not be asked for.
    Failed(String),
}

impl Trouble {
    /// The manager has answered that there is no such secret, or the secret has no such member.
    pub(super) fn nothing() -> Self {
        Self::Absent("the secret manager has nothing of that name".to_owned())
    }
}
