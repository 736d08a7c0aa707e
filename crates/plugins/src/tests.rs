//! Rules that hold for all built-in plugins.

use crate::ALL;
use milecastle_plugin_api::testing::Setup;
use milecastle_plugin_api::{Placement, reference_page};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn the_list_is_sorted_and_has_every_folder() {
    let names: Vec<&str> = ALL.iter().map(|def| def.name).collect();
    assert!(names.is_sorted());
    let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap().filter_map(|entry| {
        let entry = entry.unwrap();
        entry.file_type().unwrap().is_dir().then(|| entry.file_name().into_string().unwrap().replace('_', "-"))
    });
    assert_eq!(folders.collect::<BTreeSet<_>>(), names.iter().map(|name| (*name).to_owned()).collect());
}

#[test]
fn priorities_are_the_specified_ones() {
    let table = include_str!("../../../docs/spec/plugins/_phases.md");
    for def in ALL {
        assert!(table.contains(&format!("\n| {} | {} |", def.name, def.priority)), "{}", def.name);
    }
}

#[test]
fn examples_are_accepted() {
    for def in ALL {
        assert!(def.examples.len() >= 2, "{}", def.name);
        for example in def.examples {
            let config: Value = serde_json::from_str(example.json).unwrap();
            let placement = if example.credential { Placement::Credential } else { Placement::Object };
            let faults = Setup::new(ALL).faults_at("/x/1", placement, json!({ def.name: config }));
            assert_eq!(faults, [], "{}: {}", def.name, example.title);
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
    for def in ALL {
        check(def.name, &(def.schema)());
        assert!((def.schema)()["description"].is_string(), "{}", def.name);
        if let Some(auth) = def.auth {
            check(def.name, &(auth.schema)());
        }
    }
}

#[test]
fn reference_pages_name_every_attribute() {
    for def in ALL {
        let page = reference_page(def);
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
    for def in ALL {
        let (name, page) = (format!("{}.md", def.name), reference_page(def));
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
