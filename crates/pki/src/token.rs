//! Tokens that let a node join a gateway group.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{constant_time, rand};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::fingerprint::{parse_hex, sha256, write_hex};
use crate::identity::{checked, is_name};
use crate::{Fingerprint, IdentityError};

/// How every token begins. The digit is the version of its layout.
const PREFIX: &str = "mc1";

/// Lets whoever holds it join one gateway group, and tells them which CA to trust.
///
/// Text form: `mc1.<group>.<token id>.<secret>.<CA fingerprint>`. It is shown once; the control plane stores its id and
/// its [`hash`](Self::hash). `Debug` leaves the secret out and there is no `Display`.
#[derive(Clone)]
pub struct GroupToken {
    group: String,
    id: String,
    secret: [u8; 32],
    ca: Fingerprint,
}

impl GroupToken {
    /// A new token with an id and a secret of its own.
    ///
    /// # Errors
    /// [`TokenError::Group`] if the group's name cannot stand in a token, [`TokenError::Random`].
    pub fn mint(group: &str, ca: Fingerprint) -> Result<Self, TokenError> {
        let group = checked("group", group.to_owned())?;
        let mut id = [0; 8];
        let mut secret = [0; 32];
        rand::fill(&mut id).map_err(|_| TokenError::Random)?;
        rand::fill(&mut secret).map_err(|_| TokenError::Random)?;
        Ok(Self { group, id: format!("{:016x}", u64::from_be_bytes(id)), secret, ca })
    }

    /// The gateway group that it opens.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Its id: not secret, what operators list and revoke.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The CA that the joining node must find.
    pub fn ca(&self) -> Fingerprint {
        self.ca
    }

    /// The text form, secret included: for the operator's eyes, once, and for [`join`](crate::join_client_config).
    pub fn expose(&self) -> String {
        format!("{PREFIX}.{}.{}.{}.{}", self.group, self.id, BASE64_URL_SAFE_NO_PAD.encode(self.secret), self.ca)
    }

    /// What the control plane stores. The secret has 256 bits of its own, so a plain hash keeps it.
    pub fn hash(&self) -> TokenHash {
        // The names are bound in, so that a hash says nothing about another token, or the same one in another group.
        let mut input = format!("milecastle token\0{}\0{}\0", self.group, self.id).into_bytes();
        input.extend_from_slice(&self.secret);
        TokenHash(sha256(&input))
    }
}

impl fmt::Debug for GroupToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupToken")
            .field("group", &self.group)
            .field("id", &self.id)
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
}

/// Why a text is no token. No message repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin like one.
    #[error("not a group token: one begins with \"mc1.\" (milecastle token create GROUP prints one)")]
    NotAToken,
    /// Parts lack, as when it was copied only in part.
    #[error("group token cut off: five parts with dots between them expected, copy it whole")]
    Parts,
    /// The group's name.
    #[error("group token: {0}")]
    Group(#[from] IdentityError),
    /// The token's id.
    #[error("group token damaged: its third part must be a token id")]
    Id,
    /// The secret is too short, too long, or of other letters.
    #[error("group token damaged: its fourth part must be 43 letters, copy it whole")]
    Secret,
    /// The fingerprint is too short, too long, or of other letters.
    #[error("group token damaged: its last part must be 64 hexadecimal digits, copy it whole")]
    Fingerprint,
    /// The system has no randomness to give.
    #[error("no random numbers from the system")]
    Random,
}

impl FromStr for GroupToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let rest =
            text.trim().strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('.')).ok_or(TokenError::NotAToken)?;
        // From the right: a group's name may have dots.
        let mut parts = rest.rsplitn(4, '.');
        let (Some(ca), Some(secret), Some(id), Some(group)) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Parts);
        };
        let group = checked("group", group.to_owned())?;
        if !is_name(id) {
            return Err(TokenError::Id);
        }
        let decoded = BASE64_URL_SAFE_NO_PAD.decode(secret).ok().and_then(|secret| secret.try_into().ok());
        Ok(Self {
            group,
            id: id.to_owned(),
            secret: decoded.ok_or(TokenError::Secret)?,
            ca: ca.parse().map_err(|_| TokenError::Fingerprint)?,
        })
    }
}

/// A token as the control plane keeps it. `Display` and `FromStr` are 64 hexadecimal digits.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The 32 bytes, for a store that finds tokens by them.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// Whether the token is the one that was hashed. Takes the same time whatever the difference.
    pub fn verify(&self, token: &GroupToken) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &token.hash().0).is_ok()
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

impl FromStr for TokenHash {
    type Err = crate::InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex(text).map(Self).ok_or(crate::InvalidFingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(group: &str) -> GroupToken {
        GroupToken::mint(group, Fingerprint::of(b"ca")).unwrap()
    }

    #[test]
    fn text_goes_there_and_back() {
        for group in ["default", "eu.prod-1"] {
            let token = token(group);
            let back: GroupToken = format!(" {}\n", token.expose()).parse().unwrap();
            assert_eq!((back.group(), back.id(), back.ca()), (group, token.id(), token.ca()));
            assert_eq!(back.secret, token.secret);
        }
    }

    #[test]
    fn only_the_token_that_was_hashed_verifies() {
        let token = token("default");
        let stored: TokenHash = token.hash().to_string().parse().unwrap();
        assert!(stored.verify(&token));
        let mut others = [token.clone(), token.clone(), token.clone()];
        others[0].secret[31] ^= 1;
        others[1].group = "other".to_owned();
        others[2].id = "other".to_owned();
        assert!(others.iter().all(|other| !stored.verify(other)));
    }

    #[test]
    fn no_two_are_alike() {
        let (one, other) = (token("g"), token("g"));
        assert_ne!(one.id(), other.id());
        assert_ne!(one.secret, other.secret);
    }

    #[test]
    fn the_secret_does_not_show() {
        let token = token("default");
        let text = token.expose();
        let secret = text.split('.').nth(3).unwrap();
        assert!(!format!("{token:?} {:?}", token.hash()).contains(secret));
        assert!(!format!("{:?}", token.hash()).contains(&token.hash().to_string()));
    }

    #[test]
    fn errors_say_which_part() {
        let text = token("g").expose();
        let parts: Vec<&str> = text.split('.').collect();
        let with = |n: usize, part: &str| {
            let mut parts = parts.clone();
            parts[n] = part;
            parts.join(".").parse::<GroupToken>().unwrap_err()
        };
        assert_eq!(with(0, "mc9"), TokenError::NotAToken);
        assert_eq!("".parse::<GroupToken>().unwrap_err(), TokenError::NotAToken);
        assert_eq!(parts[..4].join(".").parse::<GroupToken>().unwrap_err(), TokenError::Parts);
        assert!(matches!(with(1, "g/h"), TokenError::Group(_)));
        assert_eq!(with(2, ""), TokenError::Id);
        assert_eq!(with(3, parts[3].get(1..).unwrap()), TokenError::Secret);
        assert_eq!(with(4, parts[4].get(1..).unwrap()), TokenError::Fingerprint);
        assert!(matches!(GroupToken::mint("", Fingerprint::of(b"")), Err(TokenError::Group(_))));
    }
}
