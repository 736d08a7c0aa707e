//! Writes that are done once.

use std::time::Duration;

use crate::home::{Home, ann, office, on_both, put, route};
use milecastle_store::{
    Actor, ActorKind, Answered, ChangeSet, DEFAULT_GROUP, Done, Kept, Once, Op, PublishError, Source, StoreError,
};

on_both!(a_write_is_done_once_with_its_answer, names_go_when_they_are_old_or_too_many);

fn changes(id: &str) -> ChangeSet {
    ChangeSet::new(Source::Api, vec![put(route(id), "a")])
}

fn answer() -> Answered {
    Answered { status: 201, etag: Some("\"7\"".to_owned()), body: "shown but once".into() }
}

async fn a_write_is_done_once_with_its_answer(home: Home) {
    let (store, other) = (home.open().await, home.open().await);
    let once = Once::new("k", [7; 32]);
    let writer = store.by(ann()).once(Some(&once));
    writer.publish_answering(DEFAULT_GROUP, changes("1"), |_| Some(answer())).await.unwrap();
    assert!(!once.is_repeated());
    let again = other.by(ann()).once(Some(&once)).publish(DEFAULT_GROUP, changes("2")).await;
    assert!(matches!(again, Err(PublishError::Store(StoreError::Repeated))), "{again:?}");
    assert!(once.is_repeated());
    assert_eq!(store.head(DEFAULT_GROUP).await.unwrap().revision, 1);
    let done = other.by(ann()).done(&once).await.unwrap();
    assert_eq!(done, Some(Done { same: true, answered: Some(answer()) }));
    let another = other.by(ann()).done(&Once::new("k", [8; 32])).await.unwrap();
    assert!(another.is_some_and(|done| !done.same), "another request has the name");
    let guessable = home.on_disk().windows(32).any(|window| window == [7; 32]);
    assert!(!guessable, "a dump would tell whether a guess at what was asked for is right");
    let bob = Actor::new(ActorKind::AdminKey, "bob");
    assert_eq!(other.by(&bob).done(&once).await.unwrap(), None, "a name is its giver's");
    assert!(!home.on_disk().windows(14).any(|window| window == b"shown but once"));
    // What fails takes no name.
    let refused = Once::new("r", [1; 32]);
    let mut stale = changes("3");
    stale.expected_revision = Some(9);
    store.by(ann()).once(Some(&refused)).publish(DEFAULT_GROUP, stale).await.unwrap_err();
    assert_eq!(store.by(ann()).done(&refused).await.unwrap(), None);
    // The first answer stays.
    let other_answer = Answered { status: 200, etag: None, body: "other".into() };
    store.by(ann()).once(Some(&once)).answered(&other_answer).await.unwrap();
    assert_eq!(store.by(ann()).done(&once).await.unwrap().unwrap().answered, Some(answer()));
}

async fn names_go_when_they_are_old_or_too_many(home: Home) {
    let store = home.open().await;
    for n in 0..5 {
        let once = Once::new(n.to_string(), [n; 32]);
        let changes = ChangeSet::new(Source::Api, Vec::<Op>::new());
        store.by(ann()).once(Some(&once)).publish(DEFAULT_GROUP, changes).await.unwrap();
    }
    home.sql("UPDATE idempotency SET at = at - 100 + CAST(key AS INTEGER)").await;
    let left = async || {
        let mut left = String::new();
        for n in 0..5 {
            let name = n.to_string();
            if store.by(ann()).done(&Once::new(&*name, [n; 32])).await.unwrap().is_some() {
                left += &name;
            }
        }
        left
    };
    let office = office(&store).await;
    let kept = |age, all, of_an_actor| Kept { age: Duration::from_secs(age), all, of_an_actor };
    let bob = Actor::new(ActorKind::AdminKey, "bob");
    let his = Once::new("his", [9; 32]);
    let nothing = ChangeSet::new(Source::Api, Vec::<Op>::new());
    store.by(&bob).once(Some(&his)).publish(DEFAULT_GROUP, nothing).await.unwrap();
    assert_eq!((store.once_trim(office, kept(1000, 6, 5)).await.unwrap(), left().await), (0, "01234".to_owned()));
    assert_eq!((store.once_trim(office, kept(1000, 5, 5)).await.unwrap(), left().await), (1, "1234".to_owned()));
    // Whoever has many pushes out his own alone.
    assert_eq!((store.once_trim(office, kept(1000, 5, 2)).await.unwrap(), left().await), (2, "34".to_owned()));
    assert!(store.by(&bob).done(&his).await.unwrap().is_some());
    let over = milecastle_store::Term { epoch: office.epoch - 1, ..office };
    assert_eq!(store.once_trim(over, kept(0, 0, 0)).await.unwrap(), 0);
    assert_eq!((store.once_trim(office, kept(10, 5, 5)).await.unwrap(), left().await), (2, String::new()));
}
