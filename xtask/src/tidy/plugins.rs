//! The list of plugins, their folders and their hooks agree.

use std::collections::BTreeSet;

use super::SourceFile;

const FOLDER: &str = "crates/plugins/src";

/// Traits of the phases, and the calls of which one lists each in `hooks`.
const HOOKS: &[(&str, &[&str])] = &[
    ("OnRewrite", &[".rewrite()"]),
    ("OnAccess", &[".access()"]),
    ("OnBeforeProxy", &[".before_proxy()"]),
    ("OnHeaders", &[".headers()"]),
    ("OnBody", &[".body()"]),
    ("OnDelayedBody", &[".delayed_body()"]),
    ("OnLog", &[".log()", ".log_reading_head("]),
    ("OnPreread", &[".preread()"]),
    ("OnSessionLog", &[".session_log()"]),
];

/// The lists of plugins: of requests, and of sessions.
const LISTS: &[&str] = &["plugins", "stream_plugins"];

/// What each plugin's folder has.
const PARTS: &[&str] = &["mod.rs", "config.rs", "tests.rs", "examples"];

/// Every fault of the plugins.
pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    let Some(list) = files.iter().find(|f| f.path.as_os_str() == "crates/plugins/src/lib.rs") else {
        return Vec::new();
    };
    let mut faults = Vec::new();
    let mut listed: BTreeSet<&str> = BTreeSet::new();
    for name in LISTS {
        let words = list_of(&list.text, name);
        if !words.is_sorted() {
            faults.push(format!("{FOLDER}/lib.rs: the words in `{name}!` are not sorted"));
        }
        listed.extend(words);
    }
    let folders: BTreeSet<&str> = files.iter().filter_map(folder).collect();
    // A folder is a plugin by its configuration; others are shared parts.
    let plugins = folders.into_iter().filter(|name| file(files, name, "config.rs").is_some());
    let plugins: BTreeSet<&str> = plugins.collect();
    faults.extend(plugins.difference(&listed).map(|n| format!("{FOLDER}/{n}: in no list of {FOLDER}/lib.rs")));
    faults.extend(listed.difference(&plugins).map(|n| format!("{FOLDER}/lib.rs: `{n}` is listed, but has no folder")));
    for name in &plugins {
        for part in PARTS {
            let there = files.iter().any(|f| f.is_in(&format!("{FOLDER}/{name}/{part}")));
            if !there {
                faults.push(format!("{FOLDER}/{name}/{part}: missing"));
            }
        }
        faults.extend(hooks(files, name));
    }
    faults
}

/// The words between the braces of `plugins! { … }`, or of another list.
fn list_of<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let Some((_, rest)) = text.split_once(&format!("\n{name}! {{")) else { return Vec::new() };
    let body = rest.split('}').next().unwrap_or_default();
    let code = body.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty()).collect()
}

/// The folder under `crates/plugins/src` that a file is in.
fn folder(file: &SourceFile) -> Option<&str> {
    let mut parts = file.path.strip_prefix(FOLDER).ok()?.iter();
    let first = parts.next()?.to_str()?;
    parts.next().map(|_| first)
}

fn file<'a>(files: &'a [SourceFile], plugin: &str, name: &str) -> Option<&'a SourceFile> {
    files.iter().find(|f| f.path.as_os_str() == format!("{FOLDER}/{plugin}/{name}").as_str())
}

/// A phase that is implemented but not listed would never run, and nothing else would tell.
fn hooks(files: &[SourceFile], plugin: &str) -> Vec<String> {
    let own = |f: &&SourceFile| folder(f) == Some(plugin) && f.is_rust() && !f.is_test();
    let text: String = files.iter().filter(own).map(|f| f.text.as_str()).collect::<Vec<_>>().join("\n");
    // One name may stand for a plugin of requests and one of sessions.
    let bodies = text.split("fn hooks(").skip(1).filter_map(|rest| rest.split("\n    }").next());
    let listed: String = bodies.flat_map(str::split_whitespace).collect();
    let missing = HOOKS.iter().filter(|(hook, calls)| {
        text.contains(&format!("impl {hook} for")) && !calls.iter().any(|call| listed.contains(call))
    });
    missing
        .map(|(hook, calls)| format!("{FOLDER}/{plugin}: implements {hook}, but `hooks` does not list `{}`", calls[0]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| SourceFile { path: format!("{FOLDER}/{path}").into(), text: (*text).into() })
            .collect();
        check(&files)
    }

    const PLUGIN: &str = "impl Plugin for X {\n    fn hooks(h: Hooks<Self>) -> Hooks<Self> {\n        h.access()\n            .log()\n    }\n}\nimpl OnAccess for X {}\nimpl OnLog for X {}\n";

    #[test]
    fn list_folders_and_hooks() {
        let whole = [("a/mod.rs", PLUGIN), ("a/config.rs", ""), ("a/tests.rs", ""), ("a/examples/x.json", "")];
        let with = |list: &'static str| [&[("lib.rs", list)], whole.as_slice()].concat();
        assert_eq!(faults(&with("//!\nplugins! {\n    a, // x\n}\n")), [] as [&str; 0]);
        assert_eq!(
            faults(&with("//!\nplugins! { c, b }\n")),
            [
                "crates/plugins/src/lib.rs: the words in `plugins!` are not sorted",
                "crates/plugins/src/a: in no list of crates/plugins/src/lib.rs",
                "crates/plugins/src/lib.rs: `b` is listed, but has no folder",
                "crates/plugins/src/lib.rs: `c` is listed, but has no folder",
            ]
        );
        let mut other = with("//!\nplugins! { a }\n");
        let reading = PLUGIN.replace(".log()", ".log_reading_head(|_| false)");
        other[1].1 = &reading;
        assert_eq!(faults(&other), [] as [&str; 0]);
        let forgotten = PLUGIN.replace(".log()", "");
        let mut files = with("//!\nplugins! { a }\n");
        files[1].1 = &forgotten;
        files.pop();
        assert_eq!(
            faults(&files),
            [
                "crates/plugins/src/a/examples: missing",
                "crates/plugins/src/a: implements OnLog, but `hooks` does not list `.log()`",
            ]
        );
    }
}
