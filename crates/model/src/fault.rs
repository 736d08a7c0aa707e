//! Faults of an input.

use std::fmt;

/// How the Admin API words a fault (`docs/spec/admin-api.md` §11.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultClass {
    /// Answered as «invalid configuration: » followed by the message.
    Configuration,
    /// Answered as the message alone.
    Rule,
}

/// One fault of an input. `Display` writes what the Admin API answers: the message with its prefix if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer (RFC 6901) of the place: `/upstream/nodes/0/host`; empty for the whole body. For a missing member
    /// it is the place where the member should be.
    pub path: String,
    /// The specification's words, nesting prefixes included (`docs/spec/admin-api.md` §16), without the
    /// «invalid configuration: » prefix.
    pub message: String,
    /// Whether answers put «invalid configuration: » in front.
    pub class: FaultClass,
}

impl Fault {
    /// A fault whose answer carries the «invalid configuration: » prefix.
    pub fn configuration(path: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault { path: path.into(), message: message.into(), class: FaultClass::Configuration }
    }

    /// A fault whose answer is the message alone.
    pub fn rule(path: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault { path: path.into(), message: message.into(), class: FaultClass::Rule }
    }
}

impl Fault {
    /// What `Display` writes, after the place if it is not the whole body.
    pub fn placed(&self) -> String {
        if self.path.is_empty() { self.to_string() } else { format!("{}: {self}", self.path) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.class == FaultClass::Configuration {
            f.write_str("invalid configuration: ")?;
        }
        f.write_str(&self.message)
    }
}
