//! What happened, and what happens.

use super::cli::{Events, Output};
use super::commands::encode;
use super::http::{Client, Followed};
use super::view::{say, tell, text};
use super::{Ended, Refused, client};
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Pauses before another server is tried: the first one, and the longest after further failures.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A server that says nothing for so long has vanished: it says `: beat` every `event_streams.beat`, 30 s at most.
const SILENCE: Duration = Duration::from_secs(60);

/// Events of a list that are read at a time.
const PAGE: u16 = 500;

/// An event as it is sent.
#[derive(Debug, Default, PartialEq)]
struct Frame {
    event: String,
    data: Value,
}

/// Puts events together of the lines that they are sent in.
#[derive(Debug, Default)]
struct Lines {
    /// The id that is to be sent when connecting anew: of what was shown.
    last: Option<u64>,
    /// The one of what is being put together.
    id: Option<u64>,
    event: String,
    data: String,
}

pub(super) async fn run(command: Events) -> anyhow::Result<Ended> {
    let client = client(&command.server)?;
    let json = command.json || matches!(command.server.output, Output::Json);
    let after = match (command.after, command.since) {
        (Some(after), _) => Some(after),
        // Ids tell the time, in milliseconds.
        (None, Some(since)) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let then = now.saturating_sub(since.get()).as_millis();
            Some(u64::try_from(then).unwrap_or(u64::MAX))
        }
        (None, None) => None,
    };
    let path = path(command.group.as_deref(), &command.kind);
    match command.follow {
        true => follow(&client, &path, after, json).await,
        false => list(&client, &path, after.unwrap_or(0), json).await,
    }
}

fn path(group: Option<&str>, kinds: &[String]) -> String {
    let group = group.map(|group| format!("&group={}", encode(group))).unwrap_or_default();
    let kinds = if kinds.is_empty() { String::new() } else { format!("&kind={}", encode(&kinds.join(","))) };
    format!("{group}{kinds}")
}

/// Shows all events after one, oldest first.
async fn list(client: &Client, arguments: &str, mut after: u64, json: bool) -> anyhow::Result<Ended> {
    loop {
        let page = client.get(&format!("/api/events?limit={PAGE}&after={after}{arguments}")).await?;
        let next = page.get("next").and_then(Value::as_u64).unwrap_or(after);
        for event in super::view::items(&page) {
            show(event, json)?;
        }
        if next <= after {
            return Ok(Ended::Done);
        }
        after = next;
    }
}

/// Shows events as they come, for ever: when a server ends, from the next one on that answers.
async fn follow(client: &Client, arguments: &str, after: Option<u64>, json: bool) -> anyhow::Result<Ended> {
    let mut lines = Lines { last: after, ..Lines::default() };
    let (mut pause, mut from) = (FIRST_PAUSE, 0);
    loop {
        match client.follow(&format!("/api/events?follow=true{arguments}"), lines.last, from).await {
            Ok(followed) => {
                from = followed.next();
                if read(followed, &mut lines, json).await? {
                    pause = FIRST_PAUSE;
                }
            }
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => tell(&format!("milecastle: {error:#}; trying again"))?,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether trying again is of no use.
fn is_final(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| !matches!(refused.status, 429 | 500..))
}

/// Shows what a server sends to its end; gives whether it sent anything.
async fn read(mut followed: Followed, lines: &mut Lines, json: bool) -> anyhow::Result<bool> {
    let mut sent = false;
    lines.begin();
    while let Some(line) = followed.line(SILENCE).await {
        sent = true;
        let Some(Frame { event, data }) = lines.take(&line) else { continue };
        match &*event {
            "end" if text(&data, "reason") == "not_allowed" => {
                return Err(Refused { status: 401, message: text(&data, "message") }.into());
            }
            "end" | "gap" => tell(&format!("milecastle: {}", text(&data, "message")))?,
            "database" => match data.get("reason").and_then(Value::as_str) {
                Some(reason) => tell(&format!("milecastle: nothing can be recorded: {reason}"))?,
                None => tell("milecastle: the database takes writes again")?,
            },
            _ => show(&data, json)?,
        }
    }
    Ok(sent)
}

impl Lines {
    /// A server begins: what the one before left half said is void.
    fn begin(&mut self) {
        self.id = None;
        self.event.clear();
        self.data.clear();
    }

    /// Takes a line; gives the event that it ends.
    fn take(&mut self, line: &str) -> Option<Frame> {
        match line.split_once(": ") {
            Some(("id", id)) => self.id = id.parse().ok(),
            Some(("event", event)) => event.clone_into(&mut self.event),
            Some(("data", data)) => self.data.push_str(data),
            _ if line.is_empty() => {
                self.last = self.id.take().or(self.last);
                let (event, data) = (std::mem::take(&mut self.event), std::mem::take(&mut self.data));
                let frame = Frame { event, data: serde_json::from_str(&data).unwrap_or_default() };
                return (!data.is_empty()).then_some(frame);
            }
            // Comments, and members that this version does not know.
            _ => {}
        }
        None
    }
}

fn show(event: &Value, json: bool) -> anyhow::Result<()> {
    say(&if json { event.to_string() } else { line(event) })
}

/// An event in a line for people.
fn line(event: &Value) -> String {
    let at = event.get("id").and_then(Value::as_u64).map(|id| UNIX_EPOCH + Duration::from_millis(id));
    let at = at.map(httpdate::fmt_http_date).unwrap_or_default();
    let group = Some(text(event, "group")).filter(|group| !group.is_empty()).unwrap_or_else(|| "-".to_owned());
    format!("{at}  {:<8}  {group}  {}", text(event, "kind"), words(event))
}

fn words(event: &Value) -> String {
    let member = |name: &str| text(event, name);
    let before = Some(member("before")).filter(|before| !before.is_empty());
    match &*member("kind") {
        "change" => format!("revision {} by {}: {}", member("revision"), member("author"), member("message")),
        "receipt" => {
            let rejected = member("rejected");
            let rejected = if rejected == "0" { String::new() } else { format!(", rejected {rejected}") };
            format!("revision {} applied {}/{}{rejected}", member("revision"), member("applied"), member("total"))
        }
        "node" => {
            let before = before.map(|before| format!(", was {before}")).unwrap_or_default();
            format!("{} {}{before}", member("node"), member("state"))
        }
        "member" => format!("{} ({}) {}", member("name"), member("member"), member("state")),
        "leader" => format!("{} leads", member("member")),
        "group" => member("state"),
        "rollout" => {
            let reason = member("reason");
            let reason = if reason.is_empty() { reason } else { format!(" by {}: {reason}", member("by")) };
            format!("revision {} {}{reason}", member("candidate"), member("state"))
        }
        "lineage" => format!("{} at revision {}", member("lineage"), member("revision")),
        "alarm" => {
            let days = member("days");
            let days = if days.is_empty() { days } else { format!(", at most {days} days left") };
            let about = [member("object"), member("node"), member("reason")].concat();
            format!("{} {} {about}{days}", member("alarm"), member("state"))
        }
        _ => event.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_put_together_of_lines() {
        let mut lines = Lines { last: Some(3), ..Lines::default() };
        let mut taken = Vec::new();
        for line in ["retry: 1000", "", "id: 5", ": beat", "", "id: 7", "event: node", "data: {\"node\":\"n\"}", "", ""]
        {
            taken.extend(lines.take(line));
        }
        assert_eq!(taken, [Frame { event: "node".to_owned(), data: json!({ "node": "n" }) }]);
        assert_eq!(lines.last, Some(7));
        // What is half said when a server dies is asked for again, and not mixed with what the next one says.
        for line in ["id: 9", "event: node", "data: {"] {
            assert_eq!(lines.take(line), None);
        }
        lines.begin();
        assert_eq!(lines.last, Some(7));
        assert_eq!(lines.take("data: {}"), None);
        assert_eq!(lines.take(""), Some(Frame { event: String::new(), data: json!({}) }));
    }

    #[test]
    fn lines_for_people() {
        let check = |event: Value, expected: &str| assert_eq!(words(&event), expected);
        let change = json!({"kind": "change", "revision": 4, "author": "ann", "message": "create route 1"});
        check(change, "revision 4 by ann: create route 1");
        let receipt = json!({"kind": "receipt", "revision": 4, "applied": 2, "total": 3, "rejected": 1});
        check(receipt, "revision 4 applied 2/3, rejected 1");
        check(json!({"kind": "node", "node": "n1", "state": "lost", "before": "healthy"}), "n1 lost, was healthy");
        let alarm = json!({"kind": "alarm", "alarm": "certificate", "state": "raised", "object": "ssls/1", "days": 7});
        check(alarm, "certificate raised ssls/1, at most 7 days left");
        let rollout =
            json!({"kind": "rollout", "candidate": 5, "state": "rolled_back", "by": "rollout", "reason": "bad"});
        check(rollout, "revision 5 rolled_back by rollout: bad");
        check(json!({"kind": "rollout", "candidate": 5, "state": "begun"}), "revision 5 begun");
        let event = json!({"id": 1_700_000_000_123_u64, "kind": "leader", "group": null, "member": "m1"});
        assert_eq!(line(&event), "Tue, 14 Nov 2023 22:13:20 GMT  leader    -  m1 leads");
    }

    #[test]
    fn arguments() {
        assert_eq!(path(None, &[]), "");
        assert_eq!(path(Some("a b"), &["node".to_owned(), "alarm".to_owned()]), "&group=a%20b&kind=node%2Calarm");
    }
}
