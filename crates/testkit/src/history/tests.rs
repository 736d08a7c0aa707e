//! The checker: a good history passes, and each kind of fault is found.

use super::*;

/// Moments are seconds.
fn span(begun: u64, ended: u64) -> Span {
    Span { begun: Duration::from_secs(begun), ended: Duration::from_secs(ended) }
}

fn change(object: &str, version: u64) -> Change {
    Change { object: object.to_owned(), version: Some(version) }
}

fn deletion(object: &str) -> Change {
    Change { object: object.to_owned(), version: None }
}

fn write(at: u64, changes: &[Change], outcome: Outcome) -> Write {
    Write { span: span(at, at + 1), changes: changes.to_vec(), outcome, applied_by_all: false }
}

fn commit(revision: u64, changes: &[Change]) -> Commit {
    Commit { revision, digest: format!("digest of {revision}"), changes: changes.to_vec() }
}

fn seen(node: &str, process: u64, at: u64, sight: Sight) -> Sighting {
    Sighting { node: node.to_owned(), process, span: span(at, at + 1), sight }
}

fn acknowledged(node: &str, at: u64, revision: u64) -> Sighting {
    seen(node, 0, at, Sight::Acknowledged(revision, format!("digest of {revision}")))
}

fn journal(node: &str, revisions: &[u64]) -> Journal {
    Journal { node: node.to_owned(), revisions: revisions.to_vec() }
}

/// Four revisions of two routes, and what two nodes show of them.
fn good() -> History {
    let (a1, b2, a3) = (change("a", 1), change("b", 2), change("a", 3));
    History {
        writes: vec![
            write(0, std::slice::from_ref(&a1), Outcome::Done),
            write(10, std::slice::from_ref(&b2), Outcome::Unknown),
            write(20, std::slice::from_ref(&a3), Outcome::Done),
            write(22, &[change("a", 9)], Outcome::Refused),
            write(24, &[change("b", 8)], Outcome::Unknown),
            write(30, &[deletion("a"), deletion("b")], Outcome::Done),
        ],
        commits: vec![
            commit(1, std::slice::from_ref(&a1)),
            commit(2, std::slice::from_ref(&b2)),
            commit(3, std::slice::from_ref(&a3)),
            commit(4, &[deletion("a"), deletion("b")]),
        ],
        sightings: vec![
            seen("n", 0, 1, Sight::Served(deletion("a"))),
            seen("n", 0, 3, Sight::Served(a1)),
            acknowledged("n", 16, 2),
            seen("n", 0, 18, Sight::Served(b2)),
            acknowledged("n", 26, 3),
            // A replica that has not heard yet.
            acknowledged("n", 28, 2),
            seen("n", 1, 29, Sight::Served(a3)),
            seen("n", 1, 35, Sight::Served(deletion("b"))),
            acknowledged("n", 40, 4),
            acknowledged("m", 40, 4),
        ],
        journals: vec![journal("n", &[1, 3]), journal("n", &[3, 4]), journal("m", &[0, 4])],
    }
}

/// What is found once `spoil` has been at the good history.
fn check(spoil: impl FnOnce(&mut History), expected: &[Violation]) {
    let mut history = good();
    spoil(&mut history);
    assert_eq!(history.check().into_iter().collect::<Vec<_>>(), expected);
}

fn n() -> String {
    "n".to_owned()
}

#[test]
fn what_may_happen_passes() {
    check(|_| (), &[]);
    // Of two that overlap, nobody knows which was first.
    check(
        |history| {
            history.sightings.push(seen("n", 0, 25, Sight::Served(change("a", 3))));
            history.sightings.push(seen("n", 0, 26, Sight::Served(change("a", 1))));
        },
        &[],
    );
    // A process that was killed had in force what it had neither written down nor acknowledged.
    check(|history| history.sightings.push(seen("n", 0, 25, Sight::Served(deletion("b")))), &[]);
}

#[test]
fn what_was_done_is_committed_whole_and_once() {
    check(
        |history| drop(history.commits[0].changes.pop()),
        &[Violation::Lost(change("a", 1)), Violation::ServedUncommitted { node: n(), change: change("a", 1) }],
    );
    check(|history| history.commits[3].changes.push(change("a", 3)), &[Violation::Doubled(change("a", 3))]);
    check(|history| history.commits[3].changes.push(change("a", 9)), &[Violation::Doubled(change("a", 9))]);
    let both = vec![deletion("a"), deletion("b")];
    check(
        |history| {
            let late = history.commits[3].changes.pop().unwrap();
            history.commits.push(commit(5, &[late]));
            history.sightings.extend([acknowledged("n", 50, 5), acknowledged("m", 50, 5)]);
        },
        &[Violation::HalfCommitted(both)],
    );
    check(
        |history| history.commits[3].revision = 5,
        &[
            Violation::Gap { after: 3, next: 5 },
            Violation::Uncommitted { node: "m".to_owned(), revision: 4 },
            Violation::Uncommitted { node: n(), revision: 4 },
            Violation::NotConverged { node: "m".to_owned(), acknowledged: 4, head: 5 },
            Violation::NotConverged { node: n(), acknowledged: 4, head: 5 },
        ],
    );
}

#[test]
fn what_was_done_later_has_the_higher_revision() {
    check(
        |history| {
            history.writes[0].span = span(40, 41);
            history.sightings.retain(|sighting| sighting.span.begun > Duration::from_secs(3));
        },
        &[Violation::Reordered { revision: 1, after: 3 }],
    );
}

#[test]
fn nodes_run_what_was_committed() {
    check(|history| history.journals.push(journal("n", &[7])), &[Violation::Uncommitted { node: n(), revision: 7 }]);
    let other = Sight::Acknowledged(3, "digest of something else".to_owned());
    check(
        |history| history.sightings.push(seen("n", 0, 27, other)),
        &[Violation::OtherContent { node: n(), revision: 3 }],
    );
    let foreign = change("a", 77);
    check(
        |history| history.sightings.push(seen("n", 0, 27, Sight::Served(foreign.clone()))),
        &[Violation::ServedUncommitted { node: n(), change: foreign.clone() }],
    );
}

#[test]
fn nothing_goes_back() {
    let old = |process, at| seen("n", process, at, Sight::Served(change("a", 1)));
    // What was acknowledged holds for a process that is started later too.
    for process in [0, 1] {
        check(
            |history| history.sightings.push(old(process, 30)),
            &[Violation::WentBack { node: n(), reached: 3, then: 2 }],
        );
    }
    // A receipt, before anybody listed the node.
    check(
        |history| {
            history.writes[2].applied_by_all = true;
            history.sightings.push(seen("n", 0, 22, Sight::Served(change("a", 1))));
        },
        &[Violation::WentBack { node: n(), reached: 3, then: 2 }],
    );
    for revisions in [[3, 2], [3, 3]] {
        let [reached, then] = revisions;
        check(
            |history| history.journals.push(journal("n", &revisions)),
            &[Violation::WentBack { node: n(), reached, then }],
        );
    }
}

#[test]
fn in_the_end_all_have_the_last_revision() {
    check(
        |history| drop(history.sightings.pop()),
        // A node that nobody saw is none of the history's.
        &[],
    );
    check(
        |history| {
            history.sightings.pop();
            history.sightings.push(acknowledged("m", 40, 3));
        },
        &[Violation::NotConverged { node: "m".to_owned(), acknowledged: 3, head: 4 }],
    );
}

/// A node to which every change comes by deltas, as a run would record it. `drops` says which change is lost on the way;
/// `digests` whether the node reports what it really holds, or what it was told.
fn run_of_deltas(drops: Option<usize>, honest: bool) -> History {
    let objects = ["a", "b", "c"];
    let digest = |held: &BTreeMap<&str, u64>| format!("{held:?}");
    let (mut history, mut should, mut holds) = (History::default(), BTreeMap::new(), BTreeMap::new());
    for (n, object) in objects.iter().cycle().take(12).enumerate() {
        let (revision, at) = (n as u64 + 1, n as u64 * 10);
        let written = change(object, revision);
        should.insert(*object, revision);
        if drops != Some(n) {
            holds.insert(*object, revision);
        }
        history.writes.push(write(at, std::slice::from_ref(&written), Outcome::Done));
        history.commits.push(Commit { revision, digest: digest(&should), changes: vec![written] });
        let told = digest(if honest { &holds } else { &should });
        history.sightings.push(seen("n", 0, at + 2, Sight::Acknowledged(revision, told)));
        for object in objects {
            let served = Change { object: object.to_owned(), version: holds.get(object).copied() };
            history.sightings.push(seen("n", 0, at + 4, Sight::Served(served)));
        }
    }
    history
}

#[test]
fn one_change_that_is_dropped_from_a_delta_is_found() {
    assert_eq!(run_of_deltas(None, true).check(), BTreeSet::new());
    for dropped in 0..12 {
        let revision = dropped as u64 + 1;
        let other = Violation::OtherContent { node: n(), revision };
        let reached =
            |violation: &Violation| matches!(violation, Violation::WentBack { reached, .. } if *reached == revision);
        let honest = run_of_deltas(Some(dropped), true).check();
        assert!(honest.contains(&other) && honest.iter().any(reached), "{honest:?}");
        // A node that does not even see that its digest differs is found by what it serves.
        let blind = run_of_deltas(Some(dropped), false).check();
        assert!(!blind.contains(&other) && blind.iter().any(reached), "{blind:?}");
    }
}
