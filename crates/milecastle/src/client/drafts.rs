//! Drafts: change sets that are prepared by one and looked at, published or discarded by another.

use super::Ended;
use super::changes::{changes, publish_by};
use super::cli::{DraftCommand, Edits, Output};
use super::commands::encode;
use super::http::{Client, Payload};
use super::settings;
use super::view::{Table, ago, items, say, show, text};
use anyhow::Context as _;
use hyper::Method;
use serde_json::{Value, json};
use std::fmt::Write as _;

pub(super) async fn run(client: &Client, output: Output, group: &str, command: DraftCommand) -> anyhow::Result<Ended> {
    let drafts = format!("/api/gateway_groups/{}/drafts", encode(group));
    let of = |id: &str| format!("{drafts}/{}", encode(id));
    match command {
        DraftCommand::List => {
            let answer = client.get(&drafts).await?;
            show(output, &answer, |answer| {
                let mut table = Table::new(&["id", "name", "who", "objects", "version", "touched", "message"]);
                for one in items(answer) {
                    let [id, name, author, objects, version, message] =
                        ["id", "name", "author", "objects", "version", "message"].map(|member| text(one, member));
                    table.row([id, name, author, objects, version, ago(one, "touched_at"), message]);
                }
                table.text()
            })?;
        }
        DraftCommand::Begin { id, edits } => {
            let mut body = given(&edits)?;
            if let Some(id) = id {
                body["id"] = id.into();
            }
            let made = client.call(Method::POST, &drafts, Some(body)).await?;
            show(output, &made, told)?;
        }
        DraftCommand::Edit { id, edits, draft_version } => {
            let tag = draft_version.map(|version| format!("\"{version}\""));
            let body = Some(Payload::json(&given(&edits)?));
            let edited = client.call_if_match(Method::PATCH, &of(&id), tag, body).await?;
            show(output, &edited, told)?;
        }
        DraftCommand::Show { id } => {
            let answer = client.get(&of(&id)).await?;
            show(output, &answer, |answer| {
                let draft = answer.get("draft").cloned().unwrap_or_default();
                format!("{}\n{}", told(&draft), with_clashes(answer))
            })?;
        }
        DraftCommand::Publish { id, draft_version, publish } => {
            let more = draft_version.map(|version| format!("&version={version}")).unwrap_or_default();
            return publish_by(client, output, &format!("{}/publish", of(&id)), &more, None, &publish).await;
        }
        DraftCommand::Discard { id } => {
            client.call(Method::DELETE, &of(&id), None).await?;
            say(&format!("draft {id} discarded"))?;
        }
    }
    Ok(Ended::Done)
}

/// The body of a request, of what the command line gives.
fn given(Edits { file, name, message }: &Edits) -> anyhow::Result<Value> {
    let mut body = match file {
        None => json!({}),
        Some(file) => {
            let text = settings::text(file).with_context(|| format!("cannot read {}", file.display()))?;
            let edits: Value = serde_json::from_str(&text)
                .with_context(|| format!("{} is not JSON: a list of edits is expected", file.display()))?;
            json!({ "edits": edits })
        }
    };
    for (member, text) in [("name", name), ("message", message)] {
        if let Some(text) = text {
            body[member] = text.as_str().into();
        }
    }
    Ok(body)
}

fn told(draft: &Value) -> String {
    let [id, version, objects, author] = ["id", "version", "objects", "author"].map(|member| text(draft, member));
    format!("draft {id} of {author}, version {version}, {objects} objects")
}

/// What a draft would do, and which objects others have changed since it saw them.
fn with_clashes(answer: &Value) -> String {
    let mut out = changes(answer);
    let clashes = answer.get("clashes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if !clashes.is_empty() {
        out.push_str("\nothers have changed meanwhile, edit them again:");
    }
    for clash in clashes {
        let [kind, id, seen, current] = ["kind", "id", "seen", "current"].map(|member| text(clash, member));
        let revision = |text: String| if text.is_empty() { "nothing".to_owned() } else { format!("revision {text}") };
        write!(out, "\n  {kind} {id}: {} was seen, it is {} now", revision(seen), revision(current))
            .expect("a String takes all that is written to it");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clashes_are_told_with_what_was_seen() {
        let clashes = json!([
            { "kind": "route", "id": "1", "seen": 3, "current": 5 },
            { "kind": "route", "id": "2", "seen": null, "current": 4 },
        ]);
        assert_eq!(
            with_clashes(&json!({ "clashes": clashes })),
            "0 created, 0 updated, 0 deleted\nothers have changed meanwhile, edit them again:\n  \
             route 1: revision 3 was seen, it is revision 5 now\n  route 2: nothing was seen, it is revision 4 now"
        );
    }
}
