use super::*;
use milecastle_settings::Time;

const A: &str = "$secret://vault/1/a/key";
const B: &str = "$secret://vault/1/b/key";
const C: &str = "$secret://aws/1/c";

/// A cache at a time that the test tells, with references in use.
struct Bed {
    cache: Cache,
    now: Instant,
}

impl Bed {
    fn new(references: &[&str]) -> Self {
        Self::with(&Settings { entries: 2, ..Settings::default() }, references)
    }

    fn with(settings: &Settings, references: &[&str]) -> Self {
        let mut bed = Self { cache: Cache::new(settings), now: Instant::now() };
        bed.follow(references);
        bed
    }

    fn follow(&mut self, references: &[&str]) -> Option<usize> {
        self.cache.follow(&references.iter().copied().collect(), self.now)
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// All that is due, in order.
    fn questions(&mut self) -> Vec<Question> {
        std::iter::from_fn(|| self.cache.question(self.now)).collect()
    }

    fn due(&mut self) -> Vec<String> {
        self.questions().into_iter().map(|question| question.reference.to_string()).collect()
    }

    /// Asks for the only reference that is due.
    fn answer(&mut self, answer: Result<&str, Trouble>) -> News {
        let mut due = self.questions();
        assert_eq!(due.len(), 1);
        self.cache.take(due.remove(0), answer.map(str::to_owned), self.now)
    }

    fn value(&self) -> Option<String> {
        self.cache.value(A)
    }
}

fn only_a() -> HashSet<Arc<str>> {
    HashSet::from([A.into()])
}

fn failed() -> Trouble {
    Trouble::Failed("no connection".to_owned())
}

fn absent() -> Trouble {
    Trouble::Absent("there is none".to_owned())
}

#[test]
fn resources_13_4_a_value_is_used_for_its_ttl_and_asked_for_again() {
    let mut bed = Bed::new(&[A]);
    assert_eq!((bed.value(), bed.cache.awaited()), (None, 1));
    assert_eq!(bed.answer(Ok("one")), News::None);
    assert_eq!((bed.value().as_deref(), bed.cache.awaited()), (Some("one"), 0));
    bed.later(299);
    assert_eq!(bed.due(), [""; 0]);
    bed.later(1);
    assert_eq!(bed.answer(Ok("two")), News::None);
    assert_eq!(bed.value().as_deref(), Some("two"));
}

#[test]
fn resources_13_4_what_is_not_there_is_asked_for_again_after_the_negative_ttl() {
    for trouble in [absent(), failed()] {
        let mut bed = Bed::new(&[A]);
        assert!(matches!(bed.answer(Err(trouble.clone())), News::Unresolved(_)));
        assert_eq!((bed.value(), bed.cache.awaited()), (None, 0), "nobody waits for it a second time");
        bed.later(59);
        assert_eq!(bed.due(), [""; 0]);
        bed.later(1);
        assert_eq!(bed.answer(Err(trouble)), News::None, "it was told");
        bed.later(60);
        assert_eq!(bed.answer(Ok("one")), News::Resolved);
        assert_eq!(bed.value().as_deref(), Some("one"));
    }
}

#[test]
fn a_failure_takes_no_value_away_and_word_that_there_is_none_does() {
    let mut bed = Bed::new(&[A]);
    bed.answer(Ok("one"));
    let (generation, _) = bed.cache.changed_since(0);
    bed.later(300);
    assert_eq!(bed.answer(Err(failed())), News::Stale("no connection".to_owned()));
    assert_eq!(bed.value().as_deref(), Some("one"));
    assert_eq!(bed.cache.changed_since(generation), (generation, HashSet::new()));
    assert_eq!(bed.cache.census(), Census { stale: 1, ..Census::default() });
    bed.later(60);
    assert_eq!(bed.answer(Err(absent())), News::Unresolved("there is none".to_owned()));
    assert_eq!(bed.value(), None);
    assert_eq!(bed.cache.changed_since(generation), (generation + 1, only_a()));
    assert_eq!(bed.cache.census(), Census { unresolved: 1, ..Census::default() });
}

#[test]
fn resources_13_4_a_flush_has_references_asked_for_at_once_and_keeps_their_values() {
    let mut bed = Bed::new(&[A, C]);
    for question in bed.questions() {
        bed.cache.take(question, Ok("one".to_owned()), bed.now);
    }
    bed.later(10);
    bed.cache.flush(|reference| reference.starts_with("$secret://vault/1/"), bed.now);
    assert_eq!((bed.value().as_deref(), bed.cache.awaited()), (Some("one"), 1));
    assert_eq!(bed.due(), [A]);
}

#[test]
fn an_answer_of_the_former_manager_does_not_count() {
    let mut bed = Bed::new(&[A]);
    let former = bed.questions().remove(0);
    bed.cache.flush(|_| true, bed.now);
    let present = bed.questions().remove(0);
    assert_eq!(bed.cache.take(former, Ok("old".to_owned()), bed.now), News::None);
    assert_eq!((bed.value(), bed.cache.awaited()), (None, 1));
    bed.cache.take(present, Ok("new".to_owned()), bed.now);
    assert_eq!(bed.value().as_deref(), Some("new"));
}

#[test]
fn what_stands_beside_a_value_that_has_changed_is_asked_for_at_once() {
    const KEY: &str = "$secret://vault/1/a/other";
    let mut bed = Bed::with(&Settings::default(), &[A, KEY, B]);
    for question in bed.questions() {
        bed.cache.take(question, Ok("one".to_owned()), bed.now);
    }
    bed.later(300);
    // Answers to these are of before the change.
    assert_eq!(bed.questions().len(), 3);
    bed.later(1);
    bed.cache.flush(|reference| reference == A, bed.now);
    assert_eq!(bed.answer(Ok("two")), News::None);
    assert_eq!((bed.due(), bed.cache.awaited()), (vec![KEY.to_owned()], 1));
    // It has not changed: there is no end otherwise.
    let question = Question { reference: KEY.into(), round: 3 };
    bed.cache.take(question, Ok("one".to_owned()), bed.now);
    assert_eq!((bed.due(), bed.cache.awaited()), (Vec::new(), 0));
}

#[test]
fn a_question_without_any_answer_is_asked_again() {
    let mut bed = Bed::new(&[A]);
    assert_eq!(bed.due(), [A]);
    bed.later(64);
    assert_eq!(bed.due(), [""; 0]);
    bed.later(1);
    assert_eq!(bed.due(), [A]);
}

#[test]
fn resources_13_4_references_beyond_the_room_stay_out_until_there_is_some() {
    let mut bed = Bed::new(&[]);
    assert_eq!(bed.follow(&[A, B, C]), Some(1));
    assert_eq!(bed.follow(&[A, B, C]), None, "it was told");
    assert_eq!(bed.cache.census(), Census { unresolved: 2, left_out: 1, ..Census::default() });
    assert_eq!(bed.due().len(), 2);
    assert_eq!(bed.follow(&[B, C]), Some(0));
    let mut known: Vec<_> = bed.cache.entries.keys().map(ToString::to_string).collect();
    known.sort_unstable();
    assert_eq!(known, [C, B]);
}

#[test]
fn what_is_in_use_no_more_is_forgotten() {
    let mut bed = Bed::new(&[A]);
    bed.answer(Ok("one"));
    bed.follow(&[B]);
    assert_eq!(bed.value(), None);
    assert_eq!(bed.due(), [B]);
    bed.later(1000);
    assert_eq!(bed.due(), [B]);
}

#[test]
fn only_another_value_counts_as_a_change() {
    let mut bed = Bed::new(&[A]);
    bed.answer(Ok("one"));
    let (generation, changed) = bed.cache.changed_since(0);
    assert_eq!((generation, changed), (1, only_a()));
    bed.later(300);
    bed.answer(Ok("one"));
    assert_eq!(bed.cache.changed_since(generation), (generation, HashSet::new()));
    bed.later(300);
    bed.answer(Ok("two"));
    assert_eq!(bed.cache.changed_since(generation), (generation + 1, only_a()));
}

#[test]
fn resources_13_4_the_times_are_those_of_the_settings() {
    let settings = Settings { ttl: Time::secs(1), negative_ttl: Time::secs(2), ..Settings::default() };
    let mut bed = Bed::with(&settings, &[A]);
    bed.answer(Ok("one"));
    bed.later(1);
    bed.answer(Err(failed()));
    bed.later(1);
    assert_eq!(bed.due(), [""; 0]);
    bed.later(1);
    assert_eq!(bed.due(), [A]);
    let Settings { ttl, negative_ttl, entries, .. } = Settings::default();
    assert_eq!((ttl, negative_ttl, entries), (Time::secs(300), Time::secs(60), 512));
}
