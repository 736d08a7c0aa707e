use super::*;
use crate::rollout::policy::{Canaries, Strategy};
use crate::rollout::written;
use milecastle_settings::Time;

mod hanging;

const GATE: Gate = Gate { base: 4, candidate: 5 };
const T0: u64 = 1_000_000;
const NOTED_EVERY: u64 = 300;
const SETTLING: u64 = 10;

/// Two nodes and what has come of them, and a rollout that goes on from there.
struct Run {
    policy: Policy,
    gate: Option<Gate>,
    head: u64,
    stage: Option<Stage>,
    record: Record,
    nodes: Vec<Seen>,
}

impl Run {
    fn new() -> Self {
        let node = |id: &str| Seen {
            id: id.to_owned(),
            connected: true,
            present: true,
            boot: "b1".to_owned(),
            revision: 4,
            traffic: Some(Traffic::default()),
            ..Seen::default()
        };
        Self {
            policy: Policy {
                strategy: Strategy::Canary,
                soak: Time::secs(10),
                baseline: Time::secs(NOTED_EVERY),
                settle: Time::secs(SETTLING),
                ..Policy::default()
            },
            gate: Some(GATE),
            head: 5,
            stage: None,
            record: Record::default(),
            nodes: vec![node("a"), node("b")],
        }
    }

    fn situation(&self, now: u64) -> Situation<'_> {
        Situation {
            now: T0 + now,
            policy: &self.policy,
            head: self.head,
            gate: self.gate,
            stage: self.stage.clone(),
            record: self.record.clone(),
            nodes: &self.nodes,
        }
    }

    /// Takes the step that is due, as the store does.
    fn step(&mut self, now: u64) -> Advance {
        let Course::Step { stage, record, advance, .. } = self.situation(now).course() else {
            panic!("{:?}", self.situation(now).course());
        };
        (self.stage, self.record) = (stage.map(|stage| *stage), record);
        if advance == Advance::Candidate {
            self.gate = None;
        }
        advance
    }

    fn waits(&self, now: u64, expected: &str) {
        let course = self.situation(now).course();
        assert!(matches!(&course, Course::Wait(wait) if wait.to_string().contains(expected)), "{course:?}");
    }

    fn goes_back(&self, now: u64, expected: &str) {
        let course = self.situation(now).course();
        assert!(matches!(&course, Course::Back(why) if why.contains(expected)), "{course:?}");
    }

    /// Chooses the canary, `a`, and begins to soak.
    fn soaking() -> Self {
        let mut run = Self::new();
        assert_eq!(run.step(0), Advance::Stay);
        assert_eq!(run.stage.as_ref().unwrap().canaries, BTreeSet::from(["a".to_owned()]));
        run.waits(1, "do not have it in force");
        run.nodes[0].revision = 5;
        assert_eq!(run.step(2), Advance::Stay);
        assert_eq!(run.stage.as_ref().unwrap().soaking_since, Some(T0 + 2));
        run
    }

    /// The canary, `a`, has the candidate in force, after all nodes had told, at `told_at`, what they counted before.
    fn in_force(told_at: Option<u64>) -> Self {
        let mut run = Self::new();
        run.nodes.iter_mut().for_each(|node| (node.counted_with, node.told_at) = (Some(4), told_at));
        run.step(0);
        run.nodes[0].revision = 5;
        run.step(1);
        run
    }

    /// The canary tells what it has counted with the candidate in force.
    fn tells(&mut self, now: u64) {
        (self.nodes[0].counted_with, self.nodes[0].told_at) = (Some(5), Some(T0 + now));
    }

    fn answers(&mut self, node: usize, good: u64, bad: u64) {
        let traffic = self.nodes[node].traffic.get_or_insert_default();
        traffic.responses[1] += good;
        traffic.responses[4] += bad;
        traffic.times[2] += good + bad;
    }
}

#[test]
fn after_the_soak_time_all_get_it() {
    let mut run = Run::soaking();
    run.answers(0, 500, 0);
    run.waits(11, "for 1 s more");
    assert_eq!(run.step(12), Advance::Candidate);
    let Outcome { end, requests, canaries, .. } = &run.record.outcomes[0];
    assert_eq!((*end, *requests, canaries.len()), (End::Promoted, 500, 1));
}

#[test]
fn bad_answers_take_it_back_at_once() {
    let mut run = Run::soaking();
    run.answers(0, 0, 49);
    run.waits(3, "s more");
    run.answers(0, 0, 1);
    run.goes_back(3, "100.0 % of 50 requests");
    // As bad elsewhere.
    run.answers(1, 0, 50);
    run.waits(3, "s more");
}

#[test]
fn objects_in_quarantine_and_unknown_settings_take_it_back() {
    let mut run = Run::soaking();
    run.nodes[0].rejected = 2;
    run.goes_back(3, "2 objects in quarantine, 0 before");
    run.nodes[0].rejected = 0;
    run.nodes[0].refused = Some(5);
    run.goes_back(3, "settings");
    run.nodes[0].refused = Some(4);
    run.waits(3, "s more");
    // What was in quarantine before is none of its doing.
    let mut run = Run::new();
    run.nodes[0].rejected = 2;
    run.step(0);
    run.nodes[0].revision = 5;
    run.step(1);
    run.waits(2, "s more");
}

#[test]
fn without_a_canary_nothing_goes_on() {
    let mut run = Run::new();
    run.policy.canaries = Canaries { nodes: Some(vec!["z".to_owned()]), ..Canaries::default() };
    assert_eq!(run.step(0), Advance::Stay);
    run.waits(1, "none of the nodes");
    let mut run = Run::soaking();
    (run.nodes[0].connected, run.nodes[0].present) = (false, false);
    assert_eq!(run.step(5), Advance::Stay);
    run.waits(100, "no canary is connected");
    // It comes back, having started anew: it soaks for the whole time, and is judged by what it has answered since.
    (run.nodes[0].connected, run.nodes[0].boot) = (true, "b2".to_owned());
    run.nodes[0].traffic = None;
    run.answers(0, 80, 0);
    assert_eq!(run.step(101), Advance::Stay);
    run.waits(110, "s more");
    assert_eq!(run.step(111), Advance::Candidate);
    assert_eq!(run.record.outcomes[0].requests, 80);
}

#[test]
fn a_canary_that_is_lost_holds_it_for_as_long_as_it_may_come_back() {
    let mut run = Run::new();
    run.policy.canaries = Canaries { count: Some(2), ..Canaries::default() };
    run.step(0);
    run.nodes.iter_mut().for_each(|node| node.revision = 5);
    run.step(1);
    run.nodes[1].connected = false;
    assert_eq!(run.step(5), Advance::Stay);
    run.waits(100, "a canary has lost its connection");
    run.nodes[1].present = false;
    assert_eq!(run.step(101), Advance::Stay);
    run.waits(110, "s more");
    assert_eq!(run.step(111), Advance::Candidate);
}

#[test]
fn what_a_canary_had_not_told_when_it_was_chosen_is_not_counted() {
    let mut run = Run::new();
    run.nodes[0].traffic = None;
    run.step(0);
    run.nodes[0].revision = 5;
    run.step(1);
    run.answers(0, 0, 1000);
    assert_eq!(run.step(2), Advance::Stay);
    run.waits(3, "s more");
    run.answers(0, 0, 50);
    run.goes_back(4, "100.0 % of 50 requests");
}

#[test]
fn what_a_canary_tells_late_of_the_time_before_is_not_the_candidates_doing() {
    let mut run = Run::in_force(None);
    // It has the candidate in force, and tells what it had counted before.
    run.answers(0, 0, 500);
    run.waits(2, "s more");
    // So has the first report with it, up to whose moment both sides are left out.
    run.answers(0, 0, 500);
    run.answers(1, 0, 1000);
    run.nodes[0].counted_with = Some(5);
    assert_eq!(run.step(3), Advance::Stay);
    run.waits(4, "s more");
    // From then on it counts.
    run.answers(0, 50, 50);
    run.answers(1, 100, 0);
    run.goes_back(5, "50.0 % of 100 requests");
}

#[test]
fn as_long_as_a_canary_has_not_told_with_the_candidate_nobody_else_gets_it() {
    let mut run = Run::in_force(None);
    run.answers(0, 0, 500);
    run.waits(11, "has not told yet");
    run.policy.give_up_after = Some(Time::secs(60));
    run.waits(69, "has not told yet");
    run.goes_back(70, "has not told yet");
    run.nodes[0].counted_with = Some(5);
    assert_eq!(run.step(12), Advance::Stay);
    assert_eq!(run.step(13), Advance::Candidate);
    // One that is gone for good is not waited for, nor one that never tells.
    let mut run = Run::new();
    run.policy.canaries = Canaries { count: Some(2), ..Canaries::default() };
    run.nodes.iter_mut().for_each(|node| node.counted_with = Some(4));
    run.nodes[0].traffic = None;
    run.step(0);
    run.nodes.iter_mut().for_each(|node| node.revision = 5);
    (run.nodes[1].connected, run.nodes[1].present) = (false, false);
    run.step(1);
    assert_eq!(run.step(11), Advance::Candidate);
}

#[test]
fn a_soak_time_that_ends_between_two_reports_of_a_canary_promotes_nothing() {
    let begun = || {
        let mut run = Run::in_force(Some(T0));
        // Counting begins; nothing can have come since.
        run.tells(9);
        assert_eq!(run.step(9), Advance::Stay);
        run.waits(11, "has not told yet");
        run
    };
    let mut run = begun();
    run.answers(0, 0, 50);
    run.tells(14);
    run.goes_back(14, "100.0 % of 50 requests");
    // One that has had no requests says so.
    let mut run = begun();
    run.tells(14);
    assert_eq!(run.step(14), Advance::Candidate);
    // One that falls silent is not waited for longer than the policy says; one whose connection ends is gone.
    let mut run = begun();
    run.policy.give_up_after = Some(Time::secs(60));
    run.waits(69, "has not told yet");
    run.goes_back(70, "has not told yet");
    let mut run = begun();
    run.nodes[0].connected = false;
    assert_eq!(run.step(40), Advance::Stay);
    run.waits(41, "no canary is connected");
}

#[test]
fn a_canary_that_has_just_opened_another_stream_is_waited_for() {
    let mut run = Run::in_force(Some(T0));
    run.tells(3);
    run.step(3);
    run.tells(5);
    let told = run.nodes[0].clone();
    (run.nodes[0].traffic, run.nodes[0].counted_with, run.nodes[0].told_at) = (None, None, None);
    run.waits(11, "has not told yet");
    run.nodes[0] = told;
    run.answers(0, 50, 0);
    run.tells(12);
    assert_eq!(run.step(12), Advance::Candidate);
}

#[test]
fn a_canary_that_starts_anew_before_it_has_told_with_the_candidate_is_judged_from_then_on() {
    let mut run = Run::new();
    run.nodes.iter_mut().for_each(|node| node.counted_with = Some(4));
    run.step(0);
    (run.nodes[0].revision, run.nodes[0].boot) = (5, "b2".to_owned());
    run.nodes[0].traffic = None;
    run.answers(0, 0, 100);
    run.step(1);
    run.waits(2, "s more");
    run.nodes[0].counted_with = Some(5);
    assert_eq!(run.step(3), Advance::Stay);
    run.answers(0, 0, 49);
    run.waits(4, "s more");
    run.answers(0, 0, 1);
    run.goes_back(5, "100.0 % of 50 requests");
}

#[test]
fn where_there_is_no_node_nobody_waits() {
    let mut run = Run::new();
    run.nodes.iter_mut().for_each(|node| node.connected = false);
    // They may serve all the same: the control plane may just have started.
    assert_eq!(run.step(0), Advance::Stay);
    run.waits(0, "none of the nodes");
    run.nodes.iter_mut().for_each(|node| node.present = false);
    assert_eq!(run.step(0), Advance::Candidate);
}

#[test]
fn a_pause_and_a_want_of_traffic_hold_it() {
    let mut run = Run::soaking();
    run.policy.without_traffic = WithoutTraffic::Hold;
    run.waits(60, "have had 0 requests, and need 50");
    run.answers(0, 50, 0);
    run.stage.as_mut().unwrap().paused_by = Some("alice".to_owned());
    run.waits(60, "paused by alice");
    run.answers(0, 0, 10);
    // What is bad is taken back all the same.
    run.goes_back(60, "5xx");
}

#[test]
fn a_canary_that_has_lost_its_traffic_holds_it() {
    let begun = |requests: u64| {
        let mut run = Run::new();
        (run.gate, run.head) = (None, 4);
        run.step(0);
        run.answers(0, requests, 0);
        (run.gate, run.head) = (Some(GATE), 5);
        run.step(100);
        run.nodes[0].revision = 5;
        run.step(101);
        run
    };
    // 50 in 10 s, which is the soak time.
    let mut run = begun(500);
    run.answers(1, 50, 0);
    run.waits(111, "have had 0 requests, and need 50");
    run.answers(0, 50, 0);
    assert_eq!(run.step(112), Advance::Candidate);
    // It had too few before, or there are none for anybody any more.
    let mut run = begun(499);
    run.answers(1, 50, 0);
    assert_eq!(run.step(111), Advance::Candidate);
    let mut run = begun(500);
    run.answers(1, 49, 0);
    assert_eq!(run.step(111), Advance::Candidate);
    // It is alone.
    let mut run = begun(500);
    run.nodes[1].maintained = true;
    run.waits(111, "have had 0 requests, and need 50");
    // How long the time before was is not known: the canaries were chosen by a version that does not tell.
    let mut stage = written(run.stage.as_ref().unwrap());
    assert!(stage.as_object_mut().unwrap().remove("before_lasted").is_some());
    run.stage = Some(Stage::deserialize(&stage).unwrap());
    assert_eq!(run.step(111), Advance::Candidate);
}

#[test]
fn canaries_are_compared_with_the_minutes_before() {
    let mut run = Run::new();
    (run.gate, run.head) = (None, 4);
    run.answers(0, 100, 0);
    assert_eq!(run.step(0), Advance::Stay);
    run.waits(NOTED_EVERY - 1, "no rollout");
    run.answers(0, 50, 50);
    assert_eq!(run.step(NOTED_EVERY), Advance::Stay);
    run.answers(0, 50, 50);
    (run.gate, run.head) = (Some(GATE), 5);
    run.step(NOTED_EVERY + 60);
    let before = run.stage.as_ref().unwrap().before;
    assert_eq!((before.requests(), before.percent(5)), (200, 50.0));
    run.nodes[0].revision = 5;
    run.step(NOTED_EVERY + 61);
    run.answers(0, 50, 50);
    run.waits(NOTED_EVERY + 62, "s more");
}

#[test]
fn what_was_taken_back_is_not_laid_at_the_door_of_what_follows() {
    let mut run = Run::soaking();
    run.answers(0, 0, 100);
    run.stage = run.stage.as_ref().map(Stage::anew);
    (run.gate, run.head) = (Some(Gate { base: 4, candidate: 7 }), 7);
    assert_eq!(run.step(3), Advance::Stay);
    run.waits(3, "do not have it");
    run.nodes[0].revision = 7;
    run.step(4);
    run.answers(0, 0, 100);
    run.waits(4 + SETTLING - 1, "s more");
    run.step(4 + SETTLING);
    run.answers(0, 100, 0);
    // It is judged for all of the soak time.
    run.waits(4 + SETTLING + 9, "for 1 s more");
    assert_eq!(run.step(4 + SETTLING + 10), Advance::Candidate);
    assert_eq!(run.record.outcomes[0].responses_5xx, 0);
    // Nor of a rollout that begins after it.
    let mut run = Run::new();
    let back = run.situation(0).ended(GATE, &Stage::default(), End::RolledBack, "rollout", "bad");
    run.record = back;
    run.waits(SETTLING - 1, "told of");
    run.step(SETTLING);
}

#[test]
fn what_was_taken_back_is_not_compared_with() {
    let mut run = Run::soaking();
    run.record.notes.push(Note::default());
    run.answers(0, 0, 100);
    let situation = run.situation(3);
    let record = situation.ended(GATE, run.stage.as_ref().unwrap(), End::RolledBack, "rollout", "bad");
    assert_eq!((record.notes.len(), record.outcomes[0].responses_5xx), (0, 100));
    // Nor is anything noted before all have what leads back.
    (run.gate, run.stage, run.record, run.head) = (None, None, record, 6);
    run.waits(4, "no rollout");
    run.nodes.iter_mut().for_each(|node| node.revision = 6);
    assert_eq!(run.step(5), Advance::Stay);
}

#[test]
fn one_that_lags_keeps_nothing_of_the_others_from_being_noted() {
    let mut run = Run::new();
    (run.gate, run.head) = (None, 9);
    run.nodes[0].revision = 8;
    run.step(0);
    assert_eq!(run.record.notes[0].nodes.len(), 2);
    // Of what may still be of a candidate that was taken back nothing is noted.
    let mut record = run.situation(1).ended(GATE, &Stage::default(), End::RolledBack, "rollout", "bad");
    record.outcomes.insert(0, Outcome { end: End::Promoted, candidate: 8, ..record.outcomes[0].clone() });
    run.record = record;
    run.nodes[1].revision = GATE.candidate;
    run.step(NOTED_EVERY);
    assert_eq!(run.record.notes[0].nodes.keys().collect::<Vec<_>>(), ["a"]);
    run.nodes[0].revision = GATE.candidate;
    run.waits(2 * NOTED_EVERY, "no rollout");
}

#[test]
fn what_waits_for_long_is_stalled_and_given_up_if_the_policy_says_so() {
    let mut run = Run::new();
    run.policy.canaries = Canaries { nodes: Some(vec!["z".to_owned()]), ..Canaries::default() };
    run.step(0);
    assert!(!run.situation(299).is_stalled());
    assert!(run.situation(300).is_stalled());
    run.waits(100_000, "none of the nodes");
    run.policy.give_up_after = Some(Time::secs(600));
    run.waits(599, "none of the nodes");
    run.goes_back(600, "it could not go on for 10m: none of the nodes");
    // Canaries that are gone for good.
    let mut run = Run::soaking();
    (run.nodes[0].connected, run.nodes[0].present) = (false, false);
    run.step(5);
    assert!(!run.situation(304).is_stalled());
    assert!(run.situation(305).is_stalled());
    run.policy.give_up_after = Some(Time::secs(600));
    run.goes_back(605, "no canary is connected");
    // The next one has waited for nothing yet.
    assert_eq!(
        run.situation(605).ended(GATE, &Stage::default(), End::RolledBack, "rollout", "bad").waiting_since,
        None
    );
}

#[test]
fn canaries_that_come_and_go_stall_a_rollout() {
    let mut run = Run::soaking();
    for second in (5..320).step_by(5) {
        run.nodes[0].boot = format!("b{second}");
        run.step(second);
        run.step(second + 1);
        run.waits(second + 2, "s more");
    }
    assert!(!run.situation(309).is_stalled());
    assert!(run.situation(310).is_stalled());
    run.policy.give_up_after = Some(Time::secs(300));
    run.goes_back(318, "canaries serve with it");
}

#[test]
fn a_pause_stalls_nothing() {
    let mut run = Run::soaking();
    run.policy.without_traffic = WithoutTraffic::Hold;
    run.policy.give_up_after = Some(Time::secs(300));
    run.stage = run.stage.map(|stage| stage.paused(Some("alice".to_owned()), T0 + 3));
    assert!(!run.situation(10_000).is_stalled());
    run.waits(10_000, "paused by alice");
    run.stage = run.stage.map(|stage| stage.paused(None, T0 + 10_000));
    run.waits(10_000, "have had 0 requests");
    assert!(run.situation(10_310).is_stalled());
    run.goes_back(10_310, "too few requests");
}
