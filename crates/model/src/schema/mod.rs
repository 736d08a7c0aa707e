//! A compiled subset of JSON Schema that speaks the Admin API's error texts (`docs/spec/admin-api.md` §16).
//!
//! Understood: `type` (one or several), `properties`, `patternProperties`, `additionalProperties`, `required`,
//! `dependencies`, `dependentRequired`, `dependentSchemas`, `items`, `prefixItems`, `additionalItems`, `uniqueItems`,
//! `pattern`, `enum`, `const`, all size and range limits, `multipleOf`, `anyOf`, `oneOf`, `allOf`, `not`,
//! `if`/`then`/`else`, `format` (`ipv4`, `ipv6`, and our `ipv4-cidr`, `ipv6-cidr`; others are annotations), and `$ref`
//! into the same document. A keyword that would constrain but is not understood is refused at compile time, so no
//! constraint is lost silently. Everything else is annotation.
//!
//! Three deliberate departures from the standard: an empty array passes for an object and an empty object for an array
//! (§16 b); a string that begins with `$secret://` or `$env://` passes wherever a string may stand (§16 c); and
//! `anyOf: [X, {"type": "null"}]`, as generators write an optional X, reports the faults of X.
//!
//! Faults come in this order: a wrong type alone; members in the order of the document; missing members in the order of
//! `required`; dependencies and sizes; then `enum`, `const`, `allOf`, `anyOf`, `oneOf`, `not`, `if`.
//!
//! Patterns are unanchored and see Unicode characters. Those that need look-around or back-references run on a
//! backtracking engine with a step limit; hitting the limit counts as no match.

mod compile;
mod keywords;
mod node;
mod number;
mod pattern;
mod reason;
mod text;
mod walk;

use serde_json::Value;

pub use text::lua_type;

pub(crate) use number::whole;

use crate::Fault;
use node::{Node, NodeId};

/// Most faults that one validation reports. Bounds the work that a hostile input can cause.
pub const MAX_FAULTS: usize = 100;

/// A compiled schema. Immutable and cheap to share.
#[derive(Debug)]
pub struct Schema {
    source: Value,
    nodes: Vec<Node>,
    root: NodeId,
}

/// Why a schema cannot be compiled. `at` is the JSON pointer of the place within the schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A keyword's value has the wrong form.
    #[error("schema at \"{at}\": \"{keyword}\" must be {expected}")]
    Malformed {
        /// Place.
        at: String,
        /// The keyword.
        keyword: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A schema that is neither an object nor a boolean.
    #[error("schema at \"{at}\": a schema must be an object or a boolean")]
    NotASchema {
        /// Place.
        at: String,
    },
    /// A keyword that constrains but is not understood.
    #[error("schema at \"{at}\": \"{keyword}\" is not supported; express the constraint by other keywords")]
    Unsupported {
        /// Place.
        at: String,
        /// The keyword.
        keyword: String,
    },
    /// A regular expression that does not compile.
    #[error("schema at \"{at}\": invalid pattern \"{pattern}\": {reason}")]
    Pattern {
        /// Place.
        at: String,
        /// The expression.
        pattern: String,
        /// The engine's words.
        reason: String,
    },
    /// A `$ref` that leads outside the document or nowhere.
    #[error("schema at \"{at}\": \"{target}\" must lead to a place in the same schema, such as \"#/$defs/name\"")]
    Reference {
        /// Place.
        at: String,
        /// What `$ref` said.
        target: String,
    },
    /// A schema that applies itself to the same value again, without end.
    #[error("schema at \"{at}\" refers to itself without descending into the value")]
    Endless {
        /// Place.
        at: String,
    },
}

impl Schema {
    /// Compiles a schema.
    pub fn compile(source: &Value) -> Result<Schema, SchemaError> {
        let (nodes, root) = compile::compile(source)?;
        Ok(Schema { source: source.clone(), nodes, root })
    }

    /// All faults of `value`, at most [`MAX_FAULTS`], in the order that the module's head gives; empty if it is valid.
    /// Every one is of class [`Configuration`](crate::FaultClass::Configuration).
    pub fn validate(&self, value: &Value) -> Vec<Fault> {
        walk::faults(&self.nodes, self.root, value)
    }

    /// Whether `value` is valid; stops at the first fault.
    pub fn is_valid(&self, value: &Value) -> bool {
        walk::passes(&self.nodes, self.root, value)
    }

    /// The schema as given to [`Schema::compile`].
    pub fn source(&self) -> &Value {
        &self.source
    }
}

#[cfg(test)]
mod tests;
