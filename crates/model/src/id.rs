//! Identifiers (`docs/spec/admin-api.md` §6.1).

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::Value;

/// Most characters an id may have.
const MAX_CHARS: usize = 64;

/// An object's id in its string form, by which all ids are compared: `1` and `"1"` are the same id.
///
/// Parsed from text it holds 1–64 characters of `[a-zA-Z0-9-_.]`. An attribute such as `upstream_id` deserializes from
/// a string or an integer; since the schema has judged it before, any string is taken over as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(Arc<str>);

/// Why a value is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// No character at all.
    #[error("an id must not be empty")]
    Empty,
    /// Over 64 characters.
    #[error("an id has at most 64 characters, this one has {0}")]
    TooLong(usize),
    /// A character outside the permitted set.
    #[error("an id consists of letters, digits, '-', '_' and '.', not {0:?}")]
    Character(char),
    /// An integer below 1.
    #[error("a numeric id must be at least 1")]
    NotPositive,
    /// Neither a string nor an integer.
    #[error("an id must be a string or an integer")]
    Type,
}

impl Id {
    /// The id an attribute holds: a string by the rules of [`Id::from_str`], or an integer ≥ 1.
    pub fn from_value(value: &Value) -> Result<Id, IdError> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => match crate::schema::whole(number) {
                Some(whole) if whole < 1 => Err(IdError::NotPositive),
                Some(whole) => Ok(Id(whole.to_string().into())),
                None => Err(IdError::Type),
            },
            _ => Err(IdError::Type),
        }
    }

    /// The string form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The string form, shared.
    pub fn into_arc(self) -> Arc<str> {
        self.0
    }
}

impl FromStr for Id {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Id, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if let Some(odd) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
            return Err(IdError::Character(odd));
        }
        if text.len() > MAX_CHARS {
            return Err(IdError::TooLong(text.len()));
        }
        Ok(Id(text.into()))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        struct IdVisitor;

        impl Visitor<'_> for IdVisitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id: a string or a positive integer")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
                Ok(Id(text.into()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Id, E> {
                Ok(Id(number.to_string().into()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Id, E> {
                let number = serde_json::Number::from_f64(number).and_then(|n| crate::schema::whole(&n));
                number.map(|whole| Id(whole.to_string().into())).ok_or_else(|| E::custom(IdError::Type))
            }
        }

        deserializer.deserialize_any(IdVisitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_by_the_rules() {
        let long = "x".repeat(65);
        let check = |value: Value, expected: Result<&str, IdError>| {
            let id = Id::from_value(&value);
            assert_eq!(id.as_ref().map(Id::as_str).map_err(|e| *e), expected, "{value}");
        };
        check(json!("1"), Ok("1"));
        check(json!("a-b_c.D9"), Ok("a-b_c.D9"));
        check(json!("x".repeat(64)), Ok(long.get(1..).unwrap()));
        check(json!(7), Ok("7"));
        check(json!(7.0), Ok("7"));
        check(json!(u64::MAX), Ok("18446744073709551615"));
        check(json!(""), Err(IdError::Empty));
        check(json!(long), Err(IdError::TooLong(65)));
        check(json!("a/b"), Err(IdError::Character('/')));
        check(json!("ä"), Err(IdError::Character('ä')));
        check(json!(0), Err(IdError::NotPositive));
        check(json!(-3), Err(IdError::NotPositive));
        check(json!(1.5), Err(IdError::Type));
        check(json!(null), Err(IdError::Type));
        check(json!(["1"]), Err(IdError::Type));
    }

    #[test]
    fn attributes_deserialize_from_strings_and_integers() {
        for value in [json!("12"), json!(12), json!(12.0)] {
            assert_eq!(serde_json::from_value::<Id>(value).unwrap().as_str(), "12");
        }
        assert!(serde_json::from_value::<Id>(json!(true)).is_err());
        assert!(serde_json::from_value::<Id>(json!(1.5)).is_err());
    }
}
