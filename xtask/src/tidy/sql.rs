//! Values reach the database bound, never in the text of a statement.
//!
//! Texts that are put together (`Sql::Batch`) are made of names, conditions and placeholders. Where a value would stand, in quotes or
//! behind a comparison or a sign, nothing is inserted but the database's clock, lists of placeholders and constants of ours.
//!
//! It is a partial check: what stands behind a comma, a bracket or at the beginning of a line, and what is pushed on to a text, a reviewer
//! looks at.

use super::SourceFile;

/// What stands before a value.
const BEFORE: &[&str] = &["= ", "< ", "> ", "+ ", "- ", "LIKE ", "LIMIT ", "OFFSET ", "IN (", "'"];

/// What may be inserted there: the database's clock, a query, placeholders.
const OURS: &[&str] = &["clock", "select", "places"];

/// Every place of the store where a value might stand in the text of a statement.
pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    let sources = files.iter().filter(|file| file.is_rust() && file.is_in("crates/store/src") && !file.is_test());
    let faults = sources.flat_map(|file| {
        let lines = file.text.lines().enumerate();
        let found = lines.flat_map(|(i, line)| inserted(line).into_iter().map(move |name| (i + 1, name)));
        found.map(|(line, name)| {
            let path = file.path.display();
            format!("{path}:{line}: `{{{name}}}` stands where a value does; bind it as an argument")
        })
    });
    faults.collect()
}

/// What a line inserts where a value stands.
fn inserted(line: &str) -> Vec<&str> {
    let found = BEFORE.iter().copied().flat_map(|before| {
        line.match_indices(before).filter_map(move |(at, _)| {
            let (ahead, rest) = line.split_at(at);
            // An arm of a match.
            let is_arrow = before == "> " && ahead.ends_with('=');
            let name = rest.strip_prefix(before)?.strip_prefix('{')?.split_once('}')?.0;
            (!is_arrow && !is_ours(name)).then_some(name)
        })
    });
    found.collect()
}

/// Whether it is one of ours, a constant, or no insertion at all.
fn is_ours(name: &str) -> bool {
    let is_constant = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    OURS.contains(&name) || is_constant || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_the_text_are_found() {
        let check = |line: &str, expected: &[&str]| assert_eq!(inserted(line), expected, "{line}");
        check(r#"format!("SELECT 1 FROM t WHERE name = {name}")"#, &["name"]);
        check(r#"format!("SELECT 1 FROM t WHERE name = '{}'", name)"#, &[""]);
        check(r#"format!("SELECT 1 FROM t WHERE at >= {} LIMIT {most}")"#, &["", "most"]);
        check(r#"format!("SELECT 1 FROM t WHERE at > {clock} - {seconds} AND id IN ({ids})")"#, &["seconds", "ids"]);
        check(r#"format!("{column} {not}IN ({places})")"#, &[]);
        check(r#"format!("SELECT {COLUMNS} FROM {table} WHERE at < {clock} - $1 LIMIT {TRIM_BATCH}")"#, &[]);
        check(r#"format!("SELECT 1 FROM t WHERE name = ${}", values.len())"#, &[]);
        check("Ok(None) => {}", &[]);
        check("let found = { first() }", &[]);
    }
}
