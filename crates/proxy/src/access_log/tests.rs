//! Whole logs, written to real files.

use super::format::Format;
use super::lanes::Lanes;
use super::sink::Sink;
use super::{AccessLog, writer};
use crate::gateway::OnRequestEnd as _;
use milecastle_plugin_api::testing::{Ask, Setup};
use milecastle_settings::{EscapeStyle, Gateway as Settings};
use milecastle_testkit::{SOON, TempDir, wait_for_blocking};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

/// The line of a request that route 1 proxies to 127.0.0.1:1980.
fn line(format: &str, escape: EscapeStyle, ask: impl Into<Ask>) -> String {
    let exchange = Setup::new(&[]).route(json!({})).send(ask);
    let mut line = String::new();
    Format::new(format, escape).write(&mut line, &exchange.cx);
    line
}

#[test]
fn the_default_format_is_that_of_the_reference() {
    let http = Settings::default().nginx_config.http;
    let format = http.access_log_format.replace("$time_local", "T").replace("$request_time", "R");
    let ask = "GET /a%20b?x=1\nHost: Foo.test:9080\nUser-Agent: c\"u\\rl\nAuthorization: Basic YTpi";
    assert_eq!(
        line(&format, http.access_log_format_escape, ask),
        "127.0.0.1 - a [T] Foo.test:9080 \"GET /a%20b?x=1 HTTP/1.1\" 200 2 R \"-\" \"c\\x22u\\x5Crl\" 127.0.0.1:1980 200 \
         0.004 \"http://Foo.test:9080/a b?x=1\"\n"
    );
}

#[test]
fn values_are_escaped_and_literals_are_not() {
    let ask = "GET /\nHost: h\nX-A: a\"b\tc";
    let check = |format, escape, expected: &str| assert_eq!(line(format, escape, ask), expected);
    check("\"$http_x_a\" $http_x_b[$https]", EscapeStyle::Default, "\"a\\x22b\\x09c\" -[]\n");
    check(r#"{"a":"$http_x_a","b":"$http_x_b"}"#, EscapeStyle::Json, "{\"a\":\"a\\\"b\\tc\",\"b\":\"\"}\n");
    check("$http_x_a|$http_x_b|${http_x_b ?? none}", EscapeStyle::None, "a\"b\tc||none\n");
    check("${http_x_b ?? none}", EscapeStyle::Default, "none\n");
}

#[test]
fn only_some_formats_read_the_head_of_the_answer() {
    let check =
        |format: &str, reads| assert_eq!(Format::new(format, EscapeStyle::Json).reads_answer_head(), reads, "{format}");
    check(&Settings::default().nginx_config.http.access_log_format, false);
    check("$status $upstream_status", false);
    check("$sent_http_content_type", true);
    check("$upstream_http_etag", true);
    check("${upstream_cookie_a}", true);
    check("$sent_trailer_grpc_status", true);
    check("$upstream_trailer_grpc_status", true);
}

fn settings(dir: &TempDir, change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    settings.state.dir = Some(dir.path().to_owned());
    settings.nginx_config.http.access_log_format = "$request_method $uri".to_owned();
    change(&mut settings);
    settings
}

fn request(log: &AccessLog, path: &str) {
    let gateway = Setup::new(&[]).route(json!({}));
    log.on_request_end(&gateway.send(&*format!("GET {path}\nHost: h")).cx);
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn lines_reach_the_file_by_themselves_and_at_the_end() {
    let dir = TempDir::new();
    let log = AccessLog::of_requests(&settings(&dir, |_| {}), 2).unwrap().unwrap();
    let path = dir.path().join("logs/access.log");
    request(&log, "/1");
    wait_for_blocking("the first line", SOON, || (lines(&path) == ["GET /1"]).then_some(()));
    request(&log, "/2");
    request(&log, "/3");
    drop(log);
    assert_eq!(lines(&path), ["GET /1", "GET /2", "GET /3"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);

    let log = AccessLog::of_requests(&settings(&dir, |_| {}), 2).unwrap().unwrap();
    request(&log, "/4");
    drop(log);
    assert_eq!(lines(&path).len(), 4, "a restart appends");
}

#[test]
fn a_moved_file_is_left_when_it_is_reopened() {
    let dir = TempDir::new();
    let log = AccessLog::of_requests(&settings(&dir, |_| {}), 1).unwrap().unwrap();
    let (path, moved) = (dir.path().join("logs/access.log"), dir.path().join("logs/access.log.1"));
    fs::rename(&path, &moved).unwrap();
    request(&log, "/old");
    log.reopen();
    wait_for_blocking("a new file", SOON, || path.exists().then_some(()));
    request(&log, "/new");
    drop(log);
    assert_eq!((lines(&moved), lines(&path)), (vec!["GET /old".to_owned()], vec!["GET /new".to_owned()]));
}

#[test]
fn a_file_that_cannot_be_reopened_stays_in_use() {
    let dir = TempDir::new();
    let log = AccessLog::of_requests(&settings(&dir, |_| {}), 1).unwrap().unwrap();
    let (logs, moved) = (dir.path().join("logs"), dir.path().join("moved"));
    fs::rename(&logs, &moved).unwrap();
    log.reopen();
    request(&log, "/1");
    drop(log);
    assert_eq!(lines(&moved.join("access.log")), ["GET /1"]);
}

#[test]
fn a_log_can_be_off_and_elsewhere() {
    let dir = TempDir::new();
    let off = settings(&dir, |settings| settings.nginx_config.http.enable_access_log = false);
    assert!(AccessLog::of_requests(&off, 1).unwrap().is_none());
    let off = settings(&dir, |settings| settings.nginx_config.http.access_log = "off".into());
    assert!(AccessLog::of_requests(&off, 1).unwrap().is_none());
    let path = dir.path().join("else/where.log");
    let absolute = settings(&dir, |settings| settings.nginx_config.http.access_log = path.clone());
    drop(AccessLog::of_requests(&absolute, 1).unwrap().unwrap());
    assert!(path.exists());
}

#[test]
fn a_file_that_cannot_be_opened_is_tried_again() {
    let dir = TempDir::new();
    let logs = dir.write("logs", "a file where the directory should be");
    let log = AccessLog::of_requests(&settings(&dir, |_| {}), 1).unwrap().unwrap();
    request(&log, "/lost");
    wait_for_blocking("a dropped line", SOON, || (log.dropped() == 1).then_some(()));
    fs::remove_file(&logs).unwrap();
    request(&log, "/kept");
    drop(log);
    assert_eq!(lines(&logs.join("access.log")), ["GET /kept"]);
}

#[test]
fn what_has_no_room_is_dropped_and_counted() {
    // Nobody writes yet: five lines at most wait.
    let lanes = Arc::new(Lanes::new(1, 5));
    let push = |n: u32| lanes.push(|line| line.push_str(&format!("{n}\n")));
    (0..8).for_each(push);
    assert_eq!(lanes.dropped(), 3);
    let dir = TempDir::new();
    let path = dir.path().join("log");
    lanes.ask_to_stop();
    writer::run(&lanes, Sink::open(&path));
    assert_eq!(lines(&path), ["0", "1", "2", "3", "4"]);
    // What has been written makes room.
    push(9);
    assert_eq!(lanes.dropped(), 3);
}

#[test]
fn lines_that_are_being_written_take_room_until_they_are() {
    let lanes = Lanes::new(1, 2);
    let push = || lanes.push(|line| line.push_str("x\n"));
    push();
    push();
    lanes.drain(&mut String::new(), |_| {
        push();
        true
    });
    assert_eq!(lanes.dropped(), 1);
    push();
    assert_eq!(lanes.dropped(), 1);
}

#[test]
fn lines_that_the_system_refuses_count_as_dropped() {
    let lanes = Lanes::new(1, 10);
    (0..3).for_each(|_| lanes.push(|line| line.push_str("x\n")));
    // A full disk: every write to this device fails (full(4)).
    let full = Sink::open(Path::new("/dev/full"));
    lanes.ask_to_stop();
    writer::run(&lanes, full);
    assert_eq!(lanes.dropped(), 3);
}

#[test]
fn long_lines_use_up_a_buffer_before_its_number_does() {
    let lanes = Lanes::new(1, 4);
    let long = "x".repeat(3 * 1024);
    (0..4).for_each(|_| lanes.push(|line| line.push_str(&long)));
    assert_eq!(lanes.dropped(), 2);
}

#[test]
fn threads_log_side_by_side() {
    const EACH: usize = 2_000;
    let dir = TempDir::new();
    let path = dir.path().join("log");
    // Other tests of this process log as well, so lanes go by lot here: each has room for all.
    let lanes = Arc::new(Lanes::new(4, 4 * 4 * EACH));
    let (done, ended) = mpsc::channel();
    for thread in 0..4 {
        let (lanes, done) = (lanes.clone(), done.clone());
        std::thread::spawn(move || {
            (0..EACH).for_each(|n| lanes.push(|line| line.push_str(&format!("{thread} {n}\n"))));
            done.send(()).unwrap();
        });
    }
    let writing = {
        let (lanes, sink) = (lanes.clone(), Sink::open(&path));
        std::thread::spawn(move || writer::run(&lanes, sink))
    };
    lanes.wakes(writing.thread().clone());
    (0..4).for_each(|_| ended.recv().unwrap());
    lanes.ask_to_stop();
    writing.join().unwrap();
    let lines = lines(&path);
    assert_eq!((lines.len(), lanes.dropped()), (4 * EACH, 0));
    for thread in 0..4 {
        let mine = lines.iter().filter_map(|line| line.strip_prefix(&format!("{thread} ")));
        assert!(mine.map(|n| n.parse::<usize>().unwrap()).eq(0..EACH), "lines of a thread keep their order");
    }
}
