//! The new body.

use super::config::{Filter, Scope};
use crate::decode::Coding;
use milecastle_matching::{Flags, Pattern, Replacement};
use milecastle_plugin_api::{BuildCx, ConfigError};

/// Edits of the body by patterns.
pub(super) struct Filters {
    filters: Box<[Compiled]>,
    cap: usize,
}

struct Compiled {
    /// `None` for an unresolved secret reference: it changes nothing.
    pattern: Option<Pattern>,
    replacement: Replacement,
    scope: Scope,
}

/// Letters that flags may have.
const KNOWN_FLAGS: &str = "adijmosuxDJU";

impl Filters {
    pub(super) fn new(filters: &[Filter], cap: usize, cx: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        let (mut compiled, mut faults) = (Vec::new(), Vec::new());
        for (n, filter) in filters.iter().enumerate() {
            match compile(filter, cx) {
                Ok(pattern) => compiled.push(Compiled {
                    pattern,
                    replacement: Replacement::parse(&filter.replace),
                    scope: filter.scope,
                }),
                Err(reason) => faults.push(ConfigError::at(
                    format!("/filters/{n}/regex"),
                    format!("regex \"{}\" validation failed: {reason}", filter.regex),
                )),
            }
        }
        if faults.is_empty() { Ok(Self { filters: compiled.into(), cap }) } else { Err(faults) }
    }

    /// Bytes of the body that are kept.
    pub(super) fn cap(&self) -> usize {
        self.cap
    }

    /// The edited body. `cut` tells that the kept bytes are not all there were.
    ///
    /// A body that cannot be decoded comes back as it is: its coding can no longer be told to the client, but no byte is
    /// lost.
    pub(super) fn apply(&self, body: Vec<u8>, coding: Coding, cut: bool) -> Vec<u8> {
        let decoded = match coding {
            Coding::Identity => body,
            coding => match coding.decode(&body, self.cap, cut) {
                Ok(decoded) => decoded,
                Err(error) => {
                    tracing::error!(plugin = "response-rewrite", %error, "the body cannot be decoded; it is sent as it came");
                    return body;
                }
            },
        };
        match String::from_utf8(decoded) {
            Ok(text) => self.edit(text).into_bytes(),
            Err(error) => {
                // Bytes as the characters U+0000 to U+00FF: patterns of ASCII work on binary bodies too.
                let text = error.as_bytes().iter().map(|byte| char::from(*byte)).collect();
                let edited = self.edit(text);
                edited
                    .chars()
                    .flat_map(|character| match u8::try_from(character) {
                        Ok(byte) => vec![byte],
                        Err(_) => character.to_string().into_bytes(),
                    })
                    .collect()
            }
        }
    }

    fn edit(&self, mut text: String) -> String {
        for (filter, Compiled { pattern, replacement, scope }) in self.filters.iter().enumerate() {
            let Some(pattern) = pattern else { continue };
            let edited = match scope {
                Scope::Once => pattern.replace_first(&text, replacement),
                Scope::Global => pattern.replace_all(&text, replacement),
            };
            match edited {
                Ok(Some(edited)) => text = edited,
                Ok(None) => {}
                Err(error) => {
                    // By its place: the pattern may be what a reference stands for.
                    tracing::error!(plugin = "response-rewrite", filter, %error, "a filter is left out");
                }
            }
        }
        text
    }
}

fn compile(filter: &Filter, cx: &BuildCx<'_>) -> Result<Option<Pattern>, String> {
    if let Some(unknown) = filter.options.chars().find(|letter| !KNOWN_FLAGS.contains(*letter)) {
        return Err(format!("unknown flag \"{unknown}\""));
    }
    if milecastle_plugin_api::is_reference(&filter.regex) {
        return Ok(None);
    }
    let pattern = cx.pattern(&filter.regex, Flags::parse(&filter.options));
    pattern.map(Some).map_err(|error| error.to_string())
}
