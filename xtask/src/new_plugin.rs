//! `cargo xtask new-plugin NAME`: the folder of a plugin, in the shape that `tidy` wants, ready to be filled.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::run::root;

const MOD: &str = r#"//! SUMMARY
//!
//! Behaviour: `docs/spec/plugins/NAME.md`.

mod config;
#[cfg(test)]
mod tests;

use milecastle_plugin_api::{BuildCx, ConfigError, Flow, Hooks, OnAccess, Plugin, RequestCx};

use config::Config;

/// The plugin, compiled from one configuration.
pub(crate) struct TYPE {
    config: Config,
}

impl Plugin for TYPE {
    type Config = Config;
    const NAME: &'static str = "NAME";
    const PRIORITY: i32 = PRIORITY_VALUE;

    fn compile(config: Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        Ok(Self { config })
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

const CONFIG: &str = r#"//! The attributes of `NAME` (`docs/spec/plugins/NAME.md`).

use schemars::JsonSchema;
use serde::Deserialize;

/// Configuration of `NAME`. Its doc comments are the plugin's reference page.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {}
"#;

const TESTS: &str = r#"//! `NAME` on a real chain.

use milecastle_plugin_api::PluginDef;
use milecastle_plugin_api::testing::Setup;
use serde_json::json;

static DEF: PluginDef = PluginDef::of::<super::TYPE>();

#[test]
fn a_request_passes() {
    let gateway = Setup::new(&[&DEF]).route(json!({ "NAME": {} }));
    assert_eq!(gateway.send("GET /").status, 200);
}
"#;

const EXAMPLE: &str = "{}\n";

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

    let spec = std::fs::read_to_string(root().join(format!("docs/spec/plugins/{name}.md"))).unwrap_or_default();
    let fill = |template: &str| {
        template
            .replace("SUMMARY", spec.lines().nth(1).unwrap_or("What it does, in one sentence."))
            .replace("PRIORITY_VALUE", &priority(&spec).unwrap_or(0).to_string())
            .replace("NAME", name)
            .replace("TYPE", &type_name(name))
            // The trait's constant, not the name.
            .replace(&format!("const {name}:"), "const NAME:")
    };
    let write = |path: &str, content: &str| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    write("mod.rs", &fill(MOD))?;
    write("config.rs", &fill(CONFIG))?;
    write("tests.rs", &fill(TESTS))?;
    write("examples/basic.json", EXAMPLE)?;
    std::fs::write(&list, listed).with_context(|| format!("cannot write {}", list.display()))?;
    println!("made {}; `on_access` waits to be written", folder.display());
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

/// The rank that the plugin's specification gives: the number behind the first `priority `.
fn priority(spec: &str) -> Option<i32> {
    let rest = spec.split("priority ").nth(1)?;
    let end = rest.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
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
        assert_eq!(priority("# x\n- y; priority -2001; z priority 5"), Some(-2001));
        assert_eq!(priority("nothing"), None);
        assert_eq!(
            add_word("//!\nplugins! {\n    a_b,\n    c,\n}\nmod x;\n", "b").unwrap(),
            "//!\nplugins! {\n    a_b,\n    b,\n    c,\n}\nmod x;\n"
        );
        assert_eq!(add_word("//!\nplugins! {}\n", "b").unwrap(), "//!\nplugins! {\n    b,\n}\n");
        assert_eq!(add_word("//!", "b"), None);
    }
}
