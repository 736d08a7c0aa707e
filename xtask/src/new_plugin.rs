//! `cargo xtask new-plugin NAME`: the folder of a plugin, in the shape that `tidy` wants, ready to be filled.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::run::root;

const MOD: &str = r#"//! `NAME`: SUMMARY (`docs/spec/plugins/NAME.md`).

mod config;
#[cfg(test)]
mod tests;

use config::Config;
use milecastle_plugin_api::{BuildCx, ConfigError, Example, Flow, Hooks, OnAccess, Plugin, PluginDef, RequestCx};

pub(crate) static DEF: PluginDef = PluginDef::of::<TYPE>();

struct TYPE {}

impl Plugin for TYPE {
    type Config = Config;
    const NAME: &'static str = "NAME";
    const PRIORITY: i32 = RANK;
    const EXAMPLES: &'static [Example] = &[Example::new("Defaults", include_str!("examples/default.json"))];

    fn compile(config: Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.access()
    }
}

impl OnAccess for TYPE {
    fn on_access<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
    }
}
"#;

const CONFIG: &str = r#"//! Configuration of `NAME`.

use schemars::JsonSchema;
use serde::Deserialize;

/// SUMMARY.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {}
"#;

const TESTS: &str = r#"use super::DEF;
use milecastle_plugin_api::testing::{Gateway, Setup};
use serde_json::{Value, json};

fn gateway(config: Value) -> Gateway {
    Setup::new(&[&DEF]).route(json!({ "NAME": config }))
}

#[test]
fn a_request_passes() {
    assert_eq!(gateway(json!({})).send("GET /").status, 200);
}
"#;

/// Makes the folder, and adds the word to the list.
pub(crate) fn new_plugin(args: &[&str]) -> Result<()> {
    let [name] = args else { bail!("new-plugin takes the plugin's name, e.g. `new-plugin limit-count`") };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) {
        bail!("`{name}` is no plugin name: use lower-case letters, digits and `-`, a letter first");
    }
    let word = name.replace('-', "_");
    let source = root().join("crates/plugins/src");
    let folder = source.join(&word);
    if folder.exists() {
        bail!("{} exists", folder.display());
    }
    let list = source.join("lib.rs");
    let text = std::fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let listed = add_word(&text, &word).with_context(|| format!("{} has no `plugins! {{ … }}`", list.display()))?;

    let spec =
        |file: &str| std::fs::read_to_string(root().join(format!("docs/spec/plugins/{file}.md"))).unwrap_or_default();
    let own = spec(name);
    let summary = own.lines().nth(1).unwrap_or("what it does, in one sentence").trim_end_matches('.');
    let phases = spec("_phases");
    let Some(rank) = rank(&phases, name) else {
        bail!("docs/spec/plugins/_phases.md gives `{name}` no priority: add it to the table there first")
    };
    let fill = |template: &str| {
        template
            .replace("const NAME", "const \0")
            .replace("SUMMARY", summary)
            .replace("RANK", rank)
            .replace("TYPE", &type_name(name))
            .replace("NAME", name)
            .replace('\0', "NAME")
    };
    let write = |path: &str, content: &str| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    write("mod.rs", &fill(MOD))?;
    write("config.rs", &fill(CONFIG))?;
    write("tests.rs", &fill(TESTS))?;
    write("examples/default.json", "{}\n")?;
    std::fs::write(&list, listed).with_context(|| format!("cannot write {}", list.display()))?;
    println!("made {}; `Config`, `compile` and `on_access` wait to be written", folder.display());
    Ok(())
}

/// `limit-count` → `LimitCount`.
fn type_name(name: &str) -> String {
    let capital = |part: &str| {
        let mut letters = part.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
    };
    name.split('-').map(capital).collect()
}

/// The plugin's priority, from the table of all plugins: rows `| name | priority | …`.
fn rank<'a>(phases: &'a str, name: &str) -> Option<&'a str> {
    let row = phases.lines().find_map(|line| line.strip_prefix(&format!("| {name} | ")))?;
    row.split(' ').next().filter(|rank| rank.parse::<i32>().is_ok())
}

/// The list with the word in its place, one word a line.
fn add_word(text: &str, word: &str) -> Option<String> {
    let (before, rest) = text.split_once("\nplugins! {")?;
    let (list, after) = rest.split_once('}')?;
    let mut words: Vec<&str> = list.split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
    words.push(word);
    words.sort_unstable();
    let lines: String = words.iter().map(|w| format!("    {w},\n")).collect();
    Some(format!("{before}\nplugins! {{\n{lines}}}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_words() {
        assert_eq!(type_name("limit-count"), "LimitCount");
        assert_eq!(rank("| name | priority |\n| a | 5 | y |\n| a-b | -2001 | n |", "a-b"), Some("-2001"));
        assert_eq!(rank("| name | priority |", "name"), None);
        assert_eq!(
            add_word("//!\nplugins! {\n    a_b,\n    c,\n}\nmod x;\n", "b").unwrap(),
            "//!\nplugins! {\n    a_b,\n    b,\n    c,\n}\nmod x;\n"
        );
        assert_eq!(add_word("//!\nplugins! {}\n", "b").unwrap(), "//!\nplugins! {\n    b,\n}\n");
        assert_eq!(add_word("//!", "b"), None);
    }
}
