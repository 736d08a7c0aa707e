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

    /// Those that come first have the room.
    fn follow(&mut self, references: &[&str]) {
        self.try_on(references);
        self.cache.settle();
    }

    /// The same, with nothing settled.
    fn try_on(&mut self, references: &[&str]) {
        self.cache.follow(references.iter().copied(), self.now);
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// All that is due, in order.
    fn questions(&mut self) -> Vec<Question> {
        std::iter::from_fn(|| self.cache.question(self.now)).collect()
    }

    fn due(&mut self) -> Vec<String> {
        let references = self.questions().into_iter().flat_map(|question| question.references);
        references.map(|reference| reference.to_string()).collect()
    }

    /// Asks for the only reference that is due.
    fn answer(&mut self, answer: Result<&str, Trouble>) -> News {
        let mut due = self.questions();
        assert_eq!(due.len(), 1);
        self.take(due.remove(0), answer)
    }

    /// Answers a question with one reference.
    fn take(&mut self, question: Question, answer: Result<&str, Trouble>) -> News {
        let news = self.cache.take(question, vec![answer.map(str::to_owned)], self.now).pop();
        news.map_or(News::None, |(_, news)| news)
    }

    /// Answers all that is due, each reference with this.
    fn answer_all(&mut self, answer: &str) {
        for question in self.questions() {
            let answers = question.references.iter().map(|_| Ok(answer.to_owned())).collect();
            self.cache.take(question, answers, self.now);
        }
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
    bed.answer_all("one");
    bed.later(10);
    bed.cache.flush(|place| place.starts_with("$secret://vault/1/"), bed.now);
    assert_eq!((bed.value().as_deref(), bed.cache.awaited()), (Some("one"), 1));
    assert_eq!(bed.due(), [A]);
}

/// Of two questions for A, with something between them, the answer to the second counts alone.
fn only_the_present_answer_counts(between: impl FnOnce(&mut Bed)) {
    let mut bed = Bed::new(&[A]);
    let former = bed.questions().remove(0);
    between(&mut bed);
    let present = bed.questions().remove(0);
    assert_eq!(bed.take(former, Ok("old")), News::None);
    assert_eq!((bed.value(), bed.cache.awaited()), (None, 1));
    bed.take(present, Ok("new"));
    assert_eq!(bed.value().as_deref(), Some("new"));
}

#[test]
fn an_answer_of_the_former_manager_does_not_count() {
    only_the_present_answer_counts(|bed| bed.cache.flush(|_| true, bed.now));
}

#[test]
fn an_answer_to_what_was_forgotten_meanwhile_does_not_count() {
    only_the_present_answer_counts(|bed| {
        bed.follow(&[]);
        bed.follow(&[A]);
    });
}

#[test]
fn secrets_of_aws_below_one_prefix_have_nothing_to_do_with_each_other() {
    const THERE: &str = "$secret://aws/1/prod/a";
    const MISSING: &str = "$secret://aws/1/prod/b";
    let mut bed = Bed::new(&[THERE, MISSING]);
    let mut questions = bed.questions();
    assert_eq!(questions.len(), 2);
    let missing = questions.pop().unwrap();
    assert_eq!(&*missing.references[0], MISSING);
    bed.take(questions.remove(0), Ok("one"));
    assert_eq!(bed.cache.value(THERE).as_deref(), Some("one"), "whatever becomes of the other question");
    bed.take(missing, Err(absent()));
    bed.later(60);
    assert_eq!(bed.due(), [MISSING]);
}

#[test]
fn references_to_one_secret_are_one_question_and_a_change_asks_for_nothing_else() {
    const KEY: &str = "$secret://vault/1/a/other";
    let mut bed = Bed::with(&Settings::default(), &[A, KEY, B]);
    // Dynamic secrets differ with each reading.
    for n in 0..3 {
        let questions = bed.questions();
        let asked: Vec<Vec<&str>> = questions
            .iter()
            .map(|question| question.references.iter().map(|reference| &**reference).collect())
            .collect();
        assert_eq!(asked, [vec![A, KEY], vec![B]]);
        for question in questions {
            let answers = question.references.iter().map(|_| Ok(n.to_string())).collect();
            bed.cache.take(question, answers, bed.now);
        }
        assert_eq!((bed.value(), bed.cache.value(KEY)), (Some(n.to_string()), Some(n.to_string())));
        bed.later(299);
        assert_eq!((bed.due(), bed.cache.awaited()), (Vec::new(), 0));
        bed.later(1);
    }
}

#[test]
fn one_that_is_new_beside_others_has_all_of_them_asked_for() {
    const KEY: &str = "$secret://vault/1/a/other";
    let mut bed = Bed::new(&[A]);
    let before = bed.questions().remove(0);
    bed.follow(&[A, KEY]);
    assert_eq!(bed.take(before, Ok("one")), News::None);
    assert_eq!((bed.value(), bed.cache.awaited()), (None, 1), "the answer to less than all does not count");
    assert_eq!(bed.due(), [A, KEY]);
}

#[test]
fn each_reference_of_a_question_has_an_answer_of_its_own() {
    const KEY: &str = "$secret://vault/1/a/other";
    let mut bed = Bed::new(&[A, KEY]);
    let question = bed.questions().remove(0);
    let news = bed.cache.take(question, vec![Ok("one".to_owned()), Err(absent())], bed.now);
    let expected: [(Arc<str>, News); 2] =
        [(A.into(), News::None), (KEY.into(), News::Unresolved("there is none".to_owned()))];
    assert_eq!(news, expected);
    assert_eq!(bed.cache.census(), Census { resolved: 1, unresolved: 1, ..Census::default() });
    bed.later(60);
    assert_eq!(bed.due(), [A, KEY], "after the shorter time of theirs");
}

#[test]
fn a_question_without_any_answer_is_asked_again() {
    let mut bed = Bed::new(&[A]);
    assert_eq!(bed.due(), [A]);
    // One turn of 5 s, and the time of a failure.
    bed.later(64);
    assert_eq!(bed.due(), [""; 0]);
    bed.later(1);
    assert_eq!(bed.due(), [A]);
}

#[test]
fn what_has_failed_can_be_asked_for_before_its_time() {
    let mut bed = Bed::with(&Settings::default(), &[A, B, C]);
    for question in bed.questions() {
        assert!(question.new);
        let answer = if &*question.references[0] == B { absent() } else { failed() };
        bed.take(question, Err(answer));
    }
    bed.cache.retry(|place| place.starts_with("$secret://vault/1/"), bed.now);
    let questions = bed.questions();
    assert_eq!(questions.len(), 1);
    assert_eq!((&*questions[0].references[0], questions[0].new), (A, false));
}

#[test]
fn nobody_waits_for_what_has_been_released() {
    let mut bed = Bed::new(&[A, C]);
    bed.cache.release(|place| place.starts_with("$secret://vault/1/"));
    assert_eq!(bed.cache.awaited(), 1);
    bed.answer_all("one");
    assert_eq!((bed.value().as_deref(), bed.cache.awaited()), (Some("one"), 0), "it is asked for all the same");
}

#[test]
fn resources_13_4_references_beyond_the_room_stay_out_until_there_is_some() {
    // One that several objects name takes one place.
    let mut bed = Bed::new(&[B, C, B, A, C]);
    assert_eq!(bed.cache.census(), Census { unresolved: 2, left_out: 1, ..Census::default() });
    assert!(bed.cache.leaves_out(A) && !bed.cache.leaves_out(C));
    assert_eq!(bed.due(), [C, B]);
    bed.follow(&[C, A]);
    assert!(!bed.cache.leaves_out(A));
    assert_eq!(bed.due(), [A], "what has been asked for stays");
    assert_eq!(bed.cache.census(), Census { unresolved: 2, ..Census::default() });
}

#[test]
fn which_references_have_room_does_not_depend_on_which_were_there_before() {
    let mut bed = Bed::new(&[A, B]);
    bed.answer_all("one");
    let (generation, _) = bed.cache.changed_since(0);
    bed.follow(&[B, C, A]);
    bed.answer_all("one");
    let mut anew = Bed::new(&[B, C, A]);
    anew.answer_all("one");
    for bed in [&bed, &anew] {
        assert_eq!([A, B, C].map(|reference| bed.cache.value(reference).is_some()), [false, true, true]);
        assert_eq!(bed.cache.census(), Census { resolved: 2, left_out: 1, ..Census::default() });
    }
    // What was built with the value that has gone is built again.
    let (until, changed) = bed.cache.changed_since(generation);
    let expected: HashSet<Arc<str>> = HashSet::from([A.into(), C.into()]);
    assert_eq!(changed, expected);
    bed.follow(&[B, C, A]);
    assert_eq!(bed.cache.changed_since(until), (until, HashSet::new()), "once");
    bed.follow(&[A, B]);
    assert_eq!(bed.due(), [A]);
}

#[test]
fn what_comes_back_before_anything_is_settled_has_its_value() {
    const KEY: &str = "$secret://vault/1/a/other";
    let mut bed = Bed::new(&[A, B]);
    bed.answer_all("one");
    // One goes out of use, the other one beyond the room.
    bed.try_on(&[C, KEY, B]);
    assert_eq!([A, B].map(|reference| bed.cache.value(reference)), [None, None]);
    bed.answer_all("two");
    bed.follow(&[A, B]);
    assert_eq!([A, B].map(|reference| bed.cache.value(reference)), [Some("one".to_owned()), Some("one".to_owned())]);
    assert_eq!(bed.due(), [A, B], "they are asked for all the same");
    bed.follow(&[C]);
    bed.follow(&[A, B]);
    assert_eq!([A, B].map(|reference| bed.cache.value(reference)), [None, None]);
}

#[test]
fn no_value_comes_back_beside_a_newer_one_of_its_place() {
    const KEY: &str = "$secret://vault/1/a/other";
    let mut bed = Bed::new(&[A, KEY]);
    bed.answer_all("one");
    bed.try_on(&[KEY]);
    bed.later(300);
    bed.answer_all("two");
    bed.follow(&[A, KEY]);
    assert_eq!((bed.value(), bed.cache.value(KEY).as_deref()), (None, Some("two")));
    assert_eq!(bed.due(), [A, KEY]);
}

#[test]
fn a_question_that_fails_keeps_no_value_of_its_place_from_coming_back() {
    const KEY: &str = "$secret://vault/1/a/other";
    let mut bed = Bed::new(&[A, KEY]);
    bed.answer_all("one");
    bed.try_on(&[KEY]);
    bed.later(300);
    assert_eq!(bed.answer(Err(failed())), News::Stale("no connection".to_owned()));
    bed.follow(&[A, KEY]);
    assert_eq!([A, KEY].map(|reference| bed.cache.value(reference)), [Some("one".to_owned()), Some("one".to_owned())]);
}

#[test]
fn what_is_in_use_no_more_is_forgotten() {
    let mut bed = Bed::new(&[A]);
    bed.answer(Ok("one"));
    bed.follow(&[B]);
    assert_eq!(bed.value(), None);
    assert_eq!(bed.due(), [B]);
    bed.later(1000);
    assert_eq!(bed.due(), [B], "it was not answered");
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
