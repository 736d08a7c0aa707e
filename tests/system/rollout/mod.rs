//! Progressive rollout: bad changes stop at the canaries and are taken back unattended, under load, while nodes and replicas are
//! lost; good ones arrive everywhere.

mod bad;
mod load;
mod site;

use bad::Bad;
use serde_json::json;
use site::Site;
use std::time::{Duration, Instant};

/// Bad changes of the short form, one of each sort: a dead upstream, an authentication that nobody passes, objects in quarantine, a
/// timeout that nobody keeps, answers that come late.
const SHORT: [&str; 5] = ["dead upstream", "key-auth", "plugin switched off", "timeout of 1 ms", "slow"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_changes_stop_at_the_canaries_and_are_undone() {
    let mut site = Site::start().await;
    let all = Bad::all(&site.upstream);
    assert!(all.len() >= 20);
    let bad: Vec<Bad> = all.into_iter().filter(|bad| milecastle_tests::full() || SHORT.contains(&bad.name)).collect();
    let (mut sent, mut harmed, mut slowest) = (0, 0, Duration::ZERO);
    for (n, bad) in bad.iter().enumerate() {
        let before = site.load.seen();
        // At first nothing is judged before the leader is gone, in the middle of it; the other replica goes on.
        let judged = if n == 0 { 1_000_000 } else { bad.judged() };
        site.policy(&json!({ "min_requests": judged })).await;
        let candidate = site.publish_bad(bad).await;
        // What was taken back before it is told of first.
        site.has_begun(candidate).await;
        let began = Instant::now();
        if n == 0 {
            site.kill_leader().await;
            site.policy(&json!({ "min_requests": bad.judged() })).await;
        }
        let outcome = site.taken_back(candidate).await;
        let undone = began.elapsed();
        site.is_as_before().await;
        let (of_canary, of_others) = site.load.since(&before, site.canary);
        let name = bad.name;
        eprintln!(
            "{name}: undone {:.1} s after canaries had it; {} of {} requests harmed at the canary, {} of {} at the others; {}",
            undone.as_secs_f64(),
            of_canary.harmed,
            of_canary.sent,
            of_others.harmed,
            of_others.sent,
            outcome["reason"]
        );
        assert_eq!(of_others.harmed, 0, "{name} has reached nodes that are no canaries");
        assert!(of_canary.harmed > 0 || bad.is_slow, "{name} harms nobody: it shows nothing");
        (sent, harmed) = (sent + of_canary.sent + of_others.sent, harmed + of_canary.harmed);
        if n == 0 {
            site.restart_the_killed().await;
        } else {
            slowest = slowest.max(undone);
        }
    }
    let share = 100.0 * harmed as f64 / sent as f64;
    eprintln!(
        "{} bad changes, all of them taken back, where no leader was killed at the latest {:.1} s after canaries had them: {harmed} of \
         {sent} requests harmed ({share:.1} %)",
        bad.len(),
        slowest.as_secs_f64()
    );
    let audit = site.control().get("/api/audit?actor=rollout&limit=500").await.json().unwrap();
    assert!(audit["list"].as_array().unwrap().len() >= bad.len(), "{audit}");
    let told = site.told("rolled_back", bad.len()).await;
    assert_eq!(told.len(), bad.len(), "{told:?}");
    let alarms = site.control().get("/api/alarms").await.json().unwrap();
    assert!(alarms["list"].as_array().unwrap().iter().any(|alarm| alarm["alarm"] == "rollout"), "{alarms}");
    let metrics = site.control().get("/metrics").await.text();
    assert!(metrics.contains(r#"rollouts_ended_total{group="default",end="rolled_back"}"#), "{metrics}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_changes_arrive_everywhere_and_wait_for_their_turn() {
    let mut site = Site::start().await;
    let control = site.control();
    // Whoever waits for a route to come is answered with 404 meanwhile, and how long a busy machine takes is no verdict.
    site.policy(&json!({ "soak": "2s", "max_4xx_rise": 100, "max_p99_factor": 1_000_000 })).await;
    // The canary first.
    let before = site.state().await["revision"].as_u64().unwrap();
    control.put("/routes/first", &json!({ "uri": "/first/*", "upstream_id": "1" })).await;
    site.gateways[site.canary].answers("/first/x", 200).await;
    // What is written meanwhile comes after it.
    control.put("/routes/second", &json!({ "uri": "/second/*", "upstream_id": "1" })).await;
    for gateway in &site.gateways {
        gateway.answers("/first/x", 200).await;
        gateway.answers("/second/x", 200).await;
    }
    site.is_idle().await;
    let shown = site.state().await;
    let ends: Vec<_> = shown["outcomes"].as_array().unwrap().iter().map(|one| one["end"].as_str().unwrap()).collect();
    assert_eq!(ends, ["promoted", "promoted"], "{shown}");
    assert_eq!((&shown["outcomes"][0]["candidate"], &shown["revision"]), (&json!(before + 2), &json!(before + 2)));
    assert_eq!(site.load.harmed(), 0);
    // One that is lost with its canary goes no further, until the canary is back and has served with it.
    site.policy(&json!({ "soak": "1h" })).await;
    control.put("/routes/third", &json!({ "uri": "/third/*", "upstream_id": "1" })).await;
    site.gateways[site.canary].answers("/third/x", 200).await;
    site.kill_canary();
    site.waits_for("no canary is connected").await;
    site.policy(&json!({ "soak": "2s" })).await;
    site.waits_for("no canary is connected").await;
    for gateway in &site.gateways[1..] {
        gateway.answers("/third/x", 404).await;
    }
    site.restart_canary().await;
    for gateway in &site.gateways {
        gateway.answers("/third/x", 200).await;
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_has_the_last_word() {
    let site = Site::start().await;
    let (control, canary) = (site.control(), &site.gateways[site.canary]);
    let run = |args: &[&str]| {
        let said = site.cluster.operator(control, args);
        (said.code, said.text)
    };
    // As above.
    site.policy(&json!({ "max_4xx_rise": 100, "max_p99_factor": 1_000_000 })).await;
    assert_eq!(run(&["rollout", "abort"]).0, 4);
    // Aborted: what the canary had is gone again, and what came after it is not.
    control.put("/routes/a", &json!({ "uri": "/a/*", "upstream_id": "1" })).await;
    canary.answers("/a/x", 200).await;
    control.put("/routes/b", &json!({ "uri": "/b/*", "upstream_id": "1" })).await;
    let (code, said) = run(&["rollout", "abort"]);
    assert_eq!(code, 0, "{said}");
    canary.answers("/b/x", 200).await;
    canary.answers("/a/x", 404).await;
    assert_eq!(control.get("/apisix/admin/routes/a").await.status, 404);
    // Paused, it does not go on; promoted, it does at once.
    assert_eq!(run(&["rollout", "pause"]).0, 0);
    site.policy(&json!({ "soak": "1s" })).await;
    site.waits_for("paused by admin").await;
    let (_, shown) = run(&["rollout", "show"]);
    assert!(shown.contains("paused by admin"), "{shown}");
    assert_eq!(run(&["rollout", "promote"]).0, 0);
    for gateway in &site.gateways {
        gateway.answers("/b/x", 200).await;
    }
    // In an emergency all nodes get at once what there is.
    site.policy(&json!({ "soak": "1h" })).await;
    control.put("/routes/c", &json!({ "uri": "/c/*", "upstream_id": "1" })).await;
    canary.answers("/c/x", 200).await;
    control.put("/routes/d", &json!({ "uri": "/d/*", "upstream_id": "1" })).await;
    assert_eq!(run(&["rollout", "promote", "--all"]).0, 0);
    for gateway in &site.gateways {
        gateway.answers("/d/x", 200).await;
    }
    // Without canaries nothing waits.
    control.put("/routes/e", &json!({ "uri": "/e/*", "upstream_id": "1" })).await;
    assert_eq!(run(&["rollout", "set", "--strategy", "all"]).0, 0);
    let answer = control.put("/routes/f?wait=20s", &json!({ "uri": "/f/*", "upstream_id": "1" })).await;
    assert_eq!(answer.header("milecastle-receipt"), "applied 3/3");
    let refused = control.call("PUT", site::ROLLOUT, Some(&json!({ "max_5xx_rise": 101 }))).await;
    assert_eq!((refused.status, &refused.json().unwrap()["path"]), (400, &json!("/max_5xx_rise")));
    assert_eq!(site.load.harmed(), 0);
    site.stop().await;
}
