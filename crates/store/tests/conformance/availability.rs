//! The history of what was up and what was down.

use std::time::Duration;

use milecastle_store::{Observation, Probe, Span, Store, Term, Watched};

use crate::home::{Home, ann, office, on_both};

on_both!(what_stays_the_same_is_one_span, history_is_forgotten_and_read_in_pages, probes_are_bounded);

const GAP: Duration = Duration::from_secs(90);
const KEEP: Duration = Duration::from_secs(1000);

fn watched(name: &str) -> Watched {
    Watched { kind: "node".to_owned(), group: "g".to_owned(), name: name.to_owned() }
}

/// These were seen at a moment: `+` up, or down.
async fn look(store: &Store, term: Term<'_>, at: u64, seen: &[&str]) {
    let observed = |text: &&str| {
        let name = text.trim_start_matches('+');
        let is_up = name.len() < text.len();
        Observation { subject: watched(name), is_up, detail: if is_up { "up" } else { "lost" }.to_owned() }
    };
    let seen: Vec<Observation> = seen.iter().map(observed).collect();
    store.availability_record(term, at, &seen, GAP, KEEP).await.unwrap();
}

/// What is kept, page by page.
async fn kept(store: &Store, from: u64, kind: Option<&str>) -> Vec<String> {
    let (mut found, mut last) = (Vec::new(), (Watched { kind: String::new(), ..watched("") }, 0));
    loop {
        let page = store.availability_list(from, kind, (&last.0, last.1), 2).await.unwrap();
        let Some(end) = page.last() else { return found };
        last = (end.observation.subject.clone(), end.began_at);
        found.extend(page.into_iter().map(|Span { observation, began_at, seen_at }| {
            format!("{} {} {began_at}-{seen_at}", observation.subject.name, observation.detail)
        }));
    }
}

async fn what_stays_the_same_is_one_span(home: Home) {
    let store = home.open().await;
    let term = office(&store).await;
    look(&store, term, 1000, &["+a", "+b"]).await;
    look(&store, term, 1030, &["+a", "b"]).await;
    look(&store, term, 1060, &["+a", "+b"]).await;
    look(&store, term, 1060, &["+a", "+b"]).await;
    // Nobody has looked for long.
    look(&store, term, 1151, &["+a", "+b"]).await;
    let expected =
        ["a up 1000-1060", "a up 1151-1151", "b up 1000-1000", "b lost 1030-1030", "b up 1060-1060", "b up 1151-1151"];
    assert_eq!(kept(&store, 0, None).await, expected);
    // Whoever leads no longer records nothing.
    look(&store, Term { epoch: term.epoch + 1, ..term }, 1180, &["a", "b"]).await;
    assert_eq!(kept(&store, 0, None).await, expected);
}

async fn history_is_forgotten_and_read_in_pages(home: Home) {
    let store = home.open().await;
    let term = office(&store).await;
    look(&store, term, 1000, &["+a"]).await;
    look(&store, term, 1500, &["a"]).await;
    assert_eq!(kept(&store, 1001, Some("node")).await, ["a lost 1500-1500"]);
    assert_eq!(kept(&store, 0, Some("member")).await, [""; 0]);
    let many: Vec<String> = (100..450).map(|n| format!("+n{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    look(&store, term, 2001, &many).await;
    look(&store, term, 2031, &many).await;
    let all = kept(&store, 0, None).await;
    assert_eq!((all.len(), &*all[0], &*all[350]), (351, "a lost 1500-1500", "n449 up 2001-2031"));
}

async fn probes_are_bounded(home: Home) {
    let store = home.open().await;
    let put = async |id: &str, url: &str| {
        let probe = Probe { id: id.to_owned(), name: id.to_owned(), url: url.to_owned() };
        store.by(ann()).probe_put(&probe, 2).await.unwrap()
    };
    assert_eq!(
        [put("a", "1").await, put("b", "1").await, put("c", "1").await, put("b", "2").await],
        [true, true, false, true]
    );
    let urls: Vec<_> = store.probe_list().await.unwrap().into_iter().map(|probe| (probe.id, probe.url)).collect();
    assert_eq!(urls, [("a", "1"), ("b", "2")].map(|(id, url)| (id.to_owned(), url.to_owned())));
    assert!(store.by(ann()).probe_delete("a").await.unwrap() && !store.by(ann()).probe_delete("a").await.unwrap());
    assert_eq!((store.probe_get("a").await.unwrap(), store.probe_get("b").await.unwrap().is_some()), (None, true));
}
