//! What a line looks like.

use super::escape;
use milecastle_matching::{Lookup, Template};
use milecastle_settings::EscapeStyle;

/// A format of lines, compiled once.
#[derive(Debug)]
pub(super) struct Format {
    template: Template,
    escape: EscapeStyle,
}

impl Format {
    /// `text` with `$variables`, and how their values are escaped.
    pub(super) fn new(text: &str, escape: EscapeStyle) -> Self {
        let template = Template::parse(text);
        // Only escaped as nginx does by default, a variable without a value shows; one whose value is empty never does.
        let template = if escape == EscapeStyle::Default { template.with_fallback("-") } else { template };
        Self { template, escape }
    }

    /// Appends the line of a request or session, with its line feed.
    pub(super) fn write(&self, line: &mut String, vars: &dyn Lookup) {
        match self.escape {
            EscapeStyle::Default => self.template.render_mapped(line, vars, escape::default),
            EscapeStyle::Json => self.template.render_mapped(line, vars, escape::json),
            EscapeStyle::None => self.template.render_into(line, vars),
        };
        line.push('\n');
    }

    /// Whether a line shows a header or a trailer of the answer.
    pub(super) fn reads_answer_head(&self) -> bool {
        self.template.names().any(|name| name.family().is_of_answer())
    }
}
