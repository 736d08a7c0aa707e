//! Judging a value by compiled nodes.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde_json::{Map, Number, Value};

use super::MAX_FAULTS;
use super::node::{
    Additional, AnyOf, ArrayRules, Dependency, Format, Node, NodeId, NumberRules, ObjectRules, StringRules, Type,
};
use super::number::{canonical, compare, is_multiple, text, whole};
use super::text::{At, Step, lua_type, quoted};
use crate::{Fault, is_reference, pointer};

/// All faults, up to [`MAX_FAULTS`].
pub(super) fn faults(nodes: &[Node], root: NodeId, value: &Value) -> Vec<Fault> {
    Walk { nodes }.gather(root, value, MAX_FAULTS)
}

/// Whether there is no fault.
pub(super) fn passes(nodes: &[Node], root: NodeId, value: &Value) -> bool {
    Walk { nodes }.passes(root, value)
}

/// Where faults go.
enum Findings {
    /// Gathered with their texts, until there are so many.
    Gathered(Vec<Fault>, usize),
    /// Only whether there was one; no text is made.
    First(bool),
}

impl Findings {
    fn add(&mut self, at: &At<'_>, message: impl FnOnce() -> String) {
        match self {
            Findings::Gathered(faults, _) => {
                faults.push(Fault::configuration(at.pointer(), at.prefix() + &message()));
            }
            Findings::First(failed) => *failed = true,
        }
    }

    /// A fault of a member of the place, spoken of from the place.
    fn add_member(&mut self, at: &At<'_>, name: &str, message: impl FnOnce() -> String) {
        match self {
            Findings::Gathered(faults, _) => {
                faults.push(Fault::configuration(pointer::join(&at.pointer(), name), at.prefix() + &message()));
            }
            Findings::First(failed) => *failed = true,
        }
    }

    /// Nothing found from here on would be used.
    fn full(&self) -> bool {
        match self {
            Findings::Gathered(faults, most) => faults.len() >= *most,
            Findings::First(failed) => *failed,
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Walk<'n> {
    pub(super) nodes: &'n [Node],
}

impl Walk<'_> {
    fn passes(self, id: NodeId, value: &Value) -> bool {
        let mut found = Findings::First(false);
        self.judge(id, value, &At::ROOT, &mut found);
        !found.full()
    }

    /// The faults of `value`, looked for until there are `most`.
    pub(super) fn gather(self, id: NodeId, value: &Value, most: usize) -> Vec<Fault> {
        let mut found = Findings::Gathered(Vec::new(), most);
        self.judge(id, value, &At::ROOT, &mut found);
        match found {
            Findings::Gathered(faults, _) => faults,
            Findings::First(_) => Vec::new(),
        }
    }

    fn judge(self, id: NodeId, value: &Value, at: &At<'_>, found: &mut Findings) {
        let node = &self.nodes[id];
        if found.full() {
            return;
        }
        if node.never {
            return found.add(at, || "no value is allowed here".to_owned());
        }
        if node.takes_references() && value.as_str().is_some_and(is_reference) {
            return;
        }
        if !node.types.is_empty() && !node.types.iter().any(|kind| is_type(*kind, value)) {
            return found.add(at, || wrong_type(&node.types, value));
        }
        if let Some(target) = node.target {
            self.judge(target, value, at, found);
        }
        if let Some(rules) = &node.object {
            self.object(rules, value, at, found);
        }
        if let Some(rules) = &node.array {
            self.array(rules, value, at, found);
        }
        match value {
            Value::String(value) => node.string.iter().for_each(|rules| string(rules, value, at, found)),
            Value::Number(value) => node.number.iter().for_each(|rules| number(rules, value, at, found)),
            _ => {}
        }
        self.combinations(node, value, at, found);
    }

    fn combinations(self, node: &Node, value: &Value, at: &At<'_>, found: &mut Findings) {
        if node.one_of_values.as_ref().is_some_and(|values| !values.iter().any(|one| same(one, value))) {
            found.add(at, || "matches none of the enum values".to_owned());
        }
        if node.constant.as_ref().is_some_and(|constant| !same(constant, value)) {
            found.add(at, || "failed to check const value".to_owned());
        }
        for (n, branch) in node.all_of.iter().enumerate() {
            self.judge(*branch, value, &at.then(Step::AllOf(n)), found);
        }
        match &node.any_of {
            Some(AnyOf::Optional(branch)) if !value.is_null() => self.judge(*branch, value, at, found),
            Some(AnyOf::Branches(branches, hint)) if !branches.iter().any(|branch| self.passes(*branch, value)) => {
                let reasons = || if hint.is_empty() { self.none_fits(node, branches, value) } else { hint.clone() };
                found.add(at, || format!("object matches none of the required{}", reasons()));
            }
            _ => {}
        }
        if let Some(branches) = &node.one_of {
            let mut passing = (1..).zip(branches).filter(|(_, branch)| self.passes(**branch, value));
            match (passing.next(), passing.next()) {
                (None, _) => found.add(at, || {
                    let reasons = self.none_fits(node, branches, value);
                    format!("value should match only one schema, but matches none{reasons}")
                }),
                (Some((one, first)), Some((other, second))) => found.add(at, || {
                    let reason = self.both_fit(*first, *second);
                    format!("value should match only one schema, but matches both schemas {one} and {other}{reason}")
                }),
                (Some(_), None) => {}
            }
        }
        if node.not.is_some_and(|not| self.passes(not, value)) {
            found.add(at, || "value wasn't supposed to match schema".to_owned());
        }
        if let Some(conditional) = &node.conditional {
            let (clause, name) = match self.passes(conditional.test, value) {
                true => (conditional.then, "then"),
                false => (conditional.otherwise, "else"),
            };
            if let Some(clause) = clause.filter(|clause| !self.passes(*clause, value)) {
                found.add(at, || format!("{name} clause did not match{}", self.none_fits(node, &[clause], value)));
            }
        }
    }

    fn object(self, rules: &ObjectRules, value: &Value, at: &At<'_>, found: &mut Findings) {
        let none = Map::new();
        let members = match value {
            Value::Object(members) => members,
            Value::Array(items) if items.is_empty() => &none,
            _ => return,
        };
        for (name, member) in members {
            if found.full() {
                return;
            }
            self.member(rules, name, member, at, found);
        }
        for name in rules.required.iter().filter(|name| !members.contains_key(*name)) {
            found.add_member(at, name, || format!("property \"{name}\" is required"));
        }
        for (name, dependency) in rules.dependencies.iter().filter(|(name, _)| members.contains_key(name)) {
            match dependency {
                Dependency::Members(needed) => {
                    for other in needed.iter().filter(|other| !members.contains_key(*other)) {
                        let text = || format!("property \"{other}\" is required when \"{name}\" is set");
                        found.add_member(at, other, text);
                    }
                }
                Dependency::Schema(id) => self.judge(*id, value, &at.then(Step::Dependent(name)), found),
            }
        }
        size("object", "properties", members.len(), rules.min, rules.max, at, found);
    }

    fn member(self, rules: &ObjectRules, name: &str, member: &Value, at: &At<'_>, found: &mut Findings) {
        let mut known = false;
        if let Some(id) = rules.properties.get(name) {
            known = true;
            self.judge(*id, member, &at.then(Step::Property(name)), found);
        }
        for (pattern, id) in rules.patterns.iter().filter(|(pattern, _)| pattern.matches(name)) {
            known = true;
            self.judge(*id, member, &at.then(Step::Matching(name, pattern.source())), found);
        }
        match &rules.additional {
            Additional::Forbidden if !known => {
                found.add_member(at, name, || format!("additional properties forbidden, found {name}"));
            }
            Additional::Schema(id) if !known => self.judge(*id, member, &at.then(Step::Additional(name)), found),
            _ => {}
        }
    }

    fn array(self, rules: &ArrayRules, value: &Value, at: &At<'_>, found: &mut Findings) {
        let items: &[Value] = match value {
            Value::Array(items) => items,
            Value::Object(members) if members.is_empty() => &[],
            _ => return,
        };
        let schemas = rules.first.iter().copied().map(Some).chain(std::iter::repeat(rules.rest));
        for ((n, item), schema) in items.iter().enumerate().zip(schemas) {
            if found.full() {
                return;
            }
            if let Some(id) = schema {
                self.judge(id, item, &at.then(Step::Item(n)), found);
            }
        }
        size("array", "items", items.len(), rules.min, rules.max, at, found);
        if rules.unique {
            let mut seen: HashMap<String, usize> = HashMap::with_capacity(items.len());
            for (n, item) in (1..).zip(items) {
                let first = *seen.entry(canonical(item)).or_insert(n);
                if first != n && !found.full() {
                    found.add(at, || format!("expected unique items but items {first} and {n} are equal"));
                }
            }
        }
    }
}

impl Node {
    /// Whether a secret or environment reference may stand here: the schema asks for a string or for nothing special.
    fn takes_references(&self) -> bool {
        let strings = self.types.iter().all(|kind| matches!(kind, Type::String | Type::Null));
        strings && (self.types.is_empty() || self.types.contains(&Type::String))
    }
}

pub(super) fn is_type(kind: Type, value: &Value) -> bool {
    match (kind, value) {
        (Type::Null, Value::Null)
        | (Type::Boolean, Value::Bool(_))
        | (Type::Number, Value::Number(_))
        | (Type::String, Value::String(_))
        | (Type::Array, Value::Array(_))
        | (Type::Object, Value::Object(_)) => true,
        (Type::Integer, Value::Number(number)) => whole(number).is_some(),
        (Type::Object, Value::Array(items)) => items.is_empty(),
        (Type::Array, Value::Object(members)) => members.is_empty(),
        _ => false,
    }
}

fn wrong_type(expected: &[Type], value: &Value) -> String {
    let got = lua_type(value);
    match expected {
        [one] => format!("wrong type: expected {}, got {got}", one.name()),
        several => {
            let names: Vec<&str> = several.iter().map(|kind| kind.name()).collect();
            format!("wrong type: expected one of {}, got {got}", names.join(", "))
        }
    }
}

fn size(what: &str, parts: &str, len: usize, min: Option<u64>, max: Option<u64>, at: &At<'_>, found: &mut Findings) {
    let len = len as u64;
    if let Some(min) = min.filter(|min| len < *min) {
        found.add(at, || format!("expect {what} to have at least {min} {parts}"));
    }
    if let Some(max) = max.filter(|max| len > *max) {
        found.add(at, || format!("expect {what} to have at most {max} {parts}"));
    }
}

fn string(rules: &StringRules, value: &str, at: &At<'_>, found: &mut Findings) {
    if rules.min.is_some() || rules.max.is_some() {
        let len = value.chars().count() as u64;
        if let Some(min) = rules.min.filter(|min| len < *min) {
            found.add(at, || format!("string too short, expected at least {min}, got {len}"));
        }
        if let Some(max) = rules.max.filter(|max| len > *max) {
            found.add(at, || format!("string too long, expected at most {max}, got {len}"));
        }
    }
    if let Some(pattern) = rules.pattern.as_ref().filter(|pattern| !pattern.matches(value)) {
        found.add(at, || format!("failed to match pattern {} with {}", quoted(pattern.source()), quoted(value)));
    }
    if let Some(format) = rules.format.filter(|format| !is_format(*format, value)) {
        found.add(at, || format!("expect valid {} format but got: {value}", format.name()));
    }
}

fn is_format(format: Format, value: &str) -> bool {
    match format {
        Format::Ipv4 => value.parse::<Ipv4Addr>().is_ok(),
        Format::Ipv6 => value.parse::<Ipv6Addr>().is_ok(),
        Format::Ipv4Cidr => is_cidr::<Ipv4Addr>(value, 32),
        Format::Ipv6Cidr => is_cidr::<Ipv6Addr>(value, 128),
    }
}

fn is_cidr<A: FromStr>(value: &str, max: u8) -> bool {
    value.split_once('/').is_some_and(|(address, bits)| {
        let digits = bits.bytes().all(|byte| byte.is_ascii_digit());
        address.parse::<A>().is_ok() && digits && bits.parse::<u8>().is_ok_and(|bits| bits <= max)
    })
}

fn number(rules: &NumberRules, value: &Number, at: &At<'_>, found: &mut Findings) {
    let limits = [
        (&rules.min, "at least", Ordering::is_ge as fn(Ordering) -> bool),
        (&rules.max, "at most", Ordering::is_le),
        (&rules.above, "greater than", Ordering::is_gt),
        (&rules.below, "smaller than", Ordering::is_lt),
    ];
    for (limit, words, holds) in limits {
        if let Some(limit) = limit.as_ref().filter(|limit| !holds(compare(value, limit))) {
            found.add(at, || format!("expected {} to be {words} {}", text(value), text(limit)));
        }
    }
    if let Some(divisor) = rules.multiple.as_ref().filter(|divisor| !is_multiple(value, divisor)) {
        found.add(at, || format!("expected {} to be a multiple of {}", text(value), text(divisor)));
    }
}

/// Equality of JSON values in which `1` equals `1.0` and the order of members does not count.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b).is_eq(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}
