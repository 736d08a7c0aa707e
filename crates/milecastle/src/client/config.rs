//! The configuration, its history, and how far it has come.

use super::cli::{Config, ConfigCommand, Output};
use super::commands::encode;
use super::http::Client;
use super::view::{Table, ago, items, show, tell, text};
use super::{Ended, changes, client, drafts};
use milecastle_settings::Time;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};
use std::{iter, mem};

/// Collections that `config get` without a kind shows, each with the one that lies below its objects.
const COLLECTIONS: &[(&str, Option<&str>)] = &[
    ("routes", None),
    ("services", Some("graphql_cost_decorations")),
    ("upstreams", None),
    ("consumers", Some("credentials")),
    ("consumer_groups", None),
    ("ssls", None),
    ("global_rules", None),
    ("plugin_configs", None),
    ("plugin_metadata", None),
    ("protos", None),
    ("secrets", None),
    ("stream_routes", None),
];

/// What is shown of an object.
const COLUMNS: [&str; 4] = ["kind", "id", "name", "what"];

/// Objects that a line of the history names.
const NAMED: usize = 3;

/// How long one request of a wait may take; the server may allow less.
const ROUND: Duration = Duration::from_secs(10);

/// How often to look for a node while none is connected.
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn run(command: Config) -> anyhow::Result<Ended> {
    let Config { command, group, server } = command;
    let (client, output) = (client(&server)?, server.output);
    match command {
        ConfigCommand::Get { kind: None, .. } => all(&client, output, &group).await?,
        ConfigCommand::Get { kind: Some(kind), id } => get(&client, output, &group, &kind, id.as_deref()).await?,
        ConfigCommand::History { limit, revision: None } => history(&client, output, &group, limit).await?,
        ConfigCommand::History { revision: Some(revision), .. } => changed(&client, output, &group, revision).await?,
        ConfigCommand::Export { chosen, format } => return changes::export(&client, &group, &chosen, format).await,
        ConfigCommand::Apply { file, arrive, publish } => {
            return changes::apply(&client, output, &group, &file, &arrive, &publish).await;
        }
        ConfigCommand::Promote { from, arrive, publish } => {
            return changes::promote(&client, output, &group, &from, &arrive, &publish).await;
        }
        ConfigCommand::Diff { from, to } => return changes::diff(&client, output, &group, &from, &to).await,
        ConfigCommand::Rollback { revision, publish } => {
            return changes::rollback(&client, output, &group, revision, &publish).await;
        }
        ConfigCommand::Draft { command } => return drafts::run(&client, output, &group, command).await,
        ConfigCommand::Wait { revision, within } => {
            let (ended, receipt) = wait(&client, &group, revision, within).await?;
            show(output, &receipt, |receipt| {
                format!("revision {}: {}", text(receipt, "revision"), text(receipt, "receipt"))
            })?;
            if count(&receipt, "total") == 0 {
                tell(&format!("no node of group `{group}` is connected: nobody has it (milecastle nodes -g {group})"))?;
            }
            return Ok(ended);
        }
    }
    Ok(Ended::Done)
}

/// Shows all objects of the group, which come as its file: one answer of one revision, however many there are.
async fn all(client: &Client, output: Output, group: &str) -> anyhow::Result<()> {
    let file = client.get(&format!("/api/gateway_groups/{}/export", encode(group))).await?;
    show(output, &by_collection(file), |all| {
        let mut table = Table::new(&COLUMNS);
        for (collection, list) in all.as_object().into_iter().flatten() {
            list.as_array().into_iter().flatten().for_each(|object| table.row(cells(collection, object)));
        }
        table.text()
    })
}

/// The objects of a group's file by collection, as the Admin API names them.
fn by_collection(mut file: Value) -> Value {
    let names = COLLECTIONS.iter().flat_map(|(collection, below)| iter::once(*collection).chain(*below));
    let mut all: Map<String, Value> = names.map(|name| (name.to_owned(), json!([]))).collect();
    let objects = file.get_mut("objects").and_then(Value::as_object_mut).map(mem::take);
    for (path, body) in objects.into_iter().flatten() {
        if let Some(collection) = collection_of(&path)
            && let Some(list) = all.get_mut(collection).and_then(Value::as_array_mut)
        {
            list.push(json!({ "key": format!("/apisix{path}"), "value": body }));
        }
    }
    all.into()
}

/// The collection of an object with this path, `/consumers/jack/credentials/c`; `None` for the settings of the group.
fn collection_of(path: &str) -> Option<&'static str> {
    let mut words = path.strip_prefix('/')?.split('/');
    let first = words.next()?;
    let (collection, below) = COLLECTIONS.iter().find(|(name, _)| *name == first)?;
    Some(below.filter(|below| words.nth(1) == Some(*below)).unwrap_or(*collection))
}

/// Shows the objects of one kind, or one of them.
async fn get(client: &Client, output: Output, group: &str, kind: &str, id: Option<&str>) -> anyhow::Result<()> {
    let place = id.map_or_else(|| kind.to_owned(), |id| format!("{kind}/{id}"));
    let answer = client.get(&admin(group, &place)).await?;
    show(output, &answer, |answer| {
        if id.is_some() {
            return serde_json::to_string_pretty(answer.get("value").unwrap_or(answer)).unwrap_or_default();
        }
        let mut table = Table::new(&[&COLUMNS[..], &["revision"]].concat());
        let row = |object| cells(kind, object).into_iter().chain([text(object, "modifiedIndex")]);
        items(answer).for_each(|object| table.row(row(object)));
        table.text()
    })
}

/// Shows what was published, newest first.
async fn history(client: &Client, output: Output, group: &str, limit: u16) -> anyhow::Result<()> {
    let answer = client.get(&format!("/api/gateway_groups/{}/revisions?limit={limit}", encode(group))).await?;
    show(output, &answer, |answer| {
        let mut table = Table::new(&["revision", "when", "who", "source", "what", "message"]);
        for one in items(answer) {
            let cells = [text(one, "author"), text(one, "source"), touched(one), text(one, "message")];
            table.row([text(one, "revision"), ago(one, "at")].into_iter().chain(cells));
        }
        table.text()
    })
}

/// Shows which objects a revision changed.
async fn changed(client: &Client, output: Output, group: &str, revision: u64) -> anyhow::Result<()> {
    let answer = client.get(&format!("/api/gateway_groups/{}/revisions/{revision}", encode(group))).await?;
    show(output, &answer, |answer| {
        let mut table = Table::new(&["op", "kind", "id"]);
        for change in answer.get("changes").and_then(Value::as_array).into_iter().flatten() {
            table.row(["op", "kind", "id"].map(|member| text(change, member)));
        }
        table.text()
    })
}

/// What a revision changed: the first objects by name, the others by number.
fn touched(revision: &Value) -> String {
    let named = revision.get("changes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let named = named.iter().take(NAMED);
    let mut said: Vec<String> =
        named.map(|one| ["op", "kind", "id"].map(|member| text(one, member)).join(" ")).collect();
    let all: u64 = ["puts", "deletes"].iter().filter_map(|member| revision.get(*member)?.as_u64()).sum();
    match all.saturating_sub(said.len() as u64) {
        0 => {}
        more => said.push(format!("and {more} more")),
    }
    said.join(", ")
}

/// Asks again and again, since a server allows no more than so long a wait, until all nodes have answered or the time is over.
/// As long as no node is connected, nobody has answered.
async fn wait(client: &Client, group: &str, revision: Option<u64>, within: Time) -> anyhow::Result<(Ended, Value)> {
    let end = Instant::now() + within.get();
    let mut revision = revision.map_or_else(|| "head".to_owned(), |revision| revision.to_string());
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let round = left.min(ROUND);
        let wait = round.as_millis();
        let path = format!("/api/gateway_groups/{}/revisions/{revision}/receipt?wait={wait}ms", encode(group));
        let receipt = client.waiting(round).get(&path).await?;
        let nobody = count(&receipt, "total") == 0;
        let held = count(&receipt, "held") > 0;
        if !nobody && !held && receipt.get("settled").and_then(Value::as_bool).unwrap_or_default() {
            let taken_back = is_taken_back(client, group, count(&receipt, "revision")).await;
            let ended = if taken_back || count(&receipt, "rejected") > 0 { Ended::Rejected } else { Ended::Done };
            return Ok((ended, receipt));
        }
        if left.is_zero() {
            return Ok((Ended::Late, receipt));
        }
        if nobody || held {
            // Where there is nobody to wait for, or a rollout keeps it from some, the server answers at once.
            tokio::time::sleep(left.min(LOOK)).await;
        }
        // What was the head at first is what is waited for.
        revision = text(&receipt, "revision");
    }
}

/// Whether a rollout with which a revision went out was taken back, of which it is told. Whoever may not look at rollouts is none the wiser.
async fn is_taken_back(client: &Client, group: &str, revision: u64) -> bool {
    let rollout = client.get(&format!("/api/gateway_groups/{}/rollout", encode(group))).await.unwrap_or_default();
    let outcomes = rollout.get("outcomes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let had_it = |one: &&Value| count(one, "base") < revision && revision <= count(one, "candidate");
    let Some(outcome) = outcomes.iter().find(had_it).filter(|one| text(one, "end") != "promoted") else { return false };
    let reason = text(outcome, "reason");
    tell(&format!("revision {revision} was taken back by {}: {reason}", text(outcome, "by"))).is_ok()
}

fn count(receipt: &Value, member: &str) -> u64 {
    receipt.get(member).and_then(Value::as_u64).unwrap_or_default()
}

/// Where something is in the Admin API: a collection or an object, as in its paths.
fn admin(group: &str, place: &str) -> String {
    let place: Vec<String> = place.split('/').map(encode).collect();
    format!("/apisix/admin/{}?gateway_group_id={}", place.join("/"), encode(group))
}

/// The id of an object: what follows prefix and collection in its key, `jack/credentials/c`.
fn id_of(object: &Value) -> String {
    text(object, "key").splitn(4, '/').nth(3).unwrap_or_default().to_owned()
}

/// What stands in [`COLUMNS`].
fn cells(collection: &str, object: &Value) -> [String; COLUMNS.len()] {
    let empty = json!({});
    let value = object.get("value").unwrap_or(&empty);
    let what = ["uri", "uris", "sni", "snis", "nodes", "plugins"].iter().map(|member| text(value, member));
    let what: String = what.into_iter().find(|what| !what.is_empty()).unwrap_or_default();
    let what =
        if what.chars().count() > 60 { format!("{}…", what.chars().take(59).collect::<String>()) } else { what };
    [collection.to_owned(), id_of(object), text(value, "name"), what]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_a_file_are_sorted_into_their_collections() {
        let paths = [
            ("routes", "/routes/r"),
            ("consumers", "/consumers/credentials"),
            ("credentials", "/consumers/credentials/credentials/c"),
            ("graphql_cost_decorations", "/services/s/graphql_cost_decorations/d"),
            ("secrets", "/secrets/vault/credentials"),
        ];
        let mut objects: Map<String, Value> =
            paths.iter().map(|(_, path)| ((*path).to_owned(), json!({ "id": path }))).collect();
        objects.insert("/group_settings/group".to_owned(), json!({}));
        let all = by_collection(json!({ "milecastle": 1, "objects": objects }));
        for (collection, path) in paths {
            let expected = json!([{ "key": format!("/apisix{path}"), "value": { "id": path } }]);
            assert_eq!(all[collection], expected, "{path}");
        }
        assert_eq!((&all["services"], all.get("group_settings")), (&json!([]), None));
    }

    #[test]
    fn a_line_of_the_history_names_the_first_objects() {
        let change = |id: &str| json!({ "op": "create", "kind": "route", "id": id });
        let check = |ids: &[&str], puts: u64, deletes: u64, expected: &str| {
            let named: Vec<Value> = ids.iter().map(|id| change(id)).collect();
            assert_eq!(touched(&json!({ "puts": puts, "deletes": deletes, "changes": named })), expected);
        };
        check(&[], 0, 0, "");
        check(&["1"], 1, 0, "create route 1");
        check(&["1", "2", "3"], 2, 1, "create route 1, create route 2, create route 3");
        check(&["1", "2", "3", "4"], 7, 2, "create route 1, create route 2, create route 3, and 6 more");
    }
}
