//! The log subscriber of every role.

use std::fmt;
use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::warnings::Collect;

/// Environment variable that overrides the filter of the configuration file, in the syntax of
/// [`EnvFilter`]: `info`, `warn,milecastle_proxy=debug`, …
pub const FILTER_VARIABLE: &str = "MILECASTLE_LOG";

/// The levels of a filter, from the quietest on.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The library of HTTP/2 warns of each frame with which a peer breaks the rules, so that any client could fill the disk. What
/// comes of it is counted.
const QUIET: &str = "h2=error";

/// How a log line is written. The same for each role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line of text for each event, for people.
    #[default]
    Text,
    /// One JSON object for each event, for collectors.
    Json,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error(
        "log filter `{filter}` (from {origin}) is not valid: {reason}; use e.g. `info` or `warn,milecastle_proxy=debug`"
    )]
    Filter {
        /// The filter as given.
        filter: String,
        /// Where it was given.
        origin: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// A subscriber is set already.
    #[error("logging is already set up in this process")]
    Twice,
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A word where a level belongs. As the name of a module, which the syntax of [`EnvFilter`] would take it for, it would
    /// silence all the others.
    #[error("`{0}` is no level; there are {levels}", levels = LEVELS.join(", "))]
    Level(String),
    /// The filter does not parse.
    #[error("{0}")]
    Syntax(String),
}

/// Finds what is wrong with a filter: besides its syntax, levels that are none. A module stands with its level,
/// `milecastle_proxy=debug`, or with its path, `milecastle_proxy::node`.
///
/// # Errors
/// [`FilterError`].
pub fn check_filter(filter: &str) -> Result<(), FilterError> {
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    for directive in filter.split(',').map(str::trim) {
        // A module by its path, or a span in brackets, may stand alone.
        let level = match directive.rsplit_once('=') {
            _ if directive.ends_with(']') => continue,
            Some((_, level)) => level.trim(),
            None if directive.contains("::") => continue,
            None => directive,
        };
        if !is_level(level) {
            return Err(FilterError::Level(level.to_owned()));
        }
    }
    EnvFilter::try_new(filter).map(drop).map_err(|error| FilterError::Syntax(error.to_string()))
}

/// The filter, in which [`QUIET`] holds unless the text says otherwise.
fn parse(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(text)?;
    let named = text.split(',').any(|directive| directive.starts_with("h2"));
    if named || filter.max_level_hint() <= Some(LevelFilter::ERROR) {
        return Ok(filter);
    }
    EnvFilter::try_new(format!("{text},{QUIET}"))
}

/// Sets the process's log subscriber: events go to standard error in `format`, filtered by `MILECASTLE_LOG` or, where that is
/// unset, by `filter`; warnings and errors are kept as [`crate::warnings`] too. Time stamps are UTC with microseconds. There
/// are no colours: the subscriber is built without them, and says so in each process that asks for them.
pub fn init(format: Format, filter: &str) -> Result<(), LogError> {
    let (text, origin) = match std::env::var(FILTER_VARIABLE) {
        Ok(v) if !v.is_empty() => (v, FILTER_VARIABLE),
        _ => (filter.to_owned(), "log.level"),
    };
    let fault = |reason: String| LogError::Filter { filter: text.clone(), origin, reason };
    check_filter(&text).map_err(|error| fault(error.to_string()))?;
    let filter = parse(&text).map_err(|error| fault(error.to_string()))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(BoxMakeWriter::new(io::stderr));
    let set = match format {
        Format::Text => builder.with_ansi(false).finish().with(Collect).try_init(),
        Format::Json => builder.json().flatten_event(true).finish().with(Collect).try_init(),
    };
    set.map_err(|_| LogError::Twice)
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_of_http2_is_quiet_unless_it_is_named() {
        for text in ["info", "warn,milecastle_proxy=debug"] {
            assert!(parse(text).unwrap().to_string().contains(QUIET), "{text}");
        }
        for text in ["off", "error", "info,h2=debug", "warn,h2::proto=trace"] {
            assert!(!parse(text).unwrap().to_string().contains(QUIET), "{text}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_no_filter() {
        for good in [
            "info",
            "WARN",
            "off",
            "warn,milecastle_proxy=debug",
            "milecastle_proxy::node",
            "warn,[request{id=1}]=trace,[join]",
        ] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        for (bad, word) in [
            ("wrn", "wrn"),
            ("", ""),
            ("info,", ""),
            ("milecastle_proxy=dbg,warn", "dbg"),
            ("warn,milecastle_proxy", "milecastle_proxy"),
        ] {
            assert_eq!(check_filter(bad), Err(FilterError::Level(word.into())), "{bad}");
        }
        assert!(matches!(check_filter("warn,[a=debug"), Err(FilterError::Syntax(_))));
    }
}
