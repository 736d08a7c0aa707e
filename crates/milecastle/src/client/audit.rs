//! Who changed what.

use super::cli::{Audit, AuditCommand, ExportFormat, Wanted};
use super::commands::encode;
use super::view::{Table, ago, items, now, show, text};
use super::{Ended, client};
use anyhow::Context;
use serde_json::Value;
use std::io::{self, Write as _};

pub(super) async fn run(command: Audit) -> anyhow::Result<Ended> {
    let (client, output) = (client(&command.server)?, command.server.output);
    match command.command {
        AuditCommand::List { wanted, limit, before } => {
            let before = before.map(|before| format!("&before={before}")).unwrap_or_default();
            let answer = client.get(&format!("/api/audit?limit={limit}{before}{}", query(&wanted))).await?;
            show(output, &answer, table)?;
        }
        AuditCommand::Show { entry } => {
            let answer = client.get(&format!("/api/audit/{entry}")).await?;
            show(output, &answer, |answer| format!("{answer:#}"))?;
        }
        AuditCommand::Export { wanted, format } => {
            let format = match format {
                ExportFormat::Json => "json",
                ExportFormat::Csv => "csv",
            };
            let exported = client.get_text(&format!("/api/audit/export?format={format}{}", query(&wanted))).await?;
            match io::stdout().lock().write_all(&exported) {
                // Whoever reads it may stop before the end.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                done => done.context("cannot write to standard output")?,
            }
        }
    }
    Ok(Ended::Done)
}

fn table(answer: &Value) -> String {
    let mut table = Table::new(&["id", "when", "who", "from", "group", "kind", "object", "action", "outcome", "times"]);
    for entry in items(answer) {
        let seconds =
            entry.get("at_ms").and_then(Value::as_u64).map(|millis| serde_json::json!({ "at": millis / 1000 }));
        let when = ago(&seconds.unwrap_or_default(), "at");
        let named = ["actor", "address", "group", "kind", "object", "action", "outcome", "times"];
        table.row([text(entry, "id"), when].into_iter().chain(named.map(|member| text(entry, member))));
    }
    match answer.get("next").and_then(Value::as_u64) {
        Some(next) => format!("{}\n\nolder ones: --before {next}", table.text()),
        None => table.text(),
    }
}

/// What is wanted, as arguments that follow others.
fn query(wanted: &Wanted) -> String {
    let Wanted { since, until, actor, group, kind, object, action, outcome } = wanted;
    let moment =
        |age: &Option<milecastle_settings::Time>| age.map(|age| now().saturating_sub(age.get().as_secs()).to_string());
    let arguments = [
        ("since", moment(since)),
        ("until", moment(until)),
        ("actor", actor.clone()),
        ("group", group.clone()),
        ("kind", kind.clone()),
        ("object", object.clone()),
        ("action", action.clone()),
        ("outcome", outcome.clone()),
    ];
    let given = arguments.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", encode(&value?))));
    given.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_says_where_it_goes_on() {
        let entry = json!({
            "id": 7, "at_ms": null, "actor": "ann", "address": "::1", "group": null, "kind": "route", "object": "1",
            "action": "update", "outcome": "done", "times": 1,
        });
        let text = table(&json!({ "list": [entry], "next": 7 }));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["7", "-", "ann", "::1", "-", "route", "1", "update", "done", "1"]
        );
        assert_eq!(lines.last(), Some(&"older ones: --before 7"));
    }

    #[test]
    fn arguments_are_those_that_are_given() {
        let none = Wanted {
            since: None,
            until: None,
            actor: None,
            group: None,
            kind: None,
            object: None,
            action: None,
            outcome: None,
        };
        assert_eq!(query(&none), "");
        let some = Wanted { actor: Some("token/ci".to_owned()), kind: Some("route".to_owned()), ..none };
        assert_eq!(query(&some), "&actor=token%2Fci&kind=route");
    }
}
