//! What waits for an answer at canaries.

use super::*;

/// Says how many requests wait for an answer at a node.
fn waiting(run: &mut Run, node: usize, requests: u64) {
    run.nodes[node].traffic.get_or_insert_default().waiting = requests;
}

#[test]
fn what_hangs_is_given_to_nobody_else_and_taken_back_once_it_has_failed() {
    let mut run = Run::soaking();
    // Others are quick all the while, and so are other routes of the canary.
    run.answers(0, 60, 0);
    run.answers(1, 500, 0);
    waiting(&mut run, 0, 60);
    run.waits(11, "for 1 s more");
    run.waits(12, "60 requests to the canaries wait for an answer");
    waiting(&mut run, 0, 0);
    run.answers(0, 0, 60);
    run.goes_back(62, "50.0 % of 120 requests");
    // Nothing but what hangs.
    let mut run = Run::soaking();
    waiting(&mut run, 0, 50);
    run.waits(12, "50 requests to the canaries wait for an answer");
    assert!(run.situation(312).is_stalled());
    // So few say nothing, as ever.
    waiting(&mut run, 0, 49);
    assert_eq!(run.step(12), Advance::Candidate);
}

#[test]
fn what_waited_when_the_canary_was_chosen_is_no_more_than_usual() {
    let begun = |waits: u64| {
        let mut run = Run::new();
        run.nodes.iter_mut().for_each(|node| node.counted_with = Some(4));
        waiting(&mut run, 0, waits);
        run.step(0);
        run.nodes[0].revision = 5;
        run.step(1);
        // By the first report with the candidate as many hang as its clients can send.
        waiting(&mut run, 0, 100);
        run.tells(2);
        assert_eq!(run.step(2), Advance::Stay);
        run.answers(0, 60, 0);
        run.tells(7);
        run
    };
    begun(0).waits(11, "100 requests to the canaries wait for an answer");
    assert_eq!(begun(100).step(11), Advance::Candidate);
    // As much more waits elsewhere.
    let mut run = begun(0);
    run.answers(1, 60, 0);
    waiting(&mut run, 1, 100);
    assert_eq!(run.step(11), Advance::Candidate);
}

/// A canary that serves with the candidate that follows one that was taken back, when so many requests waited as it was chosen.
fn settling(usual: u64) -> Run {
    let mut run = Run::new();
    waiting(&mut run, 0, usual);
    run.step(0);
    run.stage = run.stage.as_ref().map(Stage::anew);
    (run.gate, run.head) = (Some(Gate { base: 4, candidate: 7 }), 7);
    run.nodes[0].revision = 7;
    run.step(1);
    waiting(&mut run, 0, 100);
    run.waits(SETTLING, "s more");
    run
}

#[test]
fn what_hangs_while_it_settles_is_no_more_usual_than_what_hangs_later() {
    let mut run = settling(0);
    // For a soak time more it may be of what was taken back.
    run.waits(SETTLING + 10, "100 requests to the canaries wait for an answer");
    run.step(SETTLING + 11);
    assert!(!run.stage.as_ref().unwrap().settling);
    run.waits(SETTLING + 21, "100 requests to the canaries wait for an answer");
    waiting(&mut run, 0, 0);
    run.answers(0, 0, 100);
    run.goes_back(SETTLING + 22, "100.0 % of 100 requests");
    // As many waited when it was chosen.
    let mut run = settling(100);
    run.step(SETTLING + 1);
    assert!(!run.stage.as_ref().unwrap().settling);
    assert_eq!(run.step(SETTLING + 11), Advance::Candidate);
}

#[test]
fn what_was_taken_back_may_fail_late() {
    let mut run = settling(0);
    run.waits(SETTLING + 5, "100 requests to the canaries wait for an answer");
    waiting(&mut run, 0, 0);
    run.answers(0, 0, 100);
    run.step(SETTLING + 6);
    run.answers(0, 100, 0);
    run.waits(SETTLING + 15, "for 1 s more");
    assert_eq!(run.step(SETTLING + 16), Advance::Candidate);
    assert_eq!(run.record.outcomes[0].responses_5xx, 0);
}

#[test]
fn of_what_waits_at_a_canary_that_had_told_nothing_before_nothing_is_usual() {
    let mut run = Run::new();
    let told = run.nodes[0].traffic.take();
    run.step(0);
    run.nodes[0].revision = 5;
    run.step(1);
    // Its first report, with the candidate in force.
    run.nodes[0].traffic = told;
    waiting(&mut run, 0, 100);
    run.tells(2);
    assert_eq!(run.step(2), Advance::Stay);
    run.tells(7);
    run.waits(11, "100 requests to the canaries wait for an answer");
    // Before it was in force.
    let mut run = Run::new();
    let told = run.nodes[0].traffic.take();
    run.step(0);
    run.nodes[0].traffic = told;
    waiting(&mut run, 0, 100);
    run.nodes[0].counted_with = Some(4);
    assert_eq!(run.step(1), Advance::Stay);
    run.nodes[0].revision = 5;
    run.step(2);
    run.tells(3);
    assert_eq!(run.step(3), Advance::Stay);
    run.tells(7);
    assert_eq!(run.step(12), Advance::Candidate);
}
