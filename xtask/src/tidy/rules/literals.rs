//! The texts of the string literals of Rust source.

use std::str::Chars;

/// The texts of the string literals of a file.
pub(super) fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some((before, after)) = rest.split_once('"') {
        let without_marks = before.trim_end_matches('#');
        if without_marks.ends_with('r') {
            let end = format!("\"{}", "#".repeat(before.len() - without_marks.len()));
            let Some((text, left)) = after.split_once(&end) else { break };
            found.push(text.to_owned());
            rest = left;
        } else if before.ends_with('\'') {
            // A character, not the beginning of a text.
            rest = after;
        } else {
            let mut chars = after.chars();
            found.push(escaped(&mut chars));
            rest = chars.as_str();
        }
    }
    found
}

/// The text of a literal with escapes, up to its end.
fn escaped(chars: &mut Chars<'_>) -> String {
    let mut text = String::new();
    while let Some(char) = chars.next().filter(|char| *char != '"') {
        match char {
            '\\' => match chars.next() {
                // A line that goes on, without what stands before its first word.
                Some('\n') => *chars = chars.as_str().trim_start().chars(),
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => {}
            },
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_of_each_form() {
        let source = r##"f("a \"b\"", r#"{"c":1}"#, '"', "d \
            e", r"f\g")"##;
        assert_eq!(literals(source), ["a \"b\"", r#"{"c":1}"#, "d e", r"f\g"]);
    }
}
