//! One limit, and what it is for a request.

use super::config::{Amount, Config, KeyType, MOST, Metadata, RuleConfig};
use super::quota::{Names, number};
use http::HeaderValue;
use milecastle_matching::{Lookup, Template, Var, VarName};
use milecastle_plugin_api::RequestCx;
use std::borrow::Cow;

/// A limit.
pub(super) struct Rule {
    count: Quantity,
    time_window: Quantity,
    key: Key,
    /// Names of its headers as long as no metadata gives others.
    pub(super) names: Names,
    prefix: Option<Box<str>>,
    /// The limit as a header, if it is always the same.
    limit: Option<HeaderValue>,
}

/// A number, or where it comes from.
enum Quantity {
    Fixed(u64),
    Template(Template),
}

enum Key {
    Var(VarName),
    Combination(Template),
    Constant(Box<str>),
}

/// The limit cannot be determined for this request.
#[derive(Debug)]
pub(super) struct Failed;

/// A limit as it holds for one request.
pub(super) struct Effective<'a> {
    pub(super) key: Cow<'a, str>,
    pub(super) count: u64,
    pub(super) time_window: u64,
}

impl Effective<'_> {
    pub(super) fn into_owned(self) -> Effective<'static> {
        let Self { key, count, time_window } = self;
        Effective { key: Cow::Owned(key.into_owned()), count, time_window }
    }
}

impl Rule {
    /// The only limit; `None` if it is not complete.
    pub(super) fn one(config: &Config) -> Option<Self> {
        let key = match config.key_type {
            KeyType::Var => Key::Var(VarName::parse(&config.key)),
            KeyType::VarCombination => Key::Combination(Template::parse(&config.key)),
            KeyType::Constant => Key::Constant(config.key.as_str().into()),
        };
        Some(Self::new(config.count.as_ref()?, config.time_window.as_ref()?, key, None))
    }

    /// The limits of a list.
    pub(super) fn several(rules: &[RuleConfig]) -> Box<[Self]> {
        let rule = |(n, rule): (usize, &RuleConfig)| {
            let prefix = rule.header_prefix.clone().unwrap_or_else(|| (n + 1).to_string());
            Self::new(&rule.count, &rule.time_window, Key::Combination(Template::parse(&rule.key)), Some(prefix))
        };
        rules.iter().enumerate().map(rule).collect()
    }

    fn new(count: &Amount, time_window: &Amount, key: Key, prefix: Option<String>) -> Self {
        let count = Quantity::new(count);
        Self {
            limit: match count {
                Quantity::Fixed(count) => Some(number(count)),
                Quantity::Template(_) => None,
            },
            count,
            time_window: Quantity::new(time_window),
            key,
            names: Names::new(&Metadata::default(), prefix.as_deref()),
            prefix: prefix.map(String::into_boxed_str),
        }
    }

    /// Names of its headers under this metadata.
    pub(super) fn names_by(&self, metadata: &Metadata) -> Names {
        Names::new(metadata, self.prefix.as_deref())
    }

    /// The limit as a header.
    pub(super) fn limit_header(&self, limit: u64) -> HeaderValue {
        self.limit.clone().unwrap_or_else(|| number(limit))
    }

    /// The limit for a request; a key without value is the client's address.
    pub(super) fn always<'a>(&'a self, cx: &'a RequestCx) -> Result<Effective<'a>, Failed> {
        let key = self.key(cx).unwrap_or_else(|| cx.client_addr());
        self.effective(cx, key)
    }

    /// The limit for a request; `None` if no variable of the key has a value.
    ///
    /// The key is owned, so that several limits can be told of while others are still to be charged.
    pub(super) fn if_resolved(&self, cx: &RequestCx) -> Result<Option<Effective<'static>>, Failed> {
        let Some(key) = self.key(cx) else { return Ok(None) };
        Ok(Some(self.effective(cx, key)?.into_owned()))
    }

    fn effective<'a>(&self, cx: &RequestCx, key: Cow<'a, str>) -> Result<Effective<'a>, Failed> {
        Ok(Effective { key, count: self.count.of(cx)?, time_window: self.time_window.of(cx)? })
    }

    fn key<'a>(&'a self, cx: &'a RequestCx) -> Option<Cow<'a, str>> {
        match &self.key {
            Key::Constant(text) => Some(Cow::Borrowed(text)),
            Key::Var(name) => cx.var(name).map(|value| match value {
                Var::Str(text) => text,
                other => Cow::Owned(other.text().into_owned()),
            }),
            Key::Combination(template) => {
                let rendered = template.render(cx);
                (rendered.resolved > 0).then_some(Cow::Owned(rendered.text))
            }
        }
    }
}

impl Quantity {
    fn new(amount: &Amount) -> Self {
        match amount {
            Amount::Number(number) => Self::Fixed(*number),
            Amount::Template(text) => Self::Template(Template::parse(text)),
        }
    }

    /// The number for a request: positive, whole, below 2^53.
    fn of(&self, cx: &RequestCx) -> Result<u64, Failed> {
        match self {
            Self::Fixed(number) => Ok(*number),
            Self::Template(template) => {
                let number = Var::from(template.render(cx).text).number().ok_or(Failed)?;
                if (1.0..=MOST as f64).contains(&number) && number.fract() == 0.0 {
                    Ok(number as u64)
                } else {
                    Err(Failed)
                }
            }
        }
    }
}
