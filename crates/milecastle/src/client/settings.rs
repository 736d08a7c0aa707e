//! Settings of a gateway group.

use super::cli::{Output, SettingsChange, SettingsCommand};
use super::commands::encode;
use super::http::Client;
use super::view::{show, text};
use anyhow::Context;
use hyper::Method;
use milecastle_settings::Time;
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::Path;

pub(super) async fn run(client: &Client, output: Output, command: SettingsCommand) -> anyhow::Result<()> {
    let path = |id: &str| format!("/api/gateway_groups/{}/settings", encode(id));
    match command {
        SettingsCommand::Get { id } => {
            let answer = client.get(&path(&id)).await?;
            show(output, &answer, |answer| {
                let effective = answer.get("effective").unwrap_or(&Value::Null);
                let effective = serde_json::to_string_pretty(effective).unwrap_or_default();
                format!("settings of group {id}, of revision {}:\n{effective}", text(answer, "revision"))
            })
        }
        SettingsCommand::Set { id, change, force, expected_revision, wait } => {
            let (method, body) = asked(change)?;
            let wait = wait.map(argument).transpose()?.unwrap_or_default();
            let path = format!("{}?force={force}{wait}", path(&id));
            let tag = expected_revision.map(|revision| format!("\"{revision}\""));
            let answer = client.call_if_match(method, &path, tag, body).await?;
            show(output, &answer, |answer| {
                let receipt =
                    answer.get("receipt").map(|_| format!(", {}", text(answer, "receipt"))).unwrap_or_default();
                format!("settings of group {id} are of revision {}{receipt}", text(answer, "revision"))
            })
        }
    }
}

fn argument(wait: Time) -> anyhow::Result<String> {
    let text = serde_json::to_value(wait)?;
    Ok(format!("&wait={}", encode(text.as_str().unwrap_or_default())))
}

/// All settings anew from a file, or those that are named merged into what is there.
fn asked(change: SettingsChange) -> anyhow::Result<(Method, Value)> {
    if let Some(file) = change.file {
        let body = read(&file).with_context(|| format!("cannot read settings from {}", file.display()))?;
        return Ok((Method::PUT, body));
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
    Ok((Method::PATCH, patch.into()))
}

fn read(file: &Path) -> anyhow::Result<Value> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(file)?;
    }
    Ok(serde_json::from_str(&text)?)
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
    }
}
