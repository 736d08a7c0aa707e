//! Reading the keywords of one schema object.

use serde_json::{Map, Number, Value};

use super::SchemaError;
use super::node::{Format, NumberRules, StringRules, Type};
use super::pattern::Pattern;

/// The members of one schema object, and where it stands.
pub(super) struct Keywords<'a> {
    pub(super) words: &'a Map<String, Value>,
    pub(super) at: &'a str,
}

impl<'a> Keywords<'a> {
    pub(super) fn any(&self, keywords: &[&str]) -> bool {
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

    pub(super) fn text(&self, keyword: &str) -> Result<Option<&'a str>, SchemaError> {
        self.read(keyword, "a string", Value::as_str)
    }

    pub(super) fn list(&self, keyword: &str) -> Result<Option<&'a Vec<Value>>, SchemaError> {
        self.read(keyword, "an array", Value::as_array)
    }

    pub(super) fn map(&self, keyword: &str) -> Result<Option<&'a Map<String, Value>>, SchemaError> {
        self.read(keyword, "an object", Value::as_object)
    }

    pub(super) fn flag(&self, keyword: &str) -> Result<bool, SchemaError> {
        Ok(self.read(keyword, "a boolean", Value::as_bool)?.unwrap_or(false))
    }

    pub(super) fn size(&self, keyword: &str) -> Result<Option<u64>, SchemaError> {
        self.read(keyword, "a non-negative integer", |value| match value {
            Value::Number(number) => super::whole(number).and_then(|size| u64::try_from(size).ok()),
            _ => None,
        })
    }

    fn bound(&self, keyword: &str) -> Result<Option<Number>, SchemaError> {
        self.read(keyword, "a number", |value| value.as_number().cloned())
    }

    pub(super) fn names(&self, keyword: &str, value: &Value) -> Result<Vec<String>, SchemaError> {
        let names = value.as_array().map(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
        names.flatten().ok_or_else(|| self.malformed(keyword, "an array of strings"))
    }

    pub(super) fn compile(&self, source: &str) -> Result<Pattern, SchemaError> {
        Pattern::new(source).map_err(|reason| SchemaError::Pattern {
            at: self.at.to_owned(),
            pattern: source.to_owned(),
            reason,
        })
    }

    pub(super) fn types(&self) -> Result<Vec<Type>, SchemaError> {
        const EXPECTED: &str = "a type name or an array of them";
        let one = |name: &Value| Type::ALL.into_iter().find(|known| name.as_str() == Some(known.name()));
        let types = self.read("type", EXPECTED, |value| match value {
            Value::Array(names) if !names.is_empty() => names.iter().map(one).collect(),
            name => one(name).map(|one| vec![one]),
        })?;
        Ok(types.unwrap_or_default())
    }

    pub(super) fn string(&self) -> Result<Option<Box<StringRules>>, SchemaError> {
        let rules = StringRules {
            min: self.size("minLength")?,
            max: self.size("maxLength")?,
            pattern: self.text("pattern")?.map(|source| self.compile(source)).transpose()?,
            format: self.text("format")?.and_then(Format::from_name),
        };
        let idle = rules.min.is_none() && rules.max.is_none() && rules.pattern.is_none() && rules.format.is_none();
        Ok((!idle).then(|| Box::new(rules)))
    }

    pub(super) fn number(&self) -> Result<Option<Box<NumberRules>>, SchemaError> {
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
