//! From the JSON of a schema to nodes in an arena.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

use super::SchemaError;
use super::pattern::Pattern;
use crate::pointer::join;

/// Index into the arena.
pub(super) type NodeId = usize;

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
    const ALL: [Type; 7] =
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

impl Node {
    /// The nodes that judge the same value as this one.
    fn in_place(&self) -> impl Iterator<Item = NodeId> {
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

/// The members of one schema object, and where it stands.
struct Keywords<'a> {
    words: &'a Map<String, Value>,
    at: &'a str,
}

impl<'a> Keywords<'a> {
    fn any(&self, keywords: &[&str]) -> bool {
        keywords.iter().any(|&keyword| self.words.contains_key(keyword))
    }

    fn malformed(&self, keyword: &str, expected: &'static str) -> SchemaError {
        SchemaError::Malformed { at: self.at.to_owned(), keyword: keyword.to_owned(), expected }
    }

    /// The keyword read by `read`, which gives `None` for a wrong form.
    fn read<T>(
        &self,
        keyword: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, SchemaError> {
        let value = self.words.get(keyword);
        value.map(|value| read(value).ok_or_else(|| self.malformed(keyword, expected))).transpose()
    }

    fn text(&self, keyword: &str) -> Result<Option<&'a str>, SchemaError> {
        self.read(keyword, "a string", Value::as_str)
    }

    fn list(&self, keyword: &str) -> Result<Option<&'a Vec<Value>>, SchemaError> {
        self.read(keyword, "an array", Value::as_array)
    }

    fn map(&self, keyword: &str) -> Result<Option<&'a Map<String, Value>>, SchemaError> {
        self.read(keyword, "an object", Value::as_object)
    }

    fn flag(&self, keyword: &str) -> Result<bool, SchemaError> {
        Ok(self.read(keyword, "a boolean", Value::as_bool)?.unwrap_or(false))
    }

    fn size(&self, keyword: &str) -> Result<Option<u64>, SchemaError> {
        self.read(keyword, "a non-negative integer", |value| match value {
            Value::Number(number) => super::whole(number).and_then(|size| u64::try_from(size).ok()),
            _ => None,
        })
    }

    fn bound(&self, keyword: &str) -> Result<Option<Number>, SchemaError> {
        self.read(keyword, "a number", |value| value.as_number().cloned())
    }

    fn names(&self, keyword: &str, value: &Value) -> Result<Vec<String>, SchemaError> {
        let names = value.as_array().map(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
        names.flatten().ok_or_else(|| self.malformed(keyword, "an array of strings"))
    }

    fn compile(&self, source: &str) -> Result<Pattern, SchemaError> {
        Pattern::new(source).map_err(|reason| SchemaError::Pattern {
            at: self.at.to_owned(),
            pattern: source.to_owned(),
            reason,
        })
    }

    fn types(&self) -> Result<Vec<Type>, SchemaError> {
        const EXPECTED: &str = "a type name or an array of them";
        let one = |name: &Value| Type::ALL.into_iter().find(|known| name.as_str() == Some(known.name()));
        let types = self.read("type", EXPECTED, |value| match value {
            Value::Array(names) if !names.is_empty() => names.iter().map(one).collect(),
            name => one(name).map(|one| vec![one]),
        })?;
        Ok(types.unwrap_or_default())
    }

    fn string(&self) -> Result<Option<Box<StringRules>>, SchemaError> {
        let rules = StringRules {
            min: self.size("minLength")?,
            max: self.size("maxLength")?,
            pattern: self.text("pattern")?.map(|source| self.compile(source)).transpose()?,
            format: self.text("format")?.and_then(Format::from_name),
        };
        let idle = rules.min.is_none() && rules.max.is_none() && rules.pattern.is_none() && rules.format.is_none();
        Ok((!idle).then(|| Box::new(rules)))
    }

    fn number(&self) -> Result<Option<Box<NumberRules>>, SchemaError> {
        const KEYWORDS: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
        if !self.any(&KEYWORDS) {
            return Ok(None);
        }
        let multiple = self.bound(KEYWORDS[4])?;
        if multiple.as_ref().is_some_and(|multiple| multiple.as_f64().is_none_or(|m| m <= 0.0)) {
            return Err(self.malformed(KEYWORDS[4], "a number above zero"));
        }
        Ok(Some(Box::new(NumberRules {
            min: self.bound(KEYWORDS[0])?,
            max: self.bound(KEYWORDS[1])?,
            above: self.bound(KEYWORDS[2])?,
            below: self.bound(KEYWORDS[3])?,
            multiple,
        })))
    }
}

impl Format {
    fn from_name(name: &str) -> Option<Format> {
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
