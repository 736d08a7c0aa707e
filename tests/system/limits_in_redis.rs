//! `limit-count` with `policy: redis` (`docs/spec/plugins/limit-count.md`), against a real Redis.

use milecastle_testkit::tls::Authority;
use milecastle_testkit::{Answer, Echo, Redis, SOON, TempDir, eventually, wait_for};
use milecastle_tests::Up;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};

const SILENT: &str = "Redis does not answer";
const FAILED: &str = "{\"error_msg\":\"failed to limit count\"}\n";

/// A gateway in front of an upstream.
struct Site {
    up: Up,
    echo: Echo,
}

impl Site {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(settings: &[(&str, &str)]) -> Self {
        Self { up: Up::start_with(settings), echo: Echo::start() }
    }

    /// A route that is limited by what this server counts, in force when this returns. What answers it says which limit it had.
    async fn limit(&self, redis: SocketAddr, more: Value) {
        let mut limit = json!({ "count": 2, "time_window": 60, "policy": "redis",
            "redis_host": redis.ip().to_string(), "redis_port": redis.port() });
        limit.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let upstream = json!({ "nodes": { self.echo.address().to_string(): 1 } });
        self.up
            .put("/routes/r", json!({ "uri": "/limited", "plugins": { "limit-count": limit }, "upstream": upstream }))
            .await;
        let step = format!("/step/{}", fastrand::u64(..));
        self.up.put("/routes/step", json!({ "uri": step, "upstream": upstream })).await;
        self.up.answers(&step, 200).await;
    }

    async fn send(&self) -> Answer {
        self.up.get("/limited").await
    }

    /// Statuses of so many requests, one after the other.
    async fn statuses<const N: usize>(&self) -> [u16; N] {
        let mut statuses = [0; N];
        for status in &mut statuses {
            *status = self.send().await.status;
        }
        statuses
    }
}

/// Limit, remaining and reset.
fn quota(answer: &Answer) -> [String; 3] {
    ["limit", "remaining", "reset"].map(|name| answer.header(&format!("x-ratelimit-{name}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_count_together_and_a_window_is_never_extended() {
    let redis = Redis::start();
    let nodes = [Site::start(), Site::start()];
    for node in &nodes {
        node.limit(redis.address(), json!({ "rejected_code": 429, "rejected_msg": "slow" })).await;
    }
    let first = nodes[0].send().await;
    assert_eq!((first.status, quota(&first)), (200, ["2", "1", "60"].map(str::to_owned)));
    let second = nodes[1].send().await;
    assert_eq!((second.status, second.header("x-ratelimit-remaining")), (200, "0".to_owned()));
    let [key] = &redis.keys()[..] else { panic!("{:?}", redis.keys()) };
    assert!(key.starts_with("plugin-limit-count:v1:/routes/r:") && key.ends_with(":127.0.0.1"), "{key}");
    let rest = || redis.say(&["PTTL", key]).parse::<u64>().unwrap();
    let before = rest();
    for node in &nodes {
        let third = node.send().await;
        assert_eq!((third.status, third.text()), (429, "{\"error_msg\":\"slow\"}\n".to_owned()));
        let [limit, remaining, reset] = quota(&third);
        assert_eq!([limit, remaining], ["2", "0"]);
        let reset: f64 = reset.parse().unwrap();
        assert!(reset > 0.0 && reset < 60.0, "{reset}");
    }
    // A rejected request counts too, and leaves the window as it is.
    assert_eq!(redis.say(&["GET", key]), "4");
    assert!(rest() <= before);
    // The window ends: another begins.
    redis.say(&["DEL", key]);
    assert_eq!(nodes[1].statuses::<3>().await, [200, 200, 429]);
    // A key that somebody has taken the end from is one anew.
    redis.say(&["PERSIST", key]);
    assert_eq!(nodes[0].send().await.header("x-ratelimit-reset"), "60");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_rules_and_sliding_windows_count_in_redis() {
    let redis = Redis::start();
    let site = Site::start();
    site.limit(redis.address(), json!({ "group": "g1" })).await;
    assert_eq!(site.statuses::<3>().await, [200, 200, 503]);
    assert_eq!(redis.keys(), ["plugin-limit-count:v1:g1:127.0.0.1"]);
    // The largest numbers that are taken overflow nothing there.
    for window_type in ["fixed", "sliding"] {
        let most = (1_u64 << 53) - 1;
        redis.say(&["FLUSHALL"]);
        site.limit(redis.address(), json!({ "count": most, "time_window": most, "window_type": window_type })).await;
        let answer = site.send().await;
        assert_eq!((answer.status, answer.header("x-ratelimit-remaining")), (200, (most - 1).to_string()));
    }
    redis.say(&["FLUSHALL"]);
    // A window so long that it does not end within the test.
    let window = 1_000_000_000;
    site.limit(redis.address(), json!({ "count": 10, "time_window": window, "window_type": "sliding" })).await;
    assert_eq!(site.send().await.header("x-ratelimit-remaining"), "9");
    let [key] = &redis.keys()[..] else { panic!("{:?}", redis.keys()) };
    let (before, number) = key.strip_suffix(".counter").unwrap().rsplit_once('.').unwrap();
    assert!(before.starts_with("plugin-limit-count:/routes/r:"), "{key}");
    // It lives as long as it counts.
    let life: u64 = redis.say(&["TTL", key]).parse().unwrap();
    assert!((2 * window - 60..=2 * window).contains(&life), "{life}");
    // What passed in the last window counts by what is left of this one, and no more than the limit.
    let last = format!("{before}.{}.counter", number.parse::<u64>().unwrap() - 1);
    redis.say(&["SET", &last, "1000000"]);
    let left = site.send().await;
    let seconds: f64 = left.header("x-ratelimit-reset").parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let rest = 1.0 - (now % window) as f64 / window as f64;
    let allowed = 10.0 * rest + 1.0 < 10.0;
    assert_eq!(left.status == 200, allowed, "{rest}, {seconds}");
    assert_eq!(redis.say(&["GET", key]), if allowed { "2" } else { "1" });
    // At the limit nothing passes, and what does not pass is not counted.
    redis.say(&["SET", key, "10"]);
    assert_eq!(site.statuses::<2>().await, [503, 503]);
    assert_eq!(redis.say(&["GET", key]), "10");
    // Of several rules each has its key, and the first that rejects ends the request.
    redis.say(&["FLUSHALL"]);
    let rules = json!([{ "key": "${remote_addr}_a", "count": 2, "time_window": 60 },
        { "key": "${remote_addr}_b", "count": 1, "time_window": 60 }]);
    let upstream = json!({ "nodes": { site.echo.address().to_string(): 1 } });
    let limit =
        json!({ "rules": rules, "policy": "redis", "redis_host": "127.0.0.1", "redis_port": redis.address().port() });
    site.up
        .put("/routes/r", json!({ "uri": "/limited", "plugins": { "limit-count": limit }, "upstream": upstream }))
        .await;
    eventually("the rules are in force", async || site.send().await.header("x-2-ratelimit-remaining") == "0").await;
    assert_eq!(site.send().await.header("x-1-ratelimit-remaining"), "0");
    assert_eq!(site.send().await.status, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_requests_fail_or_pass_as_configured() {
    let mut redis = Redis::start();
    let mut site = Site::start();
    site.up.process.announce(SILENT);
    site.limit(redis.address(), json!({ "count": 1_000 })).await;
    assert_eq!(site.send().await.status, 200);
    redis.stop();
    let failed = site.send().await;
    assert_eq!((failed.status, failed.text(), quota(&failed)), (500, FAILED.to_owned(), Default::default()));
    redis.resume();
    // Nobody connects until the pause is over, and what failed has not counted.
    let passes = async || Some(site.send().await).filter(|answer| answer.status == 200);
    let back = wait_for("requests to pass again", SOON, passes).await;
    assert_eq!(back.header("x-ratelimit-remaining"), "999");
    site.limit(redis.address(), json!({ "count": 1_000, "allow_degradation": true })).await;
    assert_eq!(site.send().await.header("x-ratelimit-remaining"), "999");
    redis.stop();
    let passed = site.send().await;
    assert_eq!((passed.status, quota(&passed)), (200, Default::default()));
    // Said once for each time that it is away.
    let said = |text: &str| site.up.process.log().iter().filter(|line| line.contains(text)).count();
    eventually("it is said twice", async || said(SILENT) == 2).await;
    assert_eq!(site.statuses::<5>().await, [200; 5]);
    assert_eq!((said(SILENT), said("Redis answers again")), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_silent_holds_up_nobody_else() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut site = Site::start_with(&[("MILECASTLE__GATEWAY__WORKERS", "1")]);
    site.up.process.announce(SILENT);
    // Nobody's request to it ends before the others are answered.
    site.limit(silent.local_addr().unwrap(), json!({ "redis_timeout": 30_000 })).await;
    let http = site.up.http;
    let waiting: Vec<_> = (0..20)
        .map(|_| tokio::spawn(milecastle_testkit::Call::get("/limited").within(60 * milecastle_testkit::SOON).to(http)))
        .collect();
    let (connection, _) = silent.accept().unwrap();
    site.up
        .put(
            "/routes/other",
            json!({ "uri": "/other", "upstream": { "nodes": { site.echo.address().to_string(): 1 } } }),
        )
        .await;
    site.up.answers("/other", 200).await;
    assert!(waiting.iter().all(|request| !request.is_finished()));
    // Its end is the end of all that waited for it.
    drop((silent, connection));
    for request in waiting {
        let answer = request.await.unwrap().unwrap();
        assert_eq!((answer.status, answer.text()), (500, FAILED.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_without_an_answer_ends_with_redis_timeout() {
    let mut redis = Redis::start();
    let mut site = Site::start();
    site.up.process.announce(SILENT);
    site.limit(redis.address(), json!({ "count": 1_000, "redis_timeout": 200 })).await;
    assert_eq!(site.send().await.status, 200);
    // Neither a connection that is there nor a new one gets an answer.
    redis.signal(19);
    assert_eq!(site.statuses::<2>().await, [500, 500]);
    redis.signal(18);
    eventually("requests pass again", async || site.send().await.status == 200).await;
    let late = site.up.process.log().iter().any(|line| line.contains("no answer within redis_timeout"));
    assert!(late, "the log names what ran out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_share_one_connection_of_each_worker() {
    let redis = Redis::start();
    let site = Site::start_with(&[("MILECASTLE__GATEWAY__WORKERS", "2")]);
    site.limit(redis.address(), json!({ "count": 100 })).await;
    let http = site.up.http;
    let requests: Vec<_> = (0..300).map(|_| tokio::spawn(milecastle_testkit::Call::get("/limited").to(http))).collect();
    let mut passed = 0;
    for request in requests {
        let answer = request.await.unwrap().unwrap();
        assert!(matches!(answer.status, 200 | 503), "{}", answer.status);
        passed += usize::from(answer.status == 200);
    }
    assert_eq!(passed, 100, "exactly as many as allowed");
    let clients = redis.say(&["CLIENT", "LIST"]).lines().filter(|line| line.contains("cmd=eval")).count();
    assert!((1..=2).contains(&clients), "{clients} connections of 2 workers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_apart_by_database_and_password_and_show_it_nowhere() {
    let redis = Redis::start_with(&[], Some("open sesame"), None);
    let mut site = Site::start();
    site.up.process.announce("it does not let us in (WRONGPASS)");
    site.up.process.announce("Redis refuses what it is asked: NOPERM");
    site.limit(redis.address(), json!({ "redis_password": "open sesame" })).await;
    assert_eq!(site.statuses::<3>().await, [200, 200, 503]);
    site.limit(redis.address(), json!({ "redis_password": "open sesame", "redis_database": 3 })).await;
    assert_eq!(site.statuses::<3>().await, [200, 200, 503]);
    assert_eq!((redis.say(&["DBSIZE"]), redis.say(&["-n", "3", "DBSIZE"])), ("1".to_owned(), "1".to_owned()));
    // Counters are the same ones whoever asks.
    redis.say(&["FLUSHALL"]);
    // A user of the access list, with just what the page names.
    redis.say(&[
        "ACL",
        "SETUSER",
        "gateway",
        "on",
        ">weasel",
        "~plugin-limit-count:*",
        "+@connection",
        "+eval",
        "+pttl",
        "+set",
        "+incr",
    ]);
    site.limit(redis.address(), json!({ "redis_username": "gateway", "redis_password": "weasel" })).await;
    assert_eq!(site.statuses::<3>().await, [200, 200, 503]);
    redis.say(&["ACL", "SETUSER", "gateway", "-eval"]);
    assert_eq!(site.send().await.status, 500);
    site.limit(redis.address(), json!({ "redis_password": "wrong sesame" })).await;
    assert_eq!(site.send().await.status, 500);
    for reason in ["WRONGPASS", "NOPERM"] {
        site.up.process.wait_for_line(reason, SOON, |line| line.contains(reason).then_some(()));
    }
    let log = site.up.process.log().join("\n");
    assert!(!log.contains("sesame") && !log.contains("weasel"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_the_certificate_is_verified_where_that_is_asked_for() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("theirs"));
    let files = TempDir::new();
    let trusted = files.write("trusted.pem", authority.pem());
    let mut site =
        Site::start_with(&[("MILECASTLE__GATEWAY__APISIX__SSL__SSL_TRUSTED_CERTIFICATE", trusted.to_str().unwrap())]);
    site.up.process.announce(SILENT);
    let known = Redis::start_with(&[], None, Some(&authority.issue(&["127.0.0.1"])));
    let unknown = Redis::start_with(&[], None, Some(&stranger.issue(&["127.0.0.1"])));
    for (redis, verify, status) in
        [(&known, true, 200), (&known, false, 200), (&unknown, true, 500), (&unknown, false, 200)]
    {
        site.limit(redis.address(), json!({ "redis_ssl": true, "redis_ssl_verify": verify })).await;
        assert_eq!(site.send().await.status, status, "verified: {verify}");
    }
    // Without TLS nothing is understood, and nothing passes.
    site.limit(known.address(), json!({ "redis_ssl": false })).await;
    assert_eq!(site.send().await.status, 500);
}
