//! What a node takes and what it refuses.

use super::super::holdings::{Holdings, Refusal, SnapshotHead};
use super::{LINEAGE, compiler, delete, delta, digest, object, put, route};
use milecastle_wire::pb;
use pb::refused::Fault;

fn held(revision: u64, objects: &[pb::Object]) -> Holdings {
    let head = SnapshotHead { lineage: LINEAGE.into(), revision, digest: digest(objects).into(), mark: String::new() };
    Holdings::from_objects(&compiler(), None, &head, objects).unwrap()
}

fn refused(result: Result<Holdings, Refusal>) -> Fault {
    result.err().expect("the step is refused").fault
}

#[test]
fn a_delta_leads_to_the_digest_that_it_names() {
    let before = [route("1", "/a"), route("2", "/b")];
    let after = [route("1", "/c"), route("3", "/d")];
    let changes = vec![put(&after[0]), delete("route", "2"), put(&after[1])];
    let next = held(1, &before).after(&compiler(), &delta(1, 4, changes, &after)).unwrap();
    assert_eq!((next.position().revision, next.position().digest), (4, digest(&after)));
    assert_eq!(next.snapshot().len(), 2);
}

#[test]
fn a_delta_that_adds_up_to_something_else_is_refused() {
    let before = [route("1", "/a")];
    let dropped = delta(1, 2, Vec::new(), &[route("1", "/a"), route("2", "/b")]);
    assert_eq!(refused(held(1, &before).after(&compiler(), &dropped)), Fault::Digest);
}

#[test]
fn a_delta_from_elsewhere_is_refused() {
    let before = [route("1", "/a")];
    let step = |from, to| refused(held(3, &before).after(&compiler(), &delta(from, to, Vec::new(), &before)));
    assert_eq!(step(2, 4), Fault::Gap);
    assert_eq!(step(4, 5), Fault::Gap);
    assert_eq!(step(3, 3), Fault::Gap);
    let mut foreign = delta(3, 4, Vec::new(), &before);
    foreign.lineage = "other".into();
    assert_eq!(refused(held(3, &before).after(&compiler(), &foreign)), Fault::Lineage);
}

#[test]
fn a_message_without_its_parts_is_malformed() {
    let before = [route("1", "/a")];
    let empty = delta(1, 2, vec![pb::Change { change: None }], &before);
    assert_eq!(refused(held(1, &before).after(&compiler(), &empty)), Fault::Malformed);
}

#[test]
fn objects_of_unknown_kinds_count_in_the_digest_and_are_reported() {
    let news = [route("1", "/a"), object("hologram", "h", "{}")];
    let next = held(1, &news[..1]).after(&compiler(), &delta(1, 2, vec![put(&news[1])], &news)).unwrap();
    let rejected = next.rejected();
    assert_eq!(rejected.len(), 1);
    assert!(rejected[0].reason.contains("hologram"), "{}", rejected[0].reason);
    let changed = [route("1", "/a"), object("hologram", "h", "{\"a\":1}")];
    let next = next.after(&compiler(), &delta(2, 3, vec![put(&changed[1])], &changed)).unwrap();
    let next = next.after(&compiler(), &delta(3, 4, vec![delete("hologram", "h")], &changed[..1])).unwrap();
    assert_eq!(next.rejected(), []);
}

#[test]
fn what_cannot_be_built_is_held_and_reported_and_the_rest_serves() {
    let objects = [route("1", "/a"), object("route", "2", "{\"uri\":7}")];
    let all = held(1, &objects);
    assert_eq!(all.position().digest, digest(&objects));
    let rejected = all.rejected();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].key.as_ref().unwrap().id, "2");
    assert!(!rejected[0].serving_last_good);
}

#[test]
fn settings_that_this_version_does_not_know_refuse_the_whole_step() {
    let settings = |body: &str| object("group_settings", "group", body);
    let before = [route("1", "/a"), settings("{\"router\":{\"http\":\"radixtree_uri\"}}")];
    let here = held(1, &before);
    let after = [route("1", "/b"), settings("{\"of_tomorrow\":true}")];
    let step = here.after(&compiler(), &delta(1, 2, vec![put(&after[0]), put(&after[1])], &after));
    let refusal = step.err().expect("the step is refused");
    assert_eq!(refusal.fault, Fault::Settings);
    assert!(refusal.detail.contains("/of_tomorrow"), "{}", refusal.detail);
    let head =
        SnapshotHead { lineage: LINEAGE.into(), revision: 2, digest: digest(&after).into(), mark: String::new() };
    for previous in [None, Some(&here)] {
        assert_eq!(refused(Holdings::from_objects(&compiler(), previous, &head, &after)), Fault::Settings);
    }
    // Damage is told as what it is.
    let damaged = delta(1, 2, vec![put(&after[1])], &before);
    assert_eq!(refused(here.after(&compiler(), &damaged)), Fault::Digest);
}

#[test]
fn a_snapshot_replaces_everything() {
    let first = held(1, &[route("1", "/a"), route("2", "/b")]);
    let objects = [route("2", "/b"), route("3", "/c")];
    let head =
        SnapshotHead { lineage: LINEAGE.into(), revision: 9, digest: digest(&objects).into(), mark: String::new() };
    let next = Holdings::from_objects(&compiler(), Some(&first), &head, &objects).unwrap();
    let ids: Vec<&str> = next.snapshot().all_objects().map(|object| &*object.key.id).collect();
    assert_eq!(ids, ["2", "3"]);
    let wrong = SnapshotHead { digest: digest(&[]).into(), ..head };
    assert_eq!(refused(Holdings::from_objects(&compiler(), Some(&first), &wrong, &objects)), Fault::Digest);
}
