//! The page on fuzzing says of each target what it reads.

use std::collections::BTreeSet;

use super::SourceFile;

const PAGE: &str = "docs/fuzzing.md";
const TARGETS: &str = "tests/fuzz/fuzz_targets";
/// Head of the page's first table.
const HEAD: &str = "| target | reads | holds it to |";

/// Every target without a row of the page's first table, and every row that is of no target or names no crate whose code is read.
pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    let Some(page) = files.iter().find(|file| file.path.as_os_str() == PAGE) else { return Vec::new() };
    let targets: BTreeSet<&str> =
        files.iter().filter(|file| file.is_in(TARGETS)).filter_map(|file| file.path.file_stem()?.to_str()).collect();
    let table = page.text.split_once(HEAD).map_or("", |(_, rest)| rest);
    // Behind the head and the line below it.
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut told = BTreeSet::new();
    let mut faults = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells[0].trim_matches('`');
        told.insert(name);
        let names_a_crate = matches!(cells[..], [_, reads, _] if crate_of(reads).is_some_and(|name| {
            files.iter().any(|file| file.is_in(&format!("crates/{name}/src")))
        }));
        if !names_a_crate {
            faults.push(format!(
                "{PAGE}: `{name}` does not say what it reads; write: what (`crate`, `file`), then what it is held to"
            ));
        }
    }
    faults.extend(targets.difference(&told).map(|name| format!("{PAGE}: no row for `{name}`; say what it reads")));
    faults.extend(told.difference(&targets).map(|name| format!("{PAGE}: `{name}` is no target; remove its row")));
    faults
}

/// The crate that a cell names in brackets.
fn crate_of(reads: &str) -> Option<&str> {
    Some(reads.split_once("(`")?.1.split_once('`')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(rows: &[&str]) -> Vec<String> {
        let page = format!("# Fuzzing\n\n{HEAD}\n|---|---|---|\n{}\n\n## Runs\n\n| `b` | 1 |\n", rows.join("\n"));
        let files = [(PAGE, &*page), ("tests/fuzz/fuzz_targets/a.rs", ""), ("crates/wire/src/lib.rs", "")];
        let file = |(path, text): (&str, &str)| SourceFile { path: path.into(), text: text.into() };
        check(&files.map(file))
    }

    #[test]
    fn each_target_says_what_it_reads() {
        assert_eq!(faults(&["| `a` | frames (`wire`) | no panic |"]), [] as [&str; 0]);
        assert_eq!(faults(&[]), ["docs/fuzzing.md: no row for `a`; say what it reads"]);
        let dumb =
            "docs/fuzzing.md: `a` does not say what it reads; write: what (`crate`, `file`), then what it is held to";
        for row in
            ["| `a` | 2026-11-29, `a63f3fc` | 1 in 601 s | 6 |", "| `a` | frames | none |", "| `a` | (`x`) | none |"]
        {
            assert_eq!(faults(&[row]), [dumb], "{row}");
        }
        let other = ["| `a` | frames (`wire`) | no panic |", "| `b` | frames (`wire`) | no panic |"];
        assert_eq!(faults(&other), ["docs/fuzzing.md: `b` is no target; remove its row"]);
    }
}
