//! What is to be told, in the making: the difference between what is and what was told last.

use std::collections::BTreeMap;

use milecastle_store::{NewEvent, Told, Topic};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::kind;

/// How an alarm stands, as it is remembered.
#[derive(Serialize, serde::Deserialize)]
struct Raised {
    /// Unix time in seconds.
    since: u64,
    /// What there is to say.
    detail: Value,
}

/// What is told, and what is to be remembered of it.
pub(super) struct News<'a> {
    told: &'a Told,
    /// Unix time in seconds.
    now: u64,
    events: Vec<NewEvent>,
    states: Vec<(Topic, Option<Value>)>,
}

impl<'a> News<'a> {
    pub(super) fn new(told: &'a Told, now: u64) -> Self {
        Self { told, now, events: Vec::new(), states: Vec::new() }
    }

    /// What is told, and what is to be remembered.
    pub(super) fn into_parts(self) -> (Vec<NewEvent>, Vec<(Topic, Option<Value>)>) {
        (self.events, self.states)
    }

    /// Unix time in seconds.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// Whether nothing was ever told: then what is there is remembered, and no news.
    pub(super) fn is_first(&self) -> bool {
        self.told.states.is_empty()
    }

    /// What was told last of something; `None` also if another version told it, in words that this one does not know.
    pub(super) fn before<T: DeserializeOwned>(&self, topic: &Topic) -> Option<T> {
        serde_json::from_value(self.told.states.get(topic)?.clone()).ok()
    }

    /// What was told of a kind, in all groups or in one.
    pub(super) fn topics(&self, kind: &'static str) -> impl Iterator<Item = &'a Topic> + use<'a> {
        let told = self.told;
        told.states.keys().filter(move |topic| topic.kind == kind)
    }

    /// Tells something.
    pub(super) fn say(&mut self, topic: &Topic, data: Value) {
        self.events.push(NewEvent { topic: topic.clone(), data });
    }

    /// Remembers how something stands.
    pub(super) fn remember(&mut self, topic: Topic, state: &impl Serialize) {
        let state = serde_json::to_value(state).unwrap_or_default();
        if self.told.states.get(&topic) != Some(&state) {
            self.states.push((topic, Some(state)));
        }
    }

    /// There is no such thing any more.
    pub(super) fn forget(&mut self, topic: &Topic) {
        self.states.push((topic.clone(), None));
    }

    /// Compares the alarms that there are, by topic, with those that were raised before and that `covered` looked for: each is
    /// raised once for each detail, and cleared once.
    pub(super) fn alarms(&mut self, present: BTreeMap<Topic, Value>, covered: impl Fn(&Topic) -> bool) {
        for topic in self.topics(kind::ALARM).filter(|topic| covered(topic) && !present.contains_key(topic)) {
            let detail = self.before::<Raised>(topic).map(|raised| raised.detail).unwrap_or_default();
            self.say(topic, with_state(topic, detail, "cleared"));
            self.forget(topic);
        }
        for (topic, detail) in present {
            let before = self.before::<Raised>(&topic);
            if before.as_ref().is_some_and(|before| before.detail == detail) {
                continue;
            }
            self.say(&topic, with_state(&topic, detail.clone(), "raised"));
            let since = before.map_or(self.now, |before| before.since);
            self.remember(topic, &Raised { since, detail });
        }
    }
}

/// What an event says of an alarm.
fn with_state(topic: &Topic, detail: Value, state: &str) -> Value {
    let alarm = topic.subject.split_once('/').map_or(&*topic.subject, |(alarm, _)| alarm);
    let mut data = json!({ "alarm": alarm, "state": state });
    if let (Value::Object(data), Value::Object(detail)) = (&mut data, detail) {
        data.extend(detail);
    }
    data
}

/// An alarm that is raised, as lists show it; `None` if another version raised it, in words that this one does not know.
pub(crate) fn raised(topic: &Topic, state: &Value) -> Option<Value> {
    let Raised { since, detail } = serde_json::from_value(state.clone()).ok()?;
    let mut shown = with_state(topic, detail, "raised");
    shown["group"] = topic.group.clone().into();
    shown["since"] = since.into();
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(subject: &str) -> Topic {
        Topic { kind: kind::ALARM.to_owned(), group: Some("g".to_owned()), subject: subject.to_owned() }
    }

    /// What is told of these alarms, where `told` was told before; and what was told then.
    fn step(told: &mut Told, present: &[(&str, Value)]) -> Vec<Value> {
        let mut news = News::new(told, 100);
        let present = present.iter().map(|(subject, detail)| (topic(subject), detail.clone())).collect();
        news.alarms(present, |topic| !topic.subject.starts_with("other/"));
        let (events, states) = news.into_parts();
        told.remember(states);
        events.into_iter().map(|event| event.data).collect()
    }

    #[test]
    fn an_alarm_is_raised_once_for_each_detail_and_cleared_once() {
        let mut told = Told::default();
        let raised = |days: u64| json!({"alarm": "certificate", "state": "raised", "days": days});
        assert_eq!(step(&mut told, &[("certificate/1", json!({"days": 30}))]), [raised(30)]);
        assert_eq!(step(&mut told, &[("certificate/1", json!({"days": 30}))]), [0; 0]);
        assert_eq!(step(&mut told, &[("certificate/1", json!({"days": 7}))]), [raised(7)]);
        let cleared = json!({"alarm": "certificate", "state": "cleared", "days": 7});
        assert_eq!(step(&mut told, &[]), [cleared]);
        assert_eq!(step(&mut told, &[]), [0; 0]);
    }

    #[test]
    fn alarms_that_nobody_looked_for_stay() {
        let mut told = Told::default();
        let state = json!({"since": 1, "detail": {}});
        told.states.insert(topic("other/1"), state);
        assert_eq!(step(&mut told, &[]), [0; 0]);
        assert_eq!(told.states.len(), 1);
    }
}
