//! How new revisions of a gateway group go out.

use super::cli::{Output, Server};
use super::commands::encode;
use super::view::{Table, ago, show, text};
use super::{Ended, client};
use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use milecastle_settings::Time;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// `milecastle rollout`.
#[derive(Debug, Args)]
pub(crate) struct Rollout {
    #[command(subcommand)]
    command: RolloutCommand,
    /// The gateway group
    #[arg(short, long, default_value = "default", global = true)]
    group: String,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Subcommand)]
enum RolloutCommand {
    /// Show the policy, the rollout that is on, and how those before it ended
    Show,
    /// Change the policy: what is named, or with --file all of it
    Set(Change),
    /// Keep the rollout that is on from going further; what is bad is taken back all the same
    Pause,
    /// Let it go on
    Resume,
    /// Give all nodes now what the canaries have
    Promote {
        /// What was written since then too
        #[arg(long)]
        all: bool,
    },
    /// Take back what the canaries have
    Abort,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// Who gets new revisions when; `all` also ends the rollout that is on, and all nodes get what there is
    #[arg(long, value_enum)]
    strategy: Option<Strategy>,
    /// Canaries by id or host name, with commas between; a `*` at the end stands for any ending
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with_all = ["percent", "count"])]
    canaries: Option<Vec<String>>,
    /// Canaries as a share of the nodes, in percent
    #[arg(long, conflicts_with = "count")]
    percent: Option<u8>,
    /// How many canaries
    #[arg(long)]
    count: Option<u32>,
    /// How long canaries serve with a revision before the others get it
    #[arg(long, value_name = "TIME")]
    soak: Option<Time>,
    /// The whole policy as JSON; `-` is standard input
    #[arg(short, long, conflicts_with_all = ["strategy", "canaries", "percent", "count", "soak"])]
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Strategy {
    /// All nodes at once
    All,
    /// Canaries first
    Canary,
}

pub(super) async fn run(command: Rollout) -> anyhow::Result<Ended> {
    let Rollout { command, group, server } = command;
    let (client, output) = (client(&server)?, server.output);
    let path = format!("/api/gateway_groups/{}/rollout", encode(&group));
    let answer = match command {
        RolloutCommand::Show => client.get(&path).await?,
        RolloutCommand::Set(change) => {
            let (method, body) = asked(change)?;
            client.call(method, &path, Some(body)).await?
        }
        RolloutCommand::Pause => client.call(Method::POST, &format!("{path}/pause"), None).await?,
        RolloutCommand::Resume => client.call(Method::POST, &format!("{path}/resume"), None).await?,
        RolloutCommand::Promote { all } => {
            client.call(Method::POST, &format!("{path}/promote?all={all}"), None).await?
        }
        RolloutCommand::Abort => client.call(Method::POST, &format!("{path}/abort"), None).await?,
    };
    tell(output, &answer)?;
    Ok(Ended::Done)
}

/// All of the policy anew from a file, or what is named merged into what is there.
fn asked(change: Change) -> anyhow::Result<(Method, Value)> {
    if let Some(file) = change.file {
        let body = super::settings::text(&file).and_then(|text| Ok(serde_json::from_str(&text)?));
        return Ok((Method::PUT, body.with_context(|| format!("cannot read a policy from {}", file.display()))?));
    }
    let mut patch = Map::new();
    if let Some(strategy) = change.strategy {
        let name = match strategy {
            Strategy::All => "all",
            Strategy::Canary => "canary",
        };
        patch.insert("strategy".to_owned(), name.into());
    }
    if change.canaries.is_some() || change.percent.is_some() || change.count.is_some() {
        let canaries = json!({ "nodes": change.canaries, "percent": change.percent, "count": change.count });
        patch.insert("canaries".to_owned(), canaries);
    }
    if let Some(soak) = change.soak {
        patch.insert("soak".to_owned(), serde_json::to_value(soak)?);
    }
    Ok((Method::PATCH, patch.into()))
}

fn tell(output: Output, answer: &Value) -> anyhow::Result<()> {
    show(output, answer, |answer| {
        let policy = answer.get("policy").unwrap_or(&Value::Null);
        let mut said = vec![format!("new revisions go to {}", whom(policy)), state(answer)];
        let outcomes = answer.get("outcomes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if !outcomes.is_empty() {
            let mut table = Table::new(&["revision", "when", "end", "by", "requests", "5xx", "reason"]);
            for one in outcomes {
                let cells = ["end", "by", "requests", "responses_5xx", "reason"].map(|member| text(one, member));
                table.row([text(one, "candidate"), ago(one, "at")].into_iter().chain(cells));
            }
            said.push(String::new());
            said.push(table.text());
        }
        said.join("\n")
    })
}

fn whom(policy: &Value) -> String {
    match policy.get("strategy").and_then(Value::as_str) {
        Some("canary") => format!("canaries first, to the others after {}", text(policy, "soak")),
        _ => "all nodes at once".to_owned(),
    }
}

fn state(answer: &Value) -> String {
    let Some(current) = answer.get("current").filter(|current| !current.is_null()) else {
        return format!("no rollout is on; all nodes may have revision {}", text(answer, "revision"));
    };
    let canaries = current.get("canaries").and_then(Value::as_array).into_iter().flatten();
    let canaries: Vec<&str> = canaries.filter_map(Value::as_str).collect();
    let advice = current.get("advice").and_then(Value::as_str).map(|advice| format!("\n{advice}"));
    format!(
        "{}: canaries ({}) may have revision {}, the others {}; the head is {}\n{}{}",
        text(answer, "state"),
        canaries.join(", "),
        text(current, "candidate"),
        text(current, "base"),
        text(answer, "revision"),
        text(current, "waits_for"),
        advice.unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_merged() {
        let none = || Change { strategy: None, canaries: None, percent: None, count: None, soak: None, file: None };
        let check = |change: Change, expected: Value| {
            assert_eq!(asked(change).unwrap(), (Method::PATCH, expected));
        };
        let soak = Some(Time::secs(30));
        check(
            Change { strategy: Some(Strategy::Canary), soak, ..none() },
            json!({ "strategy": "canary", "soak": "30s" }),
        );
        check(
            Change { percent: Some(10), ..none() },
            json!({ "canaries": { "nodes": null, "percent": 10, "count": null } }),
        );
    }

    #[test]
    fn what_a_rollout_waits_for_is_said() {
        let current = json!({ "base": 4, "candidate": 5, "canaries": ["a"], "waits_for": "9 s more" });
        let answer = json!({ "state": "canary", "revision": 6, "current": current });
        let said = state(&answer);
        assert_eq!(said, "canary: canaries (a) may have revision 5, the others 4; the head is 6\n9 s more");
        let current = json!({ "waits_for": "no canary is connected", "advice": "bring it back" });
        let said = state(&json!({ "current": current }));
        assert!(said.ends_with("\nno canary is connected\nbring it back"), "{said}");
        assert!(state(&json!({ "revision": 6, "current": null })).contains("all nodes may have revision 6"));
    }
}
