//! Rules that hold for all built-in plugins.

use crate::{ALL, STREAM};
use milecastle_plugin_api::testing::Setup;
use milecastle_plugin_api::{NoSecrets, Owner, Placement, PluginDef, Registry, Shared, reference_page};
use milecastle_telemetry::metrics;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Keys of `plugin_attr` that limit nothing, and what they do.
const NO_LIMITS: [(&str, &str); 1] = [("plugin_attr.limit-count.redis_pause", "a time until the next connection")];

/// Every plugin, with the one of the same name for sessions beside that for requests.
fn all() -> Vec<(&'static PluginDef, Option<&'static PluginDef>)> {
    let of_name = |name: &str| STREAM.iter().copied().find(|def| def.name == name);
    let alone = STREAM.iter().filter(|def| ALL.iter().all(|other| other.name != def.name));
    ALL.iter().map(|def| (*def, of_name(def.name))).chain(alone.map(|def| (*def, None))).collect()
}

#[test]
fn the_lists_are_sorted_and_have_every_folder() {
    for list in [ALL, STREAM] {
        assert!(list.iter().map(|def| def.name).is_sorted());
    }
    let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap().filter_map(|entry| {
        let entry = entry.unwrap();
        entry.file_type().unwrap().is_dir().then(|| entry.file_name().into_string().unwrap().replace('_', "-"))
    });
    assert_eq!(folders.collect::<BTreeSet<_>>(), all().iter().map(|(def, _)| def.name.to_owned()).collect());
}

#[test]
fn priorities_are_the_specified_ones() {
    let table = include_str!("../../../docs/spec/plugins/_phases.md");
    let (requests, sessions) = table.split_once("## 10. Stream (L4)").unwrap();
    for (list, table) in [(ALL, requests), (STREAM, sessions)] {
        for def in list {
            assert!(table.contains(&format!("\n| {} | {} |", def.name, def.priority)), "{}", def.name);
        }
    }
}

#[test]
fn examples_are_accepted() {
    for (list, least) in [(ALL, 2), (STREAM, 1)] {
        for def in list {
            assert!(def.examples.len() >= least, "{}", def.name);
            for example in def.examples {
                let config: Value = serde_json::from_str(example.json).unwrap();
                let placement = if example.credential { Placement::Credential } else { Placement::Object };
                let faults = Setup::new(list).faults_at("/x/1", placement, json!({ def.name: config }));
                assert_eq!(faults, [], "{}: {}", def.name, example.title);
            }
        }
    }
}

#[test]
fn every_attribute_is_described() {
    fn check(plugin: &str, schema: &Value) {
        for (name, attribute) in schema["properties"].as_object().into_iter().flatten() {
            assert!(attribute["description"].is_string(), "{plugin}: {name}");
            check(plugin, attribute);
            check(plugin, &attribute["items"]);
        }
    }
    for def in ALL.iter().chain(STREAM) {
        check(def.name, &(def.schema)());
        assert!((def.schema)()["description"].is_string(), "{}", def.name);
        if let Some(auth) = def.auth {
            check(def.name, &(auth.schema)());
        }
    }
}

#[test]
fn reference_pages_name_every_attribute() {
    for (def, stream) in all() {
        let page = reference_page(def, stream);
        assert!(page.starts_with(&format!("# {}\n", def.name)));
        for name in (def.schema)()["properties"].as_object().unwrap().keys() {
            assert!(page.contains(&format!("`{name}`")), "{}: {name}", def.name);
        }
        for example in def.examples {
            assert!(page.contains(example.title) && page.contains(example.json.trim()), "{}", def.name);
        }
    }
}

/// With `MILECASTLE_UPDATE` set, as `cargo xtask codegen` does, writes the pages instead.
#[test]
fn reference_pages_are_current() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/plugins"));
    let update = std::env::var_os("MILECASTLE_UPDATE").is_some();
    if update {
        std::fs::create_dir_all(folder).unwrap();
    }
    let mut names = BTreeSet::new();
    for (def, stream) in all() {
        let (name, page) = (format!("{}.md", def.name), reference_page(def, stream));
        let path = folder.join(&name);
        if update {
            std::fs::write(&path, &page).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == page, "docs/plugins/{name} is not current; run `cargo xtask codegen`");
        names.insert(name);
    }
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(files.collect::<BTreeSet<_>>(), names, "docs/plugins has a page for each plugin and nothing else");
}

#[test]
fn schemas_show_the_defaults_of_choices() {
    let default = |plugin: &str, attribute: &str| {
        let def = ALL.iter().find(|def| def.name == plugin).unwrap();
        (def.schema)()["properties"][attribute]["default"].clone()
    };
    assert_eq!(default("limit-count", "policy"), "local");
    assert_eq!(default("limit-count", "key_type"), "var");
    assert_eq!(default("limit-count", "window_type"), "fixed");
    assert_eq!(default("request-id", "algorithm"), "uuid");
}

/// The keys of `plugin_attr` that a page names.
fn attributes(page: &str) -> impl Iterator<Item = &str> {
    let code = page.split('`').skip(1).step_by(2);
    code.filter(|key| key.strip_prefix("plugin_attr.").is_some_and(|rest| rest.contains('.')))
}

#[test]
fn every_limit_that_a_page_names_has_a_metric_or_a_reason_for_having_none() {
    let registry = Arc::new(metrics::Registry::new("", 1));
    let shared = Arc::new(Shared::default());
    shared.put(registry.clone());
    for list in [ALL, STREAM] {
        let plugins = Registry::new(list, Map::new(), shared.clone(), Arc::new(NoSecrets));
        for def in list {
            for example in def.examples.iter().filter(|example| !example.credential) {
                let config: Value = serde_json::from_str(example.json).unwrap();
                let config = Map::from_iter([(def.name.to_owned(), config)]);
                let (_, faults) = plugins.build_all(&config, Placement::Object, &Owner("/x/1".into()), &|_| None);
                assert_eq!(faults, [], "{}: {}", def.name, example.title);
            }
        }
    }
    let families = registry.snapshot();
    let hits = families.iter().find(|family| family.name == "limit_hits_total").unwrap();
    let counted: BTreeSet<&str> = hits.series.iter().map(|(labels, _)| &*labels[0]).collect();
    let pages: Vec<String> = all().into_iter().map(|(def, stream)| reference_page(def, stream)).collect();
    let named: BTreeSet<&str> = pages.iter().flat_map(|page| attributes(page)).collect();
    let told: BTreeSet<&str> = counted.iter().copied().chain(NO_LIMITS.map(|(key, _)| key)).collect();
    assert_eq!(named, told, "count what a limit refuses or drops, or say here why it does not");
    assert!(NO_LIMITS.iter().all(|(key, _)| !counted.contains(key)));
}
