//! Changes and upgrades, one after the other, under load. Clients never retry; none of them has a request fail, a connection
//! refused or a socket cut.

use super::site::{START, Site};
use crate::tunnels::{open_at, say};
use milecastle_testkit::raw::Raw;
use milecastle_testkit::{Call, Process, Target, came_too_late, eventually};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How much of everything there is.
struct Measure {
    upgrades: usize,
    changes: usize,
    /// Opened in equal parts before each upgrade, and open to the end.
    tunnels: usize,
    /// The same of HTTP/2 streams.
    streams: usize,
}

const SHORT: Measure = Measure { upgrades: 4, changes: 60, tunnels: 80, streams: 8 };
const FULL: Measure = Measure { upgrades: 20, changes: 1_000, tunnels: 1_000, streams: 100 };

/// Workers of the processes, in turn: as many, more, and fewer sockets than there were.
const WORKERS: [usize; 3] = [2, 3, 1];

/// What all clients share.
struct Load {
    http: SocketAddr,
    answered: AtomicU64,
    /// Requests that an HTTP/2 connection did not take any more, as it had said.
    too_late: AtomicU64,
    over: AtomicBool,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }
}

/// HTTP/1.1 on a connection that is kept until its end is announced, or on one for each request. Gives what went wrong.
async fn http1(load: Arc<Load>, kept: bool) -> Vec<String> {
    let (mut wrong, mut connection) = (Vec::new(), None);
    while load.goes_on() {
        let mut open: Raw = match connection.take() {
            Some(open) => open,
            None => match Raw::connect(load.http).await {
                Ok(open) => open,
                Err(error) => {
                    wrong.push(format!("not opened: {error:#}"));
                    continue;
                }
            },
        };
        match exchange(&mut open).await {
            Ok(ends) => {
                load.answered.fetch_add(1, Ordering::Relaxed);
                connection = Some(open).filter(|_| kept && !ends);
            }
            Err(what) => wrong.push(what),
        }
    }
    wrong
}

/// Sends a request and reads its answer; whether that says that the connection ends.
async fn exchange(connection: &mut Raw) -> Result<bool, String> {
    let sent = connection.send("POST /steady HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody").await;
    let head = connection.read_head().await.map_err(|error| format!("{sent:?}, then {error:#}"))?.to_ascii_lowercase();
    if !head.starts_with("http/1.1 200 ") {
        return Err(head);
    }
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    connection.read_exact(length.unwrap()).await.map_err(|error| format!("within the body: {error:#}"))?;
    Ok(head.contains("\r\nconnection: close\r\n"))
}

/// HTTP/2, stream after stream on connections that are left when they say so.
async fn http2(load: Arc<Load>) -> Vec<String> {
    let mut wrong = Vec::new();
    let target = Target::plain(load.http).http2();
    while load.goes_on() {
        let mut connection = match target.connect().await {
            Ok(connection) => connection,
            Err(error) => {
                wrong.push(format!("not opened: {error:#}"));
                continue;
            }
        };
        while load.goes_on() && connection.is_open() {
            match Call::post("/steady", "body").send(&mut connection).await {
                Ok(answer) if answer.status == 200 => drop(load.answered.fetch_add(1, Ordering::Relaxed)),
                Ok(answer) => wrong.push(format!("{answer:?}")),
                Err(error) if came_too_late(&error) => drop(load.too_late.fetch_add(1, Ordering::Relaxed)),
                Err(error) => wrong.push(format!("{error:#}")),
            }
        }
    }
    wrong
}

/// An HTTP/2 stream on a connection of its own that lasts to the end of the test.
async fn long(http: SocketAddr) -> Result<(), String> {
    let mut connection =
        Target::plain(http).http2().connect().await.map_err(|error| format!("not opened: {error:#}"))?;
    match Call::get("/long").within(20 * START).send(&mut connection).await {
        Ok(answer) if answer.status == 200 && answer.text().starts_with("begin") && answer.text().ends_with("end") => {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    }
}

fn mib(process: &Process) -> f64 {
    process.resident_bytes() as f64 / (1024.0 * 1024.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_and_upgrades_fail_no_request_and_cut_no_socket() {
    let Measure { upgrades, changes, tunnels, streams } = if milecastle_tests::full() { FULL } else { SHORT };
    let site = Site::new("upgrade: { drain: 1h }\n").await;
    let mut processes = vec![site.first().await];
    let load = Load { http: site.http, answered: 0.into(), too_late: 0.into(), over: false.into() };
    let load = Arc::new(load);
    let mut clients: Vec<_> = [true, false, true, false].map(|kept| tokio::spawn(http1(load.clone(), kept))).into();
    clients.extend([(); 2].map(|()| tokio::spawn(http2(load.clone()))));
    let (mut open, mut begun) = (Vec::new(), Vec::new());
    let mut change = 0;
    for upgrade in 0..upgrades {
        while open.len() < tunnels * (upgrade + 1) / upgrades {
            open.push(open_at(site.http).await);
        }
        while begun.len() < streams * (upgrade + 1) / upgrades {
            begun.push(tokio::spawn(long(site.http)));
        }
        let state = site.up.data.path().join("second-gateway");
        let before = load.answered.load(Ordering::Relaxed);
        let workers = format!("workers: {}\n", WORKERS[(upgrade + 1) % WORKERS.len()]);
        let file = std::fs::read_to_string(&site.config).unwrap();
        let (_, rest) = file.split_once('\n').unwrap();
        std::fs::write(&site.config, workers + rest).unwrap();
        // Changes come before, during and after the upgrade.
        let successor = site.process(&format!("gateway {}", upgrade + 1), &["--upgrade"]);
        while change < changes * (upgrade + 1) / upgrades {
            site.put_answer(&(change % 50).to_string(), &change.to_string()).await;
            change += 1;
        }
        processes.push(site.serving(successor));
        let last = change - 1;
        eventually("the last change is in force", async || {
            site.get(&format!("/{}", last % 50)).await.text().trim() == last.to_string()
        })
        .await;
        eventually("the load goes on", async || load.answered.load(Ordering::Relaxed) > before + 50).await;
        assert!(state.join("upgrade.sock").exists());
    }
    for tunnel in &mut open {
        say(tunnel, b"still here").await;
    }
    let census = site.census().await;
    let replaced = census["replaced"].as_array().unwrap();
    assert_eq!(replaced.len(), upgrades);
    let of = |what: &str| -> u64 {
        let all = replaced.iter().chain([&census["process"]]);
        all.map(|process| process["connections"][what].as_u64().unwrap_or_default()).sum()
    };
    assert_eq!(of("tunnel"), tunnels as u64, "{census}");
    load.over.store(true, Ordering::Relaxed);
    let mut wrong = Vec::new();
    for client in clients {
        wrong.extend(client.await.unwrap());
    }
    site.long.end();
    for stream in begun {
        wrong.extend(stream.await.unwrap().err());
    }
    let memory: Vec<f64> = processes.iter().map(mib).collect();
    let (answered, too_late) = (load.answered.load(Ordering::Relaxed), load.too_late.load(Ordering::Relaxed));
    eprintln!(
        "{upgrades} upgrades, {changes} changes, {tunnels} WebSockets, {streams} long streams: {answered} requests answered, {} \
         failed, {too_late} not begun on an HTTP/2 connection that was ending; resident memory of {} processes {:.0} MiB in all, \
         of the last one {:.0} MiB, of those before {:.0} to {:.0} MiB",
        wrong.len(),
        processes.len(),
        memory.iter().sum::<f64>(),
        memory.last().unwrap(),
        memory.iter().rev().skip(1).copied().fold(f64::INFINITY, f64::min),
        memory.iter().rev().skip(1).copied().fold(0.0, f64::max),
    );
    assert_eq!(wrong, Vec::<String>::new());
    for tunnel in &mut open {
        say(tunnel, b"to the end").await;
    }
    drop(open);
    let serving = processes.pop().unwrap();
    for mut process in processes {
        assert!(process.wait_for_end(START).success());
        assert_eq!(process.unannounced(), Vec::<String>::new());
    }
    serving.stop(START);
}
