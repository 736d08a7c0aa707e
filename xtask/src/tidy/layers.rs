//! Which crate may know which: the workspace against the table of crates in `docs/architecture.md`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::SourceFile;
use crate::run::{cargo, output};

const MAP: &str = "docs/architecture.md";

/// Packages of ours that are no part of the product, and what they may use outside of tests.
const AROUND: &[(&str, &[&str])] = &[("tests", &["testkit", "wire"]), ("xtask", &["settings"])];

/// Crates of others that only some of ours may use directly.
const OWNED: &[(&str, &[&str])] =
    &[("sqlx", &["store"]), ("prost", &["wire", "export"]), ("tonic-prost", &["wire"]), ("axum", &["control"])];

/// What crates that know no runtime do without.
const RUNTIME: &[&str] = &["tokio", "hyper", "hyper-util", "tonic", "axum", "sqlx", "prost", "socket2"];
const WITHOUT_RUNTIME: &[&str] = &["model", "matching", "settings", "telemetry"];

/// Crates that no other may use in its tests either: they are the top.
const TOP: &[&str] = &["proxy", "control", "milecastle"];

/// For each crate of the table, the crates it may use; `None` is all.
type Table = BTreeMap<String, Option<Vec<String>>>;

/// Every edge that should not be.
pub(super) fn check(files: &[SourceFile]) -> Result<Vec<String>> {
    let map = files.iter().find(|f| f.path.as_os_str() == MAP).with_context(|| format!("{MAP} is missing"))?;
    let table = table(&map.text);
    let text = output(&mut cargo(&["metadata", "--no-deps", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let mut faults = Vec::new();
    let mut seen = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = short(package["name"].as_str().unwrap_or_default());
        seen.push(name);
        if !table.contains_key(name) {
            faults.push(format!("{MAP}: `{name}` is not in the table of crates"));
            continue;
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = short(dependency["name"].as_str().unwrap_or_default());
            let for_tests = dependency["kind"] == "dev";
            let fault = match dependency["path"].is_string() {
                true => ours(&table, name, on, for_tests),
                false => theirs(name, on, for_tests),
            };
            faults.extend(fault.map(|fault| format!("{name}/Cargo.toml: {fault}")));
        }
    }
    let gone = table.keys().filter(|name| !seen.contains(&name.as_str()));
    faults.extend(gone.map(|name| format!("{MAP}: `{name}` is in the table of crates, but not in the workspace")));
    Ok(faults)
}

/// Reads the rows `| layer | `crate` | what it is | uses |`. In `uses`, `–` is nothing, `all` and `dev only` are anything,
/// what stands in brackets is a remark.
fn table(text: &str) -> Table {
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let [_, name, _, uses] = cells.as_slice() else { return None };
        let name = name.strip_prefix('`')?.strip_suffix('`')?;
        let uses = match *uses {
            "–" => Some(Vec::new()),
            "all" | "dev only" => None,
            list => Some(list.split(',').map(|word| word.split('(').next().unwrap_or("").trim().to_owned()).collect()),
        };
        Some((name.to_owned(), uses))
    };
    let around =
        AROUND.iter().map(|(name, uses)| ((*name).to_owned(), Some(uses.iter().map(|u| (*u).to_owned()).collect())));
    text.lines().filter_map(row).chain(around).collect()
}

fn short(package: &str) -> &str {
    package.strip_prefix("milecastle-").unwrap_or(package)
}

/// What is wrong with a dependency on a crate of ours, if anything.
fn ours(table: &Table, name: &str, on: &str, for_tests: bool) -> Option<String> {
    if for_tests {
        let top = TOP.contains(&on) && !TOP.contains(&name);
        return top.then(|| format!("not even the tests of `{name}` may use `{on}`"));
    }
    let allowed = match table.get(name)? {
        None => true,
        Some(list) => list.iter().any(|allowed| allowed == on),
    };
    (!allowed).then(|| format!("`{name}` may not use `{on}` (table of crates in {MAP})"))
}

/// The same for somebody else's crate.
fn theirs(name: &str, on: &str, for_tests: bool) -> Option<String> {
    if for_tests {
        return None;
    }
    if let Some((_, owners)) = OWNED.iter().find(|(owned, owners)| *owned == on && !owners.contains(&name)) {
        return Some(format!("`{on}` may be used by {} alone", owners.join(", ")));
    }
    let runtime = WITHOUT_RUNTIME.contains(&name) && RUNTIME.contains(&on);
    runtime.then(|| format!("`{name}` knows no runtime, so it may not use `{on}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_edges() {
        let text = "| layer | crate | what it is | uses |\n|---|---|---|---|\n| facts | `model` | x | – |\n\
                    | | `wire` | x | model |\n| | `proxy` | x | model, wire (only types) |\n| whole | `milecastle` | x | all |\n";
        let table = table(text);
        let edge = |name, on, for_tests| ours(&table, name, on, for_tests).is_none();
        assert!(edge("wire", "model", false) && edge("proxy", "wire", false) && edge("milecastle", "proxy", false));
        assert!(edge("xtask", "settings", false) && edge("model", "wire", true));
        assert!(!edge("model", "wire", false) && !edge("proxy", "store", false) && !edge("wire", "proxy", true));
    }

    #[test]
    fn crates_of_others() {
        assert_eq!(theirs("store", "sqlx", false), None);
        assert_eq!(theirs("model", "tokio", true), None);
        assert!(theirs("proxy", "sqlx", false).is_some() && theirs("model", "tokio", false).is_some());
    }
}
