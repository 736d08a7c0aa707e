//! Whole change sets: what lies between revisions, the way back, a group as a file, objects of one group for another.

use super::Ended;
use super::cli::{Arrive, ExportAs, Output, Publish, Select};
use super::commands::encode;
use super::http::{Client, Payload};
use super::settings::{self, argument};
use super::view::{say, show, tell, text};
use anyhow::Context;
use hyper::Method;
use milecastle_settings::Time;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Shows what it takes to come from one revision to another.
pub(super) async fn diff(client: &Client, output: Output, group: &str, from: &str, to: &str) -> anyhow::Result<Ended> {
    let path = format!("{}/{}/diff/{}", revisions(group), encode(from), encode(to));
    let answer = client.get(&path).await?;
    show(output, &answer, changes)?;
    Ok(Ended::Done)
}

/// Says what bringing a group back to a revision would do, or does it.
pub(super) async fn rollback(
    client: &Client,
    output: Output,
    group: &str,
    revision: u64,
    publish: &Publish,
) -> anyhow::Result<Ended> {
    let path = format!("{}/{revision}/rollback", revisions(group));
    publish_by(client, output, &path, "", None, publish).await
}

/// Writes the group, or what is chosen of it, to standard output as one file.
pub(super) async fn export(client: &Client, group: &str, chosen: &Select, format: ExportAs) -> anyhow::Result<Ended> {
    let format = match format {
        ExportAs::Json => "json",
        ExportAs::Yaml => "yaml",
    };
    let path = format!("/api/gateway_groups/{}/export?format={format}{}", encode(group), arguments(chosen));
    let text = client.get_text(&path).await?;
    say(String::from_utf8_lossy(&text).trim_end())?;
    Ok(Ended::Done)
}

/// Says what the objects of a file would change, or makes them the group's.
pub(super) async fn apply(
    client: &Client,
    output: Output,
    group: &str,
    file: &Path,
    arrive: &Arrive,
    publish: &Publish,
) -> anyhow::Result<Ended> {
    let text = settings::text(file).with_context(|| format!("cannot read {}", file.display()))?;
    let path = format!("/api/gateway_groups/{}/import", encode(group));
    publish_by(client, output, &path, &how(arrive), Some(Payload::file(text)), publish).await
}

/// Says what the objects of another group would change, or makes them the group's.
pub(super) async fn promote(
    client: &Client,
    output: Output,
    group: &str,
    from: &str,
    arrive: &Arrive,
    publish: &Publish,
) -> anyhow::Result<Ended> {
    let path = format!("/api/gateway_groups/{}/promote", encode(group));
    let arguments = format!("&from={}{}", encode(from), how(arrive));
    publish_by(client, output, &path, &arguments, None, publish).await
}

fn how(Arrive { chosen, existing, prune }: &Arrive) -> String {
    format!("&existing={}&prune={prune}{}", encode(existing), arguments(chosen))
}

fn arguments(Select { kinds, objects }: &Select) -> String {
    let list = |name: &str, words: &[String]| match words {
        [] => String::new(),
        words => format!("&{name}={}", encode(&words.join(","))),
    };
    format!("{}{}", list("kinds", kinds), list("objects", objects))
}

/// Says what a change set that a path stands for would do, or has it published, on top of the revision that was named or the one that
/// the group has now.
pub(super) async fn publish_by(
    client: &Client,
    output: Output,
    path: &str,
    more: &str,
    body: Option<Payload>,
    publish: &Publish,
) -> anyhow::Result<Ended> {
    let arguments = format!("force={}&message={}{more}", publish.force, encode(&publish.message));
    let tag = |revision: String| format!("\"{revision}\"");
    let named = publish.expected_revision.map(|revision| tag(revision.to_string()));
    let said = match (publish.yes, &named) {
        (true, Some(_)) => None,
        _ => {
            let path = format!("{path}?dry_run=true&{arguments}");
            Some(client.call_if_match(Method::POST, &path, named.clone(), body.clone()).await?)
        }
    };
    if !publish.yes {
        let said = said.unwrap_or_default();
        show(output, &said, changes)?;
        if said.get("total").and_then(Value::as_u64) != Some(0) && flaws(&said).is_empty() {
            let base = text(&said, "base");
            tell(&format!("nothing was done yet; to do it: the same with --yes --expected-revision {base}"))?;
        }
        return Ok(Ended::Done);
    }
    let wait = publish.wait.map(argument).transpose()?.unwrap_or_default();
    let tag = named.unwrap_or_else(|| tag(text(&said.unwrap_or_default(), "base")));
    let path = format!("{path}?{arguments}{wait}");
    let client = client.waiting(publish.wait.map_or(Duration::ZERO, Time::get));
    let done = client.call_if_match(Method::POST, &path, Some(tag), body).await?;
    show(output, &done, |done| {
        let receipt = done.get("receipt").map(|_| format!(", {}", text(done, "receipt"))).unwrap_or_default();
        format!("{}\nrevision {}{receipt}", changes(done), text(done, "revision"))
    })?;
    Ok(Ended::Done)
}

/// The changes of an answer, object by object, with what is otherwise; and what stands against them.
pub(super) fn changes(answer: &Value) -> String {
    let mut out = String::new();
    let list = answer.get("changes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for one in list {
        let head = ["op", "kind", "id"].map(|member| text(one, member)).join(" ");
        out.push_str(&head);
        out.push('\n');
        for (sign, member) in [('-', "before"), ('+', "after")] {
            if let Some(side) = one.get(member).filter(|side| !side.is_null()) {
                writeln!(out, "  {sign} {side}").expect("a String takes all that is written to it");
            }
        }
    }
    let count = |member: &str| answer.get(member).and_then(Value::as_u64).unwrap_or_default();
    match count("total").saturating_sub(list.len() as u64) {
        0 => {}
        more => writeln!(out, "and {more} more").expect("a String takes all that is written to it"),
    }
    let (creates, updates, deletes) = (count("creates"), count("updates"), count("deletes"));
    write!(out, "{creates} created, {updates} updated, {deletes} deleted")
        .expect("a String takes all that is written to it");
    let flaws = flaws(answer);
    if !flaws.is_empty() {
        out.push_str("\nit would be refused:");
    }
    for flaw in flaws {
        let [kind, id, path, message] = ["kind", "id", "path", "message"].map(|member| text(flaw, member));
        write!(out, "\n  {kind} {id}: {path}{}{message}", if path.is_empty() { "" } else { ": " })
            .expect("a String takes all that is written to it");
    }
    out
}

fn flaws(answer: &Value) -> &[Value] {
    answer.get("faults").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn revisions(group: &str) -> String {
    format!("/api/gateway_groups/{}/revisions", encode(group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_are_shown_object_by_object() {
        let check = |answer: Value, expected: &str| assert_eq!(changes(&answer), expected);
        check(json!({ "changes": [], "total": 0 }), "0 created, 0 updated, 0 deleted");
        let update =
            json!({ "op": "update", "kind": "route", "id": "1", "before": { "uri": "/a" }, "after": { "uri": "/b" } });
        let delete = json!({ "op": "delete", "kind": "route", "id": "2", "before": { "uri": "/c" }, "after": null });
        let fault = json!({ "kind": "route", "id": "1", "path": "/uri", "message": "no" });
        check(
            json!({ "changes": [update, delete], "updates": 1, "deletes": 3, "total": 4, "faults": [fault] }),
            "update route 1\n  - {\"uri\":\"/a\"}\n  + {\"uri\":\"/b\"}\ndelete route 2\n  - {\"uri\":\"/c\"}\nand 2 more\n\
             0 created, 1 updated, 3 deleted\nit would be refused:\n  route 1: /uri: no",
        );
    }
}
