//! Expression language and route matcher.
//!
//! Everything that decides what a request *is*: variables ([`var`]) and texts made of them ([`template`]), conditions
//! ([`expr`]), regular expressions ([`pattern`]), sets of addresses ([`cidr`]), paths into JSON bodies
//! ([`json_path`]), the canonical form of a request's path ([`uri`]) and the route it belongs to ([`router`]).
//!
//! Invariants:
//! - Configuration is parsed once, into types that cannot fail any more; a request parses nothing of it.
//! - All functions are pure: no clock, no I/O, no global state but the shared cache of compiled patterns.
//! - No input makes a function panic, and none takes unbounded time.
//!
//! Deliberately absent: HTTP types (a caller hands in plain texts), and any knowledge of where variables come from
//! (the [`Lookup`] trait).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::string_slice))]

pub mod cidr;
pub mod expr;
pub mod json_path;
pub mod pattern;
pub mod router;
pub mod template;
pub mod uri;
pub mod var;

pub use cidr::{CidrError, CidrSet};
pub use expr::{Expr, ExprError};
pub use json_path::{JsonPath, JsonPathError};
pub use pattern::{Captures, Flags, Pattern, PatternBudget, PatternError, Replacement};
pub use router::{Filter, Match, MatchInput, MethodSet, PathPattern, RouteEntry, Router, RouterMode};
pub use template::{Rendered, Template};
pub use uri::{Ambiguity, CanonicalPath, UriError, UriOptions, canonical_path};
pub use var::{Family, Lookup, NoVars, Var, VarName};
