//! Every rule of the Admin API's specification has a test that names it, and every text that it fixes stands in one.
//!
//! The rules are the numbered lines of `docs/spec/admin-api.md`, from §2 on; a section or subsection without any is one itself. Rule 9
//! of §2 is tested by a function whose name begins with `s2_9_`, §11.2 by one that begins with `s11_2_`. The texts are those in `«…»`, and
//! those of the table of §16, with placeholders in `<…>`; each is in one piece in a literal of a test.

use std::str::Chars;

use super::SourceFile;

const SPEC: &str = "docs/spec/admin-api.md";

/// Where the tests are: over HTTP, and of the texts of schemas.
const TESTS: [&str; 2] = ["crates/control/tests/admin", "crates/model/src"];

/// The first section that has rules; §1 is an overview, and is tested all the same.
const FIRST: u32 = 2;

/// The section whose table has the texts of faults, in its second column.
const FAULT_TEXTS: &str = "16";

/// Texts that are never sent, and why not.
const NEVER_SENT: &[(&str, &str)] = &[
    ("'filter_func' should be a function", "no Lua is run, so none is looked at (docs/compatibility.md)"),
    ("'script' should be a Lua object", "no Lua is run, so none is looked at (docs/compatibility.md)"),
    ("failed to record plugins reload", "there is nothing to reload, so nothing fails (docs/compatibility.md)"),
];

/// What the specification asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    /// Rules as names of tests have them: `2_9`.
    rules: Vec<String>,
    /// Texts, each with its section.
    texts: Vec<(String, String)>,
}

/// Every rule without a test, every text that no test has, and exceptions that are none any more.
pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    let Some(spec) = files.iter().find(|file| file.path.as_os_str() == SPEC) else { return Vec::new() };
    let tests =
        || files.iter().filter(|file| file.is_rust() && file.is_test() && TESTS.iter().any(|place| file.is_in(place)));
    let literals: Vec<String> = tests().flat_map(|file| literals(&file.text)).collect();
    let asked = asked(&spec.text);
    let has_test = |rule: &String| tests().any(|file| file.text.contains(&format!("fn s{rule}_")));
    let untested = asked.rules.iter().filter(|rule| !has_test(rule)).map(|rule| {
        format!("{SPEC}: no test has the rule {}; add one `s{rule}_…` in {}", rule.replace('_', "."), TESTS[0])
    });
    let unseen = asked.texts.iter().filter(|(_, text)| {
        NEVER_SENT.iter().all(|(never, _)| never != text) && !literals.iter().any(|literal| has(literal, text))
    });
    let unseen = unseen.map(|(section, text)| format!("{SPEC}: §{section}: no test has the text «{text}»; add one"));
    let stale = NEVER_SENT.iter().filter(|(never, _)| asked.texts.iter().all(|(_, text)| text != never));
    let stale =
        stale.map(|(never, _)| format!("xtask/src/tidy/rules.rs: the specification has no text «{never}» any more"));
    untested.chain(unseen).chain(stale).collect()
}

/// The rules and texts of the specification.
fn asked(spec: &str) -> Asked {
    let mut asked = Asked::default();
    let (mut section, mut numbered) = (String::new(), true);
    let end = |asked: &mut Asked, section: &str, numbered: bool| {
        if !section.is_empty() && !numbered {
            asked.rules.push(section.replace('.', "_"));
        }
    };
    for line in spec.lines() {
        if let Some(title) = line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")) {
            let number = title.split([' ', ':']).next().unwrap_or_default().trim_end_matches('.');
            // A section that is divided is tested by its parts.
            let divided = number.strip_prefix(&format!("{section}.")).is_some();
            end(&mut asked, &section, numbered || divided);
            let counts =
                number.split('.').next().and_then(|first| first.parse().ok()).is_some_and(|first: u32| first >= FIRST);
            (section, numbered) = (if counts { number.to_owned() } else { String::new() }, false);
            continue;
        }
        if section.is_empty() {
            continue;
        }
        let number = line.split_once(". ").map(|(number, _)| number).filter(|number| number.parse::<u32>().is_ok());
        if let Some(number) = number {
            numbered = true;
            asked.rules.push(format!("{}_{number}", section.replace('.', "_")));
        }
        asked.texts.extend(between(line, '«', '»').map(|text| (section.clone(), message(text))));
        if section == FAULT_TEXTS && line.starts_with("| ") {
            // What follows a dash explains.
            let column = line.split(" | ").nth(1).unwrap_or_default().split(" — ").next().unwrap_or_default();
            asked.texts.extend(between(column, '`', '`').map(|text| (section.clone(), text.to_owned())));
        }
    }
    end(&mut asked, &section, numbered);
    asked
}

/// The parts of a line that stand between two marks.
fn between(line: &str, open: char, close: char) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(open)?;
        let (text, after) = after.split_once(close)?;
        rest = after;
        Some(text)
    })
}

/// What a text says, where it is given as a whole body, and as a cell of a table has it.
fn message(text: &str) -> String {
    let inner = text.strip_prefix(r#"{"error_msg":""#).and_then(|rest| rest.strip_suffix(r#""}"#));
    inner.unwrap_or(text).replace("\\|", "|")
}

/// Whether a literal has a text, with anything in the places of its placeholders.
fn has(literal: &str, text: &str) -> bool {
    let mut rest = literal;
    pieces(text).into_iter().all(|piece| match rest.split_once(piece) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

/// What stands between placeholders: `<…>`, and an ellipsis.
fn pieces(text: &str) -> Vec<&str> {
    let outside = text.split('<').enumerate().map(|(n, part)| match part.split_once('>') {
        Some((_, after)) if n > 0 => after,
        _ => part,
    });
    outside.flat_map(|part| part.split('…')).filter(|piece| !piece.trim().is_empty()).collect()
}

/// The texts of the string literals of a Rust file.
fn literals(source: &str) -> Vec<String> {
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
    fn rules_and_texts_of_a_specification() {
        let spec = "## 1. Overview\n1. no rule\n## 2. Checks\nwords\n1. first «a <b>»\n2. «{\"error_msg\":\"c\"}»\n\
                    ## 3. Keys\nwords\n## 4. More\n### 4.1 One\n| x | «d\\|e» |\n### 4.2 Two\n1. only\n\
                    ## 16. Texts\n| type | `expected <t>` / `got` — `nil` |\n";
        let text = |section: &str, text: &str| (section.to_owned(), text.to_owned());
        let texts =
            [text("2", "a <b>"), text("2", "c"), text("4.1", "d|e"), text("16", "expected <t>"), text("16", "got")];
        let rules = ["2_1", "2_2", "3", "4_1", "4_2_1", "16"].map(str::to_owned);
        assert_eq!(asked(spec), Asked { rules: rules.into(), texts: texts.into() });
    }

    #[test]
    fn literals_of_each_form() {
        let source = r##"f("a \"b\"", r#"{"c":1}"#, '"', "d \
            e", r"f\g")"##;
        assert_eq!(literals(source), ["a \"b\"", r#"{"c":1}"#, "d e", r"f\g"]);
    }

    #[test]
    fn placeholders_stand_for_anything() {
        let text = "failed by id [<id>], code: <n>";
        assert!(has("x failed by id [9], code: 404", text) && !has("failed by id 9, code: 404", text));
        assert!(has("then code: 1; failed", "code: …") && !has("failed", "code: …"));
    }
}
