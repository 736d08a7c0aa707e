//! The condition language of `vars`, `filter`, `match` and `*_expr` (`docs/spec/routing.md` §6).
//!
//! An expression is checked and compiled once; [`Expr::eval`] then parses nothing and cannot fail. A regular
//! expression is compiled with it or when first needed; one that gives up (see [`crate::pattern`]) counts as not found, and so does
//! one of what is loaded that does not compile.

mod parse;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use serde_json::Value;
use thiserror::Error;

use crate::cidr::CidrSet;
use crate::pattern::{Pattern, PatternBudget, PatternError};
use crate::var::{Lookup, Var, VarName};
use parse::Patterns;

/// Why an expression is refused. The texts are those of `docs/spec/routing.md` §6.1 without the prefix
/// «failed to validate the 'vars' expression: », which callers add.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExprError {
    /// The expression, or an item of a list, is no list where one is needed.
    #[error("rule should be wrapped inside brackets")]
    NotWrapped,
    /// A logic word with fewer than two operands, or an empty nested list.
    #[error("rule too short")]
    TooShort,
    /// No such operator.
    #[error("invalid operator '{0}'")]
    InvalidOperator(String),
    /// A condition with nothing to compare, too many members, or members of the wrong type.
    #[error("invalid expression")]
    Invalid,
    /// Four members, of which the second is not `!`.
    #[error("bad 'not' expression")]
    BadNot,
    /// The operand of `ipmatch` holds something that is no address.
    #[error("invalid ip address")]
    InvalidAddress,
    /// The operand of `~~` or `~*` is no regular expression.
    #[error("invalid regular expression '{pattern}': {error}")]
    InvalidPattern {
        /// The operand.
        pattern: String,
        /// What is wrong with it.
        error: PatternError,
    },
    /// What follows `post_arg.` is no JSONPath.
    #[error(transparent)]
    InvalidPath(#[from] crate::json_path::JsonPathError),
    /// Lists nested deeper than [`Expr::MAX_DEPTH`].
    #[error("rule nested too deep")]
    TooDeep,
}

/// A compiled expression. The default is the empty one, which is always true.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr(Node);

impl Default for Expr {
    fn default() -> Expr {
        Expr(Node::All(Vec::new()))
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Test { var: VarName, test: Test },
}

/// One operator with its operand. `~=` is the negation of `==`.
#[derive(Clone, Debug, PartialEq)]
enum Test {
    Absent,
    Equal(Literal),
    Compare(Relation, f64),
    Find(Pattern),
    In(Literals),
    Has(Literal),
    Inside(CidrSet),
    /// An operand with which the operator never holds.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Relation {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Literal {
    Str(Box<str>),
    Num(f64),
    Bool(bool),
}

/// The members of an `in` list by type, texts sorted.
#[derive(Clone, Debug, Default, PartialEq)]
struct Literals {
    texts: Vec<Box<str>>,
    numbers: Vec<f64>,
    bools: Vec<bool>,
}

impl Expr {
    /// Lists may be nested this deep.
    pub const MAX_DEPTH: usize = 64;

    /// Compiles an expression, but leaves its patterns to the first request that needs them.
    pub fn parse(value: &Value) -> Result<Expr, ExprError> {
        parse::expression(value, Patterns::Later).map(Expr)
    }

    /// Compiles an expression with its patterns. In an object that is being written `budget` says what these may still come to, and
    /// what is wrong with one is reported, also where parsing alone does not find it. Without one it takes what [`Expr::parse`] takes.
    pub fn compiled(value: &Value, budget: Option<&PatternBudget>) -> Result<Expr, ExprError> {
        parse::expression(value, Patterns::Now(budget)).map(Expr)
    }

    /// Whether the expression is empty, that is, always true.
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Node::All(items) if items.is_empty())
    }

    /// The variables that the expression reads.
    pub fn names(&self) -> Vec<&VarName> {
        let mut names = Vec::new();
        self.0.names(&mut names);
        names
    }

    /// Whether the expression holds for a request.
    pub fn eval(&self, vars: &dyn Lookup) -> bool {
        self.0.eval(vars)
    }
}

impl Node {
    fn eval(&self, vars: &dyn Lookup) -> bool {
        match self {
            Node::All(items) => items.iter().all(|item| item.eval(vars)),
            Node::Any(items) => items.iter().any(|item| item.eval(vars)),
            Node::Not(item) => !item.eval(vars),
            Node::Test { var, test } => test.holds(vars.var(var).as_ref()),
        }
    }

    fn names<'a>(&'a self, names: &mut Vec<&'a VarName>) {
        match self {
            Node::All(items) | Node::Any(items) => items.iter().for_each(|item| item.names(names)),
            Node::Not(item) => item.names(names),
            Node::Test { var, .. } => names.push(var),
        }
    }
}

impl Test {
    fn holds(&self, value: Option<&Var<'_>>) -> bool {
        let Some(value) = value else { return matches!(self, Test::Absent) };
        match self {
            Test::Absent | Test::Never => false,
            Test::Equal(Literal::Num(n)) => value.number() == Some(*n),
            Test::Equal(literal) => literal.is(value),
            Test::Compare(relation, n) => value.number().is_some_and(|value| relation.holds(value, *n)),
            Test::Find(pattern) => match value {
                Var::Str(text) => pattern.is_match(text),
                Var::Num(_) => pattern.is_match(&value.text()),
                Var::Bool(_) | Var::List(_) => false,
            },
            Test::In(literals) => literals.contain(value),
            Test::Has(literal) => match value {
                Var::List(items) => items.iter().any(|item| literal.is_json(item)),
                _ => false,
            },
            Test::Inside(set) => match value {
                Var::Str(text) => text.parse::<IpAddr>().is_ok_and(|addr| set.contains(addr)),
                _ => false,
            },
        }
    }
}

impl Relation {
    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Relation::Greater => left > right,
            Relation::GreaterOrEqual => left >= right,
            Relation::Less => left < right,
            Relation::LessOrEqual => left <= right,
        }
    }
}

impl Literal {
    /// Lists, objects and null have no literal: they are identical to no value.
    fn from_json(value: &Value) -> Option<Literal> {
        match value {
            Value::String(text) => Some(Literal::Str(text.as_str().into())),
            Value::Number(n) => n.as_f64().map(Literal::Num),
            Value::Bool(b) => Some(Literal::Bool(*b)),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// Identity: same type, same value, nothing converted.
    fn is(&self, value: &Var<'_>) -> bool {
        match (self, value) {
            (Literal::Str(a), Var::Str(b)) => **a == **b,
            (Literal::Num(a), Var::Num(b)) => a == b,
            (Literal::Bool(a), Var::Bool(b)) => a == b,
            _ => false,
        }
    }

    fn is_json(&self, value: &Value) -> bool {
        match (self, value) {
            (Literal::Str(a), Value::String(b)) => **a == **b,
            (Literal::Num(a), Value::Number(b)) => Some(*a) == b.as_f64(),
            (Literal::Bool(a), Value::Bool(b)) => a == b,
            _ => false,
        }
    }
}

impl Literals {
    fn from_json(values: &[Value]) -> Literals {
        let mut all = Literals::default();
        for literal in values.iter().filter_map(Literal::from_json) {
            match literal {
                Literal::Str(text) => all.texts.push(text),
                Literal::Num(n) => all.numbers.push(n),
                Literal::Bool(b) => all.bools.push(b),
            }
        }
        all.texts.sort_unstable();
        all
    }

    fn contain(&self, value: &Var<'_>) -> bool {
        match value {
            Var::Str(text) => self.texts.binary_search_by(|member| (**member).cmp(text)).is_ok(),
            Var::Num(n) => self.numbers.contains(n),
            Var::Bool(b) => self.bools.contains(b),
            Var::List(_) => false,
        }
    }
}
