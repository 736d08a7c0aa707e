//! Which crate may know which.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::run::{cargo, output};

/// Our crates, and which of them each may use. A crate that is not here may use none and is a fault itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("matching", &["model"]),
    ("seats", &[]),
    ("wire", &["model"]),
    ("plugin-api", &["model", "matching"]),
    ("snapshot", &["model", "matching", "plugin-api"]),
    // For `Secret` alone.
    ("settings", &["telemetry"]),
    ("telemetry", &[]),
    ("plugins", &["plugin-api", "matching", "telemetry"]),
    ("store", &["model"]),
    ("pki", &[]),
    ("nginx", &["model"]),
    ("console", &[]),
    ("proxy", &["model", "matching", "plugin-api", "snapshot", "wire", "pki", "settings", "telemetry", "seats"]),
    (
        "control",
        &[
            "model",
            "plugin-api",
            "snapshot",
            "store",
            "wire",
            "pki",
            "settings",
            "telemetry",
            "seats",
            "console",
            "nginx",
        ],
    ),
    ("vrrp", &["settings", "telemetry"]),
    ("testkit", &["model", "plugin-api", "wire", "pki", "store"]),
    ("tests", &[]),
    ("xtask", &["settings"]),
];

/// The binary, which may use all.
const WHOLE: &str = "milecastle";

/// Crates of others that only some of ours may use directly.
const OWNED: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("prost", &["wire"]),
    ("tonic-prost", &["wire"]),
    ("axum", &["control"]),
    ("rcgen", &["pki", "testkit", "proxy", "control"]),
];

/// What crates that know no runtime do without.
const RUNTIME: &[&str] = &["tokio", "hyper", "hyper-util", "tonic", "axum", "sqlx", "prost", "socket2"];
const WITHOUT_RUNTIME: &[&str] = &["model", "matching", "seats", "nginx", "settings", "telemetry"];

/// Crates that no other may use in its tests either: they are the top.
const TOP: &[&str] = &["proxy", "control", "milecastle"];

/// Every edge that should not be.
pub(super) fn check() -> Result<Vec<String>> {
    let text = output(&mut cargo(&["metadata", "--no-deps", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let mut faults = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = short(package["name"].as_str().unwrap_or_default());
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = short(dependency["name"].as_str().unwrap_or_default());
            let ours = dependency["path"].is_string();
            let for_tests = dependency["kind"] == "dev";
            if let Some(fault) = edge(name, on, ours, for_tests) {
                faults.push(format!("crates/{name}/Cargo.toml: {fault}"));
            }
        }
        if name != WHOLE && !LAYERS.iter().any(|(known, _)| *known == name) {
            faults.push(format!("crates/{name}: not in the table of crates; add it in xtask/src/tidy/layers.rs"));
        }
    }
    Ok(faults)
}

fn short(package: &str) -> &str {
    package.strip_prefix("milecastle-").unwrap_or(package)
}

/// What is wrong with a dependency, if anything.
fn edge(name: &str, on: &str, ours: bool, for_tests: bool) -> Option<String> {
    if !ours {
        let owners = OWNED.iter().find(|(owned, _)| *owned == on).map(|(_, owners)| *owners);
        if !for_tests && owners.is_some_and(|owners| !owners.contains(&name)) {
            return Some(format!("`{on}` may be used by {} alone", owners.unwrap_or_default().join(", ")));
        }
        let runtime = WITHOUT_RUNTIME.contains(&name) && RUNTIME.contains(&on);
        return (runtime && !for_tests).then(|| format!("`{name}` knows no runtime, so it may not use `{on}`"));
    }
    if name == WHOLE {
        return None;
    }
    if for_tests {
        return TOP.contains(&on).then(|| format!("not even the tests of `{name}` may use `{on}`"));
    }
    let allowed = LAYERS.iter().find(|(known, _)| *known == name).map_or(&[] as &[_], |(_, allowed)| *allowed);
    (!allowed.contains(&on)).then(|| format!("`{name}` may not use `{on}` (table of crates, xtask/src/tidy/layers.rs)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_no_circle() {
        // A crate's allowed ones never lead back to it.
        fn reaches(from: &str, to: &str, depth: usize) -> bool {
            let allowed = LAYERS.iter().find(|(known, _)| *known == from).map_or(&[] as &[_], |(_, allowed)| *allowed);
            depth < LAYERS.len() && allowed.iter().any(|next| *next == to || reaches(next, to, depth + 1))
        }
        for (name, _) in LAYERS {
            assert!(!reaches(name, name, 0), "{name}");
        }
    }

    #[test]
    fn edges() {
        assert_eq!(edge("proxy", "wire", true, false), None);
        assert_eq!(edge("milecastle", "store", true, false), None);
        assert_eq!(edge("store", "testkit", true, true), None);
        assert_eq!(edge("store", "sqlx", false, false), None);
        assert!(edge("proxy", "store", true, false).is_some());
        assert!(edge("control", "proxy", true, true).is_some());
        assert!(edge("proxy", "sqlx", false, false).is_some());
        assert!(edge("model", "tokio", false, false).is_some());
    }
}
