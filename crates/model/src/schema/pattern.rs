//! Regular expressions of schemas, all of which are our own: no client makes one large.

/// Steps a backtracking match may take before it counts as no match.
const BACKTRACK_LIMIT: usize = 100_000;

/// A compiled expression, linear in the input wherever the syntax allows.
#[derive(Debug)]
pub(super) struct Pattern {
    source: String,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Linear(regex::Regex),
    Backtracking(Box<fancy_regex::Regex>),
}

impl Pattern {
    /// Compiles; the error is the engine's own text.
    pub(super) fn new(source: &str) -> Result<Pattern, String> {
        let engine = match regex::Regex::new(source) {
            Ok(regex) => Engine::Linear(regex),
            Err(error @ regex::Error::CompiledTooBig(_)) => return Err(error.to_string()),
            Err(_) => {
                let built = fancy_regex::RegexBuilder::new(source).backtrack_limit(BACKTRACK_LIMIT).build();
                Engine::Backtracking(Box::new(built.map_err(|error| error.to_string())?))
            }
        };
        Ok(Pattern { source: source.to_owned(), engine })
    }

    /// Whether the expression is found anywhere in `text`.
    pub(super) fn matches(&self, text: &str) -> bool {
        match &self.engine {
            Engine::Linear(regex) => regex.is_match(text),
            Engine::Backtracking(regex) => regex.is_match(text).unwrap_or(false),
        }
    }

    /// The expression as written.
    pub(super) fn source(&self) -> &str {
        &self.source
    }
}
