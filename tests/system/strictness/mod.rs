//! The corpus of raw requests, through the gateway to a recorder and to servers of others: gateway and origin agree on the number
//! of requests, their paths, hosts and bodies, or the gateway refuses.

mod canonical;
mod corpus;
mod exchange;
mod http3;
mod origins;

use corpus::{Case, Expected, Passed};
use milecastle_testkit::echo::Received;
use milecastle_testkit::{Echo, eventually};
use milecastle_tests::Up;
use origins::{Origin, Seen};
use serde_json::json;
use std::net::SocketAddr;

/// A gateway with one route of everything to `origin`.
async fn gateway_to(origin: SocketAddr) -> Up {
    let up = Up::start_with(&[("MILECASTLE_LOG", "warn,milecastle=info")]);
    let plugins = json!({ "proxy-rewrite": { "headers": { "set": { "X-Gateway": "1" } } } });
    let upstream = json!({ "nodes": { origin.to_string(): 1 } });
    up.put("/routes/1", json!({ "uri": "/*", "plugins": plugins, "upstream": upstream })).await;
    up.answers("/", 200).await;
    up
}

fn passed(case: &Case) -> impl Iterator<Item = &Passed> {
    case.expected.iter().filter_map(|expected| match expected {
        Expected::Passed(passed) => Some(passed),
        _ => None,
    })
}

#[test]
fn the_corpus_is_as_large_as_it_claims() {
    let corpus = corpus::read();
    let legal: Vec<_> = corpus.iter().filter(|case| case.legal).collect();
    eprintln!("{} cases, {} of them legal", corpus.len(), legal.len());
    assert!(corpus.len() >= 400 && legal.len() >= 100, "{} cases, {} of them legal", corpus.len(), legal.len());
    for case in legal {
        let refused = case
            .expected
            .iter()
            .any(|expected| matches!(expected, Expected::Refused(_) | Expected::Rejected | Expected::Unfinished));
        assert!(!refused, "{}: what is legal passes", case.at);
    }
    let mut texts: Vec<_> = corpus.iter().map(|case| &case.bytes).collect();
    texts.sort();
    let twice = texts.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| String::from_utf8_lossy(pair[0]));
    assert_eq!(twice, None, "two cases are the same");
}

#[tokio::test]
async fn the_recorder_gets_what_was_meant_in_one_canonical_form() {
    let echo = Echo::start();
    let up = gateway_to(echo.address()).await;
    echo.take();
    let mut faults = Vec::new();
    for case in corpus::read() {
        if let Err(fault) = exchange::run(up.http, &case).await {
            faults.push(format!("{}: {fault}", case.at));
        }
        let received = echo.take();
        faults.extend(compare(&case, &received).map(|fault| format!("{}: {fault}", case.at)));
        let odd = received.iter().filter_map(|request| canonical::check(request).err());
        faults.extend(odd.map(|fault| format!("{}: {fault}", case.at)));
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// The first difference between what a case expects and what the recorder received.
fn compare(case: &Case, received: &[Received]) -> Option<String> {
    let received: Vec<_> = received.iter().filter(|request| request.target() != exchange::BEHIND).collect();
    let expected: Vec<_> = passed(case).collect();
    if received.len() != expected.len() {
        let lines: Vec<_> = received.iter().map(|request| String::from_utf8_lossy(&request.line)).collect();
        return Some(format!("{} requests expected, received {lines:?}", expected.len()));
    }
    expected.iter().zip(received).find_map(|(expected, got)| {
        let (method, target, host) = (got.method(), got.target(), got.header("host").join(", "));
        if (&method, &target, &host) != (&expected.method, &expected.target, &expected.host) {
            return Some(format!("received {method} {target} for {host}"));
        }
        if got.body != expected.body {
            return Some(format!("received the body {:?}", got.body));
        }
        let wrong = |(name, value): &&(String, String)| got.header(name) != [value.clone()];
        if let Some((name, _)) = expected.fields.iter().find(wrong) {
            return Some(format!("received {name}: {:?}", got.header(name)));
        }
        let there = expected.absent.iter().find(|name| !got.header(name).is_empty());
        there.map(|name| format!("received {name}: {:?}", got.header(name)))
    })
}

#[tokio::test]
async fn nginx_reads_the_same() {
    agrees(origins::nginx()).await;
}

#[tokio::test]
async fn node_reads_the_same() {
    agrees(origins::node()).await;
}

#[tokio::test]
async fn uvicorn_reads_the_same() {
    agrees(origins::uvicorn()).await;
}

#[tokio::test]
async fn gunicorn_reads_the_same() {
    agrees(origins::gunicorn()).await;
}

/// The whole corpus to one server: what it has read is what the case expects, or it has refused the request itself.
async fn agrees(origin: Origin) {
    let up = gateway_to(origin.address).await;
    let corpus = corpus::read();
    let (mut faults, mut refused) = (Vec::new(), Vec::new());
    let mut answered = Vec::new();
    for (number, case) in corpus.iter().enumerate() {
        let outcome = exchange::run(up.http, case).await;
        answered.push(outcome.as_ref().is_ok_and(|statuses| statuses.iter().all(|status| *status == 200)));
        match outcome {
            Ok(statuses) => {
                let with_status = passed(case).zip(&statuses).filter(|(_, status)| **status != 200);
                refused.extend(
                    with_status.map(|(passed, _)| format!("{} {} {}", passed.method, passed.target, passed.host)),
                );
            }
            Err(fault) => faults.push(format!("{}: {fault}", case.at)),
        }
        // Tells in the origin's words where one case ends and the next begins.
        assert_eq!(up.get(&marker(number)).await.status, 200, "{}", case.at);
    }
    let last = marker(corpus.len() - 1);
    eventually("the origin has said all", async || origin.seen().iter().any(|seen| seen.target == last)).await;
    let seen = origin.seen();
    let begin = seen.iter().position(|seen| seen.target == "/").map_or(0, |at| at + 1);
    let mut rest = seen.get(begin..).unwrap_or_default();
    for (number, case) in corpus.iter().enumerate() {
        let end = rest.iter().position(|seen| seen.target == marker(number)).unwrap();
        let of_case: Vec<_> = rest[..end].iter().filter(|seen| seen.target != exchange::BEHIND).collect();
        rest = &rest[end + 1..];
        let expected: Vec<_> = passed(case).map(Seen::expected).collect();
        let as_expected = of_case.iter().copied().eq(&expected);
        // A server may refuse what it does not like, but not read it in another way.
        let some_of_it = of_case.iter().all(|seen| expected.contains(seen)) && of_case.len() < expected.len();
        if !as_expected && (answered[number] || !some_of_it) {
            faults.push(format!("{}: {} has read {of_case:?}", case.at, origin.name));
        }
    }
    eprintln!("{}: {} cases, refused by the origin itself: {refused:?}", origin.name, corpus.len());
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    refused.sort();
    refused.dedup();
    assert_eq!(refused, origin.refuses, "what {} refuses by itself", origin.name);
}

fn marker(number: usize) -> String {
    format!("/marker/{number}")
}
