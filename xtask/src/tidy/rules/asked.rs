//! What a specification asks of tests.

/// How a specification is read.
#[derive(Clone, Copy, Default)]
pub(super) struct Manner {
    /// The first section that has rules.
    pub(super) first: u32,
    /// Whether a row of a table whose first column is a number is a rule.
    pub(super) numbered_rows: bool,
    /// The section whose table has the texts of faults, in its second column.
    pub(super) fault_texts: Option<&'static str>,
}

/// What a specification asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Rules as names of tests have them: `2_9`.
    pub(super) rules: Vec<String>,
    /// Texts, each with its section.
    pub(super) texts: Vec<(String, String)>,
}

/// A section, as far as it was read.
#[derive(Default)]
struct Section {
    /// Its number; empty where no rules are looked for.
    number: String,
    /// Whether it has rules with numbers.
    numbered: bool,
    /// Whether it has any text before its first subsection.
    says_something: bool,
}

/// The rules and texts of a specification.
pub(super) fn asked(spec: &str, manner: Manner) -> Asked {
    let mut asked = Asked::default();
    let mut section = Section::default();
    for line in spec.lines() {
        if let Some(title) = line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")) {
            let number = title.split([' ', ':']).next().unwrap_or_default().trim_end_matches('.');
            section.end(&mut asked, number);
            let counts = number.split('.').next().and_then(|first| first.parse::<u32>().ok()) >= Some(manner.first);
            section = Section { number: if counts { number.to_owned() } else { String::new() }, ..Section::default() };
            continue;
        }
        if section.number.is_empty() {
            continue;
        }
        section.says_something |= !line.trim().is_empty();
        let item = line.split_once(". ").map(|(number, _)| number);
        let row = || line.strip_prefix("| ")?.split_once(" | ").map(|(number, _)| number);
        let number = |text: &&str| text.parse::<u32>().is_ok();
        if let Some(number) = item.filter(number).or_else(|| row().filter(number).filter(|_| manner.numbered_rows)) {
            section.numbered = true;
            asked.rules.push(format!("{}_{number}", section.number.replace('.', "_")));
        }
        asked.texts.extend(between(line, '«', '»').map(|text| (section.number.clone(), message(text))));
        if manner.fault_texts.is_some_and(|of| of == section.number) && line.starts_with("| ") {
            // What follows a dash explains.
            let column = line.split(" | ").nth(1).unwrap_or_default().split(" — ").next().unwrap_or_default();
            asked.texts.extend(between(column, '`', '`').map(|text| (section.number.clone(), text.to_owned())));
        }
    }
    section.end(&mut asked, "");
    asked
}

impl Section {
    /// The section before `next` is over. Without numbers it is a rule itself, unless it has nothing but parts.
    fn end(&self, asked: &mut Asked, next: &str) {
        let divided = next.strip_prefix(&*self.number).is_some_and(|rest| rest.starts_with('.'));
        if !self.number.is_empty() && !self.numbered && (self.says_something || !divided) {
            asked.rules.push(self.number.replace('.', "_"));
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_texts_of_a_specification() {
        let spec = "## 1. Overview\n1. no rule\n## 2. Checks\nwords\n1. first «a <b>»\n2. «{\"error_msg\":\"c\"}»\n\
                    ## 3. Keys\nwords\n## 4. More\n\n### 4.1 One\n| x | «d\\|e» |\n### 4.2 Two\n1. only\n\
                    ## 16. Texts\n| type | `expected <t>` / `got` — `nil` |\n";
        let text = |section: &str, text: &str| (section.to_owned(), text.to_owned());
        let texts =
            [text("2", "a <b>"), text("2", "c"), text("4.1", "d|e"), text("16", "expected <t>"), text("16", "got")];
        let rules = ["2_1", "2_2", "3", "4_1", "4_2_1", "16"].map(str::to_owned);
        let manner = Manner { first: 2, numbered_rows: false, fault_texts: Some("16") };
        assert_eq!(asked(spec, manner), Asked { rules: rules.into(), texts: texts.into() });
    }

    #[test]
    fn a_divided_section_with_words_of_its_own_is_a_rule_and_so_are_numbered_rows() {
        let spec =
            "# Title\n## 1. Common\nwords\n### 1.1 Part\n| # | row |\n|---|---|\n| 1 | a |\n| 2 | b |\n## 2. Other\n";
        let rules = |numbered_rows| asked(spec, Manner { first: 1, numbered_rows, fault_texts: None }).rules;
        assert_eq!(rules(true), ["1", "1_1_1", "1_1_2", "2"]);
        assert_eq!(rules(false), ["1", "1_1", "2"]);
    }
}
