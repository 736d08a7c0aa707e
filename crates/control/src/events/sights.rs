//! What is looked at, and in what it differs from what was told last.

mod certificates;
mod groups;
mod nodes;
mod rollouts;

pub(super) use certificates::{Certificates, holder};
pub(super) use groups::{groups, went_back};
pub(super) use nodes::{Lags, alarms_of_nodes, nodes, receipts};
pub(super) use rollouts::rollouts;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use milecastle_store::{Member, Observation, Topic};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::news::News;
use super::{alarm, kind};
use crate::availability::kind as watched;

/// Seconds in a day.
const DAY: u64 = 86_400;

/// What was told of a member.
#[derive(Serialize, Deserialize)]
struct Seen {
    name: String,
    state: String,
}

/// Who leads.
#[derive(Serialize, Deserialize)]
struct Leads {
    member: String,
    epoch: u64,
}

fn topic(kind: &str, group: Option<&str>, subject: &str) -> Topic {
    Topic { kind: kind.to_owned(), group: group.map(str::to_owned), subject: subject.to_owned() }
}

/// The tightest of these limits, in days, that the end of a certificate has come to; 0 once it is over.
fn days_left(ends: u64, now: u64, limits: &[u64]) -> Option<u64> {
    if ends <= now {
        return Some(0);
    }
    limits.iter().copied().filter(|days| ends - now <= days.saturating_mul(DAY)).min()
}

/// A member leads that did not before, or it leads anew.
pub(super) fn leader(member: &str, epoch: u64, news: &mut News<'_>) {
    let topic = topic(kind::LEADER, None, "");
    let before = news.before::<Leads>(&topic);
    if before.as_ref().is_some_and(|before| before.epoch == epoch && before.member == member) {
        return;
    }
    news.say(&topic, json!({ "member": member, "epoch": epoch, "before": before.map(|before| before.member) }));
    news.remember(topic, &Leads { member: member.to_owned(), epoch });
}

/// Replicas that came, fell silent, came back or left.
pub(super) fn members(members: &[Member], lost_after: Duration, news: &mut News<'_>) {
    for member in members {
        let state = match &member.outdated {
            Some(_) => "outdated",
            None if member.silence > lost_after => "lost",
            None => "alive",
        };
        let topic = topic(kind::MEMBER, None, &member.told.id);
        let word = match news.before::<Seen>(&topic) {
            Some(before) if before.state == state => continue,
            Some(before) if before.state == "lost" && state == "alive" => Some("back"),
            Some(_) => Some(state),
            None if news.is_first() => None,
            None if state == "alive" => Some("joined"),
            None => Some(state),
        };
        if let Some(word) = word {
            let told = &member.told;
            let data = json!({
                "member": told.id, "name": told.host, "roles": told.roles, "version": told.version, "state": word,
            });
            news.say(&topic, data);
        }
        news.remember(topic, &Seen { name: member.told.host.clone(), state: state.to_owned() });
    }
    let there: BTreeSet<&str> = members.iter().map(|member| &*member.told.id).collect();
    for topic in news.topics(kind::MEMBER).filter(|topic| !there.contains(&*topic.subject)) {
        let before = news.before::<Seen>(topic);
        let left = before.as_ref().is_none_or(|before| before.state != "lost");
        let (name, state) = (before.map(|before| before.name), if left { "left" } else { "forgotten" });
        news.say(topic, json!({ "member": topic.subject, "name": name, "state": state }));
        news.forget(topic);
    }
}

/// The cluster, or addresses that are probed, which are down. Of nodes and replicas there are alarms and events of their own.
pub(super) fn unavailable(seen: &[Observation], news: &mut News<'_>) {
    let mut present = BTreeMap::new();
    for Observation { subject, detail, .. } in seen.iter().filter(|seen| !seen.is_up) {
        let what = &*subject.kind;
        if [watched::CLUSTER, watched::PROBE].contains(&what) {
            let topic = topic(kind::ALARM, None, &format!("{}/{what}/{}", alarm::UNAVAILABLE, subject.name));
            present.insert(topic, json!({ "what": what, "name": subject.name, "detail": detail }));
        }
    }
    news.alarms(present, |topic| topic.subject.starts_with(&format!("{}/", alarm::UNAVAILABLE)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_store::{NewMember, Told};

    fn member(id: &str, silence: u64) -> Member {
        let told = NewMember {
            id: id.to_owned(),
            roles: vec!["dashboard".to_owned()],
            host: "a".to_owned(),
            version: "1".to_owned(),
            address: String::new(),
        };
        Member { told, started_at: 1, silence: Duration::from_secs(silence), outdated: None }
    }

    /// The states that are told.
    fn step(told: &mut Told, seen: &[Member]) -> Vec<String> {
        let mut news = News::new(told, 100);
        members(seen, Duration::from_secs(6), &mut news);
        let (events, states) = news.into_parts();
        told.remember(states);
        events
            .iter()
            .map(|event| format!("{} {}", event.topic.subject, event.data["state"].as_str().unwrap()))
            .collect()
    }

    #[test]
    fn members_come_and_go() {
        let mut told = Told::default();
        // What is there before anything was ever told is no news.
        assert_eq!(step(&mut told, &[member("1", 0)]), [""; 0]);
        assert_eq!(step(&mut told, &[member("1", 0), member("2", 0)]), ["2 joined"]);
        assert_eq!(step(&mut told, &[member("1", 7), member("2", 0)]), ["1 lost"]);
        assert_eq!(step(&mut told, &[member("1", 8), member("2", 0)]), [""; 0]);
        assert_eq!(step(&mut told, &[member("1", 0), member("2", 9)]), ["1 back", "2 lost"]);
        assert_eq!(step(&mut told, &[]), ["1 left", "2 forgotten"]);
        assert_eq!(told.states.len(), 0);
    }

    #[test]
    fn a_leader_is_told_once_for_each_term() {
        let mut told = Told::default();
        let mut step = |member: &str, epoch: u64| {
            let mut news = News::new(&told, 100);
            leader(member, epoch, &mut news);
            let (events, states) = news.into_parts();
            told.remember(states);
            events.len()
        };
        assert_eq!([step("a", 1), step("a", 1), step("b", 2), step("b", 2), step("b", 3)], [1, 0, 1, 0, 1]);
    }

    #[test]
    fn the_tightest_limit_counts() {
        let check = |ends: u64, expected| assert_eq!(days_left(ends, 1000, &[30, 7, 1]), expected, "{ends}");
        check(1000 + 31 * DAY, None);
        check(1000 + 30 * DAY, Some(30));
        check(1000 + 7 * DAY, Some(7));
        check(1000 + DAY, Some(1));
        check(1001, Some(1));
        check(1000, Some(0));
        check(0, Some(0));
    }
}
