//! The identity that a node's certificate states.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What the identity's URI begins with. The CA alone tells clusters apart, so the authority is the same in each.
const URI_PREFIX: &str = "milecastle://milecastle.internal/group/";

/// A node within its gateway group. Stands in certificates as
/// `milecastle://milecastle.internal/group/<group>/node/<node id>` (URI subject alternative name).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeIdentity {
    group: String,
    node_id: String,
}

impl NodeIdentity {
    /// An identity of names of 1 to 64 of `A-Z a-z 0-9 . _ -` each.
    ///
    /// # Errors
    /// [`IdentityError::Name`].
    pub fn new(group: impl Into<String>, node_id: impl Into<String>) -> Result<Self, IdentityError> {
        Ok(Self { group: checked("group", group.into())?, node_id: checked("node id", node_id.into())? })
    }

    /// An id for a node that has none: 64 random bits in hexadecimal; `None` if the system has no random numbers.
    pub fn random_node_id() -> Option<String> {
        let mut bytes = [0; 8];
        rand::fill(&mut bytes).ok()?;
        Some(format!("{:016x}", u64::from_be_bytes(bytes)))
    }

    /// The gateway group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The node's id, unique in its group.
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    pub(crate) fn uri(&self) -> String {
        format!("{URI_PREFIX}{}/node/{}", self.group, self.node_id)
    }

    fn of_uri(uri: &str) -> Option<Self> {
        let (group, node_id) = uri.strip_prefix(URI_PREFIX)?.split_once("/node/")?;
        Self::new(group, node_id).ok()
    }
}

/// `group/node id`.
impl fmt::Display for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.node_id)
    }
}

/// Names of groups and nodes: they stand in URIs, tokens and file names without any escaping.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

pub(crate) fn checked(what: &'static str, name: String) -> Result<String, IdentityError> {
    if is_name(&name) { Ok(name) } else { Err(IdentityError::Name { what, name }) }
}

/// Why there is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A group or node id that cannot stand in a certificate.
    #[error("{what} {name:?} must be 1 to 64 of A-Z a-z 0-9 . _ -")]
    Name {
        /// "group" or "node id".
        what: &'static str,
        /// As given.
        name: String,
    },
    /// Not a certificate at all.
    #[error("not an X.509 certificate")]
    Malformed,
    /// A certificate, but not one of a node.
    #[error("the certificate names no gateway node")]
    NotANode,
}

/// What a node's certificate says. Meaningful only of a certificate that was verified against the CA, as TLS does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCertificate {
    /// Whose it is.
    pub identity: NodeIdentity,
    /// When it begins.
    pub not_before: SystemTime,
    /// When it ends. A stream must not outlive it.
    pub not_after: SystemTime,
}

impl NodeCertificate {
    /// Reads a certificate in DER. Verifies nothing.
    ///
    /// # Errors
    /// [`IdentityError::Malformed`], [`IdentityError::NotANode`].
    pub fn of(certificate: &[u8]) -> Result<Self, IdentityError> {
        let certificate = parse(certificate).ok_or(IdentityError::Malformed)?;
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Malformed)?;
        let identity = match names.map(|names| names.value.general_names.as_slice()) {
            Some([GeneralName::URI(uri)]) => NodeIdentity::of_uri(uri),
            _ => None,
        };
        let (not_before, not_after) = validity(&certificate);
        Ok(Self { identity: identity.ok_or(IdentityError::NotANode)?, not_before, not_after })
    }

    /// When two thirds of its life are over, and a new one is due.
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life / 3 * 2
    }
}

/// A certificate without anything behind it.
pub(crate) fn parse(certificate: &[u8]) -> Option<X509Certificate<'_>> {
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Some(certificate),
        _ => None,
    }
}

/// Begin and end of a certificate; what lies before 1970 counts as 1970.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let time = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = certificate.validity();
    (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_need_escaping_are_refused() {
        for bad in ["", "a/b", "a b", "é", "a%2f", &"x".repeat(65)] {
            assert!(matches!(NodeIdentity::new(bad, "n"), Err(IdentityError::Name { what: "group", .. })), "{bad}");
            assert!(matches!(NodeIdentity::new("g", bad), Err(IdentityError::Name { what: "node id", .. })), "{bad}");
        }
    }

    #[test]
    fn uris_go_there_and_back() {
        let identity = NodeIdentity::new("prod-1.eu", "a_B.c-9").unwrap();
        assert_eq!(identity.uri(), "milecastle://milecastle.internal/group/prod-1.eu/node/a_B.c-9");
        assert_eq!(NodeIdentity::of_uri(&identity.uri()), Some(identity));
        for bad in [
            "milecastle://elsewhere/group/g/node/n",
            "milecastle://milecastle.internal/group/g",
            "milecastle://milecastle.internal/group/g/node/n/node/m",
            "milecastle://milecastle.internal/group//node/n",
        ] {
            assert_eq!(NodeIdentity::of_uri(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_malformed() {
        assert_eq!(NodeCertificate::of(b""), Err(IdentityError::Malformed));
        assert_eq!(NodeCertificate::of(b"-----BEGIN"), Err(IdentityError::Malformed));
    }

    #[test]
    fn renewal_is_due_at_two_thirds() {
        let not_before = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let identity = NodeIdentity::new("g", "n").unwrap();
        let certificate = NodeCertificate { identity, not_before, not_after: not_before + Duration::from_secs(300) };
        assert_eq!(certificate.renew_at(), not_before + Duration::from_secs(200));
    }
}
