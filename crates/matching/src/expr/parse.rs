//! From JSON to a compiled expression.

use serde_json::Value;

use super::{Expr, ExprError, Literal, Literals, Node, Relation, Test};
use crate::cidr::CidrSet;
use crate::json_path::JsonPath;
use crate::pattern::{Flags, Pattern, PatternBudget};
use crate::var::{VarName, number_of};

/// When the patterns are compiled.
#[derive(Clone, Copy)]
pub(super) enum Patterns<'b> {
    /// With the expression, within what they may still come to.
    Now(Option<&'b PatternBudget>),
    /// When first needed.
    Later,
}

pub(super) fn expression(value: &Value, patterns: Patterns<'_>) -> Result<Node, ExprError> {
    let items = value.as_array().ok_or(ExprError::NotWrapped)?;
    match items.first() {
        None => Ok(Node::All(Vec::new())),
        Some(Value::String(word)) if logic(word).is_none() => Err(ExprError::NotWrapped),
        Some(_) => list(items, 1, patterns),
    }
}

/// A non-empty list that starts with a logic word or an item.
fn list(items: &[Value], depth: usize, patterns: Patterns<'_>) -> Result<Node, ExprError> {
    let word = items.first().and_then(Value::as_str).and_then(logic);
    let operands = match (word, items) {
        (Some(_), [_, operands @ ..]) if operands.len() < 2 => return Err(ExprError::TooShort),
        (Some(_), [_, operands @ ..]) => operands,
        _ => items,
    };
    let nodes = operands.iter().map(|operand| item(operand, depth + 1, patterns)).collect::<Result<Vec<_>, _>>()?;
    Ok(word.unwrap_or(Logic { any: false, not: false }).node(nodes))
}

/// A condition or a nested list.
fn item(value: &Value, depth: usize, patterns: Patterns<'_>) -> Result<Node, ExprError> {
    if depth > Expr::MAX_DEPTH {
        return Err(ExprError::TooDeep);
    }
    let members = value.as_array().ok_or(ExprError::NotWrapped)?;
    match members.first() {
        None => Err(ExprError::TooShort),
        Some(Value::Array(_)) => list(members, depth, patterns),
        Some(Value::String(word)) if logic(word).is_some() => list(members, depth, patterns),
        Some(Value::String(name)) => condition(name, members, patterns),
        Some(_) => Err(ExprError::Invalid),
    }
}

#[derive(Clone, Copy)]
struct Logic {
    any: bool,
    not: bool,
}

impl Logic {
    fn node(self, nodes: Vec<Node>) -> Node {
        let node = if self.any { Node::Any(nodes) } else { Node::All(nodes) };
        if self.not { Node::Not(Box::new(node)) } else { node }
    }
}

fn logic(word: &str) -> Option<Logic> {
    let (not, word) = match word.strip_prefix('!') {
        Some(word) => (true, word),
        None => (false, word),
    };
    if word.eq_ignore_ascii_case("and") {
        Some(Logic { any: false, not })
    } else if word.eq_ignore_ascii_case("or") {
        Some(Logic { any: true, not })
    } else {
        None
    }
}

/// `[var, op, value]`, `[var, "!", op, value]`, or the old `[var, value]`, which means equality. The value of the old
/// form is taken as written; an operator in its place is one that has lost its operand.
fn condition(name: &str, members: &[Value], patterns: Patterns<'_>) -> Result<Node, ExprError> {
    let (not, op, operand) = match members {
        [_, Value::String(op)] if op == "!" || Operator::parse(op).is_some() => return Err(ExprError::Invalid),
        [_, operand] => (false, Operator::Equal, operand),
        [_, op, operand] => (false, operator(op)?, operand),
        [_, Value::String(not), op, operand] if not == "!" => (true, operator(op)?, operand),
        [_, _, _, _] => return Err(ExprError::BadNot),
        _ => return Err(ExprError::Invalid),
    };
    if let Some(path) = name.strip_prefix("post_arg.") {
        JsonPath::parse(path)?;
    }
    let test = Node::Test { var: VarName::parse(name), test: op.test(operand, patterns)? };
    Ok(if not != op.negates() { Node::Not(Box::new(test)) } else { test })
}

fn operator(value: &Value) -> Result<Operator, ExprError> {
    let text = value.as_str().ok_or(ExprError::Invalid)?;
    Operator::parse(text).ok_or_else(|| ExprError::InvalidOperator(text.to_lowercase()))
}

#[derive(Clone, Copy, PartialEq)]
enum Operator {
    Equal,
    NotEqual,
    Compare(Relation),
    Find(Flags),
    In,
    Has,
    IpMatch,
}

impl Operator {
    fn parse(text: &str) -> Option<Operator> {
        Some(match text.to_ascii_lowercase().as_str() {
            "==" => Operator::Equal,
            "~=" => Operator::NotEqual,
            ">" => Operator::Compare(Relation::Greater),
            ">=" => Operator::Compare(Relation::GreaterOrEqual),
            "<" => Operator::Compare(Relation::Less),
            "<=" => Operator::Compare(Relation::LessOrEqual),
            "~~" => Operator::Find(Flags::default()),
            "~*" => Operator::Find(Flags::CASE_INSENSITIVE),
            "in" => Operator::In,
            "has" => Operator::Has,
            "ipmatch" => Operator::IpMatch,
            _ => return None,
        })
    }

    fn negates(self) -> bool {
        self == Operator::NotEqual
    }

    fn test(self, operand: &Value, patterns: Patterns<'_>) -> Result<Test, ExprError> {
        Ok(match (self, operand) {
            (Operator::Equal | Operator::NotEqual, Value::Null) => Test::Absent,
            (Operator::Equal | Operator::NotEqual, _) => Literal::from_json(operand).map_or(Test::Never, Test::Equal),
            (Operator::Compare(relation), Value::Number(n)) => {
                n.as_f64().map_or(Test::Never, |n| Test::Compare(relation, n))
            }
            (Operator::Compare(relation), Value::String(text)) => {
                number_of(text).map_or(Test::Never, |n| Test::Compare(relation, n))
            }
            (Operator::Compare(_), _) => Test::Never,
            (Operator::Find(flags), Value::String(text)) => pattern(text, flags, patterns)?,
            (Operator::Find(flags), Value::Number(n)) => pattern(&n.to_string(), flags, patterns)?,
            (Operator::Find(_), _) => return Err(ExprError::Invalid),
            (Operator::In, Value::Array(values)) => Test::In(Literals::from_json(values)),
            (Operator::In, _) => Test::Never,
            (Operator::Has, _) => Literal::from_json(operand).map_or(Test::Never, Test::Has),
            (Operator::IpMatch, Value::String(entry)) => addresses([Some(entry.as_str())])?,
            (Operator::IpMatch, Value::Array(entries)) => addresses(entries.iter().map(Value::as_str))?,
            (Operator::IpMatch, _) => return Err(ExprError::InvalidAddress),
        })
    }
}

fn pattern(text: &str, flags: Flags, patterns: Patterns<'_>) -> Result<Test, ExprError> {
    let pattern = match patterns {
        Patterns::Now(budget @ Some(_)) => Pattern::compiled(text, flags, budget),
        // It was accepted before, or by another build: that it does not compile is no reason to refuse it now.
        Patterns::Now(None) => Pattern::with_flags(text, flags).inspect(|pattern| drop(pattern.check())),
        Patterns::Later => Pattern::with_flags(text, flags),
    };
    pattern.map(Test::Find).map_err(|error| ExprError::InvalidPattern { pattern: text.to_owned(), error })
}

fn addresses<'v>(entries: impl IntoIterator<Item = Option<&'v str>>) -> Result<Test, ExprError> {
    let entries: Vec<&str> = entries.into_iter().collect::<Option<_>>().ok_or(ExprError::InvalidAddress)?;
    CidrSet::parse(entries).map(Test::Inside).map_err(|_| ExprError::InvalidAddress)
}
