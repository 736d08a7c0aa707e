//! What a schema is once compiled: an arena of nodes, one for each (sub)schema.

use std::collections::HashMap;

use serde_json::{Number, Value};

use super::pattern::Pattern;

/// Index into the arena.
pub(super) type NodeId = usize;

/// One (sub)schema. Everything in it applies to the same value.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The schema `false`.
    pub(super) never: bool,
    /// Permitted types; empty means any.
    pub(super) types: Vec<Type>,
    /// Target of `$ref`.
    pub(super) target: Option<NodeId>,
    pub(super) object: Option<Box<ObjectRules>>,
    pub(super) array: Option<Box<ArrayRules>>,
    pub(super) string: Option<Box<StringRules>>,
    pub(super) number: Option<Box<NumberRules>>,
    pub(super) one_of_values: Option<Vec<Value>>,
    pub(super) constant: Option<Value>,
    pub(super) all_of: Vec<NodeId>,
    pub(super) any_of: Option<AnyOf>,
    pub(super) one_of: Option<Vec<NodeId>>,
    pub(super) not: Option<NodeId>,
    pub(super) conditional: Option<Conditional>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

#[derive(Debug, Default)]
pub(super) struct ObjectRules {
    pub(super) properties: HashMap<String, NodeId>,
    pub(super) patterns: Vec<(Pattern, NodeId)>,
    pub(super) additional: Additional,
    pub(super) required: Vec<String>,
    pub(super) dependencies: Vec<(String, Dependency)>,
    pub(super) min: Option<u64>,
    pub(super) max: Option<u64>,
}

/// What members may stand beside the named ones.
#[derive(Debug, Default)]
pub(super) enum Additional {
    #[default]
    Any,
    Forbidden,
    Schema(NodeId),
}

#[derive(Debug)]
pub(super) enum Dependency {
    Members(Vec<String>),
    Schema(NodeId),
}

#[derive(Debug, Default)]
pub(super) struct ArrayRules {
    /// Schemas of the first items, by position.
    pub(super) first: Vec<NodeId>,
    /// Schema of the items after those.
    pub(super) rest: Option<NodeId>,
    pub(super) min: Option<u64>,
    pub(super) max: Option<u64>,
    pub(super) unique: bool,
}

#[derive(Debug, Default)]
pub(super) struct StringRules {
    pub(super) min: Option<u64>,
    pub(super) max: Option<u64>,
    pub(super) pattern: Option<Pattern>,
    pub(super) format: Option<Format>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Format {
    Ipv4,
    Ipv6,
    Ipv4Cidr,
    Ipv6Cidr,
}

#[derive(Debug, Default)]
pub(super) struct NumberRules {
    pub(super) min: Option<Number>,
    pub(super) max: Option<Number>,
    pub(super) above: Option<Number>,
    pub(super) below: Option<Number>,
    pub(super) multiple: Option<Number>,
}

#[derive(Debug)]
pub(super) enum AnyOf {
    /// The branches, and the `required` lists among them as the message shows them.
    Branches(Vec<NodeId>, String),
    /// X or null.
    Optional(NodeId),
}

#[derive(Debug)]
pub(super) struct Conditional {
    pub(super) test: NodeId,
    pub(super) then: Option<NodeId>,
    pub(super) otherwise: Option<NodeId>,
}

impl Type {
    pub(super) const ALL: [Type; 7] =
        [Type::Null, Type::Boolean, Type::Integer, Type::Number, Type::String, Type::Array, Type::Object];

    pub(super) fn name(self) -> &'static str {
        match self {
            Type::Null => "null",
            Type::Boolean => "boolean",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::String => "string",
            Type::Array => "array",
            Type::Object => "object",
        }
    }
}

impl Node {
    /// The nodes that judge the same value as this one.
    pub(super) fn in_place(&self) -> impl Iterator<Item = NodeId> {
        let any_of: &[NodeId] = match &self.any_of {
            Some(AnyOf::Branches(branches, _)) => branches,
            Some(AnyOf::Optional(branch)) => std::slice::from_ref(branch),
            None => &[],
        };
        let conditional = self.conditional.iter().flat_map(|c| [Some(c.test), c.then, c.otherwise]).flatten();
        let dependent = self.object.iter().flat_map(|rules| &rules.dependencies).filter_map(|(_, d)| match d {
            Dependency::Schema(id) => Some(*id),
            Dependency::Members(_) => None,
        });
        let branches = self.all_of.iter().chain(any_of).chain(self.one_of.iter().flatten()).copied();
        branches.chain(self.target).chain(self.not).chain(conditional).chain(dependent)
    }
}

impl Format {
    pub(super) fn from_name(name: &str) -> Option<Format> {
        match name {
            "ipv4" => Some(Format::Ipv4),
            "ipv6" => Some(Format::Ipv6),
            "ipv4-cidr" => Some(Format::Ipv4Cidr),
            "ipv6-cidr" => Some(Format::Ipv6Cidr),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Format::Ipv4 => "ipv4",
            Format::Ipv6 => "ipv6",
            Format::Ipv4Cidr => "ipv4-cidr",
            Format::Ipv6Cidr => "ipv6-cidr",
        }
    }
}
