//! From the JSON of a schema to nodes in an arena.

use std::collections::HashMap;

use serde_json::Value;

use super::SchemaError;
use super::keywords::Keywords;
use super::node::{Additional, AnyOf, ArrayRules, Conditional, Dependency, Node, NodeId, ObjectRules, Type};
use crate::pointer::join;

/// Keywords that constrain and are not understood.
const UNSUPPORTED: &[&str] = &[
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
];

/// Compiles the whole document.
pub(super) fn compile(source: &Value) -> Result<(Vec<Node>, NodeId), SchemaError> {
    let mut compiler = Compiler { source, nodes: Vec::new(), places: Vec::new(), targets: HashMap::new() };
    let root = compiler.target(String::new(), source)?;
    compiler.refuse_endless()?;
    Ok((compiler.nodes, root))
}

struct Compiler<'a> {
    source: &'a Value,
    nodes: Vec<Node>,
    /// For each node its place, for messages.
    places: Vec<String>,
    /// Nodes that a `$ref` has led to, by pointer; entered before they are filled, so that recursion ends.
    targets: HashMap<String, NodeId>,
}

impl Compiler<'_> {
    /// The node at a pointer that a `$ref` may name.
    fn target(&mut self, place: String, schema: &Value) -> Result<NodeId, SchemaError> {
        if let Some(&id) = self.targets.get(&place) {
            return Ok(id);
        }
        let id = self.reserve(&place);
        self.targets.insert(place.clone(), id);
        self.nodes[id] = self.node(schema, &place)?;
        Ok(id)
    }

    fn reserve(&mut self, place: &str) -> NodeId {
        self.nodes.push(Node::default());
        self.places.push(place.to_owned());
        self.nodes.len() - 1
    }

    fn add(&mut self, schema: &Value, place: &str) -> Result<NodeId, SchemaError> {
        let id = self.reserve(place);
        self.nodes[id] = self.node(schema, place)?;
        Ok(id)
    }

    fn node(&mut self, schema: &Value, at: &str) -> Result<Node, SchemaError> {
        let words = match schema {
            Value::Bool(allowed) => return Ok(Node { never: !allowed, ..Node::default() }),
            Value::Object(words) => Keywords { words, at },
            _ => return Err(SchemaError::NotASchema { at: at.to_owned() }),
        };
        if let Some(&keyword) = UNSUPPORTED.iter().find(|&&keyword| words.words.contains_key(keyword)) {
            return Err(SchemaError::Unsupported { at: at.to_owned(), keyword: keyword.to_owned() });
        }
        Ok(Node {
            never: false,
            types: words.types()?,
            target: self.reference(&words)?,
            object: self.object(&words)?,
            array: self.array(&words)?,
            string: words.string()?,
            number: words.number()?,
            one_of_values: words.list("enum")?.cloned(),
            constant: words.words.get("const").cloned(),
            all_of: self.branches(&words, "allOf")?.unwrap_or_default(),
            any_of: self.any_of(&words)?,
            one_of: self.branches(&words, "oneOf")?,
            not: self.single(&words, "not")?,
            conditional: match self.single(&words, "if")? {
                Some(test) => Some(Conditional {
                    test,
                    then: self.single(&words, "then")?,
                    otherwise: self.single(&words, "else")?,
                }),
                None => None,
            },
        })
    }

    fn reference(&mut self, words: &Keywords<'_>) -> Result<Option<NodeId>, SchemaError> {
        let Some(target) = words.text("$ref")? else { return Ok(None) };
        let place = target.strip_prefix('#').map(str::to_owned);
        let found = place.and_then(|place| self.source.pointer(&place).map(|schema| (place, schema)));
        match found {
            Some((place, schema)) => self.target(place, schema).map(Some),
            None => Err(SchemaError::Reference { at: words.at.to_owned(), target: target.to_owned() }),
        }
    }

    fn single(&mut self, words: &Keywords<'_>, keyword: &str) -> Result<Option<NodeId>, SchemaError> {
        words.words.get(keyword).map(|schema| self.add(schema, &join(words.at, keyword))).transpose()
    }

    fn list(&mut self, schemas: &[Value], at: &str) -> Result<Vec<NodeId>, SchemaError> {
        schemas.iter().enumerate().map(|(n, schema)| self.add(schema, &join(at, n))).collect()
    }

    fn branches(&mut self, words: &Keywords<'_>, keyword: &str) -> Result<Option<Vec<NodeId>>, SchemaError> {
        words.list(keyword)?.map(|schemas| self.list(schemas, &join(words.at, keyword))).transpose()
    }

    fn any_of(&mut self, words: &Keywords<'_>) -> Result<Option<AnyOf>, SchemaError> {
        let Some(branches) = self.branches(words, "anyOf")? else { return Ok(None) };
        let is_null = |id: &NodeId| self.nodes[*id].types == [Type::Null];
        if let [one, other] = branches[..] {
            if is_null(&other) && !is_null(&one) {
                return Ok(Some(AnyOf::Optional(one)));
            }
            if is_null(&one) && !is_null(&other) {
                return Ok(Some(AnyOf::Optional(other)));
            }
        }
        let required: Vec<String> = words
            .list("anyOf")?
            .into_iter()
            .flatten()
            .filter_map(|branch| branch.get("required").map(Value::to_string))
            .collect();
        let hint = if required.is_empty() { String::new() } else { format!(": {}", required.join(" or ")) };
        Ok(Some(AnyOf::Branches(branches, hint)))
    }

    fn object(&mut self, words: &Keywords<'_>) -> Result<Option<Box<ObjectRules>>, SchemaError> {
        const KEYWORDS: [&str; 9] = [
            "properties",
            "patternProperties",
            "additionalProperties",
            "required",
            "dependencies",
            "dependentRequired",
            "dependentSchemas",
            "minProperties",
            "maxProperties",
        ];
        if !words.any(&KEYWORDS) {
            return Ok(None);
        }
        let mut rules =
            ObjectRules { min: words.size(KEYWORDS[7])?, max: words.size(KEYWORDS[8])?, ..Default::default() };
        for (name, schema) in words.map("properties")?.into_iter().flatten() {
            let place = join(&join(words.at, "properties"), name);
            rules.properties.insert(name.clone(), self.add(schema, &place)?);
        }
        for (source, schema) in words.map("patternProperties")?.into_iter().flatten() {
            let place = join(&join(words.at, "patternProperties"), source);
            rules.patterns.push((words.compile(source)?, self.add(schema, &place)?));
        }
        rules.additional = match words.words.get("additionalProperties") {
            None | Some(Value::Bool(true)) => Additional::Any,
            Some(Value::Bool(false)) => Additional::Forbidden,
            Some(schema) => Additional::Schema(self.add(schema, &join(words.at, "additionalProperties"))?),
        };
        if let Some(required) = words.words.get("required") {
            rules.required = words.names("required", required)?;
        }
        for keyword in ["dependencies", "dependentRequired", "dependentSchemas"] {
            for (name, value) in words.map(keyword)?.into_iter().flatten() {
                let dependency = match value {
                    Value::Array(_) => Dependency::Members(words.names(keyword, value)?),
                    schema => Dependency::Schema(self.add(schema, &join(&join(words.at, keyword), name))?),
                };
                rules.dependencies.push((name.clone(), dependency));
            }
        }
        Ok(Some(Box::new(rules)))
    }

    fn array(&mut self, words: &Keywords<'_>) -> Result<Option<Box<ArrayRules>>, SchemaError> {
        if !words.any(&["items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"]) {
            return Ok(None);
        }
        let mut rules =
            ArrayRules { min: words.size("minItems")?, max: words.size("maxItems")?, ..ArrayRules::default() };
        rules.unique = words.flag("uniqueItems")?;
        rules.first = self.branches(words, "prefixItems")?.unwrap_or_default();
        rules.rest = match words.words.get("items") {
            // The older way to write `prefixItems`, with `additionalItems` for the rest.
            Some(Value::Array(schemas)) => {
                rules.first = self.list(schemas, &join(words.at, "items"))?;
                self.single(words, "additionalItems")?
            }
            _ => self.single(words, "items")?,
        };
        Ok(Some(Box::new(rules)))
    }

    /// Refuses a schema that reaches itself through parts that all judge the same value.
    fn refuse_endless(&self) -> Result<(), SchemaError> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        for start in 0..self.nodes.len() {
            let mut stack = vec![(start, false)];
            while let Some((id, leave)) = stack.pop() {
                if leave {
                    marks[id] = Mark::Done;
                    continue;
                }
                match marks[id] {
                    Mark::Done => continue,
                    Mark::Open => return Err(SchemaError::Endless { at: self.places[id].clone() }),
                    Mark::New => marks[id] = Mark::Open,
                }
                stack.push((id, true));
                stack.extend(self.nodes[id].in_place().filter(|&next| marks[next] != Mark::Done).map(|n| (n, false)));
            }
        }
        Ok(())
    }
}
