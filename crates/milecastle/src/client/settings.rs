//! Settings of a gateway group.

use super::cli::{Output, SettingsChange, SettingsCommand};
use super::commands::encode;
use super::http::{Client, Payload};
use super::view::{show, text as member};
use anyhow::{Context, anyhow};
use hyper::Method;
use milecastle_settings::{Place, Time};
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

pub(super) async fn run(client: &Client, output: Output, command: SettingsCommand) -> anyhow::Result<()> {
    let path = |id: &str| format!("/api/gateway_groups/{}/settings", encode(id));
    match command {
        SettingsCommand::Get { id } => {
            let answer = client.get(&path(&id)).await?;
            show(output, &answer, |answer| {
                let effective = answer.get("effective").unwrap_or(&Value::Null);
                let effective = serde_json::to_string_pretty(effective).unwrap_or_default();
                format!("settings of group {id}, of revision {}:\n{effective}", member(answer, "revision"))
            })
        }
        SettingsCommand::Set { id, change, force, expected_revision, wait } => {
            let (method, body) = asked(*change)?;
            let client = client.waiting(wait.map_or(Duration::ZERO, Time::get));
            let wait = wait.map(argument).transpose()?.unwrap_or_default();
            let path = format!("{}?force={force}{wait}", path(&id));
            let tag = expected_revision.map(|revision| format!("\"{revision}\""));
            let answer = client.call_if_match(method, &path, tag, Some(Payload::json(&body))).await?;
            show(output, &answer, |answer| {
                let receipt =
                    answer.get("receipt").map(|_| format!(", {}", member(answer, "receipt"))).unwrap_or_default();
                format!("settings of group {id} are of revision {}{receipt}", member(answer, "revision"))
            })
        }
    }
}

/// The argument of a path that has some already.
pub(super) fn argument(wait: Time) -> anyhow::Result<String> {
    let text = serde_json::to_value(wait)?;
    Ok(format!("&wait={}", encode(text.as_str().unwrap_or_default())))
}

/// All settings anew from a file, or those that are named merged into what is there.
fn asked(change: SettingsChange) -> anyhow::Result<(Method, Value)> {
    if let Some(file) = change.file {
        let body = text(&file).and_then(|text| Ok(serde_json::from_str(&text)?));
        return Ok((Method::PUT, body.with_context(|| format!("cannot read settings from {}", file.display()))?));
    }
    let mut patch = Map::new();
    if change.all_plugins {
        patch.insert("plugins".to_owned(), Value::Null);
    }
    for (member, names) in [("plugins", change.plugins), ("stream_plugins", change.stream_plugins)] {
        if let Some(names) = names {
            patch.insert(member.to_owned(), names.into_iter().filter(|name| !name.is_empty()).collect());
        }
    }
    if let Some(mode) = change.proxy_mode {
        patch.insert("proxy_mode".to_owned(), mode.into());
    }
    if let Some(mode) = change.router {
        patch.insert("router".to_owned(), json!({ "http": mode }));
    }
    if let Some(whose) = change.verify_upstreams {
        patch.insert("upstream_tls".to_owned(), json!({ "verify": whose }));
    }
    if let Some(file) = change.discovery {
        let registries = text(&file).and_then(|text| registries(&text));
        let registries = registries.with_context(|| format!("cannot read registries from {}", file.display()))?;
        patch.insert("discovery".to_owned(), registries);
    }
    Ok((Method::PATCH, patch.into()))
}

fn registries(text: &str) -> anyhow::Result<Value> {
    milecastle_settings::yaml(text).map_err(|fault| match fault.place {
        Place::File { line, column } => anyhow!("line {line}, column {column}: {}", fault.message),
        Place::Environment(_) | Place::Nowhere => anyhow!(fault.message),
    })
}

/// The text of a file, or of standard input.
pub(super) fn text(file: &Path) -> anyhow::Result<String> {
    if file != Path::new("-") {
        return Ok(std::fs::read_to_string(file)?);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_merged() {
        let none = || SettingsChange {
            plugins: None,
            all_plugins: false,
            router: None,
            proxy_mode: None,
            stream_plugins: None,
            verify_upstreams: None,
            discovery: None,
            file: None,
        };
        let check = |change: SettingsChange, expected: Value| {
            assert_eq!(asked(change).unwrap(), (Method::PATCH, expected));
        };
        check(SettingsChange { all_plugins: true, ..none() }, json!({ "plugins": null }));
        let plugins = Some(vec!["key-auth".to_owned(), "limit-count".to_owned()]);
        check(SettingsChange { plugins, ..none() }, json!({ "plugins": ["key-auth", "limit-count"] }));
        check(SettingsChange { plugins: Some(vec![String::new()]), ..none() }, json!({ "plugins": [] }));
        let (proxy_mode, stream_plugins) = (Some("http&stream".to_owned()), Some(vec!["syslog".to_owned()]));
        let expected = json!({ "stream_plugins": ["syslog"], "proxy_mode": "http&stream" });
        check(SettingsChange { proxy_mode, stream_plugins, ..none() }, expected);
        let router = Some("radixtree_uri".to_owned());
        check(SettingsChange { router, ..none() }, json!({ "router": { "http": "radixtree_uri" } }));
        let verify_upstreams = Some("required".to_owned());
        check(SettingsChange { verify_upstreams, ..none() }, json!({ "upstream_tls": { "verify": "required" } }));
    }

    #[test]
    fn registries_are_read_as_a_nodes_file_has_them() {
        let expected = json!({ "consul": { "servers": ["http://a:8500"] }, "dns": null });
        assert_eq!(registries("consul:\n  servers: ['http://a:8500']\ndns:\n").unwrap(), expected);
        assert_eq!(registries(&expected.to_string()).unwrap(), expected);
        assert_eq!(registries("null\n").unwrap(), Value::Null, "takes all away");
        let error = registries("consul: {\n").unwrap_err().to_string();
        assert!(error.starts_with("line "), "{error}");
    }
}
