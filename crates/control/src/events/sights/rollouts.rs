//! Rollouts: that they began, how they ended, that the last one was taken back, and that one does not go on.

use std::collections::{BTreeMap, BTreeSet};

use milecastle_store::{Rollout, Rollouts, Topic};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::topic;
use crate::events::news::News;
use crate::events::{alarm, kind};
use crate::rollout::{End, Stalled, stored};

/// The last candidates of a group of which it was told that their rollouts began, and ended; 0: none.
#[derive(Serialize, Deserialize)]
struct Seen {
    lineage: String,
    begun: u64,
    ended: u64,
}

/// Rollouts that began and ended since the last look, and the alarms of those groups of which the last one was taken back unattended, or
/// the one that is on is stalled.
pub(in crate::events) fn rollouts(rollouts: &Rollouts, stalled: &BTreeMap<String, Stalled>, news: &mut News<'_>) {
    let raised = |alarm: &str, group: &str| topic(kind::ALARM, Some(group), &format!("{alarm}/"));
    let mut present = BTreeMap::new();
    for (group, why) in stalled {
        let Stalled { candidate, reason, advice } = why;
        let detail = json!({ "candidate": candidate, "reason": reason, "advice": advice });
        present.insert(raised(alarm::ROLLOUT_STALLED, group), detail);
    }
    for rollout in &rollouts.known {
        let Rollout { group, head, .. } = rollout;
        let subject = topic(kind::ROLLOUT, Some(group), "");
        let (stage, record) = stored(rollout);
        // Before there are canaries, its candidate may become another one.
        let on = stage.and_then(|stage| Some((head.gate?, stage.canaries)));
        let newest = record.outcomes.first();
        let now = Seen {
            lineage: head.lineage.clone(),
            begun: on.as_ref().map_or(0, |(gate, _)| gate.candidate),
            ended: newest.map_or(0, |newest| newest.candidate),
        };
        let before = news.before::<Seen>(&subject);
        // A group that was never looked at, while others were, is a new one: all that there is of it is news.
        let is_new = before.is_none() && !news.is_first();
        let new = || is_new.then(|| Seen { lineage: now.lineage.clone(), begun: 0, ended: 0 });
        let before = before.filter(|before| before.lineage == now.lineage).or_else(new);
        if let Some(before) = &before {
            for outcome in record.outcomes.iter().rev().filter(|outcome| outcome.candidate > before.ended) {
                let data = json!({
                    "state": outcome.end.name(),
                    "base": outcome.base,
                    "candidate": outcome.candidate,
                    "canaries": outcome.canaries,
                    "by": outcome.by,
                    "reason": outcome.reason,
                    "requests": outcome.requests,
                    "responses_5xx": outcome.responses_5xx,
                });
                news.say(&subject, data);
            }
            if let Some((gate, canaries)) = on.filter(|(gate, _)| gate.candidate > before.begun) {
                let (base, candidate) = (gate.base, gate.candidate);
                let data = json!({ "state": "begun", "base": base, "candidate": candidate, "canaries": canaries });
                news.say(&subject, data);
            }
        }
        if let Some(newest) = newest.filter(|newest| newest.end == End::RolledBack) {
            let detail = json!({ "candidate": newest.candidate, "reason": newest.reason });
            present.insert(raised(alarm::ROLLOUT, group), detail);
        }
        let (begun, ended) = before.map_or((0, 0), |before| (before.begun, before.ended));
        news.remember(subject, &Seen { begun: now.begun.max(begun), ended: now.ended.max(ended), ..now });
    }
    let ours = [alarm::ROLLOUT, alarm::ROLLOUT_STALLED].map(|alarm| format!("{alarm}/"));
    // What was told of a group whose rollout cannot be read now is still so.
    let unreadable = |topic: &Topic| topic.group.as_ref().is_some_and(|group| rollouts.unreadable.contains(group));
    news.alarms(present, |topic| ours.contains(&topic.subject) && !unreadable(topic));
    let known = rollouts.known.iter().map(|rollout| &rollout.group);
    let there: BTreeSet<&str> = known.chain(&rollouts.unreadable).map(String::as_str).collect();
    for gone in news.topics(kind::ROLLOUT).filter(|topic| !topic.group.as_deref().is_some_and(|id| there.contains(id)))
    {
        news.forget(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::{Outcome, Record, Stage, written};
    use milecastle_store::{Gate, Head, Told};

    fn rollout(gate: Option<(u64, u64)>, outcomes: &[(u64, End)]) -> Rollout {
        let ended = |&(candidate, end): &(u64, End)| Outcome {
            at: 1,
            base: candidate - 1,
            candidate,
            end,
            by: "rollout".to_owned(),
            reason: "bad".to_owned(),
            canaries: BTreeSet::new(),
            requests: 10,
            responses_5xx: 5,
        };
        let record = Record { outcomes: outcomes.iter().map(ended).collect(), ..Record::default() };
        let gate = gate.map(|(base, candidate)| Gate { base, candidate });
        Rollout {
            group: "g".to_owned(),
            head: Head { lineage: "l".to_owned(), revision: 9, mark: String::new(), epoch: 0, gate },
            staged: true,
            version: 1,
            policy: None,
            stage: gate.map(|_| written(Stage::default())),
            record: written(record),
        }
    }

    /// What is told: state and candidate.
    fn step(told: &mut Told, seen: Rollout) -> Vec<String> {
        look(told, Rollouts { known: vec![seen], unreadable: Vec::new() }, None)
    }

    fn look(told: &mut Told, seen: Rollouts, stalled: Option<Stalled>) -> Vec<String> {
        let stalled = stalled.into_iter().map(|stalled| ("g".to_owned(), stalled)).collect();
        let mut news = News::new(told, 100);
        rollouts(&seen, &stalled, &mut news);
        let (events, states) = news.into_parts();
        told.remember(states);
        events
            .iter()
            .map(|event| format!("{} {} {}", event.topic.kind, event.data["state"], event.data["candidate"]))
            .collect()
    }

    #[test]
    fn each_beginning_and_end_is_told_once() {
        let mut told = Told::default();
        let back = (5, End::RolledBack);
        // What was before anybody looked is no news, but for the alarm.
        assert_eq!(step(&mut told, rollout(None, &[(3, End::Promoted)])), [""; 0]);
        assert_eq!(step(&mut told, rollout(Some((4, 5)), &[(3, End::Promoted)])), [r#"rollout "begun" 5"#]);
        assert_eq!(step(&mut told, rollout(Some((4, 5)), &[(3, End::Promoted)])), [""; 0]);
        let expected = [r#"rollout "rolled_back" 5"#, r#"rollout "begun" 7"#, r#"alarm "raised" 5"#];
        assert_eq!(step(&mut told, rollout(Some((4, 7)), &[back, (3, End::Promoted)])), expected);
        let expected = [r#"rollout "promoted" 7"#, r#"alarm "cleared" 5"#];
        assert_eq!(step(&mut told, rollout(None, &[(7, End::Promoted), back])), expected);
        // An abort needs nobody any more.
        let expected = [r#"rollout "aborted" 8"#];
        assert_eq!(step(&mut told, rollout(None, &[(8, End::Aborted), (7, End::Promoted), back])), expected);
    }

    #[test]
    fn what_ended_before_the_first_look_at_its_group_is_told() {
        let mut told = Told::default();
        let other = Rollout { group: "other".to_owned(), ..rollout(None, &[]) };
        assert_eq!(step(&mut told, other), [""; 0]);
        let expected = [r#"rollout "rolled_back" 5"#, r#"alarm "raised" 5"#];
        assert_eq!(step(&mut told, rollout(None, &[(5, End::RolledBack)])), expected);
    }

    #[test]
    fn what_does_not_go_on_is_an_alarm_until_it_does() {
        let mut told = Told::default();
        let on = || Rollouts { known: vec![rollout(Some((4, 5)), &[])], unreadable: Vec::new() };
        assert_eq!(look(&mut told, on(), None), [""; 0]);
        let stalled = |reason| Stalled { candidate: Some(5), reason, advice: "promote it" };
        assert_eq!(look(&mut told, on(), Some(stalled("no canary"))), [r#"alarm "raised" 5"#]);
        assert_eq!(look(&mut told, on(), Some(stalled("no canary"))), [""; 0]);
        assert_eq!(look(&mut told, on(), Some(stalled("no traffic"))), [r#"alarm "raised" 5"#]);
        assert_eq!(look(&mut told, on(), None), [r#"alarm "cleared" 5"#]);
        // One that cannot be read: what was told of it before is not told anew once it can.
        let unreadable = Rollouts { known: Vec::new(), unreadable: vec!["g".to_owned()] };
        let damaged = Stalled { candidate: None, ..stalled("damaged") };
        assert_eq!(look(&mut told, unreadable, Some(damaged)), [r#"alarm "raised" null"#]);
        assert_eq!(look(&mut told, on(), None), [r#"alarm "cleared" null"#]);
    }
}
