//! Rules for single files, and for files that come in pairs.

use std::collections::BTreeSet;

use super::SourceFile;

/// Lines a Rust file may have.
const MAX_LINES: usize = 600;

/// Words that no finished Rust file has, and what to do instead. Written in parts, since this file is checked too.
const WORDS: &[(&str, &str)] = &[
    (concat!("dbg", "!("), "remove it"),
    (concat!("todo", "!("), "finish it"),
    (concat!("unimplemented", "!("), "finish it"),
    (concat!("FIX", "ME"), "fix it"),
    (concat!("TO", "DO"), "do it, or write down in docs what is missing"),
    (concat!("XX", "X:"), "fix it"),
    (concat!("#[ign", "ore"), "a test that does not run is none"),
    (concat!("allow(dead", "_code)"), "remove what is dead"),
];

/// Calls that tests use instead of waiting for a condition.
const SLEEPS: &[&str] = &[concat!("thread::sl", "eep("), concat!("time::sl", "eep("), concat!("sleep(Dur", "ation")];

/// Every fault of the files.
pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    let mut faults: Vec<String> = files.iter().filter(|f| f.is_rust()).flat_map(rust).collect();
    faults.extend(migrations(files));
    faults
}

fn rust(file: &SourceFile) -> Vec<String> {
    let path = file.path.display();
    let mut faults = Vec::new();
    let lines = file.text.lines().count();
    if lines > MAX_LINES {
        faults.push(format!("{path}: {lines} lines; split it by idea, {MAX_LINES} are the limit"));
    }
    for (i, line) in file.text.lines().enumerate() {
        for (word, advice) in WORDS {
            if line.contains(word) {
                faults.push(format!("{path}:{}: `{word}`; {advice}", i + 1));
            }
        }
        if file.is_test() && SLEEPS.iter().any(|sleep| line.contains(sleep)) {
            faults.push(format!("{path}:{}: a test that sleeps; wait for a condition", i + 1));
        }
        if line.ends_with([' ', '\t']) {
            faults.push(format!("{path}:{}: white space at the end of the line", i + 1));
        }
    }
    let is_head = file.path.ends_with("src/lib.rs") || file.path.ends_with("src/main.rs");
    if is_head && !file.text.starts_with("//!") {
        faults.push(format!(
            "{path}: no head; begin with `//!`: what the crate is for, which invariants hold, what is absent"
        ));
    }
    faults
}

/// Each migration exists for both databases.
fn migrations(files: &[SourceFile]) -> Vec<String> {
    let names = |folder: &str| -> BTreeSet<String> {
        let names = files.iter().filter(|f| f.is_in(folder)).filter_map(|f| f.path.file_name()?.to_str());
        names.map(str::to_owned).collect()
    };
    let (postgres, sqlite) = ("migrations/postgres", "migrations/sqlite");
    let missing = |has: &str, lacks: &str| -> Vec<String> {
        names(has).difference(&names(lacks)).map(|n| format!("{lacks}/{n}: missing; {has}/{n} is there")).collect()
    };
    [missing(postgres, sqlite), missing(sqlite, postgres)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Vec<String> {
        check(&[SourceFile { path: path.into(), text: text.into() }])
    }

    #[test]
    fn what_is_found() {
        assert_eq!(faults("a/src/x.rs", "fn a() {}\n"), [] as [&str; 0]);
        assert_eq!(
            faults("a/src/x.rs", &"\n".repeat(601)),
            ["a/src/x.rs: 601 lines; split it by idea, 600 are the limit"]
        );
        assert_eq!(faults("a/src/x.rs", concat!("\n  dbg", "!(1) \n")).len(), 2);
        assert_eq!(faults("a/src/lib.rs", "use x;\n").len(), 1);
        assert_eq!(faults("a/src/lib.rs", "//! Head.\n"), [] as [&str; 0]);
        let sleep = concat!("std::thread::sl", "eep(x)\n");
        assert_eq!(faults("a/src/x.rs", sleep), [] as [&str; 0]);
        assert_eq!(faults("a/src/tests.rs", sleep), ["a/src/tests.rs:1: a test that sleeps; wait for a condition"]);
    }

    #[test]
    fn migrations_come_in_pairs() {
        let file = |path: &str| SourceFile { path: path.into(), text: String::new() };
        let files =
            [file("migrations/postgres/1.sql"), file("migrations/postgres/2.sql"), file("migrations/sqlite/1.sql")];
        assert_eq!(check(&files), ["migrations/sqlite/2.sql: missing; migrations/postgres/2.sql is there"]);
    }
}
