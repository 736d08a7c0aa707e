//! The log subscriber of every role.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Environment variable that overrides the filter of the configuration file, in the syntax of
/// [`EnvFilter`]: `info`, `warn,milecastle_proxy=debug`, …
pub const FILTER_VARIABLE: &str = "MILECASTLE_LOG";

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

/// Sets the process's log subscriber: events go to standard error in `format`, filtered by `MILECASTLE_LOG` or, where that
/// is unset, by `filter`. Time stamps are UTC with microseconds. Colours appear only on a terminal.
pub fn init(format: Format, filter: &str) -> Result<(), LogError> {
    let (text, origin) = match std::env::var(FILTER_VARIABLE) {
        Ok(v) if !v.is_empty() => (v, FILTER_VARIABLE),
        _ => (filter.to_owned(), "log.level"),
    };
    let filter = EnvFilter::try_new(&text).map_err(|e| LogError::Filter {
        filter: text.clone(),
        origin,
        reason: e.to_string(),
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(BoxMakeWriter::new(io::stderr));
    let set = match format {
        Format::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
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
