//! HTTP/2 frame by frame: what costs a client nothing and the gateway something.

use super::{MEMORY, Site, affordable, counts, metric};
use crate::bystanders::Watched;
use milecastle_testkit::frames::{ACK, END_HEADERS, END_STREAM, Frames, field, frame, kind, request};
use milecastle_testkit::wait_for;
use milecastle_tests::full;
use std::net::SocketAddr;

/// RFC 9113 §7.
const ENHANCE_YOUR_CALM: u32 = 11;

const EXCESS: &str = "apisix_http2_excess_total";
const CONTROL_FRAMES: &str = "apisix_http2_control_frames_cut_total";
const CANCELS: &str = "apisix_http2_cancels_cut_total";

/// Something that is sent once, and something that is sent again and again, with its number.
struct Flood {
    name: &'static str,
    first: fn() -> Vec<u8>,
    again: fn(u32) -> Vec<u8>,
    /// What counts the connections that it ends.
    metric: &'static str,
}

fn nothing() -> Vec<u8> {
    Vec::new()
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", path, "h"))
}

fn cancel(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

fn open_post() -> Vec<u8> {
    frame(kind::HEADERS, END_HEADERS, 1, &request("POST", "/hang", "h"))
}

const FLOODS: &[Flood] = &[
    Flood {
        // CVE-2023-44487.
        name: "Rapid Reset",
        first: nothing,
        again: |n| [get(2 * n + 1, "/hang"), cancel(2 * n + 1)].concat(),
        metric: EXCESS,
    },
    Flood {
        // CVE-2025-8671: the client breaks the protocol on a stream, and the gateway resets it.
        name: "MadeYouReset by a window that overflows",
        first: nothing,
        again: |n| [get(2 * n + 1, "/hang"), window(2 * n + 1, u32::MAX >> 1)].concat(),
        metric: EXCESS,
    },
    Flood {
        name: "MadeYouReset by more data than was announced",
        first: nothing,
        again: |n| {
            let block = [request("POST", "/hang", "h"), field(b"content-length", b"1")].concat();
            let head = frame(kind::HEADERS, END_HEADERS, 2 * n + 1, &block);
            [head, frame(kind::DATA, 0, 2 * n + 1, b"xy")].concat()
        },
        metric: EXCESS,
    },
    Flood {
        name: "PING",
        first: nothing,
        again: |n| frame(kind::PING, 0, 0, &u64::from(n).to_be_bytes()),
        metric: CONTROL_FRAMES,
    },
    Flood {
        name: "answers to PINGs that nobody has sent",
        first: nothing,
        again: |n| frame(kind::PING, ACK, 0, &u64::from(n).to_be_bytes()),
        metric: CONTROL_FRAMES,
    },
    // CVE-2019-9515.
    Flood { name: "SETTINGS", first: nothing, again: |_| frame(kind::SETTINGS, 0, 0, b""), metric: CONTROL_FRAMES },
    Flood { name: "WINDOW_UPDATE", first: nothing, again: |_| window(0, 1), metric: CONTROL_FRAMES },
    Flood {
        name: "PRIORITY",
        first: nothing,
        again: |n| frame(kind::PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 15]),
        metric: CONTROL_FRAMES,
    },
    Flood {
        name: "frames of an unknown type",
        first: nothing,
        again: |_| frame(0xfa, 0, 0, b""),
        metric: CONTROL_FRAMES,
    },
    Flood {
        // CVE-2019-9518.
        name: "empty DATA",
        first: open_post,
        again: |_| frame(kind::DATA, 0, 1, b""),
        metric: EXCESS,
    },
    Flood {
        name: "empty HEADERS",
        first: || frame(kind::HEADERS, 0, 1, b""),
        again: |_| frame(kind::CONTINUATION, 0, 1, b""),
        metric: EXCESS,
    },
    Flood {
        // CVE-2024-27316 and its like.
        name: "CONTINUATION",
        first: || frame(kind::HEADERS, 0, 1, &request("GET", "/", "h")),
        again: |n| frame(kind::CONTINUATION, 0, 1, &field(format!("x-{n}").as_bytes(), b"y")),
        metric: EXCESS,
    },
    Flood {
        // A field of 4000 bytes in the table, and heads that name it 4000 times.
        name: "HPACK bomb",
        first: || {
            let block = [request("GET", "/", "h"), vec![0x40, 1, b'x', 127, 0xa1, 0x1e], vec![b'y'; 4000]].concat();
            frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block)
        },
        again: |n| {
            let block = [request("GET", "/", "h"), vec![0xbe; 4000]].concat();
            frame(kind::HEADERS, END_HEADERS | END_STREAM, 2 * n + 3, &block)
        },
        metric: EXCESS,
    },
];

/// Sends the flood on one connection until the gateway ends it, at most `most` times, and returns the reason that it gives.
async fn send(address: SocketAddr, flood: &Flood, most: u32) -> Option<u32> {
    const AT_ONCE: u32 = 1000;
    let mut attacker = Frames::connect(address, &[]).await.unwrap();
    let mut bytes = (flood.first)();
    for n in 0..most {
        bytes.extend((flood.again)(n));
        // Once the gateway has ended the connection, nothing more need be taken.
        if (n % AT_ONCE == AT_ONCE - 1 || n + 1 == most) && attacker.send(std::mem::take(&mut bytes)).await.is_err() {
            break;
        }
    }
    let mut reason = None;
    while let Some(frame) = attacker.read().await.unwrap() {
        if frame.kind == kind::GOAWAY {
            reason = frame.code();
        }
    }
    reason
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_end_with_their_connection() {
    let (connections, most) = if full() { (20, 500_000) } else { (2, 30_000) };
    let mut site = Site::start(&[]).await;
    let (address, page, bystanders) = (site.up.http, site.up.prometheus, site.bystanders());
    let mut watched = site.watched();
    for flood in FLOODS {
        let before = metric(page, flood.metric).await;
        for _ in 0..connections {
            assert_eq!(send(address, flood, most).await, Some(ENHANCE_YOUR_CALM), "reason given for {}", flood.name);
        }
        counts(page, flood.metric, before + connections).await;
        let cpu = watched.unharmed(&format!("{} on {connections} connections, each up to {most} times", flood.name));
        assert!(cpu < affordable(), "{}: {cpu:?}", flood.name);
    }
    bystanders.end("beside floods of frames").await;
    site.stop().await;
}

/// Rapid Reset by a client that lets each request reach the upstream, so that none waits to be accepted when it is cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_cancelled_once_they_are_in_work_end_the_connection() {
    /// Streams at once.
    const STREAMS: u32 = 50;
    let mut site = Site::start(&[("MILECASTLE__GATEWAY__LIMITS__HTTP2_CANCELS", "60")]).await;
    let (address, page, bystanders) = (site.up.http, site.up.prometheus, site.bystanders());
    let echo = &site.echo;
    let mut watched = Watched::new([&mut site.up.process], MEMORY);
    let mut attacker = Frames::connect(address, &[]).await.unwrap();
    let (mut next, mut cancelled, mut ended) = (1, 0, false);
    while !ended {
        let streams: Vec<u32> = (0..STREAMS).map(|n| next + 2 * n).collect();
        next += 2 * STREAMS;
        let asked: Vec<u8> = streams.iter().flat_map(|stream| get(*stream, "/hang")).collect();
        attacker.send(asked).await.unwrap();
        // Not all of them arrive on a connection that is being ended.
        let arrived = async || {
            let received = echo.received();
            let hanging = received.iter().filter(|request| request.target() == "/hang").count() as u32;
            ended = metric(page, CANCELS).await > 0;
            (ended || hanging == cancelled + STREAMS).then_some(())
        };
        wait_for("the requests are in work", crate::bystanders::LONG, arrived).await;
        let cancels: Vec<u8> = streams.iter().flat_map(|stream| cancel(*stream)).collect();
        ended |= attacker.send(cancels).await.is_err();
        cancelled += STREAMS;
        assert!(cancelled < 10_000, "nobody minds");
    }
    eprintln!("the connection ended when {cancelled} requests had been cancelled");
    assert!(cancelled > 60, "{cancelled} may be cancelled at once");
    counts(page, CANCELS, 1).await;
    let mut reason = None;
    while let Some(frame) = attacker.read().await.unwrap() {
        reason = frame.code().filter(|_| frame.kind == kind::GOAWAY).or(reason);
    }
    assert_eq!(reason, Some(ENHANCE_YOUR_CALM));
    let cpu = watched.unharmed("after requests that were cancelled");
    assert!(cpu < affordable(), "{cpu:?}");
    bystanders.end("beside cancelled requests").await;
    site.stop().await;
}

/// Whoever cancels no more than it lets be answered, and opens windows as it reads, is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn honest_clients_may_cancel_and_open_windows() {
    const ROUNDS: u32 = if cfg!(debug_assertions) { 300 } else { 1000 };
    let settings = [
        ("MILECASTLE__GATEWAY__LIMITS__HTTP2_CANCELS", "1"),
        ("MILECASTLE__GATEWAY__LIMITS__HTTP2_CONTROL_FRAMES", "20"),
    ];
    let site = Site::start(&settings).await;
    let mut client = Frames::connect(site.up.http, &[]).await.unwrap();
    for n in 0..ROUNDS {
        let (answered, cancelled) = (4 * n + 1, 4 * n + 3);
        client.send(get(answered, "/large/20000")).await.unwrap();
        loop {
            let frame = client.read().await.unwrap().expect("the connection goes on");
            assert_ne!(frame.kind, kind::GOAWAY, "{frame:?}");
            if frame.kind == kind::DATA && !frame.payload.is_empty() {
                let length = frame.payload.len() as u32;
                client.send([window(0, length), window(frame.stream, length)].concat()).await.unwrap();
            }
            if frame.stream == answered && frame.ends_stream() {
                break;
            }
        }
        client.send(get(cancelled, "/hang")).await.unwrap();
        client.send(cancel(cancelled)).await.unwrap();
    }
    client.send(get(4 * ROUNDS + 1, "/")).await.unwrap();
    assert_eq!(client.status(4 * ROUNDS + 1).await.unwrap(), Ok(200));
    site.stop().await;
}

/// Heads beyond the limits, which are answered and cost nobody else anything.
#[tokio::test(flavor = "multi_thread")]
async fn large_heads_are_refused_stream_by_stream() {
    let rounds: u32 = if full() { 2000 } else { 200 };
    let mut site = Site::start(&[]).await;
    let (address, bystanders) = (site.up.http, site.bystanders());
    let mut watched = site.watched();
    let mut client = Frames::connect(address, &[]).await.unwrap();
    // For the pages of all answers.
    client.send(window(0, 1 << 30)).await.unwrap();
    for n in 0..rounds {
        let fields: Vec<u8> = (0..200).flat_map(|n| field(format!("x-{n}").as_bytes(), b"y")).collect();
        let block = [request("GET", "/", "h"), fields].concat();
        client.send(frame(kind::HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block)).await.unwrap();
        assert_eq!(client.status(2 * n + 1).await.unwrap(), Ok(431));
    }
    let cpu = watched.unharmed("after heads with too many fields");
    assert!(cpu < affordable(), "{cpu:?}");
    bystanders.end("beside heads with too many fields").await;
    site.stop().await;
}
