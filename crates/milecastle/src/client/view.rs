//! Answers on standard output: columns for people, JSON for programs.

use super::cli::Output;
use anyhow::Context;
use serde_json::Value;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// A table in the making.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these words above its columns.
    pub(crate) fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|head| head.to_uppercase()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cell = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// The columns side by side.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// Writes an answer: itself as JSON, or the text that `text` makes of it.
pub(super) fn show(output: Output, answer: &Value, text: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
    say(&match output {
        Output::Json => serde_json::to_string_pretty(answer).context("an answer is JSON")?,
        Output::Table => text(answer),
    })
}

/// Writes to standard output. Whoever reads it may stop before the end, as `head` does.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    write_to(&mut std::io::stdout().lock(), text).context("cannot write to standard output")
}

fn write_to(out: &mut impl Write, text: &str) -> io::Result<()> {
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Says something to people beside the answer, on standard error.
pub(crate) fn tell(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stderr(), "{text}").context("cannot write to standard error")
}

/// The items of an answer that is a list.
pub(super) fn items(answer: &Value) -> impl Iterator<Item = &Value> {
    answer.get("list").and_then(Value::as_array).into_iter().flatten()
}

/// A member as text; empty if there is none.
pub(super) fn text(item: &Value, member: &str) -> String {
    match item.get(member) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// How long ago a member's moment was, in Unix seconds; empty if there is none.
pub(super) fn ago(item: &Value, member: &str) -> String {
    item.get(member).and_then(Value::as_u64).map(relative).unwrap_or_default()
}

/// The time of this machine, in Unix seconds.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// How long ago a moment was, or how long it is until then, in Unix seconds.
pub(crate) fn relative(at: u64) -> String {
    let now = now();
    if at > now { format!("in {}", span(at - now)) } else { format!("{} ago", span(now - at)) }
}

/// A length of time with one unit, rounded down.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must() {
        let mut table = Table::new(&["id", "name"]);
        table.row(["1".to_owned(), "é".to_owned()]);
        table.row(["long".to_owned(), String::new()]);
        assert_eq!(table.text(), "ID    NAME\n1     é\nlong  -");
    }

    #[test]
    fn a_reader_that_stops_is_no_failure() {
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        write_to(&mut writer, "nobody reads this").unwrap();
        let mut full: &mut [u8] = &mut [0; 4];
        assert_eq!(write_to(&mut full, "too long").unwrap_err().kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn spans_of_time() {
        let check = |seconds, expected: &str| assert_eq!(span(seconds), expected);
        check(0, "0s");
        check(119, "119s");
        check(150, "2m");
        check(7200, "2h");
        check(86_400 * 3, "3d");
    }
}
