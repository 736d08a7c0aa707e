//! Groups, tokens, nodes, members.

use super::cli::{
    Group, GroupCommand, LogLevel, Members, MembersCommand, Nodes, NodesCommand, OneNode, Order, Output, Switch, Token,
    TokenCommand,
};
use super::http::Client;
use super::settings;
use super::view::{Table, ago, items, now, show, tell, text};
use super::{Ended, Refused, client};
use anyhow::bail;
use hyper::Method;
use serde_json::{Value, json};

pub(super) async fn group(command: Group) -> anyhow::Result<Ended> {
    let (client, output) = (client(&command.server)?, command.server.output);
    match command.command {
        GroupCommand::List => {
            let answer = client.get("/api/gateway_groups").await?;
            show(output, &answer, |answer| {
                let mut table = Table::new(&["id", "name", "revision", "labels", "made", "maintenance"]);
                for group in items(answer) {
                    let labels = group.get("labels").and_then(Value::as_object).into_iter().flatten();
                    let labels: Vec<_> =
                        labels.map(|(key, v)| format!("{key}={}", v.as_str().unwrap_or_default())).collect();
                    let cells = [text(group, "id"), text(group, "name"), text(group, "revision")];
                    let more = [labels.join(","), ago(group, "created_at"), maintenance(group, &["maintenance"])];
                    table.row(cells.into_iter().chain(more));
                }
                table.text()
            })?;
        }
        GroupCommand::Create { id, name, labels } => {
            let labels: serde_json::Map<String, Value> = labels.into_iter().map(|(k, v)| (k, v.into())).collect();
            let mut body = json!({ "id": id, "labels": labels });
            if let (Some(name), Value::Object(members)) = (name, &mut body) {
                members.insert("name".to_owned(), name.into());
            }
            let answer = client.call(Method::POST, "/api/gateway_groups", Some(body)).await?;
            show(output, &answer, |_| format!("group {id} made; next: milecastle token create {id}"))?;
        }
        GroupCommand::Delete { id, force } => {
            let path = format!("/api/gateway_groups/{}?force={force}", encode(&id));
            let answer = client.call(Method::DELETE, &path, None).await?;
            show(output, &answer, |_| format!("group {id} deleted"))?;
        }
        GroupCommand::Maintenance { id, order } => {
            let path = format!("/api/gateway_groups/{}/maintenance", encode(&id));
            maintain(&client, output, &path, &order, &format!("group {id}")).await?;
        }
        GroupCommand::Settings { command } => settings::run(&client, output, command).await?,
        GroupCommand::Lineage { id, confirm } => {
            let path = format!("/api/gateway_groups/{}/lineage", encode(&id));
            let answer = match confirm {
                false => client.get(&path).await?,
                true => client.call(Method::POST, &format!("{path}/confirm"), None).await?,
            };
            show(output, &answer, |answer| lineage(answer, confirm))?;
        }
    }
    Ok(Ended::Done)
}

fn lineage(answer: &Value, confirmed: bool) -> String {
    let stands =
        format!("the database holds revision {} of lineage {}", text(answer, "revision"), text(answer, "lineage"));
    let unknown = answer.get("unknown").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if confirmed {
        return format!("{stands}; the nodes take it over");
    }
    if unknown.is_empty() {
        return format!("{stands}; no node holds anything that it does not know");
    }
    let mut table = Table::new(&["lineage", "revision", "nodes"]);
    for one in unknown {
        let nodes = one.get("nodes").and_then(Value::as_array).into_iter().flatten();
        let nodes: Vec<_> = nodes.filter_map(Value::as_str).collect();
        table.row([text(one, "lineage"), text(one, "revision"), nodes.join(",")]);
    }
    format!(
        "{stands}; nodes hold what it does not know:\n\n{}\n\n--confirm has them take over the database's state",
        table.text()
    )
}

pub(super) async fn token(command: Token) -> anyhow::Result<Ended> {
    let (client, output) = (client(&command.server)?, command.server.output);
    match command.command {
        TokenCommand::Create { group, name, expires_in } => {
            let path = format!("/api/gateway_groups/{}/tokens", encode(&group));
            let mut body = json!({ "name": name });
            if let (Some(life), Value::Object(members)) = (expires_in, &mut body) {
                members.insert("expires_in".to_owned(), serde_json::to_value(life)?);
            }
            let answer = client.call(Method::POST, &path, Some(body)).await?;
            if output == Output::Table {
                let id = text(&answer, "id");
                tell(&format!(
                    "token {id} of group {group}, shown this once; to revoke it: milecastle token revoke {id} -g {group}"
                ))?;
            }
            // Alone on standard output, so that it can go into a file.
            show(output, &answer, |answer| text(answer, "token"))?;
        }
        TokenCommand::List { group } => {
            let answer = client.get(&format!("/api/gateway_groups/{}/tokens", encode(&group))).await?;
            show(output, &answer, |answer| {
                let mut table = Table::new(&["id", "name", "made", "expires", "revoked"]);
                for token in items(answer) {
                    let times = ["created_at", "expires_at", "revoked_at"].map(|member| ago(token, member));
                    table.row([text(token, "id"), text(token, "name")].into_iter().chain(times));
                }
                table.text()
            })?;
        }
        TokenCommand::Revoke { token, group } => {
            let path = format!("/api/gateway_groups/{}/tokens/{}", encode(&group), encode(&token));
            let answer = client.call(Method::DELETE, &path, None).await?;
            show(output, &answer, |_| format!("token {token} revoked, and every node that joined with it"))?;
        }
    }
    Ok(Ended::Done)
}

pub(super) async fn nodes(command: Nodes) -> anyhow::Result<Ended> {
    let (client, output) = (client(&command.server)?, command.server.output);
    match command.command {
        None => {
            let path = match &command.group {
                Some(group) => format!("/api/gateway_groups/{}/nodes", encode(group)),
                None => "/api/nodes".to_owned(),
            };
            let answer = client.get(&path).await?;
            show(output, &answer, |answer| {
                let mut table = Table::new(&[
                    "group",
                    "node",
                    "state",
                    "revision",
                    "host",
                    "version",
                    "heard",
                    "maintenance",
                    "trouble",
                ]);
                for node in items(answer) {
                    let revision = format!("{}/{}", text(node, "revision"), text(node, "head"));
                    let cells = ["group", "id", "state"].map(|member| text(node, member));
                    let more = [
                        revision,
                        text(node, "host"),
                        text(node, "version"),
                        ago(node, "heard_at"),
                        maintenance_of_node(node),
                        trouble(node),
                    ];
                    table.row(cells.into_iter().chain(more));
                }
                table.text()
            })?;
        }
        Some(NodesCommand::Warnings { group, node, level, text, since, limit }) => {
            let level = level.map(|level| match level {
                LogLevel::Warn => "warn".to_owned(),
                LogLevel::Error => "error".to_owned(),
            });
            let since = since.map(|since| now().saturating_sub(since.get().as_secs()).to_string());
            let given = [("group", group), ("node", node), ("level", level), ("text", text), ("since", since)];
            let given = given.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", encode(&value?))));
            let answer = client.get(&format!("/api/warnings?limit={limit}{}", given.collect::<String>())).await?;
            show(output, &answer, warnings)?;
        }
        Some(NodesCommand::Revoke(one)) => {
            let answer = client.call(Method::POST, &format!("{}/revoke", path_of(&client, &one).await?), None).await?;
            show(output, &answer, |_| format!("node {} revoked", one.node))?;
        }
        Some(NodesCommand::Maintenance { one, order }) => {
            let path = format!("{}/maintenance", path_of(&client, &one).await?);
            maintain(&client, output, &path, &order, &format!("node {}", one.node)).await?;
        }
        Some(NodesCommand::Delete(one)) => {
            let answer = client.call(Method::DELETE, &path_of(&client, &one).await?, None).await?;
            show(output, &answer, |_| format!("node {} deleted", one.node))?;
        }
    }
    Ok(Ended::Done)
}

/// Where the API has a node; its group is looked up if it was not named.
async fn path_of(client: &Client, one: &OneNode) -> anyhow::Result<String> {
    let group = match &one.group {
        Some(group) => group.clone(),
        None => {
            let all = client.get("/api/nodes").await?;
            let mut groups = items(&all).filter(|node| text(node, "id") == one.node).map(|node| text(node, "group"));
            match (groups.next(), groups.next()) {
                (Some(group), None) => group,
                (None, _) => {
                    let message = format!("no gateway group has a node `{}`: `milecastle nodes` lists them", one.node);
                    bail!(Refused { status: 404, message })
                }
                (Some(_), Some(_)) => bail!("several gateway groups have a node `{}`: name one with --group", one.node),
            }
        }
    };
    Ok(format!("/api/gateway_groups/{}/nodes/{}", encode(&group), encode(&one.node)))
}

/// What is wrong with a node, in few words.
fn trouble(node: &Value) -> String {
    let mut said = Vec::new();
    let rejected = node.get("rejected").and_then(Value::as_array).into_iter().flatten();
    said.extend(rejected.map(|one| format!("{} {}: {}", text(one, "kind"), text(one, "id"), text(one, "reason"))));
    said.extend(node.get("refused").filter(|refused| !refused.is_null()).map(|refused| text(refused, "detail")));
    let alarms = node.get("alarms").and_then(Value::as_array).into_iter().flatten();
    said.extend(alarms.filter_map(Value::as_str).map(str::to_owned));
    said.dedup();
    said.join("; ")
}

/// Has maintenance begin or end where `path` says.
async fn maintain(client: &Client, output: Output, path: &str, order: &Order, what: &str) -> anyhow::Result<()> {
    let (answer, state) = match order.switch {
        Switch::On => {
            let body = json!({ "reason": order.reason });
            (client.call(Method::PUT, path, Some(body)).await?, "in maintenance until it is switched off")
        }
        Switch::Off => (client.call(Method::DELETE, path, None).await?, "no longer in maintenance"),
    };
    show(output, &answer, |_| format!("{what} is {state}"))
}

/// Of a node: what was ordered, and whether the node has not said yet that it is so.
fn maintenance_of_node(node: &Value) -> String {
    let ordered = maintenance(node, &["maintenance", "group_maintenance"]);
    let is_so = node.get("in_maintenance").and_then(Value::as_bool).unwrap_or_default();
    match (ordered.is_empty(), is_so) {
        (false, false) => format!("{ordered} (not confirmed)"),
        (true, true) => "ended (not confirmed)".to_owned(),
        _ => ordered,
    }
}

/// The first of these members by which an item is in maintenance, in few words; empty if none is.
fn maintenance(item: &Value, members: &[&str]) -> String {
    let found = members.iter().find_map(|member| item.get(*member).filter(|found| found.is_object()));
    found.map(|found| [ago(found, "since"), text(found, "reason")].join(" ").trim().to_owned()).unwrap_or_default()
}

pub(super) async fn members(command: Members) -> anyhow::Result<Ended> {
    let client = client(&command.server)?;
    if let Some(MembersCommand::Maintenance { name, order }) = command.command {
        let path = format!("/api/members/{}/maintenance", encode(&name));
        maintain(&client, command.server.output, &path, &order, &format!("member {name}")).await?;
        return Ok(Ended::Done);
    }
    let answer = client.get("/api/members").await?;
    show(command.server.output, &answer, |answer| {
        let mut table =
            Table::new(&["member", "name", "roles", "state", "leads", "address", "version", "started", "maintenance"]);
        for member in items(answer) {
            let roles = member.get("roles").and_then(Value::as_array).into_iter().flatten();
            let roles: Vec<_> = roles.filter_map(Value::as_str).collect();
            let leads = member.get("leads").and_then(Value::as_bool).unwrap_or_default();
            let leads = if leads { "yes" } else { "" };
            let more = [
                text(member, "address"),
                text(member, "version"),
                ago(member, "started_at"),
                maintenance(member, &["maintenance"]),
            ];
            let cells =
                [text(member, "id"), text(member, "name"), roles.join(","), text(member, "state"), leads.to_owned()];
            table.row(cells.into_iter().chain(more));
        }
        table.text()
    })?;
    Ok(Ended::Done)
}

/// A segment of a path, or an argument of a query.
pub(super) fn encode(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encoded).collect()
}

/// What nodes have logged, as a table.
fn warnings(answer: &Value) -> String {
    let mut table = Table::new(&["last", "group", "node", "level", "times", "text"]);
    for line in items(answer) {
        let cells = ["group", "node", "level", "times", "text"].map(|member| text(line, member));
        table.row([ago(line, "last_at")].into_iter().chain(cells));
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maintenance_is_shown_until_the_node_says_that_it_is_over() {
        let check = |ordered: Value, is_so: bool, expected: &str| {
            let node = json!({ "maintenance": ordered, "group_maintenance": null, "in_maintenance": is_so });
            assert_eq!(maintenance_of_node(&node), expected);
        };
        let order = || json!({ "reason": "a new disk", "by": "ann", "since": null });
        check(order(), true, "a new disk");
        check(order(), false, "a new disk (not confirmed)");
        check(Value::Null, true, "ended (not confirmed)");
        check(Value::Null, false, "");
    }

    #[test]
    fn segments_are_encoded() {
        assert_eq!(encode("a-b_c.1~"), "a-b_c.1~");
        assert_eq!(encode("a/b ?é"), "a%2Fb%20%3F%C3%A9");
    }
}
